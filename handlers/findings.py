"""Differences of the reconciliation for staff (/staff/v1/findings): the list, and settling one by hand."""

from marshmallow import Schema, fields, validate

from handlers.base import HallHandler, operation
from payments.bill import BillKind
from payments.reconcile.matching import FindingState, Kind

_STATES = validate.OneOf([state.value for state in FindingState])


class FindingListQuery(Schema):
    state = fields.String(load_default=FindingState.OPEN.value, validate=_STATES)
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, validate=validate.Regexp(r"fnd_[0-9A-Z]{26}\Z"))


class SettleFindingRequest(Schema):
    note = fields.String(required=True, validate=validate.Length(2, 200))


class FindingResponse(Schema):
    id = fields.String()
    provider = fields.String()
    day = fields.String()
    kind = fields.String(validate=validate.OneOf([kind.value for kind in Kind]))
    subject = fields.String(validate=validate.OneOf([kind.value for kind in BillKind]))
    state = fields.String(validate=_STATES)
    number = fields.String()
    out_trade_no = fields.String()
    provider_trade_no = fields.String(allow_none=True)
    order_id = fields.String(allow_none=True)
    agency_id = fields.String()
    ours_fen = fields.Integer(allow_none=True)
    theirs_fen = fields.Integer(allow_none=True)
    what = fields.String()
    what_to_do = fields.String()
    at = fields.String(allow_none=True)
    found_at = fields.String()
    settled_at = fields.String(allow_none=True)
    settled_by = fields.String(allow_none=True)


class FindingListResponse(Schema):
    items = fields.List(fields.Nested(FindingResponse))
    next_cursor = fields.String(allow_none=True)


class Findings(HallHandler):
    @operation(
        "Differences of the reconciliation, of the own agency",
        query=FindingListQuery,
        answers={200: FindingListResponse},
        auth="staff",
    )
    async def get(self) -> None:
        rows, cursor = await self.hall.reconcile.desk.page(self.staff, **self.query)
        await self.answer({"items": rows, "next_cursor": cursor})


class SettleFinding(HallHandler):
    @operation(
        "Settle a difference by hand (the head), saying why", body=SettleFindingRequest, answers={200: FindingResponse}, auth="staff"
    )
    async def post(self, finding_id: str) -> None:
        await self.answer(await self.hall.reconcile.desk.settle(finding_id, self.staff, self.body["note"]))


routes = [
    (r"/staff/v1/findings", Findings),
    (r"/staff/v1/findings/([\w-]+)/settle", SettleFinding),
]
