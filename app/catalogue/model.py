"""What an item asks under the answers given. Pure functions on an item as published (a mapping in the layout of items.json).

A condition (`when`) names situation keys: every key must match, any listed value suffices; no condition means always.
An answer is an option value, or a list of values where several may be chosen.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Item = Mapping[str, Any]
Answers = Mapping[str, Any]
Condition = Mapping[str, Sequence[str]]


def applies(condition: Condition | None, answers: Answers) -> bool:
    """Say whether a condition holds. A question that is not answered matches no condition on it."""
    if not condition:  # nearly all of them
        return True
    return all(not set(values).isdisjoint(_values(answers.get(key))) for key, values in condition.items())


def may_apply(condition: Condition | None, answers: Answers) -> bool:
    """Say whether a condition holds, or still could, once the open questions are answered."""
    return applies({key: values for key, values in (condition or {}).items() if key in answers}, answers)


def visible_materials(item: Item, answers: Answers) -> list[Mapping[str, Any]]:
    """Return the materials that apply, in the item's order."""
    return [material for material in item["materials"] if applies(material.get("when"), answers)]


def visible_fees(item: Item, answers: Answers) -> list[Mapping[str, Any]]:
    """Return the fees that apply, in the item's order; `amount_fen` None = computed elsewhere."""
    return [fee for fee in item["fees"] if applies(fee.get("when"), answers)]


def visible_fields(item: Item, answers: Answers) -> list[Mapping[str, Any]]:
    """Return the form fields that apply under the situation answers (`show_when`, on other fields, is the form's matter)."""
    return [field for field in item["form"] if applies(field.get("when"), answers)]


def fee_totals(item: Item, answers: Answers) -> dict[str, dict[str, Any]]:
    """Return per `when_paid` the known total in fen and whether all amounts are known."""
    totals: dict[str, dict[str, Any]] = defaultdict(lambda: {"amount_fen": 0, "complete": True})
    for fee in visible_fees(item, answers):
        total = totals[fee["when_paid"]]
        total["amount_fen"] += fee["amount_fen"] or 0
        total["complete"] = total["complete"] and fee["amount_fen"] is not None
    return dict(totals)


def unanswered_situations(item: Item, answers: Answers) -> list[Mapping[str, Any]]:
    """Return the situation questions without an answer, in the item's order."""
    return [situation for situation in item["situations"] if not _values(answers.get(situation["key"]))]


def unanswered_fee_situations(item: Item, answers: Answers) -> list[Mapping[str, Any]]:
    """Return the open questions on which a fee depends: without them the price is not known."""
    open_fees = [fee for fee in item["fees"] if fee.get("when") and may_apply(fee["when"], answers)]
    wanted = {key for fee in open_fees for key in fee["when"]}
    return [situation for situation in unanswered_situations(item, answers) if situation["key"] in wanted]


def wrong_answers(item: Item, answers: Answers) -> dict[str, str]:
    """Return key -> sentence for every answer that does not fit: an unknown question, an unknown option, several where one is asked."""
    situations = {situation["key"]: situation for situation in item["situations"]}
    wrong: dict[str, str] = {}
    for key, given in answers.items():
        situation = situations.get(key)
        if situation is None:
            wrong[key] = f"这个事项没有“{key}”这个问题"
            continue
        if not isinstance(given, str) and not (isinstance(given, list) and all(isinstance(v, str) for v in given)):
            wrong[key] = "答案应为选项值，或选项值的列表"
            continue
        values = _values(given)
        unknown = [value for value in values if value not in {option["value"] for option in situation["options"]}]
        if unknown:
            wrong[key] = f"“{situation['question']}”没有“{'、'.join(unknown)}”这个选项"
        elif situation["type"] == "single" and len(values) > 1:
            wrong[key] = f"“{situation['question']}”只能选一个"
    return wrong


def fee_from_fen(item: Item) -> int | None:
    """Return the lowest total in fen that an applicant can meet, over all answers; None when no total is known in advance."""
    if not item["fees"]:
        return None if item["service_kind"] == "pay" else 0  # what is paid there is a bill of the department
    keys = {key for fee in item["fees"] for key in fee.get("when") or {}}
    asked = [situation for situation in item["situations"] if situation["key"] in keys]
    totals = []
    for chosen in itertools.product(*([option["value"] for option in situation["options"]] for situation in asked)):
        answers = {situation["key"]: value for situation, value in zip(asked, chosen, strict=True)}
        amounts = [fee["amount_fen"] for fee in visible_fees(item, answers)]
        if None not in amounts:
            totals.append(sum(amounts))
    return min(totals, default=None)


def promised_working_days(item: Item) -> int | None:
    """Return the promise in working days; None when it is given in calendar days (see `promised_limit`)."""
    limit = item["promised_limit"]
    return limit["days"] if limit["unit"] == "working" else None


def parse_answers(text: str) -> dict[str, Any]:
    """Read `key:value,key2:value|value`: several values of one question become a list.

    Raises:
        ValueError: a part without a colon, or a key given twice.
    """
    answers: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, colon, value = (piece.strip() for piece in part.partition(":"))
        if not colon or not key or not value:
            raise ValueError(f"“{part}”应写成 问题:答案")
        if key in answers:
            raise ValueError(f"“{key}”出现了两次")
        values = [piece.strip() for piece in value.split("|") if piece.strip()]
        answers[key] = values if len(values) > 1 else value.strip("|")
    return answers


def is_offered_in(item: Item, level: str) -> bool:
    """Say whether an item can be handled from a place of this level (city, county, town): taken in there, or wholly online."""
    return level in item["accept_levels"] or bool(item["channels"]["online"] and item["visits"] == 0)


def _values(given: Any) -> Iterable[str]:
    if given is None or given == "":
        return ()
    if isinstance(given, bool):  # a yes-or-no field of a form, named by `show_when`
        return ("true" if given else "false",)
    if isinstance(given, (list, tuple)):
        return tuple(value for value in given if isinstance(value, str))
    return (str(given),)
