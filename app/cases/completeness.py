"""Whether a case may be handed in, and what it then costs. Pure."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any

from app.cases import errors, forms, materials
from app.cases.model import Case, Fee, Promise, State
from app.cases.procedure import promisable
from app.catalogue import model as items
from app.kernel.errors import ErrorRow, error_row
from app.kernel.records import replace


def complete_form(
    case: Case, item: Mapping[str, Any], today: date, division_codes: Collection[str]
) -> dict[str, Any]:
    """Return the normalised form of a case that may be handed in.

    Raises:
        Incomplete: one row for everything that is missing or wrong: questions, answers, materials, and, while supplementing, what
            the notice asked for and has not come.
    """
    rows: list[ErrorRow] = [
        error_row(f"/answers/{situation['key']}", "required", f"请回答：{situation['question']}")
        for situation in items.unanswered_fee_situations(item, case.answers)
    ]
    form, form_rows = forms.judge(item, case.answers, case.form, facts_of(case, today, division_codes))
    rows += form_rows + materials.gaps(item, case.answers, case.materials)
    told = {row["pointer"] for row in rows}
    rows += [row for row in _notice_rows(case, item) if row["pointer"] not in told]
    promised = {f"/materials/{promise.key}" for promise in case.open_promises}
    rows = [row for row in rows if row["pointer"] not in promised]
    if rows:
        raise errors.Incomplete(rows)
    return form


def with_standing_promises(case: Case, item: Mapping[str, Any]) -> Case:
    """Return a case about to be handed in without promises of what has come meanwhile, is not asked for, or may not come later.

    Nobody could keep such a promise: the approval would wait for ever.
    """
    may_come_later = promisable(item)
    needed = {material["key"] for material in materials.needed(item, case.answers)} & set(may_come_later)
    stale = {row["pointer"] for row in _notice_rows(case, item)}  # the notice wants it anew

    def stands(promise: Promise) -> bool:
        missing = not materials.is_met(case.materials.get(promise.key)) or f"/materials/{promise.key}" in stale
        return promise.met_at is not None or (promise.key in needed and missing)

    return replace(case, promises=tuple(filter(stands, case.promises)))


def facts_of(case: Case, today: date, division_codes: Collection[str]) -> forms.Facts:
    """Return what judging a case's form needs besides the form itself."""
    files = frozenset(key for key, held in case.materials.items() if materials.is_met(held))
    return forms.Facts(today=today, division_codes=division_codes, fields_with_files=files)


def _notice_rows(case: Case, item: Mapping[str, Any]) -> list[ErrorRow]:
    """Rows for what the notice asked for and has not come since: a material needs something new, an answer must be there."""
    if case.state is not State.SUPPLEMENT_REQUIRED or case.supplement is None:
        return []
    requested_at = case.supplement["requested_at"]
    form_keys = {field["key"] for field in item["form"]}
    known = form_keys | {material["key"] for material in materials.needed(item, case.answers)}
    rows = []
    for asked in case.supplement["missing"]:
        if asked["key"] not in known:
            continue  # not needed any more under the answers as they are now
        held = case.materials.get(asked["key"], {})
        fresh = any(entry["at"] > requested_at for entry in held.get("files", ()))
        fresh = fresh or bool(held.get("licence_id") and held.get("at", requested_at) > requested_at)
        if asked["key"] in form_keys and not fresh:
            continue  # an answer: judged with the whole form
        if not fresh:
            rows.append(
                error_row(f"/materials/{asked['key']}", "required", f"请补交“{asked['name']}”：{asked['reason']}")
            )
    return rows


def frozen_fees(item: Mapping[str, Any], answers: Mapping[str, Any]) -> tuple[Fee, ...]:
    """Return the fees the hall collects for this application, at the prices of this item version.

    Amounts that another system computes (formula, market) and fees paid elsewhere (offline) are not collected here.
    """
    return tuple(
        Fee(fee["key"], fee["name"], fee["amount_fen"], fee["when_paid"], fee["basis"])
        for fee in items.visible_fees(item, answers)
        if fee["amount_fen"] and fee["when_paid"] != "offline"
    )


def fees_anew(case: Case, item: Mapping[str, Any]) -> tuple[Fee, ...]:
    """Return the fees of a case whose answers may have changed since it was handed in: what is paid stands, the rest follows the answers.

    Raises:
        Incomplete: these answers cost something else than what was paid already.
    """
    settled = {fee.key: fee for fee in case.fees if fee.state != "pending"}
    fresh = frozen_fees(item, case.answers)
    if all(any((fee.key, fee.amount_fen) == (key, paid.amount_fen) for fee in fresh) for key, paid in settled.items()):
        return tuple(settled.get(fee.key, fee) for fee in fresh)
    asked = {key for fee in item["fees"] for key in fee.get("when") or ()}
    detail = "费用已按原来的选择缴纳，这一项不能再改；确实要改，请撤回后重新申请，已缴的费用会原路退回"
    raise errors.Incomplete(
        [error_row(f"/answers/{row['key']}", "fee_paid", f"“{row['question']}”：{detail}") for row in item["situations"] if row["key"] in asked]
    )


def has_delivery(item: Mapping[str, Any]) -> bool:
    """Say whether the item has a delivery step of its own."""
    return any(step["stage"] == "deliver" for step in item["steps"])
