"""One delivery on its way: from a claim to a final state or to another try, over the channels that the person may be reached on.

Whatever a call comes to is noted while the delivery is still ours (push/in_hand.py); `sending` is noted before the call, and a call takes no
longer than the lease that came with that note.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from prometheus_client import Counter, Histogram
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError

from app.kernel import context
from push.channel import Channel, ChannelError, Envelope, Letter, Refused, TryLater, Unclear
from push.in_hand import InHand, longest_call_s
from push.lanes import CAMPAIGN, ORDINARY, PLACES, URGENT, Rates
from push.model import ELDER_FIRST, Preferences
from push.store import Store

log = structlog.get_logger(__name__)

GIVE_UP_AFTER = timedelta(hours=72)
# So long a place waits for the rate of a channel; then the delivery goes back and the place takes the next one.
_PATIENCE_S = 5
_TELLS_S = 0.3
# After so many failed tries the next channel goes first.
_TIRED_AFTER = 4
_DELAYS_S = (2, 10, 60, 300, 1800, 3600)
# What is urgent is of most use in its first minute; a vendor that is away is spared by its breaker.
_URGENT_DELAYS_S = (1, 2, 4, 8, 15, 60, 300, 1800, 3600)

outcomes = Counter("hall_deliveries", "Tries to deliver and final states", ["channel", "outcome"])
delay_seconds = Histogram(
    "hall_delivery_seconds", "From the event until it was sent", buckets=(0.5, 1, 3, 10, 60, 600, 3600, 86400)
)

Present = Callable[[], datetime]


class Sending:
    def __init__(self, in_hand: InHand, store: Store, channels: Mapping[str, Channel], rates: Rates) -> None:
        self._in_hand = in_hand
        self._store = store
        self._channels = channels
        self.rates = rates
        # Says in which lane one of a campaign goes on now, None: no more (push/campaigns/sending.py).
        self.lane_of_campaign: Callable[[str], Awaitable[str | None]] | None = None
        self._places = {lane: asyncio.Semaphore(places) for lane, places in PLACES.items()}

    async def take_up(self, delivery: dict[str, Any], present: Present) -> None:
        """Work on a claimed delivery. Raises nothing: what breaks comes back when the lease has run out."""
        context.request_id.set(delivery["request_id"])
        try:
            await self._work(delivery, present)
        except Exception as error:  # one broken delivery must not stop the others
            log.error("delivery.broken", delivery_id=delivery["_id"], exc_info=error)
            if self._is_given_up(delivery, present()):
                await self._finish(delivery, "failed", present(), new_attempt("none", "broken", present(), code=type(error).__name__))

    async def _work(self, delivery: dict[str, Any], present: Present) -> None:
        now = present()
        # Whoever had it before died in a call, or before noting the outcome: where the vendor knows our id, that call is made again first.
        begun = delivery["channel"] if delivery["state"] == "sending" else ""
        if begun and not self._is_repeatable(begun):
            if not await self._note_unclear(delivery, begun, "crashed", now):
                return
            begun = ""
        if delivery["attempts"] and await self._is_held(delivery, now):
            return
        preferences = await self._store.preferences(delivery["owner_id"])
        if not begun and not delivery["must_arrive"] and preferences.silences(delivery["subject"]["id"], delivery.get("item_code", "")):
            await self._finish(delivery, "inbox", now)
            return
        quiet_until = None if delivery["urgent"] else preferences.quiet_until(now)
        if quiet_until is not None:
            await self._put_back(delivery, quiet_until)
            return
        letter = Letter(
            delivery["_id"], delivery["event"], delivery["owner_id"], delivery["short"], delivery["values"], delivery["link"],
            delivery.get("language", "zh"),
        )  # fmt: skip
        order = self._order(delivery, preferences)
        for name in [begun, *(name for name in order if name != begun)] if begun else order:
            if now < delivery.get("paused", {}).get(name, now):
                continue
            channel = self._channels[name]
            envelope = await channel.prepare(letter) if name in order else None
            if envelope is None:
                # Begun, and now it cannot be asked again whether it came to anything.
                if name == begun and not await self._note_unclear(delivery, name, "crashed", now):
                    return
                continue
            if not await self._has_room(delivery, name, present):
                return
            if await self._send(delivery, channel, envelope, present):
                return
            delivery["state"] = "waiting"
            if await self._is_held(delivery, present()):
                return
        again_at = min((until for until in delivery.get("paused", {}).values() if until > now), default=None)
        if again_at is not None:
            await self._in_hand.change(delivery, {"state": "waiting", "next_at": again_at})
            return
        # Every channel there was has refused it, or nobody knows: the inbox has it, and a human makes sure.
        is_missed = delivery["must_arrive"] and delivery["closed"]
        await self._finish(delivery, "failed" if is_missed else "inbox", present())

    async def _is_held(self, delivery: Mapping[str, Any], now: datetime) -> bool:
        """Say whether this is of a campaign that was paused or stopped while a channel was asked: then it goes to no other."""
        if delivery.get("lane") != CAMPAIGN or delivery["state"] != "waiting" or self.lane_of_campaign is None:
            return False
        lane = await self.lane_of_campaign(delivery["event_id"])
        if lane == CAMPAIGN:
            return False
        if lane is None:
            await self._in_hand.change(delivery, {"state": "inbox", "is_open": False, "stopped_at": now})
        else:
            await self._in_hand.change(delivery, {"lane": lane, "next_at": now}, lets_go=True)
        return True

    async def _has_room(self, delivery: Mapping[str, Any], name: str, present: Present) -> bool:
        """Wait until the rate of a channel allows one more; False: it took too long, and the delivery went back for later."""
        lane, waited_s = delivery.get("lane", ORDINARY), 0.0
        while wait_s := await self.rates.take(name, lane):
            if waited_s + wait_s > min(_PATIENCE_S, longest_call_s(lane)):  # the lease must outlast it
                now = present()
                if self._is_given_up(delivery, now):
                    await self._finish(delivery, "failed", now, new_attempt(name, "try_later", now, code="rate"))
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
            names.sort(key=lambda name: ELDER_FIRST.index(name) if name in ELDER_FIRST else len(ELDER_FIRST))
        return sorted(names, key=lambda name: delivery["tries"].get(name, 0) >= _TIRED_AFTER)

    async def _send(self, delivery: dict[str, Any], channel: Channel, envelope: Envelope, present: Present) -> bool:
        """Send once and note the outcome; False: the next channel is to be tried now."""
        lane = delivery.get("lane", ORDINARY)
        try:
            async with self._places[lane]:
                if not await self._in_hand.start_sending(delivery, channel.name, present()):
                    return True  # the lease had run out and somebody else has it
                # A channel gives up by itself a moment before: it knows best whether anything was sent. The outer limit is a belt.
                with context.time_limit(longest_call_s(lane) - _TELLS_S):
                    async with asyncio.timeout(longest_call_s(lane)):
                        vendor_id = await channel.send(envelope)
        except PyMongoError:  # before the call: the lease brings it back
            raise
        except Refused as error:
            return not await self._note_refused(delivery, channel, envelope, error, present())
        except TryLater as error:
            return not await self._note_try_later(delivery, channel.name, error.code, present(), error.not_before)
        except (Unclear, TimeoutError) as error:
            code = error.code if isinstance(error, Unclear) else "timeout"
            return not await self._note_no_answer(delivery, channel, code, present())
        except Exception as error:  # a bug of ours, before the call or after it: nobody knows
            log.error("delivery.channel_bug", channel=channel.name, exc_info=error)
            code = error.code if isinstance(error, ChannelError) else type(error).__name__
            return not await self._note_no_answer(delivery, channel, code, present())
        now = present()
        changes: dict[str, Any] = {"state": "sent", "is_open": False, "sent_at": now, "vendor_id": vendor_id}
        if delivery.get("fate"):  # of the channel before, which lost it
            changes["fate"] = None
        attempt = new_attempt(channel.name, "sent", now, vendor_id=vendor_id)
        if await self._in_hand.change(delivery, changes, attempt, settle=_settle(channel, envelope, "")):
            outcomes.labels(channel.name, "sent").inc()
            delay_seconds.observe(max(0.0, (now - delivery["at"]).total_seconds()))
        return True

    # --- outcomes ---

    async def _note_refused(
        self, delivery: dict[str, Any], channel: Channel, envelope: Envelope, error: Refused, now: datetime
    ) -> bool:
        """Note a final refusal; True: go on to the next channel."""
        closed = [*delivery["closed"], channel.name]
        outcomes.labels(channel.name, "refused").inc()
        log.info("delivery.refused", delivery_id=delivery["_id"], channel=channel.name, code=error.code)
        delivery["closed"] = closed
        attempt = new_attempt(channel.name, "refused", now, code=error.code)
        return await self._in_hand.change(
            delivery, {"state": "waiting", "closed": closed}, attempt, settle=_settle(channel, envelope, error.code)
        )

    async def _note_no_answer(self, delivery: dict[str, Any], channel: Channel, code: str, now: datetime) -> bool:
        """Note that nobody knows what became of a call; True: go on to the next channel."""
        if channel.repeatable:
            return await self._note_try_later(delivery, channel.name, code, now)
        return await self._note_unclear(delivery, channel.name, code, now)

    async def _note_try_later(
        self, delivery: dict[str, Any], name: str, code: str, now: datetime, not_before: datetime | None = None
    ) -> bool:
        """Note that it was surely not sent, or may be repeated; True: this channel pauses, so go on to the next one now."""
        tries = {**delivery["tries"], name: delivery["tries"].get(name, 0) + 1}
        outcomes.labels(name, "try_later").inc()
        attempt = new_attempt(name, "try_later", now, code=code)
        if self._is_given_up(delivery, now):
            await self._finish(delivery, "failed", now, attempt)
            return False
        if not_before is not None:
            delivery["paused"] = {**delivery.get("paused", {}), name: not_before}
            return await self._in_hand.change(delivery, {"state": "waiting", "tries": tries, "paused": delivery["paused"]}, attempt)
        delays_s = _URGENT_DELAYS_S if delivery.get("lane") == URGENT else _DELAYS_S
        pause_s = delays_s[min(sum(tries.values()), len(delays_s)) - 1] * random.uniform(0.8, 1.2)  # noqa: S311
        await self._in_hand.change(delivery, {"state": "waiting", "tries": tries, "next_at": now + timedelta(seconds=pause_s)}, attempt)
        return False

    async def _note_unclear(self, delivery: dict[str, Any], name: str, code: str, now: datetime) -> bool:
        """Note that nobody knows whether it went out; True: it must arrive, so go on to the next channel."""
        outcomes.labels(name, "unclear").inc()
        log.warning("delivery.unclear", delivery_id=delivery["_id"], channel=name, code=code)
        attempt = new_attempt(name, "unclear", now, code=code)
        if not delivery["must_arrive"]:
            await self._finish(delivery, "unclear", now, attempt)
            return False
        delivery |= {"state": "waiting", "closed": [*delivery["closed"], name]}
        return await self._in_hand.change(delivery, {"state": "waiting", "closed": delivery["closed"]}, attempt)

    async def _finish(
        self, delivery: Mapping[str, Any], state: str, now: datetime, attempt: Mapping[str, Any] | None = None
    ) -> None:
        if delivery.get("lane") == CAMPAIGN and state == "failed":
            state = "inbox"  # may be missed: the campaign counts it, nobody rings thousands of people up
        changes: dict[str, Any] = {"state": state, "is_open": False}
        if state == "failed":
            changes |= {"is_undelivered": True, "failed_at": now}
        if await self._in_hand.change(delivery, changes, attempt):
            outcomes.labels("none", state).inc()
            if state == "failed":
                log.error("delivery.failed", delivery_id=delivery["_id"], code=(attempt or {}).get("code", "refused"))

    async def _put_back(self, delivery: Mapping[str, Any], next_at: datetime) -> None:
        """Let go of a delivery that was not tried: one that comes later may still tell for it."""
        # `sending` stays: what a dead worker had begun is still to be found out.
        await self._in_hand.change(delivery, {"state": delivery["state"], "next_at": next_at}, lets_go=True)


def _settle(channel: Channel, envelope: Envelope, code: str) -> Callable[[AsyncClientSession], Any] | None:
    if not channel.settles:
        return None
    return lambda session: channel.settle(envelope, code, session)


def new_attempt(channel: str, outcome: str, at: datetime, *, code: str = "", vendor_id: str = "") -> dict[str, Any]:
    """Return one line of what was tried."""
    attempt: dict[str, Any] = {"channel": channel, "outcome": outcome, "at": at}
    return attempt | ({"code": code} if code else {}) | ({"vendor_id": vendor_id} if vendor_id else {})


