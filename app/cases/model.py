"""A case (办件): one application of one resident for one item, with the item version it started with."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import orjson

from app.kernel.crypto import KeyRing


class State(StrEnum):
    """States of api.md, in the order of a case's life."""

    DRAFT = "draft"
    SUBMITTED = "submitted"
    SUPPLEMENT_REQUIRED = "supplement_required"
    ACCEPTED = "accepted"
    NOT_ACCEPTED = "not_accepted"
    IN_REVIEW = "in_review"
    SUSPENDED = "suspended"
    AWAITING_PAYMENT = "awaiting_payment"
    APPROVED = "approved"
    DENIED = "denied"
    DELIVERING = "delivering"
    COMPLETED = "completed"
    WITHDRAWN = "withdrawn"


FINAL = frozenset({State.NOT_ACCEPTED, State.DENIED, State.COMPLETED, State.WITHDRAWN})

STATE_NAMES = {
    State.DRAFT: "草稿",
    State.SUBMITTED: "已提交，等待受理",
    State.SUPPLEMENT_REQUIRED: "需要补正材料",
    State.ACCEPTED: "已受理",
    State.NOT_ACCEPTED: "不予受理",
    State.IN_REVIEW: "审查中",
    State.SUSPENDED: "暂停计时",
    State.AWAITING_PAYMENT: "等待缴费",
    State.APPROVED: "准予，等待送达",
    State.DENIED: "不予办理",
    State.DELIVERING: "送达中",
    State.COMPLETED: "已办结",
    State.WITHDRAWN: "已撤回",
}


@dataclass(frozen=True)
class TimelineEntry:
    """One line of what happened, as the resident reads it. `by` is a role or an agency, never a person's name."""

    at: datetime
    event: str
    by: str
    title: str
    detail: str = ""


@dataclass(frozen=True)
class Fee:
    """One fee of the case, frozen when the case was submitted. `state`: pending (not yet its step), due, paid."""

    key: str
    name: str
    amount_fen: int
    when_paid: str
    basis: str
    state: str = "pending"
    order_id: str | None = None  # the order that paid it


@dataclass(frozen=True)
class Suspension:
    """A time in which the law stops the clock (行政许可法 art. 45). `until_on` is None while it lasts."""

    kind: str
    days: int
    from_on: date
    until_on: date | None = None


@dataclass(frozen=True)
class Case:
    """A case, opened. `form` and `applicant_name` hold personal data in clear here: never log them.

    Moments are aware UTC, days are Shanghai days, money is fen. `version` counts changes and guards every write.
    """

    id: str
    number: str
    query_code: str
    owner_id: str
    item_code: str
    item_version: int
    item_name: str
    agency_id: str
    agency_name: str
    division_code: str
    state: State
    version: int
    created_at: datetime
    updated_at: datetime
    answers: Mapping[str, Any] = field(default_factory=dict)
    form: Mapping[str, Any] = field(default_factory=dict)
    materials: Mapping[str, Any] = field(default_factory=dict)  # key -> {"files": [...], "licence_id": str | None}
    field_versions: Mapping[str, int] = field(default_factory=dict)  # "form/<key>", "answers/<key>" -> version that last changed it
    form_dropped: Mapping[str, Any] = field(default_factory=dict)  # key -> {"label", "value"}: answers a newer form has no place for
    carried_over: Mapping[str, Any] | None = None  # {"from", "to", "changes": [...]}: the draft moved to a newer item version
    fees: tuple[Fee, ...] = ()
    timeline: tuple[TimelineEntry, ...] = ()
    suspensions: tuple[Suspension, ...] = ()
    resume_state: State | None = None  # where the case goes on after a payment or a suspension
    assignee: str | None = None
    supplement: Mapping[str, Any] | None = None  # {"requested_at", "missing": [{"key","name","reason"}], "returned_at"}
    decision: Mapping[str, Any] | None = None  # {"outcome", "opinion", "at"}
    delivery: Mapping[str, Any] | None = None  # {"method", "tracking", "at"}
    evaluation_level: int | None = None
    last_command: str | None = None  # the idempotency seed of the last submit or supplement: its retry finds it here
    refused_orders: tuple[str, ...] = ()  # orders whose money this case did not need
    submitted_at: datetime | None = None
    accepted_at: datetime | None = None
    decided_at: datetime | None = None
    completed_at: datetime | None = None
    accept_by_on: date | None = None  # by when acceptance must be decided
    accept_by_estimated: bool = False
    deadline_on: date | None = None  # by when the case must be decided: the earlier of promise and law
    deadline_estimated: bool = False

    @property
    def due_fees(self) -> tuple[Fee, ...]:
        return tuple(fee for fee in self.fees if fee.state == "due")

    @property
    def is_open(self) -> bool:
        return self.state not in FINAL

    def to_document(self, keys: KeyRing, personal_keys: frozenset[str]) -> dict[str, Any]:
        """Return the document: personal answers sealed in one piece, the others plain."""
        document = {name: _stored(value) for name, value in vars(self).items() if name not in ("id", "form", "form_dropped")}
        document["_id"] = self.id
        document["form"] = {key: value for key, value in self.form.items() if key not in personal_keys}
        personal = {key: value for key, value in self.form.items() if key in personal_keys}
        document["form_sealed"] = keys.seal(orjson.dumps(personal).decode(), context=f"{self.id}.form")
        # Of no field any more, so nothing says which of them are personal: all are sealed.
        dropped = orjson.dumps(self.form_dropped).decode()
        document["form_dropped_sealed"] = keys.seal(dropped, context=f"{self.id}.dropped") if self.form_dropped else None
        # What the work lists sort by: the day by which somebody of the agency must act.
        due = self.deadline_on or self.accept_by_on
        document["due_on"] = due.isoformat() if due else "9999-12-31"
        document["is_open"] = self.is_open and self.state is not State.DRAFT
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any], keys: KeyRing) -> "Case":
        values = {item.name: document[item.name] for item in dataclasses.fields(cls) if item.name in document}
        values["id"] = document["_id"]
        values["state"] = State(document["state"])
        values["resume_state"] = State(document["resume_state"]) if document["resume_state"] else None
        sealed = keys.open_sealed(document["form_sealed"], context=f"{document['_id']}.form")
        values["form"] = {**document["form"], **orjson.loads(sealed)}
        if document.get("form_dropped_sealed"):
            values["form_dropped"] = orjson.loads(keys.open_sealed(document["form_dropped_sealed"], context=f"{document['_id']}.dropped"))
        values["refused_orders"] = tuple(document.get("refused_orders", ()))
        values["fees"] = tuple(Fee(**fee) for fee in document["fees"])
        values["timeline"] = tuple(TimelineEntry(**entry) for entry in document["timeline"])
        values["suspensions"] = tuple(
            Suspension(
                kind=item["kind"],
                days=item["days"],
                from_on=date.fromisoformat(item["from_on"]),
                until_on=date.fromisoformat(item["until_on"]) if item["until_on"] else None,
            )
            for item in document["suspensions"]
        )
        for name in ("accept_by_on", "deadline_on"):
            values[name] = date.fromisoformat(document[name]) if document[name] else None
        return cls(**values)


def _stored(value: Any) -> Any:
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
