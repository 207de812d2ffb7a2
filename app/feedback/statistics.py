"""Statistics of 好差评, added up as things happen: small documents per agency, item, channel and day; never a walk over all ratings.

| measure | counts |
| --- | --- |
| offered | contacts and finished matters that could be rated |
| level_1 ... level_5 | ratings, by the standard's code |
| followed_up | follow-ups (追评); they change no level |
| contacted, contacted_late, answered, corrected, set_aside | steps of call-backs; late: after the limit |

A rating counts to the day of what is rated, so `unrated` is offered less rated on every day. Every count is written in the transaction of
what it counts, so an event that comes twice counts once. A day is kept in SLOTS parts: on one document the transactions of a rush (every
application for one school) would wait for each other.
"""

import random
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.storage.mongo import Database

MEASURES = (
    "offered", "level_1", "level_2", "level_3", "level_4", "level_5", "followed_up",
    "contacted", "contacted_late", "answered", "corrected", "set_aside",
)  # fmt: skip
ALL = "all"  # the channel of what has none
RULE_VERSION = "2026-1"
MAX_DAYS = 366
SLOTS = 16
INDEXES = {
    "feedback_days": [
        IndexModel(
            [("agency_id", ASCENDING), ("on", ASCENDING), ("item_code", ASCENDING), ("channel", ASCENDING), ("slot", ASCENDING)],
            name="of_agency",
            unique=True,
        )
    ]
}


async def count(
    database: Database, session: AsyncClientSession, *, agency_id: str, item_code: str, on: str, channel: str, measures: Mapping[str, int]
) -> None:
    """Add to a day (`on`, Shanghai), in the transaction of what is counted."""
    key = {"agency_id": agency_id, "on": on, "item_code": item_code, "channel": channel, "slot": str(random.randrange(SLOTS))}  # noqa: S311
    await database["feedback_days"].update_one(
        {"_id": ":".join(key.values())}, {"$inc": dict(measures), "$setOnInsert": key}, upsert=True, session=session
    )


async def read(database: Database, agency_id: str, begin: date, end: date) -> list[dict[str, Any]]:
    """Return the rows of an agency's days, both ends included: {on, item_code, channel, and every measure}; of one day several, to be summed."""
    query = {"agency_id": agency_id, "on": {"$gte": begin.isoformat(), "$lte": end.isoformat()}}
    rows = await database["feedback_days"].find(query).sort([("on", 1), ("item_code", 1), ("channel", 1)]).to_list()
    return [{name: row[name] for name in ("on", "item_code", "channel")} | {name: row.get(name, 0) for name in MEASURES} for row in rows]


def totals(rows: Iterable[Mapping[str, Any]], today: date, unrated_counts_after_days: int | None = None) -> dict[str, Any]:
    """Return sums, unrated and rates; a rate of nothing is None.

    Args:
        unrated_counts_after_days: what stays unrated for so long counts as satisfied in `satisfied_rate`; None: only ratings count.
    """
    rows = list(rows)
    sums: dict[str, Any] = {name: sum(row[name] for row in rows) for name in MEASURES}
    rated, bad = _rated(sums), sums["level_4"] + sums["level_5"]
    silent = 0
    if unrated_counts_after_days is not None:
        last = (today - timedelta(days=unrated_counts_after_days)).isoformat()
        old = [row for row in rows if row["on"] <= last]
        silent = max(sum(row["offered"] for row in old) - sum(_rated(row) for row in old), 0)
    return sums | {
        "rated": rated,
        "unrated": max(sums["offered"] - rated, 0),
        "bad": bad,
        "satisfied_rate": _rate(rated - bad + silent, rated + silent),
        "rated_rate": _rate(rated, sums["offered"]),
        "called_back_rate": _rate(sums["contacted"] + sums["set_aside"], bad),
        "corrected_rate": _rate(sums["corrected"], bad),
    }


def grouped(rows: Iterable[Mapping[str, Any]], by: str) -> list[dict[str, Any]]:
    """Return the sums by `on`, `item_code` or `channel`, in order."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        sums = found.setdefault(row[by], {by: row[by]} | dict.fromkeys(MEASURES, 0))
        for name in MEASURES:
            sums[name] += row[name]
    return [found[key] for key in sorted(found)]


def _rated(row: Mapping[str, Any]) -> int:
    return sum(int(row[f"level_{level}"]) for level in range(1, 6))


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
