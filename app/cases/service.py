"""What residents do with their cases. Every change is one transaction: load, judge, compare-and-set, events.

Guarantees: an answered save or submit is on disk with a majority; two writers never overwrite each other (the loser gets 409); a case
and the events that tell of it are written together or not at all.
"""

from __future__ import annotations  # the method `list` would shadow the type in later signatures

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.cases import errors, forms, machine, materials, promises, steps, views
from app.cases.completeness import complete_form, facts_of, frozen_fees, has_delivery
from app.cases.drafts import Drafts
from app.cases.model import Case, State
from app.cases.ports import Catalogue, Licences, People
from app.cases.store import CaseStore
from app.cases.uploads import MAX_FILES, judge_upload
from app.catalogue.model import applies
from app.identity.service import require_level
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import shanghai_day, utc_now
from app.kernel.errors import HallError, ValidationFailed, error_row
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
        catalogue: Catalogue,
        people: People,
        licences: Licences,
        files: Files,
        calendar: WorkingCalendar,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self.store = store
        self.catalogue = catalogue
        self._people = people
        self._licences = licences
        self._files = files
        self.calendar = calendar
        self._clock = clock
        self.drafts = Drafts(store, catalogue, people, licences, clock)

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

    async def view(self, case: Case) -> dict[str, Any]:
        """Return a case as its owner sees it (api.md)."""
        item = await self.catalogue.item_at(case.item_code, case.item_version)
        view = views.for_resident(case, item)
        view["form"] |= self.form_marks(case, item)
        return view | {
            "form_dropped": dict(case.form_dropped),
            "carried_over": case.carried_over if case.state is State.DRAFT else None,
            "possible_duplicates": await self.drafts.possible_duplicates(case),
        }

    def form_marks(self, case: Case, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is said about the answers of a form: the `rules` that apply, and `advice` where something looks wrong."""
        facts = facts_of(case, shanghai_day(self._clock()), self.catalogue.division_codes)
        return {
            "rules": [rule for rule in item.get("rules", ()) if applies(rule.get("when"), case.answers)],
            "advice": forms.advice(item, case.answers, case.form, facts),
        }

    async def progress(self, number: str, query_code: str) -> dict[str, Any]:
        """Return the progress of a case to whoever holds its number and query code; nothing personal."""
        case = await self.store.load({"number": number, "query_code": query_code.upper().strip()})
        if case.state is State.DRAFT:
            raise errors.CaseNotFound
        return views.progress(case)

    # --- materials ---

    async def put_material(self, case_id: str, resident_id: str, key: str, filename: str, data: bytes) -> Case:
        """Add a file to a material. The same file again is the same file.

        Raises:
            MaterialNotFound, FileTooLarge, FileRefused, FileBroken, ActionNotAllowed.
        """
        case = await self.get(case_id, resident_id)
        await self._material_of(case, key)
        if not promises.is_owed(case, key):
            self._may_save(case)
        upload = await judge_upload(filename, data)
        held = case.materials.get(key, {}).get("files", [])
        if case.state is State.DRAFT and any(entry["sha256"] == upload.sha256 for entry in held):
            return case  # while supplementing, the same file counts as handed in anew
        now = self._clock()
        # The name can tell whose papers these are: it stays with the case.
        file_id = await self._files.put("material", upload.content, {"case_id": case_id, "type": upload.content_type})
        entry = {
            "id": file_id,
            "name": upload.name,
            "type": upload.content_type,
            "size": len(upload.content),
            "sha256": upload.sha256,
            "at": now,
        }

        def step(case: Case, _item: Mapping[str, Any]) -> steps.Moved:
            holding = case.materials.get(key, {})
            held = [kept for kept in holding.get("files", []) if kept["sha256"] != upload.sha256]
            if len(held) >= MAX_FILES:
                raise errors.FileTooLarge(f"每项材料最多{MAX_FILES}个文件，请先删除不要的。", en="Too many files.")
            return promises.held(case, key, {"files": [*held, entry], "licence_id": None}, now)

        try:
            return await self._change(case_id, resident_id, step)
        except HallError:
            # Refused, so nothing points to it. After a failure of the database the change may have been written all the same.
            await self._files.delete(file_id)
            raise

    async def put_licence(self, case_id: str, resident_id: str, key: str, licence_id: str) -> Case:
        """Let one of the resident's own valid licences stand in for a material (拿证照免提交)."""
        case = await self.get(case_id, resident_id)
        material = await self._material_of(case, key)
        if not material.get("licence"):
            raise ValidationFailed([error_row("/licence_id", "not_accepted", "这项材料不能用电子证照代替，请上传文件")])
        licence = await self._licences.usable(licence_id, resident_id, material["licence"])

        def step(case: Case, _item: Mapping[str, Any]) -> steps.Moved:
            now = self._clock()
            return promises.held(case, key, {"files": [], "licence_id": licence["id"], "at": now}, now)

        return await self._change(case_id, resident_id, step)

    async def remove_material(self, case_id: str, resident_id: str, key: str, file_id: str) -> Case:
        """Take a file back out. Removing what is not there changes nothing."""

        def step(case: Case, _item: Mapping[str, Any]) -> steps.Moved:
            holding = case.materials.get(key, {})
            left = [entry for entry in holding.get("files", []) if entry["id"] != file_id]
            return steps.advance(
                case,
                "save",
                machine.RESIDENT,
                self._clock(),
                by=steps.APPLICANT,
                materials={**case.materials, key: {**holding, "files": left}},
            )

        case = await self.get(case_id, resident_id)
        if any(entry["id"] == file_id for entry in case.materials.get(key, {}).get("files", [])):
            entry = next(entry for entry in case.materials[key]["files"] if entry["id"] == file_id)
            case = await self._change(case_id, resident_id, step)
            if not entry.get("from_case"):  # else it is the earlier case's file, which stays there
                await self._files.delete(file_id)
        return case

    async def read_material(self, case_id: str, resident_id: str, file_id: str) -> tuple[str, str, bytes]:
        """Return (name, type, bytes) of a file of the resident's own case. Raises MaterialNotFound."""
        return await self.read_file(await self.get(case_id, resident_id), file_id)

    async def read_file(self, case: Case, file_id: str) -> tuple[str, str, bytes]:
        """Return (name, type, bytes) of a file of a case that the caller may see. Raises MaterialNotFound."""
        for holding in case.materials.values():
            for entry in holding.get("files", []):
                if entry["id"] == file_id and (stored := await self._files.get(file_id)) is not None:
                    return entry["name"], entry["type"], stored.content
        raise errors.MaterialNotFound("没有找到这个文件。", en="No such file.")

    # --- the steps ---

    async def submit(self, case_id: str, resident_id: str, *, command: str | None = None) -> Case:
        """Hand the application in. The same `command` again (a retry after a crash) returns the case as it is.

        Raises:
            LevelRequired: the item needs a higher identity level.
            Incomplete: one row for everything that is missing or wrong.
        """
        resident = await self._people.resident(resident_id)

        def step(case: Case, item: Mapping[str, Any]) -> steps.Moved:
            if command is not None and case.last_command == command:
                return steps.Moved(case)
            self._may(case, "submit")
            require_level(resident.level, int(item["identity_level"][1:]))
            form = self._complete_form(case, item)
            case = replace(case, last_command=command)
            return steps.submit(case, item, frozen_fees(item, case.answers), form, self.calendar, self._clock())

        return await self._change(case_id, resident_id, step)

    async def supplement(self, case_id: str, resident_id: str, *, command: str | None = None) -> Case:
        """Hand in what the one notice asked for; `command` as in submit. Raises Incomplete for what is still missing."""

        def step(case: Case, item: Mapping[str, Any]) -> steps.Moved:
            if command is not None and case.last_command == command:
                return steps.Moved(case)
            self._may(case, "supplement")
            form = self._complete_form(case, item)
            return steps.supplement(replace(case, last_command=command), form, self.calendar, self._clock())

        return await self._change(case_id, resident_id, step)

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
            return steps.advance(counted, "recompute", machine.SYSTEM, self._clock(), by=steps.HALL, title="办理期限已重新计算")

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
        """Load the one case that fits, take a step, and write case, events and what `beside` writes in one transaction."""

        async def work(session: Any) -> Case:
            case, item = await self.drafts.current(await self.store.load(query, session))
            moved = step(case, item)
            if beside is not None:
                await beside(case, session)
            if moved.case is case:
                return case
            return await self.store.save(moved.case, moved.events, forms.personal_keys(item), session)

        return await self._database.transaction(work)

    def _may(self, case: Case, name: str) -> None:
        if name not in machine.allowed_actions(case, machine.RESIDENT):
            steps.advance(case, name, machine.RESIDENT, self._clock(), by=steps.APPLICANT)  # raises with what is allowed

    def _may_save(self, case: Case) -> None:
        self._may(case, "save")

    async def _material_of(self, case: Case, key: str) -> Mapping[str, Any]:
        item = await self.catalogue.item_at(case.item_code, case.item_version)
        for material in materials.needed(item, case.answers):
            if material["key"] == key:
                return material
        if key in materials.photo_fields(item):
            return {"key": key, "licence": None}
        raise errors.MaterialNotFound("这个事项没有这项材料。", en="No such material.")

    def _complete_form(self, case: Case, item: Mapping[str, Any]) -> dict[str, Any]:
        return complete_form(case, item, shanghai_day(self._clock()), self.catalogue.division_codes)
