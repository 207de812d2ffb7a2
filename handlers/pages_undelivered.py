"""Notices that reached nobody: the list, one of them with its tries and the person's number, and the note of what was done."""

import re
from typing import Any

from app.kernel.errors import HallError
from handlers.pages_base import ULID, errors_by_field
from handlers.pages_staff import StaffPage
from handlers.problems import judged
from handlers.undelivered import HandleUndeliveredRequest, with_phone

PAGE = 50
ID = rf"(dlv_{ULID})"
TABS = {"open": "没跟进的", "handled": "跟进过的"}


def agency_name(hall: Any, agency_id: str) -> str:
    """Return the name of the agency whose notice it is; what is nobody's (orders, sign-in) is the hall's, and an agency may be gone by now."""
    agency = hall.catalogue.snapshot.agencies.get(agency_id)
    return str(agency["name"]) if agency else agency_id or "掌上办事大厅"


class Notices(StaffPage):
    async def get(self) -> None:
        asked, cursor = self.text("tab", limit=20), self.text("cursor", limit=40)
        tab = asked if asked in TABS else "open"
        rows, following = await self.hall.push.undelivered.page(
            self.staff,
            is_superior=self.hall.supervision.is_superior(self.staff),
            limit=PAGE,
            cursor=cursor if re.fullmatch(ID, cursor) else None,
            is_open=tab == "open",
        )
        agencies = {row["agency_id"]: agency_name(self.hall, row["agency_id"]) for row in rows}
        await self.show("staff_undelivered.html", rows=rows, agencies=agencies, next_cursor=following, tab=tab, tabs=TABS)


class Notice(StaffPage):
    async def get(self, delivery_id: str) -> None:
        await self.show_notice(delivery_id)

    async def show_notice(self, delivery_id: str, error: HallError | None = None) -> None:
        row = await with_phone(self.hall, delivery_id, self.staff)
        await self.show(
            "staff_undelivered_one.html",
            error.status if error else 200,
            row=row,
            agency=agency_name(self.hall, row["agency_id"]),
            is_theirs=row["agency_id"] == self.staff.agency_id,
            note=self.text("note", limit=501),  # what was typed is kept after a refusal
            error=error,
            errors=errors_by_field(error) if error else {},
        )

    async def post(self, delivery_id: str) -> None:
        try:
            note = judged(HandleUndeliveredRequest, {"note": self.text("note", limit=501).strip()}, "")["note"]
            is_superior = self.hall.supervision.is_superior(self.staff)
            await self.hall.push.undelivered.handle(delivery_id, self.staff, note, is_superior=is_superior)
        except HallError as error:
            if error.status not in (409, 422):
                raise
            return await self.show_notice(delivery_id, error)
        self.redirect("/staff/undelivered", status=303)


routes = [(r"/staff/undelivered", Notices), (rf"/staff/undelivered/{ID}", Notice)]
