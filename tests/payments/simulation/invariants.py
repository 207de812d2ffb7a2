"""What must hold, whatever happened: along the way for attempts, at the end of a run for every fen.

Each check yields sentences; none means that it holds. They read the database and the stand-ins' own books directly, never through the
code under test.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from app.checks.reports import report_id_of
from payments.ledger.verify import verify
from payments.model import Attempt, AttemptState, Order, OrderState
from payments.reconcile.matching import Finding
from payments.refund import RefundState
from sandbox import refunds as provider_refunds
from sandbox.store import Trade
from tests.payments.simulation.plan import PROVIDERS
from tests.payments.simulation.world import World

UNEXPLAINED_AFTER = timedelta(minutes=10)
_SETTLED = (OrderState.PAID, OrderState.REFUNDING, OrderState.REFUNDED, OrderState.PARTLY_REFUNDED)
_RESTING = (RefundState.SUCCEEDED, RefundState.CLOSED, RefundState.REJECTED, RefundState.ABNORMAL, RefundState.REQUESTED)


async def load_orders(world: World) -> list[Order]:
    return [Order.from_document(row) async for row in world.database["orders"].find({})]


def unexplained(orders: Iterable[Order], now: datetime) -> list[str]:
    """Attempts whose fate nobody knows although their time is over by more than ten minutes."""
    return [
        f"attempt {attempt.id} of order {order.id} is {attempt.state} {now - attempt.expires_at} after its end"
        for order in orders
        for attempt in order.open_attempts
        if now - attempt.expires_at > UNEXPLAINED_AFTER
    ]


async def broken(world: World) -> list[str]:
    """Return everything that does not hold at the end of a run."""
    orders = await load_orders(world)
    trades = world.sandbox.sandbox.store.trades()
    findings = [row async for row in world.database["findings"].find({})]
    problems = [*world.broken, *unexplained(orders, world.clock.peek())]
    problems += orders_final(orders)
    problems += _every_payment_is_ours(orders, trades, findings)
    problems += _never_more_back(world, orders, trades)
    problems += _nobody_paid_twice(orders)
    problems += [problem async for problem in _ledger(world, orders, trades, findings)]
    problems += [problem async for problem in _events(world, orders)]
    problems += [problem async for problem in _receipts(world, orders)]
    problems += [problem async for problem in _locks(world, orders)]
    problems += [problem async for problem in _departments(world, orders)]
    return problems


def is_settled(order: Order) -> bool:
    return order.state in _SETTLED


# --- orders and attempts ---


def orders_final(orders: Sequence[Order]) -> Iterable[str]:
    for order in orders:
        if not order.is_final and not order.is_held:
            yield f"order {order.id} is still {order.state}"
        for refund in order.refunds:
            if refund.state not in _RESTING:
                yield f"refund {refund.id} of order {order.id} is still {refund.state}"


def _every_payment_is_ours(orders: Sequence[Order], trades: Sequence[Trade], findings: Sequence[Any]) -> Iterable[str]:
    """Every payment at a provider is booked on one attempt, or held, or a listed difference; and every booked one is there."""
    attempts: dict[tuple[str, str], Attempt] = {}
    for order in orders:
        for attempt in order.attempts:
            if (attempt.provider, attempt.id) in attempts:
                yield f"attempt {attempt.id} is there twice"
            attempts[(attempt.provider, attempt.id)] = attempt
    listed = {(row["provider"], row["number"]) for row in findings if row["state"] == "open"}
    paid = {(trade.provider, trade.out_trade_no): trade for trade in trades if trade.paid_at}
    for key, trade in paid.items():
        found = attempts.get(key)
        if found is not None and found.state is AttemptState.PAID:
            if found.paid_fen != trade.reported_fen:
                yield f"{key} is booked with {found.paid_fen} fen and was paid with {trade.reported_fen}"
        elif found is not None and found.state is AttemptState.HELD:
            if found.reported_fen != trade.reported_fen:
                yield f"{key} is held with {found.reported_fen} fen and was paid with {trade.reported_fen}"
        elif found is not None and found.state is AttemptState.RETURNED:
            # By the word of a person: both the payment and what went back of it are listed until somebody has seen the bill.
            if key not in listed:
                yield f"{key} was paid, is called returned and listed nowhere"
        elif key not in listed:
            yield f"{key} was paid with {trade.reported_fen} fen, is {found.state if found else 'unknown'} here and listed nowhere"
        elif found is not None:
            yield f"{key} was paid and is {found.state} here"
    for key, attempt in attempts.items():
        if attempt.state is AttemptState.PAID and key not in paid:
            yield f"{key} is booked as paid and was not"


def _never_more_back(world: World, orders: Sequence[Order], trades: Sequence[Trade]) -> Iterable[str]:
    of_trade = {(trade.provider, trade.out_trade_no): provider_refunds.of_trade(world.sandbox.sandbox, trade) for trade in trades}
    for order in orders:
        for attempt in order.attempts:
            own = [refund for refund in order.refunds if refund.attempt_id == attempt.id]
            reserved = sum(refund.amount_fen for refund in own if refund.is_reserving)
            theirs = {refund.out_refund_no: refund for refund in of_trade.get((attempt.provider, attempt.id), [])}
            back = provider_refunds.returned_fen(list(theirs.values()))
            if max(reserved, back) > attempt.paid_fen and attempt.state is AttemptState.PAID:
                yield f"of attempt {attempt.id} ({attempt.paid_fen} fen) {reserved} fen are given back, at the provider {back}"
            for refund in own:
                there = theirs.pop(refund.id, None)
                arrived = there is not None and there.status == "SUCCESS"
                if arrived != (refund.state is RefundState.SUCCEEDED):
                    yield f"refund {refund.id} is {refund.state} here and {there.status if there else 'unknown'} at the provider"
            for number in theirs:
                if attempt.state is AttemptState.RETURNED and number.startswith("console"):
                    continue
                yield f"refund {number} of {attempt.id} is at the provider and not ours"
            if attempt.is_overpaid and not own:
                yield f"attempt {attempt.id} was too much and is not given back"


def _nobody_paid_twice(orders: Sequence[Order]) -> Iterable[str]:
    paid: dict[str, list[str]] = defaultdict(list)
    for order in orders:
        settling = [a for a in order.attempts if a.state is AttemptState.PAID and not a.is_overpaid]
        if len(settling) != is_settled(order):
            yield f"order {order.id} is {order.state} with {len(settling)} settling payments"
        for payable in order.payables:
            if order.state in _SETTLED and order.state is not OrderState.REFUNDED and payable.key not in _freed(order):
                paid[payable.key].append(order.id)
    for key, ids in paid.items():
        if len(ids) > 1:
            yield f"{key} was paid by {' and '.join(ids)}"


def _freed(order: Order) -> set[str]:
    """What is not paid by this order any more: refused by its department, or gone back whole."""
    back: Counter[str] = Counter()
    for refund in order.refunds:
        if refund.state is RefundState.SUCCEEDED:
            back.update(dict(refund.parts))
    whole = {payable.key for payable in order.payables if 0 < payable.amount_fen <= back[payable.key]}
    return whole | {refund.payable_key for refund in order.refunds if refund.payable_key}


# --- the books ---


async def _ledger(world: World, orders: Sequence[Order], trades: Sequence[Trade], findings: Sequence[Any]) -> AsyncIterator[str]:
    report = await verify(world.database)
    for problem in report.problems:
        yield f"ledger: {problem}"
    if report.unsealed:
        yield f"ledger: {report.unsealed} entries are not sealed"
    for provider in PROVIDERS:
        open_ones = [Finding.from_document(row) for row in findings if row["provider"] == provider and row["state"] == "open"]
        waiting = sum(row["provider"] == provider and row["state"] == "waiting" for row in findings)
        here = [trade for trade in trades if trade.provider == provider and trade.paid_at]
        there = sum(trade.reported_fen for trade in here)
        there -= sum(provider_refunds.returned_fen(_once(provider_refunds.of_trade(world.sandbox.sandbox, trade))) for trade in here)
        # The canteen's money is not in the stand-in's books of trades, only in its bills.
        there += sum(finding.suspense_fen for finding in open_ones if finding.number.startswith("canteen"))
        fee = report.balances.get(f"fee:{provider}", 0)
        ours = report.balances.get(f"provider:{provider}", 0) + fee
        if ours != there:
            named = [each async for each in _orders_that_differ(world, orders, here, provider)]
            yield f"{provider} holds {there} fen, our books say {ours}: {' '.join(named)}"
        suspense = -report.balances.get(f"suspense:{provider}", 0)
        listed = sum(finding.suspense_fen for finding in open_ones)
        held = [a for order in orders for a in order.attempts if a.state is AttemptState.HELD and a.provider == provider]
        listed += sum(attempt.suspended_fen for attempt in held)
        if suspense != listed:
            yield f"suspense of {provider} is {suspense} fen, the differences and held payments that are listed come to {listed}"
        if waiting:
            yield f"{waiting} differences of {provider} still wait for another bill"


async def _orders_that_differ(world: World, orders: Sequence[Order], trades: Sequence[Trade], provider: str) -> AsyncIterator[str]:
    """Yield the orders of which the provider holds something else than our books say: where to look."""
    ours: Counter[str] = Counter()
    async for row in world.database["ledger_entries"].find({"order_id": {"$ne": ""}}):
        ours[row["order_id"]] += sum(line["amount_fen"] for line in row["lines"] if line["account"] == f"provider:{provider}")
    order_of = {attempt.id: order.id for order in orders for attempt in order.attempts}
    theirs: Counter[str] = Counter()
    for trade in trades:
        back = provider_refunds.returned_fen(_once(provider_refunds.of_trade(world.sandbox.sandbox, trade)))
        theirs[order_of.get(trade.out_trade_no, trade.out_trade_no)] += trade.reported_fen - back
    for name in ours.keys() | theirs.keys():
        if ours[name] != theirs[name]:
            yield f"{name} ({theirs[name]} there, {ours[name]} here)"


def _once(rows: Iterable[provider_refunds.Refund]) -> list[provider_refunds.Refund]:
    return list({row.out_refund_no: row for row in rows}.values())


# --- what followed ---


async def _events(world: World, orders: Sequence[Order]) -> AsyncIterator[str]:
    told: dict[str, Counter[str]] = defaultdict(Counter)
    refund_events: Counter[tuple[str, str]] = Counter()
    async for row in world.database["events"].find({}):
        told[row["subject_id"]][row["name"]] += 1
        if row["name"].startswith("refund."):
            refund_events[(row["name"], row["data"]["refund_id"])] += 1
        if row["state"] != "done":
            yield f"event {row['_id']} {row['name']} is {row['state']}: {row.get('errors')}"
    for order in orders:
        names = told[order.id]
        expected = {
            "order.created": 1,
            "order.paid": int(is_settled(order)),
            "order.overpaid": sum(a.is_overpaid and a.received_fen is None for a in order.attempts),
            "order.payment_returned": sum(a.received_fen is not None or a.state is AttemptState.RETURNED for a in order.attempts),
            "order.closed": int(order.closed_at is not None),
        }
        for name, count in expected.items():
            if names[name] != count:
                yield f"order {order.id} ({order.state}) has {names[name]} times {name} instead of {count}"
        for refund in order.refunds:
            arrived = refund_events[("refund.succeeded", refund.id)]
            if arrived != (refund.state is RefundState.SUCCEEDED):
                yield f"refund {refund.id} ({refund.state}) has {arrived} times refund.succeeded"


async def _receipts(world: World, orders: Sequence[Order]) -> AsyncIterator[str]:
    """One receipt per agency of a settled order, numbered without gaps within its series."""
    numbers: dict[str, list[int]] = defaultdict(list)
    of_order: dict[str, list[tuple[str, str]]] = defaultdict(list)
    async for row in world.database["receipts"].find({}):
        of_order[row["order_id"]].append((row["agency_id"], row["number"]))
        prefix = f"R{row['series']}"
        if row["number"].startswith(prefix):
            numbers[row["series"]].append(int(row["number"].removeprefix(prefix)))
        else:
            yield f"receipt {row['_id']} has the number {row['number']!r}"
    for series, given in numbers.items():
        if sorted(given) != list(range(1, len(given) + 1)):
            yield f"receipt numbers of {series} have gaps or repeat: {sorted(given)[:20]}"
    for order in orders:
        known = sorted((receipt.agency_id, receipt.number) for receipt in order.receipts)
        agencies = sorted({payable.agency_id for payable in order.payables}) if is_settled(order) else []
        if sorted(of_order[order.id]) != known or [agency for agency, _ in known] != agencies:
            yield f"order {order.id} ({order.state}) of {agencies} knows the receipts {known}, there are {of_order[order.id]}"


async def _locks(world: World, orders: Sequence[Order]) -> AsyncIterator[str]:
    locked = {row["_id"]: row["order_id"] async for row in world.database["payable_locks"].find({})}
    holding = {
        payable.key: order.id
        for order in orders
        if order.state not in (OrderState.CLOSED, OrderState.REFUNDED)
        for payable in order.payables
        if payable.key not in _freed(order)
    }
    for key in locked.keys() | holding.keys():
        if locked.get(key) != holding.get(key):
            yield f"{key} is locked by {locked.get(key)} and belongs to {holding.get(key)}"


async def _departments(world: World, orders: Sequence[Order]) -> AsyncIterator[str]:
    """A department has heard of each payment of a bill, and of no other; of what went back of it, and of nothing else."""
    rows = [row async for row in world.database["bill_reports"].find({})]
    told = {row["_id"]: row["state"] for row in rows if row["kind"] == "payment"}
    store = world.sandbox.sandbox.store
    expected = set()
    for order in orders:
        for payable in order.payables:
            if payable.kind != "bill" or not is_settled(order):
                continue
            payment_id = report_id_of(order.id, payable.id)
            expected.add(payment_id)
            known = store.get("bill_payment", payable.id) or {}
            accepted = known.get("payment_id") == payment_id
            if told.get(payment_id) != ("accepted" if accepted else "refused"):
                yield f"{payable.key} of {order.id}: {told.get(payment_id)} here, {known.get('payment_id')} at the department"
            # What staff had given back and failed is in their list as closed, and for them to try again.
            tried = any(r.state is RefundState.CLOSED and r.agency_id == payable.agency_id for r in order.refunds)
            if not accepted and not tried and payable.key not in _freed(order) and order.state is not OrderState.REFUNDED:
                yield f"{payable.key} of {order.id} was refused by its department and is not given back"
    for payment_id in (told.keys() | store.all("payment_bill").keys()) - expected:
        yield f"a department was told of {payment_id}, which was not paid"
    arrived = {refund.id for order in orders for refund in order.refunds if refund.state is RefundState.SUCCEEDED}
    for refund_id in {row["_id"].partition(".")[0] for row in rows if row["kind"] == "refund"} - arrived:
        yield f"a department was told that {refund_id} has arrived, and it has not"
    for key, payers in world.fees.paid.items():
        if len(payers - world.fees.refunded) > 1:
            yield f"case {key} was paid by {payers - world.fees.refunded}"
