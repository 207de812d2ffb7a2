"""Pages of the person: signing in, who I am, and the steps that prove it (phone, real name, face)."""

import secrets
from urllib.parse import urlencode

from app.identity import errors
from app.identity.model import LEVEL_FACE, LEVEL_PHONE, LEVEL_REAL_NAME, Resident
from app.identity.service import view_resident
from app.identity.sessions import Login
from app.identity.tokens import PAGE_FOR
from app.kernel.errors import HallError, NotFound, RateLimited, Unauthorized, ValidationFailed
from app.kernel.numbers import mask_phone
from handlers.pages_base import RESIDENT_COOKIE, PageHandler, errors_by_field, local_path

STATE_COOKIE = "hall_state"
STATE_FOR_S = 600
# What the platform calls the code that it hands back.
CODE_NAMES = {"wechat": "code", "alipay": "auth_code"}
CLIENTS = {"wechat": "MicroMessenger", "alipay": "AlipayClient"}
# The mini-programs' own sign-in page: it fetches a login code and opens this web-view again with it.
MINI_PROGRAM_SIGN_IN = "/pages/sign-in/sign-in"


class SignInPage(PageHandler):
    """What every way of signing in shares."""

    tab = "me"

    @property
    def next(self) -> str:
        return local_path(self.get_argument("next", "/me"), "/me")

    async def keep(self, login: Login) -> None:
        """Put the session into the browser's cookie and go on to where the person wanted to be."""
        self.set_cookie(
            RESIDENT_COOKIE, self.hall.identity.sessions.page_token(login), max_age=int(PAGE_FOR.total_seconds()), path="/"
        )
        if (await self.hall.push.preferences(login.resident.id)).elder_mode:
            self.keep_elder(True)
        self.redirect(self.next, status=303)

    async def show_sign_in(self, status: int = 200, **values: object) -> None:
        agent = self.request.headers.get("User-Agent", "")
        await self.show(
            "sign_in.html",
            status,
            **{
                "next": self.next,
                "clients": [name for name, mark in CLIENTS.items() if mark in agent],
                "mini_program_page": MINI_PROGRAM_SIGN_IN,
                "phone": self.text("phone", limit=20),
                **values,
            },
        )


class SignIn(SignInPage):
    async def get(self) -> None:
        if self.signed_in is not None:
            return self.redirect(self.next, status=303)
        await self.show_sign_in()


class SmsCode(SignInPage):
    """POST /sign-in/sms/code: send a code, then ask for it."""

    async def get(self) -> None:
        self.redirect("/sign-in?" + urlencode({"next": self.next}), status=303)

    async def post(self) -> None:
        phone = self.text("phone", limit=20)
        try:
            await self.hall.identity.send_sms_code(phone, self.client_address)
        except (ValidationFailed, RateLimited) as error:
            return await self.show_sign_in(error.status, error=error, errors=errors_by_field(error))
        await self.show("sign_in_code.html", next=self.next, phone=phone, phone_masked=mask_phone(phone), action="/sign-in/sms")


class SmsLogin(SignInPage):
    """POST /sign-in/sms: sign in with the code."""

    async def get(self) -> None:
        self.redirect("/sign-in?" + urlencode({"next": self.next}), status=303)

    async def post(self) -> None:
        phone = self.text("phone", limit=20)
        try:
            login = await self.hall.identity.login_sms(phone, self.text("code", limit=12).strip())
        except (errors.SmsCodeWrong, ValidationFailed, RateLimited) as error:
            return await self.show(
                "sign_in_code.html", error.status, next=self.next, phone=phone, phone_masked=mask_phone(phone), error=error,
                action="/sign-in/sms",
            )  # fmt: skip
        await self.keep(login)


class PlatformStart(SignInPage):
    """GET /sign-in/<platform>/start: to the platform and back; in dev and test its stand-in."""

    async def get(self, platform: str) -> None:
        sandbox = self.hall.settings.sandbox_url
        if not sandbox:
            return self.redirect("/sign-in?" + urlencode({"next": self.next}), status=303)
        state = secrets.token_urlsafe(16)
        self.set_cookie(STATE_COOKIE, f"{state}~{self.next}".encode().hex(), max_age=STATE_FOR_S, path="/sign-in")
        back = f"{self.hall.settings.public_url}/sign-in/{platform}"
        self.redirect(f"{sandbox}/_sim/login?" + urlencode({"provider": platform, "back": back, "state": state}), status=303)


class PlatformSignIn(SignInPage):
    """GET /sign-in/<platform>?code=: back from the platform.

    A state that is bound to this browser shows that the person began here. Without one (the mini-program hands over to its
    web-view, or somebody was sent a link) the person confirms first: nobody is signed in to a stranger's account by a link.
    """

    async def get(self, platform: str) -> None:
        code = self.text(CODE_NAMES[platform], limit=200)
        if not code:
            return self.redirect("/sign-in", status=303)
        state, _, where = self._kept_state().partition("~")
        self.clear_cookie(STATE_COOKIE, path="/sign-in")
        if not state or not secrets.compare_digest(state, self.text("state", limit=100)):
            return await self.show("sign_in_confirm.html", platform=platform, code=code, next=self.next)
        self.request.arguments["next"] = [where.encode()]
        await self._sign_in(platform, code)

    async def post(self, platform: str) -> None:
        await self._sign_in(platform, self.text("code", limit=200))

    async def _sign_in(self, platform: str, code: str) -> None:
        try:
            if platform == "wechat":
                login = await self.hall.identity.login_wechat(code)
            else:
                login = await self.hall.identity.login_alipay(code)
        except Unauthorized as error:
            return await self.show_sign_in(error.status, error=error)
        await self.keep(login)

    def _kept_state(self) -> str:
        try:
            return bytes.fromhex(self.get_cookie(STATE_COOKIE, "") or "").decode()
        except ValueError:
            return ""


class SignOut(PageHandler):
    needs = "resident"

    async def get(self) -> None:
        self.redirect("/me", status=303)

    async def post(self) -> None:
        await self.hall.push.forget_session(self.resident.resident_id, self.resident.session_id)
        await self.hall.identity.sessions.end(self.resident.resident_id, self.resident.session_id)
        self.clear_cookie(RESIDENT_COOKIE, path="/")
        # What a form kept in this browser until it was saved (form.js): the next person on a shared phone must not find it.
        self.set_header("Clear-Site-Data", '"storage"')
        self.redirect("/", status=303)


class Me(PageHandler):
    needs = "resident"
    tab = "me"

    async def get(self) -> None:
        resident = await self.hall.identity.resident(self.resident.resident_id)
        kinds = self.hall.catalogue.snapshot.licences
        wallet = await self.hall.licences.wallet(resident.id)
        await self.show(
            "me.html",
            me=view_resident(resident),
            waits_to_join=resident.waits_to_join,
            sessions=await self.hall.identity.sessions.living(resident.id),
            session_id=self.resident.session_id,
            licences=[{**row, "renew_item": kinds.get(row["type"], {}).get("renew_item", "")} for row in wallet],
            subscriptions=await self.hall.subscriptions.of(resident.id),
        )


class EndSession(PageHandler):
    needs = "resident"

    async def post(self, session_id: str) -> None:
        await self.hall.push.forget_session(self.resident.resident_id, session_id)
        if not await self.hall.identity.sessions.end(self.resident.resident_id, session_id):
            raise NotFound("没有找到这个登录。")
        self.redirect("/me", status=303)


class ProofPage(PageHandler):
    """A step of proving who one is. `next` goes along, so that a draft is found again with nothing lost."""

    needs = "resident"
    tab = "me"

    @property
    def next(self) -> str:
        return local_path(self.get_argument("next", "/me"), "/me")

    @property
    def wanted(self) -> int:
        level = self.text("level", "4", 1)
        return int(level) if level in ("2", "3", "4") else LEVEL_FACE

    async def logins(self, resident_id: str) -> set[str]:
        """Return what an account signs in with: another account that is joined into it brings its own along."""
        found = {str(row["_id"]) for row in await self.hall.identity.sessions.living(resident_id)}
        for provider in CODE_NAMES:
            channel = await self.hall.identity.channel_identity(resident_id, provider)
            found |= {str(channel["_id"])} if channel else set()
        return found

    async def proven(self, step: str, resident: Resident, before: set[str]) -> None:
        """Say on the next page what was proven, and that accounts were joined when they were; then go on."""
        was_joined = resident.id != self.resident.resident_id or not await self.logins(resident.id) <= before
        self.tell_next(step, *(["joined"] if was_joined else []))
        self.go_on(resident)

    def go_on(self, resident: Resident) -> None:
        """Go to the next missing step, or back to where the person came from."""
        step = next_proof(resident.level, self.wanted)
        if step is None:
            return self.redirect(self.next, status=303)
        self.redirect(f"{step}?" + urlencode({"level": self.wanted, "next": self.next}), status=303)

    async def show_step(self, template: str, status: int = 200, **values: object) -> None:
        known = await self.hall.identity.resident(self.resident.resident_id)
        shared = {"next": self.next, "level": self.wanted, "reached": known.level, "back": self.next, "sent": False, "waits": known.waits_to_join}
        await self.show(template, status, **{**shared, **values})


def next_proof(level: int, wanted: int) -> str | None:
    """Return the page of the next step from one identity level towards another, or None when nothing is missing."""
    if level >= wanted:
        return None
    if level < LEVEL_PHONE:
        return "/me/phone"
    return "/me/real-name" if level < LEVEL_REAL_NAME else "/me/face"


class Identity(ProofPage):
    """GET /me/identity?level=&next=: lead through the steps that are missing."""

    async def get(self) -> None:
        self.go_on(await self.hall.identity.resident(self.resident.resident_id))


class Phone(ProofPage):
    async def get(self) -> None:
        await self.show_step("proof_phone.html", phone="")

    async def post(self) -> None:
        phone, code = self.text("phone", limit=20), self.text("code", limit=12).strip()
        try:
            if "code" in self.request.body_arguments:
                before = await self.logins(self.resident.resident_id)
                return await self.proven("phone", await self.hall.identity.verify_sms_phone(self.resident, phone, code), before)
            await self.hall.identity.send_sms_code(phone, self.client_address)
        except (Unauthorized, ValidationFailed, RateLimited, errors.PhoneTaken) as error:
            sent = "code" in self.request.body_arguments
            return await self.show_step(
                "proof_phone.html", error.status, phone=phone, sent=sent, error=error, errors=errors_by_field(error)
            )
        await self.show_step("proof_phone.html", phone=phone, sent=True)


class RealName(ProofPage):
    async def get(self) -> None:
        await self.show_step("proof_name.html", name="", id_number="")

    async def post(self) -> None:
        name, id_number = self.text("name", limit=50), self.text("id_number", limit=30)
        before = await self.logins(self.resident.resident_id)
        try:
            resident = await self.hall.identity.verify_real_name(self.resident, name, id_number)
        except HallError as error:
            if error.status not in (409, 422, 503):
                raise
            return await self.show_step(
                "proof_name.html", error.status, name=name, id_number=id_number, error=error, errors=errors_by_field(error)
            )
        await self.proven("name", resident, before)


class Face(ProofPage):
    """The face check: asked for with its own consent, started here, judged by the service alone."""

    async def get(self) -> None:
        await self.show_step("proof_face.html", check=None)

    async def post(self) -> None:
        check_id = self.text("check", limit=60)
        if not check_id and self.text("agree") != "1":
            return await self.show_step("proof_face.html", 422, check=None, errors={"agree": "请先勾选同意，或到窗口办理"})
        try:
            check = {"id": check_id} if check_id else await self.hall.identity.start_face_check(self.resident)
        except errors.LevelRequired:
            return self.go_on(await self.hall.identity.resident(self.resident.resident_id))
        try:
            resident = await self.hall.identity.confirm_face_check(self.resident, check["id"])
        except errors.FacePending as error:
            return await self.show_step("proof_face.html", check=check, error=error if check_id else None)
        except errors.FaceFailed as error:
            return await self.show_step("proof_face.html", error.status, check=None, error=error)
        self.tell_next("face")
        self.go_on(resident)


routes = [
    (r"/sign-in", SignIn),
    (r"/sign-in/sms/code", SmsCode),
    (r"/sign-in/sms", SmsLogin),
    (r"/sign-in/(wechat|alipay)/start", PlatformStart),
    (r"/sign-in/(wechat|alipay)", PlatformSignIn),
    (r"/sign-out", SignOut),
    (r"/me", Me),
    (r"/me/sessions/([\w-]+)/end", EndSession),
    (r"/me/identity", Identity),
    (r"/me/phone", Phone),
    (r"/me/real-name", RealName),
    (r"/me/face", Face),
]
