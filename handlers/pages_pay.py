"""缴: an order, paying it, waiting honestly, the receipt and its public check."""

from typing import Any
from urllib.parse import urlencode

import segno

from app.kernel.errors import HallError, NotFound, RateLimited
from handlers.pages_account import CLIENTS
from handlers.pages_base import PageHandler
from handlers.receipts import checked
from payments.model import Attempt, AttemptState, Order, OrderState

ID = r"(ord_[0-9A-Z]{26})"
# The mini-programs' own page: it asks the API for the client parameters and opens the platform's cashier.
MINI_PROGRAM_PAY = "/pages/pay/pay"
MAX_BILLS = 20
MINI_PROGRAM, BROWSER = "mini_program", "h5"


class PayPage(PageHandler):
    needs = "resident"
    tab = "me"

    @property
    def owner(self) -> str:
        return self.resident.resident_id

    async def ways(self) -> dict[str, str]:
        """Return the ways of paying that work where this page is open: provider -> scene.

        Inside WeChat or Alipay only their own cashier opens, by the mini-program around the page, which knows who pays. Any other browser
        goes to the provider's cashier for phones and needs no sign-in there. In dev and test whoever has signed in at a stand-in pays as
        if its app were on the phone.
        """
        agent = self.request.headers.get("User-Agent", "")
        inside = [identity for identity, mark in CLIENTS.items() if mark in agent]
        ways: dict[str, str] = {}
        for name, provider in self.hall.payments.providers.items():
            if not inside and not self.hall.settings.sandbox_url:
                ways[name] = BROWSER
            elif inside and provider.identity not in inside:
                continue
            elif await self.hall.identity.channel_identity(self.owner, provider.identity):
                ways[name] = MINI_PROGRAM
            elif not inside:
                ways[name] = BROWSER
        return ways


class Orders(PayPage):
    """GET: the resident's orders. POST: make one for a case or for bills; two taps on the button make one order."""

    async def get(self) -> None:
        orders, next_cursor = await self.hall.payments.list_orders(self.owner, cursor=self.text("cursor", limit=40) or None)
        await self.show("orders.html", orders=orders, next_cursor=next_cursor, back="/me")

    async def post(self) -> None:
        payables = [{"kind": kind, "id": value} for kind in ("case", "bill") for value in self.get_body_arguments(kind) if value]
        if not payables:
            raise NothingChosen("请先勾选要缴的账单，再点“去缴费”。")
        try:
            order = await self.hall.payments.create_order(self.owner, payables[:MAX_BILLS], order_id=self.once("ord"))
        except HallError as error:
            known = error.context.get("order_id")
            if error.status == 409 and known:  # there is one already: that is the one to look at
                return self.redirect(f"/orders/{known}", status=303)
            raise
        self.redirect(f"/orders/{order.id}", status=303)


class NothingChosen(HallError):
    """No bill was ticked."""

    code = "page.nothing_chosen"
    status = 422
    title = "还没有选账单"


class OneOrder(PayPage):
    async def get(self, order_id: str) -> None:
        await self.show_order(await self.hall.payments.get_order(order_id, self.owner, refresh=True))

    async def show_order(self, order: Order, error: HallError | None = None) -> None:
        attempt = newest(order)
        # Asked just now and seen unpaid: paying on is safe. Anything less certain: only waiting is offered.
        is_unpaid = attempt is not None and attempt.state is AttemptState.WAITING and not order.is_held
        await self.show(
            "order.html",
            error.status if error else 200,
            order=order,
            attempt=attempt,
            is_unpaid=is_unpaid,
            is_held=order.is_held,
            ways=await self.ways() if not order.is_final else {},
            error=error,
            back="/orders",
        )


def newest(order: Order) -> Attempt | None:
    """Return the attempt that settled an order, else its newest one."""
    return order.paid_attempt or (order.attempts[-1] if order.attempts else None)


class Pay(OneOrder):
    """POST: choose a provider; then the page that leads to its cashier."""

    async def get(self, order_id: str) -> None:
        order = await self.hall.payments.get_order(order_id, self.owner, refresh=True)
        attempt = newest(order)
        is_waiting = order.state is OrderState.PAYING and attempt is not None and attempt.state is AttemptState.WAITING
        # The address of a provider's cashier for browsers is not kept; it is asked for by a form.
        if not is_waiting or attempt is None or attempt.scene != MINI_PROGRAM:
            return self.redirect(f"/orders/{order_id}", status=303)
        await self._show_way(order, attempt.provider, self._cashier(order, attempt), attempt)

    async def post(self, order_id: str) -> None:
        provider = self.text("provider", limit=20)
        scene = (await self.ways()).get(provider, MINI_PROGRAM)
        try:
            attempt, client_params = await self.hall.payments.pay(
                order_id,
                self.owner,
                provider=provider,
                scene=scene,
                attempt_id=self._attempt_id(order_id),
                client_ip=self.client_address,
            )
        except HallError as error:
            if error.status not in (409, 422, 503):
                raise
            return await self.show_order(await self.hall.payments.get_order(order_id, self.owner), error)
        if scene == MINI_PROGRAM:
            return self.redirect(f"/orders/{order_id}/pay", status=303)
        # No redirect: a policy of the page forbids its form to lead to another site, and the cashier wants to know whose link it was.
        order = await self.hall.payments.get_order(order_id, self.owner)
        await self._show_way(order, provider, client_params["redirect_url"], attempt)

    async def _show_way(self, order: Order, provider: str, cashier: str, attempt: Attempt) -> None:
        await self.show(
            "pay.html",
            order=order,
            provider=provider,
            by_browser=attempt.scene == BROWSER,
            mini_program_page=f"{MINI_PROGRAM_PAY}?" + urlencode({"order": order.id, "attempt": attempt.id}),
            cashier=cashier,
            back=f"/orders/{order.id}",
        )

    def _attempt_id(self, order_id: str) -> str:
        """Return the attempt's number for this form and order: two taps make one attempt, and nobody chooses a number.

        It goes to the provider as `out_trade_no`, which must be unique over all orders, whatever a form sends.
        """
        once = self.once("pay").removeprefix("pay_")
        bound = self.hall.keys.code_hash(f"{order_id}.{once}", purpose="page.attempt")
        return f"pay_{once[:10]}{bound[:16].upper()}"

    def _cashier(self, order: Order, attempt: Attempt) -> str:
        """Return the stand-in's cashier in dev and test, which takes the place of the platform's app; empty in production."""
        settings: Any = self.hall.settings
        if not settings.sandbox_url:
            return ""
        query = {
            "provider": attempt.provider,
            "out_trade_no": attempt.out_trade_no,
            "back": f"{settings.public_url}/orders/{order.id}",
        }
        return f"{settings.sandbox_url}/_sim/cashier?{urlencode(query)}"


class Close(OneOrder):
    async def get(self, order_id: str) -> None:
        self.redirect(f"/orders/{order_id}", status=303)

    async def post(self, order_id: str) -> None:
        try:
            await self.hall.payments.close_order(order_id, self.owner)
        except HallError as error:
            if error.status not in (409, 503):
                raise
            return await self.show_order(await self.hall.payments.get_order(order_id, self.owner), error)
        self.redirect(f"/orders/{order_id}", status=303)


class Receipt(PayPage):
    async def get(self, order_id: str) -> None:
        receipt = await self.hall.payments.receipt(order_id, self.owner)
        shown = [(one, qr(one["check_url"], "核验收据的二维码")) for one in receipt["receipts"]]
        await self.show("receipt.html", shown=shown, checked=False, order_id=order_id, back=f"/orders/{order_id}")


def qr(address: str, title: str) -> str:
    """Return a QR code as SVG."""
    code = segno.make(address, error="m", micro=False)
    drawn: str = code.svg_inline(scale=4, border=2, svgclass=None, lineclass=None, title=title, omitsize=True)
    return drawn


class ReceiptPdf(PayPage):
    async def get(self, order_id: str) -> None:
        name, pdf = await self.hall.payments.receipt_pdf(order_id, self.owner)
        self.set_header("Content-Type", "application/pdf")
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.finish(pdf)


class ReceiptCheck(PageHandler):
    """Public: whoever holds the paper can check it. The answer names nobody."""

    async def get(self, number: str) -> None:
        code = self.text("code", limit=20).strip().upper()
        if not code:
            return await self.show("receipt_check.html", number=number, code="")
        try:
            receipt = await checked(self, number, code)
        except NotFound:
            error = NotFound("没有找到这张收据，请对照收据核对收据号和核验码。")
            return await self.show("receipt_check.html", 404, number=number, code=code, error=error)
        except RateLimited as error:
            self.set_header("Retry-After", str(error.retry_after_s))
            return await self.show("receipt_check.html", 429, number=number, code="", error=error)
        await self.show("receipt.html", shown=[(receipt, "")], checked=True)


routes = [
    (r"/orders", Orders),
    (rf"/orders/{ID}", OneOrder),
    (rf"/orders/{ID}/pay", Pay),
    (rf"/orders/{ID}/close", Close),
    (rf"/orders/{ID}/receipt", Receipt),
    (rf"/orders/{ID}/receipt\.pdf", ReceiptPdf),
    (r"/receipts/(\w{1,60})", ReceiptCheck),
]
