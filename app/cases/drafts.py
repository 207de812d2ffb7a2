"""Drafts: opening one, keeping every answer as it is given, merging what two devices save, and following a newer version of the item.

Guarantees: an answered save is on disk with a majority. Two writers never overwrite each other: each answer remembers the version that
last changed it, so an older page may add to a draft (merge) but never undo what it has not seen; it is shown both answers instead.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.cases import forms, machine, steps
from app.cases.carry_over import carried_over
from app.cases.errors import CaseConflict, DraftConflict
from app.cases.model import FINAL, STATE_NAMES, Case, State, TimelineEntry
from app.cases.ports import Catalogue, Licences, People
from app.cases.procedure import rules_of
from app.cases.store import CaseStore
from app.catalogue import model as items
from app.identity.model import Resident
from app.kernel.clock import format_utc, shanghai_day
from app.kernel.errors import ErrorRow, NotFound, ValidationFailed, error_row
from app.kernel.ids import random_code
from app.kernel.records import replace

QUERY_CODE_LENGTH = 8
_MERGE_FOR_S = 8.0
_MANY = 20


@dataclass(frozen=True)
class Save:
    """What one request wants kept: answers of the form and of the situations (None takes one back), as of a version.

    `merge`: when the draft is newer than `version`, keep what nobody else has changed since, instead of refusing all of it.
    """

    form: Mapping[str, Any]
    answers: Mapping[str, Any]
    version: int
    merge: bool = False


class Drafts:
    def __init__(
        self, store: CaseStore, catalogue: Catalogue, people: People, licences: Licences, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._people = people
        self._licences = licences
        self._clock = clock

    async def open(
        self, resident_id: str, item_code: str, division_code: str, answers: Mapping[str, Any], *, case_id: str,
        taken_in_by: str | None = None, window: str = "", begun_as: str | None = None,
    ) -> Case:
        """Open a draft, prefilled from the profile. The same `case_id` again returns the case that was made, and so does the same `begun_as`.

        `taken_in_by` is the account of the clerk at whose window the resident stands, `window` that clerk's agency; `begun_as` is what `beginning` gives for the page.

        Raises:
            NotFound (unknown item), ValidationFailed (division, answers).
        """
        item = self._catalogue.item(item_code)
        rows = answer_rows(item, answers)
        if division_code not in self._catalogue.division_codes:
            rows.append(error_row("/division_code", "unknown", "请选择办理地区"))
        if item["service_kind"] != "handle":
            rows.append(error_row("/item_code", "not_an_application", "这个事项是查询或缴费，请在“查”或“缴”里办理"))
        if rows:
            raise ValidationFailed(rows)
        resident = await self._people.resident(resident_id)
        agency = self._catalogue.handling_agency(item, division_code)
        now = self._clock()
        known = forms.prefilled(item, await self._known_of(resident, division_code))
        case = Case(
            id=case_id,
            number=await self._store.next_number(item["code"]),
            query_code=random_code(QUERY_CODE_LENGTH),
            owner_id=resident.id,
            item_code=item["code"],
            item_version=item["version"],
            item_name=item["name"],
            agency_id=agency["id"],
            agency_name=agency["name"],
            division_code=division_code,
            state=State.DRAFT,
            version=1,
            created_at=now,
            updated_at=now,
            answers=dict(answers),
            form=forms.with_computed(item, known, shanghai_day(now)),
            rules=rules_of(item),
            channel="window" if taken_in_by else "online",
            taken_in_by=taken_in_by,
            begun_as=begun_as,
            timeline=(_begun(now, window),),
        )
        return await self._store.insert(case, [steps.told(case, "case.created", now)], forms.personal_keys(item))

    async def _known_of(self, resident: Resident, division_code: str) -> dict[str, str]:
        return {
            "profile.name": resident.name,
            "profile.id_number": resident.id_number,
            "profile.mobile": resident.phone,
            "profile.address": resident.address,
            "case.division": division_code,
            **await self._licences.prefill_sources(resident.id),
        }

    async def save(self, case_id: str, resident_id: str, save: Save) -> Case:
        """Keep answers as they are given, half-typed ones too.

        No event tells of it, so it is one compare-and-set without a transaction: a read and a majority write.

        Raises:
            DraftConflict: the draft is newer than `save.version`. Without `merge` nothing was kept; with it, all but the conflicts was.
            ValidationFailed: a key the form does not have, or a value of a wrong kind; nothing was kept.
            ActionNotAllowed: handed in already.
        """
        began, tries = time.monotonic(), 0
        while True:
            stored = await self._store.load({"_id": case_id, "owner_id": resident_id})
            case, item = await self.current(stored)
            kept = keep(case, item, save, self._clock())
            try:
                if kept.case is not case:
                    case = await self._store.save(kept.case, (), forms.personal_keys(item))
            except CaseConflict:
                # Somebody was faster between our read and our write: decide anew on what is stored now.
                if time.monotonic() - began > _MERGE_FOR_S:
                    # Told as if it had come without merging: what stands there now, and what could be kept.
                    case, item = await self.current(await self._store.load({"_id": case_id, "owner_id": resident_id}))
                    raise _conflict(case, item, keep(case, item, replace(save, merge=False), self._clock())) from None
                tries += 1
                await asyncio.sleep(random.random() * min(0.004 * 1.5**tries, 0.25))
                continue
            if kept.is_refused or kept.conflicts:
                raise _conflict(case, item, kept)
            return case

    async def current(self, case: Case) -> tuple[Case, Mapping[str, Any]]:
        """Return a case with its item: a draft is carried over to the published version when that is newer. Writes nothing.

        Only to a higher number: a process that has not heard of a publication yet must not carry a draft back.
        """
        item = await self._catalogue.item_at(case.item_code, case.item_version)
        if case.state is not State.DRAFT:
            return case, item
        try:
            newest = self._catalogue.item(case.item_code)
        except NotFound:
            return case, item  # withdrawn: what was begun stays readable
        if newest["version"] <= case.item_version:
            return case, item
        return carried_over(case, item, newest, self._catalogue.handling_agency(newest, case.division_code)), newest

    async def open_cases(self, owner_id: str, item_code: str) -> list[Case]:
        """Return a resident's open cases of an item, drafts too, newest first."""
        query = {"owner_id": owner_id, "item_code": item_code, "state": {"$nin": [state.value for state in FINAL]}}
        cases, _more = await self._store.page(query, [("_id", -1)], _MANY)
        return cases

    async def newest(self, owner_id: str, item_code: str) -> Case | None:
        """Return a resident's newest case of an item, ended ones too, or None."""
        cases, _more = await self._store.page({"owner_id": owner_id, "item_code": item_code}, [("_id", -1)], 1)
        return cases[0] if cases else None

    async def possible_duplicates(self, case: Case) -> list[dict[str, Any]]:
        """Return the owner's other open cases of the same item, while this one is a draft and can still be left aside."""
        if case.state is not State.DRAFT:
            return []
        return [
            {
                "id": other.id,
                "number": other.number,
                "state": other.state.value,
                "state_name": STATE_NAMES[other.state],
                "created_at": format_utc(other.created_at),
                "submitted_at": format_utc(other.submitted_at),
            }
            for other in await self.open_cases(case.owner_id, case.item_code)
            if other.id != case.id
        ]


def beginning(owner_id: str, item_code: str, after: str) -> str:
    """Return the name of one beginning: of this item, by this resident, after their newest case of it (empty: none yet).

    Every page that was opened on the same cases has the same name, and a unique index lets one name begin one draft. The owner is part of
    it, so that two residents who turn out to be one person (proving.py) never meet under one name.
    """
    return hashlib.sha256(f"{owner_id}\n{item_code}\n{after}".encode()).hexdigest()


def _begun(now: datetime, window: str) -> TimelineEntry:
    if window:
        return TimelineEntry(now, "case.created", window, "窗口收件", "工作人员当面核对了身份证件，代为填写。")
    return TimelineEntry(now, "case.created", steps.APPLICANT, "开始填写")


def answer_rows(item: Mapping[str, Any], answers: Mapping[str, Any]) -> list[ErrorRow]:
    """Return a row for every answer to the situations that does not fit."""
    return [error_row(f"/answers/{key}", "unknown", text) for key, text in items.wrong_answers(item, answers).items()]


# --- keeping answers. Pure ---


@dataclass(frozen=True)
class Kept:
    """What came of a save. Pointers are `form/<key>` and `answers/<key>`.

    Attributes:
        case: the changed case, or the very same one when there is nothing to write.
        conflicts: pointer -> the answer given, where somebody else changed it to something else meanwhile.
        merged: pointers of what was kept although the draft was newer.
        mergeable: pointers of what could have been, had the caller asked for it.
        is_refused: the draft is newer, and merging was not asked for.
    """

    case: Case
    conflicts: Mapping[str, Any]
    merged: tuple[str, ...] = ()
    mergeable: tuple[str, ...] = ()
    is_refused: bool = False


def keep(case: Case, item: Mapping[str, Any], save: Save, now: datetime) -> Kept:
    """Return the case with what may be kept of a save.

    Raises:
        ActionNotAllowed: handed in already.
        ValidationFailed: a key the form does not have, or a value of a wrong kind.
    """
    moved = steps.advance(case, "save", machine.RESIDENT, now, by=steps.APPLICANT).case
    given, dropped = _given(case, item, save)
    changed = {pointer: value for pointer, value in given.items() if not same_answer(stored_answer(case, pointer), value)}
    is_stale = save.version != case.version
    # Creation is version 1, and whoever saves has seen at least that.
    seen = {pointer for pointer in changed if not is_stale or case.field_versions.get(pointer, 1) <= save.version}
    conflicts = {pointer: value for pointer, value in changed.items() if pointer not in seen}
    if is_stale and not save.merge:
        return Kept(case, conflicts, mergeable=tuple(sorted(seen)), is_refused=True)
    if is_stale and not seen and dropped.items() <= case.form_dropped.items():
        return Kept(case, conflicts)
    kept = {pointer: value for pointer, value in changed.items() if pointer in seen}
    form = {key: value for key, value in {**case.form, **_part(kept, "form/")}.items() if value is not None}
    moved = replace(
        moved,
        form=forms.with_computed(item, form, shanghai_day(now)),
        form_dropped={**case.form_dropped, **dropped},
        answers={**case.answers, **_part(kept, "answers/")},
        field_versions={**case.field_versions, **dict.fromkeys(kept, case.version + 1)},
    )
    return Kept(moved, conflicts, merged=tuple(sorted(kept)) if is_stale else ())


def _given(case: Case, item: Mapping[str, Any], save: Save) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the answers of a save by pointer, and those for fields that the draft's newer form has no more: kept beside it."""
    told = (case.carried_over or {}).get("changes", ())
    present = {field["key"] for field in item["form"]}
    labels = {
        row["key"]: row["label"] for row in told if row["change"] == "changed" or (row["change"] == "removed" and row["key"] not in present)
    }
    kept, rows = forms.draft_values(item, {key: value for key, value in save.form.items() if key in present or key not in labels})
    # The page may be one of the version before: what has no place any more is no reason to refuse the rest.
    computed = {field["key"] for field in item["form"] if "computed" in field}
    left_out = {key for key in save.form if key in labels and key not in kept and key not in computed}
    rows = [row for row in rows if row["pointer"].removeprefix("/form/") not in left_out]
    gone = {key: {"label": labels[key], "value": save.form[key]} for key in left_out if save.form[key] is not None}
    answers = {key: value for key, value in save.answers.items() if not _is_of_before(key, value, item, told)}
    rows += answer_rows(item, answers)
    if rows:
        raise ValidationFailed(rows)
    return {f"form/{key}": value for key, value in kept.items()} | {f"answers/{key}": value for key, value in answers.items()}, gone


def _is_of_before(key: str, value: Any, item: Mapping[str, Any], told: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether an answer is to a question, or one of its options, that the version before had: it is asked for anew, or no more."""
    if not told or not items.wrong_answers(item, {key: value}):
        return False
    return any(situation["key"] == key for situation in item["situations"]) or ("question_removed", key) in {
        (row["change"], row["key"]) for row in told
    }


def _part(kept: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {pointer.removeprefix(prefix): value for pointer, value in kept.items() if pointer.startswith(prefix)}


def stored_answer(case: Case, pointer: str) -> Any:
    """Return the stored answer a pointer names, None when there is none."""
    part, _, key = pointer.partition("/")
    return (case.form if part == "form" else case.answers).get(key)


def same_answer(one: Any, other: Any) -> bool:
    """Say whether two answers mean the same: 100 and "100" do, a field that is empty and one that was never filled in too."""
    return _meaning(one) == _meaning(other)


def _meaning(value: Any) -> Any:
    if value is None or value == "" or value == []:
        return None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _conflict(case: Case, item: Mapping[str, Any], kept: Kept) -> DraftConflict:
    labels = {f"form/{field['key']}": field["label"] for field in item["form"]}
    labels |= {f"answers/{situation['key']}": situation["question"] for situation in item["situations"]}
    rows = [
        {
            "key": pointer.partition("/")[2],
            "pointer": f"/{pointer}",
            "label": labels.get(pointer, ""),
            "yours": value,
            "theirs": stored_answer(case, pointer),
        }
        for pointer, value in kept.conflicts.items()
    ]
    return DraftConflict(
        version=case.version,
        conflicts=rows,
        merged=[f"/{pointer}" for pointer in kept.merged],
        mergeable=[f"/{pointer}" for pointer in kept.mergeable],
        values=dict(case.form),
        answers=dict(case.answers),
    )
