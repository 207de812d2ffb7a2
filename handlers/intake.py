"""Window intake (/staff/v1/intake): a clerk opens, fills in and hands in a case for a resident who stands before them."""

from typing import Any

from marshmallow import Schema, fields, validate

from app.cases import views
from app.cases.drafts import Save
from app.cases.model import Case
from app.cases.uploads import MAX_FILE_BYTES
from app.kernel.clock import format_utc
from app.kernel.errors import TooLarge, ValidationFailed, error_row
from handlers.base import HallHandler, operation
from handlers.cases import CaseListResponse, CaseResponse, MaterialResponse, SaveCaseRequest, material_row


class IntakeRequest(Schema):
    """Name and number as on the identity card. The phone goes into the form."""

    item_code = fields.String(required=True, validate=validate.Length(1, 50))
    division_code = fields.String(required=True, validate=validate.Length(1, 12))
    name = fields.String(required=True, validate=validate.Length(1, 50))
    id_number = fields.String(required=True, validate=validate.Length(1, 30))
    phone = fields.String(load_default="", allow_none=True, validate=validate.Length(max=20))
    answers = fields.Dict(keys=fields.String(), values=fields.Raw(), load_default=dict)


class SupplementAtWindowRequest(Schema):
    """Number of the case, and name and number as on the identity card that the clerk has in hand."""

    number = fields.String(required=True, validate=validate.Length(1, 60))
    name = fields.String(required=True, validate=validate.Length(1, 50))
    id_number = fields.String(required=True, validate=validate.Length(1, 30))


class HandedInQuery(Schema):
    cursor = fields.String(load_default=None, validate=validate.Regexp(r"case_[0-9A-Z]{26}\Z"))


class HandedInResponse(Schema):
    """Each as whoever holds number and query code sees it: how far it is, nothing personal."""

    items = fields.List(fields.Dict())
    next_cursor = fields.String(allow_none=True)


class ConfirmRequest(Schema):
    """The resident has read it through and confirms it, at the window."""

    confirmed = fields.Boolean(required=True, truthy={True}, falsy={False}, validate=validate.Equal(True, error="要由申请人当面确认"))


class Intake(HallHandler):
    @operation("Open a case for a resident at the window", body=IntakeRequest, answers={201: CaseResponse}, auth="staff", idempotent=True)
    async def post(self) -> None:
        case = await self.hall.intake.open(self.staff, self.body, case_id=self.idempotent_id("case"))
        await self.answer(await self.hall.cases.view(case), 201)

    @operation("What this clerk has taken in and not handed in yet", answers={200: CaseListResponse}, auth="staff")
    async def get(self) -> None:
        cases = await self.hall.intake.drafts(self.staff)
        await self.answer({"items": [views.task(case, ["save", "submit"]) for case in cases], "next_cursor": None})


class SupplementAtWindow(HallHandler):
    """Sent again it opens the same: nothing is made by it. From here on the case is worked on and handed in like a draft."""

    @operation(
        "Open a case that waits for a supplement, for its applicant who stands at the window; until the end of the day",
        body=SupplementAtWindowRequest,
        answers={200: CaseResponse},
        auth="staff",
    )
    async def post(self) -> None:
        case = await self.hall.intake.open_supplement(self.staff, **self.body)
        await self.answer(await self.hall.cases.view(case))


class HandedIn(HallHandler):
    @operation("What this clerk has taken in and handed in, newest first", query=HandedInQuery, answers={200: HandedInResponse}, auth="staff")
    async def get(self) -> None:
        cases, cursor = await self.hall.intake.handed_in(self.staff, self.query["cursor"])
        await self.answer({"items": [handed_in_row(case) for case in cases], "next_cursor": cursor})


def handed_in_row(case: Case) -> dict[str, Any]:
    """Return a line of what a clerk has taken in: its progress, and the id under which its receipt is printed again."""
    row = views.progress(case)
    del row["timeline"]
    return row | {"id": case.id, "submitted_at": format_utc(case.submitted_at)}


class OneIntake(HallHandler):
    @operation("A case, or one that waits for a supplement, open at this clerk's window", answers={200: CaseResponse}, auth="staff")
    async def get(self, case_id: str) -> None:
        await self.answer(await self.hall.cases.view(await self.hall.intake.get(case_id, self.staff)))

    @operation("Keep answers, as PATCH /v1/cases/{id} does", body=SaveCaseRequest, answers={200: CaseResponse}, auth="staff")
    async def patch(self, case_id: str) -> None:
        save = Save(self.body["form"], self.body["answers"] or {}, self.body["version"], self.body["merge"])
        await self.answer(await self.hall.cases.view(await self.hall.intake.save(case_id, self.staff, save)))


class IntakeMaterial(HallHandler):
    @operation("Hand in a material: multipart `file`", answers={200: MaterialResponse}, auth="staff")
    async def put(self, case_id: str, key: str) -> None:
        case = await self.hall.intake.get(case_id, self.staff, "material")
        uploads = self.request.files.get("file", [])
        if len(uploads) != 1:
            raise ValidationFailed([error_row("/file", "required", "请用 file 字段上传一个文件")])
        if len(uploads[0].body) > MAX_FILE_BYTES:
            raise TooLarge("文件超过10MB，请压缩后再传。", en="The file is larger than 10 MB.")
        case = await self.hall.cases.put_material(case_id, case.owner_id, key, uploads[0].filename, uploads[0].body)
        await self.answer(material_row(await self.hall.cases.view(case), key) | {"version": case.version})


class IntakeFile(HallHandler):
    @operation("Take a file back out", answers={200: MaterialResponse}, auth="staff")
    async def delete(self, case_id: str, key: str, file_id: str) -> None:
        case = await self.hall.intake.get(case_id, self.staff, "material")
        case = await self.hall.cases.remove_material(case_id, case.owner_id, key, file_id)
        await self.answer(material_row(await self.hall.cases.view(case), key) | {"version": case.version})


class IntakeSubmit(HallHandler):
    @operation("Hand in what the resident has confirmed", body=ConfirmRequest, answers={200: CaseResponse}, auth="staff", idempotent=True)
    async def post(self, case_id: str) -> None:
        case = await self.hall.intake.submit(case_id, self.staff, command=self.idempotent_id("cmd"))
        await self.answer(await self.hall.cases.view(case))


class IntakeReceipt(HallHandler):
    @operation("What the printed receipt says: number and query code", auth="staff")
    async def get(self, case_id: str) -> None:
        case = await self.hall.intake.receipt(case_id, self.staff)
        await self.answer(views.progress(case) | {"query_code": case.query_code})


routes = [
    (r"/staff/v1/intake", Intake),
    (r"/staff/v1/intake/supplements", SupplementAtWindow),
    (r"/staff/v1/intake/handed-in", HandedIn),
    (r"/staff/v1/intake/([\w-]+)", OneIntake),
    (r"/staff/v1/intake/([\w-]+)/materials/(\w+)", IntakeMaterial),
    (r"/staff/v1/intake/([\w-]+)/materials/(\w+)/files/(\w+)", IntakeFile),
    (r"/staff/v1/intake/([\w-]+)/submit", IntakeSubmit),
    (r"/staff/v1/intake/([\w-]+)/receipt", IntakeReceipt),
]
