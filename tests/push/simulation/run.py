"""One run: a campaign at once, what the day brings beside it, processes that die and a Redis that is emptied; then rest, then all is checked."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.kernel.events import Event, new_event
from app.storage import outbox
from push.lanes import CAMPAIGN, LANES
from tests.payments.simulation.run import _silence
from tests.push.desk import FULL
from tests.push.simulation import invariants
from tests.push.simulation.plan import WORKERS, Intent, Mishap, Plan
from tests.push.simulation.processes import Process
from tests.push.simulation.world import World

Watch = Callable[[int, int], None]  # told so far, of how many
_AT_ONCE = 400
# Virtual seconds between the rounds of work while everything comes to rest, the last one again and again: three days of trying.
_REST_S = (3, 5, 12, 61, 61, 90, 301, 301, 601, 1801, 1801, 3601, 3601, 3601, 7200, 14400)
_MOST_ROUNDS = 45
_STANDS_STILL_S = 120
_CALM_AFTER = 6  # rounds of rest with the luck of the rush


@dataclass
class Result:
    """What a run came to. `problems` is empty when everything held. Seconds of `figures` are real ones."""

    plan: Plan
    problems: tuple[str, ...]
    counts: Counter[str]
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        return not self.problems


async def run_plan(plan: Plan, servers: Mapping[str, str], keys: Path, watch: Watch = lambda _done, _all: None) -> Result:
    """Execute a plan against real servers and check everything.

    Args:
        servers: `mongodb` and `redis`; the run has a database of its own and drops it, and empties Redis where the plan says so.
        keys: a folder for the stand-ins' keys, made when they are not there.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hall-messages-") as folder, _silence():
        world = World(plan, servers, Path(folder))
        await world.begin(keys)
        figures: dict[str, float] = {}
        try:
            rush = _Rush(world, watch)
            problems = await rush.run()
            figures["rush"] = time.monotonic() - began
            if not problems:
                problems = await _come_to_rest(world)
            figures["in all"] = time.monotonic() - began
            if not problems:
                problems = await invariants.broken(world, rush.events, figures)
        finally:
            await world.close()
    return Result(plan, tuple(problems), world.counts, figures)


class _Rush:
    """Real time: the campaign stands in line from the first moment, the rest comes while it is worked on."""

    def __init__(self, world: World, watch: Watch) -> None:
        self._world = world
        self._watch = watch
        self._subjects: dict[int, str] = {}
        self.events: dict[str, Intent] = {}  # event id -> what it tells of

    async def run(self) -> list[str]:
        world, intents = self._world, self._world.plan.intents
        campaign = [intent for intent in intents if intent.lane == CAMPAIGN]
        others = [intent for intent in intents if intent.lane != CAMPAIGN]
        for begin in range(0, len(campaign), _AT_ONCE):
            await self._happen(campaign[begin : begin + _AT_ONCE])
        reports = asyncio.ensure_future(self._report_for_wechat())
        mishaps, happened, last = list(world.plan.mishaps), 0, (0, time.monotonic())
        try:
            while happened < len(others) or world.told < len(self.events):
                # Spread over the whole time in which there is something to tell of, however fast this machine is.
                due = len(others) if world.told >= len(self.events) else int(world.told / (0.85 * len(intents)) * len(others))
                chunk = others[happened : max(min(due, happened + _AT_ONCE), happened)]
                if world.told >= len(self.events):
                    chunk = others[happened : happened + 50]
                await self._happen(chunk)
                happened += len(chunk)
                while mishaps and happened >= mishaps[0].at * len(others):
                    await self._go_wrong(mishaps.pop(0))
                self._watch(world.told, len(intents))
                if world.told > last[0]:
                    last = (world.told, time.monotonic())
                if time.monotonic() - last[1] > _STANDS_STILL_S:
                    return [f"stands still: {world.told} of {len(self.events)} told"]
                # What was told and not noted is told once more after its lease, and counted again.
                if world.told >= len(self.events) and happened >= len(others) and await self._untold():
                    world.told = len(self.events) - 1
                await asyncio.sleep(0.05)
            await self._until_idle()
        finally:
            reports.cancel()
            await asyncio.gather(reports, return_exceptions=True)
        await world.end_of_rush()
        return []

    async def _untold(self) -> bool:
        return await self._world.database["events"].find_one({"state": "waiting"}, {"_id": 1}) is not None

    async def _happen(self, intents: list[Intent]) -> None:
        """Something happens to each of these cases, in one transaction."""
        if not intents:
            return
        world, events = self._world, []
        for intent in intents:
            event = self._event(intent)
            self.events[event.id] = intent
            events.append(event)
        await world.database.transaction(lambda session: outbox.append(world.database, session, events))
        try:
            await world.redis.publish("events", "")
        except OSError:
            pass

    def _event(self, intent: Intent) -> Event:
        subject_id = self._subjects.setdefault(intent.subject, f"case_{intent.subject:012d}")
        data = {**FULL, "item_name": intent.marker, "agency_id": "sg-gaj"}
        owner_id = self._world.owners[intent.person]
        return new_event(intent.event, subject=("case", subject_id), owner_id=owner_id, data=data, at=self._world.clock.now())

    async def _go_wrong(self, mishap: Mishap) -> None:
        world = self._world
        if mishap.kind == "flush":
            world.counts["Redis emptied"] += 1
            await world.redis.flushall()
            return
        life = world.processes[mishap.process].life
        if mishap.dies_at:
            life.doom_at_commit(mishap.dies_at, mishap.dies_after)
        else:
            life.doom(mishap.dies_after)

    async def _until_idle(self) -> None:
        """Wait until nothing is due; what waits for a lease or for another try is for the rest."""
        world, idle = self._world, 0
        while idle < 5:
            now = world.clock.now()
            due = [await world.database["deliveries"].find_one({"is_open": True, "lane": lane, "next_at": {"$lte": now}}) for lane in LANES]
            idle = 0 if any(due) else idle + 1
            await asyncio.sleep(0.2)

    async def _report_for_wechat(self) -> None:
        """Play WeChat, which reports the fate of what it has sent: of a part of it, late, repeated, sometimes in contradiction."""
        world, chance, after = self._world, random.Random(self._world.plan.seed), ""
        people = {world.name_of(person.number): person for person in world.plan.people}
        while True:
            await asyncio.sleep(1)
            for row in await world.sent("wechat_subscribe", after):
                after = row["id"]
                if row["name"] not in people or chance.random() < 0.6:
                    continue
                fates = ["success"] if not world.plan.shares or chance.random() < 0.93 else ["failed:user block"]
                if world.plan.shares and chance.random() < 0.1:
                    fates += [fates[0], chance.choice(("success", "failed:user block"))]
                for fate in fates:
                    rows = [{"TemplateId": row["template_id"], "MsgID": str(row["msgid"]), "ErrorCode": "0", "ErrorStatus": fate}]
                    answer = await world.sim("wechat/push", name=row["name"], event="subscribe_msg_sent_event", list=rows)
                    world.counts["reports of WeChat " + ("taken" if answer.get("status") == 200 else "lost")] += 1


async def _come_to_rest(world: World) -> list[str]:
    """Let the workers work while the clock runs ahead, until every delivery is final; what never is, is a problem."""
    left: list[str] = []
    calm = {kind: ({} if kind == "a" else shares) for kind, shares in world.plan.shares.items()}
    fast = {
        kind: {vendor: {mode: share for mode, share in luck.items() if mode not in ("slow", "late")} for vendor, luck in vendors.items()}
        for kind, vendors in world.plan.shares.items()
    }
    await world.script(fast)
    for number in range(_MOST_ROUNDS):
        world.clock.advance(_REST_S[min(number, len(_REST_S) - 1)])
        if number == _CALM_AFTER:
            await world.script(calm)
        await asyncio.gather(*(world.run(name, _round) for name in WORKERS))
        await world.buried()
        left = await _unrest(world)
        if not left:
            world.counts["virtual hours"] = int(world.clock.ahead.total_seconds() / 3600)
            return []
    return [f"never comes to rest: {sentence}" for sentence in left]


async def _round(process: Process) -> Any:
    await process.relay.drain()
    while await process.deliver():
        pass
    await process.push.reports.sweep()


async def _unrest(world: World) -> list[str]:
    rows = [f"event {row['_id']} {row.get('errors')}" async for row in world.database["events"].find({"state": "waiting"}).limit(5)]
    async for row in world.database["deliveries"].find({"is_open": True}).limit(5):
        rows.append(f"delivery {row['_id']} {row['state']} {row['lane']} due {row['next_at']} {row['attempts'][-3:]}")
    return rows
