"""What finance staff book by hand: payouts to agencies and corrections. Each is one fact with a number that a person gives.

Given twice, or by two people at once, a number books once; with another content it is refused. Nothing else of the ledger is ever
changed by hand: a mistake is mended by a further entry.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo import ASCENDING
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import BulkWriteError, DuplicateKeyError

from app.kernel.audit import record
from app.storage.mongo import Database
from payments.ledger.entries import OVERPAID, Entry, agency_account, entry_lines, fee_account, provider_account, suspense_account
from payments.ledger.store import FactBookedDifferently, append, balances_in

# No colon: the hall's own corrections are `correction:<finding>`, and findings have colons in their ids.
NUMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{2,59}")


class BookingRefused(Exception):
    """Not booked; `args[0]` says why, for the operator."""


def correctable_accounts(providers: Sequence[str], agencies: Sequence[str]) -> set[str]:
    """Return what a correction may touch: not what is on its way back, which only refunds move."""
    own = {account(name) for name in providers for account in (provider_account, fee_account, suspense_account)}
    return own | {agency_account(agency) for agency in agencies} | {OVERPAID}


async def pay_out(
    database: Database, *, agency_id: str, provider: str, amount_fen: int, reference: str, by: str, now: datetime
) -> bool:
    """Book that an agency got its money from what lies at a provider; False when this reference is booked already.

    Payouts wait for each other, so however many run at once they never come to more than is owed or lies there. A refund that is granted
    at the same moment can leave the agency owing: its balance then says so, and the next payout is the smaller.

    Args:
        reference: of the bank transfer, unique.
        by: account of who says so, for the audit.

    Raises:
        BookingRefused: more than is owed to the agency, or than lies at the provider; a bad reference or amount.
        FactBookedDifferently: the reference is booked with another agency, provider or amount.
    """
    if not NUMBER.fullmatch(reference) or amount_fen < 1:
        raise BookingRefused("a reference of 3 to 60 letters, digits, _ . - and an amount above 0")
    entry = Entry(
        fact=f"payout:{reference}",
        at=now,
        lines=entry_lines((agency_account(agency_id), amount_fen), (provider_account(provider), -amount_fen)),
        provider=provider,
        agency_id=agency_id,
        memo=f"paid out by {by}",
    )

    async def check(session: AsyncClientSession) -> None:
        # Written first: of two payouts at once one fails here and starts again on the balances that the other has left.
        await database["ledger_locks"].update_one({"_id": "payouts"}, {"$set": {"at": now}, "$inc": {"count": 1}}, upsert=True, session=session)
        found = await balances_in(database, session)
        owed_fen = -found.get(agency_account(agency_id), 0)
        there_fen = found.get(provider_account(provider), 0)
        if amount_fen > owed_fen:
            raise BookingRefused(f"{agency_id} is owed {owed_fen} fen, not {amount_fen}")
        if amount_fen > there_fen:
            raise BookingRefused(f"{there_fen} fen lie at {provider}, not {amount_fen}")

    return await _book_once(database, entry, "ledger.pay_out", [by], "", check)


async def correct(
    database: Database,
    *,
    number: str,
    lines: Sequence[tuple[str, int]],
    reason: str,
    by: str,
    agreed_by: str,
    accounts: set[str],
    now: datetime,
    provider: str = "",
) -> bool:
    """Book a correction that two people stand for; False when this number is booked already.

    Args:
        number: the operator's own, of the paper that explains it.
        lines: (account, fen), positive is debit; they sum to zero.
        accounts: what may be touched, see `correctable_accounts`.

    Raises:
        BookingRefused: not balanced, another account, no reason, one person only.
        FactBookedDifferently: the number is booked with other lines.
    """
    if not NUMBER.fullmatch(number):
        raise BookingRefused("a number of 3 to 60 letters, digits, _ . -")
    if not reason.strip():
        raise BookingRefused("a reason is needed")
    if by == agreed_by:
        raise BookingRefused("two people stand for a correction")
    unknown = sorted({account for account, _ in lines} - accounts)
    if unknown:
        raise BookingRefused(f"no correction of {', '.join(unknown)}")
    merged = entry_lines(*lines)
    if len(merged) < 2 or sum(line.amount_fen for line in merged) != 0:
        raise BookingRefused("the lines do not sum to zero")
    entry = Entry(
        fact=f"correction:{number}",
        at=now,
        lines=tuple(sorted(merged, key=lambda line: line.account)),
        provider=provider,
        memo=f"{reason.strip()} ({by}, {agreed_by})",
    )
    return await _book_once(database, entry, "ledger.correct", [by, agreed_by], reason.strip())


async def _book_once(
    database: Database,
    entry: Entry,
    action: str,
    actors: Sequence[str],
    purpose: str,
    check: Callable[[AsyncClientSession], Awaitable[None]] | None = None,
) -> bool:
    async def work(session: AsyncClientSession) -> bool:
        known = await database["ledger_entries"].find_one({"fact": entry.fact}, session=session)
        if known is not None:
            if not Entry.from_document(known).says_the_same(entry):
                raise FactBookedDifferently(entry.fact)
            return False
        if check is not None:
            await check(session)
        await append(database, session, [entry])
        for actor in actors:
            await record(
                database["audit"], actor=actor, action=action, subject=entry.fact, owner_id="", purpose=purpose, session=session
            )
        return True

    for _ in range(3):
        try:
            return await database.transaction(work)
        except (BulkWriteError, DuplicateKeyError):  # the same number, booked by somebody else a moment ago: look at it
            continue
    raise FactBookedDifferently(entry.fact)


_RETURNED = ("refund_reserved", "refund_released", "refund")


async def owed_by_provider(database: Database, agency_id: str) -> dict[str, dict[str, int]]:
    """Return what an agency got and is owed, by provider, in fen: provider -> {received, returned, paid_out, corrected, owed}.

    Read from the entries themselves, sealed or not; over all providers `owed` is the (negated) balance of the agency's account.
    """
    account = agency_account(agency_id)
    pipeline: list[Mapping[str, Any]] = [
        {"$match": {"lines.account": account}},
        {"$unwind": "$lines"},
        {"$match": {"lines.account": account}},
        {
            "$group": {
                "_id": {"provider": "$provider", "fact": {"$first": {"$split": ["$fact", ":"]}}},
                "fen": {"$sum": "$lines.amount_fen"},
            }
        },
        {"$sort": {"_id.provider": ASCENDING}},
    ]
    found: dict[str, dict[str, int]] = {}
    async for row in await database["ledger_entries"].aggregate(pipeline):
        fact = row["_id"]["fact"]
        name = "received" if fact == "settled" else "returned" if fact in _RETURNED else "paid_out" if fact == "payout" else "corrected"
        sums = found.setdefault(row["_id"]["provider"], dict.fromkeys(("received", "returned", "paid_out", "corrected", "owed"), 0))
        # The account is one of debts, so credits are negative there.
        sums[name] += row["fen"] if name in ("returned", "paid_out") else -row["fen"]
        sums["owed"] -= row["fen"]
    return found
