"""Refunds by staff (/staff/v1): asking, the second person, the lists, and what is done with payments that do not fit."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from handlers.base import HallHandler, operation
from payments.model import AttemptState, OrderState
from payments.provider import BankCard
from payments.refund import RefundKind, RefundState

_REFUND_STATES = validate.OneOf([state.value for state in RefundState])
_ORDER_STATES = validate.OneOf([state.value for state in OrderState])
_CURSOR = validate.Regexp(r"ord_[0-9A-Z]{26}\Z")
# What both providers take: WeChat Pay allows 80 bytes, and the payer reads it.
_REASON = validate.Length(1, 26)


class RefundRequest(Schema):
    amount_fen = fields.Integer(required=True, strict=True, validate=validate.Range(1, 10**11))
    reason = fields.String(required=True, validate=_REASON)
    attempt_id = fields.String(load_default="", validate=validate.Regexp(r"(pay_[0-9A-Z]{26})?\Z"))


class RejectRefundRequest(Schema):
    reason = fields.String(required=True, validate=validate.Length(1, 200))


class PayOutRequest(Schema):
    """Where a stuck refund goes: a `card` of the payer (with the provider's word for the bank), or the `merchant`'s own account."""

    to = fields.String(required=True, validate=validate.OneOf(["card", "merchant"]))
    bank = fields.String(load_default="", validate=validate.Regexp(r"([A-Z0-9_]{2,32})?\Z"))
    account = fields.String(load_default="", validate=validate.Regexp(r"([0-9]{8,30})?\Z"))
    holder = fields.String(load_default="", validate=validate.Length(max=60))

    @validates_schema
    def _whole(self, data: dict[str, Any], **_kwargs: Any) -> None:
        missing = {name: ["退到银行卡时要填写"] for name in ("bank", "account", "holder") if not data[name]}
        if data["to"] == "card" and missing:
            raise ValidationError(missing)


def card_of(body: Mapping[str, str]) -> BankCard | None:
    return BankCard(body["bank"], body["account"], body["holder"]) if body["to"] == "card" else None


class ReturnRequest(Schema):
    reason = fields.String(required=True, validate=_REASON)


class ReturnedOutsideRequest(Schema):
    note = fields.String(required=True, validate=validate.Length(2, 200))


class RefundListQuery(Schema):
    state = fields.String(load_default=None, validate=_REFUND_STATES)
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, validate=_CURSOR)


class HeldListQuery(Schema):
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, validate=_CURSOR)


class RefundResponse(Schema):
    id = fields.String()
    order_id = fields.String()
    order_state = fields.String(validate=_ORDER_STATES)
    title = fields.String()
    state = fields.String(validate=_REFUND_STATES)
    kind = fields.String(validate=validate.OneOf([kind.value for kind in RefundKind]))
    amount_fen = fields.Integer()
    paid_fen = fields.Integer()
    reason = fields.String()
    agency_id = fields.String()
    provider = fields.String()
    out_trade_no = fields.String()
    out_refund_no = fields.String()
    provider_refund_no = fields.String(allow_none=True)
    requested_by = fields.String()
    approved_by = fields.String(allow_none=True)
    failure = fields.String(allow_none=True)
    is_overdue = fields.Boolean()
    created_at = fields.String()
    sent_at = fields.String(allow_none=True)
    refunded_at = fields.String(allow_none=True)


class RefundListResponse(Schema):
    items = fields.List(fields.Nested(RefundResponse))
    next_cursor = fields.String(allow_none=True)


class HeldRefundResponse(Schema):
    id = fields.String()
    state = fields.String(validate=_REFUND_STATES)


class HeldResponse(Schema):
    id = fields.String()
    kind = fields.String(validate=validate.OneOf(["overpaid", *(state.value for state in AttemptState)]))
    order_id = fields.String()
    order_state = fields.String(validate=_ORDER_STATES)
    title = fields.String()
    provider = fields.String()
    out_trade_no = fields.String()
    provider_trade_no = fields.String(allow_none=True)
    expected_fen = fields.Integer()
    reported_fen = fields.Integer(allow_none=True)
    differs = fields.List(fields.String())
    may_return = fields.Boolean()
    decided_by = fields.String(allow_none=True)
    decision_note = fields.String(allow_none=True)
    created_at = fields.String()
    paid_at = fields.String(allow_none=True)
    refunds = fields.List(fields.Nested(HeldRefundResponse))


class HeldListResponse(Schema):
    items = fields.List(fields.Nested(HeldResponse))
    next_cursor = fields.String(allow_none=True)


class RequestRefund(HallHandler):
    @operation(
        "Give money of an order back: sent at once, or after a second person has agreed",
        body=RefundRequest,
        answers={201: RefundResponse},
        auth="staff",
        idempotent=True,
    )
    async def post(self, order_id: str) -> None:
        order, refund = await self.hall.payments.refunds.request(
            order_id, self.staff, refund_id=self.idempotent_id("rfd"), **self.body
        )
        await self.answer(self.hall.payments.refunds.view(order, refund), 201)


class Refunds(HallHandler):
    @operation("Refunds of the own agency", query=RefundListQuery, answers={200: RefundListResponse}, auth="staff")
    async def get(self) -> None:
        rows, cursor = await self.hall.payments.refunds.page(self.staff.agency_id, **self.query)
        await self.answer({"items": rows, "next_cursor": cursor})


class ApproveRefund(HallHandler):
    @operation("Agree to a refund (the head, not the asker)", answers={200: RefundResponse}, auth="staff")
    async def post(self, refund_id: str) -> None:
        order, refund = await self.hall.payments.refunds.approve(refund_id, self.staff)
        await self.answer(self.hall.payments.refunds.view(order, refund))


class RejectRefund(HallHandler):
    @operation(
        "Refuse a refund (the head, not the asker)", body=RejectRefundRequest, answers={200: RefundResponse}, auth="staff"
    )
    async def post(self, refund_id: str) -> None:
        order, refund = await self.hall.payments.refunds.reject(refund_id, self.staff, self.body["reason"])
        await self.answer(self.hall.payments.refunds.view(order, refund))


class PayOutRefund(HallHandler):
    @operation(
        "Pay a stuck refund out another way (the head, not the asker)", body=PayOutRequest, answers={200: RefundResponse}, auth="staff"
    )
    async def post(self, refund_id: str) -> None:
        order, refund = await self.hall.payments.abnormal.pay_out(refund_id, self.staff, card_of(self.body))
        await self.answer(self.hall.payments.refunds.view(order, refund))


class HeldPayments(HallHandler):
    @operation(
        "Payments of the own agency that do not fit, or were too much",
        query=HeldListQuery,
        answers={200: HeldListResponse},
        auth="staff",
    )
    async def get(self) -> None:
        rows, cursor = await self.hall.payments.held.page(self.staff.agency_id, **self.query)
        await self.answer({"items": rows, "next_cursor": cursor})


class AskHeld(HallHandler):
    @operation("Ask the provider about a payment that does not fit", answers={200: HeldResponse}, auth="staff")
    async def post(self, attempt_id: str) -> None:
        await self.answer(await self.hall.payments.held.ask(attempt_id, self.staff))


class ReturnHeld(HallHandler):
    """Above the threshold it waits for the head, who agrees at /staff/v1/refunds/{refund_id}/approve."""

    @operation(
        "Give a payment that does not fit back in full, as it came",
        body=ReturnRequest,
        answers={201: RefundResponse},
        auth="staff",
        idempotent=True,
    )
    async def post(self, attempt_id: str) -> None:
        order, refund = await self.hall.payments.held.give_back(
            attempt_id, self.staff, reason=self.body["reason"], refund_id=self.idempotent_id("rfd")
        )
        await self.answer(self.hall.payments.refunds.view(order, refund), 201)


class ReturnedOutside(HallHandler):
    @operation(
        "Record that a payment that does not fit went back at the provider's own pages (the head)",
        body=ReturnedOutsideRequest,
        answers={200: HeldResponse},
        auth="staff",
    )
    async def post(self, attempt_id: str) -> None:
        await self.answer(await self.hall.payments.held.given_back_outside(attempt_id, self.staff, self.body["note"]))


routes = [
    (r"/staff/v1/orders/([\w-]+)/refunds", RequestRefund),
    (r"/staff/v1/refunds", Refunds),
    (r"/staff/v1/refunds/([\w-]+)/approve", ApproveRefund),
    (r"/staff/v1/refunds/([\w-]+)/reject", RejectRefund),
    (r"/staff/v1/refunds/([\w-]+)/pay-out", PayOutRefund),
    (r"/staff/v1/payments/held", HeldPayments),
    (r"/staff/v1/payments/([\w-]+)/ask", AskHeld),
    (r"/staff/v1/payments/([\w-]+)/return", ReturnHeld),
    (r"/staff/v1/payments/([\w-]+)/returned", ReturnedOutside),
]
