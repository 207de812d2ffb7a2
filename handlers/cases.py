"""A resident's cases (/v1/cases) and progress without sign-in."""

from typing import Any
from urllib.parse import quote

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from app.cases import views
from app.cases.drafts import Save
from app.cases.model import State
from app.cases.uploads import MAX_FILE_BYTES
from app.kernel.errors import NotFound, TooLarge, ValidationFailed, error_row
from handlers import guesses
from handlers.base import HallHandler, operation


class CreateCaseRequest(Schema):
    item_code = fields.String(required=True, validate=validate.Length(1, 50))
    division_code = fields.String(required=True, validate=validate.Length(1, 12))
    answers = fields.Dict(keys=fields.String(), values=fields.Raw(), load_default=dict)
    from_case = fields.String(load_default=None, allow_none=True, validate=validate.Length(1, 60))


class SaveCaseRequest(Schema):
    form = fields.Dict(keys=fields.String(), values=fields.Raw(allow_none=True), load_default=dict)
    answers = fields.Dict(keys=fields.String(), values=fields.Raw(), load_default=None, allow_none=True)
    version = fields.Integer(required=True, strict=True, validate=validate.Range(min=1))
    merge = fields.Boolean(load_default=False, truthy={True}, falsy={False})


class ReuseRequest(Schema):
    """A material of an earlier case, from `reusable` of the case's view."""

    case_id = fields.String(required=True, validate=validate.Length(1, 60))
    key = fields.String(required=True, validate=validate.Length(1, 60))


class MaterialRequest(Schema):
    """A licence of one's own in place of a file, or what an office has accepted before."""

    licence_id = fields.String(validate=validate.Length(1, 60))
    reuse = fields.Nested(ReuseRequest)

    @validates_schema
    def _one_of(self, data: Any, **_kwargs: Any) -> None:
        if len(data) != 1:
            raise ValidationError("请给出 licence_id 或 reuse 之一", "licence_id")


class SubmitRequest(Schema):
    """`by_person`: a person shall decide, also where rules could."""

    class Meta:
        unknown = EXCLUDE  # clients have always sent what they liked here

    by_person = fields.Boolean(load_default=False)


class WithdrawRequest(Schema):
    reason = fields.String(load_default="", validate=validate.Length(max=500))



class EvaluationRequest(Schema):
    level = fields.Integer(required=True, strict=True, validate=validate.Range(1, 5))
    tags = fields.List(fields.String(validate=validate.Length(1, 30)), load_default=list, validate=validate.Length(max=10))
    text = fields.String(load_default="", validate=validate.Length(max=1000))


class CaseListQuery(Schema):
    state = fields.String(load_default=None, validate=validate.OneOf([state.value for state in State]))
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, validate=validate.Regexp(r"case_[0-9A-Z]{26}\Z"))


class ProgressRequest(Schema):
    case_number = fields.String(required=True, validate=validate.Length(1, 60))
    query_code = fields.String(required=True, validate=validate.Length(1, 20))


class TimelineEntryResponse(Schema):
    at = fields.String()
    event = fields.String()
    by = fields.String()
    title = fields.String()
    detail = fields.String()


class MaterialResponse(Schema):
    key = fields.String()
    name = fields.String()
    required = fields.Boolean()
    status = fields.String(validate=validate.OneOf(["missing", "optional", "uploaded", "licence", "promised", "generated", "at_window"]))
    is_lost = fields.Boolean()
    files = fields.List(fields.Dict())
    licence_id = fields.String(allow_none=True)
    limits = fields.Dict()
    reusable = fields.List(fields.Dict())


class PaperResponse(Schema):
    number = fields.String()
    kind = fields.String()
    title = fields.String()
    issued_at = fields.String()
    state = fields.String()
    state_name = fields.String()


class CaseResponse(Schema):
    id = fields.String()
    number = fields.String()
    item = fields.Dict()
    state = fields.String(validate=validate.OneOf([state.value for state in State]))
    version = fields.Integer()
    form = fields.Dict()
    materials = fields.List(fields.Nested(MaterialResponse))
    fee = fields.Dict()
    deadline_on = fields.String(allow_none=True)
    deadline_estimated = fields.Boolean()
    allowed_actions = fields.List(fields.String())
    timeline = fields.List(fields.Nested(TimelineEntryResponse))
    papers = fields.List(fields.Nested(PaperResponse))
    carried_over = fields.Dict(allow_none=True)
    form_dropped = fields.Dict()
    possible_duplicates = fields.List(fields.Dict())


class CaseListResponse(Schema):
    items = fields.List(fields.Dict())
    next_cursor = fields.String(allow_none=True)


class Cases(HallHandler):
    @operation(
        "Open a draft, prefilled", body=CreateCaseRequest, answers={201: CaseResponse}, auth="resident", idempotent=True
    )
    async def post(self) -> None:
        wanted = (self.resident.resident_id, self.body["item_code"], self.body["division_code"], self.body["answers"])
        case_id = self.idempotent_id("case")
        if self.body["from_case"] is None:
            case = await self.hall.cases.drafts.open(*wanted, case_id=case_id)
        else:
            case = await self.hall.requests.apply_again(self.body["from_case"], *wanted, case_id=case_id)
        await self.answer(await self.hall.cases.view(case), 201)

    @operation("The resident's cases, newest first", query=CaseListQuery, answers={200: CaseListResponse}, auth="resident")
    async def get(self) -> None:
        cases, cursor = await self.hall.cases.list(self.resident.resident_id, **self.query)
        await self.answer({"items": [views.summary(case) for case in cases], "next_cursor": cursor})


class OneCase(HallHandler):
    @operation("A case", answers={200: CaseResponse}, auth="resident")
    async def get(self, case_id: str) -> None:
        case = await self.hall.cases.get(case_id, self.resident.resident_id)
        await self.answer(with_offers(await self.hall.cases.view(case), await self.hall.reuse.offers(case)))

    @operation("Keep answers of a draft; 409 with the conflicts when it was saved elsewhere meanwhile", body=SaveCaseRequest, answers={200: CaseResponse}, auth="resident")
    async def patch(self, case_id: str) -> None:
        save = Save(self.body["form"], self.body["answers"] or {}, self.body["version"], self.body["merge"])
        case = await self.hall.cases.drafts.save(case_id, self.resident.resident_id, save)
        await self.answer(await self.hall.cases.view(case))


class Material(HallHandler):
    @operation("Hand in a material: multipart `file`, JSON {licence_id}, or JSON {reuse: {case_id, key}}", answers={200: MaterialResponse}, auth="resident")
    async def put(self, case_id: str, key: str) -> None:
        cases, owner = self.hall.cases, self.resident.resident_id
        if self.request.headers.get("Content-Type", "").startswith("multipart/form-data"):
            uploads = self.request.files.get("file", [])
            if len(uploads) != 1:
                raise ValidationFailed([error_row("/file", "required", "请用 file 字段上传一个文件")])
            if len(uploads[0].body) > MAX_FILE_BYTES:
                raise TooLarge("文件超过10MB，请压缩后再传。", en="The file is larger than 10 MB.")
            case = await cases.put_material(case_id, owner, key, uploads[0].filename, uploads[0].body)
        else:
            body = self.load_json(MaterialRequest)
            if "reuse" in body:
                wanted = body["reuse"]
                case = await self.hall.reuse.take_over(case_id, owner, key, wanted["case_id"], wanted["key"])
            else:
                case = await cases.put_licence(case_id, owner, key, body["licence_id"])
        view = await cases.view(case)
        await self.answer(material_row(view, key) | {"version": case.version})


class MaterialFile(HallHandler):
    @operation("A file of a material", auth="resident")
    async def get(self, case_id: str, _key: str, file_id: str) -> None:
        send_file(self, *await self.hall.cases.read_material(case_id, self.resident.resident_id, file_id))

    @operation("Take a file back out", answers={200: MaterialResponse}, auth="resident")
    async def delete(self, case_id: str, key: str, file_id: str) -> None:
        case = await self.hall.cases.remove_material(case_id, self.resident.resident_id, key, file_id)
        view = await self.hall.cases.view(case)
        await self.answer(material_row(view, key) | {"version": case.version})


def with_offers(view: dict[str, Any], offers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return a case's view with `reusable` at each material: what may be handed in once more."""
    rows = [row | {"reusable": offers.get(row["key"], [])} for row in view["materials"]]
    return view | {"materials": rows}


def material_row(view: dict[str, Any], key: str) -> dict[str, Any]:
    """Return one material of a case's view. Raises NotFound."""
    for row in view["materials"]:
        if row["key"] == key:
            return dict(row)
    raise NotFound("这个事项没有这项材料，或按您的回答不再需要。", en="No such material.")


_SUFFIXES = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "application/pdf": "pdf"}


def send_file(handler: HallHandler, name: str, content_type: str, content: bytes, *, is_download: bool = False) -> None:
    """Send an uploaded file so that no browser runs it on the hall's origin."""
    handler.set_header("Content-Type", content_type)
    # RFC 6266: a plain name for old clients beside the real one.
    suffix = _SUFFIXES.get(content_type, "bin")
    way = "attachment" if is_download else "inline"
    handler.set_header("Content-Disposition", f"{way}; filename=\"material.{suffix}\"; filename*=UTF-8''{quote(name, safe='')}")
    handler.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
    handler.set_header("Cache-Control", "private, no-store")
    handler.finish(content)


class Submit(HallHandler):
    @operation(
        "Hand the application in",
        body=SubmitRequest,
        answers={200: CaseResponse},
        auth="resident",
        idempotent=True,
        body_optional=True,
    )
    async def post(self, case_id: str) -> None:
        command, by_person = self.idempotent_id("cmd"), self.body["by_person"]
        handed_in = await self.hall.cases.hand_in(case_id, self.resident.resident_id, command=command, by_person=by_person)
        await self.answer(await self.hall.cases.view(handed_in.case, handed_in))


class Supplement(HallHandler):
    @operation("Hand in what the notice asked for", answers={200: CaseResponse}, auth="resident", idempotent=True)
    async def post(self, case_id: str) -> None:
        command = self.idempotent_id("cmd")
        case = await self.hall.cases.supplement(case_id, self.resident.resident_id, command=command)
        await self.answer(await self.hall.cases.view(case))


class Withdraw(HallHandler):
    @operation(
        "Take the application back", body=WithdrawRequest, answers={200: CaseResponse}, auth="resident", body_optional=True
    )
    async def post(self, case_id: str) -> None:
        case = await self.hall.cases.withdraw(case_id, self.resident.resident_id, self.body["reason"])
        await self.answer(await self.hall.cases.view(case))


class Evaluation(HallHandler):
    @operation("Rate a finished case", body=EvaluationRequest, answers={200: CaseResponse}, auth="resident")
    async def post(self, case_id: str) -> None:
        case = await self.hall.feedback.evaluate(case_id, self.resident.resident_id, **self.body)
        await self.answer(await self.hall.cases.view(case))


async def progress_of(handler: HallHandler, number: str, code: str) -> dict[str, Any]:
    """Return the progress of a case; wrong pairs are counted. Raises CaseNotFound, RateLimited."""
    look = handler.hall.cases.progress
    found: dict[str, Any] = await guesses.found(handler, "query-codes", "查询码", lambda: look(number, code))
    return found


class Progress(HallHandler):
    """POST /v1/progress: whoever holds number and query code; a wrong pair is simply not found, and counted."""

    @operation("Progress of a case without sign-in", body=ProgressRequest, answers={200: None, 404: None, 429: None})
    async def post(self) -> None:
        await self.answer(await progress_of(self, self.body["case_number"], self.body["query_code"]))


routes = [
    (r"/v1/cases", Cases),
    (r"/v1/cases/([\w-]+)", OneCase),
    (r"/v1/cases/([\w-]+)/materials/(\w+)", Material),
    (r"/v1/cases/([\w-]+)/materials/(\w+)/files/(\w+)", MaterialFile),
    (r"/v1/cases/([\w-]+)/submit", Submit),
    (r"/v1/cases/([\w-]+)/supplement", Supplement),
    (r"/v1/cases/([\w-]+)/withdraw", Withdraw),
    (r"/v1/cases/([\w-]+)/evaluation", Evaluation),
    (r"/v1/progress", Progress),
]
