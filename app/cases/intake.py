"""Window intake (窗口收件): a clerk opens a case for a resident who stands before them, fills it in, and hands it in when they confirm.

It is a case like any other, by the same engine: the resident's own, with channel `window` and `taken_in_by`. Until it is handed in, the clerk
who took it in works on it in the resident's place, and nobody else of the office; each of these steps leaves an audit row. Every write is
one of drafts.py and service.py, with their guarantees.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from app.cases.drafts import Save
from app.cases.errors import CaseNotFound
from app.cases.model import Case, State
from app.cases.service import Cases
from app.identity.model import LEVEL_FACE, Resident, StaffSession
from app.kernel.audit import record
from app.kernel.clock import utc_now
from app.kernel.errors import Forbidden, ValidationFailed, error_row
from app.kernel.numbers import check_mobile
from app.storage.mongo import Database

CHANNEL = "window"
MOST = 50


class NotYourItem(Forbidden):
    """Another agency handles this item."""

    code = "intake.other_agency"


class Residents(Protocol):
    """What is needed of app/identity/window.py."""

    async def resident(self, name: str, id_number: str, by: str, now: datetime) -> Resident: ...


class Intake:
    def __init__(self, database: Database, cases: Cases, residents: Residents, clock: Callable[[], datetime] = utc_now) -> None:
        self._audit = database["audit"]
        self._cases = cases
        self._residents = residents
        self._clock = clock

    async def open(self, staff: StaffSession, asked: Mapping[str, Any], *, case_id: str) -> Case:
        """Open a draft for who stands at the window. The same `case_id` again returns the case that was made.

        Args:
            asked: {item_code, division_code, name, id_number, phone, answers}. The phone goes into the form and proves nothing.

        Raises:
            NotFound (unknown item), NotYourItem, ValidationFailed.
        """
        item = self._cases.catalogue.item(asked["item_code"])
        if item["agency"] != staff.agency_id:
            raise NotYourItem("这个事项不是本单位办理的，请申请人到受理单位的窗口。", en="Another agency handles this item.")
        phone = asked.get("phone") or ""
        try:
            phone = phone and check_mobile(phone)
        except ValueError as error:
            raise ValidationFailed([error_row("/phone", "invalid", str(error))]) from error
        resident = await self._residents.resident(asked["name"], asked["id_number"], staff.account, self._clock())
        case = await self._cases.drafts.open(
            resident.id, item["code"], asked["division_code"], asked.get("answers") or {}, case_id=case_id, taken_in_by=staff.account
        )
        await self._record(staff, "open", case)
        key = next((field["key"] for field in item["form"] if field.get("prefill") == "profile.mobile"), None)
        if phone and key and case.state is State.DRAFT and not case.form.get(key):
            case = await self._cases.drafts.save(case.id, case.owner_id, Save({key: phone}, {}, case.version, merge=True))
        return case

    async def drafts(self, staff: StaffSession) -> list[Case]:
        """Return what this clerk has taken in and not handed in yet, newest first."""
        query = {"taken_in_by": staff.account, "agency_id": staff.agency_id, "state": State.DRAFT.value}
        cases, _more = await self._cases.store.page(query, [("_id", -1)], MOST)
        await record(
            self._audit,
            actor=staff.account,
            action="intake.list",
            subject=staff.agency_id,
            owner_id="",
            subjects=[case.id for case in cases],
        )
        return cases

    async def get(self, case_id: str, staff: StaffSession, action: str = "read") -> Case:
        """Return a draft that this clerk has taken in; recorded as `intake.<action>`. Raises CaseNotFound."""
        return await self._load(case_id, staff, action, state=State.DRAFT.value)

    async def receipt(self, case_id: str, staff: StaffSession) -> Case:
        """Return a case that this clerk took in and handed in, for its printed receipt with number and query code. Raises CaseNotFound."""
        case = await self._load(case_id, staff, "receipt")
        if case.state is State.DRAFT:
            raise CaseNotFound
        return case

    async def save(self, case_id: str, staff: StaffSession, save: Save) -> Case:
        """Keep answers, as Drafts.save does: also when the resident fills in the same draft on their phone."""
        case = await self.get(case_id, staff, "save")
        return await self._cases.drafts.save(case.id, case.owner_id, save)

    async def submit(self, case_id: str, staff: StaffSession, *, command: str) -> Case:
        """Hand in what the resident has confirmed at the window. The same `command` again returns the case as it is.

        Raises:
            Incomplete: one row for everything that is missing or wrong.
        """
        case = await self._load(case_id, staff, "submit")
        if case.state is not State.DRAFT and case.last_command != command:
            raise CaseNotFound
        return await self._cases.submit(case.id, case.owner_id, command=command, level=LEVEL_FACE)

    async def _load(self, case_id: str, staff: StaffSession, action: str, **more: Any) -> Case:
        query = {"_id": case_id, "agency_id": staff.agency_id, "channel": CHANNEL, "taken_in_by": staff.account, **more}
        case, _item = await self._cases.drafts.current(await self._cases.store.load(query))
        await self._record(staff, action, case)
        return case

    async def _record(self, staff: StaffSession, action: str, case: Case) -> None:
        purpose = "申请人当面确认" if action == "submit" else ""
        await record(
            self._audit,
            actor=staff.account,
            action=f"intake.{action}",
            subject=case.id,
            owner_id=case.owner_id,
            purpose=purpose,
        )
