"""What the resident who is signed in wants to hear of: items, themes, notices of a place."""

from marshmallow import Schema, fields, validate

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


routes = [
    (r"/v1/me/subscriptions", MySubscriptions),
    (r"/v1/me/subscriptions/([a-z]+)/([^/]+)", OneSubscription),
]
