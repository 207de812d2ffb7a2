"""The clerks' desk (/staff/v1): claiming many at once, searching, marks on a case, opinion templates."""

from marshmallow import Schema, fields, validate

from app.cases import claiming, opinions, search
from handlers.base import HallHandler, operation
from handlers.cases import CaseResponse
from handlers.staff import staff_view, task_row


class ClaimRequest(Schema):
    case_ids = fields.List(
        fields.String(validate=validate.Length(1, 60)), required=True, validate=validate.Length(1, claiming.MOST)
    )


class ClaimedRow(Schema):
    id = fields.String()
    outcome = fields.String(validate=validate.OneOf(["claimed", "taken", "not_allowed", "not_found", "failed"]))
    detail = fields.String()


class ClaimResponse(Schema):
    items = fields.List(fields.Nested(ClaimedRow))


class SearchRequest(Schema):
    """`q`: case number or its last six characters or more, name, phone, citizen number, credit code. In the body: addresses are logged."""

    q = fields.String(required=True, validate=validate.Length(1, 100))
    purpose = fields.String(load_default="handling", validate=validate.OneOf(list(search.PURPOSES)))


class SearchResponse(Schema):
    items = fields.List(fields.Dict())


class MarkRequest(Schema):
    key = fields.String(required=True, validate=validate.Length(1, 60))
    reason = fields.String(required=True, validate=validate.Length(1, 1000))


class OpinionQuery(Schema):
    action = fields.String(load_default="", validate=validate.OneOf(["", *opinions.FIELDS]))
    item = fields.String(load_default="", validate=validate.Length(max=50))


class OpinionRequest(Schema):
    action = fields.String(required=True, validate=validate.OneOf(list(opinions.FIELDS)))
    outcome = fields.String(load_default="", validate=validate.OneOf(["", "approved", "denied"]))
    item = fields.String(load_default="", validate=validate.Length(max=50))
    text = fields.String(required=True, validate=validate.Length(1, 1000))
    for_agency = fields.Boolean(load_default=False, truthy={True}, falsy={False})


class OpinionListResponse(Schema):
    items = fields.List(fields.Dict())


class Claim(HallHandler):
    @operation("Claim many cases at once", body=ClaimRequest, answers={200: ClaimResponse}, auth="staff")
    async def post(self) -> None:
        rows = await claiming.claim_all(self.hall.review, self.staff, self.body["case_ids"])
        await self.answer({"items": rows})


class Search(HallHandler):
    @operation("Find cases of the own agency", body=SearchRequest, answers={200: SearchResponse}, auth="staff")
    async def post(self) -> None:
        cases = await self.hall.search.find(self.staff, self.body["q"], self.body["purpose"])
        await self.answer({"items": [task_row(self.hall, case, self.staff) for case in cases]})


class CaseMarks(HallHandler):
    """A body that is wrong tells nothing of a case that is not the agency's: the case is looked up first."""

    @operation("Mark a field or a material as wrong; the applicant sees it with the notice", answers={200: CaseResponse}, auth="staff")
    async def post(self, case_id: str) -> None:
        case = await self.hall.review.get(case_id, self.staff)
        body = self.load_json(MarkRequest)
        await self.hall.marks.put(case, self.staff, body["key"], body["reason"])
        await self.answer(await staff_view(self.hall, case, self.staff))


class CaseMark(HallHandler):
    @operation("Take a mark back", answers={200: CaseResponse}, auth="staff")
    async def delete(self, case_id: str, key: str) -> None:
        case = await self.hall.review.get(case_id, self.staff)
        await self.hall.marks.take_back(case, self.staff, key)
        await self.answer(await staff_view(self.hall, case, self.staff))


class OpinionList(HallHandler):
    @operation("Opinion templates", query=OpinionQuery, answers={200: OpinionListResponse}, auth="staff")
    async def get(self) -> None:
        await self.answer({"items": await self.hall.opinions.of(self.staff, self.query["action"], self.query["item"])})

    @operation("Keep an opinion template", body=OpinionRequest, answers={201: None}, auth="staff")
    async def post(self) -> None:
        for_agency = self.body.pop("for_agency")
        await self.answer(await self.hall.opinions.add(self.staff, self.body, for_agency=for_agency), 201)


class OneOpinion(HallHandler):
    @operation("Take an opinion template away", answers={204: None}, auth="staff")
    async def delete(self, template_id: str) -> None:
        await self.hall.opinions.remove(self.staff, template_id)
        self.set_status(204)
        self.finish()


routes = [
    (r"/staff/v1/tasks/claim", Claim),
    (r"/staff/v1/search", Search),
    (r"/staff/v1/cases/([\w-]+)/marks", CaseMarks),
    (r"/staff/v1/cases/([\w-]+)/marks/(\w+)", CaseMark),
    (r"/staff/v1/opinions", OpinionList),
    (r"/staff/v1/opinions/([\w-]{1,64})", OneOpinion),
]
