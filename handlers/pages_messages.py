"""消息模板: every message on every channel with sample data, for the agency that runs the hall. Nothing is changed here: the texts are files."""

from app.kernel.errors import NotFound
from handlers.message_templates import require_superior
from handlers.pages_staff import StaffPage
from push.preview import FULL, LEAST, LONG, SAMPLES

KINDS = {
    "case": "办件",
    "order": "缴费",
    "identity": "账号",
    "feedback": "评价投诉",
    "notice": "单位通知",
    "reminder": "到期提醒",
    "news": "订阅",
}
CHANNELS = {
    "inbox": "站内消息",
    "wechat": "微信订阅消息",
    "official": "公众号",
    "alipay": "支付宝",
    "apns": "苹果推送",
    "app": "应用推送",
    "email": "邮件",
    "sms": "短信",
    "voice": "电话",
}
LANGUAGES = {"zh": "中文", "en": "英文"}
SAMPLE_NAMES = {FULL: "完整示例", LEAST: "什么都没有", LONG: "超长名称"}


class Messages(StaffPage):
    async def get(self) -> None:
        require_superior(self)
        rows = self.hall.preview.overview
        await self.show(
            "staff_messages.html",
            groups=[(name, [row for row in rows if row["kind"] == kind]) for kind, name in KINDS.items()],
            remarked=sum(bool(row["remarks"]) for row in rows),
            count=len(rows),
            channel_names=CHANNELS,
        )


class OneMessage(StaffPage):
    async def get(self, event: str) -> None:
        require_superior(self)
        asked = self.text("sample", limit=10)
        await self.show(
            "staff_message.html",
            found=self.hall.preview.of(event, asked if asked in SAMPLES else FULL),
            samples=SAMPLE_NAMES,
            channel_names=CHANNELS,
            languages=LANGUAGES,
            kind_names=KINDS,
            back="/staff/messages",
        )


class Mail(StaffPage):
    """GET /staff/messages/<event>/mail: the mail of one language as a mail program draws it, with the styles that only mails have."""

    async def get(self, event: str) -> None:
        require_superior(self)
        asked, language = self.text("sample", limit=10), self.text("language", limit=5)
        found = self.hall.preview.of(event, asked if asked in SAMPLES else FULL)
        shown = found["languages"][language if language in LANGUAGES else "zh"]["shown"].get("email")
        if shown is None:
            raise NotFound("这种消息不发邮件。", en="This message goes by no e-mail.")
        self.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(shown["html"])


routes = [
    (r"/staff/messages", Messages),
    (r"/staff/messages/([\w.]{1,60})", OneMessage),
    (r"/staff/messages/([\w.]{1,60})/mail", Mail),
]
