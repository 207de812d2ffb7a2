"""Deliveries: from a stored intent to a final state, one resumable step at a time.

    waiting -> (claimed by pushing next_at forward) -> sending -> sent
                                                               -> waiting   try later, or the next channel
                                                               -> unclear   outcome unknown, not repeated
               no channel reaches the person                   -> inbox     the inbox and the stream alone
               a later event of the same matter tells for both -> merged    the inbox keeps each
               72 hours of trying, or what must arrive was
               refused or lost on every channel there was      -> failed    a task for a human (push/undelivered.py)

Guarantee: on a channel that cannot recognise a repetition (WeChat, Alipay) at most one send is made per delivery, whatever dies when:
`sending` is written before the call, and who finds it after a crash does not call again. On a repeatable channel (text message, native
push) the call is repeated with the same delivery id until its outcome is known. Lanes and rates: push/lanes.py.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel import context
from app.kernel.events import Event
from app.kernel.ids import new_id, random_code
from app.storage.mongo import Database
from push.channel import Channel, ChannelError, Envelope, Letter, Refused, TryLater
from push.lanes import LANES, ORDINARY, PLACES, Rates
from push.model import Preferences
from push.store import Store
from push.templates import EventSpec, Rendered

log = structlog.get_logger(__name__)

# Longer than any channel's call may take, so whoever finds it run out knows that the one before is dead.
LEASE = timedelta(seconds=60)
GIVE_UP_AFTER = timedelta(hours=72)
_ROUND_S = 10  # then the caller gets a turn: it may have been asked to stop
# Of one matter and person at most one message leaves the hall in so long a time, of those that may be merged (`_may_merge`).
MERGE_WINDOW = timedelta(seconds=60)
# So long a place waits for the rate of a channel; then the delivery goes back and the place takes the next one.
_PATIENCE_S = 5
# After so many failed tries the next channel goes first.
_TIRED_AFTER = 4
_DELAYS_S = (2, 10, 60, 300, 1800, 3600)

INDEXES = {
    "deliveries": [
        # Only what is not final, so it stays small however many deliveries there have been.
        IndexModel([("lane", ASCENDING), ("next_at", ASCENDING)], name="due", partialFilterExpression={"is_open": True}),
        IndexModel([("event_id", ASCENDING), ("owner_id", ASCENDING)], name="once", unique=True),
        IndexModel([("subject.id", ASCENDING), ("_id", ASCENDING)], name="of_subject"),
        IndexModel([("owner_id", ASCENDING)], name="of_owner"),
        # The tasks of humans, per agency and in all: gone from here when handled.
        IndexModel(
            [("agency_id", ASCENDING), ("_id", ASCENDING)], name="undelivered", partialFilterExpression={"is_undelivered": True}
        ),
        IndexModel([("_id", ASCENDING), ("is_undelivered", ASCENDING)], name="undelivered_anywhere",
                   partialFilterExpression={"is_undelivered": True}),
        # What somebody has taken care of.
        IndexModel(
            [("agency_id", ASCENDING), ("_id", ASCENDING)], name="handled", partialFilterExpression={"is_undelivered": False}
        ),
        IndexModel([("_id", ASCENDING), ("is_undelivered", ASCENDING)], name="handled_anywhere",
                   partialFilterExpression={"is_undelivered": False}),
        # WeChat reports the fate of a message by its id.
        IndexModel([("vendor_id", ASCENDING)], name="of_vendor", partialFilterExpression={"vendor_id": {"$gt": ""}}),
    ]
}

outcomes = Counter("hall_deliveries", "Tries to deliver and final states", ["channel", "outcome"])
delay_seconds = Histogram(
    "hall_delivery_seconds", "From the event until it was sent", buckets=(0.5, 1, 3, 10, 60, 600, 3600, 86400)
)
lag_seconds = Gauge("hall_deliveries_lag_seconds", "How long the oldest delivery that is due has been due", ["lane"])


def new_delivery(message_id: str, owner_id: str, event: Event, spec: EventSpec, rendered: Rendered, now: datetime) -> dict[str, Any]:
    """Return the intent to tell one person of one event. One that may not leave the hall is final at once."""
    leaves = bool(spec.channels)
    return {
        "_id": new_id("dlv"),
        "message_id": message_id,
        "owner_id": owner_id,
        "event_id": event.id,
        "event": event.name,
        "kind": spec.kind,
        "subject": {"kind": event.subject_kind, "id": event.subject_id},
        "request_id": event.request_id,
        "at": event.at,
        "made_at": now,
        "agency_id": str(event.data.get("agency_id") or ""),
        "state": "waiting" if leaves else "inbox",
        "is_open": leaves,
        "next_at": now,
        "may_merge": leaves and spec.lane == ORDINARY and not spec.must_arrive,
        "chain": list(spec.channels),
        "closed": [],
        "tries": {},
        "attempts": [],
        "lane": spec.lane,
        "urgent": spec.urgent,
        "must_arrive": spec.must_arrive,
        "short": rendered.short,
        "values": dict(rendered.values),
        "link": rendered.link,
    }


class Deliveries:
    def __init__(
        self, database: Database, store: Store, channels: Sequence[Channel], rates: Rates, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._deliveries = database["deliveries"]
        self._store = store
        self._channels: Mapping[str, Channel] = {channel.name: channel for channel in channels}
        self._rates = rates
        self._clock = clock

    async def add(self, delivery: Mapping[str, Any], more: str, session: AsyncClientSession) -> None:
        """Insert an intent, in the transaction that gave its message a number.

        The first of a matter leaves at once. Those that follow within MERGE_WINDOW wait for its end and leave as one: the newest tells,
        and says how many more there are. Never urgent ones, never what must arrive (legal notices). The numbers of a person's messages
        are given one after the other, so two at once cannot overlook each other; a worker that takes up the older one at this moment
        makes one of the two start again.

        Args:
            more: the words for `{count}` more, in the language of the text.
        """
        await self._deliveries.insert_one(await self._merged(dict(delivery), more, session), session=session)

    async def _merged(self, delivery: dict[str, Any], more: str, session: AsyncClientSession) -> dict[str, Any]:
        if not delivery["may_merge"]:
            return delivery
        same = {"subject.id": delivery["subject"]["id"], "owner_id": delivery["owner_id"], "may_merge": True, "state": {"$ne": "merged"}}
        last = await self._deliveries.find_one(same, sort=[("_id", -1)], session=session)
        if last is None:
            return delivery
        untouched = {"_id": last["_id"], "state": "waiting", "is_open": True, "claim": None, "attempts": []}
        # What the later one cannot carry as far, tells for itself.
        if set(last["chain"]) <= set(delivery["chain"]):
            done = {"state": "merged", "is_open": False, "merged_into": delivery["_id"]}
            if (await self._deliveries.update_one(untouched, {"$set": done}, session=session)).modified_count:
                merges = [*last.get("merges", []), last["_id"]]
                short = delivery["short"] + more.format(count=len(merges))
                return delivery | {"next_at": max(last["next_at"], delivery["next_at"]), "merges": merges, "short": short}
        left_at = last.get("sent_at") or last["next_at"]
        if last["state"] in ("waiting", "sending", "sent") and left_at + MERGE_WINDOW > delivery["next_at"]:
            # At most two windows: what quiet hours or a vendor hold back must not hold this one too.
            latest = delivery["next_at"] + 2 * MERGE_WINDOW
            return delivery | {"next_at": min(left_at + MERGE_WINDOW, latest)}
        return delivery

    async def deliver_due(self, now: datetime | None = None, lane: str = "") -> int:
        """Work on what is due at `now` (default: the clock's) and return how many deliveries were taken up.

        Args:
            lane: this lane alone, in its PLACES; empty: all of them side by side.

        For about ten seconds. Several workers may run it at once.
        """
        begin = now or self._clock()
        return sum(await asyncio.gather(*(self._deliver_lane(one, begin) for one in ([lane] if lane else LANES))))

    async def _deliver_lane(self, lane: str, begin: datetime) -> int:
        loop = asyncio.get_running_loop()
        began = loop.time()

        def present() -> datetime:
            return begin + timedelta(seconds=loop.time() - began)

        async def work(delivery: dict[str, Any] | None) -> int:
            count = 0
            while delivery is not None:
                await self._take_up(delivery, present)
                count += 1
                over = loop.time() - began > _ROUND_S
                delivery = None if over else await self._claim(lane, present())
            return count

        async def join_in() -> int:
            return await work(await self._claim(lane, present()))

        first = await self._claim(lane, present())
        lag_seconds.labels(lane).set(0 if first is None else max(0.0, (begin - first["next_at"]).total_seconds()))
        if first is None:
            return 0
        return sum(await asyncio.gather(work(first), *(join_in() for _ in range(PLACES[lane] - 1))))

    async def _claim(self, lane: str, now: datetime) -> dict[str, Any] | None:
        """Take one due delivery under a lease; it is returned as it was before, so `sending` tells of a crash."""
        claim = random_code(12)
        # What was written before there were lanes is ordinary.
        lanes: Any = {"$in": [ORDINARY, None]} if lane == ORDINARY else lane
        found = await self._deliveries.find_one_and_update(
            {"is_open": True, "lane": lanes, "next_at": {"$lte": now}},
            {"$set": {"next_at": now + LEASE, "claim": claim}},
            sort=[("next_at", 1)],
        )
        return None if found is None else found | {"claim": claim}

    async def _take_up(self, delivery: dict[str, Any], present: Callable[[], datetime]) -> None:
        context.request_id.set(delivery["request_id"])
        try:
            await self._work(delivery, present)
        except Exception as error:  # the lease brings it back; one broken delivery must not stop the others
            log.error("delivery.broken", delivery_id=delivery["_id"], exc_info=error)
            if self._is_given_up(delivery, present()):
                await self._finish(delivery, "failed", present(), _attempt("none", "broken", present(), code=type(error).__name__))

    async def _work(self, delivery: dict[str, Any], present: Callable[[], datetime]) -> None:
        now = present()
        if delivery["state"] == "sending" and not self._is_repeatable(delivery["channel"]):
            # Whoever sent it died before noting the outcome.
            if not await self._note_unclear(delivery, delivery["channel"], "crashed", now):
                return
        preferences = await self._store.preferences(delivery["owner_id"])
        quiet_until = None if delivery["urgent"] else preferences.quiet_until(now)
        if quiet_until is not None:
            await self._put_back(delivery, quiet_until)
            return
        letter = Letter(
            delivery["_id"], delivery["event"], delivery["owner_id"], delivery["short"], delivery["values"], delivery["link"]
        )
        for name in self._order(delivery, preferences):
            if now < delivery.get("paused", {}).get(name, now):
                continue
            channel = self._channels[name]
            envelope = await channel.prepare(letter)
            if envelope is None:
                continue
            if not await self._has_room(delivery, name, present):
                return
            if not await self._change(delivery, {"state": "sending", "channel": name}):
                return  # the lease had run out and somebody else has it
            if await self._send(delivery, channel, envelope, present):
                return
        again_at = min((until for until in delivery.get("paused", {}).values() if until > now), default=None)
        if again_at is not None:
            await self._change(delivery, {"state": "waiting", "next_at": again_at})
            return
        # Every channel there was has refused it, or nobody knows: the inbox has it, and a human makes sure.
        is_missed = delivery["must_arrive"] and delivery["closed"]
        await self._finish(delivery, "failed" if is_missed else "inbox", present())

    async def _has_room(self, delivery: Mapping[str, Any], name: str, present: Callable[[], datetime]) -> bool:
        """Wait until the rate of a channel allows one more; False: it took too long, and the delivery went back for later."""
        lane, waited_s = delivery.get("lane", ORDINARY), 0.0
        while wait_s := await self._rates.take(name, lane):
            if waited_s + wait_s > _PATIENCE_S:
                now = present()
                if self._is_given_up(delivery, now):
                    await self._finish(delivery, "failed", now, _attempt(name, "try_later", now, code="rate"))
                else:
                    # No try of the channel: it was not asked.
                    await self._put_back(delivery, now + timedelta(seconds=wait_s))
                return False
            await asyncio.sleep(wait_s)
            waited_s += wait_s
        return True

    @staticmethod
    def _is_given_up(delivery: Mapping[str, Any], now: datetime) -> bool:
        """Say whether it was tried for 72 hours since it was written (an event may be older: a replayed dead letter)."""
        return now - delivery.get("made_at", delivery["at"]) > GIVE_UP_AFTER

    def _is_repeatable(self, name: str) -> bool:
        return name in self._channels and self._channels[name].repeatable

    def _order(self, delivery: Mapping[str, Any], preferences: Preferences) -> list[str]:
        """Return the channels to try: the person's wishes first, then those that have not failed again and again."""
        names = [
            name
            for name in delivery["chain"]
            if name in self._channels and name not in delivery["closed"] and preferences.allows(delivery["kind"], name)
        ]
        if preferences.elder_mode:
            names.sort(key=lambda name: name != "sms")
        return sorted(names, key=lambda name: delivery["tries"].get(name, 0) >= _TIRED_AFTER)

    async def _send(
        self, delivery: dict[str, Any], channel: Channel, envelope: Envelope, present: Callable[[], datetime]
    ) -> bool:
        """Send once and note the outcome; False: the next channel is to be tried now."""
        try:
            vendor_id = await channel.send(envelope)
        except Refused as error:
            return not await self._note_refused(delivery, channel, envelope, error, present())
        except TryLater as error:
            return not await self._note_try_later(delivery, channel.name, error.code, present(), error.not_before)
        except Exception as error:  # Unclear, or a bug of ours after the call: either way nobody knows
            code = error.code if isinstance(error, ChannelError) else type(error).__name__
            if not isinstance(error, ChannelError):
                log.error("delivery.channel_bug", channel=channel.name, exc_info=error)
            if channel.repeatable:
                return not await self._note_try_later(delivery, channel.name, code, present())
            return not await self._note_unclear(delivery, channel.name, code, present())
        now = present()

        async def record(session: AsyncClientSession) -> bool:
            changes = {"state": "sent", "is_open": False, "sent_at": now, "vendor_id": vendor_id}
            if await self._change(delivery, changes, _attempt(channel.name, "sent", now, vendor_id=vendor_id), session):
                await channel.settle(envelope, "", session)
                return True
            return False

        if await self._database.transaction(record):
            outcomes.labels(channel.name, "sent").inc()
            delay_seconds.observe(max(0.0, (now - delivery["at"]).total_seconds()))
        return True

    async def _note_refused(
        self, delivery: dict[str, Any], channel: Channel, envelope: Envelope, error: Refused, now: datetime
    ) -> bool:
        """Note a final refusal; True: go on to the next channel."""
        closed = [*delivery["closed"], channel.name]

        async def record(session: AsyncClientSession) -> bool:
            attempt = _attempt(channel.name, "refused", now, code=error.code)
            if await self._change(delivery, {"state": "waiting", "closed": closed}, attempt, session):
                await channel.settle(envelope, error.code, session)
                return True
            return False

        outcomes.labels(channel.name, "refused").inc()
        log.info("delivery.refused", delivery_id=delivery["_id"], channel=channel.name, code=error.code)
        delivery["closed"] = closed
        return await self._database.transaction(record)

    async def _note_try_later(
        self, delivery: dict[str, Any], name: str, code: str, now: datetime, not_before: datetime | None = None
    ) -> bool:
        """Note that it was surely not sent; True: this channel pauses, so go on to the next one now."""
        tries = {**delivery["tries"], name: delivery["tries"].get(name, 0) + 1}
        outcomes.labels(name, "try_later").inc()
        if self._is_given_up(delivery, now):
            await self._finish(delivery, "failed", now, _attempt(name, "try_later", now, code=code))
            return False
        if not_before is not None:
            delivery["paused"] = {**delivery.get("paused", {}), name: not_before}
            changes = {"state": "waiting", "tries": tries, "paused": delivery["paused"]}
            return await self._change(delivery, changes, _attempt(name, "try_later", now, code=code))
        pause_s = _DELAYS_S[min(sum(tries.values()), len(_DELAYS_S)) - 1] * random.uniform(0.8, 1.2)  # noqa: S311
        await self._change(
            delivery,
            {"state": "waiting", "tries": tries, "next_at": now + timedelta(seconds=pause_s)},
            _attempt(name, "try_later", now, code=code),
        )
        return False

    async def _note_unclear(self, delivery: dict[str, Any], name: str, code: str, now: datetime) -> bool:
        """Note that nobody knows whether it went out; True: it must arrive, so go on to the next channel."""
        outcomes.labels(name, "unclear").inc()
        log.warning("delivery.unclear", delivery_id=delivery["_id"], channel=name, code=code)
        attempt = _attempt(name, "unclear", now, code=code)
        if not delivery["must_arrive"]:
            await self._finish(delivery, "unclear", now, attempt)
            return False
        delivery["closed"] = [*delivery["closed"], name]
        return await self._change(delivery, {"state": "waiting", "closed": delivery["closed"]}, attempt)

    async def _finish(
        self, delivery: Mapping[str, Any], state: str, now: datetime, attempt: Mapping[str, Any] | None = None
    ) -> None:
        changes: dict[str, Any] = {"state": state, "is_open": False}
        if state == "failed":
            changes |= {"is_undelivered": True, "failed_at": now}
        if await self._change(delivery, changes, attempt):
            outcomes.labels("none", state).inc()
            if state == "failed":
                log.error("delivery.failed", delivery_id=delivery["_id"], code=(attempt or {}).get("code", "refused"))

    async def _change(
        self,
        delivery: Mapping[str, Any],
        changes: Mapping[str, Any],
        attempt: Mapping[str, Any] | None = None,
        session: AsyncClientSession | None = None,
    ) -> bool:
        """Change a delivery that is still ours; False when its lease ran out and another worker has taken it."""
        update: dict[str, Any] = {"$set": dict(changes)}
        if attempt is not None:
            update["$push"] = {"attempts": {"$each": [attempt], "$slice": -30}}
        result = await self._deliveries.update_one(
            {"_id": delivery["_id"], "claim": delivery["claim"], "is_open": True}, update, session=session
        )
        return result.matched_count == 1

    async def _put_back(self, delivery: Mapping[str, Any], next_at: datetime) -> None:
        """Let go of a delivery that was not tried: one that comes later may still tell for it."""
        await self._deliveries.update_one(
            {"_id": delivery["_id"], "claim": delivery["claim"], "is_open": True},
            {"$set": {"state": "waiting", "next_at": next_at}, "$unset": {"claim": ""}},
        )

    # --- what others ask ---

    async def report(self, vendor_id: str, fate: str, now: datetime, *, channel: str) -> bool:
        """Note what a vendor later says of a message it took: `success`, or why the person did not get it. Called by push/reports.py.

        What did not arrive goes on to the next channel, where there is one. The first report counts: vendors repeat theirs.
        False: no send with this id is noted (yet), nothing was done.
        """
        reported = {"fate": fate[:80], "fate_at": now}
        ours = {"vendor_id": vendor_id, "channel": channel, "state": "sent"}
        first = {**ours, "fate": {"$exists": False}}
        if fate.partition(":")[0].strip() == "success":
            if (await self._deliveries.update_one(first, {"$set": reported})).modified_count:
                return True
        elif (found := await self._deliveries.find_one(first, {"is_counted": 1})) is not None:
            update = {
                # What a campaign has counted as sent is counted anew when it ends again.
                "$set": {**reported, "state": "waiting", "is_open": True, "next_at": now}
                | ({"is_counted": False} if "is_counted" in found else {}),
                # Its id goes: the next channel's takes its place, and another report of this one finds nothing.
                "$unset": {"claim": "", "vendor_id": ""},
                "$push": {"closed": channel, "attempts": _attempt(channel, "undelivered", now, code=fate[:40])},
            }
            if (await self._deliveries.update_one(first, update)).modified_count:
                outcomes.labels(channel, "undelivered").inc()
                return True
        return await self._deliveries.find_one(ours, {"_id": 1}) is not None

    async def move(self, from_id: str, into_id: str, session: AsyncClientSession) -> None:
        mine = await self._deliveries.distinct("event_id", {"owner_id": from_id}, session=session)
        twice = await self._deliveries.distinct("event_id", {"owner_id": into_id, "event_id": {"$in": mine}}, session=session)
        if twice:
            # Both accounts were told of the same thing (a campaign): what has not left for the old one does not leave any more.
            both = {"owner_id": from_id, "event_id": {"$in": twice}}
            dropped = {"$set": {"state": "merged", "is_open": False}, "$unset": {"claim": ""}}
            await self._deliveries.update_many(both | {"is_open": True, "state": "waiting"}, dropped, session=session)
        rest = {"owner_id": from_id, "event_id": {"$nin": twice}}
        await self._deliveries.update_many(rest, {"$set": {"owner_id": into_id}}, session=session)


def _attempt(channel: str, outcome: str, at: datetime, *, code: str = "", vendor_id: str = "") -> dict[str, Any]:
    attempt: dict[str, Any] = {"channel": channel, "outcome": outcome, "at": at}
    return attempt | ({"code": code} if code else {}) | ({"vendor_id": vendor_id} if vendor_id else {})
