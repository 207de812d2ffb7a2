"""Window intake (窗口收件): a clerk takes in, for a resident who stands before them, a case or what a notice asks for.

It is a case like any other, by the same engine: the resident's own, with channel `window` and `taken_in_by`. Until it is handed in, the clerk
who took it in works on it in the resident's place, and nobody else of the office; each of these steps leaves an audit row. Every write is
one of drafts.py and service.py, with their guarantees.

Who may take in what: an agency's clerk what the agency handles; a clerk of the agency that runs the hall what any agency handles (综合窗口,
一窗受理). Once handed in, the case is the handling agency's alone: whoever took it in sees its receipt and how far it is, and no more.

What a notice asks for comes to a window with the applicant's identity card: its number must be the one that the applicant has proven, or,
when they have proven none, the one the application is made in. The window is open to that clerk until the end of that day.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, time
from typing import Any, Protocol

from app.cases import steps
from app.cases.drafts import Save
from app.cases.errors import CaseNotFound
from app.cases.model import Case, State
from app.cases.service import Cases
from app.identity.model import LEVEL_FACE, Resident, StaffSession
from app.kernel.audit import record
from app.kernel.clock import SHANGHAI, shanghai_day, utc_now
from app.kernel.errors import Forbidden, NotFound, ValidationFailed, error_row
from app.kernel.numbers import check_id_number, check_mobile, plain_name
from app.kernel.records import replace
from app.storage.mongo import Database

CHANNEL = "window"
MOST = 50


HANDED_IN = 20  # cases on a page of what a clerk has taken in


class NotTheirCase(NotFound):
    """No case of this number waits for something from the person of this identity card, or not at this window. Not told apart."""

    code = "intake.no_such_supplement"


class NotYourItem(Forbidden):
    """Another agency handles this item."""

    code = "intake.other_agency"


class Residents(Protocol):
    """What is needed of app/identity/window.py."""

    async def resident(self, name: str, id_number: str, by: str, now: datetime) -> Resident: ...
    async def seen(self, resident_id: str, by: str, now: datetime) -> None: ...


class People(Protocol):
    """What is needed of app/identity/service.py."""

    async def resident(self, resident_id: str) -> Resident: ...


class Intake:
    def __init__(
        self,
        database: Database,
        cases: Cases,
        residents: Residents,
        people: People,
        general: str,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`general`: the agency that runs the hall, whose window takes in for all."""
        self._audit = database["audit"]
        self._cases = cases
        self._residents = residents
        self._people = people
        self._general = general
        self._clock = clock

    def is_general(self, staff: StaffSession) -> bool:
        """Say whether somebody's window takes in what any agency handles."""
        return staff.agency_id == self._general

    def _within(self, staff: StaffSession) -> dict[str, Any]:
        """Return the filter of the agencies whose cases this person's window takes in."""
        return {} if self.is_general(staff) else {"agency_id": staff.agency_id}

    def _window_of(self, staff: StaffSession) -> str:
        return str(self._cases.catalogue.agency(staff.agency_id)["name"])

    async def open(self, staff: StaffSession, asked: Mapping[str, Any], *, case_id: str) -> Case:
        """Open a draft for who stands at the window. The same `case_id` again returns the case that was made.

        Args:
            asked: {item_code, division_code, name, id_number, phone, answers}. The phone goes into the form and proves nothing.

        Raises:
            NotFound (unknown item), NotYourItem, ValidationFailed.
        """
        item = self._cases.catalogue.item(asked["item_code"])
        handles = self._cases.catalogue.handling_agency(item, asked["division_code"])["id"]
        if handles != staff.agency_id and not self.is_general(staff):
            raise NotYourItem("这个事项不是本单位办理的，请申请人到受理单位的窗口。", en="Another agency handles this item.")
        phone = asked.get("phone") or ""
        try:
            phone = phone and check_mobile(phone)
        except ValueError as error:
            raise ValidationFailed([error_row("/phone", "invalid", str(error))]) from error
        resident = await self._residents.resident(asked["name"], asked["id_number"], staff.account, self._clock())
        case = await self._cases.drafts.open(
            resident.id, item["code"], asked["division_code"], asked.get("answers") or {}, case_id=case_id,
            taken_in_by=staff.account, window=self._window_of(staff),
        )  # fmt: skip
        await self._record(staff, "open", case)
        key = next((field["key"] for field in item["form"] if field.get("prefill") == "profile.mobile"), None)
        if phone and key and case.state is State.DRAFT and not case.form.get(key):
            case = await self._cases.drafts.save(case.id, case.owner_id, Save({key: phone}, {}, case.version, merge=True))
        return case

    async def drafts(self, staff: StaffSession) -> list[Case]:
        """Return what this clerk has taken in and not handed in yet, newest first."""
        query = {"taken_in_by": staff.account, "state": State.DRAFT.value} | self._within(staff)
        cases, _more = await self._cases.store.page(query, [("_id", -1)], MOST)
        await self._record_list(staff, cases)
        return cases

    async def handed_in(self, staff: StaffSession, cursor: str | None = None) -> tuple[list[Case], str | None]:
        """Return what this clerk has taken in and handed in, newest first, and the next cursor. For views.progress, nothing more."""
        query: dict[str, Any] = {"taken_in_by": staff.account, "submitted_at": {"$ne": None}} | self._within(staff)
        if cursor:
            query["_id"] = {"$lt": cursor}
        cases, more = await self._cases.store.page(query, [("_id", -1)], HANDED_IN)
        await self._record_list(staff, cases)
        return cases, cases[-1].id if more else None

    async def get(self, case_id: str, staff: StaffSession, action: str = "read") -> Case:
        """Return what this clerk has open at the window, a draft or a case that waits for a supplement; recorded as `intake.<action>`.

        Raises:
            CaseNotFound: somebody else's, handed in already, or opened for a supplement on another day.
        """
        return await self._load(case_id, staff, action, state={"$in": [State.DRAFT.value, State.SUPPLEMENT_REQUIRED.value]})

    async def receipt(self, case_id: str, staff: StaffSession) -> Case:
        """Return a case that this clerk took in and handed in, for its printed receipt with number and query code. Raises CaseNotFound."""
        case = await self._load(case_id, staff, "receipt", is_receipt=True)
        if case.state is State.DRAFT:
            raise CaseNotFound
        return case

    async def open_supplement(self, staff: StaffSession, number: str, name: str, id_number: str) -> Case:
        """Open a case that waits for a supplement at the window of this clerk, until the end of the day, for the applicant who stands there.

        Args:
            name, id_number: of the identity card that the clerk has in hand.

        Raises:
            ValidationFailed: no such number of a card. NotTheirCase.
        """
        try:
            seen = check_id_number(id_number)
        except ValueError as error:
            raise ValidationFailed([error_row("/id_number", "invalid", str(error))]) from error
        query = {"number": number.strip().upper(), "state": State.SUPPLEMENT_REQUIRED.value} | self._within(staff)
        refused = NotTheirCase(
            "没有找到等这位申请人补正的办件，请核对编号、姓名和身份证号码；也可能是别的单位的办件。",
            en="No case of this number waits for a supplement from this person.",
        )
        try:
            case = await self._cases.store.load(query)
        except CaseNotFound:
            raise refused from None
        owner = await self._people.resident(case.owner_id)
        number_known = owner.id_number or str(case.form.get("id_number") or "")
        name_known = owner.name if owner.id_number else str(case.form.get("name") or "")
        if seen != number_known or plain_name(name) != plain_name(name_known):
            await self._record(staff, "supplement_refused", case)
            raise refused
        now = self._clock()

        def step(case: Case, _item: Mapping[str, Any]) -> steps.Moved:
            return steps.Moved(replace(case, window={"by": staff.account, "at": now}))

        case = await self._cases.change({**query, "_id": case.id}, step)
        await self._residents.seen(owner.id, staff.account, now)
        await self._record(staff, "supplement", case)
        return case

    async def save(self, case_id: str, staff: StaffSession, save: Save) -> Case:
        """Keep answers, as Drafts.save does: also when the resident fills in the same draft on their phone."""
        case = await self.get(case_id, staff, "save")
        return await self._cases.drafts.save(case.id, case.owner_id, save)

    async def submit(self, case_id: str, staff: StaffSession, *, command: str) -> Case:
        """Hand in what the resident has confirmed at the window, a case or a supplement. The same `command` again returns the case as it is.

        Raises:
            Incomplete: one row for everything that is missing or wrong.
        """
        case = await self._load(case_id, staff, "submit")
        is_retry = case.last_command == command
        if case.state not in (State.DRAFT, State.SUPPLEMENT_REQUIRED) and not is_retry:
            raise CaseNotFound
        if case.state is State.SUPPLEMENT_REQUIRED or (is_retry and case.supplement is not None):
            return await self._cases.supplement(
                case.id, case.owner_id, command=command, taken_in_by=staff.account, window=self._window_of(staff)
            )
        return await self._cases.submit(case.id, case.owner_id, command=command, level=LEVEL_FACE)

    async def _load(self, case_id: str, staff: StaffSession, action: str, *, is_receipt: bool = False, **more: Any) -> Case:
        day = shanghai_day(self._clock())
        opened_today = {"window.by": staff.account, "window.at": {"$gte": datetime.combine(day, time(), SHANGHAI)}}
        taken_in: dict[str, Any] = {"channel": CHANNEL, "taken_in_by": staff.account}
        if not is_receipt:
            # Once it was handed in, having taken it in gives no more than the receipt: a supplement takes the card again.
            taken_in["supplement"] = None
        query = {"_id": case_id, "$or": [taken_in, opened_today], **self._within(staff), **more}
        case, _item = await self._cases.drafts.current(await self._cases.store.load(query))
        await self._record(staff, action, case)
        return case

    async def _record_list(self, staff: StaffSession, cases: list[Case]) -> None:
        await record(
            self._audit,
            actor=staff.account,
            action="intake.list",
            subject=staff.agency_id,
            owner_id="",
            subjects=[case.id for case in cases],
        )

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
