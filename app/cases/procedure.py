"""What the law and an item's own data say of the steps of its cases. Read once per case, at submission, and kept with the case.

An item may set `notice_limit`, `supplement_limit`, `supplement_expiry`, `extension_limit`, `deferral_until`, `hearing` and a material's
`by_promise`; what it does not set follows the general rule below.
"""

from collections.abc import Mapping
from typing import Any

from app.catalogue.model import Item

Limit = Mapping[str, Any]

# 行政许可法 art. 32: on the spot or within five days. Other laws say otherwise; then the item says `notice_limit` (0 days = on the spot).
NOTICE_LIMIT: Limit = {"days": 5, "unit": "working"}
# No law fixes the applicant's time to complete; three weeks are common practice, and the reminder comes before the end.
SUPPLEMENT_LIMIT: Limit = {"days": 15, "unit": "working"}
REMIND_WORKING_DAYS_BEFORE = 3
# 行政许可法 art. 42, for licences only: ten days, approved by the head of the body.
EXTENSION_LIMIT: Limit = {"days": 10, "unit": "working"}
# 告知承诺: what was promised instead of proven is looked at afterwards, within this time.
COMMITMENT_LIMIT: Limit = {"days": 20, "unit": "working"}
# 行政许可法 art. 44: the certificate within ten days of the decision.
DELIVERY_LIMIT: Limit = {"days": 10, "unit": "working"}

_LICENCE = "01"


def rules_of(item: Item) -> dict[str, Any]:
    """Return the rules of an item's cases, as plain values that a document can hold.

    Keys:
        notice, supplement: {"days", "unit"}; `supplement_expiry`: `close` or `keep` what is never completed.
        extension: {"days", "unit"} at most, or None when no law allows one.
        promisable: material key -> `deferral` or `commitment`.
        deferral_until: `decision` (approved only once all of it has come) or `delivery`.
        departments: {"agency", "task", "days", "mode"} of those that are asked; refusal_rule: `all_of` or `lead_decides`.
        hearing: `on_application`, `required`, or None: whether there is a right to a hearing before a denial, or one before any decision.
        renewal: {"licence", "when", "before", "law"}, or None: under which answers it renews a licence, and how long before its end to apply.
        stages: {"key", "name", "days", "clock"} of the review, in turn; four_eyes: outcomes that need a second person.
    """
    is_licence = item["item_type"]["code"] == _LICENCE
    return {
        "notice": dict(item.get("notice_limit") or NOTICE_LIMIT),
        "supplement": dict(item.get("supplement_limit") or SUPPLEMENT_LIMIT),
        "supplement_expiry": item.get("supplement_expiry", "close"),
        "extension": item.get("extension_limit") or (dict(EXTENSION_LIMIT) if is_licence else None),
        "promisable": promisable(item),
        "deferral_until": item.get("deferral_until", "decision"),
        "departments": departments(item),
        "refusal_rule": item.get("refusal_rule", "lead_decides"),
        "hearing": item.get("hearing"),
        "renewal": item.get("renewal"),
        "stages": stages(item),
        "four_eyes": list(item.get("four_eyes", ())),
    }


def promisable(item: Item) -> dict[str, str]:
    """Return the materials that may come later: tolerated as missing where the item and the material say so (广东营商条例 art. 32),
    or promised instead of proven where the item offers it and a department could attest the fact (art. 36)."""
    found: dict[str, str] = {}
    for material in item["materials"]:
        if item["commitment"] and material.get("by_promise", material["source"] == "government"):
            found[material["key"]] = "commitment"
        elif item["tolerate_missing"] and material["can_defer"]:
            found[material["key"]] = "deferral"
    return found


def departments(item: Item) -> list[dict[str, Any]]:
    """Return the departments that are asked: those of the joint review, then other co-agencies, who have a day."""
    rows = [
        {"agency": row["agency"], "task": row["task"], "days": row["days"], "mode": row["mode"]} for row in item.get("joint_review", ())
    ]
    named = {row["agency"] for row in rows} | {item.get("agency")}
    rest = [agency for agency in item.get("co_agencies", ()) if agency not in named]
    return rows + [{"agency": agency, "task": "", "days": 1, "mode": "parallel"} for agency in rest]


# Not of the review: what the applicant does, the steps the table has of its own, and the time in which departments answer.
_OTHER_STEPS = frozenset({"apply", "accept", "decide", "deliver", "rate", "parallel", "verify"})


def stages(item: Item) -> list[dict[str, Any]]:
    """Return the stages of the review, in the order in which they follow each other."""
    return [
        {"key": step["stage"], "name": step["name"], "days": step["days"], "clock": step.get("clock", "running")}
        for step in item.get("steps", ())
        if step["stage"] not in _OTHER_STEPS and step.get("actor", "agency") == "agency"
    ]


def rule(rules: Mapping[str, Any], name: str, otherwise: Limit) -> tuple[int, str]:
    """Return a limit of a case's rules as (days, unit); cases from before a rule existed follow the general one."""
    limit = rules.get(name) or otherwise
    return limit["days"], limit["unit"]
