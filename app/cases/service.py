"""What residents do with their cases. Every change is one transaction: load, judge, compare-and-set, events.

Guarantees: an answered save or submit is on disk with a majority; two writers never overwrite each other (the loser gets 409); a case
and the events that tell of it are written together or not at all.
"""

from __future__ import annotations  # the method `list` would shadow the type in later signatures

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from app.cases import auto_decision, errors, forms, machine, routing, steps, views
from app.cases.completeness import complete_form, facts_of, fees_anew, frozen_fees, has_delivery, with_standing_promises
from app.cases.drafts import Drafts
from app.cases.holdings import Holdings
from app.cases.model import Case, State, TimelineEntry
from app.cases.papers import Papers
from app.cases.ports import Catalogue, Licences, People
from app.cases.store import CaseStore
from app.cases.submissions import HandedIn, Submissions
from app.identity.model import Resident
from app.identity.service import require_level
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import shanghai_day, utc_now
from app.kernel.errors import ErrorRow, NotFound
from app.kernel.records import replace
from app.storage.files import Files
from app.storage.mongo import Database

_BATCH = 200


class Cases:
    """The resident's side; the clerks' side is review.Review on the same store."""

    def __init__(
        self,
        database: Database,
        store: CaseStore,
        *,
        papers: Papers,
        catalogue: Catalogue,
        people: People,
        licences: Licences,
        files: Files,
        scan: Callable[[bytes], Awaitable[tuple[str, str]]],
        calendar: WorkingCalendar,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self.store = store
        self.papers = papers
        self.catalogue = catalogue
        self.calendar = calendar
        self._clock = clock
        self.drafts = Drafts(store, catalogue, people, licences, clock)
        self.holdings = Holdings(self, files, licences, lambda: self._clock(), scan, database["audit"])
        self._submissions = Submissions(database, store, self.drafts, self.holdings, people, papers)
        self.put_material = self.holdings.put_file
        self.put_licence = self.holdings.put_licence
        self.remove_material = self.holdings.remove
        self.read_material = self.holdings.read_own

    # --- reading ---

    async def get(self, case_id: str, resident_id: str) -> Case:
        """Return a resident's own case, a draft as its newest item version has it. Raises CaseNotFound, also for somebody else's."""
        case, _item = await self.drafts.current(await self.store.load({"_id": case_id, "owner_id": resident_id}))
        return case

    async def list(
        self, resident_id: str, *, state: str | None = None, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[Case], str | None]:
        """Return a resident's cases, newest first, and the cursor of the next page."""
        query: dict[str, Any] = {"owner_id": resident_id}
        if state:
            query["state"] = state
        if cursor:
            query["_id"] = {"$lt": cursor}
        cases, more = await self.store.page(query, [("_id", -1)], limit)
        return cases, cases[-1].id if more else None

    async def view(self, case: Case, handed_in: HandedIn | None = None) -> dict[str, Any]:
        """Return a case as its owner sees it (api.md). `handed_in`: what its handing in knew a moment ago, and need not be read again."""
        item = await self.catalogue.item_at(case.item_code, case.item_version)
        view = views.for_resident(case, item)
        # What looks wrong is told while the applicant can still change it; afterwards it is the clerk's (review.py).
        is_theirs = case.state in (State.DRAFT, State.SUPPLEMENT_REQUIRED)
        view["form"]["advice"] = self.advice(case, item) if is_theirs else []
        return view | {
            "materials": await self.holdings.with_scans(case, view["materials"], handed_in and handed_in.scans),
            "agency": self._with_hotline(view["agency"]),
            "papers": await self.papers.of(case, handed_in and handed_in.papers),
            "form_dropped": dict(case.form_dropped),
            "carried_over": case.carried_over if case.state is State.DRAFT else None,
            "possible_duplicates": await self.drafts.possible_duplicates(case),
        }

    def advice(self, case: Case, item: Mapping[str, Any]) -> list[ErrorRow]:
        """Return what looks wrong in the answers of a form and holds nothing up."""
        return forms.advice(item, case.answers, case.form, facts_of(case, shanghai_day(self._clock()), self.catalogue.division_codes))

    async def progress(self, number: str, query_code: str) -> dict[str, Any]:
        """Return the progress of a case to whoever holds its number and query code; nothing personal."""
        # As they are copied from a message or read from paper: with spaces between the groups, in small letters.
        number, query_code = ("".join(text.split()).upper() for text in (number, query_code))
        case = await self.store.load({"number": number, "query_code": query_code})
        if case.state is State.DRAFT:
            raise errors.CaseNotFound
        view = views.progress(case)
        return view | {"agency": self._with_hotline(view["agency"])}

    def _with_hotline(self, agency: Mapping[str, Any]) -> dict[str, Any]:
        return {**agency, "hotline": self.catalogue.agency(agency["id"])["hotline"]}

    # --- the steps ---

    async def submit(self, case_id: str, resident_id: str, *, command: str | None = None, by_person: bool = False, level: int = 0) -> Case:
        """Do what `hand_in` does; return the case alone."""
        return (await self.hand_in(case_id, resident_id, command=command, by_person=by_person, level=level)).case

    async def hand_in(
        self, case_id: str, resident_id: str, *, command: str | None = None, by_person: bool = False, level: int = 0
    ) -> HandedIn:
        """Hand the application in. The same `command` again (a retry after a crash) returns the case as it is.

        `level`: what a clerk has seen at the window, when that is more than the resident has proven.
        What rules can decide is decided at once, unless the applicant wants a person (`by_person`).

        Raises:
            ItemWithdrawn: nobody may apply for the item any more.
            LevelRequired: the item needs a higher identity level.
            Incomplete: one row for everything that is missing or wrong.
        """

        def step(case: Case, item: Mapping[str, Any], resident: Resident, licences: Mapping[str, str]) -> steps.Moved:
            self._may(case, "submit")
            self._require_offered(case.item_code)
            require_level(max(resident.level, level), int(item["identity_level"][1:]))
            case = with_standing_promises(case, item)
            form = self._complete_form(case, item)
            case = replace(case, last_command=command, by_person=case.by_person or by_person)
            now = self._clock()
            if case.channel == "window":
                # By the agency whose window it is: that of the hall may take in for all (intake.py).
                entry = TimelineEntry(now, "case.taken_in", case.timeline[0].by, "窗口收件", "申请人当面确认后提交。")
                case = replace(case, timeline=(*case.timeline, entry))
            moved = steps.submit(case, item, frozen_fees(item, case.answers), form, self.calendar, now)
            moved = steps.Moved(routing.with_names(moved.case, self.catalogue.agency), moved.events)
            evidence = auto_decision.Evidence(resident.name, resident.id_number, licences)
            judged = auto_decision.judged(moved.case, item, evidence, lambda: self.advice(moved.case, item), now)
            return steps.Moved(judged, moved.events).then(
                auto_decision.decide(judged, item, self.calendar, now, has_delivery(item))
            )

        return await self._submissions.hand_in(case_id, resident_id, step, command)

    async def supplement(
        self, case_id: str, resident_id: str, *, command: str | None = None, taken_in_by: str | None = None, window: str = ""
    ) -> Case:
        """Hand in what the one notice asked for; `command` as in submit. Raises Incomplete for what is still missing.

        `taken_in_by`, `window`: the clerk and the agency to whose window the applicant has brought it.
        """

        def step(case: Case, item: Mapping[str, Any], _resident: Resident, _licences: Mapping[str, str]) -> steps.Moved:
            self._may(case, "supplement")
            case = with_standing_promises(case, item)
            form = self._complete_form(case, item)
            case, now = replace(case, last_command=command, fees=fees_anew(case, item)), self._clock()
            if taken_in_by is not None:
                entry = TimelineEntry(now, "case.taken_in", window, "窗口收件", "申请人当面确认后补交。")
                case = replace(case, timeline=(*case.timeline, entry))
            return steps.supplement(case, form, self.calendar, now, taken_in_by)

        return (await self._submissions.hand_in(case_id, resident_id, step, command)).case

    async def withdraw(self, case_id: str, resident_id: str, reason: str = "") -> Case:
        """Take the application back, before the decision."""
        return await self._change(
            case_id, resident_id, lambda case, _item: steps.withdraw(case, reason, self._clock())
        )

    async def fee_paid(self, case_id: str, order_id: str) -> None:
        """Let a case go on after its fee has come with an order. Harmless when repeated.

        Money for a case that does not wait for it (it was withdrawn meanwhile, or paid by another order) is noted on the case and told as
        `case.payment_refused`, so that it goes back.
        """

        def step(case: Case, item: Mapping[str, Any]) -> steps.Moved:
            if case.state is State.AWAITING_PAYMENT:
                return steps.fee_paid(case, order_id, item, self.calendar, self._clock(), has_delivery(item))
            if order_id in case.refused_orders or any(fee.order_id == order_id for fee in case.fees):
                return steps.Moved(case)
            return steps.refuse_payment(case, order_id, self._clock())

        await self._change(case_id, None, step)

    async def fee_refunded(self, case_id: str, order_id: str, refund_id: str, amount_fen: int) -> None:
        """Note on a case that money paid for it has gone back. Harmless when repeated."""

        def step(case: Case, _item: Mapping[str, Any]) -> steps.Moved:
            return steps.fee_refunded(case, order_id, refund_id, amount_fen, self._clock())

        await self._change(case_id, None, step)

    async def recompute_deadlines(self) -> int:
        """Count again every open case with an estimated day, by the calendar as it is now; return how many changed."""
        changed, after = 0, ""
        while ids := await self.store.estimated(after, _BATCH):
            for case_id in ids:
                changed += await self.recompute(case_id)
            after = ids[-1]
        return changed

    async def recompute(self, case_id: str) -> bool:
        """Count the days of one case again; say whether anything changed. The applicant is told when a day moved. Harmless when repeated."""
        changed: list[bool] = []

        def step(case: Case, item: Mapping[str, Any]) -> steps.Moved:
            counted = steps.recounted(case, item, self.calendar)
            is_changed = counted is not case and machine.transition("recompute", case.state) is not None
            changed[:] = [is_changed]
            if not is_changed:
                return steps.Moved(case)
            if (counted.accept_by_on, counted.deadline_on, counted.deliver_by_on) == (
                case.accept_by_on, case.deadline_on, case.deliver_by_on,
            ):  # fmt: skip
                return steps.Moved(counted)  # the same day, certain now
            data: dict[str, Any] = {}
            if counted.clock == "delivery" and counted.deliver_by_on is not None:  # the day that is waited for now
                data = {"deadline_on": counted.deliver_by_on.isoformat(), "deadline_estimated": False}
            return steps.advance(
                counted, "recompute", machine.SYSTEM, self._clock(), by=steps.HALL, title="办理期限已重新计算", data=data
            )

        await self._change(case_id, None, step)
        return changed[0]

    # --- inside ---

    async def _change(
        self, case_id: str, resident_id: str | None, step: Callable[[Case, Mapping[str, Any]], steps.Moved]
    ) -> Case:
        query = {"_id": case_id} if resident_id is None else {"_id": case_id, "owner_id": resident_id}
        return await self.change(query, step)

    async def change(
        self,
        query: Mapping[str, Any],
        step: Callable[[Case, Mapping[str, Any]], steps.Moved],
        beside: Callable[[Case, Any], Awaitable[None]] | None = None,
    ) -> Case:
        """Load the one case that fits, take a step, and write case, events, papers and what `beside` writes in one transaction."""

        async def work(session: Any) -> Case:
            case, item = await self.drafts.current(await self.store.load(query, session))
            moved = step(case, item)
            if beside is not None:
                await beside(case, session)
            if moved.case is case:
                return case
            saved = await self.store.save(moved.case, moved.events, forms.personal_keys(item), session)
            await self.papers.keep(self.papers.written(moved.case, moved.events, item), session)
            return saved

        return await self._database.transaction(work)

    def _may(self, case: Case, name: str) -> None:
        if name not in machine.allowed_actions(case, machine.RESIDENT):
            steps.advance(case, name, machine.RESIDENT, self._clock(), by=steps.APPLICANT)  # raises with what is allowed

    def _require_offered(self, item_code: str) -> None:
        try:
            self.catalogue.item(item_code)
        except NotFound:
            raise errors.ItemWithdrawn from None

    def may_save(self, case: Case) -> None:
        """Raise ActionNotAllowed when the case takes nothing from its owner now."""
        self._may(case, "save")

    def _complete_form(self, case: Case, item: Mapping[str, Any]) -> dict[str, Any]:
        return complete_form(case, item, shanghai_day(self._clock()), self.catalogue.division_codes)
