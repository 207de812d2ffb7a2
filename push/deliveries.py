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
push) the call is repeated with the same delivery id until its outcome is known.

Lanes and rates: push/lanes.py. Claims and notes, many at once: push/in_hand.py. From a claim to an outcome: push/sending.py.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Gauge
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.events import Event
from app.kernel.ids import new_id
from app.kernel.tasks import end
from app.storage.mongo import Database
from push.channel import Channel
from push.in_hand import InHand
from push.lanes import CAMPAIGN, LANES, ORDINARY, PLACES, URGENT, Rates
from push.sending import Sending, new_attempt, outcomes
from push.store import Store
from push.templates import EventSpec, Rendered

_ROUND_S = 10  # then the caller gets a turn: it may have been asked to stop
_LOOK_AGAIN_S = 0.25
_TOGETHER_S = 0.01
# So many times its places a lane has in hand: while some are at a vendor, others are claimed, made ready and noted.
_AHEAD = 3
# Of one matter and person at most one message leaves the hall in so long a time, of those that may be merged (`may_merge`).
MERGE_WINDOW = timedelta(seconds=60)

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
        "item_code": str(event.data.get("item_code") or ""),
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
        "language": rendered.language,
    }


class Deliveries:
    def __init__(
        self, database: Database, store: Store, channels: Sequence[Channel], rates: Rates, clock: Callable[[], datetime]
    ) -> None:
        self._deliveries = database["deliveries"]
        self._channels: Mapping[str, Channel] = {channel.name: channel for channel in channels}
        self._clock = clock
        self._in_hand = InHand(database)
        self._sending = Sending(self._in_hand, store, self._channels, rates)

    def follow_campaigns(self, lane_of: Callable[[str], Awaitable[str | None]]) -> None:
        """Let campaigns say in which lane one of theirs goes on that a channel refused or lost; None: no more."""
        self._sending.lane_of_campaign = lane_of

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

    async def add_many(self, deliveries: Sequence[Mapping[str, Any]], session: AsyncClientSession) -> None:
        """Insert intents for many persons at once. Only such as never merge: of what goes to many no person gets two."""
        await self._deliveries.insert_many([dict(delivery) | {"may_merge": False} for delivery in deliveries], session=session)

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
        taken_up, in_hand, places = 0, set[asyncio.Task[None]](), PLACES[lane] * (1 if lane == URGENT else _AHEAD)

        def present() -> datetime:
            return begin + timedelta(seconds=loop.time() - began)

        oldest = await self._in_hand.oldest_due(lane, begin)
        lag_seconds.labels(lane).set(max(0.0, (begin - oldest).total_seconds()) if oldest else 0)
        if oldest is None:
            return 0
        try:
            while loop.time() - began <= _ROUND_S:
                free = places - len(in_hand)
                claimed = await self._in_hand.claim(lane, present(), free)
                taken_up += len(claimed)
                # All of them begin in the same turn of the loop, so what they read and note is one command for all.
                in_hand |= {loop.create_task(self._sending.take_up(delivery, present)) for delivery in claimed}
                if not in_hand:
                    break
                # Nothing more is due: one that waits for a slow vendor must not keep the others from what becomes due meanwhile.
                await _until_free(in_hand, places, lane, _LOOK_AGAIN_S if len(claimed) < free else None)
        except asyncio.CancelledError:
            await end(in_hand)
            raise
        finally:  # also when the database is away: what is in hand is finished first
            await asyncio.gather(*in_hand)
        return taken_up

    # --- what others ask ---

    async def report(self, vendor_id: str, fate: str, now: datetime, *, channel: str) -> bool:
        """Note what a vendor later says of a message it took: `success`, or why the person did not get it. Called by push/reports.py.

        What did not arrive goes on to the next channel, where there is one, but not of a campaign that was stopped. The first report counts: vendors repeat theirs.
        False: no send with this id is noted (yet), nothing was done.
        """
        reported = {"fate": fate[:80], "fate_at": now}
        ours = {"vendor_id": vendor_id, "channel": channel, "state": "sent"}
        first = {**ours, "fate": None}
        if fate.partition(":")[0].strip() == "success":
            if (await self._deliveries.update_one(first, {"$set": reported})).modified_count:
                return True
        elif (found := await self._deliveries.find_one(first, {"is_counted": 1, "lane": 1, "event_id": 1})) is not None:
            goes_on: dict[str, Any] = {"state": "waiting", "is_open": True, "next_at": now}
            if found.get("lane") == CAMPAIGN and self._sending.lane_of_campaign is not None:
                lane = await self._sending.lane_of_campaign(found["event_id"])
                goes_on = {"state": "inbox", "is_open": False, "stopped_at": now} if lane is None else goes_on | {"lane": lane}
            update = {
                # What a campaign has counted as sent is counted anew when it ends again.
                "$set": {**reported, **goes_on} | ({"is_counted": False} if "is_counted" in found else {}),
                # Its id goes: the next channel's takes its place, and another report of this one finds nothing.
                "$unset": {"claim": "", "vendor_id": ""},
                "$push": {"closed": channel, "attempts": new_attempt(channel, "undelivered", now, code=fate[:40])},
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
            # What has left for the old one, or is leaving, has told this person.
            left = {"owner_id": from_id, "event_id": {"$in": twice}, "state": {"$in": ["sending", "sent", "unclear"]}}
            told = await self._deliveries.distinct("event_id", left, session=session)
            untold = {"owner_id": into_id, "event_id": {"$in": told}, "is_open": True, "state": "waiting"}
            await self._deliveries.update_many(untold, dropped, session=session)
        rest = {"owner_id": from_id, "event_id": {"$nin": twice}}
        await self._deliveries.update_many(rest, {"$set": {"owner_id": into_id}}, session=session)


async def _until_free(in_hand: set[asyncio.Task[None]], places: int, lane: str, look_again_s: float | None) -> None:
    """Wait for a free place; where it can wait, a moment longer for half of them: then what they take up goes together."""
    wanted, until = 1 if lane == URGENT else places // 2, None
    loop = asyncio.get_running_loop()
    while places - len(in_hand) < wanted or look_again_s is not None:
        timeout = look_again_s if until is None else max(0.0, until - loop.time())
        done, _ = await asyncio.wait(in_hand, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        in_hand -= done
        for task in done:
            task.result()
        if not done or not in_hand or look_again_s is not None:
            return
        until = until or loop.time() + _TOGETHER_S
