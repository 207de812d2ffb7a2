"""Sending a campaign: the worker walks its segment batch by batch, writes to inboxes, holds and counts deliveries.

Guarantee: each person of the segment has exactly one message of a campaign, whatever dies when, however many workers there are.
- The messages, the deliveries and the place in the walk (`cursor`) of a batch are one transaction: all of it is there, or nothing.
- (campaign, person) is unique among messages and among deliveries: the event's id is the campaign's (indexes `once`).
- Whose account was joined to another meanwhile is looked up again in the transaction, and after the join (`reassign`).

Paced by the campaign itself: `next_at` moves forward with each batch, so all workers together keep one rate. Pausing takes the batch in hand
away from its worker (`claim`) and puts what has not left yet into a lane that nobody works on (`held`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import BulkWriteError, DuplicateKeyError
from redis.asyncio import Redis

from app.kernel.errors import HallError
from app.kernel.ids import new_id, random_code
from app.storage.mongo import Database
from app.storage.redis import publish
from push.campaigns import machine, steps
from push.campaigns.counting import Counting
from push.campaigns.model import EVENT, KIND, chain, event_of
from push.campaigns.segments import LAST, People, from_document
from push.deliveries import Deliveries, new_delivery
from push.lanes import CAMPAIGN
from push.model import STREAM_CHANNEL
from push.service import told as telling
from push.store import Store, new_message
from push.templates import MessageTemplates

log = structlog.get_logger(__name__)

SYSTEM = machine.Actor("system", frozenset({machine.SYSTEM}))
HELD = "held"  # a lane without a worker (push/lanes.py)
LEASE = timedelta(seconds=10)  # of a batch: longer than one takes
MOST_AT_ONCE = 100
# Persons written to whose delivery is due and has not left: more only tells the inbox sooner and makes the lane long for other campaigns.
AHEAD = 2000
_JOINS_KNOWN_FOR = timedelta(days=1)


class Sending:
    def __init__(
        self,
        database: Database,
        redis: Redis,
        *,
        store: Store,
        deliveries: Deliveries,
        templates: MessageTemplates,
        people: Mapping[str, People],
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._campaigns = database["campaigns"]
        self._deliveries = database["deliveries"]
        self._redis = redis
        self._store = store
        self._add_deliveries = deliveries.add_many
        deliveries.follow_campaigns(self._lane_of)
        self._templates = templates
        self._people = people
        self._clock = clock
        self.counting = Counting(database)

    async def run(self, for_s: float = 3.0) -> int:
        """One round of the worker: begin what is due, hold what is paused, write to the next persons for about `for_s`, count, finish.

        Returns how many persons were written to. Several workers may run it at once.
        """
        now = self._clock()
        async for campaign in self._campaigns.find({"is_active": True}, {"state": 1}):
            if campaign["state"] == machine.APPROVED:
                await self._step(campaign["_id"], "begin", now, {"next_at": now, "before": new_id("res"), "started_at": now})
            else:
                await self.settle(campaign["_id"])
        told = await self._write_for(for_s)
        await self.counting.run()
        query = {"is_active": True, "state": machine.RUNNING, "is_expanded": True, "late": []}
        async for campaign in self._campaigns.find(query, {"_id": 1}):
            if not await self.counting.is_open(campaign["_id"]):
                ended_at = self._clock()
                await self._step(campaign["_id"], "finish", ended_at, {"is_active": False, "next_at": None, "finished_at": ended_at})
        return told

    async def _step(self, campaign_id: str, name: str, now: datetime, changes: Mapping[str, Any]) -> None:
        async def work(session: AsyncClientSession) -> None:
            await steps.take(self._database, campaign_id, name, SYSTEM, now, session, changes=changes)

        try:
            await self._database.transaction(work)
            log.info("campaign.step", campaign_id=campaign_id, step=name)
        except HallError:
            pass  # not yet, or another worker was faster

    # --- pausing and stopping ---

    async def settle(self, campaign_id: str) -> None:
        """Bring deliveries that have not left into line with the campaign's state. Called after a step, and each round: idempotent.

        What a worker has in hand and not begun to send loses its claim, so it is not sent: the claim is asked for again before each call.
        """
        campaign = await self._campaigns.find_one({"_id": campaign_id}, {"state": 1})
        state = campaign["state"] if campaign else ""
        waiting = {"is_counted": False, "is_open": True, "event_id": campaign_id}
        if state == machine.PAUSED:
            unsent = waiting | {"lane": CAMPAIGN, "state": "waiting"}
            # What was in hand is due a lease later; nobody has it any more.
            taken = {"$set": {"lane": HELD, "next_at": self._clock()}, "$unset": {"claim": ""}}
            await self._deliveries.update_many(unsent | {"claim": {"$gt": ""}}, taken)
            await self._deliveries.update_many(unsent, {"$set": {"lane": HELD}, "$unset": {"claim": ""}})
        elif state == machine.RUNNING:
            await self._deliveries.update_many(waiting | {"lane": HELD}, {"$set": {"lane": CAMPAIGN}})
            if await self._campaigns.find_one({"_id": campaign_id, "state": {"$ne": machine.RUNNING}}, {"_id": 1}) is not None:
                await self.settle(campaign_id)  # paused since we looked: what was just let go is held again
        elif state == machine.STOPPED:
            dropped = {"$set": {"state": "inbox", "is_open": False, "stopped_at": self._clock()}, "$unset": {"claim": ""}}
            await self._deliveries.update_many(waiting | {"state": "waiting"}, dropped)
            if await self._deliveries.find_one(waiting, {"_id": 1}) is None:
                await self._campaigns.update_one({"_id": campaign_id, "state": machine.STOPPED}, {"$set": {"is_active": False}})

    async def _lane_of(self, campaign_id: str) -> str | None:
        """Return the lane in which something of a campaign that was lost goes on, or None: the campaign was stopped.

        News stand in the lane of campaigns too and are none: nobody stops them.
        """
        campaign = await self._campaigns.find_one({"_id": campaign_id}, {"state": 1})
        state = campaign["state"] if campaign else machine.RUNNING
        return None if state == machine.STOPPED else HELD if state == machine.PAUSED else CAMPAIGN

    async def reassign(self, from_id: str, into_id: str) -> None:
        """After two residents were joined: the one who stays is part of what the other was part of. Idempotent.

        The walk may have passed the older account before the younger one's cases came to it, so it is looked at once more. Whoever has the
        message already is not told again.
        """
        recent = {"state": machine.FINISHED, "finished_at": {"$gt": self._clock() - _JOINS_KNOWN_FOR}}
        begun = {"is_active": True, "state": {"$in": [machine.RUNNING, machine.PAUSED]}}
        again = {"$addToSet": {"late": into_id}, "$set": {"is_active": True, "next_at": self._clock()}}
        await self._campaigns.update_many({"$or": [begun, recent]}, again)

    # --- writing ---

    async def _write_for(self, for_s: float) -> int:
        loop = asyncio.get_running_loop()
        end, count = loop.time() + for_s, 0
        while loop.time() < end:
            campaign = await self._claim()
            if campaign is not None:
                try:
                    count += await self._batch(campaign)
                except Exception as error:  # one broken campaign must not stop the others; its lease brings it back
                    log.error("campaign.batch_failed", campaign_id=campaign["_id"], exc_info=error)
                continue
            following = await self._campaigns.find_one(self._due(self._clock() + timedelta(seconds=end - loop.time())), sort=[("next_at", 1)])
            if following is None:
                break
            await asyncio.sleep(max(0.005, (following["next_at"] - self._clock()).total_seconds()))
        return count

    @staticmethod
    def _due(by: datetime) -> dict[str, Any]:
        return {"is_active": True, "next_at": {"$lte": by}, "state": {"$in": [machine.RUNNING, machine.FINISHED]}}

    async def _claim(self) -> dict[str, Any] | None:
        """Take the next batch of a campaign under a lease; it is returned as it was before."""
        now, claim = self._clock(), random_code(12)
        update = {"$set": {"claim": claim, "next_at": now + LEASE}}
        found = await self._campaigns.find_one_and_update(self._due(now), update, sort=[("next_at", 1)])
        return None if found is None else found | {"claim": claim}

    async def _batch(self, campaign: Mapping[str, Any]) -> int:
        """Write to the next persons of a campaign; return to how many."""
        size = max(1, min(MOST_AT_ONCE, campaign["rate"] // 4))
        segment = from_document(campaign["segment"])
        people, before = self._people[segment.kind], campaign["before"]
        late, cursor = campaign["late"][:size], campaign["cursor"]
        if late:
            # Accounts made after the campaign began are not part of it, joined or not.
            ids = [each for each in late if each < before and (await people.stretch(segment, "", LAST, 1, only=each))[0]]
            place: dict[str, Any] = {}
        elif campaign["is_expanded"]:
            ids, place = [], {}
        else:
            if campaign["limit"] is not None:
                size = min(size, campaign["limit"] - campaign["told"] - campaign["muted"])
                if size <= 0 and (await people.stretch(segment, cursor, before, 1))[0]:  # there is one more
                    held = {"needs_operator": True, "paused_by_operator": True, "claim": ""}
                    await self._step(campaign["_id"], "hold", self._clock(), held)
                    return 0
                size = max(1, size)
            if await self._is_ahead(campaign["_id"]):
                later = {"$set": {"next_at": self._clock() + timedelta(seconds=0.5)}, "$unset": {"claim": ""}}
                await self._campaigns.update_one({"_id": campaign["_id"], "claim": campaign["claim"]}, later)
                return 0
            found, following = await people.stretch(segment, cursor, before, size)
            ids, place = list(found), {"cursor": following or cursor, "is_expanded": following is None}
        told = await self._once(lambda session: self._write(campaign, ids, late, place, session))
        for owner_id in told:
            await publish(self._redis, STREAM_CHANNEL, owner_id)
        return len(told)

    async def _is_ahead(self, campaign_id: str) -> bool:
        """Say whether as many as AHEAD are due and have not left. Those that wait for the end of quiet hours are not due."""
        due = {"is_counted": False, "is_open": True, "event_id": campaign_id, "lane": CAMPAIGN, "next_at": {"$lte": self._clock()}}
        return await self._deliveries.count_documents(due, limit=AHEAD) >= AHEAD

    async def _write(
        self, claimed: Mapping[str, Any], ids: Sequence[str], late: Sequence[str], place: Mapping[str, Any], session: AsyncClientSession
    ) -> list[str]:
        """Write messages, deliveries and the place in the walk, all in the transaction of `session`. Returns who was told.

        Nothing is written when the campaign was taken away meanwhile: by a step, or because the lease ran out.
        """
        campaign = await self._campaigns.find_one({"_id": claimed["_id"], "claim": claimed["claim"]}, session=session)
        if campaign is None:
            return []
        campaign_id, now = campaign["_id"], self._clock()
        owners = await self._store.present_owners(ids, session)
        known = await self._store.having_message(campaign_id, owners, session)
        wishes = await self._store.preferences_of([owner for owner in owners if owner not in known], session)
        told = [owner for owner, wish in wishes.items() if not wish.refuses(KIND)]
        # Two accounts of one person are known to be one only here, so who is looked at again is not counted again.
        muted = 0 if late else len(wishes) - len(told)
        rest = [each for each in campaign["late"] if each not in late]
        is_expanded = place.get("is_expanded", campaign["is_expanded"])
        changes = {**place, "late": rest, "next_at": None if is_expanded and not rest else _paced(claimed, len(ids), now)}
        if campaign["state"] == machine.FINISHED:
            changes["is_active"] = bool(rest)
        await self._campaigns.update_one(
            {"_id": campaign_id},
            {"$set": changes, "$inc": {"told": len(told), "muted": muted}, "$unset": {"claim": ""}},
            session=session,
        )
        if told:
            specs = {owner: chain(campaign["channels"], self._templates.specs[EVENT], wishes[owner]) for owner in told}
            seqs = await self._store.next_seqs(told, session)
            events = {owner: event_of(campaign, owner, now) for owner in told}
            rendered = {language: self._templates.render(events[told[0]], language) for language in {wishes[one].language for one in told}}
            messages = {owner: new_message(owner, seqs[owner], events[owner], rendered[wishes[owner].language]) for owner in told}
            await self._store.add_messages([message | {"is_counted": False} for message in messages.values()], session)
            intents = [
                new_delivery(messages[owner]["_id"], owner, events[owner], specs[owner], rendered[wishes[owner].language], now)
                for owner in told
            ]
            await self._add_deliveries([intent | {"is_counted": False} for intent in intents], session)
        return told

    async def _once(self, write: Callable[[AsyncClientSession], Any]) -> list[str]:
        # As Push._once: somebody's very first message at this moment, or a join; the second time it is found.
        for _ in range(4):
            try:
                told: list[str] = await self._database.transaction(write)
                telling.labels(EVENT).inc(len(told))
                return told
            except (DuplicateKeyError, BulkWriteError) as error:
                log.info("campaign.batch_again", error=type(error).__name__)
        return []  # its lease brings it back


def _paced(claimed: Mapping[str, Any], count: int, now: datetime) -> datetime:
    """Return when the next batch is due, so that on the whole `rate` persons are written to in a second.

    What a slow batch lost is made up for, up to a second; after a pause or a crash nothing is.
    """
    began = max(claimed["next_at"], now - timedelta(seconds=1))
    return began + timedelta(seconds=count / claimed["rate"])
