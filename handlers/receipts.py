"""The public check of a receipt: anybody with number and code sees that it is real, for what, how much and when; nobody's name."""

from typing import Any

from marshmallow import Schema, fields, validate

from handlers import guesses
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


async def checked(handler: HallHandler, number: str, code: str) -> dict[str, Any]:
    """Return what anybody with number and code may know; wrong codes are counted. Raises ReceiptNotFound, RateLimited."""
    check = handler.hall.payments.check_receipt
    receipt: dict[str, Any] = await guesses.found(handler, "receipt-codes", "核验码", lambda: check(number, code.strip().upper()))
    return receipt


class ReceiptCheck(HallHandler):
    @operation("Check a receipt", query=ReceiptQuery, answers={200: ReceiptCheckResponse, 404: None, 429: None})
    async def get(self, number: str) -> None:
        await self.answer(await checked(self, number, self.query["code"]))


routes = [(r"/v1/receipts/([0-9A-Za-z]{1,40})", ReceiptCheck)]
