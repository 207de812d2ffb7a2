"""What a clerk has marked as wrong while looking through a case, field by field and material by material.

Marks are the office's own notes: the applicant sees nothing of them until they are sent together, as the one notice of everything that is
missing (一次性告知). A mark stands until the next notice; one is kept per field, the last word counts. Reasons can say what stands in
somebody's papers, so they are sealed.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, IndexModel

from app.cases import materials, review, views
from app.cases.model import Case
from app.cases.ports import Catalogue
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import format_utc, utc_now
from app.kernel.crypto import KeyRing
from app.kernel.errors import NotFound, ValidationFailed, error_row
from app.storage.mongo import Database

INDEXES = {"case_marks": [IndexModel([("case_id", ASCENDING)], name="of_case")]}


class Marks:
    def __init__(self, database: Database, catalogue: Catalogue, keys: KeyRing, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._marks = database["case_marks"]
        self._catalogue = catalogue
        self._keys = keys
        self._clock = clock

    async def of(self, case: Case) -> list[dict[str, Any]]:
        """Return the marks that no notice has told yet: [{key, name, reason, by, at}], in the order of form and materials."""
        told_at = case.supplement["requested_at"] if case.supplement else None
        found = {row["key"]: row async for row in self._marks.find({"case_id": case.id})}
        return [
            {
                "key": key,
                "name": name,
                "reason": self._keys.open_sealed(found[key]["reason"], context=found[key]["_id"]),
                "by": found[key]["by"],
                "at": format_utc(found[key]["at"]),
            }
            for key, name in (await self._markable(case)).items()
            if key in found and (told_at is None or found[key]["at"] > told_at)
        ]

    async def put(self, case: Case, staff: StaffSession, key: str, reason: str) -> None:
        """Mark a field or a material. The same again changes nothing but its time.

        Raises:
            ActionNotAllowed: a colleague has claimed the case.
            ValidationFailed: the case has no such field or material.
        """
        review.check_assignee(case, staff)
        if key not in await self._markable(case):
            raise ValidationFailed([error_row("/key", "unknown", "这个办件没有这项材料或表单项")])
        mark_id = f"{case.id}/{key}"
        await self._marks.replace_one(
            {"_id": mark_id},
            {
                "case_id": case.id,
                "key": key,
                "reason": self._keys.seal(reason, context=mark_id),
                "by": staff.account,
                "at": self._clock(),
            },
            upsert=True,
        )
        await self._record(case, staff, "case.mark")

    async def take_back(self, case: Case, staff: StaffSession, key: str) -> None:
        """Take a mark away. Raises ActionNotAllowed, NotFound."""
        review.check_assignee(case, staff)
        if (await self._marks.delete_one({"_id": f"{case.id}/{key}"})).deleted_count == 0:
            raise NotFound("没有这个标记。", en="No such mark.")
        await self._record(case, staff, "case.unmark")

    async def missing(self, case: Case) -> list[dict[str, str]]:
        """Return the marks as what a notice asks for. Raises ValidationFailed when nothing is marked."""
        rows = [{"key": mark["key"], "reason": mark["reason"]} for mark in await self.of(case)]
        if not rows:
            raise ValidationFailed([error_row("/from_marks", "empty", "还没有标记，先在表单或材料上标出问题")])
        return rows

    async def _markable(self, case: Case) -> Mapping[str, str]:
        item = await self._catalogue.item_at(case.item_code, case.item_version)
        fields = {field["key"]: field["label"] for field in views.fields_of(item, case)}
        return fields | {material["key"]: material["name"] for material in materials.needed(item, case.answers)}

    async def _record(self, case: Case, staff: StaffSession, action: str) -> None:
        await record(self._database["audit"], actor=staff.account, action=action, subject=case.id, owner_id=case.owner_id)
