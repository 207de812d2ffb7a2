"""Sign-in and phone number of the Alipay mini-program (/mp/v1/alipay)."""

from marshmallow import Schema, fields, validate

from app.identity.service import view_resident
from handlers.auth import ResidentResponse, SessionResponse, session_answer
from handlers.base import HallHandler, operation


class AuthCodeRequest(Schema):
    auth_code = fields.String(required=True, validate=validate.Length(1, 200))


class PhoneRequest(Schema):
    encrypted = fields.Raw(
        required=True,
        metadata={"description": "the whole answer of my.getPhoneNumber, as object or as JSON text"},
    )


class Login(HallHandler):
    @operation("Sign in with a my.getAuthCode code", body=AuthCodeRequest, answers={200: SessionResponse})
    async def post(self) -> None:
        await self.answer(session_answer(await self.hall.identity.login_alipay(self.body["auth_code"])))


class Phone(HallHandler):
    @operation("Bind the phone number of my.getPhoneNumber (L2)", body=PhoneRequest,
               answers={200: ResidentResponse}, auth="resident")  # fmt: skip
    async def post(self) -> None:
        resident = await self.hall.identity.verify_alipay_phone(self.resident, self.body["encrypted"])
        await self.answer(view_resident(resident))


routes = [(r"/mp/v1/alipay/login", Login), (r"/mp/v1/alipay/phone", Phone)]
