"""The WeChat platform of one app (mini-program or official account): sign-in codes, the access token, the phone button, subscribe messages.

Every answer is HTTP 200 with `errcode` (0 or missing: fine). The codes are branched on here and nowhere else:

    code2session, phone   bad or used code -> LoginRefused 401, blocked user -> LoginBlocked 403, too often -> RateLimited 429
    subscribe message     WeChatRefused with `kind`: what the sender may do about it
    everything            busy or unreachable -> VendorUnreachable / VendorUnknown 503; our configuration wrong -> WeChatMisconfigured 503

Sources: mini-program documents of code2Session, getStableAccessToken, getPhoneNumber, subscribeMessage.send.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.kernel.errors import Forbidden, HallError, ProviderUnavailable, RateLimited, Unauthorized
from app.platforms.http import HttpClient, VendorUnknown

log = structlog.get_logger(__name__)

TIMEOUT_S = 5
_BUSY = -1
_TOKEN_WRONG = frozenset({40001, 40014, 42001})
_OURS_WRONG = frozenset({40013, 40125, 41002, 41004, 40002, 48001, 40164})
_LOCK_MS = 8000
_STABLE_TOKEN = "/cgi-bin/stable_token"

# errcode of subscribe/send -> what the sender may do. An unknown code is `rejected`: final, and looked at by a person.
_SEND_KINDS = {
    40003: "recipient_unknown",  # openid dead or of another appid: the binding is of no more use
    40037: "template_invalid",
    41030: "page_invalid",  # may be sent once more without a page
    43101: "no_grant",  # refused, or no grant left: the next channel's turn
    43107: "capability_banned",
    43116: "capability_banned",
    45009: "quota",  # of the day: pause until midnight
    47003: "data_invalid",
    48001: "capability_banned",
}


class LoginRefused(Unauthorized):
    """The code is wrong, old, used, or of another app: the front end asks WeChat for a new one."""

    code = "auth.login_refused"


class LoginBlocked(Forbidden):
    """WeChat bars this user (40226): no account is made, another way of signing in is offered."""

    code = "auth.login_blocked"


class WeChatMisconfigured(ProviderUnavailable):
    """App id or secret wrong, address not on the white list: an operator must act."""


class WeChatRefused(HallError):
    """WeChat will not send this message; `kind` says what that means, `errcode` is for the log."""

    code = "wechat.refused"
    status = 502

    def __init__(self, errcode: int, kind: str, field: str = "") -> None:
        super().__init__("微信没有接受这条消息。", en="WeChat refused the message.", errcode=errcode, kind=kind)
        self.errcode = errcode
        self.kind = kind
        self.field = field  # of data_invalid: the template key, never its value


@dataclass(frozen=True)
class WeChatSession:
    """What a login code stands for. `session_key` never leaves the server; `unionid` may be empty."""

    openid: str
    session_key: str
    unionid: str


class WeChat:
    """Client of one app id: the mini-program, or the official account (app/platforms/wechat_account.py)."""

    def __init__(self, http: HttpClient, redis: Redis | None, *, base_url: str, app_id: str, app_secret: str) -> None:
        self.app_id = app_id
        self._http = http
        self._redis = redis
        self._base_url = base_url.rstrip("/")
        self._secret = app_secret
        # Platform and app in the key: a test system must never meet the token of production.
        place = hashlib.sha256(f"{self._base_url}|{app_id}".encode()).hexdigest()[:16]
        self._token_key = f"hall:{{wechat:{place}}}:token"
        self._token: tuple[str, float] = ("", 0.0)  # this process's copy, so that Redis may be away
        self._token_lock = asyncio.Lock()

    # --- signing in ---

    async def code2session(self, code: str) -> WeChatSession:
        """Exchange a wx.login code.

        A code works once, so after an ambiguous failure it is not tried again: the front end gets a new one.

        Raises:
            LoginRefused, LoginBlocked, RateLimited, WeChatMisconfigured, VendorUnreachable, VendorUnknown.
        """
        query = urlencode(
            {"appid": self.app_id, "secret": self._secret, "js_code": code, "grant_type": "authorization_code"}
        )
        answer: dict[str, Any] = {}
        for pause_s in (0.2, 0.6, None):
            answer = await self._send("GET", f"/sns/jscode2session?{query}", None)
            if errcode_of(answer) != _BUSY or pause_s is None:
                break
            await asyncio.sleep(pause_s)  # "system busy" means the code was not used: the one failure that may be repeated
        self._raise_login_error(answer)
        openid, session_key = answer.get("openid"), answer.get("session_key")
        if not isinstance(openid, str) or not openid or not isinstance(session_key, str):
            raise VendorUnknown("微信暂时没有给出登录结果，请重新点一次登录。", vendor="wechat", cause="no openid")
        return WeChatSession(openid, session_key, str(answer.get("unionid") or ""))

    async def phone_number(self, code: str, openid: str) -> str:
        """Exchange the code of the phone button for the number, bound to the openid that asks.

        Returns the 11 digits of a mainland number; another country's with `+` and its code.

        Raises: like code2session.
        """
        answer = await self.call("/wxa/business/getuserphonenumber", {"code": code, "openid": openid})
        self._raise_login_error(answer)
        info = answer.get("phone_info")
        watermark = info.get("watermark") if isinstance(info, dict) else None
        if not isinstance(info, dict) or not isinstance(watermark, dict) or watermark.get("appid") != self.app_id:
            log.error("wechat.phone_of_another_app")
            raise LoginRefused("没能取得手机号，请重新点一次按钮。", en="The phone number could not be read.")
        country, number = str(info.get("countryCode") or "86"), str(info.get("purePhoneNumber") or "")
        return number if country == "86" else f"+{country}{number}"

    # --- messages ---

    async def send_subscribe_message(
        self,
        openid: str,
        template_id: str,
        data: Mapping[str, str],
        *,
        page: str = "",
        state: str = "formal",
        lang: str = "zh_CN",
    ) -> str:
        """Send one subscribe message and return WeChat's msgid (empty when none came).

        Args:
            data: template key -> value; the values must already fit the template's field kinds.

        Raises:
            WeChatRefused: final, see its kind. VendorUnreachable, VendorUnknown: may be tried again.
        """
        body: dict[str, Any] = {
            "touser": openid,
            "template_id": template_id,
            "data": {key: {"value": value} for key, value in data.items()},
            "miniprogram_state": state,
            "lang": lang,
        }
        if page:
            body["page"] = page
        answer = await self.call("/cgi-bin/message/subscribe/send", body)
        errcode = errcode_of(answer)
        if errcode == 0:
            return str(answer.get("msgid", ""))
        if is_for_later(errcode):
            raise not_sent(errcode)
        kind = _SEND_KINDS.get(errcode, "rejected")
        field = named_key(str(answer.get("errmsg", "")), data) if kind == "data_invalid" else ""
        log.warning("wechat.message_refused", errcode=errcode, kind=kind, field=field, template_id=template_id)
        raise WeChatRefused(errcode, kind, field)

    # --- the access token ---

    async def access_token(self, *, not_this: str = "") -> str:
        """Return a valid access token, from Redis, from this process, or freshly asked for.

        `stable_token` gives every caller the same token until its last five minutes, so even without Redis two processes
        never put each other out; the cache only saves calls.

        Args:
            not_this: a token that WeChat has just refused; a different cached one is used, an equal one is asked for anew.
        """
        cached = await self._cached_token()
        if cached and cached != not_this:
            return cached
        async with self._token_lock:
            cached = await self._cached_token()  # another task may have fetched it while this one waited
            if cached and cached != not_this:
                return cached
            return await self._fetch_token_once(not_this)

    async def _cached_token(self) -> str:
        if self._redis is not None:
            try:
                found = await self._redis.get(self._token_key)
                if found:
                    return str(found)
            except (RedisError, OSError):
                pass
        token, until = self._token
        return token if time.monotonic() < until else ""

    async def _fetch_token_once(self, not_this: str) -> str:
        """Let one process fetch; the others wait a moment and read what it stored."""
        lock_key, lock_value = f"{self._token_key}:lock", secrets.token_hex(8)
        mine = True
        if self._redis is not None:
            try:
                mine = bool(await self._redis.set(lock_key, lock_value, nx=True, px=_LOCK_MS))
                for _ in range(0 if mine else 20):
                    await asyncio.sleep(0.1)
                    found = await self._redis.get(self._token_key)
                    if found and found != not_this:
                        return str(found)
            except (RedisError, OSError):
                mine = False
        try:
            # Whoever had the lock before may have fetched one after this process last looked.
            cached = await self._cached_token() if mine else ""
            return cached if cached and cached != not_this else await self._fetch_token()
        finally:
            if mine and self._redis is not None:
                try:
                    # Compare-and-delete: when this took longer than the lock lives, it is somebody else's by now.
                    await self._redis.eval(
                        "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) end return 0",
                        1,
                        lock_key,
                        lock_value,
                    )
                except (RedisError, OSError):
                    pass

    async def _fetch_token(self) -> str:
        # Never force_refresh: 20 a day, and it kills the token every other process is using.
        answer = await self._send(
            "POST",
            _STABLE_TOKEN,
            {
                "grant_type": "client_credential",
                "appid": self.app_id,
                "secret": self._secret,
                "force_refresh": False,
            },
        )
        token, expires_in = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token or not isinstance(expires_in, int):
            errcode = errcode_of(answer)
            if errcode in _OURS_WRONG:
                raise self._misconfigured(errcode)
            raise VendorUnknown("微信暂时没有回应，请稍后再试。", vendor="wechat", cause=f"token errcode {errcode}")
        keep_s = max(30, expires_in - 300)
        self._token = (token, time.monotonic() + keep_s)
        if self._redis is not None:
            try:
                await self._redis.set(self._token_key, token, ex=keep_s)
            except (RedisError, OSError):
                pass
        return token

    # --- calling ---

    async def call(self, path: str, body: Mapping[str, Any] | None, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Call an API that takes the access token; one that is refused is replaced once, never in a loop. Without a body: GET."""
        method, more = "GET" if body is None else "POST", f"&{urlencode(query)}" if query else ""
        token = await self.access_token()
        answer = await self._send(method, f"{path}?access_token={token}{more}", body)
        if errcode_of(answer) in _TOKEN_WRONG:
            token = await self.access_token(not_this=token)
            answer = await self._send(method, f"{path}?access_token={token}{more}", body)
        return answer

    async def _send(self, method: str, target: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        response = await self._http.request(
            "wechat",
            method,
            self._base_url + target,
            # orjson writes UTF-8 without \u escapes, as WeChat's content check needs.
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            body=None if body is None else orjson.dumps(body),
            timeout_s=TIMEOUT_S,
            repeatable=target == _STABLE_TOKEN,
        )
        if response.status != 200:  # WeChat says everything by errcode: this is somebody before it, who turned the call away
            raise VendorUnknown("微信暂时没有回应，请稍后再试。", vendor="wechat", cause="status", status=response.status)
        try:
            answer = orjson.loads(response.body)  # the content type says text/plain, whatever is inside
        except orjson.JSONDecodeError as error:
            raise VendorUnknown("微信暂时没有回应，请稍后再试。", vendor="wechat", cause="not JSON") from error
        if not isinstance(answer, dict):
            raise VendorUnknown("微信暂时没有回应，请稍后再试。", vendor="wechat", cause="not an object")
        return answer

    def _raise_login_error(self, answer: Mapping[str, Any]) -> None:
        errcode = errcode_of(answer)
        if errcode == 0:
            return
        if errcode in (40029, 40163, 41008):
            raise LoginRefused("微信登录没有成功，请重新点一次登录。", en="Sign in with WeChat again.", errcode=errcode)
        if errcode == 45011:
            raise RateLimited("操作太频繁，请一分钟后再试。", retry_after_s=60, errcode=errcode)
        if errcode == 40226:
            raise LoginBlocked("微信提示这个账号存在风险，暂时不能用微信登录。您可以改用短信验证码登录。", errcode=errcode)
        if errcode in _OURS_WRONG:
            raise self._misconfigured(errcode)
        raise VendorUnknown("微信暂时没有回应，请稍后再试，或改用短信验证码登录。", vendor="wechat", cause=f"errcode {errcode}")

    def _misconfigured(self, errcode: int) -> WeChatMisconfigured:
        log.error("wechat.misconfigured", errcode=errcode)
        return WeChatMisconfigured(
            "微信登录暂时用不了，我们已收到提醒。请先用短信验证码登录。", retry_after_s=300, errcode=errcode
        )


def answered_code(error: VendorUnknown) -> str | None:
    """Return the code of an answer that says it was not sent (WeChat's list of codes: -1 and 5xx may be retried); None: there was no answer."""
    cause = str(error.context.get("cause", ""))
    return cause.removeprefix("errcode ") if cause.startswith("errcode") or cause == "status" else None


def errcode_of(answer: Mapping[str, Any]) -> int:
    """Return the errcode of an answer, 0 when all is well."""
    code = answer.get("errcode", 0)
    return code if isinstance(code, int) else _BUSY


def is_for_later(errcode: int) -> bool:
    """Say whether the same call may do better in a moment: WeChat is busy, or the access token had just died."""
    return errcode == _BUSY or errcode in _TOKEN_WRONG


def not_sent(errcode: int) -> VendorUnknown:
    """Return what says that WeChat answered, and did not do it, for now."""
    return VendorUnknown("微信暂时没有回应，稍后再发。", vendor="wechat", cause=f"errcode {errcode}")


def named_key(errmsg: str, data: Mapping[str, str]) -> str:
    """Return which template key the message of 47003 names: `argument invalid! data.thing1.value ...`."""
    return next((key for key in data if f"data.{key}." in errmsg or f"{key}." in errmsg), "")
