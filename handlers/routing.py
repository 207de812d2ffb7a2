"""Who stands in for whom, handing over many cases at once, and the samples of what rules decided (/staff/v1)."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.cases import handover, views
from app.cases.auto_decision import view as auto_view
from app.cases.model import Case
from app.identity.model import StaffSession
from app.kernel.errors import Forbidden, ValidationFailed, error_row
from handlers.base import HallHandler, operation
from handlers.cases import CaseListResponse, CaseResponse
from handlers.staff import AuditSampleRequest, staff_view

HAND_OVER_IS_THE_HEADS = ("批量转派由负责人操作。", "The head hands over many at once.")
SAMPLES_ARE_THE_HEADS = ("抽查由负责人负责。", "Samples are the head's.")


class AbsenceRequest(Schema):
    """Shanghai days, first and last. `account`: of a colleague, by the head; left out, one's own leave."""

    account = fields.String(load_default="", validate=validate.Length(max=80))
    cover = fields.String(required=True, validate=validate.Length(1, 80))
    from_on = fields.Date(required=True, data_key="from")
    until_on = fields.Date(required=True, data_key="until")

    @validates_schema
    def _in_order(self, data: Any, **_kwargs: Any) -> None:
        if data["until_on"] < data["from_on"]:
            raise ValidationError("结束的日子不能早于开始的日子", "until")


class AbsenceQuery(Schema):
    account = fields.String(load_default="", validate=validate.Length(max=80))


class AbsenceListResponse(Schema):
    items = fields.List(fields.Dict())


class HandOverRequest(Schema):
    """Everything open that `from` has, or only `case_ids`, goes to `account`."""

    from_account = fields.String(
        required=True, data_key="from", validate=validate.Length(1, 80)
    )
    account = fields.String(required=True, validate=validate.Length(1, 80))
    case_ids = fields.List(
        fields.String(validate=validate.Length(1, 60)),
        load_default=None,
        validate=validate.Length(1, handover.MOST),
    )


class HandOverResponse(Schema):
    """`more`: there is more than one request moves; send it again."""

    items = fields.List(fields.Dict())
    more = fields.Boolean()


class SampleQuery(Schema):
    state = fields.String(
        load_default="open", validate=validate.OneOf(["open", "done"])
    )
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, validate=validate.Length(1, 60))


def require_head(staff: StaffSession, detail: str, en: str) -> None:
    """Raise Forbidden for anybody but the head of an agency."""
    if staff.role != "head":
        raise Forbidden(detail, en=en)


async def set_leave(hall: Any, staff: StaffSession, asked: Mapping[str, Any]) -> None:
    """Say who stands in for whom. Raises Forbidden, ValidationFailed. `asked` is what AbsenceRequest lets through."""
    account = _whose(staff, asked["account"])
    rows = []
    for field, who in (("account", account), ("cover", asked["cover"])):
        if not await hall.staff.is_of_agency(who, staff.agency_id):
            rows.append(error_row(f"/{field}", "unknown", "本单位没有这个账号"))
    if account == asked["cover"]:
        rows.append(error_row("/cover", "same", "不能由本人代理"))
    if rows:
        raise ValidationFailed(rows)
    await hall.staff.set_absence(
        account, asked["cover"], asked["from_on"], asked["until_on"]
    )


async def end_leave(hall: Any, staff: StaffSession, account: str) -> None:
    """Take a leave back, one's own when `account` is empty. Raises Forbidden, ValidationFailed."""
    account = _whose(staff, account)
    if not await hall.staff.is_of_agency(account, staff.agency_id):
        raise ValidationFailed([error_row("/account", "unknown", "本单位没有这个账号")])
    await hall.staff.end_absence(account)


def _whose(staff: StaffSession, account: str) -> str:
    if account and account != staff.account:
        require_head(
            staff,
            "同事的请假代理由负责人设置。",
            "The head says who stands in for colleagues.",
        )
    return account or staff.account


class Absence(HallHandler):
    @operation(
        "The leaves of the agency and who stands in",
        answers={200: AbsenceListResponse},
        auth="staff",
    )
    async def get(self) -> None:
        await self.answer(
            {"items": await self.hall.staff.absences(self.staff.agency_id)}
        )

    @operation(
        "Say who stands in while somebody is away",
        body=AbsenceRequest,
        answers={200: AbsenceListResponse},
        auth="staff",
    )
    async def post(self) -> None:
        await set_leave(self.hall, self.staff, self.body)
        await self.answer(
            {"items": await self.hall.staff.absences(self.staff.agency_id)}
        )

    @operation(
        "Take a leave back", query=AbsenceQuery, answers={204: None}, auth="staff"
    )
    async def delete(self) -> None:
        await end_leave(self.hall, self.staff, self.query["account"])
        self.set_status(204)
        self.finish()


class HandOver(HallHandler):
    @operation(
        "Give many cases of one colleague to another",
        body=HandOverRequest,
        answers={200: HandOverResponse},
        auth="staff",
    )
    async def post(self) -> None:
        require_head(self.staff, *HAND_OVER_IS_THE_HEADS)
        rows, more = await handover.hand_over(
            self.hall.review,
            self.staff,
            self.body["from_account"],
            self.body["account"],
            self.body["case_ids"],
        )
        await self.answer({"items": rows, "more": more})


def sample_row(case: Case) -> dict[str, Any]:
    """Return a decision of rules as a head looks at it: a line of the work list with what the rules saw, and what was found."""
    return views.task(case, []) | {
        "auto": auto_view(case),
        "sample": views.sample(case),
    }


class Samples(HallHandler):
    @operation(
        "Decisions of rules that a head looks at",
        query=SampleQuery,
        answers={200: CaseListResponse},
        auth="staff",
    )
    async def get(self) -> None:
        require_head(self.staff, *SAMPLES_ARE_THE_HEADS)
        cases, cursor = await self.hall.review.samples(self.staff, **self.query)
        await self.answer(
            {"items": [sample_row(case) for case in cases], "next_cursor": cursor}
        )


class Sample(HallHandler):
    @operation(
        "Say what looking at a sample has found",
        body=AuditSampleRequest,
        answers={200: CaseResponse},
        auth="staff",
    )
    async def post(self, case_id: str) -> None:
        require_head(self.staff, *SAMPLES_ARE_THE_HEADS)
        case = await self.hall.review.act(
            case_id, "audit_sample", self.staff, self.body
        )
        await self.answer(await staff_view(self.hall, case, self.staff))


routes = [
    (r"/staff/v1/me/absence", Absence),
    (r"/staff/v1/reassignments", HandOver),
    (r"/staff/v1/samples", Samples),
    (r"/staff/v1/samples/([\w-]+)", Sample),
]
