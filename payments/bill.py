"""A provider's daily bill in our words: what every reader yields, and exact numbers out of bill text.

A reader is a pure generator over a file: it yields rows one by one, holds nothing but the line in hand and the sums, and compares its
own sums with those the provider wrote at the end. So a row counts only when the reader has ended without BillRefused.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

# No bill of a city is larger unpacked: 10 million rows of 400 bytes.
MAX_UNPACKED_BYTES = 8 * 1024**3
# A line is some hundred bytes; one that does not end is not a bill.
MAX_LINE_BYTES = 64 * 1024


class BillRefused(Exception):
    """The file is not a whole bill: wrong hash or sums, cut off, too large, or nothing this reader knows. None of its rows count."""


class BillKind(StrEnum):
    PAYMENT = "payment"
    REFUND = "refund"


class BillState(StrEnum):
    """What a row says of its payment (always PAID) or refund."""

    PAID = "paid"
    SUCCEEDED = "succeeded"
    PROCESSING = "processing"
    ABNORMAL = "abnormal"
    CLOSED = "closed"
    UNKNOWN = "unknown"  # a word we do not know: looked at by a person, never guessed


class BillRow(NamedTuple):
    """One payment or refund of a bill. A tuple, because ten million of them are made.

    Attributes:
        out_refund_no: of a refund, "" otherwise.
        amount_fen: of the order or of the refund as applied for; never negative.
        fee_millifen: what the provider keeps, in thousandths of a fen (bills have five decimals of a yuan); negative when given back.
        booked_at: when, by the provider's own clock; aware UTC.
    """

    kind: BillKind
    provider: str
    out_trade_no: str
    out_refund_no: str
    provider_trade_no: str
    amount_fen: int
    fee_millifen: int
    booked_at: datetime
    state: BillState
    title: str

    @property
    def number(self) -> str:
        """The number by which we know it: of the attempt, or of the refund."""
        return self.out_refund_no if self.kind is BillKind.REFUND else self.out_trade_no


@dataclass
class BillSums:
    """Sums over the rows of a bill, as the reader added them up."""

    payments: int = 0
    payments_fen: int = 0
    refunds: int = 0
    refunds_fen: int = 0
    fee_millifen: int = 0

    def add(self, row: BillRow) -> None:
        if row.kind is BillKind.PAYMENT:
            self.payments += 1
            self.payments_fen += row.amount_fen
        else:
            self.refunds += 1
            self.refunds_fen += row.amount_fen
        self.fee_millifen += row.fee_millifen

    def to_document(self) -> dict[str, int]:
        return dict(self.__dict__)


@dataclass
class Reading:
    """What a reader has learned of a file; complete once its generator has ended.

    Attributes:
        sha1: of the unpacked file, where the provider hashes that.
    """

    sums: BillSums = field(default_factory=BillSums)
    sha1: str = ""
    unpacked_bytes: int = 0


_DECIMAL = re.compile(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,10}))?")


def exact(text: str, decimals: int) -> int:
    """Read a decimal number as an integer of 10**-decimals, exactly: ("-12.3", 2) -> -1230.

    Raises:
        BillRefused: not a plain decimal number, or more decimals than that other than zeros.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise BillRefused(f"not a number: {text[:40]!r}")
    sign, whole, fraction = match.groups()
    fraction = (fraction or "").ljust(decimals, "0")
    if fraction[decimals:].strip("0"):
        raise BillRefused(f"more than {decimals} decimals: {text[:40]!r}")
    value = int(whole + fraction[:decimals])
    return -value if sign else value


# Amounts repeat a lot within a bill (fees, fixed prices), so a small cache spares most of the reading.
@lru_cache(maxsize=8192)
def fen(text: str) -> int:
    """Read yuan as fen, exactly; blank is nothing. Raises BillRefused."""
    return exact(text, 2) if text else 0


@lru_cache(maxsize=8192)
def millifen(text: str) -> int:
    """Read yuan with up to five decimals as thousandths of a fen; blank is nothing. Raises BillRefused."""
    return exact(text, 5) if text else 0


# China has had no daylight saving since 1991, so the offset is fixed, and cheaper than a zone a million times.
_CHINA = timedelta(hours=8)


def china_moment(text: str) -> datetime:
    """Read a China time without zone (`2026-11-01 09:30:00`) as an aware UTC moment. Raises BillRefused."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) - _CHINA
    except (ValueError, OverflowError) as error:
        raise BillRefused(f"not a time: {text[:40]!r}") from error
