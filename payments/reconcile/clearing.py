"""What becomes of a difference: settled by asking the provider where that is safe, else kept for staff with its amount in suspense.

Asking changes our books only through the same functions that notices and queries go through (settling.apply_report and its like for
refunds), so nothing is booked from a bill. Every step may be done twice: findings are unique, and so are the facts of the ledger.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog

from app.kernel.clock import shanghai_day
from app.storage.mongo import Database
from payments.asking import Asking
from payments.bill import BillKind
from payments.ledger import store as ledger
from payments.ledger.entries import Entry as LedgerEntry
from payments.ledger.entries import entry_lines, provider_account, suspense_account
from payments.provider import PaymentProvider, PaymentState, ProviderError
from payments.reconcile import metrics
from payments.reconcile.matching import Finding, FindingState, Kind, compare, is_near_midnight
from payments.reconcile.store import ReconcileStore
from payments.reconcile.workbook import Entry
from payments.refund_following import RefundFollowing
from payments.store import OrderStore

log = structlog.get_logger(__name__)

_UNSETTLED = (FindingState.WAITING, FindingState.OPEN)


class Clearing:
    def __init__(
        self,
        database: Database,
        store: ReconcileStore,
        orders: OrderStore,
        providers: Mapping[str, PaymentProvider],
        asking: Asking,
        following: RefundFollowing,
    ) -> None:
        self._database = database
        self._store = store
        self._orders = orders
        self._providers = providers
        self._asking = asking
        self._following = following

    async def take(self, finding: Finding, now: datetime, *, may_ask: bool, generation: int = 0) -> FindingState:
        """Settle a new difference by asking, or keep it; return what it is now. Doing it again changes nothing.

        Args:
            generation: of the run; what a later generation does not find any more is withdrawn.
        """
        known = await self._store.finding(finding.id)
        if known is not None:
            await self._store.saw(finding.id, generation)
            if _says_otherwise(known, finding):
                known = await self._revise(known, finding, now)
            elif known["state"] == FindingState.SETTLED:
                return FindingState.SETTLED
        how, said = await self._ask(finding, now) if may_ask else ("", "")
        if how:
            if known is None:
                await self._store.add(finding, FindingState.SETTLED, now, how=how, said=said, settled_at=now, seen_in=generation)
                self._count(finding)
            else:
                await self._settle(known, now, how, said)
            return FindingState.SETTLED
        waits = finding.kind is Kind.OURS_ONLY and is_near_midnight(finding.at)
        state = FindingState.WAITING if waits else FindingState.OPEN
        if await self._store.add(finding, state, now, said=said, seen_in=generation):
            self._count(finding)
        elif known is not None:
            state = FindingState(known["state"])
            if state is FindingState.WAITING and not waits:
                await self._store.change(known, [FindingState.WAITING], FindingState.OPEN, said=said)
                state = FindingState.OPEN
        if state is FindingState.OPEN:
            await self._post_suspense(finding, now, (known or {}).get("revision", 0))
        return state

    async def withdraw(self, row: Mapping[str, Any], now: datetime) -> None:
        """Settle a difference that the corrected bill of its day no longer shows."""
        await self._settle(row, now, "withdrawn", "")

    async def _revise(self, known: Mapping[str, Any], finding: Finding, now: datetime) -> Mapping[str, Any] | None:
        """Take a finding as the corrected bill shows it; what was in suspense for it as it was goes back first."""
        if known["state"] == FindingState.OPEN:
            before = Finding.from_document(known)
            await self._post(before, _fact("correction", before, known.get("revision", 0)), -before.suspense_fen, now)
        log.warning("reconcile.revised", finding=finding.id)
        return await self._store.revise(known, finding) or await self._store.finding(finding.id)

    async def look_again(self, row: Mapping[str, Any], entry: Entry | None, now: datetime) -> None:
        """Look again at an unsettled difference of an earlier day.

        Args:
            entry: the same number in the bill of the day after, if it is there.
        """
        finding = Finding.from_document(row)
        if finding.kind is Kind.OURS_ONLY and entry is not None and entry.amount_fen == finding.ours_fen:
            await self._settle(row, now, "next_bill", "")
            return
        how, said = await self._ask(finding, now)
        if how:
            await self._settle(row, now, how, said)
        elif row["state"] == FindingState.WAITING:
            await self._store.change(row, [FindingState.WAITING], FindingState.OPEN, said=said)
            await self._post_suspense(finding, now, row.get("revision", 0))

    async def settle_by_hand(self, row: Mapping[str, Any], account: str, note: str, now: datetime) -> bool:
        """Settle a difference by the word of a person; what was in suspense for it goes back. False: it has changed meanwhile."""
        return await self._settle(row, now, "staff", note, settled_by=account)

    # --- asking ---

    async def _ask(self, finding: Finding, now: datetime) -> tuple[str, str]:
        """Ask the provider; return (how that settles the finding, "" when it does not; what it said)."""
        if not finding.order_id:
            return ("found" if await self._is_known_now(finding) else ""), ""
        if finding.provider not in self._providers:
            return "", ""
        if finding.subject is BillKind.PAYMENT:
            said, paid_on_other_day = await self._ask_payment(finding, now)
            ours = (await self._store.payments([finding.number])).get(finding.number)
        else:
            said, paid_on_other_day = await self._ask_refund(finding, now), False
            ours = (await self._store.refunds([finding.number])).get(finding.number)
        if not said:
            return "", ""
        if finding.kind is Kind.OURS_ONLY:
            return ("other_day" if paid_on_other_day else ""), said
        if finding.detail == "day":
            # Provider and we agree on amount and payment; only our own note of the time is off.
            return ("query" if said == "paid" and ours is not None and ours.is_booked else ""), said
        fits = ours is not None and compare(finding.provider, finding.day, _as_entry(finding), ours) is None
        return ("query" if fits else ""), said

    async def _is_known_now(self, finding: Finding) -> bool:
        """Say whether a number that was unknown is in our books by now, and agrees: after a restore it may come back."""
        find = self._store.payments if finding.subject is BillKind.PAYMENT else self._store.refunds
        ours = (await find([finding.number])).get(finding.number)
        return ours is not None and compare(finding.provider, finding.day, _as_entry(finding), ours) is None

    async def _ask_payment(self, finding: Finding, now: datetime) -> tuple[str, bool]:
        order = await self._orders.load(finding.order_id)
        attempt = order.attempt(finding.number) if order else None
        if order is None or attempt is None:
            return "", False
        _, report = await self._asking.ask(order, attempt, now)
        if report is None:
            return "", False
        other_day = (
            report.state is PaymentState.PAID
            and report.amount_fen == attempt.amount_fen
            and report.paid_at is not None
            and shanghai_day(report.paid_at) != finding.day
        )
        return str(report.state), other_day

    async def _ask_refund(self, finding: Finding, now: datetime) -> str:
        order = await self._orders.load(finding.order_id)
        refund = order.refund(finding.number) if order else None
        # Before it was sent nobody has heard of it, whatever a bill says: a person looks.
        if refund is None or not refund.request:
            return ""
        try:
            report = await self._providers[finding.provider].query_refund(refund)
        except ProviderError as error:
            log.warning("reconcile.refund_query_unclear", refund_id=finding.number, cause=str(error))
            return ""
        await self._following.apply_report(report, "query", now)
        return str(report.state)

    # --- the ledger ---

    async def _post_suspense(self, finding: Finding, now: datetime, revision: int) -> None:
        await self._post(finding, _fact("suspense", finding, revision), finding.suspense_fen, now)

    async def _settle(self, row: Mapping[str, Any], now: datetime, how: str, said: str, **more: Any) -> bool:
        finding = Finding.from_document(row)
        if row["state"] == FindingState.OPEN:
            await self._post(finding, _fact("correction", finding, row.get("revision", 0)), -finding.suspense_fen, now)
        if not await self._store.change(row, _UNSETTLED, FindingState.SETTLED, how=how, said=said, settled_at=now, **more):
            return False
        log.info("reconcile.settled", finding=finding.id, how=how)
        return True

    async def _post(self, finding: Finding, fact: str, fen: int, now: datetime) -> None:
        if fen == 0:
            return
        entry = LedgerEntry(
            fact=fact,
            at=now,
            lines=entry_lines((provider_account(finding.provider), fen), (suspense_account(finding.provider), -fen)),
            order_id=finding.order_id,
            provider=finding.provider,
            agency_id=finding.agency_id,
            memo=f"reconciliation of {finding.day}: {finding.kind}",
        )
        try:
            await ledger.post(self._database, entry)
        except ledger.FactBookedDifferently:
            # A second look at the same day came to another amount: what was booked stands, and a person sees both.
            log.error("reconcile.booked_differently", fact=fact)

    def _count(self, finding: Finding) -> None:
        metrics.findings.labels(finding.provider, str(finding.kind)).inc()
        log.warning("reconcile.finding", finding=finding.id, detail=finding.detail)


def _says_otherwise(known: Mapping[str, Any], finding: Finding) -> bool:
    """Say whether a difference that is known is another one now, or is back after it had been withdrawn."""
    if known["state"] == FindingState.SETTLED and known.get("how") == "withdrawn":
        return True
    return (known.get("ours_fen"), known.get("theirs_fen")) != (finding.ours_fen, finding.theirs_fen)


def _fact(kind: str, finding: Finding, revision: int) -> str:
    """Return the fact of a finding in the ledger; each time it is revised it goes into suspense, and out of it, anew."""
    return f"{kind}:{finding.id}" + (f"#{revision}" if revision else "")


def _as_entry(finding: Finding) -> Entry:
    assert finding.at is not None
    return Entry(
        kind=str(finding.subject),
        number=finding.number,
        out_trade_no=finding.out_trade_no,
        provider_trade_no=finding.provider_trade_no,
        amount_fen=finding.theirs_fen or 0,
        booked_s=int(finding.at.timestamp()),
        state=finding.theirs_state,
        title=finding.title,
        times=1,
    )


