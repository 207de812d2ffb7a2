"""What a check answers, and what a bill costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from app.checks import bill_rules, errors
from app.checks.bill_rules import Judgement
from app.exchange.departments import Bill, Office
from app.kernel.clock import format_utc, shanghai_day
from app.kernel.errors import Conflict
from app.kernel.money import yuan_text


@dataclass(frozen=True)
class QuoteLine:
    title: str
    amount_fen: int
    payee: str
    paid_for: str = ""  # the name, masked, of the person it is paid for, when that is somebody else


@dataclass(frozen=True)
class Quote:
    """What is owed now for one bill (the shape that payments ask of a payable source).

    Attributes:
        pay_by: the moment after which it cannot be paid any more, or None.
        after: ids of bills that have to be paid before it, or in the same order.
    """

    title: str
    agency_id: str
    lines: tuple[QuoteLine, ...]
    subject_version: int = 1  # a bill has no versions of ours; its price is asked afresh each time
    pay_by: datetime | None = None
    after: tuple[str, ...] = ()


_REFUSALS: Mapping[str, tuple[type[Conflict], str]] = {
    "paid": (errors.BillAlreadyPaid, "这张账单已经缴清，不用再缴。"),
    "closed": (errors.BillClosed, "这张账单已过缴费期限或已撤销，不能再缴。"),
    "disputed": (errors.BillDisputed, "这张账单正在复议或诉讼，暂停缴费，结果出来后再缴。"),
    "refunded": (errors.BillRefunded, "这张账单已退款，不用再缴。"),
}
_TOO_LATE = "缴费截止时间已过（或只剩不到两分钟），不能再缴。"
_UNLAWFUL = "部门系统给出的加处罚款超过了罚款本身，超出法律规定的上限，暂时不能在这里缴，我们已告知部门核对。"
_DIFFERS = "加处罚款与按逾期天数算出的{ours}元不一致，以部门系统的数额为准；有疑问请先拨打{hotline}再缴。"


def quote_of(bill: Bill, office: Office, now: datetime, paid_for: str = "") -> Quote:
    """Return the price of a bill: what the department says now, its surcharge as a line of its own.

    Raises:
        Conflict: it is paid, closed, past its deadline, disputed or refunded, or its surcharge is above what the law allows.
    """
    if bill.state in _REFUSALS:
        refusal, text = _REFUSALS[bill.state]
        raise refusal(f"{text}有疑问请拨打{office.hotline}。", en=f"The bill is {bill.state}.", state=bill.state)
    deadline = bill_rules.pay_by(bill)
    if deadline is not None and now > deadline - bill_rules.SHORTEST_TO_PAY:
        raise errors.BillClosed(f"{_TOO_LATE}有疑问请拨打{office.hotline}。", en="The deadline is over.", state="late")
    if bill_rules.judge_surcharge(bill, shanghai_day(now)) is Judgement.UNLAWFUL:
        raise errors.BillDoubtful(
            f"{_UNLAWFUL}有疑问请拨打{office.hotline}。", en="The surcharge is above its legal limit; the department has been told."
        )
    lines = [QuoteLine(bill.title, bill.amount_fen, bill.payee_name, paid_for)]
    if bill.late_fee_fen:
        lines.append(QuoteLine(bill_rules.surcharge_title(bill.kind), bill.late_fee_fen, bill.payee_name, paid_for))
    if sum(line.amount_fen for line in lines) <= 0:
        raise errors.BillClosed("这张账单没有要缴的金额。", en="Nothing is due.")
    return Quote(bill.title, bill.payee_id or office.id, tuple(lines), pay_by=deadline)


def bill_view(bill: Bill, office: Office, now: datetime) -> dict[str, Any]:
    """Return a bill as the API shows it; `payable` says whether an order can be made for it, `warning` what to know before."""
    rule = bill_rules.rule_of(bill.kind)
    payable, warning = bill.state == "unpaid", ""
    if payable:
        try:
            quote_of(bill, office, now)
        except Conflict as refusal:
            payable, warning = False, refusal.detail
    on = shanghai_day(now)
    if payable and rule.surcharge and bill_rules.judge_surcharge(bill, on) is Judgement.DIFFERS:
        ours = bill_rules.surcharge_fen(rule.surcharge, bill.amount_fen, date.fromisoformat(bill.due_on), on)
        warning = _DIFFERS.format(ours=yuan_text(ours), hotline=office.hotline)
    return {
        "id": bill.id,
        "kind": bill.kind,
        "title": bill.title,
        "amount_fen": bill.amount_fen,
        "late_fee_fen": bill.late_fee_fen,
        "total_fen": bill.amount_fen + bill.late_fee_fen,
        "due_on": bill.due_on,
        "pay_by": format_utc(bill_rules.pay_by(bill)),
        "issued_on": bill.issued_on,
        "payee": bill.payee_name,
        "payee_agency": bill.payee_id,
        "holder": rule.holder,
        "holder_masked": bill.payer_masked,
        "state": bill.state,
        "payable": payable,
        "warning": warning,
        "points": bill.points,
        "notes": bill.notes,
        "receipt_no": bill.receipt_no,
    }
