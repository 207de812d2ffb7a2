"""/callbacks/wechat/messages: what WeChat tells the mini-program's server (subscription pop-ups, changes, fates of messages).

With HALL_WECHAT_MESSAGE_AES_KEY set, only encrypted bodies are taken (secure mode); without it, plain ones. Every push is applied once,
however often WeChat repeats it. Answered at once: WeChat waits five seconds.
"""

from collections.abc import Callable
from typing import TypeVar

import structlog
from prometheus_client import Counter
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.clock import utc_now
from app.kernel.errors import Forbidden
from handlers.base import HallHandler, operation
from push import wechat_callback
from push.wechat_callback import CallbackRejected, MessageCipher, Push

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_AGE_S = 300
MAX_BODY_BYTES = 256 * 1024

pushes = Counter("hall_wechat_pushes", "Messages pushed by WeChat", ["event"])


class PushRefused(Forbidden):
    code = "callback.refused"
    title = "拒绝"


class WechatMessages(HallHandler):
    @operation("WeChat checks that this server is ours", answers={200: None})
    async def get(self) -> None:
        self._guarded(self._check_query)
        self._say(self.get_query_argument("echostr", ""))

    @operation("WeChat tells of an event (plain or AES, JSON or XML)", answers={200: None})
    async def post(self) -> None:
        push = self._guarded(self._read)
        pushes.labels(push.event if push.event.startswith("subscribe_msg_") else "other").inc()
        await self._apply(push)
        self._say("success")

    def _guarded(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except (CallbackRejected, UnicodeDecodeError) as error:
            # The sender learns only that it was refused; the reason is in the log.
            log.warning("wechat.push_refused", reason=str(error) if isinstance(error, CallbackRejected) else "encoding")
            raise PushRefused("拒绝。", en="Refused.") from error

    def _check_query(self) -> None:
        token = self.hall.settings.wechat_message_token
        if not token:
            raise CallbackRejected("no message token is set")
        timestamp, nonce = self._argument("timestamp"), self._argument("nonce")
        wechat_callback.check_signature(self._argument("signature"), token, timestamp, nonce)
        if not timestamp.isdigit() or abs(utc_now().timestamp() - int(timestamp)) > MAX_AGE_S:
            raise CallbackRejected("timestamp")

    def _argument(self, name: str) -> str:
        return str(self.get_query_argument(name, "", strip=False))

    def _read(self) -> Push:
        """Check, decrypt and read the body. Raises CallbackRejected."""
        settings = self.hall.settings
        if len(self.request.body) > MAX_BODY_BYTES:
            raise CallbackRejected("size")
        if not settings.wechat_message_aes_key:
            self._check_query()
            return wechat_callback.read(wechat_callback.parse(self.request.body))
        # Secure mode: `signature` does not cover the body, so only msg_signature over the ciphertext counts.
        encrypted = wechat_callback.parse(self.request.body).get("Encrypt")
        timestamp, nonce = self._argument("timestamp"), self._argument("nonce")
        if not isinstance(encrypted, str) or not settings.wechat_message_token:
            raise CallbackRejected("plain body in secure mode")
        wechat_callback.check_signature(
            self._argument("msg_signature"), settings.wechat_message_token, timestamp, nonce, encrypted
        )
        if not timestamp.isdigit() or abs(utc_now().timestamp() - int(timestamp)) > MAX_AGE_S:
            raise CallbackRejected("timestamp")
        cipher = MessageCipher(settings.wechat_message_aes_key, settings.wechat_app_id)
        return wechat_callback.read(wechat_callback.parse(cipher.open(encrypted)))

    async def _apply(self, push: Push) -> None:
        """Apply a push once: the note that it was seen and its effect are one transaction."""
        now = utc_now()
        ledger = self.hall.push.grants

        async def apply(session: AsyncClientSession) -> None:
            seen = self.hall.database["wechat_pushes"]
            await seen.insert_one({"_id": push.key, "at": now}, session=session)
            for choice in push.choices:
                if choice.template_id not in ledger.templates:
                    continue
                if push.event == "subscribe_msg_change_event" and choice.status == "reject":
                    await ledger.take_back(push.openid, choice.template_id, now=now, session=session)
                elif push.event == "subscribe_msg_popup_event":
                    await ledger.choose(
                        push.openid, choice.template_id, choice.status, source="event", now=now, session=session
                    )

        if push.choices:
            try:
                await self.hall.database.transaction(apply)
            except DuplicateKeyError:
                log.info("wechat.push_repeated")
        for sent in push.sent:
            if sent.message_id:
                await self.hall.push.reports.take("wechat", sent.message_id, sent.status)

    def _say(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)


routes = [(r"/callbacks/wechat/messages", WechatMessages)]
