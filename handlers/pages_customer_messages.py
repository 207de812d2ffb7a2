"""用户消息: what people wrote to the mini-program and a human has to answer; for the agency that runs the hall."""

import re

from app.kernel.errors import HallError
from handlers.customer_messages import CustomerNote, CustomerReply, reply_to
from handlers.pages_base import errors_by_field
from handlers.pages_staff import StaffPage
from handlers.problems import judged

PAGE = 30
KINDS = {"text": "文字", "image": "图片", "voice": "语音", "video": "视频", "location": "位置", "miniprogrampage": "小程序卡片"}
# Why the machine's answer did not go out, for whoever reads it.
REASONS = {
    "45015": "对方超过48小时没有再说话，微信不让再回复",
    "45047": "已经回复了五条，对方再说话后才能继续",
    "40003": "微信找不到这位用户了",
    "unclear": "智能回复发出后没有回音，不知道对方是否收到",
}


class CustomerMessages(StaffPage):
    async def get(self) -> None:
        await self.show_queue()

    async def show_queue(self, key: str = "", error: HallError | None = None) -> None:
        cursor = self.get_query_argument("cursor", "")[:64]
        rows, following = await self.hall.customer_messages.queue(
            self.staff,
            is_superior=self.hall.supervision.is_superior(self.staff),
            limit=PAGE,
            after=cursor if re.fullmatch(r"[0-9a-f]{64}", cursor) else None,
        )
        await self.show(
            "staff_customer_messages.html",
            error.status if error else 200,
            rows=rows,
            next_cursor=following,
            kinds=KINDS,
            reasons=REASONS,
            # What was typed is kept after a refusal, at the message that it is about.
            wrong=key,
            typed={name: self.text(name, limit=700) for name in ("text", "note")},
            error=error,
            errors=errors_by_field(error) if error else {},
        )


class ReplyToCustomer(CustomerMessages):
    """POST /staff/customer-messages/<id>/reply: through WeChat; `note` instead: it was taken care of otherwise."""

    async def get(self, _key: str) -> None:
        self.redirect("/staff/customer-messages", status=303)

    async def post(self, key: str) -> None:
        messages, is_superior = self.hall.customer_messages, self.hall.supervision.is_superior(self.staff)
        try:
            if "note" in self.request.body_arguments:
                note = judged(CustomerNote, {"note": self.text("note", limit=501).strip()}, "")["note"]
                await messages.close(self.staff, key, note, is_superior=is_superior)
            else:
                text = judged(CustomerReply, {"text": self.text("text", limit=601).strip()}, "")["text"]
                await reply_to(self.hall, self.staff, key, text)
        except HallError as error:
            if error.status not in (404, 409, 422, 503):
                raise
            return await self.show_queue(key, error)
        self.redirect("/staff/customer-messages", status=303)


routes = [
    (r"/staff/customer-messages", CustomerMessages),
    (r"/staff/customer-messages/([\w-]{1,64})/reply", ReplyToCustomer),
]
