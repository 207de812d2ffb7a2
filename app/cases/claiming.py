"""Claiming many cases at once. Each is claimed by itself, in its own transaction: of two clerks who want the same one, one gets it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from app.cases.errors import ActionNotAllowed, CaseNotFound
from app.cases.review import Review
from app.identity.model import StaffSession
from app.kernel.errors import HallError

MOST = 200
_AT_ONCE = 8


async def claim_all(review: Review, staff: StaffSession, case_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Claim what nobody has; return {id, outcome, detail} of each, in order.

    `outcome`: claimed (also when it was one's own already), taken (by a colleague), not_allowed (its state), not_found, failed (try again).
    A request that died half-way is simply sent again.
    """
    turns = asyncio.Semaphore(_AT_ONCE)

    async def claim(case_id: str) -> dict[str, Any]:
        async with turns:
            try:
                await review.act(case_id, "claim", staff, {"only_unclaimed": True})
            except CaseNotFound as error:
                return {"id": case_id, "outcome": "not_found", "detail": error.detail}
            except ActionNotAllowed as error:
                outcome = "not_allowed" if error.context.get("allowed_actions") else await _why(review, staff, case_id)
                return {"id": case_id, "outcome": outcome, "detail": error.detail}
            except HallError as error:
                return {"id": case_id, "outcome": "failed", "detail": error.detail}
            return {"id": case_id, "outcome": "claimed", "detail": ""}

    return list(await asyncio.gather(*(claim(case_id) for case_id in dict.fromkeys(case_ids))))


async def _why(review: Review, staff: StaffSession, case_id: str) -> str:
    case = await review.get(case_id, staff)
    return "taken" if case.assignee not in (None, staff.account) else "not_allowed"
