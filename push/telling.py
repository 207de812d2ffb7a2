"""Writing what people are told: message and intent of many events in one transaction, each exactly once.

What is to be told at the same moment is written together (app/storage/gather.py); urgent events have batches of their own.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import BulkWriteError, ConnectionFailure, DuplicateKeyError

from app.kernel.events import Event
from app.storage.gather import Gather
from app.storage.mongo import Database
from push.deliveries import Deliveries, new_delivery
from push.lanes import URGENT
from push.store import Store, new_message
from push.templates import MORE, EventSpec, Rendered

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Telling:
    """One event in words, for the person whom it concerned when it happened."""

    event: Event
    spec: EventSpec
    rendered: Rendered
    language: str
    at: datetime


class Writer:
    """One per process."""

    def __init__(self, database: Database, store: Store, deliveries: Deliveries) -> None:
        self._database = database
        self._store = store
        self._deliveries = deliveries
        self._batches = {is_urgent: Gather(self._write_together, at_most=32, in_flight=2) for is_urgent in (True, False)}

    async def write(self, telling: Telling) -> str | None:
        """Write message and intent, both in one transaction; return whose inbox has it, or None when it was there already."""
        made = await self._batches[telling.spec.lane == URGENT].add(telling)
        if made is None:
            made = await self._write_alone(telling)
        return made or None

    async def _write_alone(self, telling: Telling) -> str:
        # Two at once on the same event, or the very first two messages of one person: the loser of the unique index runs
        # again, finds the winner's message (or its head document), and is right the second time.
        for _ in range(2):
            try:
                return (await self._write([telling]))[0] or ""
            except (DuplicateKeyError, BulkWriteError) as error:
                log.info("tell.again", event_id=telling.event.id, error=type(error).__name__)
        return (await self._write([telling]))[0] or ""

    async def _write_together(self, batch: list[Telling]) -> Sequence[str | None]:
        """Return what `_write` does; None where a telling has to go alone."""
        try:
            # What holds one of them up (until a dead process's transaction is given up) must not hold up all.
            return await self._write(batch, most_runs=2)
        except ConnectionFailure:  # perhaps written, perhaps not: the relay tells again
            raise
        except Exception as error:  # one of them, and which one shows when each goes alone
            log.info("tell.batch_fell_apart", count=len(batch), error=type(error).__name__)
            return [None] * len(batch)

    async def _write(self, batch: Sequence[Telling], most_runs: int | None = None) -> list[str | None]:
        """Write a batch in one transaction; of each the owner, "" when its message was there, None for the second telling of one event."""
        answers: list[str | None] = []
        runs = 0

        async def work(session: AsyncClientSession) -> None:
            nonlocal runs
            runs += 1
            if most_runs is not None and runs > most_runs:
                raise _Contended
            answers[:] = await self._write_in(batch, session)  # a transaction may run more than once

        await self._database.transaction(work)
        return answers

    async def _write_in(self, batch: Sequence[Telling], session: AsyncClientSession) -> list[str | None]:
        owners = await self._store.owners_now({telling.event.owner_id for telling in batch}, session)
        wanted = [(telling.event.id, owners[telling.event.owner_id]) for telling in batch]
        known = await self._store.known_messages(wanted, session)
        answers: list[str | None] = []
        new: list[Telling] = []
        seen: set[tuple[str, str]] = set()
        for telling, key in zip(batch, wanted, strict=True):
            answers.append("" if key in known else None if key in seen else key[1])
            if answers[-1]:
                new.append(telling)
            seen.add(key)
        if not new:
            return answers
        counts = Counter(owners[telling.event.owner_id] for telling in new)
        seqs = {owner: last - counts[owner] for owner, last in (await self._store.advance(counts, session)).items()}
        messages: list[dict[str, Any]] = []
        intents: list[dict[str, Any]] = []
        for telling in new:
            owner = owners[telling.event.owner_id]
            seqs[owner] += 1
            messages.append(new_message(owner, seqs[owner], telling.event, telling.rendered))
            intents.append(new_delivery(messages[-1]["_id"], owner, telling.event, telling.spec, telling.rendered, telling.at))
        await self._store.add_messages(messages, session)
        single = [intent for intent in intents if not intent["may_merge"]]
        if single:
            await self._deliveries.add_many(single, session)
        for intent, telling in zip(intents, new, strict=True):
            if intent["may_merge"]:  # one after the other: each looks at the one before
                await self._deliveries.add(intent, MORE[telling.language], session)
        return answers


class _Contended(Exception):
    """Others are writing to these persons, twice in a row."""
