"""Numbered steps that bring older data to what the code of today reads; `./hall migrate` takes those that were not taken yet, in order.

A step must be harmless when repeated, and when several processes take it at once: one that dies in the middle is taken again from its start,
and is noted as done only after it has ended. Steps are never renumbered or changed once they were released; a mistake is mended by the next.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from app.storage.mongo import Database

log = structlog.get_logger(__name__)

COLLECTION = "migrations"  # {_id: number, name, done_at, changed}


@dataclass(frozen=True)
class Migration:
    """A step: its number, what it is called, and what it does; that returns how many documents it changed."""

    number: int
    name: str
    run: Callable[[Database], Awaitable[int]]


async def migrate(database: Database, steps: Sequence[Migration], clock: Callable[[], datetime]) -> list[int]:
    """Take every step that was not taken yet; return their numbers.

    Raises:
        ValueError: numbers that do not rise.
    """
    numbers = [step.number for step in steps]
    if numbers != sorted(set(numbers)):
        raise ValueError(f"migrations: numbers must rise: {numbers}")
    done = {row["_id"] async for row in database[COLLECTION].find({}, {"_id": 1})}
    taken = []
    for step in steps:
        if step.number in done:
            continue
        changed = await step.run(database)
        note = {"name": step.name, "done_at": clock(), "changed": changed}
        await database[COLLECTION].update_one({"_id": step.number}, {"$setOnInsert": note}, upsert=True)
        log.info("migrate.step", number=step.number, name=step.name, changed=changed)
        taken.append(step.number)
    return taken
