"""Signing in and proving who one is.

One resident is one person with many channel identities. When a verified phone or citizen number shows that two residents are the
same person, the younger one is joined into the older: identities, sessions and (through `identity.joined`) cases, orders and
messages move; the old id leads to the new one for good.
"""

from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Any, Protocol

from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.identity import errors, store
from app.identity.model import LEVEL_FACE, LEVEL_PHONE, LEVEL_REAL_NAME, Resident, ResidentSession
from app.identity.proving import Proving
from app.identity.realname import RealName
from app.identity.sessions import Login, Sessions
from app.identity.sms_codes import SmsCodes
from app.kernel.clock import utc_now
from app.kernel.crypto import KeyRing
from app.kernel.errors import ValidationFailed, error_row
from app.kernel.ids import new_id
from app.kernel.numbers import check_id_number, check_mobile, mask_name, mask_phone
from app.storage.mongo import Database

FACE_CHECK_FOR = timedelta(minutes=10)


class WeChatLogin(Protocol):
    """What is needed of the WeChat client (app/platforms/wechat.py)."""

    app_id: str

    async def code2session(self, code: str) -> Any: ...  # .openid .unionid .session_key
    async def phone_number(self, code: str, openid: str) -> str: ...


class AlipayLogin(Protocol):
    """What is needed of the Alipay client (app/platforms/alipay.py)."""

    app_id: str

    async def oauth_token(self, auth_code: str) -> Any: ...  # .open_id .user_id .union_id
    def decrypt_phone(self, encrypted: Any) -> str: ...


class Identity:
    def __init__(
        self,
        database: Database,
        keys: KeyRing,
        *,
        wechat: WeChatLogin,
        alipay: AlipayLogin,
        sms_codes: SmsCodes,
        realname: RealName,
    ) -> None:
        self._database = database
        self._keys = keys
        self._wechat = wechat
        self._alipay = alipay
        self._sms_codes = sms_codes
        self._realname = realname
        self._proving = Proving(database, keys)
        self.sessions = Sessions(database, keys)
        # Called right after a join with (from, into), besides the event: nobody should find an empty list in between.
        self.after_join: list[Callable[[str, str], Awaitable[None]]] = []

    # --- signing in ---

    async def login_wechat(self, code: str) -> Login:
        """Exchange a wx.login code (once, never repeated) for a session. Raises errors.LoginRefused."""
        found = await self._wechat.code2session(code)
        identity = {
            "openid": found.openid,
            "unionid": found.unionid or None,
            "session_key": self._keys.seal(found.session_key, context=f"wechat.{found.openid}"),
        }
        return await self._login("wechat", f"wechat:{self._wechat.app_id}:{found.openid}", identity)

    async def login_alipay(self, auth_code: str) -> Login:
        """Exchange a my.getAuthCode code for a session. Raises errors.LoginRefused."""
        found = await self._alipay.oauth_token(auth_code)
        identity = {
            "open_id": found.open_id or None,
            "user_id": found.user_id or None,
            "union_id": found.union_id or None,
        }
        # An app moves from user_id to open_id, and may go back: before, both, after. Whichever comes finds the same person, and what
        # comes with it is written to the binding. Source: Alipay, "openid 配置管理".
        bindings = self._database["channel_identities"]
        key = f"alipay:{self._alipay.app_id}:{found.open_id or found.user_id}"
        for name in ("open_id", "user_id"):
            known = await bindings.find_one({"provider": "alipay", name: identity[name]}) if identity[name] else None
            if known is not None:
                key = known["_id"]
                break
        return await self._login("alipay", key, identity)

    async def send_sms_code(self, phone: str, address: str) -> None:
        """Send a sign-in code. Raises ValidationFailed, RateLimited, ProviderUnavailable."""
        await self._sms_codes.send(_mobile(phone), address, purpose="login", now=utc_now())

    async def login_sms(self, phone: str, code: str) -> Login:
        """Sign in with a code from a text message. Raises errors.SmsCodeWrong."""
        number = _mobile(phone)
        await self._sms_codes.use(number, code, purpose="login", now=utc_now())
        residents = self._database["residents"]
        document = await self._proving.holder_of_phone(number)
        is_new = document is None
        if document is None:
            resident_id = new_id("res")
            document = store.new_resident(resident_id, utc_now()) | {"level": LEVEL_PHONE}
            document |= store.sealed_fields(self._keys, resident_id, {"phone": number})
            try:
                await residents.insert_one(document)
            except DuplicateKeyError:  # two sign-ins with the same new number at once: the first one made the resident
                document = await self._proving.holder_of_phone(number)
                is_new = False
        assert document is not None
        return await self.sessions.begin(document, "sms", is_new)

    async def _login(self, provider: str, identity_id: str, identity: dict[str, Any]) -> Login:
        now = utc_now()
        identities, residents = self._database["channel_identities"], self._database["residents"]
        changed = {key: value for key, value in identity.items() if value is not None}
        known = await identities.find_one_and_update(
            {"_id": identity_id}, {"$set": {**changed, "last_login_at": now}}, return_document=ReturnDocument.AFTER
        )
        if known is not None:
            document = await store.load_resident(residents, known["resident_id"])
            return await self.sessions.begin(document, provider, is_new=False)
        resident = store.new_resident(new_id("res"), now)

        async def insert(session: Any) -> None:
            await residents.insert_one(resident, session=session)
            await identities.insert_one(
                {"_id": identity_id, "provider": provider, "resident_id": resident["_id"], **changed,
                 "created_at": now, "last_login_at": now},
                session=session,
            )  # fmt: skip

        try:
            await self._database.transaction(insert)
        except DuplicateKeyError:  # the same person signed in twice at once: the other call has made both
            return await self._login(provider, identity_id, identity)
        return await self.sessions.begin(resident, provider, is_new=True)

    # --- proving who one is ---

    async def resident(self, resident_id: str) -> Resident:
        """Return a resident, opened; a joined id leads to the one that stays. Raises NotFound."""
        return store.opened(self._keys, await store.resident_of(self._database, resident_id))

    async def residents(self, resident_ids: Collection[str], session: AsyncClientSession) -> dict[str, Resident]:
        """Return residents, opened, by the ids that were asked for, as they are in the transaction of `session`; see `resident`."""
        found = self._database["residents"].find({"_id": {"$in": list(resident_ids)}}, session=session)
        documents = {document["_id"]: document for document in await found.to_list()}
        for resident_id, document in documents.items():
            if "merged_into" in document:
                documents[resident_id] = await store.load_resident(self._database["residents"], document["merged_into"], session)
        return {resident_id: store.opened(self._keys, document) for resident_id, document in documents.items()}

    async def verify_wechat_phone(self, session: ResidentSession, code: str) -> Resident:
        """Bind the phone number that WeChat vouches for. Raises errors.PhoneTaken, Unauthorized."""
        identity = await self.channel_identity(session.resident_id, "wechat")
        if identity is None:
            raise errors.LoginRefused("请先用微信登录。", en="Sign in with WeChat first.")
        return await self._prove(session.resident_id, phone=await self._wechat.phone_number(code, identity["openid"]))

    async def verify_alipay_phone(self, session: ResidentSession, encrypted: Any) -> Resident:
        """Bind the phone number that Alipay vouches for (signed and encrypted answer of my.getPhoneNumber)."""
        if await self.channel_identity(session.resident_id, "alipay") is None:
            raise errors.LoginRefused("请先用支付宝登录。", en="Sign in with Alipay first.")
        return await self._prove(session.resident_id, phone=self._alipay.decrypt_phone(encrypted))

    async def verify_sms_phone(self, session: ResidentSession, phone: str, code: str) -> Resident:
        """Bind a phone number by a code sent to it."""
        number = _mobile(phone)
        await self._sms_codes.use(number, code, purpose="login", now=utc_now())
        return await self._prove(session.resident_id, phone=number)

    async def verify_real_name(self, session: ResidentSession, name: str, id_number: str) -> Resident:
        """Raise a resident to L3. Raises errors.IdentityMismatch, errors.AlreadyVerified, ProviderUnavailable."""
        name = " ".join(name.split())
        rows = [] if 1 <= len(name) <= 50 else [error_row("/name", "invalid", "请填写身份证上的姓名")]
        try:
            number = check_id_number(id_number)
        except ValueError as error:
            rows.append(error_row("/id_number", "invalid", str(error)))
        if rows:
            raise ValidationFailed(rows)
        known = await self.resident(session.resident_id)
        if known.id_number and known.id_number != number:
            raise errors.AlreadyVerified("这个账号已用另一个身份证实名，不能更换；如有疑问请拨打12345。")
        if not await self._realname.matches(name, number):
            raise errors.IdentityMismatch()
        return await self._prove(session.resident_id, name=name, id_number=number)

    async def start_face_check(self, session: ResidentSession) -> dict[str, Any]:
        """Start a face check at the service; return what the channel's SDK takes. Needs L3."""
        resident = await self.resident(session.resident_id)
        require_level(resident.level, LEVEL_REAL_NAME)
        check_id = new_id("fce")
        provider_id, client_params = await self._realname.start_face_check(
            resident.name, resident.id_number, check_id.replace("_", "")
        )
        now = utc_now()
        await self._database["face_checks"].insert_one(
            {
                "_id": check_id,
                "resident_id": resident.id,
                "provider_id": provider_id,
                "created_at": now,
                "expires_at": now + FACE_CHECK_FOR,
            }
        )
        return {"id": check_id, "client_params": client_params}

    async def confirm_face_check(self, session: ResidentSession, check_id: str) -> Resident:
        """Ask the service for the verdict; L4 when it passed. Raises errors.FacePending, errors.FaceFailed."""
        check = await self._database["face_checks"].find_one(
            {"_id": check_id, "resident_id": session.resident_id, "expires_at": {"$gt": utc_now()}}
        )
        if check is None:
            raise errors.FaceCheckNotFound("没有找到这次人脸核验，或已超时，请重新开始。", en="No such face check.")
        state = await self._realname.face_check_state(check["provider_id"])
        if state == "pending":
            raise errors.FacePending("人脸核验还没有完成，请先按提示刷脸。", en="The face check is not finished.")
        if state == "failed":
            raise errors.FaceFailed()
        return await self._prove(session.resident_id, level=LEVEL_FACE)

    async def _prove(self, resident_id: str, *, level: int = 0, **proven: str) -> Resident:
        into, joined = await self._proving.prove(resident_id, level=level, **proven)
        self.sessions.distrust()
        if joined is not None:
            for move in self.after_join:
                await move(joined, into)
        return await self.resident(into)

    # --- for push and payments ---

    async def stretch(self, after: str, before: str, limit: int, only: str = "") -> tuple[list[str], str | None]:
        """Return the ids of residents between `after` and `before` in order, and where to go on (None: the end); joined ones are left out."""
        ids: Any = only or {"$gt": after, "$lt": before}
        query = {"_id": ids, "merged_into": {"$exists": False}}
        found = [row["_id"] async for row in self._database["residents"].find(query, {"_id": 1}).sort("_id", 1).limit(limit)]
        return found, found[-1] if len(found) == limit else None

    async def resident_of_phone(self, phone: str) -> str:
        """Return the id of who signs in with this number, or empty text. Raises ValidationFailed."""
        document = await self._proving.holder_of_phone(_mobile(phone))
        return str(document["_id"]) if document else ""

    async def channel_identity(self, resident_id: str, provider: str) -> dict[str, Any] | None:
        """Return a resident's identity at a platform (the last one used), or None."""
        return await self._database.together(_channel_identities, (resident_id, provider))

    async def phone_of(self, resident_id: str) -> str:
        """Return the verified phone number, or empty text."""
        return (await self.resident(resident_id)).phone


async def _channel_identities(database: Database, wanted: list[tuple[str, str]]) -> list[dict[str, Any] | None]:
    """Return the identities of many residents in one read."""
    query = {"resident_id": {"$in": list({each for each, _ in wanted})}, "provider": {"$in": list({each for _, each in wanted})}}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    async for row in database["channel_identities"].find(query).sort("last_login_at", 1):
        found[row["resident_id"], row["provider"]] = row  # the last one stays
    return [found.get(each) for each in wanted]


def require_level(level: int, required: int) -> None:
    """Raise LevelRequired when a level is too low."""
    if level >= required:
        return
    step = {2: "请先验证手机号", 3: "请先完成实名认证", 4: "请先完成人脸核验，不方便刷脸的可到窗口办理"}[required]
    raise errors.LevelRequired(
        f"{step}。", en=f"Identity level L{required} is required.", required_level=required, level=level
    )


def view_resident(resident: Resident) -> dict[str, Any]:
    """Return the resident as the API shows it: masked."""
    return {
        "id": resident.id,
        "level": resident.level,
        "name_masked": mask_name(resident.name) if resident.name else None,
        "phone_masked": mask_phone(resident.phone) if resident.phone else None,
    }


def _mobile(text: str) -> str:
    try:
        return check_mobile(text)
    except ValueError as error:
        raise ValidationFailed([error_row("/phone", "invalid", str(error))]) from error
