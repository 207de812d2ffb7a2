"""What each kind of action does: residents, staff and the hall's own work within its processes, the rest from outside."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from pymongo.errors import PyMongoError

from app.checks import store as checks_store
from app.kernel.clock import SHANGHAI
from app.kernel.errors import HallError
from payments.model import Attempt, AttemptState
from payments.reconcile.store import Busy
from sandbox import refunds
from sandbox.store import Trade
from tests.payments.simulation import notices
from tests.payments.simulation.plan import OUTSIDE, WEB, Action
from tests.payments.simulation.processes import Process
from tests.payments.simulation.world import POLICE, OrderOfPlan, World, plate_of

AGENCY_OF_BILLS = "sg-jj"


@dataclass(frozen=True)
class Clerk:
    account: str
    role: str
    agency_id: str


async def perform(world: World, action: Action) -> None:
    """Do one action; what it meets is counted, not raised, except what must never be (see `World.broken`)."""
    world.counts[f"action {action.kind}"] += 1
    if action.process == OUTSIDE:
        await _OUTSIDE[action.kind](world, action)
        return
    life = world.processes[action.process].life
    if action.dies_after and action.dies_at:
        life.doom_at_commit(action.dies_at, action.dies_after)
    elif action.dies_after:
        life.doom(action.dies_after)

    async def work(process: Process) -> None:
        try:
            await _INSIDE[action.kind](world, process, action)
        except HallError as refused:
            world.counts[f"refused {refused.code}"] += 1

    lived = await world.run(action.process, work)
    if not lived and action.process == WEB and action.kind != "kill":
        # The resident's phone asks once more, with the same ids, when another process is there.
        await world.until_alive(WEB)
        await world.run(WEB, work)


# --- residents ---


async def _open(world: World, process: Process, action: Action) -> None:
    assert action.order is not None
    args, resident = action.args, world.resident(action.args["resident"])
    known = world.orders.setdefault(
        action.order, OrderOfPlan(resident, world.id_of("ord", action.order), [world.owe(row) for row in args["payables"]])
    )
    for row in args["payables"]:
        if row[0] == "bill":  # only what was looked up can be ordered
            plate = plate_of(row[1])
            found = await process.departments.lookup_bills(POLICE, "traffic_fine", {"plate": plate, "vin_last6": "000001"})
            await checks_store.remember_bills(process.database, resident, POLICE, found.bills, world.clock.now())
    order = await process.payments.create_order(resident, known.payables, order_id=known.order_id)
    known.order_id = order.id  # an open one for exactly these is given again


async def _open_again(world: World, process: Process, action: Action) -> None:
    """The same resident makes a new order for the same: what he gets depends on what became of the first."""
    known = _known(world, action)
    if known is not None:
        order = await process.payments.create_order(known.resident, known.payables, order_id=world.id_of("ord", action.order, "again"))
        known.order_id = order.id


async def _pay(world: World, process: Process, action: Action) -> None:
    known = _known(world, action)
    if known is None:
        return
    number, provider = action.args["attempt"], action.args["provider"]
    attempt, given = await process.payments.pay(
        known.order_id,
        known.resident,
        provider=provider,
        scene=action.args["scene"],
        attempt_id=world.id_of("pay", known.order_id, action.order, number),
        client_ip="203.0.113.7",
    )
    known.handed[number] = (provider, attempt.out_trade_no, given)


async def _close(world: World, process: Process, action: Action) -> None:
    known = _known(world, action)
    if known is not None:
        await process.payments.close_order(known.order_id, known.resident)


async def _refresh(world: World, process: Process, action: Action) -> None:
    known = _known(world, action)
    if known is not None:
        await process.payments.get_order(known.order_id, known.resident, refresh=True)


async def _receipt(world: World, process: Process, action: Action) -> None:
    known = _known(world, action)
    if known is not None:
        await process.payments.receipt(known.order_id, known.resident)


async def _cashier(world: World, action: Action) -> None:
    """The resident finishes at the provider, with what the hall has handed out for this attempt."""
    known = _known(world, action)
    handed = known.handed.get(action.args["attempt"]) if known else None
    if handed is None:
        world.counts["nothing to pay with"] += 1
        return
    provider, number, given = handed
    told = await world.sim("pay", provider=provider, out_trade_no=number, outcome=action.args["outcome"], client_params=given)
    world.counts[f"cashier {told['status']}"] += 1
    if told["status"] == 400 and provider == "wechatpay":
        world.broken.append(f"the cashier refused what was handed out for {number}: {told.get('message')}")


def _known(world: World, action: Action) -> OrderOfPlan | None:
    return world.orders.get(action.order) if action.order is not None else None


# --- staff ---


async def _refund(world: World, process: Process, action: Action) -> None:
    known = _known(world, action)
    if known is None:
        return
    order = await process.payments.get_order(known.order_id, known.resident)
    agencies = sorted({payable.agency_id for payable in order.payables})
    agency = agencies[action.args["agency"] % len(agencies)]
    part_fen = sum(payable.amount_fen for payable in order.payables if payable.agency_id == agency)
    fen = {"all": part_fen, "half": max(1, part_fen // 2), "fen": 1, "too_much": part_fen + 1}[action.args["share"]]
    refund_id = world.id_of("rfd", action.order, action.args["number"])
    await process.payments.refunds.request(
        order.id, Clerk("clerk", "clerk", agency), amount_fen=fen, reason="多收退还", refund_id=refund_id
    )


async def _approve(world: World, process: Process, action: Action) -> None:
    head = await _head(world, process, action)
    if head is not None:
        await process.payments.refunds.approve(world.id_of("rfd", action.order, action.args["number"]), head)


async def _reject(world: World, process: Process, action: Action) -> None:
    head = await _head(world, process, action)
    if head is not None:
        await process.payments.refunds.reject(world.id_of("rfd", action.order, action.args["number"]), head, "不符合退款条件")


async def _give_back(world: World, process: Process, action: Action) -> None:
    """Staff give a payment back that does not fit."""
    held = await _held(world, process, action)
    if held is not None:
        attempt, agency = held
        refund_id = world.id_of("rfd", action.order, "held")
        await process.payments.held.give_back(attempt.id, Clerk("clerk", "clerk", agency), reason="金额不符，退回", refund_id=refund_id)


async def _returned_outside(world: World, process: Process, action: Action) -> None:
    """Finance give it back at the provider's own pages, and the head records it."""
    held = await _held(world, process, action)
    if held is None:
        return
    attempt, agency = held
    stand_in = world.sandbox.sandbox
    trade = stand_in.store.trade(attempt.provider, attempt.id)
    if trade is not None and trade.paid_at and not trade.extra.get("refund_nos"):
        number = f"console{attempt.id[-12:]}"
        refunds.make(stand_in, trade, number=number, amount_fen=trade.reported_fen, reason="后台退款", notify_url="")
    await process.payments.held.given_back_outside(attempt.id, Clerk("head", "head", agency), "已在商户后台退款")


async def _held(world: World, process: Process, action: Action) -> tuple[Attempt, str] | None:
    """Return the order's held payment and an agency that may decide about it."""
    known = _known(world, action)
    order = await process.payments.get_order(known.order_id, known.resident) if known else None
    attempt = next((a for a in order.attempts if a.state is AttemptState.HELD), None) if order else None
    return (attempt, order.agency_id) if order and attempt else None


async def _head(world: World, process: Process, action: Action) -> Clerk | None:
    """Return the head of the agency whose refund it is."""
    row = await process.database["orders"].find_one({"refunds.id": world.id_of("rfd", action.order, action.args["number"])})
    refund = next((r for r in row["refunds"] if r["id"] == world.id_of("rfd", action.order, action.args["number"])), None) if row else None
    return None if refund is None else Clerk("head", "head", refund["agency_id"])


# --- the hall's own work ---


async def _sweep(world: World, process: Process, action: Action) -> None:
    await process.payments.sweep(world.clock.now())


async def _relay(world: World, process: Process, action: Action) -> None:
    await process.relay.drain()


async def _tell(world: World, process: Process, action: Action) -> None:
    await process.reports.sweep(world.clock.now())


async def _number_receipts(world: World, process: Process, action: Action) -> None:
    await process.payments.number_receipts()


async def _seal(world: World, process: Process, action: Action) -> None:
    await process.payments.seal_ledger(world.clock.now())


async def _reconcile(world: World, process: Process, action: Action) -> None:
    try:
        world.counts["days reconciled"] += await process.reconcile.run_due(world.clock.now())
    except Busy:
        pass


async def _kill(world: World, process: Process, action: Action) -> None:
    process.life.doom(1)
    process.life.point()


# --- outside ---


async def _fault(world: World, action: Action) -> None:
    told = await world.sim("faults", **action.args)
    assert told["status"] == 200, told


async def _storm(world: World, action: Action) -> None:
    await world.sim("storm", **action.args)


async def _refund_mode(world: World, action: Action) -> None:
    await world.sim("refunds", **action.args)


async def _bank(world: World, action: Action) -> None:
    """The bank, or a person at the provider's console, moves a refund on."""
    stand_in = world.sandbox.sandbox
    moves = {"PROCESSING": ("SUCCESS", "ABNORMAL", "CLOSED"), "ABNORMAL": ("SUCCESS", "CLOSED"), "CLOSED": ("SUCCESS",)}
    wanted = action.args["status"]
    found = [each for each in refunds.all_of(stand_in) if wanted in moves.get(each.status, ())]
    if not found:
        return
    refund = found[action.args["pick"] % len(found)]
    trade = stand_in.store.trade(refund.provider, refund.out_trade_no)
    assert trade is not None
    if refund.status == "CLOSED" and refunds.taken_fen(refunds.of_trade(stand_in, trade)) + refund.amount_fen > trade.reported_fen:
        return  # no provider gives back more than it got
    world.counts[f"bank {refund.status} to {wanted}"] += 1
    await world.sim("refunds", out_refund_no=refund.out_refund_no, status=wanted)


async def _counter(world: World, action: Action) -> None:
    """Somebody pays the order's bills at the department's own counter."""
    known = _known(world, action)
    stand_in = world.sandbox.sandbox
    for payable in known.payables if known else ():
        if payable["kind"] == "bill" and stand_in.store.get("bill_payment", payable["id"]) is None:
            day = stand_in.today()
            at_counter = {"payment_id": f"counter.{payable['id']}", "receipt_no": "4402", "late_fee_fen": 0, "paid_on": day}
            stand_in.store.put("bill_payment", payable["id"], at_counter | {"provider_trade_no": "counter"})


async def _forged(world: World, action: Action) -> None:
    trade = _trade(world, action)
    if trade is not None:
        claims = replace(trade, state="SUCCESS", paid_at=world.clock.peek().timestamp(), reported_fen=trade.amount_fen)
        if await notices.deliver(world, claims, forged=True):
            world.broken.append(f"a forged notice of {trade.out_trade_no} was taken")


async def _foreign(world: World, action: Action) -> None:
    """A notice of another merchant, truly signed, that uses a number of ours."""
    trade = _trade(world, action)
    if trade is not None:
        claims = replace(trade, state="SUCCESS", paid_at=world.clock.peek().timestamp(), reported_fen=trade.amount_fen)
        await notices.deliver(world, claims, merchant="1900000001")


async def _other_amount(world: World, action: Action) -> None:
    """A truly signed notice of a true payment that names another amount than the provider's own books."""
    trade = _trade(world, action)
    if trade is not None and trade.state == "SUCCESS" and trade.reported_fen == trade.amount_fen:
        await notices.deliver(world, replace(trade, reported_fen=trade.amount_fen + 1))


async def _repeated(world: World, action: Action) -> None:
    """Twenty times the same notice at once."""
    trade = _trade(world, action)
    if trade is not None and trade.state == "SUCCESS":
        await asyncio.gather(*(notices.deliver(world, trade) for _ in range(20)))


def _trade(world: World, action: Action) -> Trade | None:
    known = _known(world, action)
    handed = known.handed.get(action.args["attempt"]) if known else None
    return world.sandbox.sandbox.store.trade(handed[0], handed[1]) if handed else None


async def _rotate(world: World, action: Action) -> None:
    await world.sim("certificates", provider=action.args["provider"])


async def _foreign_money(world: World, action: Action) -> None:
    """Another system has taken money under our merchant number: it will be in the bill of this day."""
    day = world.clock.peek().astimezone(SHANGHAI).date().isoformat()
    for provider in ("wechatpay", "alipay"):
        if (provider, day) not in world.foreign_days:
            world.foreign_days.add((provider, day))
            world.sandbox.sandbox.store.put("bill_day", f"{provider}:{day}", {"foreign": 2})


async def _step_down(world: World, action: Action) -> None:
    try:
        await world.database.client.admin.command({"replSetStepDown": 1, "force": True})
    except PyMongoError as error:
        world.counts[f"step down: {type(error).__name__}"] += 1


async def _flush_redis(world: World, action: Action) -> None:
    await world.redis.flushall()


Inside = Callable[[World, Process, Action], Awaitable[None]]
Outside = Callable[[World, Action], Awaitable[None]]
_INSIDE: dict[str, Inside] = {
    "open": _open, "open_again": _open_again, "pay": _pay, "close": _close, "refresh": _refresh, "receipt": _receipt,
    "refund": _refund, "approve": _approve, "reject": _reject, "give_back": _give_back, "returned_outside": _returned_outside,
    "sweep": _sweep, "relay": _relay, "tell": _tell, "number_receipts": _number_receipts, "seal": _seal, "reconcile": _reconcile, "kill": _kill,
}  # fmt: skip
_OUTSIDE: dict[str, Outside] = {
    "cashier": _cashier, "counter": _counter, "forged": _forged, "foreign": _foreign, "other_amount": _other_amount,
    "repeated": _repeated, "fault": _fault, "storm": _storm, "refund_mode": _refund_mode, "bank": _bank, "rotate": _rotate,
    "foreign_money": _foreign_money, "step_down": _step_down, "flush_redis": _flush_redis,
}  # fmt: skip
