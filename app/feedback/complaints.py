"""Complaints (投诉) of a resident about a case, an agency or the hall itself: taken in once, then a work order like a call-back."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.cases.service import Cases
from app.feedback import machine, people
from app.feedback.model import Rules
from app.feedback.work_order import PERSON, WorkOrder, entry
from app.feedback.work_orders import WorkOrders
from app.kernel.clock import SHANGHAI, shanghai_day, utc_now
from app.kernel.errors import NotFound, RateLimited, ValidationFailed, error_row
from app.storage.mongo import Database

ABOUT = ("case", "agency", "hall")


class Complaints:
    def __init__(
        self, database: Database, cases: Cases, work_orders: WorkOrders, rules: Rules, superior: str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._cases = cases
        self._work_orders = work_orders
        self._rules = rules
        self._superior = superior
        self._clock = clock

    async def submit(self, resident_id: str, asked: Mapping[str, Any], *, complaint_id: str) -> WorkOrder:
        """Take a complaint in. The same `complaint_id` again returns the complaint that was made.

        Args:
            asked: {about, case_id, agency_id, text}; the case's id when it is about a case, the agency's when it is about an agency.

        Raises:
            CaseNotFound (none of their own), ValidationFailed, RateLimited (enough for today).
        """
        text = asked["text"].strip()
        if not text:
            raise ValidationFailed([error_row("/text", "required", "请写明是什么事、希望怎么解决")], "请写明是什么事、希望怎么解决，再提交。")
        about = await self._about(resident_id, asked)
        now = self._clock()
        number = await self._work_orders.next_number(machine.COMPLAINT, now)

        async def work(session: AsyncClientSession) -> WorkOrder:
            await self._count_day(resident_id, now, session)
            case_id = about.get("case_id", "")
            concerned = await people.participants(self._database, case_id, session) if case_id else []
            desk = await people.desk_for(self._database, about["agency_id"], concerned, self._superior, session)
            order = WorkOrder(
                id=complaint_id, kind=machine.COMPLAINT, number=number, owner_id=resident_id, state=machine.FIRST[machine.COMPLAINT],
                version=1, created_at=now, updated_at=now, about=asked["about"], desk_agency=desk, began_on=shanghai_day(now),
                concerned=tuple(concerned), is_with_superior=desk == self._superior, log=(entry(now, "submit", PERSON, text),), **about,
            )  # fmt: skip
            return await self._work_orders.insert(order, session)

        # Asked first: a retry is no further complaint of the day.
        try:
            return await self._work_orders.of_resident(complaint_id, machine.COMPLAINT, resident_id)
        except NotFound:
            pass
        try:
            return await self._database.transaction(work)
        except DuplicateKeyError:  # the same request, at this moment
            return await self._work_orders.of_resident(complaint_id, machine.COMPLAINT, resident_id)

    async def _about(self, resident_id: str, asked: Mapping[str, Any]) -> dict[str, str]:
        if asked["about"] == "case":
            case = await self._cases.get(asked.get("case_id") or "", resident_id)
            return {
                "case_id": case.id, "item_code": case.item_code, "item_name": case.item_name,
                "agency_id": case.agency_id, "agency_name": case.agency_name,
            }  # fmt: skip
        agency_id = self._superior if asked["about"] == "hall" else asked.get("agency_id") or ""
        try:
            agency = self._cases.catalogue.agency(agency_id)
        except (NotFound, KeyError):
            agency = None
        if agency is None:
            raise ValidationFailed([error_row("/agency_id", "unknown", "请选择要投诉的单位")])
        return {"agency_id": agency_id, "agency_name": agency["name"]}

    async def _count_day(self, resident_id: str, now: datetime, session: AsyncClientSession) -> None:
        """Count this complaint in the transaction that makes it, so that no two slip past the limit together."""
        day = shanghai_day(now)
        counter = await self._database["counters"].find_one_and_update(
            {"_id": f"complaints:{resident_id}:{day.isoformat()}"}, {"$inc": {"value": 1}}, upsert=True, return_document=True, session=session
        )
        if counter["value"] > self._rules.complaints_per_day:
            local = now.astimezone(SHANGHAI)
            midnight = local.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
            raise RateLimited(
                f"一天最多提交{self._rules.complaints_per_day}件投诉。同一件事可以在原来的投诉里补充说明；着急请打12345。",
                en="Enough complaints for today: add to one of them, or call 12345.",
                retry_after_s=max(1, int((midnight - local).total_seconds())),
            )
