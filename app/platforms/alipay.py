"""The Alipay open platform: one gateway for sign-in, phone number, messages and (through payments/providers) payments.

AlipayGateway.call
├── returns an Answer       handled, signed by Alipay
├── AlipayRefused           a definite refusal, with its code and sub_code
├── VendorUnreachable       nothing was done (not sent, or refused as too often): the same call again later
└── VendorUnknown           it may have been done: 20000, system error, bad or missing signature, no readable answer
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.kernel.clock import utc_now
from app.kernel.errors import HallError, ProviderUnavailable, Unauthorized
from app.platforms import alipay_protocol as protocol
from app.platforms import rsa
from app.platforms.alipay_certificates import DOWNLOAD, AlipayCertificates, OneKey
from app.platforms.http import HttpClient, VendorUnknown, VendorUnreachable, date_offset_s

log = structlog.get_logger(__name__)

TIMEOUT_S = 8
_AWAY = "支付宝暂时没有回应，请稍后再试。"
_TOO_OFTEN = "40005"
_UNKNOWN = "20000"

# sub_codes that say our own application is set up wrongly.
_OURS_WRONG = ("isv.invalid-sign", "isv.invalid-app", "isv.invalid-timestamp", "isv.missing-", "isv.insufficient-")

# sub_code of a template message -> what the sender may do; an unknown one is `rejected`, final.
_SEND_KINDS = {
    "USER_NOT_SUBSCRIBE": "no_grant",
    "USER_NOT_EXIST": "recipient_unknown",
    "TEMPLATE_ID_INVALID": "template_invalid",
    "PAGE_INVALID": "page_invalid",
    "DATA_INVALID": "data_invalid",
}


class LoginRefused(Unauthorized):
    """The auth_code or the phone payload is wrong, old or used: the front end asks Alipay again."""

    code = "auth.login_refused"


class AlipayMisconfigured(ProviderUnavailable):
    """A key or permission of ours is missing or wrong: an operator must act."""


class AlipayRefused(HallError):
    """Alipay refused, and nothing was done. `sub_code` is what to branch on; a refusal that is not `is_signed` proves nothing."""

    code = "alipay.refused"
    status = 502

    def __init__(self, answer: protocol.Answer) -> None:
        self.result_code = answer.text("code")
        self.sub_code = answer.text("sub_code")
        self.is_signed = answer.is_signed
        super().__init__("支付宝没有接受这次请求。", result_code=self.result_code, sub_code=self.sub_code)

    @property
    def kind(self) -> str:
        """What the sender of a message may do about it."""
        return _SEND_KINDS.get(self.sub_code, "rejected")


@dataclass(frozen=True)
class AlipayUser:
    """Who an auth_code stands for; during Alipay's open_id migration either id may be empty."""

    open_id: str
    user_id: str
    union_id: str


class AlipayGateway:
    """Client of one Alipay application, in key mode or, when all three certificates are given, certificate mode.

    Raises (on construction):
        rsa.KeyUnreadable, protocol.Unreadable: a key or certificate of the settings cannot be read.
    """

    def __init__(
        self,
        http: HttpClient,
        *,
        gateway_url: str,
        app_id: str,
        app_private_key: str,
        public_key: str = "",
        aes_key: str = "",
        app_cert: str = "",
        root_cert: str = "",
        public_cert: str = "",
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.app_id = app_id
        self._http = http
        self._url = gateway_url
        self._key = rsa.load_private_key(app_private_key)
        self._aes_key = aes_key
        self._timeout_s = timeout_s
        self._clock = clock
        self.clock_offset_s: float | None = None
        self._certificates: AlipayCertificates | OneKey
        if app_cert and root_cert and public_cert:
            self._certificates = AlipayCertificates(
                app_cert=app_cert, root_cert=root_cert, public_cert=public_cert, clock=clock
            )
        else:
            self._certificates = OneKey(public_key)

    @property
    def keys(self) -> Mapping[str, RSAPublicKey]:
        """Alipay's keys: by certificate serial, or in key mode the one key under the empty text."""
        return self._certificates.keys

    def request(self, method: str, biz_content: Mapping[str, Any] | None, **top_level: str) -> dict[str, str]:
        """Return the signed parameters of a call without making it."""
        return protocol.build_request(
            method,
            app_id=self.app_id,
            key=self._key,
            now=self._clock(),
            biz_content=biz_content,
            **self._certificates.parameters,
            **top_level,
        )

    async def call(
        self, method: str, biz_content: Mapping[str, Any] | None = None, *, timeout_s: float = 0, **top_level: str
    ) -> protocol.Answer:
        """Call the gateway and return an answer that Alipay has signed.

        Raises:
            AlipayRefused, VendorUnreachable, VendorUnknown.
        """
        raw = await self._send(method, biz_content, timeout_s or self._timeout_s, top_level)
        answer = await self._trusted(raw, method)
        code, sub_code = answer.text("code"), answer.text("sub_code")
        if not answer.is_error and code in ("10000", "") and not sub_code:  # oauth.token succeeds without a code
            if not answer.is_signed:
                log.error("alipay.success_without_signature", method=method)
                raise VendorUnknown(_AWAY, vendor="alipay", cause="success without signature")
            return answer
        log.info("alipay.refused", method=method, code=code, sub_code=sub_code, signed=answer.is_signed)
        if code == _TOO_OFTEN:
            raise VendorUnreachable(_AWAY, vendor="alipay", cause="too often", retry_after_s=10)
        if code == _UNKNOWN or not code or sub_code.endswith("SYSTEM_ERROR") or sub_code.endswith("unknow-error"):
            raise VendorUnknown(_AWAY, vendor="alipay", cause=f"{code} {sub_code}")
        raise AlipayRefused(answer)

    def order_string(self, method: str, biz_content: Mapping[str, Any], **top_level: str) -> str:
        """Return the signed, URL-encoded parameters of a call that the client makes itself (app and H5 cashier)."""
        return urlencode(self.request(method, biz_content, **top_level))

    def address(self, method: str, biz_content: Mapping[str, Any], **top_level: str) -> str:
        """Return the gateway URL that a browser opens itself."""
        return f"{self._url}{'&' if '?' in self._url else '?'}{self.order_string(method, biz_content, **top_level)}"

    async def learn_keys(self, serial: str = "") -> bool:
        """Fetch the certificate an answer of ours names (else one that a notice named), or wait for the fetch under way.

        At most one a minute for answers and one for notices; says whether there was one.
        """
        return await self._certificates.learn(self._download, serial)

    def learn_keys_soon(self) -> None:
        """Begin to fetch the certificate that a notice named, in the background."""
        self._certificates.learn_soon(self._download)

    def is_unknown(self, serial: str) -> bool:
        """Say whether a notice names a certificate that is not held yet, and remember it for learn_keys."""
        return self._certificates.want(serial)

    async def _trusted(self, raw: bytes, method: str) -> protocol.Answer:
        """Return the answer of a call once its signature holds, fetching the certificate it names when that is new."""
        for last_try in (False, True):
            try:
                return protocol.verify_answer(raw, method, self.keys)
            except protocol.UnknownCertificate as error:
                if last_try or not await self.learn_keys(error.serial):
                    raise _not_trusted(method, error) from error
            except protocol.Unreadable as error:
                raise _not_trusted(method, error) from error
        raise AssertionError("unreachable")

    async def _download(self, serial: str) -> bytes:
        return await self._send(DOWNLOAD, {"alipay_cert_sn": serial}, self._timeout_s, {})

    async def _send(
        self, method: str, biz_content: Mapping[str, Any] | None, timeout_s: float, top_level: Mapping[str, str]
    ) -> bytes:
        response = await self._http.request(
            "alipay",
            "POST",
            f"{self._url}{'&' if '?' in self._url else '?'}charset=utf-8",
            headers={"Content-Type": "application/x-www-form-urlencoded;charset=utf-8", "Accept": "application/json"},
            body=protocol.encode_form(self.request(method, biz_content, **top_level)),
            timeout_s=timeout_s,
            # Trades are told apart by the number in them, not by how often it comes; a login code or a message is not.
            repeatable=method.startswith("alipay.trade.") or method == DOWNLOAD,
        )
        self.clock_offset_s = date_offset_s(response, self._clock())
        if response.status == 429:
            raise VendorUnreachable(_AWAY, vendor="alipay", cause="429", retry_after_s=10)
        if response.status != 200:
            raise VendorUnknown(_AWAY, vendor="alipay", cause="status", status=response.status)
        return response.body

    # --- signing in ---

    async def oauth_token(self, auth_code: str) -> AlipayUser:
        """Exchange a my.getAuthCode code. It works once, so an ambiguous failure is not tried again.

        Raises:
            LoginRefused, AlipayMisconfigured, VendorUnreachable, VendorUnknown.
        """
        try:
            # Both are top-level parameters of this method, not part of biz_content.
            answer = await self.call("alipay.system.oauth.token", grant_type="authorization_code", code=auth_code)
        except AlipayRefused as refused:
            if refused.result_code in ("40001", "40003", "40006") or refused.sub_code.startswith(_OURS_WRONG):
                raise _misconfigured(refused) from refused
            raise LoginRefused("支付宝登录没有成功，请重新点一次登录。", en="Sign in with Alipay again.") from refused
        user = AlipayUser(answer.text("open_id"), answer.text("user_id"), answer.text("union_id"))
        if not answer.text("access_token") or not (user.open_id or user.user_id):
            raise VendorUnknown(_AWAY, vendor="alipay", cause="no identity in the answer")
        return user

    def decrypt_phone(self, encrypted: Any) -> str:
        """Return the phone number inside what my.getPhoneNumber gave, after checking that Alipay sealed it.

        Args:
            encrypted: the object `{response, sign, sign_type, ...}` or its JSON text. It is not bound to a session: the caller
                must be signed in through Alipay.

        Raises:
            LoginRefused: not Alipay's, or the resident did not consent. AlipayMisconfigured: no content key set.
        """
        refused = LoginRefused("没能取得手机号，请重新点一次按钮。", en="The phone number could not be read.")
        payload = _phone_payload(encrypted)
        response, sign = payload.get("response"), payload.get("sign")
        if not isinstance(response, str) or not isinstance(sign, str) or payload.get("sign_type", "RSA2") != "RSA2":
            raise refused
        # A ciphertext is signed with the double quotes around it; a clear text (an error) as it is.
        is_clear = response.startswith("{")
        signed = response if is_clear else f'"{response}"'
        if not any(rsa.is_signed(key, signed.encode(), sign) for key in self.keys.values()):
            raise refused
        if not is_clear and not self._aes_key:
            log.error("alipay.aes_key_missing")
            raise AlipayMisconfigured("暂时不能用支付宝取得手机号，请改用短信验证码。", retry_after_s=300)
        try:
            content = orjson.loads(response if is_clear else protocol.open_content(response, self._aes_key))
        except ValueError as error:
            raise refused from error
        if not isinstance(content, dict) or content.get("code") != "10000" or not isinstance(content.get("mobile"), str):
            log.info("alipay.phone_refused", sub_code=content.get("subCode") if isinstance(content, dict) else None)
            raise refused
        return str(content["mobile"])

    # --- messages ---

    async def send_template_message(
        self,
        template_id: str,
        data: Mapping[str, str],
        *,
        open_id: str = "",
        user_id: str = "",
        page: str,
    ) -> None:
        """Send one mini-program template message, to open_id when there is one.

        Args:
            data: keyword -> value. page: 1 to 128 characters.

        Raises:
            AlipayRefused: final, see its `kind`. VendorUnreachable, VendorUnknown: may be tried again.
        """
        content = {
            **({"to_open_id": open_id} if open_id else {"to_user_id": user_id}),
            "user_template_id": template_id,
            "page": page,
            # A JSON text inside the JSON, as the method wants it.
            "data": orjson.dumps({key: {"value": value} for key, value in data.items()}).decode(),
        }
        await self.call("alipay.open.app.mini.templatemessage.send", content)


def _phone_payload(encrypted: Any) -> dict[str, Any]:
    """Unwrap the payload: clients send the object, its JSON text, or the whole answer of my.getPhoneNumber."""
    for _ in range(3):
        if isinstance(encrypted, str):
            try:
                encrypted = orjson.loads(encrypted)
            except orjson.JSONDecodeError:
                return {}
        if not isinstance(encrypted, dict):
            return {}
        if "sign" in encrypted:
            return encrypted
        encrypted = encrypted.get("response")
    return {}


def _not_trusted(method: str, error: protocol.Unreadable) -> VendorUnknown:
    log.error("alipay.answer_not_trusted", method=method, cause=str(error))
    return VendorUnknown(_AWAY, vendor="alipay", cause=str(error))


def _misconfigured(refused: AlipayRefused) -> AlipayMisconfigured:
    log.error("alipay.misconfigured", code=refused.result_code, sub_code=refused.sub_code)
    return AlipayMisconfigured("支付宝登录暂时用不了，我们已收到提醒。请先用短信验证码登录。", retry_after_s=300)
