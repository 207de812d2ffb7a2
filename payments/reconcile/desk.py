"""Findings as staff see and settle them.

A finding belongs to the agency whose money it is; one without an order of ours to the agency that runs the hall.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from app.kernel.audit import record
from app.kernel.clock import format_utc
from payments.reconcile import words
from payments.reconcile.clearing import Clearing
from payments.reconcile.errors import FindingNotFound, FindingSettled, HeadNeeded
from payments.reconcile.matching import FindingState
from payments.reconcile.store import ReconcileStore
from payments.refunds import Staff

SETTLES = "head"


class FindingsDesk:
    def __init__(self, store: ReconcileStore, clearing: Clearing, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clearing = clearing
        self._clock = clock

    async def page(
        self, staff: Staff, *, state: str = FindingState.OPEN, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return findings of the own agency in a state, newest day first, and the cursor of the next page."""
        rows = await self._store.page(staff.agency_id, state, before=cursor or "", limit=limit + 1)
        return [view(row) for row in rows[:limit]], rows[limit - 1]["key"] if len(rows) > limit else None

    async def read(self, finding_id: str, staff: Staff) -> dict[str, Any]:
        """Return a finding of the own agency for somebody who looks at it; the reading is recorded. Raises FindingNotFound."""
        row = await self._of_agency(finding_id, staff)
        owner_id = await self._store.owner_of(row["order_id"]) if row["order_id"] else ""
        await record(self._store.database["audit"], actor=staff.account, action="finding.read", subject=row["key"], owner_id=owner_id)
        return view(row)

    async def settle(self, finding_id: str, staff: Staff, note: str) -> dict[str, Any]:
        """Close a finding by the word of the agency's head, who says why; what was in suspense for it goes back.

        Raises:
            FindingNotFound, HeadNeeded, FindingSettled.
        """
        row = await self._of_agency(finding_id, staff)
        if staff.role != SETTLES:
            raise HeadNeeded("核清对账差异要由单位负责人操作。", en="The head of the agency settles findings.")
        if row["state"] == FindingState.SETTLED:
            raise FindingSettled("这条差异已经核清了，请刷新后查看。", en="Settled already.")
        if not await self._clearing.settle_by_hand(row, staff.account, note, self._clock()):
            raise FindingSettled("这条差异刚刚有变化，请刷新后再看。", en="It has changed just now; load it again.")
        settled = await self._store.finding_of_key(finding_id)
        assert settled is not None
        return view(settled)

    async def _of_agency(self, finding_id: str, staff: Staff) -> dict[str, Any]:
        row = await self._store.finding_of_key(finding_id)
        if row is None or row["agency_id"] != staff.agency_id:
            raise FindingNotFound("没有找到这条对账差异。", en="No such finding.")
        return row


def view(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finding as the API gives it."""
    return {
        "id": row["key"],
        "provider": row["provider"],
        "day": row["day"],
        "kind": row["kind"],
        "subject": row["subject"],
        "state": row["state"],
        "number": row["number"],
        "out_trade_no": row["out_trade_no"],
        "provider_trade_no": row["provider_trade_no"] or None,
        "order_id": row["order_id"] or None,
        "agency_id": row["agency_id"],
        "ours_fen": row.get("ours_fen"),
        "theirs_fen": row.get("theirs_fen"),
        "what": words.sentence(row),
        "what_to_do": words.advice(row),
        "at": format_utc(row.get("at")),
        "found_at": format_utc(row["found_at"]),
        "settled_at": format_utc(row.get("settled_at")),
        "settled_by": row.get("settled_by"),
    }
