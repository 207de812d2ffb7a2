"""What the callbacks of WeChat share, the mini-program's and the official account's: the server check, signatures, plain and secure mode.

With an AES key set, only encrypted bodies are taken (secure mode); without it, plain ones. WeChat waits five seconds for an answer and
repeats what it got none for, so whatever takes longer is done afterwards.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import structlog

from app.kernel.clock import utc_now
from app.kernel.errors import Forbidden
from handlers.base import HallHandler, operation
from push import wechat_callback
from push.wechat_callback import CallbackRejected, MessageCipher

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_AGE_S = 300
MAX_BODY_BYTES = 256 * 1024


class PushRefused(Forbidden):
    code = "callback.refused"
    title = "拒绝"


@dataclass(frozen=True, repr=False)
class Account:
    """Whose callback it is: app id, the token of the signatures, the AES key (empty: plain mode)."""

    app_id: str
    token: str
    aes_key: str


class WechatCallback(HallHandler):
    """Base of a callback; `account` says whose."""

    @property
    def account(self) -> Account:
        raise NotImplementedError

    @operation("WeChat checks that this server is ours", answers={200: None})
    async def get(self) -> None:
        self.guarded(self._check_query)
        self.say(self.get_query_argument("echostr", ""))

    def guarded(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except (CallbackRejected, UnicodeDecodeError) as error:
            # The sender learns only that it was refused; the reason is in the log.
            log.warning("wechat.push_refused", reason=str(error) if isinstance(error, CallbackRejected) else "encoding")
            raise PushRefused("拒绝。", en="Refused.") from error

    def read(self) -> dict[str, Any]:
        """Check, decrypt and parse the body. Raises CallbackRejected."""
        account = self.account
        if len(self.request.body) > MAX_BODY_BYTES:
            raise CallbackRejected("size")
        if not account.aes_key:
            self._check_query()
            return wechat_callback.parse(self.request.body)
        # Secure mode: `signature` does not cover the body, so only msg_signature over the ciphertext counts.
        encrypted = wechat_callback.parse(self.request.body).get("Encrypt")
        timestamp, nonce = self._argument("timestamp"), self._argument("nonce")
        if not isinstance(encrypted, str) or not account.token:
            raise CallbackRejected("plain body in secure mode")
        wechat_callback.check_signature(self._argument("msg_signature"), account.token, timestamp, nonce, encrypted)
        self._check_age(timestamp)
        return wechat_callback.parse(MessageCipher(account.aes_key, account.app_id).open(encrypted))

    def say(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)

    def reply(self, message: dict[str, str | int]) -> None:
        """Answer with a message in the form in which WeChat asked (XML or JSON), encrypted in secure mode."""
        account, is_xml = self.account, self.request.body.lstrip().startswith(b"<")
        body = wechat_callback.as_xml(message) if is_xml else orjson.dumps(message)
        if account.aes_key:
            sealed = MessageCipher(account.aes_key, account.app_id).seal(body)
            timestamp, nonce = str(int(utc_now().timestamp())), secrets.token_hex(8)
            signature = wechat_callback.signature(account.token, timestamp, nonce, sealed)
            wrapped: dict[str, str | int] = {
                "Encrypt": sealed, "MsgSignature": signature, "TimeStamp": int(timestamp), "Nonce": nonce,
            }  # fmt: skip
            body = wechat_callback.as_xml(wrapped) if is_xml else orjson.dumps(wrapped)
        self.set_header("Content-Type", "text/xml; charset=utf-8" if is_xml else "application/json; charset=utf-8")
        self.finish(body)

    def _check_query(self) -> None:
        token = self.account.token
        if not token:
            raise CallbackRejected("no message token is set")
        timestamp, nonce = self._argument("timestamp"), self._argument("nonce")
        wechat_callback.check_signature(self._argument("signature"), token, timestamp, nonce)
        self._check_age(timestamp)

    def _check_age(self, timestamp: str) -> None:
        is_number = timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12
        if not is_number or abs(utc_now().timestamp() - int(timestamp)) > MAX_AGE_S:
            raise CallbackRejected("timestamp")

    def _argument(self, name: str) -> str:
        return str(self.get_query_argument(name, "", strip=False))
