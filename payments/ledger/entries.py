"""Journal entries of the ledger: what one is, the accounts, and its canonical bytes. Pure.

An entry is one business fact in double entry: its lines sum to zero. Positive is debit (money there, or no longer owed), negative is
credit (money gone from there, or owed). It is written once and never changed; a mistake is mended by a further entry (`correction:`).

| account | what its balance says |
| --- | --- |
| `provider:<name>` | money of ours that lies at a provider (positive) |
| `agency:<id>` | owed to an agency for what residents paid, and not paid out to it yet (negative) |
| `overpaid` | owed back to residents who paid too much (negative) |
| `refund_out` | on its way back to residents, not confirmed yet (negative) |
| `fee:<provider>` | kept by a provider for its work (positive) |
| `suspense:<provider>` | differences nobody has explained yet; zero when the books are clear |
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from app.kernel.ids import new_id

OVERPAID = "overpaid"
REFUND_OUT = "refund_out"


def provider_account(name: str) -> str:
    return f"provider:{name}"


def agency_account(agency_id: str) -> str:
    return f"agency:{agency_id}"


def fee_account(provider: str) -> str:
    return f"fee:{provider}"


def suspense_account(provider: str) -> str:
    return f"suspense:{provider}"


class Unbalanced(ValueError):
    """A bug: an entry whose lines do not sum to zero, or that has none."""


@dataclass(frozen=True)
class EntryLine:
    account: str
    amount_fen: int


@dataclass(frozen=True)
class Entry:
    """One business fact.

    Attributes:
        fact: unique: `settled:<attempt>`, `overpaid:<attempt>`, `held:<attempt>`, `held_released:<attempt>`,
            `refund_reserved:<refund>`, `refund:<refund>`, `refund_released:<refund>`, `fee:...`, `payout:<reference>`,
            `suspense:<finding>`, `correction:<finding or number>`.
        at: when it was booked, aware UTC.
        order_id, provider, agency_id: for finding it; empty where they mean nothing.
        memo: one line for the accountant, without personal data.

    Raises:
        Unbalanced.
    """

    fact: str
    at: datetime
    lines: tuple[EntryLine, ...]
    order_id: str = ""
    provider: str = ""
    agency_id: str = ""
    memo: str = ""
    id: str = field(default_factory=lambda: new_id("led"))

    def __post_init__(self) -> None:
        if len(self.lines) < 2 or sum(line.amount_fen for line in self.lines) != 0:
            raise Unbalanced(self.fact)

    def says_the_same(self, other: "Entry") -> bool:
        """Say whether both book the same fact with the same lines, whenever and under whatever id."""
        return (self.fact, self.lines, self.order_id) == (other.fact, other.lines, other.order_id)

    def to_document(self) -> dict[str, Any]:
        return {
            "_id": self.id,
            "fact": self.fact,
            "at": self.at,
            "lines": [{"account": line.account, "amount_fen": line.amount_fen} for line in self.lines],
            "order_id": self.order_id,
            "provider": self.provider,
            "agency_id": self.agency_id,
            "memo": self.memo,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Entry":
        """Raises Unbalanced: the stored entry was tampered with."""
        return cls(
            id=document["_id"],
            lines=tuple(EntryLine(line["account"], line["amount_fen"]) for line in document["lines"]),
            **{name: document[name] for name in ("fact", "at", "order_id", "provider", "agency_id", "memo")},
        )


def entry_lines(*pairs: tuple[str, int]) -> tuple[EntryLine, ...]:
    """Return lines of (account, fen); those of one account become one, zero ones are dropped."""
    return tuple(EntryLine(account, fen) for account, fen in added({}, pairs).items())


def added(balances: Mapping[str, int], pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return balances after further (account, fen); accounts at zero are left out, so that equal books have equal bytes."""
    result = dict(balances)
    for account, fen in pairs:
        result[account] = result.get(account, 0) + fen
        if result[account] == 0:
            del result[account]
    return result


def pairs_of(entries: Iterable[Entry]) -> Iterable[tuple[str, int]]:
    return ((line.account, line.amount_fen) for entry in entries for line in entry.lines)


# --- the hash chain ---

GENESIS = "0" * 64


def entry_hash(entry: Entry) -> bytes:
    """Return the SHA-256 of an entry's canonical bytes: JSON with sorted keys, the time in UTC to the millisecond."""
    document = entry.to_document() | {"at": entry.at.astimezone(UTC).isoformat(timespec="milliseconds")}
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).digest()


def hash_of_entries(entries: Sequence[Entry]) -> str:
    """Return the hash over the hashes of a block's entries, in their order."""
    return hashlib.sha256(b"".join(entry_hash(entry) for entry in entries)).hexdigest()


def block_hash(seq: int, prev_hash: str, entries_hash: str, balances: Mapping[str, int]) -> str:
    """Return the hash of a block: it stands for every entry and balance up to here."""
    return hashlib.sha256(
        orjson.dumps([seq, prev_hash, entries_hash, dict(balances)], option=orjson.OPT_SORT_KEYS)
    ).hexdigest()
