"""The relay: hands each event of the outbox to each subscriber at least once.

A relay claims events by pushing their `next_at` forward (a lease, renewed while it works on them): when the process dies, the lease runs
out and any relay takes them again, and repeats them to every subscriber. When all have answered, or one failed, that is noted in one
write: who has answered stands in `done`, so one that fails does not make the others run again. What keeps failing becomes `dead` with
its error, is counted, and waits for `replay`. Redis only wakes the relay sooner; without it the poll finds everything.

Places: urgent events (assembly says which names) have places and a look-up of their own, so none waits behind a burst of others.

Order: within one relay the events of one subject are handed over in the order in which they happened; an urgent one brings those of its
subject along that are still waiting. Across several workers, and around a failure, they may change places; subscribers must not
depend on it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import structlog
from prometheus_client import Counter, Gauge
from pymongo import ASCENDING, UpdateOne
from pymongo.errors import PyMongoError

from app.kernel import context
from app.kernel.clock import utc_now
from app.kernel.events import Event
from app.kernel.tasks import end
from app.storage.claims import claim
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

Subscriber = tuple[str, Callable[[Event], Awaitable[None]]]
Document = dict[str, Any]

# Short, for an urgent event of a dead worker waits for its end; a subscriber may take longer, since the lease is renewed meanwhile.
LEASE = timedelta(seconds=6)
_RENEWED_S = 2
MAX_TRIES = 12
_DELAYS_S = (1, 2, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200)
# How many events one relay has in hand at once.
_URGENT_PLACES, _PLACES = 8, 16

handled = Counter("hall_events_handled", "Events handed to all their subscribers", ["name"])
failures = Counter("hall_event_failures", "A subscriber failed on an event", ["subscriber"])
# Facts of the database, not of a process: measured when somebody asks (measure), so web can say how the workers do.
dead = Gauge("hall_events_dead", "Events given up on, waiting for a replay", multiprocess_mode="mostrecent")
oldest_age = Gauge(
    "hall_events_oldest_waiting_seconds", "Age of the oldest event that is due and not handled", multiprocess_mode="mostrecent"
)


class Relay:
    """Runs in the worker; several may run at once.

    Args:
        urgent: names of events that never wait behind others.
    """

    def __init__(
        self,
        database: Database,
        subscribers: Mapping[str, Sequence[Subscriber]],
        clock: Callable[[], datetime] = utc_now,
        urgent: Collection[str] = (),
    ) -> None:
        self._database = database
        self._events = database["events"]
        self._subscribers = subscribers
        self._clock = clock
        self._urgent = sorted(urgent)
        self._wakes = {"urgent": asyncio.Event(), "others": asyncio.Event()}
        self._in_hand: set[str] = set()
        # One claim after the other, until its events stand in line: or an urgent one could overtake an earlier one of its subject.
        self._claiming = asyncio.Lock()
        self._last_of_subject: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Look now instead of at the next poll."""
        for event in self._wakes.values():
            event.set()

    async def run(self, stop: asyncio.Event, poll_s: float = 1.0) -> None:
        """Relay until `stop` is set; events in hand are finished first."""
        async with self._renewing(), asyncio.TaskGroup() as group:
            if self._urgent:
                group.create_task(self._loop(stop, poll_s, group, self._wakes["urgent"], self._claim_urgent, _URGENT_PLACES))
            await self._loop(stop, poll_s, group, self._wakes["others"], self._claim, _PLACES)

    async def _loop(
        self,
        stop: asyncio.Event,
        poll_s: float,
        group: asyncio.TaskGroup,
        wake: asyncio.Event,
        claim_some: Callable[[int], Awaitable[list[Document]]],
        places: int,
    ) -> None:
        free = asyncio.Semaphore(places)

        async def hand_over(document: Document, before: asyncio.Task[None] | None, is_counted: bool) -> None:
            try:
                if before is not None:
                    await asyncio.wait({before})
                await self._hand_over(document)
            except PyMongoError as error:  # its lease runs out, and then it is taken again
                log.warning("relay.database_away", event_id=document["_id"], error=type(error).__name__)
            finally:
                self._in_hand.discard(document["_id"])
                if is_counted:
                    free.release()
                if self._last_of_subject.get(document["subject_id"]) is asyncio.current_task():
                    del self._last_of_subject[document["subject_id"]]

        while not stop.is_set():
            await free.acquire()
            count = 1
            while not free.locked():
                await free.acquire()
                count += 1
            documents: list[Document] = []
            async with self._claiming:
                try:
                    documents = await claim_some(count)
                except PyMongoError as error:
                    log.warning("relay.database_away", error=type(error).__name__)
                # What an urgent event brings along may be more than there are places: few, and it has to go first.
                for place, document in enumerate(documents):
                    subject = document["subject_id"]
                    before = self._last_of_subject.get(subject)
                    self._last_of_subject[subject] = group.create_task(hand_over(document, before, place < count))
            for _ in range(count - len(documents)):
                free.release()
            if documents:
                continue
            wake.clear()
            stopping, waking = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(wake.wait())
            await asyncio.wait({stopping, waking}, timeout=poll_s, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            waking.cancel()

    async def drain(self) -> int:
        """Handle everything that is due now, one after the other; return how many. For commands and tests."""
        count = 0
        async with self._renewing():
            while documents := await self._claim(1):
                try:
                    await self._hand_over(documents[0])
                finally:
                    self._in_hand.discard(documents[0]["_id"])
                count += 1
        return count

    async def measure(self) -> None:
        """Set the gauges: how long the oldest due event has waited, and how many are dead (counted up to a thousand)."""
        now = self._clock()
        due = {"state": "waiting", "next_at": {"$lte": now}}
        oldest = await self._events.find_one(due, {"next_at": 1}, sort=[("next_at", 1), ("_id", 1)])
        oldest_age.set((now - oldest["next_at"]).total_seconds() if oldest else 0)
        dead.set(await self._events.count_documents({"state": "dead"}, limit=1000))

    # --- claiming ---

    async def _claim(self, most: int, more: Mapping[str, Any] | None = None, order: str = "next_at") -> list[Document]:
        now = self._clock()
        documents = await claim(
            self._events,
            {"state": "waiting", "next_at": {"$lte": now}, **(more or {})},
            sort=[("_id", ASCENDING)] if order == "_id" else [("next_at", ASCENDING), ("_id", ASCENDING)],
            most=most,
            changes={"$set": {"next_at": now + LEASE}, "$inc": {"tries": 1}},
        )
        self._in_hand |= {document["_id"] for document in documents}
        return documents

    async def _claim_urgent(self, most: int) -> list[Document]:
        """Claim urgent events, and what is still waiting of their subjects from before them; in the order in which it happened."""
        found = await self._claim(most, {"name": {"$in": self._urgent}})
        if not found:
            return []
        subjects: dict[str, str] = {}
        for document in found:
            subjects[document["subject_id"]] = max(document["_id"], subjects.get(document["subject_id"], ""))
        earlier = {"$or": [{"subject_id": subject, "_id": {"$lt": last}} for subject, last in subjects.items()]}
        try:
            while brought := await self._claim(100, earlier, "_id"):
                found += brought
        except PyMongoError:
            # Not without the earlier ones: whoever takes them when their lease has run out brings those along.
            self._in_hand -= {document["_id"] for document in found}
            raise
        return sorted(found, key=lambda document: str(document["_id"]))

    @asynccontextmanager
    async def _renewing(self) -> AsyncIterator[None]:
        """Renew the leases of what is in hand, so that only a dead process loses them."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(_RENEWED_S)
                try:
                    mine = {"_id": {"$in": list(self._in_hand)}, "state": "waiting", "next_at": {"$gt": self._clock()}}
                    if self._in_hand:
                        await self._events.update_many(mine, {"$max": {"next_at": self._clock() + LEASE}})
                except PyMongoError as error:
                    log.warning("relay.database_away", error=type(error).__name__)

        renewing = asyncio.create_task(renew(), name="relay-leases")
        try:
            yield
        finally:
            await end([renewing])

    # --- handing over ---

    async def _hand_over(self, document: Document) -> None:
        event = Event.from_document(document)
        context.request_id.set(event.request_id)
        errors: list[str] = []
        done: list[str] = []
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
                done.append(name)
        # From here on no renewal may push it forward again.
        self._in_hand.discard(event.id)
        if not errors:
            await self._note(event.id, done, {"$set": {"state": "done"}, "$unset": {"next_at": "", "claim": ""}})
            handled.labels(event.name).inc()
            log.info("event.handled", event_id=event.id, name=event.name, subject=event.subject_id)
        elif document["tries"] >= MAX_TRIES:
            await self._note(event.id, done, {"$set": {"state": "dead", "errors": errors}, "$unset": {"next_at": "", "claim": ""}})
            log.error("relay.dead_letter", event_id=event.id, errors=errors)
        else:
            delay = _DELAYS_S[min(document["tries"], len(_DELAYS_S)) - 1]
            await self._note(
                event.id, done, {"$set": {"next_at": self._clock() + timedelta(seconds=delay), "errors": errors}, "$unset": {"claim": ""}}
            )

    async def _note(self, event_id: str, done: list[str], update: Document) -> None:
        # Of two relays (the lease of one ran out) the one that finds it done leaves it so.
        mine = {"_id": event_id, "state": "waiting"}
        await self._database.together(_write, UpdateOne(mine, {**update, "$addToSet": {"done": {"$each": done}}}))


async def _write(database: Database, updates: list[UpdateOne]) -> list[None]:
    await database["events"].bulk_write(updates, ordered=False)
    return [None] * len(updates)


async def replay(database: Database, event_id: str | None = None) -> int:
    """Put dead events (or one of them) back in line; return how many. Subscribers that had answered stay done."""
    query: Document = {"state": "dead"} | ({"_id": event_id} if event_id else {})
    result = await database["events"].update_many(query, {"$set": {"state": "waiting", "next_at": utc_now(), "tries": 0}})
    return int(result.modified_count)
