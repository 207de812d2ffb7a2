"""The work list of an agency: any combination of filters, and counts that equal what the list shows.

Each combination is one range of one index (listed.py), sorted by the day on which the case is due; a lamp is a part of that range. A page
and its counts cost the same whether ten thousand or a million cases are stored (bench/queue.py). Counts stop at `MOST` ("99+"); list and counts
are read of one moment (snapshot), so below the bound they are equal whatever is changed meanwhile.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from app.cases.deadlines import WARN_WORKING_DAYS
from app.cases.listed import ANY, NO_DAY, NOBODY, queue_key
from app.cases.model import Case
from app.cases.store import CaseStore
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import SHANGHAI, shanghai_day, utc_now
from app.kernel.records import replace
from app.storage.mongo import Database

MOST = 99
SCOPES = ("all", "mine", "unclaimed")
_FIRST_DAY = date(2000, 1, 1)  # nothing is older, and what lies long before has no moment in UTC
LAMPS = ("red", "yellow", "green", "none")
CURSOR = r"\d{4}-\d\d-\d\d~case_[0-9A-Z]{26}\Z"


@dataclass(frozen=True)
class Wanted:
    """What of the list is wanted. Empty text and None: whatever it is.

    `scope`: all, mine, unclaimed. `assignee` is a colleague's account and goes before `scope`. `division` takes in its towns.
    `submitted_before` is a Shanghai day: handed in before it began.
    """

    scope: str = "all"
    assignee: str = ""
    state: str = ""
    lamp: str = ""
    division: str = ""
    item: str = ""
    submitted_before: date | None = None


@dataclass(frozen=True)
class Page:
    """A page of the list. `counts`: {"total", "scopes": {scope: n}, "lamps": {lamp: n}, "at_most"}; more than `at_most` reads "99+"."""

    cases: list[Case]
    next_cursor: str | None
    counts: Mapping[str, Any]


def due_range(lamp: str, on: date, calendar: WorkingCalendar) -> dict[str, str]:
    """Return the range of `due_on`, as it is stored, that shows a lamp on a day: supervision.lamps.lamp the other way round."""
    warn_on = calendar.add_working_days(on, WARN_WORKING_DAYS).on.isoformat()
    return {
        "red": {"$lt": on.isoformat()},
        "yellow": {"$gte": on.isoformat(), "$lte": warn_on},
        "green": {"$gt": warn_on, "$lt": NO_DAY},
        "none": {"$gte": NO_DAY},
    }[lamp]


class Queue:
    def __init__(
        self, database: Database, store: CaseStore, calendar: Callable[[], WorkingCalendar], clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._store = store
        self._calendar = calendar
        self._clock = clock

    async def page(self, staff: StaffSession, wanted: Wanted, *, limit: int = 20, cursor: str | None = None) -> Page:
        """Return a page of the agency's list, the most urgent first, with its counts. That it was read is recorded.

        Args:
            cursor: `next_cursor` of the page before (the key of its last row), so that nothing is skipped or shown twice
                when rows come and go in between.
        """
        on = shanghai_day(self._clock())
        async with self._database.client.start_session(snapshot=True) as session:
            counts = await self._counts(staff, wanted, on, session)
            query = self._query(staff, wanted, on)
            documents = await self._store.collection.find(_after(query, cursor), session=session).sort(
                [(name, 1) for name in _ORDER]
            ).limit(limit + 1).to_list()
        cases = self._store.opened(documents[:limit])
        await record(
            self._database["audit"],
            actor=staff.account,
            action="task.list",
            subject=staff.agency_id,
            owner_id="",
            subjects=[case.id for case in cases],
        )
        if len(documents) <= limit:
            return Page(cases, None, counts)
        return Page(cases, _cursor(documents[limit - 1]), counts)

    async def _counts(self, staff: StaffSession, wanted: Wanted, on: date, session: Any) -> dict[str, Any]:
        """Return the counts of the list itself, of the other scopes under the same filters, and of the other lamps: one command."""
        asked = {("total", ""): wanted}
        asked |= {("scopes", scope): replace(wanted, scope=scope, assignee="") for scope in SCOPES}
        asked |= {("lamps", lamp): replace(wanted, lamp=lamp) for lamp in LAMPS}
        branches = [
            [
                {"$match": self._query(staff, one, on)},
                {"$limit": MOST + 1},
                {"$count": "count"},
                {"$set": {"name": list(name)}},
            ]
            for name, one in asked.items()
        ]
        pipeline = branches[0] + [
            {"$unionWith": {"coll": self._store.collection.name, "pipeline": branch}} for branch in branches[1:]
        ]
        rows = await (await self._store.collection.aggregate(pipeline, session=session)).to_list()
        found = {tuple(row["name"]): row["count"] for row in rows}
        return {
            "total": found.get(("total", ""), 0),
            "scopes": {scope: found.get(("scopes", scope), 0) for scope in SCOPES},
            "lamps": {lamp: found.get(("lamps", lamp), 0) for lamp in LAMPS},
            "at_most": MOST,
        }

    def _query(self, staff: StaffSession, wanted: Wanted, on: date) -> dict[str, Any]:
        assignee = wanted.assignee or {"mine": staff.account, "unclaimed": NOBODY}.get(wanted.scope, ANY)
        # Drafts have no key: they are the resident's own.
        key = queue_key(staff.agency_id, assignee, wanted.state or ANY, wanted.division or ANY, wanted.item or ANY)
        query: dict[str, Any] = {"queue_keys": key}
        if wanted.lamp:
            query["due_on"] = due_range(wanted.lamp, on, self._calendar())
        if wanted.submitted_before:
            query["submitted_at"] = {"$lt": datetime.combine(max(wanted.submitted_before, _FIRST_DAY), time(), SHANGHAI)}
        return query


_ORDER = ("due_on", "_id")


def _cursor(document: Mapping[str, Any]) -> str:
    return "~".join(document[name] for name in _ORDER)


def _after(query: dict[str, Any], cursor: str | None) -> dict[str, Any]:
    """Return the query of what comes after a row. Each part is a range of the index, so a far page costs what the first does."""
    if not cursor:
        return query
    last = dict(zip(_ORDER, cursor.split("~"), strict=True))
    parts = [
        {**{before: last[before] for before in _ORDER[:place]}, name: {"$gt": last[name]}} for place, name in enumerate(_ORDER)
    ]
    return {"$or": [{"$and": [query, part]} for part in parts]}


def days_before(on: date, days: int) -> date:
    """Return the day before which a case of at least that age was handed in."""
    return on - timedelta(days=days - 1)
