"""Putting an answer right after submission (更正): the applicant asks, a clerk answers; what stood there before is kept."""

from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Any

from app.cases import forms, machine
from app.cases.completeness import facts_of
from app.cases.model import Case, Correction
from app.cases.steps import APPLICANT, Moved, advance
from app.kernel.errors import ValidationFailed, error_row
from app.kernel.records import replace


def judged(
    case: Case, item: Mapping[str, Any], fields: Mapping[str, Any], today: date, division_codes: Collection[str]
) -> dict[str, Any]:
    """Return the whole form with these answers in place of the old ones, judged like at submission.

    Only what is changed is judged: a day that was right at submission and lies in the past by now must not hold up a phone number.

    Raises:
        ValidationFailed: no field, one the form does not ask, nothing that differs, or an answer that is wrong; by `/fields/<key>`.
    """
    kept, rows = forms.draft_values(item, fields)
    changed = {key: value for key, value in kept.items() if value != case.form.get(key)}
    if not rows and not changed:
        rows = [error_row("/fields", "unchanged", "请写明要更正的内容，和原来填的一样就不用更正")]
    merged = {key: value for key, value in {**case.form, **changed}.items() if value is not None}
    merged = forms.with_computed(item, merged, today)
    form, wrong = forms.judge(item, case.answers, merged, facts_of(case, today, division_codes))
    rows += [row for row in wrong if row["pointer"].split("/")[2] in changed]
    asked = {field["key"] for field in forms.visible_fields(item, case.answers, merged)}
    rows += [error_row(f"/form/{key}", "not_asked", "这一项现在不用填") for key in changed if key not in asked]
    if rows:
        raise ValidationFailed(
            [error_row(row["pointer"].replace("/form/", "/fields/", 1), row["code"], row["detail"]) for row in rows]
        )
    return {**{key: value for key, value in merged.items() if key not in form}, **form}


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


def answer(case: Case, approve: bool, reason: str, form: Mapping[str, Any], now: datetime) -> Moved:
    """Answer the open request.

    Args:
        form: the whole form with the new values, judged; taken over when approved.
    """
    done = tuple(
        asked
        if asked.outcome
        else replace(asked, outcome="approved" if approve else "refused", answer=reason, answered_at=now)
        for asked in case.corrections
    )
    changes: dict[str, Any] = {"form": dict(form)} if approve else {}
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
