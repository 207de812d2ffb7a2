"""Transactional outbox: events are written in the transaction of the change they tell of.

Guarantee: an event is in `events` if and only if its change is committed. From there the relay (relay.py) hands it to every
subscriber at least once; subscribers make it exactly once by being idempotent on (event id, subscriber name).
"""

from collections.abc import Sequence
from datetime import datetime

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.events import Event
from app.storage.mongo import Database

INDEXES = {
    "events": [
        # Only what waits is in this index, so it stays small however many events there have been.
        IndexModel(
            [("next_at", ASCENDING), ("_id", ASCENDING)], name="waiting", partialFilterExpression={"state": "waiting"}
        ),
        # Urgent events are looked for by their names.
        IndexModel(
            [("name", ASCENDING), ("next_at", ASCENDING), ("_id", ASCENDING)], name="waiting_by_name",
            partialFilterExpression={"state": "waiting"},
        ),  # fmt: skip
        IndexModel([("state", ASCENDING), ("_id", ASCENDING)], name="dead", partialFilterExpression={"state": "dead"}),
        IndexModel([("subject_id", ASCENDING), ("_id", ASCENDING)], name="of_subject"),
    ]
}


async def append(
    database: Database, session: AsyncClientSession, events: Sequence[Event], *, not_before: datetime | None = None
) -> None:
    """Write events in the transaction of `session`; the relay takes them at once, or from `not_before` on."""
    if events:
        await database["events"].insert_many(
            [
                event.to_document() | {"state": "waiting", "next_at": not_before or event.at, "done": [], "tries": 0}
                for event in events
            ],
            session=session,
        )
