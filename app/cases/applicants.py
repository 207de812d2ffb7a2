"""Who has handed in cases: walked by resident, for those who write to a segment (an agency's campaign)."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Protocol

from pymongo import ASCENDING, IndexModel

from app.kernel.clock import SHANGHAI
from app.storage.mongo import Database

_BEGIN = datetime(2000, 1, 1, tzinfo=UTC)  # before any case
_HANDED_IN = {"submitted_at": {"$gte": _BEGIN}}


def _walk(by: str) -> IndexModel:
    # Everything that is asked for stands in the index, so the cases themselves are not read.
    keys = [(by, ASCENDING), ("owner_id", ASCENDING), ("agency_id", ASCENDING), ("submitted_at", ASCENDING)]
    return IndexModel(keys, name=f"applicants_by_{by}", partialFilterExpression=_HANDED_IN)


INDEXES = [_walk("division_code"), _walk("item_code")]


class Asked(Protocol):
    """Which cases count: of these items, or of these divisions when there are no items."""

    @property
    def agency_id(self) -> str: ...
    @property
    def divisions(self) -> Sequence[str]: ...
    @property
    def items(self) -> Sequence[str]: ...
    @property
    def from_on(self) -> date | None: ...
    @property
    def until_on(self) -> date | None: ...


class Applicants:
    def __init__(self, database: Database) -> None:
        self._cases = database["cases"]

    async def stretch(self, asked: Asked, after: str, before: str, limit: int, only: str = "") -> tuple[list[str], str | None]:
        """Return residents with such a case, by id between `after` and `before`, each once, and where to go on (None: the end).

        Args:
            asked: `agency_id` "": whichever agency has the case; days are Shanghai days, both included.
            limit: of cases that are looked at; who has several of them comes once, so fewer residents may come.
            only: this resident alone.
        """
        by, codes = ("item_code", asked.items) if asked.items else ("division_code", asked.divisions)
        query: dict[str, Any] = {by: {"$in": list(codes)}, "owner_id": {"$gt": after, "$lt": before}}
        query["submitted_at"] = {"$gte": _begin_of(asked.from_on) if asked.from_on else _BEGIN}
        if asked.until_on:
            query["submitted_at"]["$lt"] = _begin_of(asked.until_on + timedelta(days=1))
        if asked.agency_id:
            query["agency_id"] = asked.agency_id
        if only:
            query["owner_id"] = only
        found = self._cases.find(query, {"_id": 0, "owner_id": 1}).hint(f"applicants_by_{by}").sort("owner_id", ASCENDING).limit(limit)
        owners = [row["owner_id"] async for row in found]
        return list(dict.fromkeys(owners)), owners[-1] if len(owners) == limit else None


def _begin_of(day: date) -> datetime:
    return datetime.combine(day, time(), SHANGHAI).astimezone(UTC)
