"""What residents hand in for the materials of a case: files, licences in their place, and what an office has accepted before.

Guarantees: bytes are on disk with a majority before a case names them; a case that changed meanwhile, a refusal or a death in between leaves
bytes that nothing names, and the sweep of app/storage/files.py takes those. The same file twice is one file.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import structlog
from pymongo.asynchronous.client_session import AsyncClientSession

from app.cases import errors, machine, materials, promises, replacements, steps
from app.cases.model import Case, State
from app.cases.ports import Catalogue, Licences
from app.cases.uploads import MAX_FILES, judge_upload
from app.kernel.audit import record
from app.kernel.errors import ErrorRow, ValidationFailed, error_row
from app.storage import files as stored
from app.storage.files import Files

log = structlog.get_logger(__name__)

Step = Callable[[Case, Mapping[str, Any]], steps.Moved]


@dataclass(frozen=True)
class Worth:
    """What was handed in, as it is worth now.

    `licences`: those that are valid, (holder, id) -> type. `scans`: what the scanner said of files it had not seen when they came.
    """

    licences: Mapping[tuple[str, str], str]
    scans: Mapping[str, str]

    def licences_of(self, holder_id: str) -> dict[str, str]:
        """Return the valid licences of one holder: id -> type."""
        return {licence_id: kind for (holder, licence_id), kind in self.licences.items() if holder == holder_id}


class CaseAccess(Protocol):
    """What is needed of the cases themselves."""

    catalogue: Catalogue

    async def get(self, case_id: str, resident_id: str) -> Case: ...
    async def change(self, query: Mapping[str, Any], step: Step) -> Case: ...
    def may_save(self, case: Case) -> None: ...


class Holdings:
    def __init__(
        self,
        cases: CaseAccess,
        files: Files,
        licences: Licences,
        clock: Callable[[], datetime],
        scan: Callable[[bytes], Awaitable[tuple[str, str]]],
        audit: Any,
    ) -> None:
        """
        Args:
            scan: says of bytes (one of files.CLEAN, UNCHECKED, INFECTED, OFF, and what was found).
            audit: the collection of audit rows.
        """
        self._cases = cases
        self._files = files
        self._licences = licences
        self._clock = clock
        self._scan = scan
        self._audit = audit

    # --- handing in ---

    async def put_file(
        self, case_id: str, resident_id: str, key: str, filename: str, data: bytes, *, upload_id: str | None = None
    ) -> Case:
        """Add a file to a material. The same file again is the same file; the same `upload_id` again changes nothing.

        Raises:
            MaterialNotFound, FileTooLarge, FileRefused, FileBroken, FileInfected, ActionNotAllowed.
        """
        case = await self.may_hand_in(case_id, resident_id, key)
        upload = await judge_upload(filename, data)
        scan, found = await self._scan(data)
        if scan == stored.INFECTED:
            log.warning("case.file_infected", case_id=case_id, signature=found)
            told = {"subject": case_id, "owner_id": resident_id, "purpose": found[:100]}
            await record(self._audit, actor=resident_id, action="material.infected", **told)
            raise errors.FileInfected
        held = case.materials.get(key, {}).get("files", [])
        if case.state is State.DRAFT and any(entry["sha256"] == upload.sha256 for entry in held):
            return case  # while supplementing, the same file counts as handed in anew
        now = self._clock()
        file_id = await self._files.put(upload.content, owner_id=resident_id, case_id=case_id, scan=scan)
        entry = {
            "id": file_id,
            "name": upload.name,
            "type": upload.content_type,
            "size": len(upload.content),
            "sha256": upload.sha256,
            "at": now,
            "pages": upload.pages,
        }
        if scan == stored.UNCHECKED:
            entry["scan"] = scan  # tells the views to ask what the scanner has said since
        if upload_id is not None:
            entry["upload_id"] = upload_id
        return await self._cases.change(_own(case_id, resident_id), self._adding(key, [entry], now))

    async def put_licence(self, case_id: str, resident_id: str, key: str, licence_id: str) -> Case:
        """Let one of the resident's own valid licences stand in for a material (拿证照免提交).

        Raises:
            MaterialNotFound, ActionNotAllowed, LicenceNotFound, LicenceNotUsable, ValidationFailed: no licence fits this material.
        """
        case = await self._cases.get(case_id, resident_id)
        material = await self._material_of(case, key)
        if not material.get("licence"):
            raise ValidationFailed([error_row("/licence_id", "not_accepted", "这项材料不能用电子证照代替，请上传文件")])
        licence = await self._licences.usable(licence_id, resident_id, material["licence"])
        await self._files.look_again([entry["id"] for entry in case.materials.get(key, {}).get("files", ())])

        def step(case: Case, _item: Mapping[str, Any]) -> steps.Moved:
            now = self._clock()
            return promises.held(case, key, {"files": [], "licence_id": licence["id"], "at": now}, now)

        return await self._cases.change(_own(case_id, resident_id), step)

    async def take_over(self, case_id: str, resident_id: str, key: str, entries: list[dict[str, Any]]) -> Case:
        """Add files of an earlier case of the same person, as `reuse.py` found them. Raises MaterialNotFound when they are gone."""
        await self.may_hand_in(case_id, resident_id, key)
        kept = await self._files.hold([entry["id"] for entry in entries], case_id)
        if len(kept) < len(entries):
            raise errors.MaterialNotFound("上次的文件已经不在了，请重新上传。", en="The earlier file is gone.")
        return await self._cases.change(_own(case_id, resident_id), self._adding(key, entries, self._clock()))

    async def hold(self, case_id: str, holdings: Mapping[str, Any]) -> None:
        """Say that a case is about to be given all files of these holdings."""
        await self._files.hold([entry["id"] for held in holdings.values() for entry in held.get("files", ())], case_id)

    def _adding(self, key: str, entries: list[dict[str, Any]], now: datetime) -> Step:
        sums = {entry["sha256"] for entry in entries}

        def step(case: Case, _item: Mapping[str, Any]) -> steps.Moved:
            kept = [entry for entry in case.materials.get(key, {}).get("files", []) if entry["sha256"] not in sums]
            if len(kept) + len(entries) > MAX_FILES:
                raise errors.FileTooLarge(f"每项材料最多{MAX_FILES}个文件，请先删除不要的。", en="Too many files.")
            return promises.held(case, key, {"files": [*kept, *entries], "licence_id": None}, now)

        return step

    async def remove(self, case_id: str, resident_id: str, key: str, file_id: str) -> Case:
        """Take a file back out. Removing what is not there changes nothing. Its bytes go when no case names them any more."""
        case = await self._cases.get(case_id, resident_id)
        if all(entry["id"] != file_id for entry in case.materials.get(key, {}).get("files", [])):
            return case
        self._cases.may_save(case)
        await self._files.look_again([file_id])

        def step(case: Case, _item: Mapping[str, Any]) -> steps.Moved:
            holding = case.materials.get(key, {})
            left = [entry for entry in holding.get("files", []) if entry["id"] != file_id]
            left_over = {**case.materials, key: {**holding, "files": left}}
            return steps.advance(case, "save", machine.RESIDENT, self._clock(), by=steps.APPLICANT, materials=left_over)

        return await self._cases.change(_own(case_id, resident_id), step)

    # --- reading ---

    async def read_own(self, case_id: str, resident_id: str, file_id: str) -> tuple[str, str, bytes]:
        """Return (name, type, bytes) of a file of the resident's own case. Raises MaterialNotFound."""
        entry, found = await self._read(await self._cases.get(case_id, resident_id), file_id)
        return entry["name"], entry["type"], found.content

    async def read_as_staff(self, case: Case, file_id: str) -> tuple[str, str, bytes]:
        """Return (name, type, bytes) of a file of a case that the clerk may see.

        Raises:
            MaterialNotFound, FileUnchecked: no scanner has looked at it yet.
        """
        entry, found = await self._read(case, file_id)
        if found.scan == stored.UNCHECKED:
            raise errors.FileUnchecked
        return entry["name"], entry["type"], found.content

    async def _read(self, case: Case, file_id: str) -> tuple[Mapping[str, Any], stored.StoredFile]:
        entry = find_entry(case, file_id)
        if entry is None or (found := await self._files.get(file_id)) is None:
            raise errors.MaterialNotFound("没有找到这个文件。", en="No such file.")
        return entry, found

    async def with_scans(self, case: Case, rows: list[dict[str, Any]], said: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return material rows of a view with what the scanner has said since of files it had not seen; `said`: where that is known.

        `scan` of a file is `clean`, `unchecked` or `infected`; a row with nothing but infected files is missing again.
        """
        asked = [entry["id"] for held in case.materials.values() for entry in held.get("files", ()) if entry.get("scan")]
        if not asked:
            return rows
        known = await self._files.scans(asked) if said is None else said

        def told(row: dict[str, Any]) -> dict[str, Any]:
            found = [file | {"scan": known[file["id"]]} if file["id"] in known else file for file in row["files"]]
            lost = bool(found) and all(file["scan"] == stored.INFECTED for file in found)
            return row | {"files": found} | ({"status": "missing" if row["required"] else "optional"} if lost else {})

        return [told(row) for row in rows]

    async def for_staff(self, case: Case, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return material rows as a clerk sees them: also `age_days` of each file, since it was first uploaded."""
        now = self._clock()
        ages = {
            entry["id"]: (now - materials.uploaded_at(entry)).days
            for held in case.materials.values()
            for entry in held.get("files", ())
        }
        shown = await self.with_scans(case, rows)
        return [row | {"files": [file | {"age_days": ages.get(file["id"], 0)} for file in row["files"]]} for row in shown]

    async def spoiled(self, case: Case) -> list[ErrorRow]:
        """Return what `spoiled_rows` does, by what is so now."""
        item = await self._cases.catalogue.item_at(case.item_code, case.item_version)
        return spoiled_rows(case, item, await self.worth([case]))

    async def ask_again(self, case: Case) -> Case:
        """Ask again for every licence that an accepted case counts on; its owner is told of one that was lost, and of one that is good again.

        Mark and event are one transaction, judged on the case as it is then, so a replacement that comes at the same time is never marked.
        """
        if not {"lose_licence", "regain_licence"} & set(machine.allowed_actions(case, machine.SYSTEM)):
            return case
        item = await self._cases.catalogue.item_at(case.item_code, case.item_version)
        worth, names, asked = await self.worth([case]), {}, {}
        for material in materials.needed(item, case.answers):
            if licence_id := case.materials.get(material["key"], {}).get("licence_id"):
                names[material["key"]] = material["name"]
                asked[material["key"]] = licence_id, worth.licences.get((case.owner_id, licence_id)) != material["licence"]
        if {key for key, (_licence, is_lost) in asked.items() if is_lost} == set(case.lost_materials):
            return case
        return await self._cases.change(
            {"_id": case.id}, lambda newest, _item: replacements.noted(newest, names, asked, self._clock())
        )

    async def worth(self, cases: Sequence[Case], session: AsyncClientSession | None = None) -> Worth:
        """Return what the licences and files handed in with these cases are worth now, or in the transaction of `session`."""
        held = [each for case in cases for each in case.materials.values()]
        named = {each["licence_id"] for each in held if each.get("licence_id")}
        asked = {entry["id"] for each in held for entry in each.get("files", ()) if entry.get("scan")}
        return Worth(await self._licences.valid(named, session) if named else {}, await self._files.scans(asked, session) if asked else {})

    async def case_of(self, case_id: str, resident_id: str) -> Case:
        """Return a resident's own case. Raises CaseNotFound."""
        return await self._cases.get(case_id, resident_id)

    # --- inside ---

    async def may_hand_in(self, case_id: str, resident_id: str, key: str) -> Case:
        """Return the case when a file may be handed in for this material now. Raises MaterialNotFound, ActionNotAllowed."""
        case = await self._cases.get(case_id, resident_id)
        await self._material_of(case, key)
        if not (promises.is_owed(case, key) or promises.may_add(case, key) or replacements.is_lost(case, key)):
            self._cases.may_save(case)
        return case

    async def _material_of(self, case: Case, key: str) -> Mapping[str, Any]:
        item = await self._cases.catalogue.item_at(case.item_code, case.item_version)
        for material in materials.needed(item, case.answers):
            if material["key"] == key:
                return material
        if key in materials.photo_fields(item):
            return {"key": key, "licence": None}
        raise errors.MaterialNotFound("这个事项没有这项材料。", en="No such material.")


def spoiled_rows(case: Case, item: Mapping[str, Any], worth: Worth) -> list[ErrorRow]:
    """Return a row for every material that was handed in and is not worth anything.

    A licence is asked for again at every step that counts on it: one that has run out, was annulled, or is not the applicant's any more
    never satisfies a material. A file in which the scanner found something since is gone.
    """
    needed = {material["key"]: material for material in materials.needed(item, case.answers)}
    rows = []
    for key, held in case.materials.items():
        material = needed.get(key)
        if material is None or not held.get("licence_id"):
            continue
        if worth.licences.get((case.owner_id, held["licence_id"])) != material["licence"]:
            detail = f"“{material['name']}”用的电子证照已过期、已作废或不是申请人本人的，请换一张或上传文件"
            rows.append(error_row(f"/materials/{key}", "licence_not_valid", detail))
    for key, held in case.materials.items():
        for entry in held.get("files", ()):
            if entry.get("scan") and worth.scans.get(entry["id"]) == stored.INFECTED:
                detail = "这项材料里有文件没有通过安全检查，请删掉它，换一个再传"
                rows.append(error_row(f"/materials/{key}", "file_infected", detail))
    return rows


def find_entry(case: Case, file_id: str) -> Mapping[str, Any] | None:
    """Return what a case says of one of its files, or None."""
    for held in case.materials.values():
        for entry in held.get("files", ()):
            if entry["id"] == file_id:
                return dict(entry)
    return None


def _own(case_id: str, resident_id: str) -> dict[str, str]:
    return {"_id": case_id, "owner_id": resident_id}
