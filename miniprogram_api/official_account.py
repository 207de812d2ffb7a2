"""/callbacks/wechat/official: what WeChat tells the city's official account: who follows it, what became of template messages."""

import structlog
from prometheus_client import Counter

from handlers.base import operation
from miniprogram_api.wechat_callbacks import Account, WechatCallback
from push.wechat_callback import read_account_event

log = structlog.get_logger(__name__)

EVENTS = frozenset({"subscribe", "unsubscribe", "TEMPLATESENDJOBFINISH"})

events = Counter("hall_wechat_account_events", "Events of the official account", ["event"])


class OfficialEvents(WechatCallback):
    @property
    def account(self) -> Account:
        settings = self.hall.settings
        return Account(
            settings.wechat_official_app_id, settings.wechat_official_message_token, settings.wechat_official_message_aes_key
        )

    @operation("WeChat tells of an event of the official account (plain or AES, XML or JSON)", answers={200: None})
    async def post(self) -> None:
        event = self.guarded(lambda: read_account_event(self.read()))
        events.labels(event.name if event.name in EVENTS else "other").inc()
        # Both are noted before the answer, and noting them again changes nothing: what WeChat repeats counts once.
        if event.name in ("subscribe", "unsubscribe") and event.openid:
            await self.hall.push.followers.note(event.openid, follows=event.name == "subscribe", event_at=event.at)
        elif event.name == "TEMPLATESENDJOBFINISH" and event.message_id:
            await self.hall.push.reports.take("official", event.message_id, event.status)
        self.say("success")


routes = [(r"/callbacks/wechat/official", OfficialEvents)]
