"""Notifications of the payment providers. The answers are theirs, not ours: they decide whether a notice comes again."""

import orjson

from app.kernel.errors import HallError, TooLarge
from handlers.base import HallHandler, operation
from payments.notifications import MAX_BODY_BYTES


class _Callback(HallHandler):
    """What both providers share: the limit, and the raw bytes, which are what was signed."""

    provider = ""

    async def receive(self) -> str:
        """Take the notice; return an empty text, or why it was refused."""
        if len(self.request.body) > MAX_BODY_BYTES:
            raise TooLarge("notification too large")
        outcome = await self.hall.payments.receive(self.provider, dict(self.request.headers), self.request.body)
        return "" if outcome.taken else outcome.reason


class WeChatPayCallback(_Callback):
    """204 and nothing else says "taken"; any 4xx or 5xx with code FAIL makes it come again."""

    provider = "wechatpay"

    @operation("WeChat Pay tells of a payment or a refund", answers={204: None, 400: None})
    async def post(self) -> None:
        refused = await self.receive()
        if refused:
            self._fail(400, refused)
        else:
            self.set_status(204)
            self.finish()

    def answer_problem(self, error: HallError) -> None:
        if self.request.method == "POST":
            self._fail(error.status, error.code)
        else:
            super().answer_problem(error)

    def _fail(self, status: int, message: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(orjson.dumps({"code": "FAIL", "message": message}))


class AlipayCallback(_Callback):
    """Exactly the seven letters `success` say "taken"; anything else makes it come again."""

    provider = "alipay"

    @operation("Alipay tells of a payment", answers={200: None, 400: None})
    async def post(self) -> None:
        refused = await self.receive()
        self._say(400 if refused else 200, "failure" if refused else "success")

    def answer_problem(self, error: HallError) -> None:
        if self.request.method == "POST":
            self._say(error.status, "failure")
        else:
            super().answer_problem(error)

    def _say(self, status: int, word: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(word)


routes = [
    (r"/callbacks/wechatpay", WeChatPayCallback),
    (r"/callbacks/wechatpay/refunds", WeChatPayCallback),
    (r"/callbacks/alipay", AlipayCallback),
]
