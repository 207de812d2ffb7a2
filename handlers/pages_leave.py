"""Who stands in for whom (离岗代办), and giving all that one colleague has to another (批量转派). The rules are routing.py's and handover.py's."""

import re
from typing import Any

from app.cases import handover
from app.cases.model import STATE_NAMES
from app.cases.queue import Wanted
from app.kernel.clock import today
from app.kernel.errors import HallError
from handlers.pages_base import errors_by_field
from handlers.pages_staff import ID, StaffPage
from handlers.problems import judged
from handlers.routing import HAND_OVER_IS_THE_HEADS, AbsenceRequest, HandOverRequest, end_leave, require_head, set_leave

SHOWN = 50


class Leave(StaffPage):
    """GET: the leaves of the agency that are not over, and the form; POST: say one's own, as head a colleague's too."""

    async def get(self) -> None:
        await self._show()

    async def post(self) -> None:
        asked = {name: self.text(name, limit=80).strip() for name in ("account", "cover", "from", "until")}
        try:
            await set_leave(self.hall, self.staff, judged(AbsenceRequest, asked, ""))
        except HallError as error:
            if error.status not in (403, 422):
                raise
            return await self._show(error, asked)
        self.redirect("/staff/leave", status=303)

    async def _show(self, error: HallError | None = None, asked: dict[str, str] | None = None) -> None:
        people = await self.hall.staff.colleagues(self.staff.agency_id)
        await self.show(
            "staff_leave.html",
            error.status if error else 200,
            leaves=await self.hall.staff.absences(self.staff.agency_id),
            people=people,
            names={row["account"]: row["name"] for row in people},
            asked=asked or {"from": today().isoformat()},
            error=error,
            errors=errors_by_field(error) if error else {},
        )


class EndLeave(Leave):
    """POST: take a leave back. Harmless when it is sent twice."""

    async def get(self) -> None:
        self.redirect("/staff/leave", status=303)

    async def post(self) -> None:
        try:
            await end_leave(self.hall, self.staff, self.text("account", limit=80))
        except HallError as error:
            if error.status not in (403, 422):
                raise
            return await self._show(error)
        self.redirect("/staff/leave", status=303)


class HandOver(StaffPage):
    """GET: what a colleague has; POST: give it to another, 200 at a time. Sent again, it goes on where it stopped."""

    async def get(self) -> None:
        require_head(self.staff, *HAND_OVER_IS_THE_HEADS)
        await self._show(self.text("from", limit=80).strip())

    async def post(self) -> None:
        require_head(self.staff, *HAND_OVER_IS_THE_HEADS)
        asked: dict[str, Any] = {name: self.text(name, limit=80).strip() for name in ("from", "account")}
        only = self.text("only") == "ticked"
        if only:
            asked["case_ids"] = [case_id for case_id in self.get_body_arguments("id") if re.fullmatch(ID, case_id)]
        try:
            body = judged(HandOverRequest, asked, "")
            rows, more = await handover.hand_over(
                self.hall.review, self.staff, body["from_account"], body["account"], body["case_ids"]
            )
        except HallError as error:
            if error.status not in (403, 422):
                raise
            return await self._show(asked["from"], error=error, to=asked["account"])
        await self._show(asked["from"], rows=rows, more=more, to=asked["account"])

    async def _show(
        self,
        account: str,
        *,
        rows: list[dict[str, Any]] | None = None,
        more: bool = False,
        to: str = "",
        error: HallError | None = None,
    ) -> None:
        people = await self.hall.staff.colleagues(self.staff.agency_id)
        is_known = any(row["account"] == account for row in people)
        page = await self.hall.queue.page(self.staff, Wanted(assignee=account), limit=SHOWN) if is_known else None
        await self.show(
            "staff_hand_over.html",
            error.status if error else 200,
            people=people,
            names={row["account"]: row["name"] for row in people},
            account=account,
            is_known=is_known,
            to=to,
            cases=page.cases if page else [],
            states=STATE_NAMES,
            counts=page.counts if page else None,
            most=handover.MOST,
            moved=rows,
            more=more,
            error=error,
            errors=errors_by_field(error) if error else {},
        )


routes = [
    (r"/staff/leave", Leave),
    (r"/staff/leave/end", EndLeave),
    (r"/staff/hand-over", HandOver),
]
