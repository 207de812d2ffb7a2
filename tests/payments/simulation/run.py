"""One run: the plan is executed bundle by bundle, then everything comes to rest, every day is reconciled, and all is checked."""

import asyncio
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as wall_time
from pathlib import Path
from typing import Any

import structlog

from app.kernel.clock import SHANGHAI
from payments.ledger.verify import verify
from payments.reconcile.store import Busy
from sandbox import refunds
from tests.payments.simulation import invariants
from tests.payments.simulation.actions import perform
from tests.payments.simulation.mortal import Died
from tests.payments.simulation.plan import PROVIDERS, SECOND_WORKER, WORKER, Action, Plan
from tests.payments.simulation.processes import Process
from tests.payments.simulation.world import World

# (bundles done, of how many)
Watch = Callable[[int, int], None]
# Virtual seconds between the rounds of work while everything comes to rest, the last one again and again: refunds are asked for by the hour.
_REST_S = (5, 10, 15, 30, 30, 60, 60, 120, 300, 600, 600, 1200, 3600, 14400)
_MOST_ROUNDS = 120
_BUNDLE_S = 90  # real seconds; what takes longer hangs
_UNDER_WAY = {"wechatpay": ("PROCESSING",), "alipay": ("PROCESSING", "ABNORMAL")}


@dataclass(frozen=True)
class Result:
    """What a run came to. `problems` is empty when everything held; `suspects` are the orders of the plan that they name."""

    plan: Plan
    problems: tuple[str, ...]
    counts: Counter[str]
    seconds: float
    suspects: frozenset[int] = frozenset()

    @property
    def is_sound(self) -> bool:
        return not self.problems


async def run_plan(plan: Plan, servers: Mapping[str, str], keys: Path, watch: Watch = lambda _done, _all: None) -> Result:
    """Execute a plan against real servers and check everything.

    Args:
        servers: `mongodb` and `redis`; the run has a database of its own, and drops it.
        keys: a folder for the stand-ins' keys, made when they are not there: they take seconds to make.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hall-simulation-") as folder, _silence():
        world = World(plan, servers, Path(folder))
        await world.begin(keys)
        try:
            problems = await _execute(world, watch)
        finally:
            await world.close()
    return Result(plan, tuple(problems), world.counts, time.monotonic() - began, world.orders_named_in(problems))


@contextmanager
def _silence() -> Iterator[None]:
    """What goes wrong on purpose fills no screen; a task of a dead process that nobody waits for is no accident."""
    loop = asyncio.get_running_loop()
    before, handler, level = structlog.get_config(), loop.get_exception_handler(), logging.root.manager.disable
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)

    def ignore_the_dead(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), Died):
            loop.default_exception_handler(context)

    loop.set_exception_handler(ignore_the_dead)
    try:
        yield
    finally:
        loop.set_exception_handler(handler)
        logging.disable(level)
        structlog.configure(**before)


async def _execute(world: World, watch: Watch) -> list[str]:
    bundles = list(world.plan.bundles())
    for done, bundle in enumerate(bundles):
        problems = await _play(world, bundle)
        if problems:
            return problems
        watch(done + 1, len(bundles))
    problems = await _come_to_rest(world)
    if not problems:
        problems = await _reconcile_all(world)
    if not problems:
        problems = await _come_to_rest(world)
    await _count(world)
    return problems or await invariants.broken(world)


def _who_waits() -> list[str]:
    """Return where the tasks of the loop stand, from their own code to what they wait for: what hangs and shows nothing is found by nobody."""
    counted = Counter(" > ".join(_stands(task.get_coro())) for task in asyncio.all_tasks())
    return [f"{count} wait: {stands}" for stands, count in counted.most_common()]


def _stands(awaited: Any) -> Iterator[str]:
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None) or getattr(awaited, "ag_frame", None)
        yield f"{frame.f_code.co_qualname}:{frame.f_lineno}" if frame else type(awaited).__name__
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None) or getattr(awaited, "ag_await", None)


async def _play(world: World, bundle: list[Action]) -> list[str]:
    """Do the actions of a bundle at the same time, then let the clock go on."""
    doing = {asyncio.ensure_future(perform(world, action)): action for action in bundle if action.kind not in ("clock", "watch")}
    if doing:
        done, pending = await asyncio.wait(doing, timeout=_BUNDLE_S)
        if pending:
            return [f"never ends: {doing[task]}" for task in pending] + _who_waits()
        for task in done:
            task.result()
    await world.until_primary()
    try:
        async with asyncio.timeout(_BUNDLE_S):
            await world.settled()
    except TimeoutError:
        return [f"never ends: what follows bundle {bundle[0].bundle}", *_who_waits()]
    world.advance(0.5 + sum(action.args["seconds"] for action in bundle if action.kind == "clock"))
    await world.settled()
    if any(action.kind == "watch" for action in bundle):
        await _calm(world)
        for _ in range(26):  # thirteen minutes in which providers and a worker are there
            world.advance(30)
            await _work(world, "sweep")
        await world.settled()
        ledger = await verify(world.database)
        return [
            *invariants.unexplained(await invariants.load_orders(world), world.clock.peek()),
            *(f"ledger: {problem}" for problem in ledger.problems),
        ]
    return []


async def _calm(world: World) -> None:
    """Everybody is there again."""
    await world.sim("faults", provider="all", mode="none")
    await world.sim("storm")
    await world.sim("refunds", mode="success")


async def _work(world: World, *kinds: str) -> None:
    """Let a worker do its rounds."""

    async def sweep(process: Process) -> None:
        await process.payments.sweep(world.clock.now())

    async def seal(process: Process) -> None:
        await process.payments.seal_ledger(world.clock.now())

    jobs = {
        "sweep": sweep,
        "relay": lambda process: process.relay.drain(),
        "tell": lambda process: process.reports.sweep(world.clock.now()),
        "number_receipts": lambda process: process.payments.number_receipts(),
        "seal": seal,
    }
    for kind in kinds or jobs:
        await world.run(WORKER, jobs[kind])


async def _come_to_rest(world: World) -> list[str]:
    """Let the worker work until nothing is left to do; what never comes to rest is a problem."""
    await _calm(world)
    left: list[str] = []
    for number in range(_MOST_ROUNDS):
        world.advance(_REST_S[min(number, len(_REST_S) - 1)])
        for refund in refunds.all_of(world.sandbox.sandbox):
            # What a bank was to do for ever, it does now. Alipay has no word for a refund that got stuck: there it is under way.
            if refund.status in _UNDER_WAY[refund.provider] and not refund.ends_as:
                await world.sim("refunds", out_refund_no=refund.out_refund_no, status="SUCCESS")
        await world.settled()
        await _work(world)
        await world.settled()
        left = await _unrest(world)
        if not left:
            return []
    theirs = [
        str(refunds.shown(refund)) for refund in refunds.all_of(world.sandbox.sandbox) if any(refund.out_refund_no in each for each in left)
    ]
    return [f"never comes to rest: {sentence}" for sentence in [*left, *theirs]]


async def _unrest(world: World) -> list[str]:
    orders = await invariants.load_orders(world)
    waiting = [f"event {row['name']} of {row['subject_id']}" async for row in world.database["events"].find({"state": "waiting"})]
    forgotten = [f"notice {row['_id']}" async for row in world.database["payment_notifications"].find({"state": "stored"})]
    unsealed = [f"entry {row['fact']}" async for row in world.database["ledger_entries"].find({"sealed": False})]
    untold = [f"report {row['_id']}" async for row in world.database["bill_reports"].find({"state": "waiting"})]
    return [*invariants.orders_final(orders), *waiting, *forgotten, *unsealed, *untold]


async def _reconcile_all(world: World) -> list[str]:
    """Reconcile every day at both providers, on a morning after the last of them; by two workers, as it comes."""
    local = world.clock.peek().astimezone(SHANGHAI)
    # Two days on: what was near midnight on the last day is looked for in the bill of the day after.
    morning = datetime.combine(local.date() + timedelta(days=2), wall_time(10, 30), SHANGHAI)
    world.advance((morning - local).total_seconds())
    await world.settled()
    await _work(world)
    problems: list[str] = []
    day = world.first_day
    while day < morning.date():
        for provider in PROVIDERS:

            async def reconcile(process: Process, provider: str = provider, day: Any = day) -> None:
                try:
                    outcome = await process.reconcile.run(provider, day)
                    if outcome.state != "done":
                        problems.append(f"{provider} of {day} cannot be reconciled: {outcome.problem}")
                except Busy:
                    world.counts["two at one day"] += 1

            await asyncio.gather(world.run(WORKER, reconcile), world.run(SECOND_WORKER, reconcile))
        day += timedelta(days=1)
    return problems


async def _count(world: World) -> None:
    """Count what has come of it, to see that a run is worth its name."""
    for order in await invariants.load_orders(world):
        world.counts["orders"] += 1
        world.counts[f"order {order.state}"] += 1
        for attempt in order.attempts:
            world.counts[f"attempt {'overpaid' if attempt.is_overpaid else attempt.state}"] += 1
        for refund in order.refunds:
            world.counts[f"refund {refund.state}"] += 1
    async for row in world.database["payment_notifications"].find({}, {"state": 1}):
        world.counts[f"notice {row['state']}"] += 1
    world.counts["notices refused"] += await world.database["payment_notifications_rejected"].count_documents({})
    async for row in world.database["findings"].find({}):
        world.counts[f"finding {row['kind']} {row['state']}"] += 1
    world.counts["ledger entries"] += await world.database["ledger_entries"].count_documents({})
    world.counts["points passed"] += sum(process.life.points for process in world.processes.values())
    world.counts["virtual hours"] = int((world.clock.peek().astimezone(SHANGHAI).date() - world.first_day).days * 24)
