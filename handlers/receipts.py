"""The public check of a receipt: anybody with number and code sees that it is real, for what, how much and when; nobody's name."""

from typing import Any

from marshmallow import Schema, fields, validate

from app.kernel.errors import NotFound
from app.storage.limits import Limit
from handlers.base import HallHandler, operation
from handlers.orders import OrderLineResponse


class ReceiptQuery(Schema):
    code = fields.String(required=True, validate=validate.Length(1, 20))


class ReceiptCheckResponse(Schema):
    number = fields.String()
    valid = fields.Boolean()
    title = fields.String()
    lines = fields.List(fields.Nested(OrderLineResponse))
    amount_fen = fields.Integer()
    refunded_fen = fields.Integer()
    paid_at = fields.String()
    state = fields.String()
    state_name = fields.String()


# Wrong codes from one address. A code has 40 bits: this keeps guessing from being worth a try, and a typing hand from being stopped.
WRONG_AT_MOST, IN_S = 30, 600


async def checked(handler: HallHandler, number: str, code: str) -> dict[str, Any]:
    """Return what anybody with number and code may know; wrong codes are counted. Raises ReceiptNotFound, RateLimited."""
    wrong = Limit(handler.hall.redis, "receipt-codes", most=WRONG_AT_MOST, per_s=IN_S)
    await wrong.require(handler.client_address, "核验码错误次数太多，请十分钟后再试，或拨打12345核对。")
    try:
        found: dict[str, Any] = await handler.hall.payments.check_receipt(number, code.strip().upper())
        return found
    except NotFound:
        await wrong.count(handler.client_address)
        raise


class ReceiptCheck(HallHandler):
    @operation("Check a receipt", query=ReceiptQuery, answers={200: ReceiptCheckResponse, 404: None, 429: None})
    async def get(self, number: str) -> None:
        await self.answer(await checked(self, number, self.query["code"]))


routes = [(r"/v1/receipts/([0-9A-Za-z]{1,40})", ReceiptCheck)]
