"""What residents ask for beside the straight way: to bring a material later, to put an answer right, to apply again with the old data."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from app.cases import corrections, forms, hearings, machine, materials, promises, steps
from app.cases.model import Case, State
from app.cases.ports import Licences
from app.cases.procedure import rules_of
from app.cases.service import Cases
from app.catalogue import model as items
from app.kernel.clock import shanghai_day, utc_now
from app.kernel.errors import HallError, ValidationFailed, error_row
from app.kernel.records import replace

# No law says how long a scan stays good; half a year is the shortest validity that the catalogue's own papers have.
CARRIED_FOR = timedelta(days=180)


class Requests:
    def __init__(self, cases: Cases, licences: Licences, clock: Callable[[], datetime] = utc_now) -> None:
        self._cases = cases
        self._licences = licences
        self._clock = clock

    async def promise(self, case_id: str, resident_id: str, keys: Sequence[str]) -> Case:
        """Promise to bring these materials later (容缺受理, 告知承诺), in place of what was promised before.

        Raises:
            CaseNotFound, ActionNotAllowed, ValidationFailed: a material that may not come later.
        """

        def step(case: Case, item: Mapping[str, Any]) -> steps.Moved:
            if case.state is State.DRAFT:
                case = replace(case, rules=rules_of(item))
            names = {material["key"]: material["name"] for material in materials.needed(item, case.answers)}
            return promises.promise(case, keys, names, self._clock())

        return await self._cases.change({"_id": case_id, "owner_id": resident_id}, step)

    async def correct(self, case_id: str, resident_id: str, fields: Mapping[str, Any], reason: str) -> Case:
        """Ask for other answers to some fields after submission; a clerk answers.

        Raises:
            CaseNotFound, ActionNotAllowed, ValidationFailed: what would be wrong, by `/fields/<key>`.
        """

        def step(case: Case, item: Mapping[str, Any]) -> steps.Moved:
            now = self._clock()
            labels = {field["key"]: field["label"] for field in item["form"]}
            moved = corrections.ask(
                case, {key: value for key, value in fields.items() if key in labels}, labels, reason, now
            )
            # Whether one may ask at all is told before what is wrong with the answers.
            form = corrections.judged(case, item, fields, shanghai_day(now), self._cases.catalogue.division_codes)
            asked = replace(moved.case.corrections[-1], fields={key: form.get(key) for key in fields})
            return steps.Moved(replace(moved.case, corrections=(*case.corrections, asked)), moved.events)

        return await self._cases.change({"_id": case_id, "owner_id": resident_id}, step)

    async def hearing(self, case_id: str, resident_id: str, wanted: bool) -> Case:
        """Ask for the hearing that the office told of, or give it up. Raises CaseNotFound, ActionNotAllowed."""

        def step(case: Case, _item: Mapping[str, Any]) -> steps.Moved:
            now = self._clock()
            return hearings.ask(case, self._cases.calendar, now) if wanted else hearings.waive(case, now)

        return await self._cases.change({"_id": case_id, "owner_id": resident_id}, step)

    async def apply_again(
        self,
        from_case: str,
        resident_id: str,
        item_code: str,
        division_code: str,
        answers: Mapping[str, Any],
        *,
        case_id: str,
    ) -> Case:
        """Open a draft with the answers and the still valid materials of an earlier case of the same item.

        Two transactions, each harmless when repeated: a retry after a crash between them finds the empty draft and fills it.

        Raises:
            CaseNotFound: no own case of that id. ValidationFailed: it still runs, or is of another item.
        """
        old = await self._cases.get(from_case, resident_id)
        item = self._cases.catalogue.item(item_code)
        if old.item_code != item["code"]:
            raise ValidationFailed([error_row("/from_case", "other_item", "这个办件是另一个事项的，不能带过来")])
        if old.is_open:
            raise ValidationFailed([error_row("/from_case", "not_final", "原来的办件还在办理中，请先办完或撤回")])
        kept = {key: value for key, value in old.answers.items() if not items.wrong_answers(item, {key: value})}
        draft = await self._cases.drafts.open(resident_id, item_code, division_code, {**kept, **answers}, case_id=case_id)
        if draft.from_case is not None or draft.state is not State.DRAFT:
            return draft
        held = await self._still_valid(old, item, resident_id)
        await self._cases.holdings.hold(draft.id, held)

        def step(case: Case, item: Mapping[str, Any]) -> steps.Moved:
            now = self._clock()
            if case.from_case is not None or machine.find(case, "save", machine.RESIDENT, shanghai_day(now)) is None:
                return steps.Moved(case)
            # What is known of the person today goes before what was typed then.
            given = {**{key: value for key, value in old.form.items() if key in _keys(item)}, **case.form}
            form, _wrong = forms.draft_values(
                item, {key: value for key, value in given.items() if "computed" not in _keys(item)[key]}
            )
            return steps.advance(
                replace(case, from_case=old.id),
                "save",
                machine.RESIDENT,
                now,
                by=steps.APPLICANT,
                title="用原来的内容重新申请",
                detail=f"内容来自办件 {old.number}，请核对。",
                form=forms.with_computed(
                    item, {key: value for key, value in form.items() if value is not None}, shanghai_day(now)
                ),
                materials={**held, **case.materials},
            )

        return await self._cases.change({"_id": draft.id, "owner_id": resident_id}, step)

    async def _still_valid(self, old: Case, item: Mapping[str, Any], resident_id: str) -> dict[str, Any]:
        """Return what was held then and may be used again: licences that are valid today, files that are not too old."""
        now = self._clock()
        licence_of = {material["key"]: material.get("licence") for material in item["materials"]}
        found: dict[str, Any] = {}
        for key, holding in old.materials.items():
            if key not in licence_of and key not in materials.photo_fields(item):
                continue
            if holding.get("licence_id") and licence_of.get(key):
                try:
                    licence = await self._licences.usable(holding["licence_id"], resident_id, licence_of[key])
                except HallError:  # run out, annulled, or not theirs any more
                    continue
                found[key] = {"files": [], "licence_id": licence["id"], "at": now}
            fresh = [entry for entry in holding.get("files", ()) if materials.uploaded_at(entry) >= now - CARRIED_FOR]
            if fresh:
                # The file stays the earlier case's: taking it out of this draft does not delete it there.
                found[key] = {"files": [{**entry, "from_case": old.id} for entry in fresh], "licence_id": None}
        return found


def _keys(item: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {field["key"]: field for field in item["form"]}
