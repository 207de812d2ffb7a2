"""Sign-in and phone number of the WeChat mini-program (/mp/v1/wechat)."""

from marshmallow import Schema, fields, validate

from app.identity.service import view_resident
from handlers.auth import ResidentResponse, SessionResponse, session_answer
from handlers.base import HallHandler, operation


class CodeRequest(Schema):
    code = fields.String(required=True, validate=validate.Length(1, 200), metadata={"description": "single use, from the client"})


class Login(HallHandler):
    @operation("Sign in with a wx.login code", body=CodeRequest, answers={200: SessionResponse})
    async def post(self) -> None:
        await self.answer(session_answer(await self.hall.identity.login_wechat(self.body["code"])))


class Phone(HallHandler):
    @operation("Bind the phone number of the getPhoneNumber button (L2)", body=CodeRequest,
               answers={200: ResidentResponse}, auth="resident")  # fmt: skip
    async def post(self) -> None:
        resident = await self.hall.identity.verify_wechat_phone(self.resident, self.body["code"])
        await self.answer(view_resident(resident))


routes = [(r"/mp/v1/wechat/login", Login), (r"/mp/v1/wechat/phone", Phone)]
