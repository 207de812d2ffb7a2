"""What people wrote in ratings, sealed: opened for whoever may read it; and the step that seals what older versions kept in clear."""

from collections.abc import Mapping
from typing import Any

from app.kernel.clock import format_utc
from app.kernel.crypto import KeyRing
from app.storage.mongo import Database


def sealed(text: str, rating_id: str, keys: KeyRing) -> str:
    """Return the text of a rating as it is stored."""
    return keys.seal(text, context=f"{rating_id}.text")


def opened(row: Mapping[str, Any], keys: KeyRing) -> dict[str, Any]:
    """Return a stored rating with its words."""
    follow_up = row.get("follow_up_sealed")
    return {
        "level": row["level"],
        "tags": list(row["tags"]),
        "text": keys.open_sealed(row["text_sealed"], context=f"{row['_id']}.text"),
        "at": format_utc(row["at"]),
        "follow_up": keys.open_sealed(follow_up, context=f"{row['_id']}.follow_up") if follow_up else None,
    }


async def seal_old_texts(database: Database, keys: KeyRing) -> int:
    """Seal the text of every rating that is kept in clear; return how many. Streamed; may be repeated, and by several at once."""
    count = 0
    async for row in database["evaluations"].find({"text_sealed": {"$exists": False}}, {"text": 1}).batch_size(500):
        change = {"$set": {"text_sealed": sealed(row.get("text") or "", row["_id"], keys)}, "$unset": {"text": ""}}
        same = {"_id": row["_id"], "text_sealed": {"$exists": False}}
        count += (await database["evaluations"].update_one(same, change)).modified_count
    return count
