"""Where one can turn against a decision: review and suit, or a complaint where no authority decided.

Sources: 行政复议法 (2023) art. 20 (60 days), 24 (the government of the same level), 27 (customs, tax and others led from above: the next higher
office); 行政诉讼法 art. 46 (six months), 14 and 18 (the basic court of the seat).
"""

from collections.abc import Mapping
from typing import Any

REVIEW_DAYS, SUIT_MONTHS = 60, 6
CITY_GOVERNMENT = "韶关市人民政府"
COURT = "有管辖权的基层人民法院"
COMPLAINTS = "12345"


def remedy(agency: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"review_body", "review_days", "court", "suit_months", "complain_to"}; for a body without authority only the last."""
    if agency["kind"] == "enterprise":
        return {"complain_to": COMPLAINTS}
    review_body = f"{agency['name']}的上一级主管部门" if agency["kind"] == "central" else CITY_GOVERNMENT
    return {
        "review_body": review_body,
        "review_days": REVIEW_DAYS,
        "court": COURT,
        "suit_months": SUIT_MONTHS,
        "complain_to": COMPLAINTS,
    }


def sentence(told: Mapping[str, Any]) -> str:
    """Return what a person who was told `remedy` can do, in their words."""
    if not told.get("review_body"):
        return "有疑问或不同意的，可以打12345。"
    return (
        f"不同意的，可以在收到之日起{told['review_days']}日内向{told['review_body']}申请行政复议，"
        f"或在{told['suit_months']}个月内向{told['court']}起诉；有疑问可以打12345。"
    )
