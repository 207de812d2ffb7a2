"""The e-mail address of the resident who is signed in: asked for, verified by a code, shown masked, forgotten."""

from marshmallow import Schema, fields, validate

from app.identity.emails import VALID_FOR
from handlers.base import HallHandler, operation


class EmailRequest(Schema):
    email = fields.Str(required=True, validate=validate.Length(3, 300), metadata={"example": "zhangsan@example.com"})


class EmailCodeRequest(Schema):
    code = fields.Str(required=True, validate=validate.Regexp(r"\s*[0-9]{6}\s*\Z", error="验证码是6位数字"))


class EmailAsked(Schema):
    email_masked = fields.Str(metadata={"example": "z***n@example.com"})
    expires_in = fields.Int(metadata={"description": "seconds for which the code is good"})


class EmailView(Schema):
    email_masked = fields.Str(allow_none=True)
    verified_at = fields.Str(allow_none=True, metadata={"format": "date-time"})
    is_dead = fields.Bool(metadata={"description": "its mail server does not know it any more: nothing is sent there until it is verified anew"})


class OwnEmail(HallHandler):
    @operation("Where e-mail reaches me", answers={200: EmailView}, auth="resident")
    async def get(self) -> None:
        await self.answer(await self.hall.emails.view(self.resident.resident_id))

    @operation("Send a code to an address of mine; it counts once the code came back", body=EmailRequest, answers={202: EmailAsked}, auth="resident")
    async def put(self) -> None:
        masked = await self.hall.emails.ask(self.resident.resident_id, self.body["email"], self.client_address)
        await self.answer({"email_masked": masked, "expires_in": int(VALID_FOR.total_seconds())}, 202)

    @operation("Forget my address", answers={204: None}, auth="resident")
    async def delete(self) -> None:
        await self.hall.emails.forget(self.resident.resident_id)
        self.set_status(204)


class ConfirmEmail(HallHandler):
    @operation("Confirm the address by the code that was sent to it", body=EmailCodeRequest, answers={200: EmailView}, auth="resident")
    async def post(self) -> None:
        await self.answer(await self.hall.emails.confirm(self.resident.resident_id, self.body["code"].strip()))


routes = [
    (r"/v1/me/email", OwnEmail),
    (r"/v1/me/email/confirm", ConfirmEmail),
]
