"""Comparing one number of a bill with our own record of it, and what a difference means. Pure.

| kind | meaning |
| --- | --- |
| `theirs_only` | the provider has it, we do not |
| `ours_only` | we have it, the provider's bill does not |
| `amount` | both have it, with different amounts |
| `state` | both have it; one of them calls it paid (or given back), the other does not; or the days are more than one apart |
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from app.kernel.clock import SHANGHAI, shanghai_day
from payments.bill import BillKind, BillRow, BillState
from payments.reconcile.workbook import Entry


class Kind(StrEnum):
    OURS_ONLY = "ours_only"
    THEIRS_ONLY = "theirs_only"
    AMOUNT = "amount"
    STATE = "state"


class FindingState(StrEnum):
    WAITING = "waiting"  # near midnight: the next day's bill may have it
    OPEN = "open"  # a staff task, its amount in suspense
    SETTLED = "settled"


class Ours(NamedTuple):
    """Our own record of a number, as little of it as matching needs. `moved_at`: when the money moved, as far as we know.

    A tuple, like Entry, because there is one for every row of a bill.
    """

    number: str
    provider: str
    kind: BillKind
    order_id: str
    agency_id: str
    amount_fen: int
    state: str
    moved_at: datetime | None
    suspended_fen: int = 0  # of a held payment: in our books already, as a difference

    @property
    def is_booked(self) -> bool:
        """Say whether our books count this money as received, or as given back."""
        return self.state == ("paid" if self.kind is BillKind.PAYMENT else "succeeded")


@dataclass(frozen=True)
class Finding:
    """One difference of one day's bill. Amounts in fen, None where that side has nothing.

    Attributes:
        detail: a word for what exactly differs, for the sentence in the report.
    """

    provider: str
    day: date
    kind: Kind
    subject: BillKind
    number: str
    out_trade_no: str
    provider_trade_no: str = ""
    order_id: str = ""
    agency_id: str = ""
    ours_fen: int | None = None
    theirs_fen: int | None = None
    ours_state: str = ""
    theirs_state: str = ""
    at: datetime | None = None
    title: str = ""
    detail: str = ""
    suspended_fen: int = 0

    @property
    def id(self) -> str:
        """Unique per provider, day, number and kind: found twice, it is still one."""
        return f"{self.provider}:{self.day}:{self.kind}:{self.subject}:{self.number}"

    @property
    def suspense_fen(self) -> int:
        """How much more lies at the provider than our books say, in fen; negative when it is less.

        A held payment is in suspense by its own entry, so only what the bill says beyond that is added.
        """
        theirs = (self.theirs_fen or 0) if self.theirs_state in ("paid", "succeeded") else 0
        booked = (self.ours_fen or 0) if self.ours_state in ("paid", "succeeded") else self.suspended_fen
        return theirs - booked if self.subject is BillKind.PAYMENT else booked - theirs

    def to_document(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in self.__dict__.items() if value is not None},
            "_id": self.id,
            "day": self.day.isoformat(),
            "kind": str(self.kind),
            "subject": str(self.subject),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Finding":
        known = {name: value for name, value in document.items() if name in cls.__dataclass_fields__}
        return cls(
            **known
            | {
                "day": date.fromisoformat(document["day"]),
                "kind": Kind(document["kind"]),
                "subject": BillKind(document["subject"]),
            }
        )


# What the bill says of a refund -> which of our states fit it. A bill is hours old: what has moved on since is no difference.
_FITTING = {
    BillState.SUCCEEDED: {"succeeded"},
    BillState.PROCESSING: {"sending", "processing", "succeeded", "abnormal", "closed"},
    BillState.ABNORMAL: {"abnormal", "succeeded", "closed"},
    BillState.CLOSED: {"closed", "succeeded"},
    BillState.PAID: {"paid"},
    BillState.UNKNOWN: set(),
}
_ONE_DAY = timedelta(days=1)
_DAY_S = 86400


def compare(provider: str, day: date, entry: Entry, ours: Ours | None) -> Finding | None:
    """Return what differs between a number of the bill and our record of it, None when nothing does."""
    if ours is None or ours.provider != provider:
        return _finding(provider, day, Kind.THEIRS_ONLY, entry, None, "unknown_number")
    if entry.amount_fen != ours.amount_fen:
        return _finding(provider, day, Kind.AMOUNT, entry, ours, "twice" if entry.times > 1 else "amount")
    if ours.state not in _FITTING[BillState(entry.state)]:
        return _finding(provider, day, Kind.STATE, entry, ours, "state")
    # The usual case ends here, without calendars.
    if ours.moved_at is None or abs(ours.moved_at.timestamp() - entry.booked_s) <= _DAY_S:
        return None
    apart = abs(shanghai_day(ours.moved_at) - shanghai_day(datetime.fromtimestamp(entry.booked_s, UTC)))
    # A refund is dated by its application at one provider, by its success at the other, and can take weeks between.
    if apart <= _ONE_DAY or entry.kind == BillKind.REFUND:
        return None
    return _finding(provider, day, Kind.STATE, entry, ours, "day")


def ours_only(day: date, ours: Ours, out_trade_no: str) -> Finding:
    """Return the finding for what our books have and the bill has not."""
    return Finding(
        provider=ours.provider,
        day=day,
        kind=Kind.OURS_ONLY,
        subject=ours.kind,
        number=ours.number,
        out_trade_no=out_trade_no,
        order_id=ours.order_id,
        agency_id=ours.agency_id,
        ours_fen=ours.amount_fen,
        ours_state=ours.state,
        at=ours.moved_at,
        detail="not_in_bill",
    )


def _finding(provider: str, day: date, kind: Kind, entry: Entry, ours: Ours | None, detail: str) -> Finding:
    return Finding(
        provider=provider,
        day=day,
        kind=kind,
        subject=BillKind(entry.kind),
        number=entry.number,
        out_trade_no=entry.out_trade_no,
        provider_trade_no=entry.provider_trade_no,
        order_id=ours.order_id if ours else "",
        agency_id=ours.agency_id if ours else "",
        ours_fen=ours.amount_fen if ours else None,
        theirs_fen=entry.amount_fen,
        ours_state=ours.state if ours else "",
        theirs_state=entry.state,
        at=datetime.fromtimestamp(entry.booked_s, UTC),
        title=entry.title[:128],
        detail=detail,
        suspended_fen=ours.suspended_fen if ours else 0,
    )


EDGE = timedelta(hours=1)


def is_near_midnight(moment: datetime | None) -> bool:
    """Say whether two clocks may disagree about the Shanghai day of a moment."""
    if moment is None:
        return False
    return shanghai_day(moment - EDGE) != shanghai_day(moment + EDGE)


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """Return begin and end of a Shanghai day, aware UTC; the end is not part of it."""
    begin = datetime(day.year, day.month, day.day, tzinfo=SHANGHAI)
    return begin.astimezone(UTC), (begin + _ONE_DAY).astimezone(UTC)


# --- bills that do not say the numbers of refunds ---

# (number of the payment, fen) -> our refunds of that: (when the money moved, out_request_no)
OurRefunds = Mapping[tuple[str, int], list[tuple[datetime, str]]]


def with_numbers(rows: Iterator[BillRow], ours: OurRefunds) -> Iterator[BillRow]:
    """Give refund rows the number of our refund of the same payment and amount that is nearest in time; each is taken once.

    One that fits none keeps no number, and is a difference like any refund we did not make.
    """
    left = {key: list(refunds) for key, refunds in ours.items()}
    for row in rows:
        waiting = left.get((row.out_trade_no, row.amount_fen)) if row.kind is BillKind.REFUND and not row.out_refund_no else None
        if waiting:
            nearest = min(waiting, key=lambda refund: (abs(refund[0] - row.booked_at), refund[1]))
            waiting.remove(nearest)
            row = row._replace(out_refund_no=nearest[1])
        yield row
