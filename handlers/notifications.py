"""The inbox, notification preferences and devices of the resident who is signed in."""

import re
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from handlers.base import HallHandler, operation
from push.model import CHANNELS, EVENTS, MAX_QUIET, REFUSABLE, switches


class InboxQuery(Schema):
    unread = fields.Bool(load_default=False, metadata={"description": "`1`: only unread messages"})
    limit = fields.Int(load_default=20, validate=validate.Range(1, 100, error="应为 1 到 100"))
    cursor = fields.Str(load_default=None, validate=validate.Length(1, 64))


class MessageSubject(Schema):
    kind = fields.Str(metadata={"example": "case"})
    id = fields.Str()


class MessageDelivery(Schema):
    """How the person was told outside the hall. The inbox has the message in every state."""

    state = fields.Str(validate=validate.OneOf(("waiting", "sent", "merged", "inbox", "unclear", "failed", "handled")))
    told_by = fields.Str(allow_none=True, validate=validate.OneOf(CHANNELS))
    has_arrived = fields.Bool(metadata={"description": "the vendor says that the person's phone has it; false: nobody said so"})
    text = fields.Str(metadata={"description": "for the person, in Chinese"})
    en = fields.Str()


class InboxMessage(Schema):
    id = fields.Str(metadata={"example": "msg_01KB2M3N4P5Q6R7S8T9V0W1X2Y"})
    at = fields.Str(metadata={"format": "date-time"})
    kind = fields.Str(validate=validate.OneOf(tuple(EVENTS)))
    title = fields.Str()
    body = fields.Str(metadata={"description": "several lines of plain text"})
    link = fields.Str(metadata={"description": "path inside the hall"})
    read_at = fields.Str(allow_none=True, metadata={"format": "date-time"})
    event = fields.Str(metadata={"example": "case.accepted"})
    subject = fields.Nested(MessageSubject)
    case_id = fields.Str(allow_none=True)
    order_id = fields.Str(allow_none=True)
    state = fields.Str(allow_none=True)
    delivery = fields.Nested(MessageDelivery, allow_none=True)


class Inbox(Schema):
    items = fields.List(fields.Nested(InboxMessage))
    next_cursor = fields.Str(allow_none=True)
    unread_count = fields.Int(metadata={"description": "at most 100, which means 100 or more"})


class ReadCount(Schema):
    read = fields.Int(metadata={"description": "how many messages became read"})
    unread_count = fields.Int()


class ChannelSwitches(Schema):
    wechat = fields.Bool()
    official = fields.Bool(metadata={"description": "the city's official account on WeChat"})
    alipay = fields.Bool()
    app = fields.Bool()
    email = fields.Bool()
    sms = fields.Bool()
    voice = fields.Bool(metadata={"description": "a call, of what is urgent or must arrive; in elder mode on, else off until asked for"})


class RefusableSwitches(ChannelSwitches):
    """What may be refused (kinds `notice`, `reminder`, `news`): `inbox` false means none at all; `sms` of notices and news goes only to
    those who asked for it."""

    class Meta:
        exclude = ("voice",)

    inbox = fields.Bool()


_Kinds = Schema.from_dict(
    {kind: fields.Nested(RefusableSwitches if kind in REFUSABLE else ChannelSwitches) for kind in EVENTS}, name="NotificationKinds"
)


def _clock() -> fields.Time:
    return fields.Time(
        format="%H:%M",
        required=True,
        error_messages={"invalid": "应为时刻，例如 22:00", "format": "应为时刻，例如 22:00"},
        metadata={"example": "22:00"},
    )


def _quiet_list(description: str) -> fields.List:
    return fields.List(
        fields.Str(validate=validate.Regexp(r"[\w-]{1,64}\Z", error="不是有效的编号")),
        validate=validate.Length(max=MAX_QUIET, error="最多 {max} 个"),
        metadata={"description": description},
    )


class QuietHours(Schema.from_dict({"from": _clock(), "to": _clock()})):  # type: ignore[misc]
    @validates_schema
    def _last(self, data: dict[str, Any], **_: Any) -> None:
        if data["from"] == data["to"]:
            raise ValidationError("结束时刻不能和开始时刻相同", "to")


class MessagePreferences(Schema):
    """What a PUT does not name stays as it is."""

    kinds = fields.Nested(_Kinds)
    quiet_hours = fields.Nested(QuietHours, allow_none=True, metadata={"description": "Shanghai times; urgent messages pass"})
    elder_mode = fields.Bool(metadata={"description": "text messages and calls first"})
    quiet_cases = _quiet_list("ids of cases and orders of which only what must arrive leaves the hall; the whole list")
    quiet_items = _quiet_list("codes of items, as `quiet_cases`")
    language = fields.Str(validate=validate.OneOf(("zh-CN", "zh", "en")))


class DeviceRegistration(Schema):
    platform = fields.Str(required=True, validate=validate.OneOf(("android", "ios", "hmos")))
    vendor = fields.Str(
        load_default="",
        validate=validate.Length(0, 32),
        metadata={"description": "maker of the phone (xiaomi, huawei, ...); `apns`: the id is Apple's device token, not JPush's registration"},
    )

    @validates_schema
    def _plain(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if not re.fullmatch(r"[\w-]*", data.get("vendor", "")):
            raise ValidationError("只能是字母、数字、横线", "vendor")


class Notifications(HallHandler):
    @operation("The inbox, newest first", query=InboxQuery, answers={200: Inbox}, auth="resident")
    async def get(self) -> None:
        found = await self.hall.push.inbox(
            self.resident.resident_id,
            unread=self.query["unread"],
            limit=self.query["limit"],
            cursor=self.query["cursor"],
        )
        await self.answer(found)


class ReadNotification(HallHandler):
    @operation("Mark one message read", answers={200: InboxMessage}, auth="resident")
    async def post(self, message_id: str) -> None:
        await self.answer(await self.hall.push.mark_read(self.resident.resident_id, message_id))


class ReadAll(HallHandler):
    @operation("Mark every message read", answers={200: ReadCount}, auth="resident")
    async def post(self) -> None:
        read = await self.hall.push.mark_all_read(self.resident.resident_id)
        await self.answer({"read": read, "unread_count": await self.hall.push.unread_count(self.resident.resident_id)})


class NotificationPreferences(HallHandler):
    @operation("What reaches me on which channel", answers={200: MessagePreferences}, auth="resident")
    async def get(self) -> None:
        preferences = await self.hall.push.preferences(self.resident.resident_id)
        await self.answer(preferences.view())

    @operation("Change what reaches me", body=MessagePreferences, answers={200: MessagePreferences}, auth="resident")
    async def put(self) -> None:
        changed = await self.hall.push.set_preferences(self.resident.resident_id, self.body)
        await self.answer(changed.view())


class Devices(HallHandler):
    @operation("Register a device for native push", body=DeviceRegistration, answers={204: None}, auth="resident")
    async def put(self, registration_id: str) -> None:
        await self.hall.push.put_device(self.resident.resident_id, registration_id, **self.body, session_id=self.resident.session_id)
        self.set_status(204)

    @operation("Forget a device, at sign-out at the latest", answers={204: None}, auth="resident")
    async def delete(self, registration_id: str) -> None:
        await self.hall.push.drop_device(self.resident.resident_id, registration_id)
        self.set_status(204)


# Switches and channels are one list in two places; a channel added to one only would be a silent hole.
assert all(set(field.schema.fields) == set(switches(kind)) for kind, field in _Kinds().fields.items())  # noqa: S101

routes = [
    (r"/v1/notifications", Notifications),
    (r"/v1/notifications/read-all", ReadAll),
    (r"/v1/notifications/([\w-]{1,64})/read", ReadNotification),
    (r"/v1/me/notification-preferences", NotificationPreferences),
    (r"/v1/me/devices/([\w-]{1,200})", Devices),
]
