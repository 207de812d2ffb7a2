"""What a check answers, and what a bill costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.checks import errors
from app.exchange.departments import Bill, Office


@dataclass(frozen=True)
class QuoteLine:
    title: str
    amount_fen: int
    payee: str


@dataclass(frozen=True)
class Quote:
    """What is owed now for one bill (the shape that payments ask of a payable source)."""

    title: str
    agency_id: str
    lines: tuple[QuoteLine, ...]
    subject_version: int = 1  # a bill has no versions of ours; its price is asked afresh each time


_REFUSALS: Mapping[str, tuple[type[errors.Conflict], str]] = {
    "paid": (errors.BillAlreadyPaid, "这张账单已经缴清，不用再缴。"),
    "closed": (errors.BillClosed, "这张账单已过缴费期限或已撤销，不能再缴。"),
    "disputed": (errors.BillDisputed, "这张账单正在复议或诉讼，暂停缴费，结果出来后再缴。"),
    "refunded": (errors.BillRefunded, "这张账单已退款，不用再缴。"),
}


# What the law calls the surcharge of a kind; 行政处罚法 art. 72 for fines.
_SURCHARGES = {"traffic_fine": "加处罚款（逾期每日3%，不超过罚款数额）"}


def quote_of(bill: Bill, office: Office) -> Quote:
    """Return the price of a bill: what the department says now, its surcharge as a line of its own.

    Raises:
        Conflict: it is paid, closed, disputed or refunded.
    """
    if bill.state in _REFUSALS:
        refusal, text = _REFUSALS[bill.state]
        raise refusal(f"{text}有疑问请拨打{office.hotline}。", en=f"The bill is {bill.state}.", state=bill.state)
    lines = [QuoteLine(bill.title, bill.amount_fen, bill.payee_name)]
    if bill.late_fee_fen:
        lines.append(QuoteLine(_SURCHARGES.get(bill.kind, "滞纳金"), bill.late_fee_fen, bill.payee_name))
    if sum(line.amount_fen for line in lines) <= 0:
        raise errors.BillClosed("这张账单没有要缴的金额。", en="Nothing is due.")
    return Quote(bill.title, bill.payee_id or office.id, tuple(lines))


def bill_view(bill: Bill) -> dict[str, Any]:
    """Return a bill as the API shows it; `payable` says whether an order can be made for it."""
    return {
        "id": bill.id,
        "kind": bill.kind,
        "title": bill.title,
        "amount_fen": bill.amount_fen,
        "late_fee_fen": bill.late_fee_fen,
        "total_fen": bill.amount_fen + bill.late_fee_fen,
        "due_on": bill.due_on,
        "issued_on": bill.issued_on,
        "payee": bill.payee_name,
        "payee_agency": bill.payee_id,
        "state": bill.state,
        "payable": bill.state == "unpaid",
        "points": bill.points,
        "notes": bill.notes,
        "receipt_no": bill.receipt_no,
    }
