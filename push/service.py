"""Push: what the rest of the hall calls. `tell` for the relay, `deliver_due` for the worker, the inbox for handlers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog
from prometheus_client import Counter
from pymongo import IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from redis.asyncio import Redis

from app.kernel.clock import utc_now
from app.kernel.errors import BadRequest, NotFound, ValidationFailed, error_row
from app.kernel.events import Event
from app.storage.mongo import Database
from app.storage.redis import publish
from push import deliveries, followers, grants, reports, store
from push.channel import Channel, People
from push.channels.email import Email
from push.channels.sms import SmsGateway
from push.deliveries import Deliveries
from push.followers import Followers
from push.grants import Grants
from push.lanes import URGENT, Rates, load_rates
from push.model import EVENTS, MAX_QUIET, STREAM_CHANNEL, Preferences, view_message, with_wishes
from push.reports import Reports
from push.store import APNS, Store
from push.stream import Stream
from push.telling import Telling, Writer
from push.templates import FOLDER, MessageTemplates
from push.undelivered import Undelivered

log = structlog.get_logger(__name__)

MAX_UNREAD_COUNT = 100
_APPLE_TOKEN = re.compile(r"[0-9a-f]{64,200}")  # Apple: of no fixed length

INDEXES: Mapping[str, Sequence[IndexModel]] = {**store.INDEXES, **deliveries.INDEXES, **grants.INDEXES, **reports.INDEXES, **followers.INDEXES}

told = Counter("hall_messages_told", "Messages written to inboxes", ["event"])


class Push:
    """Made once per process by assembly. `channels` are tried in the order of push.model.CHANNELS."""

    def __init__(
        self,
        database: Database,
        redis: Redis,
        templates: MessageTemplates,
        *,
        people: People,
        store: Store,
        grants: Grants,
        channels: Sequence[Channel],
        sms: SmsGateway,
        email: Email | None = None,
        followers: Followers,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._redis = redis
        self._clock = clock
        self._sms = sms
        self._email = email
        self.followers = followers
        self._people = people
        self.templates = templates
        self.store = store
        self.grants = grants
        self.stream = Stream(store, redis)
        self.deliveries = Deliveries(database, store, channels, Rates(redis, load_rates(FOLDER)), clock)
        self._writer = Writer(database, store, self.deliveries)
        self.reports = Reports(database, self.deliveries, clock)
        self.undelivered = Undelivered(database, clock)

    @property
    def event_names(self) -> tuple[str, ...]:
        """Every event this subscribes to."""
        return tuple(name for names in EVENTS.values() for name in names)

    @property
    def urgent_names(self) -> tuple[str, ...]:
        """The events that wait behind no other on their way here either."""
        return tuple(name for name, spec in self.templates.specs.items() if spec.lane == URGENT)

    # --- telling ---

    async def tell(self, event: Event) -> None:
        """Write the message of an event and the intent to deliver it, both in one transaction. Idempotent.

        The relay's subscriber "tell". An event that nobody wrote a text for is a mistake of ours and raises KeyError: the relay
        keeps it as a dead letter instead of losing it. An event with `once` is told under that name: whatever else has told this
        person of the same thing, or an account that was joined to theirs, has told for it.
        """
        spec = self.templates.specs[event.name]
        if not event.owner_id:  # of something for which nobody left a name
            return
        now = self._clock()
        if event.data.get("once"):
            event = replace(event, id=event.data["once"])
        preferences = await self.store.preferences(await self.store.present_owner(event.owner_id))
        if preferences.refuses(spec.kind):
            return
        language = preferences.language
        rendered = self.templates.render(event, language)

        owner_id = await self._writer.write(Telling(event, spec, rendered, language, now))
        if owner_id is not None:
            told.labels(event.name).inc()
            await publish(self._redis, STREAM_CHANNEL, owner_id)

    async def deliver_due(self, now: datetime | None = None, lane: str = "") -> int:
        """Send what is due, of one lane or of all; called in a loop by the worker. Returns how many deliveries were taken up."""
        return await self.deliveries.deliver_due(now, lane)

    async def send_code(self, phone: str, code: str, purpose: str) -> None:
        """Send a sign-in code by text message at once. Raises ProviderUnavailable."""
        await self._sms.send_code(phone, code, purpose)

    async def send_email_code(self, email: str, code: str) -> None:
        """Send the code that verifies an e-mail address, at once. Raises ProviderUnavailable."""
        assert self._email is not None, "asked for only where mail is on"
        await self._email.send_code(email, code)

    async def stop_emails(self, owner_id: str) -> None:
        """Turn e-mail off for every kind of message; the address stays."""
        await self.set_preferences(
            await self.store.present_owner(owner_id), {"kinds": {kind: {"email": False} for kind in EVENTS}}
        )

    # --- the inbox ---

    async def inbox(self, owner_id: str, *, unread: bool, limit: int, cursor: str | None) -> dict[str, Any]:
        """Return a page of messages, newest first: `{items, next_cursor, unread_count}` (at most 100 are counted)."""
        if cursor is not None and not cursor.startswith("msg_"):
            raise BadRequest("翻页标记不对，请从第一页重新打开。", en="The cursor is not valid.")
        found = await self.store.page(owner_id, unread=unread, before=cursor, limit=limit + 1)
        items = found[:limit]
        told = await self.undelivered.told(owner_id, items)
        return {
            "items": [view_message(message) | {"delivery": told.get(message["_id"])} for message in items],
            "next_cursor": items[-1]["_id"] if len(found) > limit else None,
            "unread_count": await self.store.unread_count(owner_id, MAX_UNREAD_COUNT),
        }

    async def unread_count(self, owner_id: str) -> int:
        """Return how many messages are unread, at most 100."""
        return await self.store.unread_count(owner_id, MAX_UNREAD_COUNT)

    async def mark_read(self, owner_id: str, message_id: str) -> dict[str, Any]:
        """Mark a message read and return it. Raises NotFound, also for somebody else's."""
        message = await self.store.mark_read(owner_id, message_id, self._clock())
        if message is None:
            raise NotFound("没有找到这条消息。", en="No such message.")
        told = await self.undelivered.told(owner_id, [message])
        return view_message(message) | {"delivery": told.get(message_id)}

    async def mark_all_read(self, owner_id: str) -> int:
        return await self.store.mark_all_read(owner_id, self._clock())

    # --- preferences, devices, grants ---

    async def preferences(self, owner_id: str) -> Preferences:
        return await self.store.preferences(owner_id)

    async def set_preferences(self, owner_id: str, wanted: Mapping[str, Any]) -> Preferences:
        """Change what `wanted` names, the rest stays.

        Args:
            wanted: `kinds` {kind: {channel: bool}}, `quiet_hours` {"from", "to": time} or None, `elder_mode`, `language`,
                `quiet_cases`, `quiet_items`: the whole lists.
        """
        return await self.store.change_preferences(owner_id, lambda now: with_wishes(now, wanted))

    async def keep_quiet(self, owner_id: str, name: str, key: str, is_on: bool) -> bool:
        """Keep one matter quiet, or no longer; False: MAX_QUIET are quiet already. `name`: quiet_cases or quiet_items."""
        is_full = False

        def changed(now: Preferences) -> Preferences:
            nonlocal is_full
            keys: frozenset[str] = getattr(now, name)
            keys = keys | {key} if is_on else keys - {key}
            is_full = len(keys) > MAX_QUIET
            return now if is_full else replace(now, **{name: keys})

        await self.store.change_preferences(owner_id, changed)
        return not is_full

    async def put_device(self, owner_id: str, registration_id: str, platform: str, vendor: str, session_id: str = "") -> None:
        """Register a device. Raises ValidationFailed: Apple's vendor with what cannot be an iPhone."""
        if vendor == APNS and not (platform == "ios" and _APPLE_TOKEN.fullmatch(registration_id)):
            raise ValidationFailed([error_row("/vendor", "invalid", "苹果推送要有 iOS 设备的设备令牌")])
        details = {"platform": platform, "vendor": vendor, "session_id": session_id}
        await self.store.put_device(owner_id, registration_id, details, self._clock())

    async def forget_session(self, owner_id: str, session_id: str) -> None:
        """Forget the devices of a session that has ended. Idempotent."""
        await self.store.drop_devices_of_session(owner_id, session_id)

    async def drop_device(self, owner_id: str, registration_id: str) -> None:
        """Forget a device. Raises NotFound, also for somebody else's."""
        if not await self.store.drop_device(registration_id, owner_id):
            raise NotFound("没有找到这台设备。", en="No such device.")

    async def wechat_openid(self, owner_id: str) -> str:
        """Return a person's openid in our mini-program, or empty text."""
        identity = await self._people.channel_identity(owner_id, "wechat")
        return str(identity["openid"]) if identity else ""

    # --- joining ---

    async def reassign(self, from_id: str, into_id: str) -> None:
        """Move messages, deliveries, devices and preferences after two residents were joined. Idempotent."""

        async def move(session: AsyncClientSession) -> None:
            await self.store.move(from_id, into_id, session)
            await self.deliveries.move(from_id, into_id, session)

        await self._database.transaction(move)
        await publish(self._redis, STREAM_CHANNEL, into_id)
