"""The life of a campaign (群发通知): one table of named steps. Nothing else says what may be done to one.

docs/push.md shows the table; `python -m push.campaigns.printed docs/push.md` writes it there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# Anybody of the campaign's agency; its head; the head of the agency that runs the hall; the worker.
CLERK, HEAD, OPERATOR, SYSTEM = "clerk", "head", "operator", "system"
_RANKS = {CLERK: (CLERK,), HEAD: (CLERK, HEAD), OPERATOR: (OPERATOR,), SYSTEM: (SYSTEM,)}

DRAFT, SUBMITTED, APPROVED, RUNNING, PAUSED, FINISHED, STOPPED = STATES = (
    "draft", "submitted", "approved", "running", "paused", "finished", "stopped",
)  # fmt: skip
STATE_NAMES = {
    DRAFT: "草稿", SUBMITTED: "等待批准", APPROVED: "已批准，等待发送", RUNNING: "正在发送", PAUSED: "已暂停", FINISHED: "已发完", STOPPED: "已停止",
}  # fmt: skip
STEP_NAMES = {
    "create": "新建", "edit": "修改", "test": "试发", "submit": "提交批准", "take_back": "收回修改", "refuse": "退回修改", "approve": "批准",
    "begin": "开始发送", "hold": "超过限额，自动暂停", "pause": "暂停", "resume": "继续发送", "stop": "停止，不再发送", "discard": "作废", "finish": "发完",
}  # fmt: skip


@dataclass(frozen=True)
class Actor:
    """Who does a step. `ranks`: as what, seen from the campaign; `account` is a staff account, or `system`."""

    account: str
    ranks: frozenset[str]


Guard = Callable[[Mapping[str, Any], Actor, datetime], bool]


def always(_campaign: Mapping[str, Any], _actor: Actor, _now: datetime) -> bool:
    """-"""
    return True


def is_second_person(campaign: Mapping[str, Any], actor: Actor, _now: datetime) -> bool:
    """did not write any of it"""
    return actor.account not in campaign["authors"]


def may_approve_size(campaign: Mapping[str, Any], actor: Actor, _now: datetime) -> bool:
    """did not write any of it; a segment over the threshold: of the agency that runs the hall"""
    return is_second_person(campaign, actor, _now) and (OPERATOR in actor.ranks or not campaign["needs_operator"])


def not_held_by_operator(campaign: Mapping[str, Any], actor: Actor, _now: datetime) -> bool:
    """neither the agency that runs the hall nor the limit paused it, or that agency does this itself"""
    return OPERATOR in actor.ranks or not campaign["paused_by_operator"]


def is_time(campaign: Mapping[str, Any], _actor: Actor, now: datetime) -> bool:
    """the planned start has come"""
    return campaign["start_at"] is None or bool(campaign["start_at"] <= now)


def all_is_told(campaign: Mapping[str, Any], _actor: Actor, _now: datetime) -> bool:
    """the whole segment was written to, and every delivery is final and counted"""
    return bool(campaign["is_expanded"]) and not campaign["late"]


def has_grown(campaign: Mapping[str, Any], _actor: Actor, _now: datetime) -> bool:
    """as many were written to as the agency's own head may approve, and there are more"""
    return campaign["limit"] is not None and campaign["told"] + campaign["muted"] >= campaign["limit"] and not campaign["is_expanded"]


@dataclass(frozen=True)
class Step:
    """A named step.

    Attributes:
        target: the state it leads to; None means the state stays.
        needs_note: whoever does it says why.
    """

    name: str
    actors: tuple[str, ...]
    sources: tuple[str, ...]
    target: str | None
    guard: Guard = always
    needs_note: bool = False


TABLE: tuple[Step, ...] = (
    Step("edit", (CLERK,), (DRAFT,), None),
    Step("test", (CLERK,), (DRAFT, SUBMITTED, APPROVED), None),
    Step("submit", (CLERK,), (DRAFT,), SUBMITTED),
    Step("take_back", (CLERK,), (SUBMITTED, APPROVED), DRAFT),
    Step("refuse", (HEAD, OPERATOR), (SUBMITTED, APPROVED), DRAFT, is_second_person, True),
    Step("approve", (HEAD, OPERATOR), (SUBMITTED,), APPROVED, may_approve_size),
    Step("begin", (SYSTEM,), (APPROVED,), RUNNING, is_time),
    Step("hold", (SYSTEM,), (RUNNING,), PAUSED, has_grown),
    # Whoever sees that something is wrong stops the harm at once; going on is for those who answer for it.
    Step("pause", (CLERK, OPERATOR), (RUNNING,), PAUSED),
    Step("resume", (HEAD, OPERATOR), (PAUSED,), RUNNING, not_held_by_operator),
    Step("stop", (HEAD, OPERATOR), (APPROVED, RUNNING, PAUSED), STOPPED, always, True),
    Step("discard", (CLERK,), (DRAFT,), STOPPED),
    Step("finish", (SYSTEM,), (RUNNING,), FINISHED, all_is_told),
)
STEPS = {step.name: step for step in TABLE}


def ranks_of(role: str, is_own: bool, is_operator: bool) -> frozenset[str]:
    """Return as what a staff member stands to a campaign.

    Args:
        role: `clerk` or `head`.
        is_own: of the campaign's agency. is_operator: of the agency that runs the hall.
    """
    ranks = set(_RANKS[role]) if is_own else set()
    return frozenset(ranks | ({OPERATOR} if is_operator and role == HEAD else set()))


def may(step: Step, actor: Actor) -> bool:
    """Say whether this kind of actor ever takes a step."""
    return bool(actor.ranks.intersection(step.actors))


def allowed(campaign: Mapping[str, Any], actor: Actor, now: datetime) -> list[str]:
    """Return the names of the steps that this person can take now, in the table's order."""
    return [step.name for step in TABLE if may(step, actor) and campaign["state"] in step.sources and step.guard(campaign, actor, now)]
