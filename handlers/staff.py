"""The clerks' API (/staff/v1): sign-in, work list, cases of the own agency, and the actions on them."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, pre_load, validate, validates_schema

from app.cases import review, views
from app.cases.model import Case, State
from app.cases.queue import CURSOR, LAMPS, SCOPES, Wanted
from app.identity.model import StaffSession
from app.kernel.clock import today
from app.kernel.errors import NotFound
from app.supervision.lamps import lamp
from handlers.base import HallHandler, operation
from handlers.cases import CaseListResponse, CaseResponse, send_file


class StaffLoginRequest(Schema):
    account = fields.String(required=True, validate=validate.Length(1, 80))
    password = fields.String(required=True, validate=validate.Length(1, 200))


class TaskQuery(Schema):
    """What of the list is wanted; what is left out is whatever it is. `mine` is `scope=mine`."""

    scope = fields.String(load_default="all", validate=validate.OneOf(SCOPES))
    mine = fields.Boolean(load_default=False)
    assignee = fields.String(load_default="", validate=validate.Length(max=80))
    state = fields.String(load_default="", validate=validate.OneOf([state.value for state in State]))
    lamp = fields.String(load_default="", validate=validate.OneOf(LAMPS))
    division = fields.String(load_default="", validate=validate.Regexp(r"\d{6}(\d{3})?\Z"))
    item = fields.String(load_default="", validate=validate.Length(max=50))
    submitted_before = fields.Date(load_default=None)
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, validate=validate.Regexp(CURSOR))


class TaskListResponse(CaseListResponse):
    """`counts`: {total, scopes: {all, mine, unclaimed}, lamps: {red, yellow, green, none}, at_most}; more than `at_most` is "99+"."""

    counts = fields.Dict()


def _reason(text: str) -> None:
    """Refuse a reason that is none: blanks are no reason either (行政许可法 art. 32, 38)."""
    validate.Length(1, 1000)(text)
    if not text.strip():
        raise ValidationError("请写明理由")


class NoFields(Schema):
    """Nothing is needed; a note may come along and is not kept."""

    note = fields.String(load_default="", validate=validate.Length(max=1000))


class MissingRow(Schema):
    key = fields.String(required=True, validate=validate.Length(1, 60))
    reason = fields.String(required=True, validate=_reason)


class SupplementRequest(Schema):
    """Every gap at once, or `from_marks`: everything that is marked. `reason` is the head's, for a further notice."""

    missing = fields.List(fields.Nested(MissingRow), load_default=list, validate=validate.Length(max=60))
    from_marks = fields.Boolean(load_default=False, truthy={True}, falsy={False})
    reason = fields.String(load_default="", validate=validate.Length(max=1000))

    @validates_schema
    def _says_what(self, data: Any, **_kwargs: Any) -> None:
        if not data["missing"] and not data["from_marks"]:
            raise ValidationError("请写明要补正什么、为什么", "missing")


class PreReviewRequest(Schema):
    """Nothing missing: it seems to be in order. With `missing` it is the one notice."""

    missing = fields.List(fields.Nested(MissingRow), load_default=list, validate=validate.Length(max=60))
    note = fields.String(load_default="", validate=validate.Length(max=1000))
    reason = fields.String(load_default="", validate=validate.Length(max=1000))


class ToleratedRow(Schema):
    key = fields.String(required=True, validate=validate.Length(1, 60))
    due_on = fields.Date(required=True)


class AcceptRequest(Schema):
    """`tolerated`: by when what the applicant promised comes; a note may come along and is not kept."""

    tolerated = fields.List(fields.Nested(ToleratedRow), load_default=list, validate=validate.Length(max=60))
    note = fields.String(load_default="", validate=validate.Length(max=1000))


class RejectRequest(Schema):
    """The reason; the rule it follows from and, when it is another body's matter, that body."""

    reason = fields.String(required=True, validate=_reason)
    rule = fields.String(load_default="", validate=validate.Length(max=500))
    right_body = fields.String(load_default="", validate=validate.Length(max=200))


class CorrectRequest(Schema):
    """The answer to a correction that was asked for; a refusal says why."""

    approve = fields.Boolean(required=True, truthy={True, "true", "1"}, falsy={False, "false", "0"})
    reason = fields.String(load_default="", validate=validate.Length(max=1000))

    @validates_schema
    def _reasons(self, data: Any, **_kwargs: Any) -> None:
        if not data["approve"] and not data["reason"].strip():
            raise ValidationError("不同意更正要说明理由", "reason")


class SuspendRequest(Schema):
    kind = fields.String(required=True, validate=validate.Length(1, 40))
    days = fields.Integer(required=True, strict=True, validate=validate.Range(1, 365))
    reason = fields.String(load_default="", validate=validate.Length(max=1000))


class TellHearingRequest(Schema):
    """What the office intends to decide, and why."""

    reason = fields.String(required=True, validate=_reason)


class ResumeRequest(Schema):
    """`record` of a hearing, where the item's law knows one: needed to end it."""

    record = fields.String(load_default="", validate=validate.Length(max=4000))


class ExtendRequest(Schema):
    days = fields.Integer(required=True, strict=True, validate=validate.Range(1, 365))
    reason = fields.String(required=True, validate=_reason)


class DecideRequest(Schema):
    outcome = fields.String(required=True, validate=validate.OneOf(["approved", "denied"]))
    opinion = fields.String(load_default="", validate=validate.Length(max=2000))

    @pre_load
    def _verbs(self, data: Any, **_kwargs: Any) -> Any:
        # "approve" and "deny" say the same; clerks' systems send either.
        words = {"approve": "approved", "deny": "denied"}
        if isinstance(data, dict) and isinstance(data.get("outcome"), str):
            return {**data, "outcome": words.get(data["outcome"], data["outcome"])}
        return data

    @validates_schema
    def _reasons(self, data: Any, **_kwargs: Any) -> None:
        if data["outcome"] == "denied" and not data["opinion"].strip():
            raise ValidationError("不予办理要说明理由（行政许可法第三十八条）", "opinion")


class DeliverRequest(Schema):
    method = fields.String(
        required=True, validate=validate.OneOf(["electronic", "licence", "self", "window", "express", "post"])
    )
    tracking = fields.String(load_default=None, allow_none=True, validate=validate.Length(1, 60))


class ReassignRequest(Schema):
    account = fields.String(required=True, validate=validate.Length(1, 80))


class FinishStageRequest(Schema):
    """The stage that runs has ended; `account`: the colleague who has the next one."""

    note = fields.String(load_default="", validate=validate.Length(max=1000))
    account = fields.String(load_default=None, allow_none=True, validate=validate.Length(1, 80))


class GiveOpinionRequest(Schema):
    """What a department says that was asked; a refusal says why."""

    answer = fields.String(required=True, validate=validate.OneOf(["agreed", "refused", "noted"]))
    opinion = fields.String(load_default="", validate=validate.Length(max=2000))

    @validates_schema
    def _reasons(self, data: Any, **_kwargs: Any) -> None:
        if data["answer"] != "agreed" and not data["opinion"].strip():
            raise ValidationError("请写明意见和理由", "opinion")


class TransferRequest(Schema):
    """To a body of the same line: city to county or back."""

    agency_id = fields.String(required=True, validate=validate.Length(1, 60))
    reason = fields.String(required=True, validate=_reason)


class AuditSampleRequest(Schema):
    """What looking at a decision of the rules has found; a wrong one says what."""

    finding = fields.String(required=True, validate=validate.OneOf(["in_order", "wrong"]))
    note = fields.String(load_default="", validate=validate.Length(max=1000))

    @validates_schema
    def _reasons(self, data: Any, **_kwargs: Any) -> None:
        if data["finding"] == "wrong" and not data["note"].strip():
            raise ValidationError("请写明问题", "note")


BODIES: dict[str, type[Schema]] = {
    "claim": NoFields,
    "pre_review": PreReviewRequest,
    "request_supplement": SupplementRequest,
    "accept": AcceptRequest,
    "reject": RejectRequest,
    "correct": CorrectRequest,
    "suspend": SuspendRequest,
    "tell_hearing": TellHearingRequest,
    "resume": ResumeRequest,
    "extend": ExtendRequest,
    "decide": DecideRequest,
    "deliver": DeliverRequest,
    "reassign": ReassignRequest,
    "propose": DecideRequest,
    "finish_stage": FinishStageRequest,
    "give_opinion": GiveOpinionRequest,
    "transfer": TransferRequest,
    "audit_sample": AuditSampleRequest,
}


_BARE = frozenset({"claim", "pre_review", "accept", "resume", "finish_stage"})  # may come without a body


class StaffLogin(HallHandler):
    @operation("Sign in as staff", body=StaffLoginRequest)
    async def post(self) -> None:
        token, expires_in, staff = await self.hall.staff.login(self.body["account"], self.body["password"])
        await self.answer(
            {
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": expires_in,
                "staff": {"account": staff.account, "name": staff.name, "role": staff.role, "agency": staff.agency_id},
            }
        )


class StaffLogout(HallHandler):
    @operation("End this session", answers={204: None}, auth="staff")
    async def post(self) -> None:
        await self.hall.staff.logout(self.bearer())
        self.set_status(204)
        self.finish()


class Tasks(HallHandler):
    @operation("The agency's open cases, most urgent first, with counts", query=TaskQuery, answers={200: TaskListResponse}, auth="staff")
    async def get(self) -> None:
        asked = self.query
        if asked["item"]:
            asked["item"] = item_code(self.hall, asked["item"])
        wanted = Wanted(
            scope="mine" if asked.pop("mine") else asked.pop("scope"),
            **{name: asked[name] for name in ("assignee", "state", "lamp", "division", "item", "submitted_before")},
        )
        page = await self.hall.queue.page(self.staff, wanted, limit=asked["limit"], cursor=asked["cursor"])
        rows = [task_row(self.hall, case, self.staff) for case in page.cases]
        await self.answer({"items": rows, "next_cursor": page.next_cursor, "counts": page.counts})


def item_code(hall: Any, name: str) -> str:
    """Return the code of an item by code or alias; an unknown one stays as it is, and nothing is of it."""
    try:
        return str(hall.catalogue.item(name)["code"])
    except NotFound:
        return name


def task_row(hall: Any, case: Case, staff: StaffSession) -> dict[str, Any]:
    """Return a line of a list; the applicant is masked."""
    return views.task(case, review.allowed_actions(case, staff)) | {"lamp": lamp_of(hall, case)}


async def staff_view(hall: Any, case: Case, staff: StaffSession) -> dict[str, Any]:
    """Return a case as this person sees it, with its lamp and the marks that nobody outside has been told of."""
    view: dict[str, Any] = await hall.review.view(case, staff)
    return view | {"lamp": lamp_of(hall, case), "marks": await hall.marks.of(case)}


def lamp_of(hall: Any, case: Case) -> str:
    """Return the lamp of a case by the day by which its agency must act."""
    return lamp(case.due_on, today(), hall.calendar)


class StaffCase(HallHandler):
    @operation("A case of the own agency", answers={200: CaseResponse}, auth="staff")
    async def get(self, case_id: str) -> None:
        case = await self.hall.review.get(case_id, self.staff)
        await self.answer(await staff_view(self.hall, case, self.staff))


class StaffFile(HallHandler):
    @operation("The original of a file of a case of the own agency; to look at it there is `/preview`", auth="staff")
    async def get(self, case_id: str, _key: str, file_id: str) -> None:
        send_file(self, *await self.hall.showing.original(case_id, self.staff, file_id), is_download=True)


class StaffAction(HallHandler):
    """POST /staff/v1/cases/{id}/<action>: a name of the table in docs/cases.md; the case's `allowed_actions` say which fit now."""

    bodies_by_action = BODIES

    @operation("Act on a case", answers={200: CaseResponse}, auth="staff")
    async def post(self, case_id: str, action: str) -> None:
        if action not in BODIES:
            raise NotFound("没有这个操作。", en="No such action.")
        body = self.load_json(BODIES[action], optional=action in _BARE)
        if body.pop("from_marks", False):
            body["missing"] = await self.hall.marks.missing(await self.hall.review.get(case_id, self.staff))
        case = await self.hall.review.act(case_id, action, self.staff, body)
        await self.answer(await staff_view(self.hall, case, self.staff))


routes = [
    (r"/staff/v1/login", StaffLogin),
    (r"/staff/v1/logout", StaffLogout),
    (r"/staff/v1/tasks", Tasks),
    (r"/staff/v1/cases/([\w-]+)", StaffCase),
    (r"/staff/v1/cases/([\w-]+)/materials/(\w+)/files/(\w+)", StaffFile),
    (r"/staff/v1/cases/([\w-]+)/(\w+)", StaffAction),
]
