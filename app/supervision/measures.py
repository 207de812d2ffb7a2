"""Measures of supervision (指标), added up as things happen: one small document per agency and day, never a walk over all cases.

| measure | counts |
| --- | --- |
| early, on_time, late | decisions before, on and after the day that binds (提前办结, 按时办结, 超期) |
| noticed, noticed_again | first supplement notices, and further ones (一次告知达标率) |
| deemed_accepted | acceptances by silence |
| yellow, red, escalated | cards, and red ones passed on to the superior |
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.storage.mongo import Database

MEASURES = ("early", "on_time", "late", "noticed", "noticed_again", "deemed_accepted", "yellow", "red", "escalated")
RULE_VERSION = "2026-1"  # of what is counted and how; statistics name it
INDEXES = {"supervision_days": [IndexModel([("agency_id", ASCENDING), ("on", ASCENDING)], name="of_agency", unique=True)]}


async def count(database: Database, agency_id: str, on: date, counts: Mapping[str, int], session: AsyncClientSession) -> None:
    """Add to an agency's day, in the transaction of what is counted."""
    if counts:
        day = on.isoformat()
        await database["supervision_days"].update_one(
            {"_id": f"{agency_id}:{day}"}, {"$inc": dict(counts), "$set": {"agency_id": agency_id, "on": day}}, upsert=True, session=session
        )


async def days(database: Database, agency_id: str, begin: date, end: date) -> list[dict[str, Any]]:
    """Return an agency's days in order, both ends included; days on which nothing happened are left out."""
    query = {"agency_id": agency_id, "on": {"$gte": begin.isoformat(), "$lte": end.isoformat()}}
    return [_row(row) async for row in database["supervision_days"].find(query).sort("on", 1)]


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of days, and the rates; a rate of nothing is None."""
    sums = {name: sum(row[name] for row in rows) for name in MEASURES}
    decided = sums["early"] + sums["on_time"] + sums["late"]
    rates = {
        "early_rate": _rate(sums["early"], decided),
        "on_time_rate": _rate(sums["early"] + sums["on_time"], decided),
        "late_rate": _rate(sums["late"], decided),
        "noticed_once_rate": _rate(max(sums["noticed"] - sums["noticed_again"], 0), sums["noticed"]),
    }
    return sums | {"decided": decided} | rates


def _row(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"on": document["on"], **{name: document.get(name, 0) for name in MEASURES}}


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
