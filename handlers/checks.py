"""查: what can be checked, checks of one's own matters, and looking up bills."""

from marshmallow import Schema, fields
from marshmallow.validate import Length

from handlers.base import HallHandler, operation


class CheckRequest(Schema):
    inputs = fields.Dict(keys=fields.String(validate=Length(1, 40)), load_default=dict)


class LookupRequest(CheckRequest):
    kind = fields.String(required=True, validate=Length(1, 40))


class OfficeShown(Schema):
    id = fields.String(required=True)
    name = fields.String(required=True)
    hotline = fields.String(required=True)


class InputShown(Schema):
    key = fields.String(required=True)
    label = fields.String(required=True)
    type = fields.String(required=True, metadata={"description": "text, plate or id_number"})
    hint = fields.String(required=True)
    pattern = fields.String()
    options = fields.List(fields.String(), metadata={"description": "the values to choose from, when it is a choice"})
    required = fields.Boolean(required=True)


class KindShown(Schema):
    kind = fields.String(required=True)
    name = fields.String(required=True)
    summary = fields.String()
    identity_level = fields.String(required=True)
    sends_identity = fields.Boolean()
    purpose = fields.String()
    agency = fields.Nested(OfficeShown, required=True)
    inputs = fields.List(fields.Nested(InputShown), required=True)


class KeySetShown(Schema):
    keys = fields.List(fields.String(), required=True)
    note = fields.String(required=True)


class BillKindShown(KindShown):
    key_sets = fields.List(
        fields.Nested(KeySetShown), required=True, metadata={"description": "one complete set of keys is needed"}
    )
    receipt = fields.String(required=True)
    identity = fields.String(
        required=True,
        metadata={"description": "whose citizen number may be given: own, family (with `relation`) or anybody"},
    )


class Kinds(Schema):
    items = fields.List(fields.Nested(KindShown), required=True)
    bill_kinds = fields.List(fields.Nested(BillKindShown), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class RowShown(Schema):
    label = fields.String(required=True)
    value = fields.String(required=True)


class RecordShown(Schema):
    title = fields.String(required=True)
    state = fields.String(required=True)
    rows = fields.List(fields.Nested(RowShown), required=True)


class BillShown(Schema):
    id = fields.String(required=True)
    kind = fields.String(required=True)
    title = fields.String(required=True)
    amount_fen = fields.Integer(required=True, metadata={"description": "without the surcharge"})
    late_fee_fen = fields.Integer(required=True)
    total_fen = fields.Integer(required=True)
    due_on = fields.Date(required=True)
    pay_by = fields.DateTime(
        required=True, allow_none=True, metadata={"description": "after this moment it cannot be paid; null when a late payment is taken"}
    )
    issued_on = fields.Date(required=True, allow_none=True)
    payee = fields.String(required=True)
    payee_agency = fields.String(required=True)
    holder = fields.String(required=True, metadata={"description": "what the one whose bill it is is called"})
    holder_masked = fields.String(required=True, metadata={"description": "the masked name, to compare before paying"})
    state = fields.String(required=True)
    payable = fields.Boolean(required=True)
    warning = fields.String(required=True, metadata={"description": "what to know before paying, or why it cannot be paid here"})
    points = fields.Integer(required=True, allow_none=True)
    notes = fields.String(required=True)
    receipt_no = fields.String(required=True, allow_none=True)


class CheckAnswer(Schema):
    kind = fields.String(required=True)
    as_of = fields.DateTime(required=True)
    source = fields.String(required=True)
    agency = fields.Nested(OfficeShown, required=True)
    records = fields.List(fields.Nested(RecordShown), required=True)
    bills = fields.List(fields.Nested(BillShown), required=True)
    other_bills = fields.List(fields.Nested(BillShown), required=True)


class Checks(HallHandler):
    @operation("What can be checked and which bills can be looked up, with their inputs", answers={200: Kinds})
    async def get(self) -> None:
        await self.answer(self.hall.checks.kinds())


class Check(HallHandler):
    @operation(
        "Ask a department about one's own matter",
        body=CheckRequest,
        body_optional=True,
        answers={200: CheckAnswer, 403: None, 404: None, 422: None, 503: None},
        auth="resident",
    )
    async def post(self, kind: str) -> None:
        await self.answer(await self.hall.checks.run(kind, self.body["inputs"], self.resident.resident_id))


class BillLookup(HallHandler):
    @operation(
        "Look up bills",
        body=LookupRequest,
        answers={200: CheckAnswer, 403: None, 422: None, 503: None},
        auth="resident",
    )
    async def post(self) -> None:
        body = self.body
        found = await self.hall.checks.lookup_bills(body["kind"], body["inputs"], self.resident.resident_id)
        await self.answer(found)


routes = [
    (r"/v1/checks", Checks),
    (r"/v1/checks/(\w+)", Check),
    (r"/v1/bills/lookup", BillLookup),
]
