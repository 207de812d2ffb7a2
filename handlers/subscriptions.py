"""What the resident who is signed in wants to hear of: items, themes, notices of a place; and the days they are reminded of."""

from datetime import date

from marshmallow import Schema, fields, validate

from app.kernel.clock import today
from app.reminders.model import KINDS as REMINDER_KINDS
from handlers.base import HallHandler, operation
from push.subscriptions import KINDS


class Subscription(Schema):
    kind = fields.Str(validate=validate.OneOf(KINDS))
    key = fields.Str(metadata={"description": "alias of an item, name of a theme, code of a division", "example": "school_enrol"})
    name = fields.Str(metadata={"description": "for people"})
    since = fields.Str(metadata={"format": "date-time"})
    link = fields.Str(allow_none=True, metadata={"description": "path inside the hall; null when the item is offered no more"})


class SubscriptionList(Schema):
    items = fields.List(fields.Nested(Subscription))


class MySubscriptions(HallHandler):
    @operation("What I follow, the newest first", answers={200: SubscriptionList}, auth="resident")
    async def get(self) -> None:
        await self.answer({"items": await self.hall.subscriptions.of(self.resident.resident_id)})


class OneSubscription(HallHandler):
    """`kind`: item (code or alias), theme (its name), notice (code of a division). PUT and DELETE may be repeated."""

    @operation("Whether I follow this", answers={200: Subscription}, auth="resident")
    async def get(self, kind: str, key: str) -> None:
        await self.answer(await self.hall.subscriptions.get(self.resident.resident_id, kind, key))

    @operation("Follow this", answers={200: Subscription}, auth="resident")
    async def put(self, kind: str, key: str) -> None:
        await self.answer(await self.hall.subscriptions.put(self.resident.resident_id, kind, key))

    @operation("Follow this no more", answers={204: None}, auth="resident")
    async def delete(self, kind: str, key: str) -> None:
        await self.hall.subscriptions.drop(self.resident.resident_id, kind, key)
        self.set_status(204)


class Reminder(Schema):
    kind = fields.Str(validate=validate.OneOf(tuple(REMINDER_KINDS)))
    name = fields.Str()
    due_on = fields.Str(metadata={"format": "date"})
    days_left = fields.Int(metadata={"description": "below 0: past"})
    tell_on = fields.List(fields.Str(metadata={"format": "date"}), metadata={"description": "when it is still told of"})
    item = fields.Str(metadata={"description": "alias of the item that takes care of it, or empty"})
    case_id = fields.Str(metadata={"description": "of the case it belongs to, or empty"})


class ReminderList(Schema):
    items = fields.List(fields.Nested(Reminder))


class MyReminders(HallHandler):
    @operation("The days I am reminded of, the nearest first", answers={200: ReminderList}, auth="resident")
    async def get(self) -> None:
        rows = await self.hall.reminders.of(self.resident.resident_id)
        names = ("kind", "name", "due_on", "tell_on", "item", "case_id")
        left = {row["_id"]: (date.fromisoformat(row["due_on"]) - today()).days for row in rows}
        await self.answer({"items": [{name: row[name] for name in names} | {"days_left": left[row["_id"]]} for row in rows]})


routes = [
    (r"/v1/me/reminders", MyReminders),
    (r"/v1/me/subscriptions", MySubscriptions),
    (r"/v1/me/subscriptions/([a-z]+)/([^/]+)", OneSubscription),
]
