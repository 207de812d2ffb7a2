"""A case as a document of MongoDB: personal answers sealed, days as text, and beside them what lists and sweeps look for."""

import dataclasses
from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from functools import cache
from typing import Any

import orjson

from app.cases.model import Case, Consultation, Correction, Fee, Promise, Stage, State, Suspension, TimelineEntry, look_on
from app.kernel.crypto import KeyRing
from app.kernel.records import made

_SEALED = frozenset({"id", "form", "form_dropped", "corrections", "acting"})


def to_document(case: Case, keys: KeyRing, personal_keys: frozenset[str]) -> dict[str, Any]:
    """Return the document: personal answers sealed in one piece, the others plain."""
    document = {name: _stored(value) for name, value in vars(case).items() if name not in _SEALED}
    document["_id"] = case.id
    document["form"] = {key: value for key, value in case.form.items() if key not in personal_keys}
    personal = {key: value for key, value in case.form.items() if key in personal_keys}
    document["form_sealed"] = keys.seal(orjson.dumps(personal).decode(), context=f"{case.id}.form")
    # Of no field any more, so nothing says which of them are personal: all are sealed.
    dropped = orjson.dumps(case.form_dropped).decode()
    document["form_dropped_sealed"] = keys.seal(dropped, context=f"{case.id}.dropped") if case.form_dropped else None
    corrections = orjson.dumps([_stored(asked) for asked in case.corrections]).decode()
    document["corrections_sealed"] = keys.seal(corrections, context=f"{case.id}.corrections") if case.corrections else None
    document["has_open_correction"] = case.open_correction is not None
    # What the work lists sort by: the day by which somebody of the agency must act.
    document["due_on"] = case.due_on.isoformat() if case.due_on else "9999-12-31"
    # What the sweep finds it by: the day on which the hall itself must look at the case.
    look = look_on(case)
    document["look_on"] = look.isoformat() if look else None
    document["is_open"] = case.is_open and case.state is not State.DRAFT
    # What must be counted again when the notice of a year comes.
    is_estimated = case.accept_by_estimated if case.clock == "acceptance" else case.deadline_estimated
    document["is_estimated"] = document["is_open"] and case.decided_at is None and is_estimated
    return document


def from_document(document: Mapping[str, Any], keys: KeyRing) -> Case:
    """Return a case as it was written, also by older versions of the hall."""
    values = {name: document[name] for name in _names() if name in document}
    values["id"] = document["_id"]
    values["state"] = State(document["state"])
    values["resume_state"] = State(document["resume_state"]) if document["resume_state"] else None
    sealed = keys.open_sealed(document["form_sealed"], context=f"{document['_id']}.form")
    values["form"] = {**document["form"], **orjson.loads(sealed)}
    if document.get("form_dropped_sealed"):
        values["form_dropped"] = orjson.loads(keys.open_sealed(document["form_dropped_sealed"], context=f"{document['_id']}.dropped"))
    values["refused_orders"] = tuple(document.get("refused_orders", ()))
    values["noted_refunds"] = tuple(document.get("noted_refunds", ()))
    values["fees"] = tuple(Fee(**fee) for fee in document["fees"])
    values["timeline"] = tuple(TimelineEntry(**entry) for entry in document["timeline"])
    values["suspensions"] = tuple(Suspension(**_with_days(item, "from_on", "until_on", "expected_on")) for item in document["suspensions"])
    values["promises"] = tuple(Promise(**_with_days(item, "due_on")) for item in document.get("promises", ()))
    if document.get("corrections_sealed"):
        asked = orjson.loads(keys.open_sealed(document["corrections_sealed"], context=f"{document['_id']}.corrections"))
        values["corrections"] = tuple(Correction(**_with_moments(item, "asked_at", "answered_at")) for item in asked)
    # Cases from before this was kept: the last thing that came in began the clock.
    values.setdefault("received_at", (values.get("supplement") or {}).get("returned_at") or values.get("submitted_at"))
    values["departments"] = tuple(
        Consultation(**_with_days(row, "due_on", "silent_on")) for row in document.get("departments", ())
    )
    values["stages"] = tuple(Stage(**_with_days(row, "due_on")) for row in document.get("stages", ()))
    for name in ("past_supplements", "reminded", "transfers"):
        values[name] = tuple(document.get(name, ()))
    return made(Case, _with_days(values, "accept_by_on", "deadline_on", "fee_due_on", "deliver_by_on", "warn_on"))


@cache
def _names() -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(Case))


def _with_days(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**values, **{name: date.fromisoformat(values[name]) for name in names if values.get(name)}}


def _with_moments(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**values, **{name: datetime.fromisoformat(values[name]) for name in names if values.get(name)}}


_PLAIN = frozenset({str, int, bool, type(None), datetime, dict})


def _stored(value: Any) -> Any:
    if type(value) in _PLAIN:  # nearly all of them
        return value
    # BSON has no day without time: days are kept as text, so that nobody mistakes midnight UTC for a Shanghai day.
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _stored(inner) for name, inner in vars(value).items()}
    if isinstance(value, tuple):
        return [_stored(inner) for inner in value]
    return value
