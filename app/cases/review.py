"""What an agency's clerks do with the cases of their agency. Somebody else's agency answers as if the case did not exist."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.cases import machine, materials, steps, views
from app.cases.completeness import has_delivery
from app.cases.errors import ActionNotAllowed
from app.cases.model import Case, State
from app.cases.service import Cases
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import utc_now
from app.kernel.errors import ValidationFailed, error_row
from app.storage.mongo import Database

Body = Mapping[str, Any]
Step = Callable[[Case, Mapping[str, Any]], steps.Moved]


class Review:
    def __init__(
        self, database: Database, cases: Cases, known_account: Callable[[str, str], Any], clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._cases = cases
        self._known_account = known_account  # async (account, agency_id) -> bool
        self._clock = clock

    async def tasks(
        self, staff: StaffSession, *, state: str | None = None, mine: bool = False, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[Case], str | None]:
        """Return the open cases of the clerk's agency, the most urgent first, and the cursor of the next page."""
        query: dict[str, Any] = {"agency_id": staff.agency_id}
        if state:
            query |= {"state": state} if state != State.DRAFT else {"state": "none"}  # drafts are the resident's own
        else:
            query["is_open"] = True
        if mine:
            query["assignee"] = staff.account
        if cursor:
            due_on, _, case_id = cursor.partition("~")
            query["$or"] = [{"due_on": {"$gt": due_on}}, {"due_on": due_on, "_id": {"$gt": case_id}}]
        cases, more = await self._cases.store.page(query, [("due_on", 1), ("_id", 1)], limit)
        if not more:
            return cases, None
        last = cases[-1]
        due = last.deadline_on or last.accept_by_on
        return cases, f"{due.isoformat() if due else '9999-12-31'}~{last.id}"

    async def get(self, case_id: str, staff: StaffSession) -> Case:
        """Return a case of the clerk's agency; that it was read is recorded. Raises CaseNotFound."""
        case = await self._cases.store.load(_of_agency(case_id, staff))
        await record(self._database["audit"], actor=staff.account, action="case.read", subject=case.id, owner_id=case.owner_id)
        return case

    async def view(self, case: Case, staff: StaffSession) -> dict[str, Any]:
        """Return a case as its agency may see it, with what this person can do."""
        item = await self._cases.catalogue.item_at(case.item_code, case.item_version)
        return views.for_staff(case, item, allowed_actions(case, staff))

    async def read_material(self, case_id: str, staff: StaffSession, file_id: str) -> tuple[str, str, bytes]:
        """Return (name, type, bytes) of a file of a case of the clerk's agency; the reading is recorded."""
        case = await self._cases.store.load(_of_agency(case_id, staff))
        await record(
            self._database["audit"], actor=staff.account, action="material.read", subject=case.id, owner_id=case.owner_id
        )
        return await self._cases.read_file(case, file_id)

    async def act(self, case_id: str, action: str, staff: StaffSession, body: Body) -> Case:
        """Take a clerk's action.

        Args:
            action: a name of `ACTIONS`; `body` is what its schema in handlers/staff.py lets through.

        Raises:
            CaseNotFound, ActionNotAllowed, ValidationFailed, CaseConflict.
        """
        if action == "reassign" and not await self._known_account(body["account"], staff.agency_id):
            raise ValidationFailed([error_row("/account", "unknown", "本单位没有这个账号")])
        now = self._clock()

        def step(case: Case, item: Mapping[str, Any]) -> steps.Moved:
            transition = machine.transition(action, case.state)
            if transition is not None and action not in ("claim", "reassign"):
                _check_assignee(case, staff)
                # Whoever acts first on an unclaimed case has claimed it.
                case = replace(case, assignee=case.assignee or staff.account)
            return ACTIONS[action](self, case, item, staff, body, now)

        async def audit(case: Case, session: Any) -> None:
            await record(
                self._database["audit"],
                actor=staff.account,
                action=f"case.{action}",
                subject=case.id,
                owner_id=case.owner_id,
                session=session,
            )

        return await self._cases.change(_of_agency(case_id, staff), step, audit)

    def _claim(self, case: Case, _item: Body, staff: StaffSession, _body: Body, now: datetime) -> steps.Moved:
        if case.assignee not in (None, staff.account):
            _check_assignee(case, staff)
        starts_review = case.state is State.ACCEPTED
        return steps.advance(
            case,
            "claim",
            machine.CLERK,
            now,
            by=case.agency_name,
            title="开始审查" if starts_review else "",
            detail="经办人员正在审查材料。" if starts_review else "",
            assignee=staff.account,
        )

    def _request_supplement(self, case: Case, item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        names = {material["key"]: material["name"] for material in materials.needed(item, case.answers)}
        names |= {field["key"]: field["label"] for field in item["form"]}
        rows = [
            error_row(f"/missing/{number}/key", "unknown", "这个事项没有这项材料或表单项")
            for number, row in enumerate(body["missing"])
            if row["key"] not in names
        ]
        if rows:
            raise ValidationFailed(rows)
        missing = [{"key": row["key"], "name": names[row["key"]], "reason": row["reason"]} for row in body["missing"]]
        return steps.request_supplement(case, missing, now)

    def _accept(self, case: Case, item: Body, _staff: StaffSession, _body: Body, now: datetime) -> steps.Moved:
        return steps.accept(case, item, self._cases.calendar, now)

    def _reject(self, case: Case, _item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return steps.reject(case, body["reason"], now)

    def _suspend(self, case: Case, _item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return steps.suspend(case, body["kind"], body["days"], now)

    def _resume(self, case: Case, item: Body, _staff: StaffSession, _body: Body, now: datetime) -> steps.Moved:
        if case.state is not State.SUSPENDED:
            return steps.advance(case, "resume", machine.CLERK, now, by=case.agency_name)
        return steps.resume(case, item, self._cases.calendar, now)

    def _decide(self, case: Case, item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return steps.decide(case, body["outcome"], body["opinion"], now, has_delivery(item))

    def _deliver(self, case: Case, _item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return steps.deliver(case, body["method"], body["tracking"], now)

    def _reassign(self, case: Case, _item: Body, staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        _check_assignee(case, staff)
        return steps.advance(case, "reassign", machine.CLERK, now, by=case.agency_name, assignee=body["account"])


ACTIONS: Mapping[str, Callable[[Review, Case, Body, StaffSession, Body, datetime], steps.Moved]] = {
    "claim": Review._claim,
    "request_supplement": Review._request_supplement,
    "accept": Review._accept,
    "reject": Review._reject,
    "suspend": Review._suspend,
    "resume": Review._resume,
    "decide": Review._decide,
    "deliver": Review._deliver,
    "reassign": Review._reassign,
}


def allowed_actions(case: Case, staff: StaffSession) -> list[str]:
    """Return what this person can do with the case now."""
    names = machine.allowed_actions(case, machine.CLERK)
    if case.assignee == staff.account and case.state is not State.ACCEPTED:
        names = [name for name in names if name != "claim"]
    if not _is_theirs(case, staff):
        names = []
    return names


def _is_theirs(case: Case, staff: StaffSession) -> bool:
    return case.assignee in (None, staff.account) or staff.role == "head"


def _check_assignee(case: Case, staff: StaffSession) -> None:
    if not _is_theirs(case, staff):
        raise ActionNotAllowed(
            "这个办件已由同事认领，需要由负责人转派。",
            en="A colleague has claimed this case.",
            state=case.state.value,
            allowed_actions=[],
        )


def _of_agency(case_id: str, staff: StaffSession) -> dict[str, Any]:
    # A draft is the resident's own: no agency sees it.
    return {"_id": case_id, "agency_id": staff.agency_id, "state": {"$ne": State.DRAFT.value}}
