"""Who stands in for whom, handing over many cases at once, and the samples of what rules decided (/staff/v1)."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.cases import handover, views
from app.cases.auto_decision import view as auto_view
from app.kernel.errors import Forbidden, ValidationFailed, error_row
from handlers.base import HallHandler, operation
from handlers.cases import CaseListResponse, CaseResponse
from handlers.staff import AuditSampleRequest, staff_view


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
        account = self._whose(self.body["account"])
        rows = []
        for field, who in (("account", account), ("cover", self.body["cover"])):
            if not await self.hall.staff.is_of_agency(who, self.staff.agency_id):
                rows.append(error_row(f"/{field}", "unknown", "本单位没有这个账号"))
        if account == self.body["cover"]:
            rows.append(error_row("/cover", "same", "不能由本人代理"))
        if rows:
            raise ValidationFailed(rows)
        await self.hall.staff.set_absence(
            account, self.body["cover"], self.body["from_on"], self.body["until_on"]
        )
        await self.answer(
            {"items": await self.hall.staff.absences(self.staff.agency_id)}
        )

    @operation(
        "Take a leave back", query=AbsenceQuery, answers={204: None}, auth="staff"
    )
    async def delete(self) -> None:
        account = self._whose(self.query["account"])
        if not await self.hall.staff.is_of_agency(account, self.staff.agency_id):
            raise ValidationFailed(
                [error_row("/account", "unknown", "本单位没有这个账号")]
            )
        await self.hall.staff.end_absence(account)
        self.set_status(204)
        self.finish()

    def _whose(self, account: str) -> str:
        if account and account != self.staff.account and self.staff.role != "head":
            raise Forbidden(
                "同事的请假代理由负责人设置。",
                en="The head says who stands in for colleagues.",
            )
        return account or str(self.staff.account)


class HandOver(HallHandler):
    @operation(
        "Give many cases of one colleague to another",
        body=HandOverRequest,
        answers={200: HandOverResponse},
        auth="staff",
    )
    async def post(self) -> None:
        if self.staff.role != "head":
            raise Forbidden(
                "批量转派由负责人操作。", en="The head hands over many at once."
            )
        rows, more = await handover.hand_over(
            self.hall.review,
            self.staff,
            self.body["from_account"],
            self.body["account"],
            self.body["case_ids"],
        )
        await self.answer({"items": rows, "more": more})


class Samples(HallHandler):
    @operation(
        "Decisions of rules that a head looks at",
        query=SampleQuery,
        answers={200: CaseListResponse},
        auth="staff",
    )
    async def get(self) -> None:
        if self.staff.role != "head":
            raise Forbidden("抽查由负责人负责。", en="Samples are the head's.")
        cases, cursor = await self.hall.review.samples(self.staff, **self.query)
        rows = [
            views.task(case, [])
            | {"auto": auto_view(case), "sample": views.sample(case)}
            for case in cases
        ]
        await self.answer({"items": rows, "next_cursor": cursor})


class Sample(HallHandler):
    @operation(
        "Say what looking at a sample has found",
        body=AuditSampleRequest,
        answers={200: CaseResponse},
        auth="staff",
    )
    async def post(self, case_id: str) -> None:
        if self.staff.role != "head":
            raise Forbidden("抽查由负责人负责。", en="Samples are the head's.")
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
