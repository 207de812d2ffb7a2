"""Sign-in by SMS, tokens, and the signed-in resident's own data (/v1/auth, /v1/me)."""

from typing import Any

from marshmallow import Schema, fields, validate

from app.identity.errors import RefreshReused
from app.identity.service import view_resident
from app.identity.sessions import Login
from app.kernel.clock import format_utc
from app.kernel.errors import NotFound
from handlers.base import HallHandler, operation


class SmsRequest(Schema):
    phone = fields.String(required=True, validate=validate.Length(1, 20), metadata={"example": "13800000001"})


class SmsLoginRequest(SmsRequest):
    code = fields.String(required=True, validate=validate.Length(1, 12), metadata={"example": "123456"})


class RefreshRequest(Schema):
    refresh_token = fields.String(required=True, validate=validate.Length(1, 200))


class RealNameRequest(Schema):
    name = fields.String(required=True, validate=validate.Length(1, 50), metadata={"example": "张三"})
    id_number = fields.String(required=True, validate=validate.Length(1, 30), metadata={"example": "44020019000101001X"})


class ResidentResponse(Schema):
    id = fields.String()
    level = fields.Integer(metadata={"description": "1 signed in, 2 phone, 3 real name, 4 face"})
    name_masked = fields.String(allow_none=True)
    phone_masked = fields.String(allow_none=True)


class SessionResponse(Schema):
    access_token = fields.String()
    token_type = fields.String(validate=validate.Equal("Bearer"))
    expires_in = fields.Integer(metadata={"description": "seconds"})
    refresh_token = fields.String()
    resident = fields.Nested(ResidentResponse)
    is_new = fields.Boolean()


class FaceCheckResponse(Schema):
    id = fields.String()
    client_params = fields.Dict()


def session_answer(login: Login) -> dict[str, Any]:
    """Return a session as api.md gives it."""
    return {
        "access_token": login.access_token,
        "token_type": "Bearer",
        "expires_in": login.expires_in,
        "refresh_token": login.refresh_token,
        "resident": view_resident(login.resident),
        "is_new": login.is_new,
    }


class SmsCode(HallHandler):
    """POST /v1/auth/sms: the same answer for known and unknown numbers."""

    @operation("Send a sign-in code by SMS", body=SmsRequest, answers={202: None})
    async def post(self) -> None:
        await self.hall.identity.send_sms_code(self.body["phone"], self.client_address)
        await self.answer({"detail": "验证码已发送，5分钟内有效。"}, 202)


class SmsLogin(HallHandler):
    @operation("Sign in with an SMS code", body=SmsLoginRequest, answers={200: SessionResponse})
    async def post(self) -> None:
        await self.answer(session_answer(await self.hall.identity.login_sms(self.body["phone"], self.body["code"])))


class Refresh(HallHandler):
    @operation("Rotate the refresh token", body=RefreshRequest, answers={200: SessionResponse})
    async def post(self) -> None:
        try:
            login = await self.hall.identity.sessions.refresh(self.body["refresh_token"])
        except RefreshReused as ended:
            # As after signing out: the phone of an ended session is shown nothing more.
            await self.hall.push.forget_session(ended.resident_id, ended.session_id)
            raise
        await self.answer(session_answer(login))


class Logout(HallHandler):
    @operation("End this session", answers={204: None}, auth="resident")
    async def post(self) -> None:
        # The devices first: who dies in between is still signed in, and may sign out again.
        await self.hall.push.forget_session(self.resident.resident_id, self.resident.session_id)
        await self.hall.identity.sessions.end(self.resident.resident_id, self.resident.session_id)
        self.set_status(204)
        self.finish()


class Me(HallHandler):
    @operation("The signed-in resident", answers={200: ResidentResponse}, auth="resident")
    async def get(self) -> None:
        resident = await self.hall.identity.resident(self.resident.resident_id)
        await self.answer(view_resident(resident) | {"channel": self.resident.channel})


class Sessions(HallHandler):
    @operation("The resident's living sessions", auth="resident")
    async def get(self) -> None:
        sessions = await self.hall.identity.sessions.living(self.resident.resident_id)
        await self.answer(
            {
                "items": [
                    {
                        "id": session["_id"],
                        "channel": session["channel"],
                        "created_at": format_utc(session["created_at"]),
                        "last_seen_at": format_utc(session["last_seen_at"]),
                        "current": session["_id"] == self.resident.session_id,
                    }
                    for session in sessions
                ],
                "next_cursor": None,
            }
        )


class OneSession(HallHandler):
    @operation("End one of the resident's sessions", answers={204: None}, auth="resident")
    async def delete(self, session_id: str) -> None:
        await self.hall.push.forget_session(self.resident.resident_id, session_id)
        if not await self.hall.identity.sessions.end(self.resident.resident_id, session_id):
            raise NotFound("没有找到这个登录。", en="No such session.")
        self.set_status(204)
        self.finish()


class RealName(HallHandler):
    @operation("Prove the real name (L3)", body=RealNameRequest, answers={200: ResidentResponse}, auth="resident")
    async def post(self) -> None:
        resident = await self.hall.identity.verify_real_name(self.resident, self.body["name"], self.body["id_number"])
        await self.answer(view_resident(resident))


class FaceChecks(HallHandler):
    @operation("Start a face check", answers={201: FaceCheckResponse}, auth="resident")
    async def post(self) -> None:
        await self.answer(await self.hall.identity.start_face_check(self.resident), 201)


class FaceCheckConfirm(HallHandler):
    @operation("Ask for the verdict of a face check (L4)", answers={200: ResidentResponse}, auth="resident")
    async def post(self, check_id: str) -> None:
        await self.answer(view_resident(await self.hall.identity.confirm_face_check(self.resident, check_id)))


class Licence(Schema):
    id = fields.String()
    type = fields.String(metadata={"example": "LIC-NURSE"})
    name = fields.String()
    number = fields.String()
    issuer = fields.String()
    issued_on = fields.String(metadata={"format": "date"})
    valid_from = fields.String(metadata={"format": "date"})
    valid_to = fields.String(allow_none=True, metadata={"format": "date", "description": "the last good day; null: see `basis`"})
    basis = fields.String(metadata={"description": "dated; open: no end; on_document: the day stands on the document"})
    days_left = fields.Integer(allow_none=True, metadata={"description": "0 on the last day"})
    is_renewed = fields.Boolean(metadata={"description": "a newer one has taken its place"})
    state = fields.String(metadata={"description": "valid, expired or annulled; only a valid one can stand for a material"})
    case_id = fields.String()


class LicenceList(Schema):
    items = fields.List(fields.Nested(Licence))
    next_cursor = fields.String(allow_none=True)


class Licences(HallHandler):
    @operation("The resident's electronic licences", answers={200: LicenceList}, auth="resident")
    async def get(self) -> None:
        wallet = await self.hall.licences.wallet(self.resident.resident_id)
        await self.answer({"items": wallet, "next_cursor": None})


routes = [
    (r"/v1/auth/sms", SmsCode),
    (r"/v1/auth/sms/login", SmsLogin),
    (r"/v1/auth/refresh", Refresh),
    (r"/v1/auth/logout", Logout),
    (r"/v1/me", Me),
    (r"/v1/me/sessions", Sessions),
    (r"/v1/me/sessions/([\w-]+)", OneSession),
    (r"/v1/me/real-name", RealName),
    (r"/v1/me/face-checks", FaceChecks),
    (r"/v1/me/face-checks/([\w-]+)/confirm", FaceCheckConfirm),
    (r"/v1/me/licences", Licences),
]
