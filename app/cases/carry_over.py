"""A draft follows its item: when a newer version is published, answers are carried over, and what changed is told. Pure.

Nothing that was typed is lost: an answer the newer form has no place for is kept beside it, and comes back if the field does.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.cases import forms
from app.cases.model import Case
from app.cases.procedure import rules_of
from app.catalogue import model as items
from app.kernel.money import yuan_text
from app.kernel.records import replace

Item = Mapping[str, Any]


def carried_over(case: Case, old: Item, new: Item, agency: Mapping[str, Any]) -> Case:
    """Return a draft moved from one version of its item to another, and to the body that handles this one; `carried_over` tells {"from", "to", "changes"}.

    A change is {"key", "label", "change", "detail"}; `change` is one of added, removed, changed (a field), question_added,
    question_removed, question_changed, material_added, material_removed, fee. Changes of several versions add up until submission.
    """
    answers = {key: value for key, value in case.answers.items() if not items.wrong_answers(new, {key: value})}
    form, dropped, changes = _form(case, old, new, answers)
    changes += [*_questions(case, old, new, answers), *_materials(old, new, answers), *_fee(old, new, answers)]
    told = case.carried_over
    if changes:
        since = case.carried_over or {"from": case.item_version, "changes": []}
        told = {"from": since["from"], "to": new["version"], "changes": [*since["changes"], *changes]}
    return replace(
        case,
        item_version=new["version"],
        item_name=new["name"],
        agency_id=agency["id"],
        agency_name=agency["name"],
        answers=answers,
        form=form,
        form_dropped=dropped,
        carried_over=told,
        rules=rules_of(new),
    )


def _change(change: str, row: Mapping[str, Any], detail: str, label: str = "") -> dict[str, str]:
    return {"key": row["key"], "label": label or row.get("label") or row.get("name") or row["question"], "change": change, "detail": detail}


def _form(
    case: Case, old: Item, new: Item, answers: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, str]]]:
    before, after = ({field["key"]: field for field in item["form"]} for item in (old, new))
    changes = []
    dropped = {key: value for key, value in case.form_dropped.items() if key not in after}
    found = {key: kept["value"] for key, kept in case.form_dropped.items() if key in after} | dict(case.form)
    form = {}
    for key, value in found.items():
        kept, wrong = forms.draft_values(new, {key: value})
        if key in after and "computed" in after[key]:
            continue
        if wrong:
            dropped[key] = {"label": (after.get(key) or before.get(key) or {}).get("label", key), "value": value}
        else:
            form |= kept
    for key, field in before.items():
        if key not in after:
            changes.append(_change("removed", field, f"“{field['label']}”不用再填" + ("，您填过的内容另外留着。" if key in dropped else "。")))
    for key, field in after.items():
        if not items.applies(field.get("when"), answers):
            continue
        if key not in before:
            changes.append(_change("added", field, f"新增“{field['label']}”，" + ("请填写。" if field["required"] else "可以不填。")))
        elif detail := _field_detail(before[key], field, is_dropped=key in dropped):
            changes.append(_change("changed", field, detail))
    return form, dropped, changes


def _field_detail(old: Mapping[str, Any], new: Mapping[str, Any], *, is_dropped: bool) -> str:
    """Return what a person must know of a field that changed, or empty text."""
    name = f"“{new['label']}”"
    if is_dropped:
        return f"{name}的填法变了，请重新填写；您原来填的内容另外留着。"
    if old["type"] != new["type"]:
        return f"{name}的填法变了，请核对。"
    if old.get("options") != new.get("options") or old.get("columns") != new.get("columns"):
        return f"{name}的选项有变化，请核对。"
    if new["required"] and not old["required"]:
        return f"{name}现在必填。"
    return f"“{old['label']}”改为{name}。" if old["label"] != new["label"] else ""


def _questions(case: Case, old: Item, new: Item, answers: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    before, after = ({row["key"]: row for row in item["situations"]} for item in (old, new))
    for key, row in before.items():
        if key not in after:
            yield _change("question_removed", row, f"不再问“{row['question']}”。")
    for key, row in after.items():
        if key not in before:
            yield _change("question_added", row, f"新增问题“{row['question']}”，请回答。")
        elif key in case.answers and key not in answers:
            yield _change("question_changed", row, f"“{row['question']}”的选项变了，请重新选。")


def _materials(old: Item, new: Item, answers: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    before, after = ({row["key"]: row for row in items.visible_materials(item, answers)} for item in (old, new))
    yield from (_change("material_removed", row, f"不用再交“{row['name']}”。") for key, row in before.items() if key not in after)
    yield from (_change("material_added", row, f"新增材料“{row['name']}”。") for key, row in after.items() if key not in before)


def _fee(old: Item, new: Item, answers: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    before, after = (sum(fee["amount_fen"] or 0 for fee in items.visible_fees(item, answers)) for item in (old, new))
    if before != after:
        yield _change("fee", {"key": "fee"}, f"费用由{yuan_text(before)}元变为{yuan_text(after)}元。", label="费用")
