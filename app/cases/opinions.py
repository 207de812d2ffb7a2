"""Opinion templates: what is often written under a decision. Some come with the hall, an office's head adds some, and each clerk keeps own ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ASCENDING, IndexModel

from app.identity.model import StaffSession
from app.kernel.clock import utc_now
from app.kernel.errors import Conflict, Forbidden, NotFound
from app.kernel.ids import new_id
from app.storage.mongo import Database

INDEXES = {
    "opinion_templates": [IndexModel([("agency_id", ASCENDING), ("account", ASCENDING), ("_id", ASCENDING)], name="of_agency")]
}
# Actions whose text is told to the applicant -> the field that holds it.
FIELDS = {"decide": "opinion", "reject": "reason", "request_supplement": "reason", "suspend": "reason"}
MOST = 100


class TooManyOpinions(Conflict):
    """An own list is full: take one away first."""

    code = "opinion.too_many"


class Opinions:
    def __init__(self, database: Database, given: Sequence[Mapping[str, Any]]) -> None:
        """`given`: rows of config/opinions.json: {action, outcome?, text, agency?, item?}, for all when a key is left out."""
        self._own = database["opinion_templates"]
        self._given = given

    async def of(self, staff: StaffSession, action: str = "", item_code: str = "", alias: str = "") -> list[dict[str, Any]]:
        """Return what fits an action and an item, the clerk's own first, then the office's, then the hall's."""
        query = {"agency_id": staff.agency_id, "account": {"$in": [staff.account, None]}}
        rows = [
            {"id": row["_id"], "is_own": row["account"] == staff.account, **{name: row[name] for name in _TOLD}}
            async for row in self._own.find(query).sort([("account", -1), ("_id", 1)])
        ]
        rows += [
            {"id": None, "is_own": False, **{name: row.get(name, "") for name in _TOLD}}
            for row in self._given
            if row.get("agency", staff.agency_id) == staff.agency_id
        ]
        return [
            row
            for row in rows
            if (not action or row["action"] == action) and (not item_code or row["item"] in ("", item_code, alias))
        ]

    async def add(self, staff: StaffSession, row: Mapping[str, str], *, for_agency: bool) -> dict[str, Any]:
        """Keep a template {action, outcome, item, text}; the same text again is the same template.

        Raises:
            Forbidden: a clerk cannot add for the whole office.
            TooManyOpinions.
        """
        if for_agency and staff.role != "head":
            raise Forbidden("本单位共用的意见由负责人添加。", en="The head adds what all may use.")
        same = {"agency_id": staff.agency_id, "account": None if for_agency else staff.account, **{name: row[name] for name in _TOLD}}
        if await self._own.count_documents({"agency_id": same["agency_id"], "account": same["account"]}, limit=MOST) >= MOST:
            raise TooManyOpinions(f"最多存{MOST}条，请先删除不用的。", en="Too many templates.")
        kept = await self._own.find_one_and_update(
            same, {"$setOnInsert": {"_id": new_id("opn"), "at": utc_now()}}, upsert=True, return_document=True
        )
        return {"id": kept["_id"], "is_own": not for_agency, **{name: row[name] for name in _TOLD}}

    async def remove(self, staff: StaffSession, template_id: str) -> None:
        """Take an own template away; a head also the office's. Raises NotFound."""
        accounts: list[str | None] = [staff.account, None] if staff.role == "head" else [staff.account]
        query = {"_id": template_id, "agency_id": staff.agency_id, "account": {"$in": accounts}}
        if (await self._own.delete_one(query)).deleted_count == 0:
            raise NotFound("没有这条意见。", en="No such template.")


_TOLD = ("action", "outcome", "item", "text")
