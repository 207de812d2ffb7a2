"""A resident's orders (/v1/orders): making, paying, watching, closing, receipts."""

from marshmallow import Schema, fields, validate

from handlers.base import HallHandler, operation
from payments.model import AttemptState, OrderState
from payments.refund import RefundState
from payments.service import view

_ORDER_STATES = validate.OneOf([state.value for state in OrderState])


class PayableRef(Schema):
    kind = fields.String(required=True, validate=validate.Length(1, 20))
    id = fields.String(required=True, validate=validate.Length(1, 100))


class CreateOrderRequest(Schema):
    payables = fields.List(fields.Nested(PayableRef), required=True, validate=validate.Length(1, 20))


class PayRequest(Schema):
    provider = fields.String(required=True, validate=validate.Length(1, 20))
    scene = fields.String(required=True, validate=validate.Length(1, 20))


class OrderListQuery(Schema):
    state = fields.String(load_default=None, validate=_ORDER_STATES)
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, validate=validate.Regexp(r"ord_[0-9A-Z]{26}\Z"))


class OrderQuery(Schema):
    refresh = fields.Boolean(load_default=False)


class OrderLineResponse(Schema):
    title = fields.String()
    amount_fen = fields.Integer()
    payee = fields.String()
    paid_for = fields.String(metadata={"description": "whom it is paid for, masked; when it is for somebody who was named"})


class AttemptResponse(Schema):
    id = fields.String()
    provider = fields.String(validate=validate.OneOf(["wechatpay", "alipay"]))
    scene = fields.String()
    state = fields.String(validate=validate.OneOf([state.value for state in AttemptState]))
    out_trade_no = fields.String()
    created_at = fields.String()


class OrderRefundResponse(Schema):
    id = fields.String()
    state = fields.String(validate=validate.OneOf([state.value for state in RefundState]))
    amount_fen = fields.Integer()
    created_at = fields.String()
    refunded_at = fields.String(allow_none=True)


class OrderReceiptRef(Schema):
    agency_id = fields.String()
    number = fields.String(allow_none=True)


class OrderResponse(Schema):
    id = fields.String()
    state = fields.String(validate=_ORDER_STATES)
    title = fields.String()
    amount_fen = fields.Integer()
    lines = fields.List(fields.Nested(OrderLineResponse))
    payables = fields.List(fields.Nested(PayableRef))
    expires_at = fields.String()
    attempts = fields.List(fields.Nested(AttemptResponse))
    created_at = fields.String()
    paid_at = fields.String(allow_none=True)
    receipt_number = fields.String(allow_none=True)
    receipts = fields.List(
        fields.Nested(OrderReceiptRef), metadata={"description": "one per agency that was paid; numbers come within seconds"}
    )
    refunds = fields.List(fields.Nested(OrderRefundResponse))


class OrderListResponse(Schema):
    items = fields.List(fields.Nested(OrderResponse))
    next_cursor = fields.String(allow_none=True)


class PayResponse(Schema):
    attempt_id = fields.String()
    out_trade_no = fields.String()
    client_params = fields.Dict(keys=fields.String(), values=fields.String())


class OneReceiptResponse(Schema):
    number = fields.String()
    code = fields.String()
    check_url = fields.String()
    order_id = fields.String()
    title = fields.String()
    lines = fields.List(fields.Nested(OrderLineResponse))
    amount_fen = fields.Integer()
    refunded_fen = fields.Integer(metadata={"description": "how much of it went back"})
    paid_at = fields.String()
    provider = fields.String()
    provider_name = fields.String()
    provider_trade_no = fields.String()
    out_trade_no = fields.String()
    state = fields.String(validate=_ORDER_STATES)
    state_name = fields.String()


class ReceiptResponse(OneReceiptResponse):
    receipts = fields.List(
        fields.Nested(OneReceiptResponse), metadata={"description": "one per agency that was paid; the first is the one above"}
    )


class Orders(HallHandler):
    @operation(
        "Make an order for what is owed (the open one for the same comes back)",
        body=CreateOrderRequest,
        answers={201: OrderResponse},
        auth="resident",
        idempotent=True,
    )
    async def post(self) -> None:
        order = await self.hall.payments.create_order(
            self.resident.resident_id, self.body["payables"], order_id=self.idempotent_id("ord")
        )
        await self.answer(view(order), 201)

    @operation("The resident's orders, newest first", query=OrderListQuery, answers={200: OrderListResponse}, auth="resident")
    async def get(self) -> None:
        orders, cursor = await self.hall.payments.list_orders(
            self.resident.resident_id,
            states=[self.query["state"]] if self.query["state"] else [],
            limit=self.query["limit"],
            cursor=self.query["cursor"],
        )
        await self.answer({"items": [view(order) for order in orders], "next_cursor": cursor})


class OneOrder(HallHandler):
    @operation("An order; refresh=1 asks the provider", query=OrderQuery, answers={200: OrderResponse}, auth="resident")
    async def get(self, order_id: str) -> None:
        order = await self.hall.payments.get_order(
            order_id, self.resident.resident_id, refresh=self.query["refresh"]
        )
        await self.answer(view(order))


class PayOrder(HallHandler):
    @operation(
        "Pay: what the client SDK takes", body=PayRequest, answers={200: PayResponse}, auth="resident", idempotent=True
    )
    async def post(self, order_id: str) -> None:
        attempt, client_params = await self.hall.payments.pay(
            order_id,
            self.resident.resident_id,
            **self.body,
            attempt_id=self.idempotent_id("pay"),
            client_ip=self.client_address,
        )
        await self.answer(
            {"attempt_id": attempt.id, "out_trade_no": attempt.out_trade_no, "client_params": client_params}
        )


class CloseOrder(HallHandler):
    @operation("Close an order, at the provider too", answers={200: OrderResponse}, auth="resident")
    async def post(self, order_id: str) -> None:
        await self.answer(view(await self.hall.payments.close_order(order_id, self.resident.resident_id)))


class OrderReceipt(HallHandler):
    @operation("The receipt of a paid order", answers={200: ReceiptResponse}, auth="resident")
    async def get(self, order_id: str) -> None:
        await self.answer(await self.hall.payments.receipt(order_id, self.resident.resident_id))


class OrderReceiptPdf(HallHandler):
    @operation("The receipt as PDF", auth="resident")
    async def get(self, order_id: str) -> None:
        name, pdf = await self.hall.payments.receipt_pdf(order_id, self.resident.resident_id)
        self.set_header("Content-Type", "application/pdf")
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.finish(pdf)


routes = [
    (r"/v1/orders", Orders),
    (r"/v1/orders/([\w-]+)", OneOrder),
    (r"/v1/orders/([\w-]+)/pay", PayOrder),
    (r"/v1/orders/([\w-]+)/close", CloseOrder),
    (r"/v1/orders/([\w-]+)/receipt", OrderReceipt),
    (r"/v1/orders/([\w-]+)/receipt\.pdf", OrderReceiptPdf),
]
