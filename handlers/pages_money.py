"""The clerks' console for money (资金事项): differences of the reconciliation, payments that do not fit, and refunds; the list, one, acting."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from app.kernel.clock import utc_now
from app.kernel.errors import HallError, NotFound
from handlers import findings, refunds
from handlers.pages_base import ULID, errors_by_field
from handlers.pages_staff import StaffPage
from handlers.problems import judged
from handlers.refunds import PayOutRequest, RejectRefundRequest, ReturnedOutsideRequest, ReturnRequest, card_of
from payments import money_words as say
from payments.reconcile import words as reconcile_words

PAGE = 50
TABS = {"payments": "对不上的付款", "refunds": "退款", "findings": "对账差异"}
_FILTERS = {
    "payments": {},
    "refunds": {"": "全部"} | {state: name for state, (name, _tone) in say.REFUND_STATES.items()},
    "findings": reconcile_words.STATES,
}
_FINDING_TONES = {"open": "stop", "waiting": "wait", "settled": "done"}


@dataclass(frozen=True)
class Act:
    """Something that this person may do with what the page shows. `field` is the name of the text it wants, "" for none."""

    name: str
    label: str
    field: str = ""
    field_label: str = ""
    hint: str = ""
    limit: int = 200
    is_quiet: bool = False
    more: tuple[tuple[str, str], ...] = ()  # further fields: name and label; never shown again, they hold a person's card


class Start(StaffPage):
    async def get(self) -> None:
        self.redirect("/staff/money/payments", status=303)


class List(StaffPage):
    """What of the own agency's money needs eyes, newest first."""

    async def get(self, tab: str) -> None:
        state = self.text("state", "open" if tab == "findings" else "", limit=20)
        if state not in _FILTERS[tab]:
            state = next(iter(_FILTERS[tab]), "")
        cursor = self.text("cursor", limit=40) or None
        rows, next_cursor = await _ROWS[tab](self, state, cursor)
        await self.show(
            "staff_money.html", tab=tab, tabs=TABS, filters=_FILTERS[tab], state=state, rows=rows, next_cursor=next_cursor
        )


async def _payment_rows(page: StaffPage, _state: str, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
    query = judged(refunds.HeldListQuery, {"limit": str(PAGE)} | ({"cursor": cursor} if cursor else {}), "/query")
    found, following = await page.hall.payments.held.page(page.staff.agency_id, **query)
    return [
        _line(
            f"/staff/money/payments/{row['id']}",
            row["title"],
            row["order_id"],
            row["reported_fen"] if row["reported_fen"] is not None else row["expected_fen"],
            row["paid_at"] or row["created_at"],
            say.payment_state(row),
            row["provider"],
        )
        for row in found
    ], following


async def _refund_rows(page: StaffPage, state: str, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
    asked = {"limit": str(PAGE)} | ({"state": state} if state else {}) | ({"cursor": cursor} if cursor else {})
    query = judged(refunds.RefundListQuery, asked, "/query")
    found, following = await page.hall.payments.refunds.page(page.staff.agency_id, **query)
    return [
        _line(
            f"/staff/money/refunds/{row['id']}",
            row["title"],
            say.REFUND_KINDS[row["kind"]],
            row["amount_fen"],
            row["created_at"],
            ("超过7天", "stop") if row["is_overdue"] and row["state"] != "abnormal" else say.REFUND_STATES[row["state"]],
            row["provider"],
        )
        for row in found
    ], following


async def _finding_rows(page: StaffPage, state: str, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
    asked = {"limit": str(PAGE), "state": state} | ({"cursor": cursor} if cursor else {})
    query = judged(findings.FindingListQuery, asked, "/query")
    found, following = await page.hall.reconcile.desk.page(page.staff, **query)
    return [
        _line(
            f"/staff/money/findings/{row['id']}",
            reconcile_words.KINDS[row["kind"]],
            f"{reconcile_words.SUBJECTS[row['subject']]} {row['number']}",
            row["theirs_fen"] if row["theirs_fen"] is not None else row["ours_fen"],
            row["found_at"],
            (reconcile_words.STATES[row["state"]], _FINDING_TONES[row["state"]]),
            row["provider"],
        )
        for row in found
    ], following


_ROWS = {"payments": _payment_rows, "refunds": _refund_rows, "findings": _finding_rows}


def _line(
    path: str, title: str, under: str, fen: int | None, at: str, state: tuple[str, str], provider: str
) -> dict[str, Any]:
    return {
        "path": path,
        "title": title,
        "under": under,
        "fen": fen,
        "at": at,
        "age": age(at),
        "state": state[0],
        "tone": state[1],
        "provider": say.PROVIDERS.get(provider, provider),
    }


def age(at: str, now: datetime | None = None) -> str:
    """Return how long ago a moment is, the way a person says it: `3天`, `5小时`, `刚刚`."""
    seconds = ((now or utc_now()) - datetime.fromisoformat(at)).total_seconds()
    if seconds >= 86400:
        return f"{int(seconds // 86400)}天"
    return f"{int(seconds // 3600)}小时" if seconds >= 3600 else f"{int(seconds // 60)}分钟" if seconds >= 60 else "刚刚"


class One(StaffPage):
    """One matter of money: what happened in plain words, what to do, and what this person may do now."""

    kind: ClassVar[str]
    actions: ClassVar[tuple[str, ...]]
    # Id -> what the page shows: title, state, tone, what, advice, facts, links, acts.
    matter: Callable[..., Awaitable[dict[str, Any]]]
    # Id and action -> done. Raises HallError.
    act: Callable[..., Awaitable[None]]

    async def get(self, matter_id: str, action: str | None = None) -> None:
        if action:
            return self.redirect(f"/staff/money/{self.kind}/{matter_id}", status=303)
        await self.show_one(matter_id)

    async def post(self, matter_id: str, action: str | None = None) -> None:
        if action not in self.actions:
            raise NotFound("没有这个操作。")
        try:
            await self.act(matter_id, action)
        except HallError as error:
            if error.status not in (403, 409, 422, 503):
                raise
            return await self.show_one(matter_id, action=action, error=error)
        self.redirect(f"/staff/money/{self.kind}/{matter_id}", status=303)

    async def show_one(self, matter_id: str, *, action: str = "", error: HallError | None = None) -> None:
        values = await self.matter(matter_id)
        await self.show(
            "staff_money_one.html",
            error.status if error else 200,
            kind=self.kind,
            tab_name=TABS[self.kind],
            path=f"/staff/money/{self.kind}/{matter_id}",
            action=action,
            typed={name: self.text(name) for name in ("note", "reason")},
            error=error,
            errors=errors_by_field(error) if error else {},
            **values,
        )

    @property
    def is_head(self) -> bool:
        return self.staff.role == "head"


class OnePayment(One):
    kind = "payments"
    actions = ("ask", "return", "returned")

    async def matter(self, matter_id: str) -> dict[str, Any]:
        order, row = await self.hall.payments.held.read(matter_id, self.staff)
        state, tone = say.payment_state(row)
        acts = []
        if row["kind"] == "held":
            acts.append(Act("ask", "再问一次支付平台", is_quiet=True))
            if row["may_return"]:
                hint = "缴款人会看到；超过限额的要负责人再审批一次"
                acts.append(Act("return", "原路全额退回", "reason", "退回理由", hint, 26))
            if self.is_head:
                hint = "写明谁在平台后台退的、退款流水号"
                acts.append(Act("returned", "登记：已在平台后台退回", "note", "说明", hint, is_quiet=True))
        facts = [
            *_common(row, order.id),
            ("应收", _yuan(row["expected_fen"])),
            ("平台说付了", _yuan(row["reported_fen"])),
            ("平台交易号", row["provider_trade_no"]),
            ("处理人", row["decided_by"]),
            ("处理说明", row["decision_note"]),
        ]
        links = [(f"/staff/money/refunds/{r['id']}", f"退款：{say.REFUND_STATES[r['state']][0]}") for r in row["refunds"]]
        what, advice = say.payment_sentence(row), say.payment_advice(row)
        return {"title": row["title"], "state": state, "tone": tone, "what": what, "advice": advice, "facts": facts, "links": links, "acts": acts}

    async def act(self, matter_id: str, action: str) -> None:
        held = self.hall.payments.held
        if action == "ask":
            await held.ask(matter_id, self.staff)
        elif action == "return":
            body = judged(ReturnRequest, {"reason": self.text("reason", limit=200).strip()}, "")
            await held.give_back(matter_id, self.staff, reason=body["reason"], refund_id=self.once("rfd"))
        else:
            body = judged(ReturnedOutsideRequest, {"note": self.text("note", limit=400).strip()}, "")
            await held.given_back_outside(matter_id, self.staff, body["note"])


class OneRefund(One):
    kind = "refunds"
    actions = ("approve", "reject", "again", "to_card", "to_merchant")

    async def matter(self, matter_id: str) -> dict[str, Any]:
        order, refund = await self.hall.payments.refunds.read(matter_id, self.staff)
        row = self.hall.payments.refunds.view(order, refund)
        state, tone = say.REFUND_STATES[row["state"]]
        acts = []
        if row["state"] == "requested" and self._is_second(row):
            acts += [Act("approve", "同意退款"), Act("reject", "不同意", "reason", "理由", "申请人会看到", is_quiet=True)]
        if row["state"] == "closed" and row["failure"] != "already_returned":
            acts.append(Act("again", "再退一次", "reason", "退款理由", "缴款人会看到；金额与这次相同", 26))
        if row["state"] == "abnormal" and row["failure"] == "abnormal" and row["provider"] == "wechatpay" and self._is_second(row):
            card = (("bank", "开户银行（微信支付的银行代码，如 ICBC_DEBIT）"), ("account", "银行卡号"), ("holder", "持卡人姓名"))
            acts += [Act("to_card", "改退到缴款人的银行卡", more=card), Act("to_merchant", "退到收款商户的银行账户", is_quiet=True)]
        facts = [
            *_common(row, order.id),
            ("退款金额", _yuan(row["amount_fen"])),
            ("订单金额", _yuan(row["paid_fen"])),
            ("类别", say.REFUND_KINDS[row["kind"]]),
            ("理由", row["reason"]),
            ("退款单号", row["out_refund_no"]),
            ("平台退款号", row["provider_refund_no"]),
            ("申请人", _who(row["requested_by"])),
            ("审批人", _who(row["approved_by"])),
            ("发出时间", row["sent_at"]),
            ("到账时间", row["refunded_at"]),
        ]
        what, advice = say.refund_sentence(row), say.refund_advice(row)
        return {"title": row["title"], "state": state, "tone": tone, "what": what, "advice": advice, "facts": facts, "links": [], "acts": acts}

    def _is_second(self, row: Mapping[str, Any]) -> bool:
        return self.is_head and row["requested_by"] != self.staff.account

    async def act(self, matter_id: str, action: str) -> None:
        desk = self.hall.payments.refunds
        if action == "approve":
            await desk.approve(matter_id, self.staff)
        elif action == "reject":
            body = judged(RejectRefundRequest, {"reason": self.text("reason", limit=400).strip()}, "")
            await desk.reject(matter_id, self.staff, body["reason"])
        elif action in ("to_card", "to_merchant"):
            typed = {name: self.text(name, limit=80).strip() for name in ("bank", "account", "holder")}
            body = judged(PayOutRequest, {"to": "card", **typed} if action == "to_card" else {"to": "merchant"}, "")
            await self.hall.payments.abnormal.pay_out(matter_id, self.staff, card_of(body))
        else:
            order, refund = await desk.read(matter_id, self.staff)
            body = judged(ReturnRequest, {"reason": self.text("reason", limit=200).strip()}, "")
            await desk.request(
                order.id,
                self.staff,
                amount_fen=refund.amount_fen,
                reason=body["reason"],
                refund_id=self.once("rfd"),
                attempt_id=refund.attempt_id,
            )


class OneFinding(One):
    kind = "findings"
    actions = ("settle",)

    async def matter(self, matter_id: str) -> dict[str, Any]:
        row = await self.hall.reconcile.desk.read(matter_id, self.staff)
        acts = []
        if row["state"] != "settled" and self.is_head:
            acts.append(Act("settle", "登记核清", "note", "核实结果", "写明查了什么、怎么处理的"))
        facts = [
            *_common(row, row["order_id"]),
            ("账单日期", row["day"]),
            ("收款或退款", reconcile_words.SUBJECTS[row["subject"]]),
            ("账单金额", _yuan(row["theirs_fen"])),
            ("本系统金额", _yuan(row["ours_fen"])),
            ("单号", row["number"]),
            ("平台单号", row["provider_trade_no"]),
            ("发现时间", row["found_at"]),
            ("核清时间", row["settled_at"]),
            ("核清人", row["settled_by"]),
        ]
        return {
            "title": reconcile_words.KINDS[row["kind"]],
            "state": reconcile_words.STATES[row["state"]],
            "tone": _FINDING_TONES[row["state"]],
            "what": row["what"],
            "advice": row["what_to_do"],
            "facts": facts,
            "links": [],
            "acts": acts,
        }

    async def act(self, matter_id: str, action: str) -> None:
        body = judged(findings.SettleFindingRequest, {"note": self.text("note", limit=400).strip()}, "")
        await self.hall.reconcile.desk.settle(matter_id, self.staff, body["note"])


def _common(row: Mapping[str, Any], order_id: str | None) -> list[tuple[str, str | None]]:
    facts: list[tuple[str, str | None]] = [("支付平台", say.PROVIDERS.get(row["provider"], row["provider"])), ("订单", order_id)]
    return [*facts, ("商户订单号", row["out_trade_no"])] if row["out_trade_no"] != row.get("number") else facts


def _yuan(fen: int | None) -> str:
    return "" if fen is None else f"{reconcile_words.amount(fen)} 元"


def _who(account: str | None) -> str | None:
    return "系统" if account == "hall" else account


routes = [
    (r"/staff/money/?", Start),
    (r"/staff/money/(payments|refunds|findings)", List),
    (rf"/staff/money/payments/(pay_{ULID})(?:/(\w+))?", OnePayment),
    (r"/staff/money/refunds/(rfd_[0-9A-Z]{26})(?:/(\w+))?", OneRefund),
    (rf"/staff/money/findings/(fnd_{ULID})(?:/(\w+))?", OneFinding),
]
