"""Ratings, call-backs and complaints: for residents (/v1), without sign-in by a one-time code, and for heads and the call-back desk (/staff/v1)."""

from typing import Any

from marshmallow import Schema, fields, validate

from app.feedback import machine
from app.feedback.complaints import ABOUT
from app.feedback.work_order import LAMPS, WorkOrder, view
from app.kernel.errors import NotFound
from app.storage.limits import Limit
from handlers.base import HallHandler, operation
from handlers.cases import EvaluationRequest

# What a resident has in hand when they sign in that way, for the statistics by channel.
CHANNEL_OF = {"wechat": "mini_program", "alipay": "mini_program", "sms": "h5"}
_CURSOR = r"[0-9A-Za-z_~-]{1,60}\Z"


class ListQuery(Schema):
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, validate=validate.Regexp(_CURSOR))


class CodeRatingRequest(EvaluationRequest):
    channel = fields.String(load_default="qr", validate=validate.OneOf(["qr", "tablet"]))


class DeskRatingRequest(EvaluationRequest):
    code = fields.String(required=True, validate=validate.Length(1, 60))
    channel = fields.String(required=True, validate=validate.OneOf(["phone", "sms"]))


class TextRequest(Schema):
    text = fields.String(required=True, validate=validate.Length(1, 1000))


class SaidRequest(Schema):
    text = fields.String(load_default="", validate=validate.Length(max=2000))


class StepRequest(Schema):
    """`text`: what was done or said; the resident reads it, except of `try` and `set_aside`. `reason`: of `set_aside` alone."""

    text = fields.String(load_default="", validate=validate.Length(max=2000))
    reason = fields.String(load_default="", validate=validate.OneOf(["", *machine.SET_ASIDE_FOR]))


class ComplaintRequest(Schema):
    about = fields.String(required=True, validate=validate.OneOf(ABOUT))
    case_id = fields.String(load_default="", validate=validate.Length(max=60))
    agency_id = fields.String(load_default="", validate=validate.Length(max=40))
    text = fields.String(required=True, validate=validate.Length(1, 2000))


class WorkOrderQuery(ListQuery):
    kind = fields.String(load_default="", validate=validate.OneOf(["", *machine.TABLES]))
    state = fields.String(
        load_default="", validate=validate.OneOf(["", "closed", *dict.fromkeys(name for names in machine.STATE_NAMES.values() for name in names)])
    )
    lamp = fields.String(load_default="", validate=validate.OneOf(["", *LAMPS]))


class EvaluationListQuery(ListQuery):
    level = fields.Integer(load_default=None, validate=validate.Range(1, 5))


class StatisticsQuery(Schema):
    begin = fields.Date(load_default=None, data_key="from")
    end = fields.Date(load_default=None, data_key="to")
    agency = fields.String(load_default=None, validate=validate.Length(1, 40))


class ContactResponse(Schema):
    id = fields.String()
    kind = fields.String()
    kind_name = fields.String()
    at = fields.String()
    item = fields.Dict()
    agency = fields.Dict()
    state = fields.String(validate=validate.OneOf(["unrated", "rated"]))
    level = fields.Integer(allow_none=True, metadata={"description": "1 very satisfied ... 5 very dissatisfied (GB/T 39046)"})
    followed_up = fields.Boolean()
    tags = fields.Dict(metadata={"description": "what can be ticked, by level"})


class ConsultationRequest(Schema):
    item_code = fields.String(load_default="", validate=validate.Length(max=50), metadata={"description": "what it was about, if an item"})


class ConsultationResponse(ContactResponse):
    code = fields.String(metadata={"description": "one-time, for /v1/ratings/{code}"})
    link = fields.String(metadata={"description": "the page of the code, for a QR code"})


class ContactListResponse(Schema):
    items = fields.List(fields.Nested(ContactResponse))
    next_cursor = fields.String(allow_none=True)


class WorkOrderRow(Schema):
    id = fields.String()
    kind = fields.String(validate=validate.OneOf(list(machine.TABLES)))
    number = fields.String()
    state = fields.String()
    state_name = fields.String()
    about = fields.String(validate=validate.OneOf(ABOUT))
    agency = fields.Dict()
    item = fields.Dict()
    case_id = fields.String(allow_none=True)
    level = fields.Integer(allow_none=True)
    created_at = fields.String()
    due_on = fields.String(allow_none=True)
    due_estimated = fields.Boolean()
    lamp = fields.String(validate=validate.OneOf(LAMPS))
    is_with_superior = fields.Boolean()
    is_settled = fields.Boolean(allow_none=True)
    allowed_actions = fields.List(fields.String())


class WorkOrderResponse(WorkOrderRow):
    log = fields.List(fields.Dict())


class StaffWorkOrderResponse(WorkOrderResponse):
    phone = fields.String()


class WorkOrderListResponse(Schema):
    items = fields.List(fields.Nested(WorkOrderRow))
    next_cursor = fields.String(allow_none=True)
    counts = fields.Dict(metadata={"description": "staff: how many of each lamp and in all; above 99 it reads 100"})


class EvaluationListResponse(Schema):
    items = fields.List(fields.Dict())
    next_cursor = fields.String(allow_none=True)


class StatisticsResponse(Schema):
    agency = fields.String()
    begin = fields.Date(data_key="from")
    end = fields.Date(data_key="to")
    rule_version = fields.String()
    unrated_counts_after_days = fields.Integer(allow_none=True)
    totals = fields.Dict()
    days = fields.List(fields.Dict())
    items = fields.List(fields.Dict())
    channels = fields.List(fields.Dict())


def row(order: WorkOrder, hall: Any, actor: str) -> dict[str, Any]:
    """Return a work order as a line of a list: without what people said."""
    shown = view(order, hall.work_orders.today(), actor)
    del shown["log"]
    return shown


async def phone_of(hall: Any, owner_id: str) -> str:
    """Return the number to call; empty when there is none, nobody left a name, or the account is gone."""
    try:
        return str(await hall.identity.phone_of(owner_id)) if owner_id else ""
    except NotFound:
        return ""


# Anybody may begin conversations with the assistant, so how many of them one address rates is limited.
CONVERSATIONS_A_DAY = 10


async def limit_conversations(handler: HallHandler, code: str) -> None:
    """Count a rating of a conversation against its address. Raises RateLimited."""
    if handler.hall.feedback.is_conversation(code):
        limit = Limit(handler.hall.redis, "conversation-ratings", most=CONVERSATIONS_A_DAY, per_s=86400)
        await limit.require(handler.client_address, "今天评价咨询的次数够多了，请明天再评；有意见请打12345。")
        await limit.count(handler.client_address)


# --- residents ---


class Contacts(HallHandler):
    @operation("What I may rate or have rated", query=ListQuery, answers={200: ContactListResponse}, auth="resident")
    async def get(self) -> None:
        rows, cursor = await self.hall.feedback.contacts(self.resident.resident_id, **self.query)
        await self.answer({"items": rows, "next_cursor": cursor})


class Contact(HallHandler):
    @operation("One service contact and its rating", answers={200: ContactResponse}, auth="resident")
    async def get(self, contact_id: str) -> None:
        await self.answer(await self.hall.feedback.contact(contact_id, self.resident.resident_id))


class RateContact(HallHandler):
    @operation("Rate a service contact, once", body=EvaluationRequest, answers={200: ContactResponse}, auth="resident")
    async def post(self, contact_id: str) -> None:
        channel = CHANNEL_OF.get(self.resident.channel, "h5")
        await self.answer(await self.hall.feedback.rate(contact_id, self.resident.resident_id, **self.body, channel=channel))


class FollowUp(HallHandler):
    @operation("Add to a rating, once", body=TextRequest, answers={200: ContactResponse}, auth="resident")
    async def post(self, contact_id: str) -> None:
        await self.answer(await self.hall.feedback.follow_up(contact_id, self.resident.resident_id, self.body["text"]))


class RateByCode(HallHandler):
    """/v1/ratings/{code}: whoever holds the receipt, without sign-in; one code, one rating."""

    @operation("What a one-time code rates", answers={200: ContactResponse})
    async def get(self, code: str) -> None:
        await self.answer(await self.hall.feedback.by_code(code))

    @operation("Rate by a one-time code", body=CodeRatingRequest, answers={200: ContactResponse})
    async def post(self, code: str) -> None:
        await limit_conversations(self, code)
        await self.answer(await self.hall.feedback.rate_by_code(code, **self.body))


class Complaints(HallHandler):
    @operation("My complaints", query=ListQuery, answers={200: WorkOrderListResponse}, auth="resident")
    async def get(self) -> None:
        orders, cursor = await self.hall.work_orders.list_of_resident(machine.COMPLAINT, self.resident.resident_id, **self.query)
        await self.answer({"items": [row(order, self.hall, machine.RESIDENT) for order in orders], "next_cursor": cursor})

    @operation("Complain about a case, an agency or the hall", body=ComplaintRequest, answers={201: WorkOrderResponse}, auth="resident", idempotent=True)
    async def post(self) -> None:
        order = await self.hall.complaints.submit(self.resident.resident_id, self.body, complaint_id=self.idempotent_id("cmp"))
        await self.answer(view(order, self.hall.work_orders.today(), machine.RESIDENT), 201)


class CallBacks(HallHandler):
    @operation("Call-backs of my bad ratings", query=ListQuery, answers={200: WorkOrderListResponse}, auth="resident")
    async def get(self) -> None:
        orders, cursor = await self.hall.work_orders.list_of_resident(machine.CALL_BACK, self.resident.resident_id, **self.query)
        await self.answer({"items": [row(order, self.hall, machine.RESIDENT) for order in orders], "next_cursor": cursor})


class Mine(HallHandler):
    """One of the resident's own, of `kind`."""

    kind = machine.COMPLAINT

    @operation("One of my own", answers={200: WorkOrderResponse}, auth="resident")
    async def get(self, work_order_id: str) -> None:
        order = await self.hall.work_orders.of_resident(work_order_id, self.kind, self.resident.resident_id)
        await self.answer(view(order, self.hall.work_orders.today(), machine.RESIDENT))


class MyCallBack(Mine):
    kind = machine.CALL_BACK


class MyStep(HallHandler):
    """A step of the resident's own: `allowed_actions` says which."""

    kind = machine.COMPLAINT

    @operation(
        "Add to it, take it back, say it is settled, or ask again", body=SaidRequest, answers={200: WorkOrderResponse}, auth="resident",
        body_optional=True,
    )  # fmt: skip
    async def post(self, work_order_id: str, action: str) -> None:
        order = await self.hall.work_orders.by_resident(work_order_id, self.kind, self.resident.resident_id, action, self.body["text"])
        await self.answer(view(order, self.hall.work_orders.today(), machine.RESIDENT))


class MyCallBackStep(MyStep):
    kind = machine.CALL_BACK


# --- clerks ---


class Consultations(HallHandler):
    @operation(
        "A consultation at a window, to be rated by its code", body=ConsultationRequest, answers={201: ConsultationResponse}, auth="staff",
        idempotent=True,
    )  # fmt: skip
    async def post(self) -> None:
        made = await self.hall.feedback.consulted(self.staff, self.idempotent_id("con"), self.body["item_code"])
        await self.answer(made | {"link": f"{self.hall.settings.public_url}/rate/{made['code']}"}, 201)


# --- heads and the call-back desk ---


class WorkOrders(HallHandler):
    @operation("Call-backs and complaints to deal with, the most urgent first", query=WorkOrderQuery, answers={200: WorkOrderListResponse}, auth="staff")
    async def get(self) -> None:
        page = await self.hall.work_orders.page(self.staff, **self.query)
        rows = [row(order, self.hall, self.hall.work_orders.rank(self.staff)) for order in page["orders"]]
        await self.answer({"items": rows, "next_cursor": page["next_cursor"], "counts": page["counts"]})


class OneWorkOrder(HallHandler):
    @operation("One work order, with the phone number to call (audited)", answers={200: StaffWorkOrderResponse}, auth="staff")
    async def get(self, work_order_id: str) -> None:
        order = await self.hall.work_orders.read(work_order_id, self.staff)
        shown = view(order, self.hall.work_orders.today(), self.hall.work_orders.rank(self.staff))
        await self.answer(shown | {"phone": await phone_of(self.hall, order.owner_id)})


class Step(HallHandler):
    @operation("Take a step; `allowed_actions` says which", body=StepRequest, answers={200: WorkOrderResponse}, auth="staff", body_optional=True)
    async def post(self, work_order_id: str, action: str) -> None:
        order = await self.hall.work_orders.by_staff(work_order_id, self.staff, action, self.body)
        await self.answer(view(order, self.hall.work_orders.today(), self.hall.work_orders.rank(self.staff)))


class Evaluations(HallHandler):
    @operation("Ratings of the agency; hidden of cases one took part in", query=EvaluationListQuery, answers={200: EvaluationListResponse}, auth="staff")
    async def get(self) -> None:
        rows, cursor = await self.hall.staff_ratings.page(self.staff, **self.query)
        await self.answer({"items": rows, "next_cursor": cursor})

    @operation("Write down a rating given by phone or message", body=DeskRatingRequest, answers={200: ContactResponse}, auth="staff")
    async def post(self) -> None:
        said = dict(self.body)
        await self.answer(await self.hall.feedback.rate_for(said.pop("code"), self.staff, **said))


class Statistics(HallHandler):
    @operation("Statistics of ratings of an agency (the head)", query=StatisticsQuery, answers={200: StatisticsResponse}, auth="staff")
    async def get(self) -> None:
        asked = self.query
        await self.answer(await self.hall.staff_ratings.statistics(self.staff, asked["begin"], asked["end"], asked["agency"]))


routes = [
    (r"/v1/contacts", Contacts),
    (r"/v1/contacts/([\w-]+)", Contact),
    (r"/v1/contacts/([\w-]+)/evaluation", RateContact),
    (r"/v1/contacts/([\w-]+)/follow_up", FollowUp),
    (r"/v1/ratings/([\w-]+)", RateByCode),
    (r"/v1/complaints", Complaints),
    (r"/v1/complaints/([\w-]+)", Mine),
    (r"/v1/complaints/([\w-]+)/(\w+)", MyStep),
    (r"/v1/call_backs", CallBacks),
    (r"/v1/call_backs/([\w-]+)", MyCallBack),
    (r"/v1/call_backs/([\w-]+)/(\w+)", MyCallBackStep),
    (r"/staff/v1/consultations", Consultations),
    (r"/staff/v1/work_orders", WorkOrders),
    (r"/staff/v1/work_orders/([\w-]+)", OneWorkOrder),
    (r"/staff/v1/work_orders/([\w-]+)/(\w+)", Step),
    (r"/staff/v1/evaluations", Evaluations),
    (r"/staff/v1/evaluations/statistics", Statistics),
]
