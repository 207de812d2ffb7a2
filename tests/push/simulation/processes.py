"""A process of the hall as far as messages go: a worker with its real loops, or the web process that hears of reports. It may die (mortal.py)."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

from redis.asyncio import Redis

from app.kernel.events import Event
from app.storage.mongo import Database
from app.storage.redis import connect
from app.storage.relay import Relay
from commands.worker import _every, _listen
from push.followers import Followers
from push.grants import Grants
from push.lanes import CAMPAIGN, LANES, Rates
from push.pauses import Pauses
from push.service import Push
from push.store import Store
from push.templates import load_templates
from tests.payments.simulation.mortal import Life, MortalHttp
from tests.push.desk import Town, usual_channels
from tests.push.simulation.plan import CAMPAIGN_EVENT

# Of all workers together, per second: as in production, but for the native app, whose ten would make a run last for hours.
RATES = {"wechat": 200.0, "alipay": 200.0, "app": 100.0, "sms": 200.0}


@dataclass(frozen=True)
class Settings:
    """What every process of a run is given. `told` hears of each event that was told."""

    servers: Mapping[str, str]
    database: str
    hall: Mapping[str, str]
    town: Town
    clock: Callable[[], datetime]
    told: Callable[[], None]


@dataclass
class Process:
    name: str
    life: Life
    database: Database
    http: MortalHttp
    redis: Redis
    push: Push
    relay: Relay
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def beside(self, work: Any) -> asyncio.Task[Any]:
        """Run something until the process dies."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: a death is no accident

    def work(self) -> None:
        """Begin the loops of commands/worker.py that messages need."""
        self.beside(self.relay.run(self.stop))
        for lane in LANES:
            self.beside(_every(0.5, self.stop, f"deliver_{lane}", partial(self.deliver, lane)))
        self.beside(_every(2, self.stop, "reports", self.push.reports.sweep))
        self.beside(_listen(SimpleNamespace(redis=self.redis, relay=self.relay), self.stop, {}))

    async def deliver(self, lane: str = "") -> int:
        return await self.push.deliver_due(lane=lane)

    async def end(self) -> None:
        await self.http.close()
        await self.redis.aclose()
        await self.database.close()


def build(name: str, settings: Settings, on_death: Callable[[], None]) -> Process:
    """Put a process together; it has spoken to nobody yet."""
    life = Life(on_death)
    database = Database(settings.servers["mongodb"], settings.database, listeners=[life])
    http, redis = MortalHttp(life), connect(settings.servers["redis"])
    push = _push(settings, database, redis, http)
    specs = dict(push.templates.specs)
    specs[CAMPAIGN_EVENT] = replace(specs[CAMPAIGN_EVENT], lane=CAMPAIGN)
    push.templates = replace(push.templates, specs=specs)
    push.deliveries._sending.rates = Rates(redis, RATES)

    async def tell(event: Event) -> None:
        await push.tell(event)
        settings.told()

    relay = Relay(database, {name: [("tell", tell)] for name in push.event_names}, settings.clock, push.urgent_names)
    database.on_commit = relay.wake
    return Process(name, life, database, http, redis, push, relay)


def _push(settings: Settings, database: Database, redis: Redis, http: MortalHttp) -> Push:
    """Put push together as commands/assembly.py does, with the channels whose stand-ins follow a script of bad luck, and calls."""
    town, clock, templates = settings.town, settings.clock, load_templates()
    store, grants = Store(database), Grants(database, templates.wechat)
    channels, sms = usual_channels(http, redis, settings.hall, templates, store, grants, Pauses(database, clock), town, clock)
    followers = Followers(database, None, clock)
    return Push(
        database, redis, templates, people=town, store=store, grants=grants, channels=channels, sms=sms, followers=followers, clock=clock
    )
