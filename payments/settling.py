"""What a provider says, applied: one function for notices and queries, exactly once however often and in whatever order they come.

The rule for money that comes for a closed order (the close lost its race, or the notice was very late): the attempt is booked as paid
in any case. The order itself becomes paid only when everything it was for is still owed by the same resident, at the same price, and
no other order holds it; otherwise it stays closed, the money is flagged by `order.overpaid`, and goes back by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog
from pymongo.errors import ConnectionFailure

from app.kernel.errors import HallError
from app.kernel.events import Event, new_event
from app.storage.gather import Gather
from payments import holding, metrics, refunding
from payments.ledger import booking
from payments.model import Attempt, AttemptState, Order, Verdict, event_data, judge, mismatches
from payments.provider import PaymentReport, PaymentState
from payments.receipts import known_receipt, new_receipts
from payments.sources import PayableSource
from payments.store import Change, OrderStore, PayableTaken

log = structlog.get_logger(__name__)


class UnknownNumber(Exception):
    """A report about an attempt we do not have; after a restore from backup this is the first sign."""


@dataclass(frozen=True)
class _Stored:
    """A notice that is stored, on its way into a batch; `context` is its request's, whose id its events and log lines carry."""

    record_id: str
    report: PaymentReport
    now: datetime
    context: Context


_Done = tuple[Verdict, Order, Attempt]

# What may be written for many orders at once: one order each, nothing asked of a source, no lock, nobody to be refused.
_TOGETHER = frozenset({Verdict.SETTLE, Verdict.CLOSE_ATTEMPT, Verdict.SEEN})


class Settling:
    def __init__(self, store: OrderStore, sources: Mapping[str, PayableSource]) -> None:
        self._store = store
        self._sources = sources
        # One is judged and sent while the other commits.
        self._together: Gather[_Stored, _Done | None] = Gather(self._apply_together, at_most=32, in_flight=3)

    async def apply_report(
        self, report: PaymentReport, source: str, now: datetime, *, winding_up: bool = False
    ) -> Order:
        """Apply a verified report and return the order as it is afterwards.

        Args:
            source: `notice`, `query` or `close`; for metrics and log only, all are believed alike.
            winding_up: see model.judge.

        Raises:
            UnknownNumber: no attempt has this number, or a notice of another merchant or application uses it; nothing was changed.
            PyMongoError: not stored, and so not applied.
        """
        order = await self._store.load_of_attempt(report.out_trade_no)
        attempt = order.attempt(report.out_trade_no) if order else None
        if order is None or attempt is None:
            metrics.unknown_numbers.labels(report.provider).inc()
            log.error("payment.unknown_number", provider=report.provider, out_trade_no=report.out_trade_no, source=source)
            raise UnknownNumber(report.out_trade_no)
        # The usual case, a repetition, is answered without a transaction.
        verdict = judge(order, attempt, report, now, winding_up=winding_up)
        if verdict is Verdict.NOTHING:
            return order
        if verdict is Verdict.FOREIGN:
            what = mismatches(attempt, report)
            for name in what:
                metrics.held.labels(report.provider, name).inc()
            log.error("payment.foreign", provider=report.provider, out_trade_no=report.out_trade_no, source=source, differs=what)
            if source == "notice":
                raise UnknownNumber(report.out_trade_no)
            return order
        may_settle_late = verdict is Verdict.SETTLE_LATE and await self._is_still_owed(order)
        try:
            return await self._apply(order.id, report, source, now, winding_up, may_settle_late)
        except PayableTaken:
            return await self._apply(order.id, report, source, now, winding_up, may_settle_late=False)

    async def apply_stored(self, record_id: str, report: PaymentReport, now: datetime) -> bool:
        """Apply the report of a stored notice together with whatever else comes at the same time, and mark the notice as applied.

        Guarantee: everything of one batch, the marks included, is one transaction. Of the members each is judged by itself, on its order
        as it is in that transaction; one that is no plain case, or cannot be applied, leaves the batch without a trace. When the batch
        cannot be written, nothing of it is, and every member goes on alone; so none depends on what the others are.

        Returns:
            False: nothing was changed; it is for `apply_report`.

        Raises:
            PyMongoError: no word from the database, so perhaps not applied.
        """
        done = await self._together.add(_Stored(record_id, report, now, copy_context()))
        if done is None:
            return False
        verdict, order, attempt = done
        if verdict is not Verdict.NOTHING:
            _count(verdict, order, attempt, report, "notice")
        return True

    async def _apply_together(self, batch: list[_Stored]) -> Sequence[_Done | None]:
        answers: list[_Done | None] = []

        def decide(found: Mapping[str, Order]) -> tuple[Sequence[Change], Sequence[str]]:
            answers[:] = [None] * len(batch)  # a transaction may run more than once
            orders = dict(found)
            changes: dict[str, Change] = {}
            applied: list[str] = []
            for place, stored in enumerate(batch):
                number = stored.report.out_trade_no
                order = orders.get(number)
                attempt = order.attempt(number) if order else None
                if order is None or attempt is None:
                    continue
                try:
                    verdict = judge(order, attempt, stored.report, stored.now)
                    if verdict in _TOGETHER and order.id not in changes:
                        change = stored.context.run(_change_of, verdict, order, attempt, stored.report, stored.now)
                        changes[order.id] = change
                        # The next notice of this order finds it as it is now; a second change of it is for the next transaction.
                        orders |= {each.id: change.order for each in change.order.attempts}
                        order = change.order
                    elif verdict is not Verdict.NOTHING or attempt.state is AttemptState.HELD:
                        continue
                except Exception as error:  # alone it raises again, for its caller
                    log.warning("payment.left_batch", order_id=order.id, error=type(error).__name__)
                    continue
                answers[place] = (verdict, order, attempt)
                applied.append(stored.record_id)
            return list(changes.values()), applied

        try:
            await self._store.change_together([stored.report.out_trade_no for stored in batch], decide)
        except ConnectionFailure:
            raise
        except Exception as error:  # one of them, and which one shows when each goes alone
            log.warning("payment.batch_fell_apart", count=len(batch), error=type(error).__name__)
            return [None] * len(batch)
        return answers

    async def _apply(
        self, order_id: str, report: PaymentReport, source: str, now: datetime, winding_up: bool, may_settle_late: bool
    ) -> Order:
        done: list[tuple[Verdict, Attempt]] = []

        def decide(order: Order) -> Change | None:
            done.clear()  # a transaction may run more than once
            attempt = order.attempt(report.out_trade_no)
            if attempt is None:
                raise UnknownNumber(report.out_trade_no)
            verdict = judge(order, attempt, report, now, winding_up=winding_up)
            if verdict in (Verdict.NOTHING, Verdict.FOREIGN):
                return None
            if verdict is Verdict.SETTLE_LATE and not may_settle_late:
                verdict = Verdict.OVERPAID
            done.append((verdict, attempt))
            return _change_of(verdict, order, attempt, report, now)

        order = await self._store.change(order_id, decide)
        for verdict, attempt in done:
            _count(verdict, order, attempt, report, source)
        return order

    async def _is_still_owed(self, order: Order) -> bool:
        """Say whether everything a closed order was for is owed by its owner today, at the price of then."""
        for payable in order.payables:
            try:
                quote = await self._sources[payable.kind].quote(payable.id, order.owner_id)
            except (HallError, KeyError):
                return False
            if sum(line.amount_fen for line in quote.lines) != payable.amount_fen:
                return False
        return True


# --- verdict -> change: pure ---


def _change_of(verdict: Verdict, order: Order, attempt: Attempt, report: PaymentReport, now: datetime) -> Change:
    """Return what a verdict leads to; the only way to it, for one order by itself and for many at once."""
    change = _CHANGES[verdict](order, attempt, report, now)
    return holding.let_go(change, attempt, now) if attempt.state is AttemptState.HELD else change


def _paid(attempt: Attempt, report: PaymentReport, now: datetime, **more: Any) -> Attempt:
    return attempt.move(
        "pay", provider_trade_no=report.provider_trade_no, paid_at=report.paid_at or now, held_for=(), **more
    )


def _settle(order: Order, attempt: Attempt, report: PaymentReport, now: datetime, name: str = "settle") -> Change:
    receipts = new_receipts(order, now)
    paid = _paid(attempt, report, now)
    # Other attempts that are still payable must be closed at their providers, now rather than at the deadline.
    attempts = tuple(
        paid if each.id == paid.id else replace(each, superseded=True) if each.is_open else each for each in order.attempts
    )
    settled = order.move(
        name,
        attempts=attempts,
        paid_at=report.paid_at or now,
        receipts=tuple(known_receipt(row) for row in receipts),
        next_ask_at=now if any(each.is_open for each in attempts) else None,
    )
    return Change(
        settled,
        events=(order_event("order.paid", settled, now, paid),),
        take_locks=name == "settle_late",
        receipts=receipts,
        entries=(booking.settled(settled, attempt, now),),
    )


def _settle_late(order: Order, attempt: Attempt, report: PaymentReport, now: datetime) -> Change:
    return _settle(order, attempt, report, now, "settle_late")


def _overpaid(order: Order, attempt: Attempt, report: PaymentReport, now: datetime) -> Change:
    booked = order.with_attempt(_paid(attempt, report, now, is_overpaid=True))
    event = order_event("order.overpaid", booked, now, booked.attempt(attempt.id), overpaid_fen=report.amount_fen)
    # It goes back by itself: granted in the same transaction, sent by the worker within seconds.
    giving_back = refunding.granted(booked, refunding.overpaid_refund(booked, attempt, now), now)
    return replace(
        giving_back,
        events=(event, *giving_back.events),
        entries=(booking.overpaid(booked, attempt, now), *giving_back.entries),
    )


def _hold(order: Order, attempt: Attempt, report: PaymentReport, now: datetime) -> Change:
    what = mismatches(attempt, report)
    # What came is kept beside what was asked for, and is in suspense: it lies at the provider, and is nobody's yet.
    attempt = attempt.move(
        "hold",
        held_for=what,
        provider_trade_no=report.provider_trade_no,
        reported_fen=report.amount_fen,
        suspended_fen=holding.suspended_fen(what, report),
        # The day it is in the provider's bill, however late somebody decides about it.
        paid_at=report.paid_at,
    )
    held = order.with_attempt(attempt)
    event = order_event(
        "order.payment_held", held, now, attempt, differs=list(what), reported_fen=report.amount_fen
    )
    return Change(held, events=(event,), entries=(booking.held(held, attempt, now),) if attempt.suspended_fen else ())


def _close_attempt(order: Order, attempt: Attempt, report: PaymentReport, now: datetime) -> Change:
    return Change(order.with_attempt(attempt.move("close")))


def _seen(order: Order, attempt: Attempt, report: PaymentReport, now: datetime) -> Change:
    return Change(order.with_attempt(attempt.move("wait", provider_trade_no=report.provider_trade_no)))


_CHANGES: Mapping[Verdict, Callable[[Order, Attempt, PaymentReport, datetime], Change]] = {
    Verdict.SETTLE: _settle,
    Verdict.SETTLE_LATE: _settle_late,
    Verdict.OVERPAID: _overpaid,
    Verdict.HOLD: _hold,
    Verdict.CLOSE_ATTEMPT: _close_attempt,
    Verdict.SEEN: _seen,
}


def order_event(name: str, order: Order, now: datetime, attempt: Attempt | None = None, **more: Any) -> Event:
    """Return an event of an order."""
    return new_event(
        name, subject=("order", order.id), owner_id=order.owner_id, data=event_data(order, attempt, **more), at=now
    )


def _count(verdict: Verdict, order: Order, attempt: Attempt, report: PaymentReport, source: str) -> None:
    told = {"order_id": order.id, "attempt_id": attempt.id, "provider": report.provider, "source": source}
    if verdict in (Verdict.SETTLE, Verdict.SETTLE_LATE):
        metrics.settled.labels(report.provider, source).inc()
        log.info("payment.settled", **told, late=verdict is Verdict.SETTLE_LATE)
    elif verdict is Verdict.OVERPAID:
        metrics.overpaid.labels(report.provider).inc()
        log.error("payment.overpaid", **told, amount_fen=report.amount_fen)
    elif verdict is Verdict.HOLD:
        what = mismatches(attempt, report)
        for name in what:
            metrics.held.labels(report.provider, name).inc()
        log.error("payment.held", **told, differs=what)
    elif report.state is not PaymentState.PENDING:
        log.info("payment.attempt_closed", **told)
