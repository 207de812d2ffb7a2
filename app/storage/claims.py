"""Taking due documents under a lease, many at once: what several workers share without taking anything twice."""

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection

from app.kernel.ids import random_code

Document = dict[str, Any]


async def claim(
    collection: AsyncCollection[Document],
    due: Mapping[str, Any],
    *,
    sort: Sequence[tuple[str, int]],
    most: int,
    changes: Mapping[str, Mapping[str, Any]],
) -> list[Document]:
    """Take up to `most` documents and return them, in order, as they are afterwards; `claim` of each is a word of this call alone.

    Each document goes to one caller: the condition is looked at again by the write that takes it. A caller that dies in between has taken
    documents that nobody works on, so the lease that `changes` gives must run out.

    Args:
        due: what may be taken; it must not hold any more once `changes` are made.
        changes: update operators; `$set` gets the claim too.
    """
    if most > 1:
        ids = [row["_id"] for row in await collection.find(due, {"_id": 1}).sort(list(sort)).limit(most).to_list()]
        if not ids:
            return []
        claimed, update = _with_claim(changes)
        if (await collection.update_many({**due, "_id": {"$in": ids}}, update)).modified_count:
            rows = {row["_id"]: row for row in await collection.find({"_id": {"$in": ids}, "claim": claimed}).to_list()}
            return [rows[one] for one in ids if one in rows]
        # Another worker was faster with all of them; there may be more.
    _claimed, update = _with_claim(changes)
    found = await collection.find_one_and_update(due, update, sort=list(sort), return_document=ReturnDocument.AFTER)
    return [] if found is None else [found]


def _with_claim(changes: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    claimed = random_code(12)
    return claimed, {**changes, "$set": {**changes.get("$set", {}), "claim": claimed}}
