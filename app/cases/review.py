"""What an agency's clerks do with the cases of their agency. Somebody else's agency answers as if the case did not exist."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from app.cases import auto_decision, corrections, handling, hearings, machine, materials, promises, replacements, routing, steps, views
from app.cases.completeness import has_delivery
from app.cases.errors import ActionNotAllowed, CaseConflict
from app.cases.listed import ANY, queue_key
from app.cases.model import Acting, Case, State
from app.cases.remedies import remedy
from app.cases.service import Cases
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import shanghai_day, utc_now
from app.kernel.errors import NotFound, ValidationFailed, error_row
from app.kernel.records import replace
from app.storage.mongo import Database

Body = Mapping[str, Any]
Step = Callable[[Case, Mapping[str, Any]], steps.Moved]


class Review:
    def __init__(
        self,
        database: Database,
        cases: Cases,
        known_account: Callable[[str, str], Any],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._cases = cases
        self._known_account = known_account  # async (account, agency_id) -> bool
        self._clock = clock

    async def get(self, case_id: str, staff: StaffSession) -> Case:
        """Return a case of the clerk's agency; that it was read is recorded. Raises CaseNotFound."""
        case = await self._cases.store.load(of_agency(case_id, staff))
        await record(
            self._database["audit"], actor=staff.account, action="case.read", subject=case.id, owner_id=case.owner_id
        )
        return case

    async def paper_pdf(self, case_id: str, number: str, staff: StaffSession) -> tuple[str, bytes]:
        """Return (file name, PDF) of a paper; that it was read is recorded. Raises CaseNotFound, PaperNotFound."""
        case = await self._cases.store.load(of_agency(case_id, staff))
        await record(
            self._database["audit"], actor=staff.account, action="paper.read", subject=case.id, owner_id=case.owner_id, purpose=number
        )
        return await self._cases.papers.pdf(case, number)

    async def view(self, case: Case, staff: StaffSession) -> dict[str, Any]:
        """Return a case as its agency may see it, with what this person can do."""
        item = await self._cases.catalogue.item_at(case.item_code, case.item_version)
        view = views.for_staff(case, item, allowed_actions(case, staff))
        view["form"]["advice"] = self._cases.advice(case, item)
        view["materials"] = await self._cases.holdings.for_staff(case, view["materials"])
        view["joint"] = views.joint(case, with_opinions=True)
        view["papers"] = await self._cases.papers.of(case)
        view["proposal"] = views.proposal(case)
        view["auto"] = auto_decision.view(case)
        return view

    async def assigned(self, staff: StaffSession, account: str, limit: int) -> list[str]:
        """Return the ids of up to `limit` open cases of the agency that a colleague has."""
        query = {"queue_keys": queue_key(staff.agency_id, account, ANY, ANY, ANY)}
        cases, _more = await self._cases.store.page(query, [("due_on", 1), ("_id", 1)], limit)
        return [case.id for case in cases]

    async def samples(
        self, staff: StaffSession, *, state: str = "open", limit: int = 20, cursor: str | None = None
    ) -> tuple[list[Case], str | None]:
        """Return the decisions of rules that were drawn for the head of the agency to look at, oldest first, and the next cursor."""
        query: dict[str, Any] = {"agency_id": staff.agency_id, "sample.state": state}
        if cursor:
            query["_id"] = {"$gt": cursor}
        cases, more = await self._cases.store.page(query, [("_id", 1)], limit)
        await record(
            self._database["audit"],
            actor=staff.account,
            action="sample.list",
            subject=staff.agency_id,
            owner_id="",
            subjects=[case.id for case in cases],
        )
        return cases, cases[-1].id if more else None

    async def act(self, case_id: str, action: str, staff: StaffSession, body: Body) -> Case:
        """Take a clerk's action.

        Args:
            action: a name of `ACTIONS`; `body` is what its schema in handlers/staff.py lets through.

        Raises:
            CaseNotFound, ActionNotAllowed, ValidationFailed, CaseConflict.
        """
        colleague = body.get("account") if action in ("reassign", "finish_stage") else None
        if colleague and not await self._known_account(colleague, staff.agency_id):
            raise ValidationFailed([error_row("/account", "unknown", "本单位没有这个账号")])
        now = self._clock()
        # Whatever the office does with an accepted case, its applicant hears as early as can be of a licence that was lost.
        present = await self._cases.holdings.ask_again(await self._cases.store.load(of_agency(case_id, staff)))
        if action == "decide" and body["outcome"] == "approved" and present.agency_id == staff.agency_id and present.decision is None:
            if rows := replacements.rows(present):
                raise ValidationFailed(rows)

        def step(case: Case, item: Mapping[str, Any]) -> steps.Moved:
            case = seen_by(case, staff)
            if action == "give_opinion":
                return self._give_opinion(case, item, staff, body, now)
            if case.agency_id != staff.agency_id:
                raise ActionNotAllowed(
                    "这个办件由另一个部门办理，本单位只反馈意见。",
                    en="Another agency handles this case; yours is asked for its opinion.",
                    state=case.state.value,
                    allowed_actions=allowed_actions(case, staff),
                )
            transition = machine.transition(action, case.state)
            if transition is not None and action not in ("claim", "reassign"):
                if not (action == "decide" and _is_second_person(case, staff)):
                    check_assignee(case, staff)
                # Whoever acts first on an unclaimed case has claimed it.
                case = replace(case, assignee=case.assignee or staff.account)
            if machine.find(case, "deem_accepted", machine.SYSTEM, shanghai_day(now)) is not None and action == "accept":
                # Too late to accept: by law it was accepted when it came in, whether or not the sweep has said so yet.
                return handling.deem_accepted(case, item, self._cases.calendar, now)
            return ACTIONS[action](self, case, item, staff, body, now)

        async def audit(case: Case, session: Any) -> None:
            # What was valid when it came in may have run out or been annulled since.
            counts_on_materials = action == "accept" or (action == "decide" and body["outcome"] == "approved")
            if counts_on_materials and (rows := await self._cases.holdings.spoiled(case)):
                raise ValidationFailed(rows)
            await record(
                self._database["audit"],
                actor=staff.account,
                action=f"case.{action}",
                subject=case.id,
                owner_id=case.owner_id,
                purpose=_beyond_the_usual(case, action, staff),
                session=session,
            )

        return await self._cases.change(of_agency(case_id, staff), step, audit)

    def _claim(self, case: Case, _item: Body, staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        if case.assignee not in (None, staff.account):
            # Of many at once only what nobody has is taken, by a head or a cover too: whoever came first keeps it.
            check_assignee(case, replace(staff, role="clerk", covers=frozenset()) if body.get("only_unclaimed") else staff)
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

    def _pre_review(self, case: Case, item: Body, staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        # Gaps are told in the one notice and not beside it: a pre-review that found some is that notice.
        if body["missing"]:
            return self._request_supplement(case, item, staff, body, now)
        return handling.pre_review(case, body["note"], now)

    def _request_supplement(self, case: Case, item: Body, staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        names = {material["key"]: material["name"] for material in materials.needed(item, case.answers)}
        names |= {field["key"]: field["label"] for field in item["form"]}
        rows = [
            error_row(f"/missing/{number}/key", "unknown", "这个事项没有这项材料或表单项")
            for number, row in enumerate(body["missing"])
            if row["key"] not in names
        ]
        reason, is_further = body.get("reason", "").strip(), case.supplement is not None
        if is_further and _rank(staff) == machine.HEAD and not reason:
            rows.append(error_row("/reason", "required", "再次告知补正要由负责人写明理由"))
        if rows:
            raise ValidationFailed(rows)
        missing = [{"key": row["key"], "name": names[row["key"]], "reason": row["reason"]} for row in body["missing"]]
        return handling.request_supplement(case, missing, self._cases.calendar, now, actor=_rank(staff), reason=reason)

    def _accept(self, case: Case, item: Body, staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        case = replace(case, accepted_by=staff.account)
        due_days = {row["key"]: row["due_on"] for row in body.get("tolerated", ())}
        if rows := promises.due_day_rows(case, due_days, shanghai_day(now)):
            raise ValidationFailed(rows)
        return handling.accept(case, item, self._cases.calendar, now, due_days)

    def _reject(self, case: Case, _item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return handling.reject(
            case, body["reason"], now, body.get("rule", ""), body.get("right_body", ""), self._remedy(case)
        )

    def _correct(self, case: Case, item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        asked, form = case.open_correction, dict(case.form)
        if asked is not None and body["approve"]:
            # Judged again: between asking and answering days pass, and an answer that was right may be too old now.
            # What the applicant has answered anew since, in a supplement, is the later word and stays.
            fields = {key: value for key, value in asked.fields.items() if case.form.get(key) == asked.old.get(key)}
            if fields:
                form = corrections.judged(case, item, fields, shanghai_day(now), self._cases.catalogue.division_codes)
        return corrections.answer(case, body["approve"], body["reason"], form, now)

    def _suspend(self, case: Case, item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        name = handling.SPECIAL_PROCEDURES.get(body["kind"], body["kind"])
        # The item's own words say in which days this procedure is counted; otherwise the law's: working days (art. 82).
        unit = next((row["unit"] for row in item["special_procedures"] if row["name"] == name), "working")
        if body["kind"] == hearings.KIND and case.rules.get("hearing") and machine.find(case, "suspend", machine.CLERK, shanghai_day(now)):
            unit = "working"
            if rows := hearings.stop_rows(case, body["days"], body.get("reason", ""), self._cases.calendar, now):
                raise ValidationFailed(rows)
        return handling.suspend(case, body["kind"], body["days"], self._cases.calendar, now, body.get("reason", ""), unit)

    def _tell_hearing(self, case: Case, _item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return hearings.tell(case, body["reason"], self._cases.calendar, now)

    def _resume(self, case: Case, item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        if case.state is not State.SUSPENDED:
            return steps.advance(case, "resume", machine.CLERK, now, by=case.agency_name)
        record = body.get("record", "").strip()
        if hearings.is_under_way(case) and (rows := hearings.record_rows(case, record, self._cases.calendar, now)):
            raise ValidationFailed(rows)
        return handling.resume(case, item, self._cases.calendar, now, record)

    def _extend(self, case: Case, item: Body, staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return handling.extend(case, item, body["days"], body["reason"], self._cases.calendar, now, actor=_rank(staff))

    def _decide(self, case: Case, item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return handling.decide(
            case, body["outcome"], body["opinion"], self._cases.calendar, now, has_delivery(item), self._remedy(case)
        )

    def _propose(self, case: Case, _item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return routing.propose(case, body["outcome"], body["opinion"], now)

    def _finish_stage(self, case: Case, _item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return routing.finish_stage(case, body["note"], self._cases.calendar, now, body.get("account"))

    def _give_opinion(self, case: Case, _item: Body, staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return routing.give_opinion(case, staff.agency_id, body["answer"], body["opinion"], now)

    def _transfer(self, case: Case, _item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        agency = self._cases.catalogue.agency
        try:
            to = agency(body["agency_id"])
        except NotFound:
            raise ValidationFailed([error_row("/agency_id", "unknown", "没有这个部门")]) from None
        moved = routing.transfer(case, to, body["reason"], now)  # whether at all, before where to
        if rows := routing.transfer_rows(case, to["id"], routing.same_line(case.agency_id, to["id"], agency)):
            raise ValidationFailed(rows)
        return moved

    def _audit_sample(self, case: Case, _item: Body, staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return auto_decision.audit_sample(case, body["finding"], body["note"], staff.account, now, _rank(staff))

    def _deliver(self, case: Case, _item: Body, _staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        return handling.deliver(case, body["method"], (body["tracking"] or "").strip() or None, now)

    def _remedy(self, case: Case) -> dict[str, Any]:
        return remedy(self._cases.catalogue.agency(case.agency_id))

    def _reassign(self, case: Case, _item: Body, staff: StaffSession, body: Body, now: datetime) -> steps.Moved:
        check_assignee(case, staff)
        if body.get("only_from") not in (None, case.assignee):
            raise CaseConflict("这个办件已由别人接手。", en="Somebody else has the case now.", case_id=case.id)
        return steps.advance(case, "reassign", machine.CLERK, now, by=case.agency_name, assignee=body["account"])


ACTIONS: Mapping[str, Callable[[Review, Case, Body, StaffSession, Body, datetime], steps.Moved]] = {
    "claim": Review._claim,
    "pre_review": Review._pre_review,
    "request_supplement": Review._request_supplement,
    "accept": Review._accept,
    "reject": Review._reject,
    "correct": Review._correct,
    "tell_hearing": Review._tell_hearing,
    "suspend": Review._suspend,
    "resume": Review._resume,
    "extend": Review._extend,
    "decide": Review._decide,
    "propose": Review._propose,
    "finish_stage": Review._finish_stage,
    "give_opinion": Review._give_opinion,
    "transfer": Review._transfer,
    "audit_sample": Review._audit_sample,
    "deliver": Review._deliver,
    "reassign": Review._reassign,
}


def allowed_actions(case: Case, staff: StaffSession) -> list[str]:
    """Return what this person can do with the case now."""
    case = seen_by(case, staff)
    if case.agency_id != staff.agency_id:
        return machine.allowed_actions(case, machine.DEPARTMENT)
    names = machine.allowed_actions(case, _rank(staff))
    if case.assignee == staff.account and case.state is not State.ACCEPTED:
        names = [name for name in names if name != "claim"]
    if not is_theirs(case, staff):
        names = [name for name in names if name == "decide" and _is_second_person(case, staff)]
    return names


def seen_by(case: Case, staff: StaffSession) -> Case:
    """Return the case as the guards must see it when this person is about to act."""
    return replace(case, acting=Acting(staff.account, staff.agency_id, staff.role == "head"))


def _rank(staff: StaffSession) -> str:
    return machine.HEAD if staff.role == "head" else machine.CLERK


def is_theirs(case: Case, staff: StaffSession) -> bool:
    """Say whether a person may act on a case of the agency: nobody's, their own, or as head anybody's."""
    return case.assignee in (None, staff.account) or staff.role == "head" or case.assignee in staff.covers


def _is_second_person(case: Case, staff: StaffSession) -> bool:
    # Whoever decides what a colleague proposed need not have the case.
    return case.proposal is not None and case.proposal["by"] != staff.account


def _beyond_the_usual(case: Case, action: str, staff: StaffSession) -> str:
    """Return what the audit must say beside who did what: for whom somebody stood in, and what a decision did not wait for."""
    told = []
    if case.assignee in staff.covers:
        told.append(f"cover for {case.assignee}")
    if action == "decide":
        if case.open_departments:
            told.append("unheard: " + ", ".join(asked.agency_id for asked in case.open_departments))
        if case.skipped_stages:
            told.append("left out: " + ", ".join(stage.key for stage in case.skipped_stages))
        if case.proposal is not None:
            told.append(f"proposed by {case.proposal['by']}")
    return "; ".join(told)


def check_assignee(case: Case, staff: StaffSession) -> None:
    """Raise ActionNotAllowed when a colleague has claimed the case."""
    if not is_theirs(case, staff):
        raise ActionNotAllowed(
            "这个办件已由同事认领，需要由负责人转派。",
            en="A colleague has claimed this case.",
            state=case.state.value,
            allowed_actions=[],
        )


def of_agency(case_id: str, staff: StaffSession) -> dict[str, Any]:
    """Return the query that finds a case only for those who may see it: its agency, and the departments that were asked."""
    # A draft is the resident's own: no agency sees it. A department that was asked sees the case, also after its answer.
    theirs = [{"agency_id": staff.agency_id}, {"departments.agency_id": staff.agency_id}]
    return {"_id": case_id, "$or": theirs, "state": {"$ne": State.DRAFT.value}}
