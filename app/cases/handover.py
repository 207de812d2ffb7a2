"""Handing over many cases at once: each by itself, in its own transaction. A request that died half-way is simply sent again."""

from collections.abc import Sequence
from typing import Any

from app.cases.review import Review
from app.identity.model import StaffSession
from app.kernel.errors import HallError

MOST = 200


async def hand_over(
    review: Review,
    head: StaffSession,
    from_account: str,
    account: str,
    case_ids: Sequence[str] | None = None,
) -> tuple[list[dict[str, Any]], bool]:
    """Give what one colleague has to another; return {id, outcome, detail} of each, and whether there is more than one call moves.

    `outcome`: moved, or failed with why. Only what `from_account` has at that moment is moved, so a case that somebody else took
    meanwhile stays theirs.
    """
    found = (
        list(dict.fromkeys(case_ids))
        if case_ids is not None
        else await review.assigned(head, from_account, MOST + 1)
    )
    rows = []
    for case_id in found[:MOST]:
        try:
            await review.act(
                case_id,
                "reassign",
                head,
                {"account": account, "only_from": from_account},
            )
            rows.append({"id": case_id, "outcome": "moved", "detail": ""})
        except HallError as error:
            rows.append({"id": case_id, "outcome": "failed", "detail": error.detail})
    return rows, len(found) > MOST
