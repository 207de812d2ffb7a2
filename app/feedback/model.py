"""What the room of feedback speaks of: levels, contacts, channels, and the local rules of config/feedback.json.

Levels are kept in the standard's code, 1 very satisfied ... 5 very dissatisfied (GB/T 39046-2020); another scale is converted at the edge.

HallError
├── AlreadyRated 409, RatingExpired 409, FollowedUp 409
├── StepNotAllowed 409       the work order is in another state
├── PersonConcerned 403      somebody else must do it: this person was rated or complained about
└── DeskNeeded 403           for the head of the agency, or the call-back desk
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from marshmallow import Schema, ValidationError, fields, validate

from app.kernel.errors import Conflict, Forbidden

LEVELS = {1: "非常满意", 2: "满意", 3: "基本满意", 4: "不满意", 5: "非常不满意"}
BAD_FROM = 4  # 差评: must be called back (国办发〔2019〕51号)
UNRATED = "unrated"  # a state of its own, never a level
CHANNELS = ("mini_program", "app", "h5", "pc", "qr", "tablet", "phone", "sms")

# What a service contact (一次一评) is: an event of a case. Its id is the event's, so it cannot be counted twice.
CONTACTS: Mapping[str, str] = {"case.submitted": "submission", "case.supplemented": "supplement", "case.completed": "delivery"}
# What ends a matter (一事一评). Its contact has the case's id.
MATTERS = ("case.completed", "case.denied", "case.not_accepted", "case.supplement_expired")
EVENTS = tuple(sorted({*CONTACTS, *MATTERS}))
BY_HAND = ("window", "express")  # ways of delivery in which somebody meets somebody
KIND_NAMES = {"submission": "提交申请", "window": "窗口收件", "supplement": "补交材料", "delivery": "领取结果", "matter": "整件事", "consultation": "咨询"}


class AlreadyRated(Conflict):
    code = "evaluation.already_rated"


class RatingExpired(Conflict):
    code = "evaluation.expired"


class FollowedUp(Conflict):
    code = "evaluation.followed_up"


class StepNotAllowed(Conflict):
    code = "work_order.step_not_allowed"


class PersonConcerned(Forbidden):
    code = "work_order.person_concerned"


class DeskNeeded(Forbidden):
    code = "feedback.desk_needed"


@dataclass(frozen=True)
class Rules:
    """The local rules, as an operator sets them.

    Attributes:
        tags: online | offline -> level -> what can be ticked.
        working_days: kind of work order -> clock -> limit in working days.
        link_days: for how many days a one-time link can be used.
        complaints_per_day: of one resident.
        unrated_counts_after_days: in statistics, an unrated contact so old counts as satisfied; None: never.
    """

    tags: Mapping[str, Mapping[int, tuple[str, ...]]]
    working_days: Mapping[str, Mapping[str, int]]
    link_days: int
    complaints_per_day: int
    unrated_counts_after_days: int | None


_days = fields.Integer(required=True, strict=True, validate=validate.Range(1, 365))


class _RulesSchema(Schema):
    tags = fields.Dict(
        keys=fields.String(validate=validate.OneOf(["online", "offline"])),
        values=fields.Dict(
            keys=fields.String(validate=validate.OneOf([str(level) for level in LEVELS])),
            values=fields.List(fields.String(validate=validate.Length(1, 30))),
        ),
        required=True,
    )
    working_days = fields.Nested(
        Schema.from_dict(
            {
                "call_back": fields.Nested(Schema.from_dict({name: _days for name in ("contact", "answer", "correction")}), required=True),
                "complaint": fields.Nested(Schema.from_dict({name: _days for name in ("acceptance", "answer", "extension")}), required=True),
            }
        ),
        required=True,
    )
    link_days = _days
    complaints_per_day = fields.Integer(required=True, strict=True, validate=validate.Range(1, 1000))
    unrated_counts_after_days = fields.Integer(required=True, allow_none=True, strict=True, validate=validate.Range(1, 365))


def read_rules(path: Path) -> Rules:
    """Read and judge config/feedback.json. Raises ValueError naming the file and what is wrong in it."""
    try:
        data: dict[str, Any] = _RulesSchema().load(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, ValidationError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    given = data.pop("tags")
    tags = {mode: {level: tuple(given.get(mode, {}).get(str(level), ())) for level in LEVELS} for mode in ("online", "offline")}
    return Rules(tags=tags, **data)
