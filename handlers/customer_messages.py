"""What people wrote to the mini-program and a human has to answer (/staff/v1/customer-messages): of the agency that runs the hall."""

from typing import Any

from marshmallow import Schema, fields, validate

from app.identity.model import StaffSession
from app.kernel.ids import new_id
from handlers.base import HallHandler, operation

_KEY = r"([\w-]{1,64})"


class CustomerMessageQuery(Schema):
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100, error="应为 1 到 100"))
    cursor = fields.String(load_default=None, validate=validate.Regexp(r"[0-9a-f]{64}\Z"))


class CustomerReply(Schema):
    text = fields.String(required=True, validate=validate.Length(1, 600, error="回复为 1 到 600 个字"))


class CustomerNote(Schema):
    note = fields.String(required=True, validate=validate.Length(2, 500, error="请写明怎么处理的，2 到 500 个字"))


class CustomerMessageResponse(Schema):
    id = fields.String()
    at = fields.String(metadata={"format": "date-time"})
    kind = fields.String(metadata={"description": "WeChat's word: text, image, voice, ..."})
    text = fields.String()
    asked_human = fields.Boolean(metadata={"description": "false: a machine's answer that WeChat did not take"})
    reply = fields.String(metadata={"description": "what the machine said"})
    code = fields.String(metadata={"description": "why the machine's answer did not go out (docs/push.md)"})
    answerable_until = fields.String(metadata={"format": "date-time", "description": "until then WeChat takes an answer"})
    handled_by = fields.String(allow_none=True)
    handled_at = fields.String(allow_none=True, metadata={"format": "date-time"})
    staff_reply = fields.String()
    note = fields.String()


class CustomerMessageList(Schema):
    items = fields.List(fields.Nested(CustomerMessageResponse))
    next_cursor = fields.String(allow_none=True)


async def reply_to(hall: Any, staff: StaffSession, key: str, text: str) -> dict[str, Any]:
    """Answer a person, with the link by which they may rate this consultation once; it counts as one when the answer has gone out."""
    contact_id = new_id("con")
    link = f"{hall.settings.public_url}/rate/{hall.feedback.code(contact_id)}"
    is_superior = hall.supervision.is_superior(staff)
    shown: dict[str, Any] = await hall.customer_messages.reply(staff, key, f"{text}\n评价这次咨询（评不评由您）：{link}", is_superior=is_superior)
    await hall.feedback.consulted(staff, contact_id)
    return shown


class CustomerMessages(HallHandler):
    @operation("What waits for a human, oldest first", query=CustomerMessageQuery, answers={200: CustomerMessageList}, auth="staff")
    async def get(self) -> None:
        rows, cursor = await self.hall.customer_messages.queue(
            self.staff,
            is_superior=self.hall.supervision.is_superior(self.staff),
            limit=self.query["limit"],
            after=self.query["cursor"],
        )
        await self.answer({"items": rows, "next_cursor": cursor})


class ReplyToCustomer(HallHandler):
    @operation("Answer the person in WeChat", body=CustomerReply, answers={200: CustomerMessageResponse}, auth="staff")
    async def post(self, key: str) -> None:
        await self.answer(await reply_to(self.hall, self.staff, key, self.body["text"]))


class CloseCustomerMessage(HallHandler):
    @operation("Note that it was taken care of otherwise", body=CustomerNote, answers={200: CustomerMessageResponse}, auth="staff")
    async def post(self, key: str) -> None:
        is_superior = self.hall.supervision.is_superior(self.staff)
        await self.answer(await self.hall.customer_messages.close(self.staff, key, self.body["note"], is_superior=is_superior))


routes = [
    (r"/staff/v1/customer-messages", CustomerMessages),
    (rf"/staff/v1/customer-messages/{_KEY}/reply", ReplyToCustomer),
    (rf"/staff/v1/customer-messages/{_KEY}/close", CloseCustomerMessage),
]
