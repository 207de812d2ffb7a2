"""The lives of a call-back (回访) and of a complaint (投诉): one table of named steps each. Nothing else says what may be done to one.

docs/feedback.md shows both tables; `python -m app.feedback.printed docs/feedback.md` writes them there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CALL_BACK, COMPLAINT = "call_back", "complaint"
# desk: the head of the agency that deals with it; for call-backs also the call-back desk of the agency that runs the hall.
RESIDENT, DESK, HEAD, SYSTEM = "resident", "desk", "head", "system"
_RANKS = {RESIDENT: (RESIDENT,), DESK: (DESK,), HEAD: (DESK, HEAD), SYSTEM: (SYSTEM,)}

# Which clock runs in a state; in the others nobody's does.
CLOCK_OF: Mapping[tuple[str, str], str] = {
    (CALL_BACK, "open"): "contact",
    (CALL_BACK, "contacted"): "answer",
    (CALL_BACK, "answered"): "correction",
    (COMPLAINT, "submitted"): "acceptance",
    (COMPLAINT, "accepted"): "answer",
}
STATE_NAMES: Mapping[str, Mapping[str, str]] = {
    CALL_BACK: {
        "open": "等待回访", "contacted": "已联系，等待答复", "answered": "已答复，等待整改", "corrected": "已整改", "closed": "已办结",
        "set_aside": "已核实，不作差评处理",
    },
    COMPLAINT: {
        "submitted": "已提交，等待受理", "accepted": "已受理，等待答复", "refused": "不予受理", "answered": "已答复", "settled": "已解决",
        "withdrawn": "已撤回",
    },
}  # fmt: skip
STEP_NAMES = {
    "try": "没联系上", "contact": "已联系上", "answer": "答复", "correct": "整改完成", "close": "不需整改，办结", "set_aside": "不作差评处理",
    "refer": "回避，转上级处理", "settle": "说已解决", "reopen": "说没解决", "accept": "受理", "refuse": "不予受理", "extend": "延期",
    "add": "补充说明", "withdraw": "撤回", "appeal": "不满意，请上级处理", "warn_near": "期限快到", "warn": "超过期限", "open": "评价", "submit": "投诉",
}  # fmt: skip
FIRST = {CALL_BACK: "open", COMPLAINT: "submitted"}
SET_ASIDE_FOR = {"mistaken": "误评", "malicious": "恶意评价"}

Guard = Callable[[Mapping[str, Any]], bool]


def always(_order: Mapping[str, Any]) -> bool:
    """-"""
    return True


def not_reopened(order: Mapping[str, Any]) -> bool:
    """not sent back before"""
    return not order["reopened"]


def not_settled(order: Mapping[str, Any]) -> bool:
    """the resident has not said so yet"""
    return order["is_settled"] is None


def not_extended(order: Mapping[str, Any]) -> bool:
    """not extended before"""
    return not order["extended"]


def may_appeal(order: Mapping[str, Any]) -> bool:
    """not with the agency that runs the hall already"""
    return not order["is_with_superior"]


@dataclass(frozen=True)
class Step:
    """A named step.

    Attributes:
        target: the state it leads to; None means the state stays.
        event: what is told of it; empty means nothing.
        needs: of `text` (what was done or said) and `reason` (one of SET_ASIDE_FOR), what must be given.
        restarts: the clocks count anew from this day.
    """

    name: str
    actor: str
    sources: tuple[str, ...]
    target: str | None
    event: str = ""
    needs: tuple[str, ...] = ("text",)
    guard: Guard = always
    restarts: bool = False


_DONE = ("answered", "corrected", "closed")
TABLES: Mapping[str, tuple[Step, ...]] = {
    CALL_BACK: (
        Step("try", DESK, ("open",), None),
        Step("contact", DESK, ("open",), "contacted", "call_back.contacted"),
        Step("answer", DESK, ("contacted",), "answered", "call_back.answered"),
        Step("correct", DESK, ("answered",), "corrected", "call_back.corrected"),
        Step("close", DESK, ("answered",), "closed", "call_back.closed"),
        Step("set_aside", HEAD, ("open", "contacted"), "set_aside", "call_back.set_aside", ("text", "reason")),
        Step("refer", HEAD, ("open", "contacted"), None, "call_back.referred", guard=may_appeal),
        Step("settle", RESIDENT, _DONE, None, "call_back.settled", (), not_settled),
        # Once: what is still not settled then is a complaint, which has a superior.
        Step("reopen", RESIDENT, _DONE, "open", "call_back.reopened", ("text",), not_reopened, restarts=True),
        Step("warn_near", SYSTEM, ("open", "contacted", "answered"), None, "call_back.near", ()),
        Step("warn", SYSTEM, ("open", "contacted", "answered"), None, "call_back.overdue", ()),
    ),
    COMPLAINT: (
        Step("add", RESIDENT, ("submitted", "accepted"), None),
        Step("withdraw", RESIDENT, ("submitted", "accepted"), "withdrawn", "complaint.withdrawn", ()),
        Step("accept", HEAD, ("submitted",), "accepted", "complaint.accepted", (), restarts=True),
        Step("refuse", HEAD, ("submitted",), "refused", "complaint.refused"),
        Step("extend", HEAD, ("accepted",), None, "complaint.extended", guard=not_extended),
        Step("refer", HEAD, ("submitted", "accepted"), None, "complaint.referred", guard=may_appeal),
        Step("answer", HEAD, ("accepted",), "answered", "complaint.answered"),
        Step("settle", RESIDENT, ("answered",), "settled", "complaint.settled", ()),
        Step("appeal", RESIDENT, ("answered", "refused"), "submitted", "complaint.appealed", ("text",), may_appeal, restarts=True),
        Step("warn_near", SYSTEM, ("submitted", "accepted"), None, "complaint.near", ()),
        Step("warn", SYSTEM, ("submitted", "accepted"), None, "complaint.overdue", ()),
    ),
}  # fmt: skip


def find(order: Mapping[str, Any], name: str, actor: str) -> Step | None:
    """Return the row that lets this kind of actor take the named step now, or None.

    Args:
        order: {kind, state, reopened, extended, is_settled, is_with_superior}.
    """
    for step in TABLES[order["kind"]]:
        if step.name == name and step.actor in _RANKS[actor] and order["state"] in step.sources and step.guard(order):
            return step
    return None


def allowed(order: Mapping[str, Any], actor: str) -> list[str]:
    """Return the names of the steps this kind of actor can take now, in the table's order."""
    return [step.name for step in TABLES[order["kind"]] if find(order, step.name, actor) is step]


def is_open(kind: str, state: str) -> bool:
    """Say whether somebody of an agency still has to act."""
    return (kind, state) in CLOCK_OF
