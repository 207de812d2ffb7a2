"""A work order (工单): a call-back that a bad rating opened, or a complaint, as it is kept, counted, told of and shown. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import orjson

from app.cases.deadlines import warn_on
from app.feedback import machine
from app.feedback.model import Rules
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import format_utc
from app.kernel.crypto import KeyRing
from app.kernel.events import Event, new_event

NEVER = "9999-12-31"
PERSON = "群众"  # who complains or rated, to staff
SOON = timedelta(days=1)
LAMPS = ("red", "yellow", "green", "none")


@dataclass(frozen=True)
class WorkOrder:
    """A work order, opened. `log` holds what people said in clear here: never log it.

    Attributes:
        about: case, agency or hall.
        concerned: staff accounts it is about; they neither see it nor deal with it.
        desk_agency: whose head deals with it.
        began_on: the Shanghai day from which the clock of the state counts.
        near_on: the day from which the limit counts as near, or None.
        told_late, told_near: `<state>:<due_on>` of every limit whose passing, whose nearness was told.
        log: {at, step, by, role, text}, oldest first; `by` is a staff account, or empty.
    """

    id: str
    kind: str
    number: str
    owner_id: str
    state: str
    version: int
    created_at: datetime
    updated_at: datetime
    about: str
    agency_id: str
    agency_name: str
    desk_agency: str
    began_on: date
    item_code: str = ""
    item_name: str = ""
    case_id: str = ""
    level: int | None = None
    concerned: tuple[str, ...] = ()
    due_on: date | None = None
    is_estimated: bool = False
    near_on: date | None = None
    told_late: tuple[str, ...] = ()
    told_near: tuple[str, ...] = ()
    reopened: bool = False
    extended: bool = False
    is_with_superior: bool = False
    is_settled: bool | None = None
    log: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def facts(self) -> dict[str, Any]:
        """Return what the tables of machine.py look at."""
        names = ("kind", "state", "reopened", "extended", "is_settled", "is_with_superior")
        return {name: getattr(self, name) for name in names}

    @property
    def clock(self) -> str | None:
        return machine.CLOCK_OF.get((self.kind, self.state))

    @property
    def limit_key(self) -> str:
        return f"{self.state}:{self.due_on}"

    @property
    def look_on(self) -> date | None:
        """Return the day on which the hall must look at it: when its limit is near, then when it has passed; None when both were told."""
        if self.due_on is None or self.limit_key in self.told_late:
            return None
        is_told = self.near_on is None or self.limit_key in self.told_near
        return self.due_on + timedelta(days=1) if is_told else self.near_on

    def lamp(self, today: date) -> str:
        """Return red (passed), yellow (today or tomorrow), green, or none while nobody's clock runs."""
        if self.due_on is None:
            return "none"
        return "red" if self.due_on < today else "yellow" if self.due_on <= today + SOON else "green"

    def to_document(self, keys: KeyRing) -> dict[str, Any]:
        document = {name: value for name, value in vars(self).items() if name not in ("id", "log")}
        return document | {
            "_id": self.id,
            "concerned": list(self.concerned),
            "told_late": list(self.told_late),
            "told_near": list(self.told_near),
            "near_on": self.near_on.isoformat() if self.near_on else None,
            "began_on": self.began_on.isoformat(),
            "due_on": self.due_on.isoformat() if self.due_on else NEVER,
            "look_on": self.look_on.isoformat() if self.look_on else None,
            "is_open": self.clock is not None,
            "log_sealed": keys.seal(orjson.dumps(list(self.log)).decode(), context=f"{self.id}.log"),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], keys: KeyRing) -> "WorkOrder":
        values = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        due_on, near_on = document["due_on"], document.get("near_on")
        return cls(
            **values
            | {
                "id": document["_id"],
                "concerned": tuple(document["concerned"]),
                "told_late": tuple(document["told_late"]),
                "told_near": tuple(document.get("told_near", ())),
                "near_on": date.fromisoformat(near_on) if near_on else None,
                "began_on": date.fromisoformat(document["began_on"]),
                "due_on": None if due_on == NEVER else date.fromisoformat(due_on),
                "log": tuple(orjson.loads(keys.open_sealed(document["log_sealed"], context=f"{document['_id']}.log"))),
            }
        )


def with_due_day(order: WorkOrder, calendar: WorkingCalendar, rules: Rules) -> WorkOrder:
    """Return a work order with the day by which its clock must have ended, counted in working days from the day it began.

    Near it is by the rule of cases (app/cases/deadlines.py): two working days or a fifth of the limit, of a short limit all but its first day.
    """
    clock = order.clock
    if clock is None:
        return replace(order, due_on=None, near_on=None, is_estimated=False)
    limits = rules.working_days[order.kind]
    due = calendar.add_working_days(order.began_on, limits[clock])
    on, is_estimated = due.on, due.estimated
    if order.extended and order.state == "accepted":
        more = calendar.add_working_days(due.on, limits["extension"])
        on, is_estimated = more.on, due.estimated or more.estimated
    return replace(order, due_on=on, near_on=warn_on(calendar, order.began_on, on), is_estimated=is_estimated)


def entry(now: datetime, step: str, role: str, text: str = "", by: str = "") -> dict[str, Any]:
    """Return a line of the log."""
    return {"at": format_utc(now), "step": step, "by": by, "role": role, "text": text}


def told(order: WorkOrder, name: str, now: datetime, data: Mapping[str, Any] | None = None) -> Event:
    """Return the event of a work order with the facts every message needs; nothing that anybody said."""
    facts = {
        "number": order.number,
        "item_code": order.item_code,
        "item_name": order.item_name or order.agency_name,
        "agency_id": order.desk_agency,
        "agency_name": order.agency_name,
        "state": order.state,
        "version": order.version,
        "deadline_on": order.due_on.isoformat() if order.due_on else None,
        "deadline_estimated": order.is_estimated,
    }
    return new_event(name, subject=(order.kind, order.id), owner_id=order.owner_id, data={**facts, **(data or {})}, at=now)


def view(order: WorkOrder, today: date, actor: str) -> dict[str, Any]:
    """Return a work order as the API gives it: to its resident (roles, no accounts) or to staff (who, and who may do what)."""
    is_staff = actor != machine.RESIDENT
    lines = [
        {
            "at": row["at"],
            "step": row["step"],
            "name": machine.STEP_NAMES[row["step"]],
            "by": "您" if row["role"] == PERSON and not is_staff else row["role"],
            "text": row["text"],
        }
        | ({"account": row["by"]} if is_staff else {})
        for row in order.log
        # Between colleagues: that a call was tried, or why a rating was set aside as malicious, is not the resident's line.
        if is_staff or row["step"] not in ("try", "set_aside", "warn_near")
    ]
    return {
        "id": order.id,
        "kind": order.kind,
        "number": order.number,
        "state": order.state,
        "state_name": machine.STATE_NAMES[order.kind][order.state],
        "about": order.about,
        "agency": {"id": order.agency_id, "name": order.agency_name},
        "item": {"code": order.item_code, "name": order.item_name},
        "case_id": order.case_id or None,
        "level": order.level,
        "created_at": format_utc(order.created_at),
        "due_on": order.due_on.isoformat() if order.due_on else None,
        "due_estimated": order.is_estimated,
        "lamp": order.lamp(today),
        "is_with_superior": order.is_with_superior,
        "is_settled": order.is_settled,
        "allowed_actions": machine.allowed(order.facts, actor),
        "log": lines,
    }
