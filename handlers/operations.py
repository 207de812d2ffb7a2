"""For the people who run it: /healthz (the process), /readyz (its needs), /metrics."""

import asyncio

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess
from prometheus_client.registry import REGISTRY
from pymongo.errors import PyMongoError
from redis.exceptions import RedisError

from handlers.base import HallHandler, operation

log = structlog.get_logger(__name__)


class Health(HallHandler):
    @operation("The process lives")
    async def get(self) -> None:
        await self.answer({"status": "ok"})


class Ready(HallHandler):
    @operation("What the process needs answers", answers={200: None, 503: None})
    async def get(self) -> None:
        needs = {"mongodb": "ok", "redis": "ok", "catalogue": "ok"}
        try:
            await asyncio.wait_for(self.hall.database.ping(), 3)
        except (PyMongoError, TimeoutError):
            needs["mongodb"] = "away"
        try:
            await self.hall.redis.ping()
        except (RedisError, OSError, TimeoutError):
            needs["redis"] = "away"  # told, but not a reason to take the process out: the hall works without it
        if not self.hall.catalogue.is_loaded:
            needs["catalogue"] = "not published"
        ready = needs["mongodb"] == "ok" and needs["catalogue"] == "ok" and not self.hall.stopping.is_set()
        # Told, and no reason to take the process out: beyond five minutes providers refuse every request, here and elsewhere alike.
        offsets = {name: provider.clock_offset_s for name, provider in self.hall.payments.providers.items()}
        told = {"status": "ready" if ready else "not_ready", "needs": needs, "provider_clock_offset_s": offsets}
        await self.answer(told, 200 if ready else 503)


class Metrics(HallHandler):
    @operation("Prometheus metrics")
    async def get(self) -> None:
        try:
            await self.hall.relay.measure()
        except PyMongoError as error:
            log.warning("metrics.database_away", error=type(error).__name__)
        registry = REGISTRY
        if self.hall.settings.processes > 1:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(registry))


routes = [(r"/healthz", Health), (r"/readyz", Ready), (r"/metrics", Metrics)]
