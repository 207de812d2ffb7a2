"""The relay: hands each event of the outbox to each subscriber at least once.

A relay claims an event by pushing its `next_at` forward (a lease): when the process dies, the lease runs out and any relay
takes the event again. A subscriber that has answered is noted in `done`, so one that fails does not make the others run
again. What keeps failing becomes `dead` with its error, is counted, and waits for `replay`.
Redis only wakes the relay sooner; without it the poll finds everything.

Order: within one relay the events of one subject are handed over in the order in which they happened. Across several workers, and
around a failure, they may change places; subscribers must not depend on it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from prometheus_client import Counter, Gauge
from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

from app.kernel import context
from app.kernel.clock import utc_now
from app.kernel.events import Event
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

Subscriber = tuple[str, Callable[[Event], Awaitable[None]]]

LEASE = timedelta(seconds=20)  # more than any subscriber may take: calls to departments end after 8 s
MAX_TRIES = 12
_DELAYS_S = (1, 2, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200)
_CONCURRENCY = 16

handled = Counter("hall_events_handled", "Events handed to all their subscribers", ["name"])
failures = Counter("hall_event_failures", "A subscriber failed on an event", ["subscriber"])
# Facts of the database, not of a process: measured when somebody asks (measure), so web can say how the workers do.
dead = Gauge("hall_events_dead", "Events given up on, waiting for a replay", multiprocess_mode="mostrecent")
oldest_age = Gauge(
    "hall_events_oldest_waiting_seconds", "Age of the oldest event that is due and not handled", multiprocess_mode="mostrecent"
)


class Relay:
    """Runs in the worker; several may run at once."""

    def __init__(
        self,
        database: Database,
        subscribers: Mapping[str, Sequence[Subscriber]],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._events = database["events"]
        self._subscribers = subscribers
        self._clock = clock
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look now instead of at the next poll."""
        self._wake.set()

    async def run(self, stop: asyncio.Event, poll_s: float = 1.0) -> None:
        """Relay until `stop` is set; events in hand are finished first."""
        async with asyncio.TaskGroup() as group:
            free = asyncio.Semaphore(_CONCURRENCY)
            last_of_subject: dict[str, asyncio.Task[None]] = {}

            async def hand_over(document: dict[str, Any], before: asyncio.Task[None] | None) -> None:
                try:
                    if before is not None:
                        await asyncio.wait({before})
                    await self._hand_over(document)
                except PyMongoError as error:  # its lease runs out, and then it is taken again
                    log.warning("relay.database_away", event_id=document["_id"], error=type(error).__name__)
                finally:
                    free.release()
                    if last_of_subject.get(document["subject_id"]) is asyncio.current_task():
                        del last_of_subject[document["subject_id"]]

            while not stop.is_set():
                await free.acquire()
                document = None
                try:
                    document = await self._claim()
                except PyMongoError as error:
                    log.warning("relay.database_away", error=type(error).__name__)
                if document is not None:
                    subject = document["subject_id"]
                    last_of_subject[subject] = group.create_task(hand_over(document, last_of_subject.get(subject)))
                    continue
                free.release()
                self._wake.clear()
                stopping = asyncio.ensure_future(stop.wait())
                waking = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait({stopping, waking}, timeout=poll_s, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                waking.cancel()

    async def drain(self) -> int:
        """Handle everything that is due now, one after the other; return how many. For commands and tests."""
        count = 0
        while (document := await self._claim()) is not None:
            await self._hand_over(document)
            count += 1
        return count

    async def measure(self) -> None:
        """Set the gauges: how long the oldest due event has waited, and how many are dead (counted up to a thousand)."""
        now = self._clock()
        due = {"state": "waiting", "next_at": {"$lte": now}}
        oldest = await self._events.find_one(due, {"next_at": 1}, sort=[("next_at", 1), ("_id", 1)])
        oldest_age.set((now - oldest["next_at"]).total_seconds() if oldest else 0)
        dead.set(await self._events.count_documents({"state": "dead"}, limit=1000))

    async def _claim(self) -> dict[str, Any] | None:
        now = self._clock()
        return await self._events.find_one_and_update(
            {"state": "waiting", "next_at": {"$lte": now}},
            {"$set": {"next_at": now + LEASE}, "$inc": {"tries": 1}},
            sort=[("next_at", 1), ("_id", 1)],
            return_document=ReturnDocument.AFTER,
        )

    async def _hand_over(self, document: dict[str, Any]) -> None:
        event = Event.from_document(document)
        context.request_id.set(event.request_id)
        errors: list[str] = []
        for name, handle in self._subscribers.get(event.name, ()):
            if name in document["done"]:
                continue
            try:
                await handle(event)
            except Exception as error:  # a subscriber's failure is data here: kept, counted, tried again
                failures.labels(name).inc()
                errors.append(f"{name}: {type(error).__name__}: {error}")
                log.warning("relay.subscriber_failed", event_id=event.id, subscriber=name, exc_info=error)
            else:
                await self._events.update_one({"_id": event.id}, {"$addToSet": {"done": name}})
        if not errors:
            await self._events.update_one({"_id": event.id}, {"$set": {"state": "done"}, "$unset": {"next_at": ""}})
            handled.labels(event.name).inc()
            log.info("event.handled", event_id=event.id, name=event.name, subject=event.subject_id)
        elif document["tries"] >= MAX_TRIES:
            await self._events.update_one(
                {"_id": event.id}, {"$set": {"state": "dead", "errors": errors}, "$unset": {"next_at": ""}}
            )
            log.error("relay.dead_letter", event_id=event.id, errors=errors)
        else:
            delay = _DELAYS_S[min(document["tries"], len(_DELAYS_S)) - 1]
            await self._events.update_one(
                {"_id": event.id}, {"$set": {"next_at": self._clock() + timedelta(seconds=delay), "errors": errors}}
            )


async def replay(database: Database, event_id: str | None = None) -> int:
    """Put dead events (or one of them) back in line; return how many. Subscribers that had answered stay done."""
    query: dict[str, Any] = {"state": "dead"} | ({"_id": event_id} if event_id else {})
    result = await database["events"].update_many(
        query, {"$set": {"state": "waiting", "next_at": utc_now(), "tries": 0}}
    )
    return int(result.modified_count)
