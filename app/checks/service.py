"""查: a resident asks a department about his own matter, or looks up bills.

Rules: only with the identity level the kind asks; every question is recorded with its purpose; an answer
says when and from where; a department that is away says so and names its counter; "none" is never inferred from an error.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from redis.asyncio import Redis

from app.checks import bill_rules, metrics, model, store
from app.checks import inputs as judging
from app.checks.bill_rules import RELATION_FIELD, RELATIONS, Identity
from app.checks.cache import AnswerCache
from app.checks.dates import dates_of
from app.checks.errors import CheckKindNotFound
from app.exchange.departments import DepartmentSystems, Found, InputsRefused, Office
from app.identity.model import Resident
from app.identity.service import require_level
from app.kernel.clock import format_utc, utc_now
from app.kernel.crypto import KeyRing
from app.kernel.errors import ProviderUnavailable, ValidationFailed, error_row
from app.kernel.numbers import mask_name
from app.reminders.model import Dated
from app.storage.limits import Limit
from app.storage.mongo import Database

CASE_PROGRESS = "case_progress"
_OWN_IDENTITY = ("id_number", "name")
_REAL_NAME = 3
# Codes and account numbers can be guessed one after the other; nobody has so many bills of his own.
LOOKUPS_AT_MOST, LOOKUPS_IN_S = 60, 600

Progress = Callable[[str, str], Awaitable[Mapping[str, Any]]]
# Notes a day of a resident's own matter, so that they are reminded of it.
NoteDay = Callable[[str, Dated], Awaitable[None]]


class Kinds(Protocol):
    """What is needed of a published catalogue (app/catalogue/snapshot.py)."""

    @property
    def check_kinds(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def bill_kinds(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def bill_fields(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def agencies(self) -> Mapping[str, Mapping[str, Any]]: ...


class Catalogue(Protocol):
    @property
    def snapshot(self) -> Kinds: ...


class People(Protocol):
    async def resident(self, resident_id: str) -> Resident: ...


class Checks:
    def __init__(
        self,
        database: Database,
        redis: Redis | None,
        keys: KeyRing,
        *,
        catalogue: Catalogue,
        people: People,
        departments: DepartmentSystems,
        progress: Progress | None = None,
        note_day: NoteDay | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`progress` answers (case number, query code): the hall's own check, which without it is not offered."""
        self._database = database
        self._catalogue = catalogue
        self._people = people
        self._departments = departments
        self._cache = AnswerCache(redis, keys)
        self._keys = keys
        self._lookups = Limit(redis, "bill-lookups", most=LOOKUPS_AT_MOST, per_s=LOOKUPS_IN_S)
        self._progress = progress
        self._note_day = note_day
        self._clock = clock

    # --- the kinds ---

    def kinds(self) -> dict[str, Any]:
        """Return what can be checked and which bills can be looked up, with the inputs each needs."""
        known = self._catalogue.snapshot
        return {
            "items": [
                self._kind_view(kind)
                for kind in known.check_kinds.values()
                if kind["kind"] != CASE_PROGRESS or self._progress
            ],
            "bill_kinds": [
                {
                    "kind": kind["kind"],
                    "name": kind["name"],
                    "identity_level": kind["identity_level"],
                    "agency": self._agency_view(kind["source"]),
                    "inputs": [{**field, "required": False} for field in _fields_of(kind, known.bill_fields)],
                    "key_sets": [{"keys": row["keys"], "note": row["note"]} for row in kind["lookup"]],
                    "receipt": kind["receipt"],
                    "identity": str(bill_rules.rule_of(kind["kind"]).identity),
                }
                for kind in known.bill_kinds.values()
            ],
            "next_cursor": None,
        }

    def kind(self, name: str) -> Mapping[str, Any]:
        """Return one kind of check. Raises CheckKindNotFound."""
        found = self._catalogue.snapshot.check_kinds.get(name)
        if found is None or (name == CASE_PROGRESS and self._progress is None):
            raise CheckKindNotFound("没有这种查询，请从“查”的列表中选择。", en="No such check.")
        return found

    def bill_kind(self, name: str) -> Mapping[str, Any] | None:
        """Return one kind of bill, or None."""
        return self._catalogue.snapshot.bill_kinds.get(name)

    def _kind_view(self, kind: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "kind": kind["kind"],
            "name": kind["name"],
            "summary": kind["summary"],
            "identity_level": kind["identity_level"],
            "sends_identity": kind["sends_identity"],
            "purpose": kind["purpose"],
            "agency": self._agency_view(kind["source"]),
            "inputs": list(kind["inputs"]),
        }

    # --- asking ---

    async def run(self, name: str, given: Mapping[str, Any], resident_id: str) -> dict[str, Any]:
        """Ask a department about the resident's own matter and return the answer as api.md has it.

        Raises:
            CheckKindNotFound; LevelRequired; ValidationFailed (pointers /inputs/<key>);
            ProviderUnavailable: the department is down, slow or not to be understood.
        """
        kind = self.kind(name)
        resident = await self._people.resident(resident_id)
        require_level(resident.level, int(kind["identity_level"][1:]))
        judged = judging.judge(kind["inputs"], given)
        office = self._office(kind["source"])
        await store.audit(
            self._database,
            actor_id=resident_id,
            action="check.asked",
            kind=name,
            office_id=office.id,
            purpose=kind["purpose"],
        )
        if name == CASE_PROGRESS:
            return await self._own_progress(judged)
        person = {"name": resident.name, "id_number": resident.id_number} if kind["sends_identity"] else None

        async def ask() -> Found:
            found = await self._departments.check(office, name, judged, person)
            await self._note_days(kind, found, resident_id)
            return found

        return await self._answered(resident_id, office, name, ["check", name, judged, person], ask)

    async def lookup_bills(self, name: str, given: Mapping[str, Any], resident_id: str) -> dict[str, Any]:
        """Return the bills that fit the keys given; a resident's own name and number are filled in where they are known.

        Raises:
            ValidationFailed (pointers /kind, /inputs/<key>); LevelRequired; ProviderUnavailable; RateLimited.
        """
        kind = self.bill_kind(name)
        if kind is None:
            raise ValidationFailed([error_row("/kind", "unknown", "没有这种账单，请从列表中选择")])
        resident = await self._people.resident(resident_id)
        require_level(resident.level, int(kind["identity_level"][1:]))
        fields = self._catalogue.snapshot.bill_fields
        judged = judging.judge(_fields_of(kind, fields), given)
        relation = judged.pop("relation", "")
        keys = _with_own_identity(kind, judged, resident)
        missing = judging.missing_of([row["keys"] for row in kind["lookup"]], keys)
        if missing is not None:
            raise ValidationFailed(
                [error_row(f"/inputs/{key}", "required", f"请填写{fields[key]['label']}") for key in missing]
            )
        is_anothers = "id_number" in keys and keys["id_number"] != resident.id_number
        if is_anothers and bill_rules.rule_of(name).identity is Identity.FAMILY and not relation:
            text = f"这不是您本人的号码。给家人缴费，请说明患者是您的哪一位家人：{'、'.join(RELATIONS)}"
            raise ValidationFailed([error_row("/inputs/relation", "required", text)])
        await self._lookups.require(resident_id, "查得太频繁了，请十分钟后再查。")
        await self._lookups.count(resident_id)
        office = self._office(kind["source"])
        await store.audit(
            self._database,
            actor_id=resident_id,
            action="bills.looked_up",
            kind=name,
            office_id=office.id,
            purpose=f"{f'为{relation}' if is_anothers and relation else ''}查询并缴纳{kind['name']}",
        )

        async def ask() -> Found:
            try:
                return await self._departments.lookup_bills(office, name, keys)
            except InputsRefused as refused:
                # It wants more than a set of ours holds: tell what the nearest larger set lacks.
                larger = [row["keys"] for row in kind["lookup"] if not set(row["keys"]) <= set(keys)]
                raise InputsRefused(tuple(judging.missing_of(larger, keys) or refused.fields)) from refused

        paid_for = (mask_name(keys.get("name", "")) or "他人") if is_anothers else ""
        return await self._answered(resident_id, office, name, ["bills", name, keys], ask, paid_for)

    async def _answered(
        self,
        resident_id: str,
        office: Office,
        name: str,
        question: Sequence[Any],
        ask: Callable[[], Awaitable[Found]],
        paid_for: str = "",
    ) -> dict[str, Any]:
        kept = await self._cache.get(resident_id, question)
        if kept is not None:
            return kept
        try:
            found = await ask()
        except InputsRefused as refused:
            raise self._as_rows(refused) from refused
        except ProviderUnavailable as error:
            error.context.setdefault("kind", name)
            raise
        # Remembered before it is shown: what is on the screen can be ordered.
        now = self._clock()
        await store.remember_bills(self._database, resident_id, office, found.bills, now, paid_for=paid_for)
        for bill in found.bills:
            metrics.watch_surcharge(bill, office, now)
        views = [model.bill_view(bill, office, now) for bill in sorted(found.bills, key=lambda bill: (bill.due_on, bill.id))]
        answer = {
            "kind": name,
            "as_of": found.as_of,
            "source": found.source,
            "agency": {"id": office.id, "name": office.name, "hotline": office.hotline},
            "records": list(found.records),
            "bills": [view for view in views if view["payable"]],
            # Paid, closed, disputed: for the person to see, nothing to pay.
            "other_bills": [view for view in views if not view["payable"]],
        }
        if not found.bills:
            await self._cache.put(resident_id, question, answer)
        return answer

    async def _own_progress(self, judged: Mapping[str, str]) -> dict[str, Any]:
        assert self._progress is not None
        case = await self._progress(judged["case_number"], judged["query_code"])
        office = self._office("sg-zsj")
        rows = [("事项", case["item"]["name"]), ("办理部门", case["agency"]["name"]), ("下一步", case["next"]["text"])]
        if case.get("deadline_on"):
            rows.append(("预计办结" if case.get("deadline_estimated") else "办结期限", case["deadline_on"]))
        return {
            "kind": CASE_PROGRESS,
            "as_of": format_utc(self._clock()),
            "source": "韶关掌上办事大厅",
            "agency": {"id": office.id, "name": office.name, "hotline": office.hotline},
            "records": [
                {
                    "title": case["number"],
                    "state": case["state_name"],
                    "rows": [{"label": label, "value": value} for label, value in rows],
                }
            ],
            "bills": [],
            "other_bills": [],
        }

    async def _note_days(self, kind: Mapping[str, Any], found: Found, resident_id: str) -> None:
        if self._note_day is not None and kind["sends_identity"]:  # the person's own matter, and nobody else's
            for dated in dates_of(kind, found.records, lambda value: self._keys.blind_index(value, purpose="check-date")):
                await self._note_day(resident_id, dated)

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Give what is remembered of one account to another, after the two were joined."""
        await store.move_bills(self._database, from_id, into_id)
        await self._cache.forget(from_id)

    def _as_rows(self, refused: InputsRefused) -> ValidationFailed:
        fields = self._catalogue.snapshot.bill_fields
        rows = [
            error_row(
                f"/inputs/{key}", "required", f"请填写{fields[key]['label']}：{fields[key]['hint']}"
            )
            for key in refused.fields
            if key in fields
        ]
        return ValidationFailed(rows or [error_row("/inputs", "incomplete", "查询条件不完整，请补充后再查")])

    def _office(self, agency_id: str) -> Office:
        return office_of(self._catalogue.snapshot, agency_id)

    def _agency_view(self, agency_id: str) -> dict[str, str]:
        office = self._office(agency_id)
        return {"id": office.id, "name": office.name, "hotline": office.hotline}


def office_of(known: Kinds, agency_id: str) -> Office:
    """Return whom to ask for an agency id."""
    row = known.agencies[agency_id]
    return Office(row["id"], row["name"], row["hotline"])


def _fields_of(kind: Mapping[str, Any], fields: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what may be typed to look up the bills of a kind."""
    own = [fields[key] for key in _keys_of(kind)]
    return [*own, RELATION_FIELD] if bill_rules.rule_of(kind["kind"]).identity is Identity.FAMILY else own


def _keys_of(kind: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(key for row in kind["lookup"] for key in row["keys"]))


def _with_own_identity(kind: Mapping[str, Any], judged: Mapping[str, str], resident: Resident) -> dict[str, str]:
    """Return the keys with the resident's own name and number filled in, where a set of keys needs them and he is known.

    Raises:
        ValidationFailed: somebody else's number, for a kind that only the person himself may look up.
    """
    keys = dict(judged)
    known = resident.level >= _REAL_NAME and bool(resident.id_number)
    own_only = bill_rules.rule_of(kind["kind"]).identity is Identity.OWN
    if own_only and "id_number" in keys and keys["id_number"] != resident.id_number:
        raise ValidationFailed([error_row("/inputs/id_number", "not_own", "这种账单只能查本人的，请填写您自己的号码")])
    if known and "id_number" not in keys and "name" not in keys and not _complete(kind, keys):
        own = {"id_number": resident.id_number, "name": resident.name}
        keys |= {key: own[key] for key in _OWN_IDENTITY if any(key in row["keys"] for row in kind["lookup"])}
    return keys


def _complete(kind: Mapping[str, Any], keys: Mapping[str, str]) -> bool:
    return judging.missing_of([row["keys"] for row in kind["lookup"]], keys) is None
