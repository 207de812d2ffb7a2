"""Putting an answer right after submission (更正): the applicant asks, a clerk answers; what stood there before is kept."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.cases import machine
from app.cases.model import Case, Correction
from app.cases.steps import APPLICANT, Moved, advance


def ask(case: Case, fields: Mapping[str, Any], labels: Mapping[str, str], reason: str, now: datetime) -> Moved:
    """Ask for other answers to some fields. `fields` are judged already; nothing of the form changes yet.

    Raises:
        ActionNotAllowed: too late, or an earlier request waits for its answer.
    """
    old = {key: case.form.get(key) for key in fields}
    asked = Correction(asked_at=now, reason=reason, fields=dict(fields), old=old)
    return advance(
        case,
        "correction",
        machine.RESIDENT,
        now,
        by=APPLICANT,
        title="申请更正",
        # Which answers, never their values: a timeline is read in more places than a form.
        detail="、".join(labels.get(key, key) for key in fields),
        data={"fields": list(fields)},
        corrections=(*case.corrections, asked),
    )


def answer(case: Case, approve: bool, reason: str, judged: Mapping[str, Any], now: datetime) -> Moved:
    """Answer the open request.

    Args:
        judged: the whole form with the new values, judged; taken over when approved.
    """
    done = tuple(
        asked
        if asked.outcome
        else replace(asked, outcome="approved" if approve else "refused", answer=reason, answered_at=now)
        for asked in case.corrections
    )
    changes: dict[str, Any] = {"form": dict(judged)} if approve else {}
    return advance(
        case,
        "correct",
        machine.CLERK,
        now,
        by=case.agency_name,
        title="已按申请更正" if approve else "未同意更正",
        detail=reason,
        data={"outcome": "approved" if approve else "refused", "reason": reason},
        corrections=done,
        **changes,
    )
