"""What a resident asks for beside the straight way (/v1/cases/{id}/promise, /correction, /hearing)."""

from marshmallow import Schema, fields, validate

from handlers.base import HallHandler, operation
from handlers.cases import CaseResponse


class PromiseRequest(Schema):
    """The keys of the materials that come later; an empty list takes the promise back."""

    keys = fields.List(fields.String(validate=validate.Length(1, 60)), required=True, validate=validate.Length(max=60))


class CorrectionRequest(Schema):
    """The new answers by field, and why."""

    fields_ = fields.Dict(
        keys=fields.String(),
        values=fields.Raw(allow_none=True),
        required=True,
        data_key="fields",
        validate=validate.Length(1, 60),
    )
    reason = fields.String(required=True, validate=validate.Length(1, 1000))


class HearingRequest(Schema):
    """`wanted`: a hearing is asked for; otherwise it is given up."""

    wanted = fields.Boolean(required=True, truthy={True}, falsy={False})


class Promise(HallHandler):
    @operation("Promise to bring materials later", body=PromiseRequest, answers={200: CaseResponse}, auth="resident")
    async def post(self, case_id: str) -> None:
        case = await self.hall.requests.promise(case_id, self.resident.resident_id, self.body["keys"])
        await self.answer(await self.hall.cases.view(case))


class Correction(HallHandler):
    @operation("Ask for a correction after submission", body=CorrectionRequest, answers={200: CaseResponse}, auth="resident")
    async def post(self, case_id: str) -> None:
        owner, asked = self.resident.resident_id, self.body
        case = await self.hall.requests.correct(case_id, owner, asked["fields_"], asked["reason"])
        await self.answer(await self.hall.cases.view(case))


class Hearing(HallHandler):
    @operation("Ask for a hearing before the decision, or give it up", body=HearingRequest, answers={200: CaseResponse}, auth="resident")
    async def post(self, case_id: str) -> None:
        case = await self.hall.requests.hearing(case_id, self.resident.resident_id, self.body["wanted"])
        await self.answer(await self.hall.cases.view(case))


routes = [
    (r"/v1/cases/([\w-]+)/hearing", Hearing),
    (r"/v1/cases/([\w-]+)/promise", Promise),
    (r"/v1/cases/([\w-]+)/correction", Correction),
]
