"""The fate of notices, for staff: those of a case, and those that reached nobody (/staff/v1/undelivered)."""

import re
from typing import Any

from marshmallow import Schema, fields, validate

from app.identity.model import StaffSession
from handlers.base import HallHandler, operation
from handlers.feedback import phone_of
from handlers.notifications import MessageSubject


class UndeliveredQuery(Schema):
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100, error="应为 1 到 100"))
    cursor = fields.String(load_default=None, validate=validate.Regexp(r"dlv_[0-9A-Z]{26}\Z"))
    state = fields.String(
        load_default="open",
        validate=validate.OneOf(["open", "handled"], error="应为 open 或 handled"),
        metadata={"description": "`handled`: what somebody has taken care of, newest first"},
    )


class HandleUndeliveredRequest(Schema):
    note = fields.String(
        required=True,
        validate=[
            validate.Length(2, 500, error="请写明怎么跟进的，2 到 500 个字"),
            validate.Regexp(r"\s*\S.*\S\s*\Z", re.DOTALL, error="请写明怎么跟进的，2 到 500 个字"),
        ],
        metadata={"example": "已电话告知本人"},
    )


class DeliveryAttempt(Schema):
    channel = fields.String()
    outcome = fields.String(metadata={"description": "refused, try_later, unclear, undelivered, broken"})
    code = fields.String(metadata={"description": "the vendor's code (docs/push.md)"})
    at = fields.String(metadata={"format": "date-time"})


class UndeliveredResponse(Schema):
    id = fields.String()
    event = fields.String(metadata={"example": "case.supplement_requested"})
    title = fields.String()
    subject = fields.Nested(MessageSubject)
    case_id = fields.String(allow_none=True)
    agency_id = fields.String(metadata={"description": "empty: nobody's but the agency's that runs the hall"})
    at = fields.String(metadata={"format": "date-time"})
    failed_at = fields.String(metadata={"format": "date-time"})
    attempts = fields.List(fields.Nested(DeliveryAttempt))
    handled_at = fields.String(allow_none=True, metadata={"format": "date-time"})
    handled_by = fields.String(allow_none=True)
    note = fields.String()


class UndeliveredOneResponse(UndeliveredResponse):
    body = fields.String(metadata={"description": "what the person was to be told; empty for another agency's notice"})
    phone = fields.String(metadata={"description": "the person's proven number, or empty"})


class UndeliveredListResponse(Schema):
    items = fields.List(fields.Nested(UndeliveredResponse))
    next_cursor = fields.String(allow_none=True)


class NoticeResponse(Schema):
    id = fields.String()
    event = fields.String(metadata={"example": "case.accepted"})
    title = fields.String()
    state = fields.String(validate=validate.OneOf(["waiting", "sending", "sent", "merged", "unclear", "inbox", "failed"]))
    channel = fields.String(allow_none=True)
    at = fields.String(metadata={"format": "date-time"})
    sent_at = fields.String(allow_none=True, metadata={"format": "date-time"})
    fate = fields.String(allow_none=True, metadata={"description": "what the vendor reported later"})
    attempts = fields.List(fields.Nested(DeliveryAttempt))
    handled_by = fields.String(allow_none=True)
    note = fields.String()


class NoticeListResponse(Schema):
    items = fields.List(fields.Nested(NoticeResponse))


class CaseNotices(HallHandler):
    @operation("What became of each notice of a case, oldest first", answers={200: NoticeListResponse}, auth="staff")
    async def get(self, case_id: str) -> None:
        case = await self.hall.review.get(case_id, self.staff)  # whose case it is, and the row of the audit
        await self.answer({"items": await self.hall.push.undelivered.of_subject(case.id)})


class UndeliveredList(HallHandler):
    @operation(
        "Notices that reached nobody: ring the person up", query=UndeliveredQuery, answers={200: UndeliveredListResponse}, auth="staff"
    )
    async def get(self) -> None:
        rows, cursor = await self.hall.push.undelivered.page(
            self.staff,
            is_superior=self.hall.supervision.is_superior(self.staff),
            limit=self.query["limit"],
            cursor=self.query["cursor"],
            is_open=self.query["state"] == "open",
        )
        await self.answer({"items": rows, "next_cursor": cursor})


async def with_phone(hall: Any, delivery_id: str, staff: StaffSession) -> dict[str, Any]:
    """Return one notice that did not arrive, with the number at which to ring the person up. Audited."""
    row = await hall.push.undelivered.one(delivery_id, staff, is_superior=hall.supervision.is_superior(staff))
    phone = await phone_of(hall, row.pop("owner_id"))
    return {**row, "phone": phone}


class OneUndelivered(HallHandler):
    @operation("One of them, with the person's number", answers={200: UndeliveredOneResponse}, auth="staff")
    async def get(self, delivery_id: str) -> None:
        await self.answer(await with_phone(self.hall, delivery_id, self.staff))


class HandleUndelivered(HallHandler):
    @operation("Note what was done about one", body=HandleUndeliveredRequest, answers={200: UndeliveredResponse}, auth="staff")
    async def post(self, delivery_id: str) -> None:
        is_superior = self.hall.supervision.is_superior(self.staff)
        await self.answer(
            await self.hall.push.undelivered.handle(delivery_id, self.staff, self.body["note"], is_superior=is_superior)
        )


routes = [
    (r"/staff/v1/cases/([\w-]{1,64})/notices", CaseNotices),
    (r"/staff/v1/undelivered", UndeliveredList),
    (r"/staff/v1/undelivered/([\w-]{1,64})", OneUndelivered),
    (r"/staff/v1/undelivered/([\w-]{1,64})/handle", HandleUndelivered),
]
