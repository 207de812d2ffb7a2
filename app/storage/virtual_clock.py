"""The virtual clock of dev and test: kept in MongoDB, followed by every process, so that it outlives a restart.

Only `follow` moves a process's clock, and commands/assembly.py starts it in dev and test alone: in production nothing reads what is
stored here.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog
from pymongo.errors import PyMongoError

from app.kernel import clock
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

COLLECTION = "virtual_clock"
_EVERY_S = 0.5


async def stored(database: Database) -> timedelta:
    """Return by how much the hall's clock is to run ahead."""
    document = await database[COLLECTION].find_one({"_id": "clock"})
    return timedelta(seconds=document["ahead_s"] if document else 0)


async def move(database: Database, ahead: timedelta) -> None:
    """Let all processes follow to this; they do so within a second."""
    await database[COLLECTION].update_one({"_id": "clock"}, {"$set": {"ahead_s": ahead.total_seconds()}}, upsert=True)


async def follow(database: Database, stop: asyncio.Event, moved: Callable[[], None], *, every_s: float = _EVERY_S) -> None:
    """Keep this process's clock where the stored one is until `stop`, and call `moved` after each change.

    A database that is away leaves the clock as it is.
    """
    try:
        while not stop.is_set():
            try:
                ahead = await stored(database)
            except PyMongoError as error:
                log.warning("clock.database_away", error=type(error).__name__)
            else:
                if ahead != clock.ahead():
                    clock.run_ahead(ahead)
                    log.info("clock.moved", ahead=str(ahead), now=clock.format_utc(clock.utc_now()))
                    moved()
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                pass
    finally:
        clock.run_ahead(timedelta(0))  # a test's process goes on after its hall has closed
