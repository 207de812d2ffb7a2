"""Papers of cases: as PDF for the owner and for the agency that handles the case, and the public check by number and code."""

from typing import Any

from marshmallow import Schema, fields, validate

from app.cases.papers import STATES
from app.kernel.errors import NotFound, RateLimited
from handlers import guesses
from handlers.base import HallHandler, operation
from handlers.pages_base import PageHandler
from handlers.pages_cases import ID, CasePage
from handlers.pages_staff import StaffPage

NUMBER = r"([\w-]{1,80})"


class PaperQuery(Schema):
    code = fields.String(required=True, validate=validate.Length(1, 20))


class PaperCheckResponse(Schema):
    number = fields.String()
    valid = fields.Boolean()
    kind = fields.String()
    title = fields.String()
    item_name = fields.String()
    agency_name = fields.String()
    issued_at = fields.String()
    state = fields.String(validate=validate.OneOf(list(STATES)))
    state_name = fields.String()


async def checked(handler: HallHandler, number: str, code: str) -> dict[str, Any]:
    """Return what anybody with number and code may know; wrong codes are counted. Raises PaperNotFound, RateLimited."""
    check = handler.hall.cases.papers.check
    paper: dict[str, Any] = await guesses.found(handler, "paper-codes", "核验码", lambda: check(number, code.strip().upper()))
    return paper


def send(handler: HallHandler, name: str, pdf: bytes) -> None:
    handler.set_header("Content-Type", "application/pdf")
    handler.set_header("Content-Disposition", f'attachment; filename="{name}"')
    handler.set_header("Cache-Control", "private, no-store")
    handler.finish(pdf)


class Paper(HallHandler):
    @operation("A paper of an own case as PDF; the case's `papers` name them", auth="resident")
    async def get(self, case_id: str, number: str) -> None:
        case = await self.hall.cases.get(case_id, self.resident.resident_id)
        send(self, *await self.hall.cases.papers.pdf(case, number))


class StaffPaper(HallHandler):
    @operation("A paper of a case of the own agency as PDF", auth="staff")
    async def get(self, case_id: str, number: str) -> None:
        send(self, *await self.hall.review.paper_pdf(case_id, number, self.staff))


class PaperCheck(HallHandler):
    @operation("Check a paper of a case", query=PaperQuery, answers={200: PaperCheckResponse, 404: None, 429: None})
    async def get(self, number: str) -> None:
        await self.answer(await checked(self, number, self.query["code"]))


class PaperPage(CasePage):
    async def get(self, case_id: str, number: str) -> None:
        case = await self.hall.cases.get(case_id, self.owner)
        send(self, *await self.hall.cases.papers.pdf(case, number))


class StaffPaperPage(StaffPage):
    async def get(self, case_id: str, number: str) -> None:
        send(self, *await self.hall.review.paper_pdf(case_id, number, self.staff))


class PaperCheckPage(PageHandler):
    """Public: whoever holds the paper can check it. The answer names nobody."""

    async def get(self, number: str) -> None:
        code = self.text("code", limit=20).strip().upper()
        if not code:
            return await self.show("paper_check.html", paper=None, number=number, code="")
        try:
            paper = await checked(self, number, code)
        except NotFound as error:
            return await self.show("paper_check.html", 404, paper=None, number=number, code=code, error=error)
        except RateLimited as error:
            self.set_header("Retry-After", str(error.retry_after_s))
            return await self.show("paper_check.html", 429, paper=None, number=number, code="", error=error)
        await self.show("paper_check.html", paper=paper, number=number, code=code)


routes = [
    (rf"/v1/cases/([\w-]+)/papers/{NUMBER}\.pdf", Paper),
    (rf"/staff/v1/cases/([\w-]+)/papers/{NUMBER}\.pdf", StaffPaper),
    (rf"/v1/papers/{NUMBER}", PaperCheck),
    (rf"/cases/{ID}/papers/{NUMBER}\.pdf", PaperPage),
    (rf"/staff/cases/{ID}/papers/{NUMBER}\.pdf", StaffPaperPage),
    (rf"/papers/{NUMBER}", PaperCheckPage),
]
