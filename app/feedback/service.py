"""Ratings of finished cases (一事一评). Levels in the standard's code: 1 very satisfied ... 5 very dissatisfied (GB/T 39046-2020)."""

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, IndexModel

from app.cases import forms, machine, steps
from app.cases.model import Case
from app.cases.service import Cases
from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from app.storage.mongo import Database

INDEXES = {"evaluations": [IndexModel([("case_id", ASCENDING)], name="one_per_case", unique=True)]}

LEVELS = {1: "非常满意", 2: "满意", 3: "基本满意", 4: "不满意", 5: "非常不满意"}


class Feedback:
    def __init__(self, database: Database, cases: Cases) -> None:
        self._database = database
        self._cases = cases

    async def evaluate(self, case_id: str, resident_id: str, level: int, tags: Sequence[str], text: str) -> Case:
        """Rate a finished case, once. The rating and the case's mark are written in one transaction.

        Raises:
            CaseNotFound, ActionNotAllowed (not finished, or rated already).
        """

        async def work(session: Any) -> Case:
            case = await self._cases.store.load({"_id": case_id, "owner_id": resident_id}, session)
            item = await self._cases.catalogue.item_at(case.item_code, case.item_version)
            now = utc_now()
            moved = steps.advance(
                case,
                "evaluate",
                machine.RESIDENT,
                now,
                by=steps.APPLICANT,
                title="已评价",
                data={"level": level},
                evaluation_level=level,
            )
            await self._database["evaluations"].insert_one(
                {
                    "_id": new_id("evl"),
                    "case_id": case.id,
                    "agency_id": case.agency_id,
                    "item_code": case.item_code,
                    "level": level,
                    "tags": list(tags),
                    "text": text,
                    "at": now,
                },
                session=session,
            )
            return await self._cases.store.save(moved.case, moved.events, forms.personal_keys(item), session)

        return await self._database.transaction(work)
