"""Samples (抽查): a head looks at decisions of rules, with what the rules saw beside each, and says what was found."""

import re

from app.kernel.errors import HallError
from handlers.pages_base import errors_by_field
from handlers.pages_staff import ID, StaffPage
from handlers.problems import judged
from handlers.routing import SAMPLES_ARE_THE_HEADS, require_head, sample_row
from handlers.staff import AuditSampleRequest

PAGE = 20


class Samples(StaffPage):
    async def get(self) -> None:
        await self.show_samples()

    async def show_samples(self, case_id: str = "", error: HallError | None = None) -> None:
        require_head(self.staff, *SAMPLES_ARE_THE_HEADS)
        state = "done" if self.get_query_argument("state", "") == "done" else "open"
        cursor = self.get_query_argument("cursor", "")
        cases, following = await self.hall.review.samples(
            self.staff, state=state, limit=PAGE, cursor=cursor if re.fullmatch(ID, cursor) else None
        )
        await self.show(
            "staff_samples.html",
            error.status if error else 200,
            rows=[sample_row(case) for case in cases],
            state=state,
            next_cursor=following,
            # What was typed is kept after a refusal, at the case that it is about.
            wrong=case_id,
            typed={name: self.text(name) for name in ("finding", "note")},
            error=error,
            errors=errors_by_field(error) if error else {},
        )


class Sample(Samples):
    async def get(self, _case_id: str) -> None:
        self.redirect("/staff/samples", status=303)

    async def post(self, case_id: str) -> None:
        require_head(self.staff, *SAMPLES_ARE_THE_HEADS)
        typed = {"finding": self.text("finding", limit=20), "note": self.text("note", limit=1001).strip()}
        try:
            await self.hall.review.act(case_id, "audit_sample", self.staff, judged(AuditSampleRequest, typed, ""))
        except HallError as error:
            if error.status not in (409, 422):
                raise
            return await self.show_samples(case_id, error)
        self.redirect("/staff/samples", status=303)


routes = [(r"/staff/samples", Samples), (rf"/staff/samples/{ID}", Sample)]
