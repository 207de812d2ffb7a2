"""/callbacks/wechat/messages: what WeChat tells the mini-program's server: subscription pop-ups, changes, fates of messages, what people write.

Every push is applied once, however often WeChat repeats it.
"""

import structlog
from prometheus_client import Counter
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.clock import utc_now
from handlers.base import operation
from miniprogram_api.wechat_callbacks import Account, WechatCallback
from push import wechat_callback
from push.customer_messages import Written
from push.wechat_callback import Message, Push

log = structlog.get_logger(__name__)

pushes = Counter("hall_wechat_pushes", "Messages pushed by WeChat", ["event"])


class WechatMessages(WechatCallback):
    @property
    def account(self) -> Account:
        settings = self.hall.settings
        return Account(settings.wechat_app_id, settings.wechat_message_token, settings.wechat_message_aes_key)

    @operation("WeChat tells of an event (plain or AES, JSON or XML)", answers={200: None})
    async def post(self) -> None:
        push = self.guarded(lambda: wechat_callback.read(self.read()))
        name = push.event if push.event.startswith("subscribe_msg_") else "message" if push.message else "other"
        pushes.labels(name).inc()
        await self._apply(push)
        if push.message is None:
            self.say("success")
        else:
            await self._take(push, push.message)

    async def _take(self, push: Push, message: Message) -> None:
        """Store what a person wrote and answer WeChat at once; the person is answered beside this request."""
        messages = self.hall.customer_messages
        state = await messages.take(Written(push.key, push.openid, message.kind, message.text, message.at))
        if state == "transferred":
            return self.reply(
                {
                    "ToUserName": push.openid,
                    "FromUserName": message.to,
                    "CreateTime": int(utc_now().timestamp()),
                    "MsgType": "transfer_customer_service",
                }
            )
        self.say("success")
        self.hall.run_beside(messages.answer_now(push.key))

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


routes = [(r"/callbacks/wechat/messages", WechatMessages)]
