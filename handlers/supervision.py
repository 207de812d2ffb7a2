"""Supervision for staff (/staff/v1/cards, /staff/v1/supervision): yellow and red cards, settling one, and the measures."""

from marshmallow import Schema, fields, validate

from app.supervision.measures import MEASURES
from handlers.base import HallHandler, operation


class CardListQuery(Schema):
    card = fields.String(load_default=None, validate=validate.OneOf(["yellow", "red"]))
    open = fields.Boolean(load_default=True, data_key="open")
    escalated = fields.Boolean(load_default=False)
    limit = fields.Integer(load_default=20, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, validate=validate.Regexp(r"card_[0-9A-Z]{26}\Z"))


class HandleCardRequest(Schema):
    note = fields.String(required=True, validate=validate.Length(2, 500))


class CardResponse(Schema):
    id = fields.String()
    card = fields.String(validate=validate.OneOf(["yellow", "red"]))
    rule = fields.String()
    what = fields.String()
    case = fields.Dict(metadata={"description": "id and number of what it is about, of whatever kind"})
    kind = fields.String(validate=validate.OneOf(["case", "call_back", "complaint"]))
    item = fields.Dict()
    agency = fields.Dict()
    clock = fields.String()
    due_on = fields.String(allow_none=True)
    at = fields.String()
    to = fields.String(validate=validate.OneOf(["clerk", "head"]))
    assignee = fields.String(allow_none=True)
    is_open = fields.Boolean()
    escalate_on = fields.String(allow_none=True)
    escalated_at = fields.String(allow_none=True)
    handled_at = fields.String(allow_none=True)
    handled_by = fields.String(allow_none=True)
    note = fields.String()


class CardListResponse(Schema):
    items = fields.List(fields.Nested(CardResponse))
    next_cursor = fields.String(allow_none=True)
    counts = fields.Dict(metadata={"description": "open cards: yellow, red, escalated; above 99 it reads 100"})


class SupervisionQuery(Schema):
    begin = fields.Date(load_default=None, data_key="from")
    end = fields.Date(load_default=None, data_key="to")
    agency = fields.String(load_default=None, validate=validate.Length(1, 40))


class SupervisionResponse(Schema):
    agency = fields.String()
    begin = fields.Date(data_key="from")
    end = fields.Date(data_key="to")
    rule_version = fields.String()
    totals = fields.Dict(metadata={"description": f"{', '.join(MEASURES)}, decided, and the rates (null when nothing was counted)"})
    days = fields.List(fields.Dict())


class CardList(HallHandler):
    @operation("Yellow and red cards that concern this person", query=CardListQuery, answers={200: CardListResponse}, auth="staff")
    async def get(self) -> None:
        rows, cursor = await self.hall.supervision.page(
            self.staff,
            card=self.query["card"],
            is_open=self.query["open"],
            is_escalated=self.query["escalated"],
            limit=self.query["limit"],
            cursor=self.query["cursor"],
        )
        await self.answer({"items": rows, "next_cursor": cursor, "counts": await self.hall.supervision.counts(self.staff)})


class HandleCard(HallHandler):
    @operation("Settle a card by hand (the head), saying what was done", body=HandleCardRequest, answers={200: CardResponse}, auth="staff")
    async def post(self, card_id: str) -> None:
        await self.answer(await self.hall.supervision.handle(card_id, self.staff, self.body["note"]))


class Supervision(HallHandler):
    @operation("Measures of an agency by day (the head)", query=SupervisionQuery, answers={200: SupervisionResponse}, auth="staff")
    async def get(self) -> None:
        await self.answer(
            await self.hall.supervision.measures(self.staff, self.query["begin"], self.query["end"], self.query["agency"])
        )


routes = [
    (r"/staff/v1/cards", CardList),
    (r"/staff/v1/cards/([\w-]+)/handle", HandleCard),
    (r"/staff/v1/supervision", Supervision),
]
