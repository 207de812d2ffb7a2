"""The public check of a receipt: anybody with number and code sees that it is real, for what, how much and when; nobody's name."""

from marshmallow import Schema, fields, validate

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


class ReceiptCheck(HallHandler):
    @operation("Check a receipt", query=ReceiptQuery, answers={200: ReceiptCheckResponse})
    async def get(self, number: str) -> None:
        await self.answer(await self.hall.payments.check_receipt(number, self.query["code"].strip().upper()))


routes = [(r"/v1/receipts/([0-9A-Za-z]{1,40})", ReceiptCheck)]
