"""Payments as the rest of the hall sees them: `Payments`, put together in commands/assembly.py.

Orders and receipts are here; paying is paying.py, what providers say is settling.py, asking them asking.py and sweeps.py, giving back
refunds.py and refund_following.py, the books ledger/.
"""

import asyncio
import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from app.kernel.clock import format_utc, utc_now
from app.kernel.errors import ValidationFailed, error_row
from app.storage.mongo import Database
from payments import errors, receipt_numbers, receipts
from payments.abnormal import AbnormalRefunds
from payments.asking import Asking
from payments.held_desk import HeldDesk
from payments.ledger import store as ledger
from payments.model import Attempt, Line, Order, OrderState, Payable, total_fen
from payments.notifications import Notifications, Outcome
from payments.paying import PayerOf, Paying, raise_if_held
from payments.provider import PaymentProvider
from payments.refund import RefundState
from payments.refund_following import RefundFollowing
from payments.refunds import Refunds
from payments.settling import Settling, order_event
from payments.sources import PayableSource
from payments.store import Change, OrderChanged, OrderStore, PayableTaken
from payments.sweeps import Sweeps
from payments.watching import Watching

log = structlog.get_logger(__name__)

MAX_PAYABLES = 20
REFRESH_AT_MOST_EVERY = timedelta(seconds=1)


class Payments:
    """Orders, their payment, notifications and receipts.

    Args:
        providers: in the order in which they are offered.
        sources: payable kind -> who knows what is owed.
        payer_of: (resident id, identity name of the provider) -> that channel identity, or None.
        refund_approval_fen: what staff may give back of one order without a second person.
        public_url: how the providers and the readers of a receipt reach the hall.
    """

    def __init__(
        self,
        database: Database,
        *,
        providers: Sequence[PaymentProvider],
        sources: Mapping[str, PayableSource],
        payer_of: PayerOf,
        public_url: str,
        order_minutes: int = 30,
        refund_approval_fen: int = 50_000,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.providers = {provider.name: provider for provider in providers}
        self._database = database
        self._store = OrderStore(database)
        self._sources = sources
        self._public_url = public_url
        self._order_for = timedelta(minutes=order_minutes)
        self._clock = clock
        self._settling = Settling(self._store, sources)
        self._asking = Asking(self.providers, self._settling)
        self._paying = Paying(
            self._store,
            self._asking,
            self.providers,
            payer_of,
            self._close_if_over,
            public_url=public_url,
            clock=clock,
        )
        self.held = HeldDesk(self._store, self._asking, approval_fen=refund_approval_fen, clock=clock)
        self.refunds = Refunds(self._store, approval_fen=refund_approval_fen, clock=clock, confirm=self.held.confirm_of)
        self._following = RefundFollowing(self._store, self.providers, public_url)
        self.abnormal = AbnormalRefunds(self._store, self.providers, self._following, clock)
        self._notifications = Notifications(
            database, self.providers, self._settling, lambda report, now: self._following.apply_report(report, "notice", now)
        )
        self._watching = Watching(database)
        self._sweeps = Sweeps(self._store, self._asking, self._notifications, self._close_if_over)

    async def prepare(self) -> None:
        """Make what must exist before the first request: the capped collection, the verification keys (failing quietly)."""
        await self._notifications.prepare()
        await asyncio.gather(*(provider.learn_keys() for provider in self.providers.values()))

    # --- orders ---

    async def create_order(self, owner_id: str, payables: Sequence[Mapping[str, str]], *, order_id: str) -> Order:
        """Make an order for payables `[{kind, id}]`, or return the open one for exactly these.

        Raises:
            ValidationFailed: none, too many, repeated or of unknown kind.
            NotFound, Conflict, ProviderUnavailable: of the source of a payable.
            OrderAlreadyPaid, PayableBusy, CloseUnsure.
        """
        wanted = _checked(payables, self._sources)
        for _ in range(3):  # each round ends in an answer, unless another order appears or ends in between
            known = await self._store.load(order_id)
            if known is not None and known.owner_id == owner_id:
                return known  # the same request once more, after a crash
            existing = await self._held_by(owner_id, wanted)
            if existing is not None:
                return existing
            order = await self._priced(order_id, owner_id, wanted)
            try:
                event = order_event("order.created", order, order.created_at)
                created = await self._store.create(Change(order, (event,), take_locks=True))
            except (PayableTaken, OrderChanged):
                continue
            log.info("order.created", order_id=created.id, amount_fen=created.amount_fen)
            return created
        raise errors.PayableBusy("这些费用的订单刚刚有变化，请刷新后重试。", order_id=None)

    async def _held_by(self, owner_id: str, wanted: Sequence[tuple[str, str]]) -> Order | None:
        """Return the resident's own open order for exactly these payables, None when all are free; raise otherwise."""
        keys = [f"{kind}:{payable_id}" for kind, payable_id in wanted]
        holders = await self._store.holders(keys)
        for (kind, payable_id), key in zip(wanted, keys, strict=True):
            holder = holders.get(key)
            if holder is None:
                continue
            if holder.owner_id != owner_id:
                # Only who may pay this learns that somebody else does; for everybody else it does not exist.
                await self._sources[kind].quote(payable_id, owner_id)
                if holder.state is OrderState.PAID:
                    raise errors.OrderAlreadyPaid("这笔费用已经有人缴清了，不用再缴。", en="Paid already.", order_id=None)
                raise errors.PayableBusy(
                    "这笔费用正由另一个人缴纳，请过一会儿再看。对方没有缴成的话，最迟半小时后您就可以缴。", order_id=None
                )
            if holder.is_final:
                raise errors.already_paid(holder.id)
            if {payable.key for payable in holder.payables} != set(keys):
                raise errors.PayableBusy(
                    "其中有费用已在您的另一张待缴订单里，请先缴清或关闭那张订单。",
                    en="One of these is in another open order of yours.",
                    order_id=holder.id,
                )
            if self._clock() < holder.expires_at:
                return holder
            await self._close(holder, "expired")
            return None
        return None

    async def _priced(self, order_id: str, owner_id: str, wanted: Sequence[tuple[str, str]]) -> Order:
        payables: list[Payable] = []
        lines: list[Line] = []
        deadlines: list[datetime] = []
        for kind, payable_id in wanted:
            quote = await self._sources[kind].quote(payable_id, owner_id)
            if any((kind, other) not in wanted for other in quote.after):
                raise errors.OlderFirst(
                    f"“{quote.title}”之前还有更早的账单没有缴。请把更早的一起勾选，或先缴更早的。",
                    en="An older bill comes first: pay it before, or in the same order.",
                )
            if quote.pay_by is not None:
                deadlines.append(quote.pay_by)
            own = [
                Line(line.title, line.amount_fen, line.payee, quote.agency_id, line.paid_for) for line in quote.lines
            ]
            payables.append(
                Payable(kind, payable_id, quote.subject_version, quote.agency_id, quote.title, total_fen(own))
            )
            lines += own
        if any(line.amount_fen < 0 for line in lines) or total_fen(lines) < 1:
            raise ValidationFailed([error_row("/payables", "nothing_due", "这些事项现在没有要缴的费用")])
        now = self._clock()
        # The price holds for the life of the order, which never goes on after a deadline. Providers take whole seconds.
        expires_at = min([now + self._order_for, *deadlines]).replace(microsecond=0)
        title = payables[0].title if len(payables) == 1 else f"{payables[0].title}等{len(payables)}项"
        return Order(
            id=order_id,
            owner_id=owner_id,
            state=OrderState.OPEN,
            title=title,
            amount_fen=total_fen(lines),
            lines=tuple(lines),
            payables=tuple(payables),
            expires_at=expires_at,
            created_at=now,
            next_ask_at=expires_at,
        )

    async def get_order(self, order_id: str, owner_id: str, *, refresh: bool = False) -> Order:
        """Return the resident's order; with `refresh` ask the providers first when it is not final (at most once a second).

        Raises:
            OrderNotFound.
        """
        order = await self._own(order_id, owner_id)
        if not refresh or order.is_final or not order.askable_attempts:
            return order
        for last_try in (False, True):
            now = self._clock()
            if await self._store.may_ask(order.id, now, REFRESH_AT_MOST_EVERY):
                await self._asking.ask_all(order, now)
                break
            if not last_try:
                # Asked a moment ago, perhaps just before the resident paid: wait the rest of the pause, so that the answer is never
                # older than the request; when somebody else asks meanwhile, that answer is new enough.
                await asyncio.sleep(REFRESH_AT_MOST_EVERY.total_seconds())
        return await self._own(order_id, owner_id)

    async def list_orders(
        self, owner_id: str, *, states: Sequence[str] = (), limit: int = 20, cursor: str | None = None
    ) -> tuple[list[Order], str | None]:
        """Return a page of the resident's orders, newest first, and the cursor of the next page."""
        found = await self._store.page(owner_id, states=states, before=cursor or "", limit=limit + 1)
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def close_order(self, order_id: str, owner_id: str) -> Order:
        """Close an order the resident does not want; its attempts are closed at their providers first.

        Raises:
            OrderNotFound, OrderAlreadyPaid, PaymentHeld, CloseUnsure.
        """
        order = await self._own(order_id, owner_id)
        if order.state is OrderState.CLOSED:
            return order
        return await self._close(order, "resident")

    async def close_payable(self, kind: str, payable_id: str) -> None:
        """Close the open order of a payable that is owed no more (its case was withdrawn). Unsure ones are left to the sweep."""
        for order in (await self._store.holders([f"{kind}:{payable_id}"])).values():
            if not order.is_final:
                try:
                    await self._close(order, "not_owed")
                except (errors.CloseUnsure, errors.OrderAlreadyPaid, errors.PaymentHeld) as refused:
                    log.info("order.close_left", order_id=order.id, code=refused.code)

    async def _close(self, order: Order, reason: str) -> Order:
        now = self._clock()
        order = await self._asking.wind_up(order, now)
        order = await self._close_if_over(order, now, reason)
        if order.state is OrderState.CLOSED:
            return order
        if order.is_final:
            raise errors.already_paid(order.id)
        raise_if_held(order)
        raise errors.CloseUnsure(
            "支付平台还没有确认这张订单没有付款，暂时不能关闭。请过几分钟再试；没有付款的订单到期后会自动关闭。",
            en="The provider has not confirmed yet that nothing was paid.",
        )

    async def _close_if_over(self, order: Order, now: datetime, reason: str) -> Order:
        """Close an order of which nothing can be paid any more, and free what it was for."""

        def decide(current: Order) -> Change | None:
            if current.is_final or current.open_attempts or current.is_held:
                return None
            closed = current.move("close", closed_at=now, next_ask_at=None)
            return Change(closed, (order_event("order.closed", closed, now, reason=reason),), free_locks=True)

        return await self._store.change(order.id, decide)

    async def _own(self, order_id: str, owner_id: str) -> Order:
        order = await self._store.load(order_id)
        if order is None or order.owner_id != owner_id:
            raise errors.not_found()
        return order

    # --- paying ---

    async def pay(
        self, order_id: str, owner_id: str, *, provider: str, scene: str, attempt_id: str, client_ip: str = ""
    ) -> tuple[Attempt, dict[str, Any]]:
        """Make an order payable at a provider; return the attempt and exactly what the client SDK takes.

        Args:
            attempt_id: the number to use when a new attempt is needed; the same again when the request is repeated.
            client_ip: the payer's address, which WeChat Pay's H5 cashier compares with who opens it.

        Raises:
            OrderNotFound, SceneUnsupported, OrderAlreadyPaid, OrderClosed, OrderExpired, PaymentHeld, PayerUnknown,
            TooManyAttempts, PaymentRefused; ProviderUnavailable when the provider gives no clear answer.
        """
        order = await self._own(order_id, owner_id)
        return await self._paying.pay(
            order, provider_name=provider, scene=scene, attempt_id=attempt_id, client_ip=client_ip
        )

    # --- notifications, sweep ---

    async def receive(self, provider: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Take a notification: store, verify, apply. Raises PyMongoError when it could not be stored."""
        return await self._notifications.receive(provider, headers, body, self._clock())

    async def sweep(self, now: datetime | None = None) -> int:
        """Ask about everything that is due, close what has expired, send and follow refunds; return how many orders were looked at.

        Any number may run.
        """
        now = now or self._clock()
        looked_at = await asyncio.gather(self._sweeps.run(now), self._following.sweep(now))
        await self._watching.look(now)
        return sum(looked_at)

    async def seal_ledger(self, now: datetime | None = None) -> int:
        """Take new ledger entries into the chain; return how many. Any number may run."""
        return await ledger.seal(self._database, now or self._clock())

    # --- receipts ---

    async def number_receipts(self) -> int:
        """Give new receipts their numbers; return how many. Any number may run."""
        return await receipt_numbers.assign(self._database)

    async def receipt(self, order_id: str, owner_id: str) -> dict[str, Any]:
        """Return the receipt of a paid order; of several agencies the first one's, and under `receipts` that of each.

        Raises:
            OrderNotFound, ReceiptNotIssued.
        """
        order = await self._numbered(order_id, owner_id)
        shown = [receipts.view(order, receipt, self._public_url) for receipt in order.receipts]
        return {**shown[0], "receipts": shown}

    async def receipt_pdf(self, order_id: str, owner_id: str) -> tuple[str, bytes]:
        """Return (file name, PDF) with the receipts of an order, each on pages of its own. Raises like `receipt`."""
        receipt = await self.receipt(order_id, owner_id)
        loop = asyncio.get_running_loop()
        pdf = await loop.run_in_executor(None, receipts.render_pdf, receipt["receipts"])
        return f"{receipt['number']}.pdf", pdf

    async def _numbered(self, order_id: str, owner_id: str) -> Order:
        order = await self._own(order_id, owner_id)
        if not order.receipts:
            raise errors.ReceiptNotIssued("这张订单还没有缴清，缴清后才有收据。", en="There is a receipt once the order is paid.")
        if not all(receipt.number for receipt in order.receipts):  # opened before the worker came by
            await self.number_receipts()
            order = await self._own(order_id, owner_id)
        return order

    async def check_receipt(self, number: str, code: str) -> dict[str, Any]:
        """Return what anybody with number and code may know. Raises ReceiptNotFound, the same for a wrong number and a wrong code."""
        found = await self._store.receipt(number)
        is_known = found is not None and hmac.compare_digest(found["code"].encode(), code.encode())
        order = await self._store.load(found["order_id"]) if found is not None and is_known else None
        if found is None or order is None or not order.receipts:
            raise errors.ReceiptNotFound("没有找到这张收据，请核对收据号和核验码。", en="No such receipt.")
        # Of the first numbers, which were ids, the order knows the number alone; it had one receipt then.
        receipt = next((receipt for receipt in order.receipts if receipt.id == found["_id"]), order.receipts[0])
        return receipts.public_view(order, receipt)

    # --- others ---

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Two residents are one person: their orders become the remaining one's."""
        await self._store.reassign(from_id, into_id)


def view(order: Order) -> dict[str, Any]:
    """Return an order as the API gives it."""
    return {
        "id": order.id,
        "state": str(order.state),
        "title": order.title,
        "amount_fen": order.amount_fen,
        "lines": [receipts.line_view(line) for line in order.lines],
        "payables": [{"kind": payable.kind, "id": payable.id} for payable in order.payables],
        "expires_at": format_utc(order.expires_at),
        "attempts": [
            {
                "id": attempt.id,
                "provider": attempt.provider,
                "scene": attempt.scene,
                "state": str(attempt.state),
                "out_trade_no": attempt.out_trade_no,
                "created_at": format_utc(attempt.created_at),
            }
            for attempt in order.attempts
        ],
        "created_at": format_utc(order.created_at),
        "paid_at": format_utc(order.paid_at),
        "receipt_number": order.receipt_number or None,
        "receipts": [{"agency_id": receipt.agency_id, "number": receipt.number or None} for receipt in order.receipts],
        # What waits for a second person, or was not agreed to, is no promise to the resident.
        "refunds": [
            {
                "id": refund.id,
                "state": str(refund.state),
                "amount_fen": refund.amount_fen,
                "created_at": format_utc(refund.created_at),
                "refunded_at": format_utc(refund.refunded_at),
            }
            for refund in order.refunds
            if refund.state not in (RefundState.REQUESTED, RefundState.REJECTED)
        ],
    }


def _checked(payables: Sequence[Mapping[str, str]], sources: Mapping[str, PayableSource]) -> list[tuple[str, str]]:
    wanted = [(payable["kind"], payable["id"]) for payable in payables]
    rows = [
        error_row(f"/payables/{index}/kind", "unknown", "不认识这类费用")
        for index, (kind, _) in enumerate(wanted)
        if kind not in sources
    ]
    if not wanted or len(wanted) > MAX_PAYABLES:
        rows.append(error_row("/payables", "count", f"一张订单缴 1 到 {MAX_PAYABLES} 项费用"))
    if len(set(wanted)) != len(wanted):
        rows.append(error_row("/payables", "repeated", "同一项费用写了两次"))
    if rows:
        raise ValidationFailed(rows)
    return wanted
