"""Who took part in a case, and who therefore neither reads its ratings nor deals with what is said about it.

Whoever does something with a case leaves an audit row in the same transaction (app/cases/review.py, intake.py), so those rows are who took
part. Asked anew each time: who is given a case later is hidden from as well.
"""

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, IndexModel

from app.storage.mongo import Database

INDEXES = {"audit": [IndexModel([("subject", ASCENDING), ("actor", ASCENDING)], name="of_subject")]}

_ACTS = {"$regex": r"^(case|intake|mark|consultation)\.(?!read|list|search|receipt|found|preview)"}


async def took_part(database: Database, case_ids: Sequence[str], account: str, session: Any = None) -> set[str]:
    """Return those of the cases in which this account has done something."""
    query = {"subject": {"$in": list(case_ids)}, "actor": account, "action": _ACTS}
    return set(await database["audit"].distinct("subject", query, session=session))


async def participants(database: Database, case_id: str, session: Any = None) -> list[str]:
    """Return the staff accounts that have done something with a case."""
    return sorted(await database["audit"].distinct("actor", {"subject": case_id, "action": _ACTS}, session=session))


async def desk_for(database: Database, agency_id: str, concerned: Sequence[str], superior: str, session: Any = None) -> str:
    """Return the agency whose head deals with it: the agency's own, unless all of its heads are concerned themselves."""
    query = {"agency_id": agency_id, "role": "head", "_id": {"$nin": list(concerned)}, "disabled": {"$ne": True}}
    return agency_id if await database["staff"].find_one(query, {"_id": 1}, session=session) else superior
