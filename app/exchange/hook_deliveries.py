"""What goes to the web hooks of agencies: a signed POST for each event of a case that concerns one, until it is acknowledged.

    waiting -> delivered   answered 2xx
            -> waiting     anything else: later, with back-off
            -> failed      72 hours of trying: a task of that agency, until somebody sends it again
            -> dropped     the hook was removed

Guarantee: an intent is stored by the relay's subscriber, once per event and agency, before the event counts as handled; it stays open in MongoDB
until it has one of the other states. Each is sent at least once: a worker that dies after the call sends again, so the receiver tells
repetitions by `id`, the event's. One worker at a time sends to one agency, in the order of the events; one that fails lets the later ones pass.
The body has no personal data: the case's number, its item, its state and its days.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

import orjson
import structlog
from prometheus_client import Counter
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from app.exchange.hooks import Hooks
from app.exchange.signing import signed_headers
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import format_utc
from app.kernel.errors import Conflict, NotFound, ProviderUnavailable
from app.kernel.events import Event
from app.kernel.ids import new_id, random_code
from app.kernel.tasks import end
from app.platforms.http import HttpClient
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

GIVE_UP_AFTER = timedelta(hours=72)
TIMEOUT_S = 8.0
LEASE = timedelta(seconds=60)  # longer than a round and the call it ends with
_ROUND_S = 20.0
_LOOK_AGAIN_S = 0.5
_MOST_ANSWER = 64 * 1024  # nothing of it is read
_DELAYS_S = (5, 30, 120, 600, 1800, 3600)
_DAYS = ("accept_by_on", "deadline_on", "supplement_by_on", "pay_by_on", "expected_on", "received_on")

INDEXES = {
    "hook_deliveries": [
        IndexModel([("event_id", ASCENDING), ("agency_id", ASCENDING)], name="once", unique=True),
        # Only what is open, so it stays small.
        IndexModel([("agency_id", ASCENDING), ("next_at", ASCENDING)], name="due", partialFilterExpression={"is_open": True}),
        IndexModel([("agency_id", ASCENDING), ("_id", DESCENDING)], name="of_agency"),
        IndexModel([("agency_id", ASCENDING), ("state", ASCENDING), ("_id", DESCENDING)], name="of_state"),
        IndexModel([("made_at", ASCENDING)], name="kept", expireAfterSeconds=180 * 86400, partialFilterExpression={"state": "delivered"}),
    ]
}

outcomes = Counter("hall_hook_deliveries", "Calls of agencies' web hooks", ["outcome"])

Document = dict[str, Any]


class HookDeliveryNotFound(NotFound):
    code = "hook.delivery_not_found"


class HookDeliveryOpen(Conflict):
    code = "hook.delivery_open"


class HookDeliveries:
    """Args: `concerned` returns the ids of all agencies that have to do with a case now, by the case's id."""

    def __init__(
        self,
        database: Database,
        hooks: Hooks,
        http: HttpClient,
        concerned: Callable[[str], Awaitable[set[str]]],
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._deliveries = database["hook_deliveries"]
        self._hooks_collection = database["hooks"]
        self._hooks = hooks
        self._http = http
        self._concerned = concerned
        self._clock = clock

    # --- storing ---

    async def note(self, event: Event) -> None:
        """Store the intents of one event: the relay's subscriber "hooks". Idempotent."""
        agencies = {str(event.data.get(name) or "") for name in ("agency_id", "from_agency_id")}
        hooks = await self._hooks_collection.find({}, {"events": 1}).to_list()
        if not hooks:  # the case need not be looked at
            return
        agencies |= await self._concerned(event.subject_id)
        now = self._clock()
        for hook in hooks:
            if hook["_id"] not in agencies or (hook["events"] and event.name not in hook["events"]):
                continue
            try:
                await self._deliveries.insert_one(_new_delivery(hook["_id"], event, now))
            except DuplicateKeyError:  # the relay came again
                continue

    # --- sending ---

    async def deliver_due(self) -> int:
        """Send what is due to every agency side by side; called by the worker. Returns how many calls were made.

        While one agency's system takes its time, what becomes due for another goes out.
        """
        began, calls = perf_counter(), 0
        rounds: dict[str, asyncio.Task[tuple[int, bool]]] = {}
        waiting: set[str] = set()  # for the next call
        try:
            while True:
                if perf_counter() - began < _ROUND_S:
                    due = await self._deliveries.distinct("agency_id", {"is_open": True, "next_at": {"$lte": self._clock()}})
                    for agency_id in set(due) - rounds.keys() - waiting:
                        rounds[agency_id] = asyncio.create_task(self._round(agency_id))
                if not rounds:
                    return calls
                await asyncio.wait(rounds.values(), timeout=_LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
                for agency_id in [agency_id for agency_id, task in rounds.items() if task.done()]:
                    made, is_done = rounds.pop(agency_id).result()
                    calls += made
                    if not is_done:
                        waiting.add(agency_id)
        finally:
            await end(rounds.values())

    async def _round(self, agency_id: str) -> tuple[int, bool]:
        """Send to one agency until nothing is due; return how many calls were made, and False where something had to wait."""
        claim, now = random_code(12), self._clock()
        hook = await self._hooks_collection.find_one_and_update(
            {"_id": agency_id, "paused_at": None, "leased_until": {"$lte": now}},
            {"$set": {"leased_until": now + LEASE, "claim": claim}},
            return_document=ReturnDocument.AFTER,
        )
        if hook is None:  # paused, another worker has it, or there is none any more: removed while an event was being noted
            if await self._hooks_collection.find_one({"_id": agency_id}, {"_id": 1}) is None:
                await self._deliveries.update_many({"agency_id": agency_id, "is_open": True}, {"$set": {"state": "dropped", "is_open": False}})
            return 0, False
        calls, is_done, began = 0, False, perf_counter()
        try:
            while perf_counter() - began < _ROUND_S:
                delivery = await self._deliveries.find_one(
                    {"agency_id": agency_id, "is_open": True, "next_at": {"$lte": self._clock()}}, sort=[("_id", ASCENDING)]
                )
                if delivery is None:
                    is_done = True
                    break
                # As it is now: paused, moved or with a new secret since the last call.
                hook = await self._hooks_collection.find_one({"_id": agency_id, "claim": claim, "paused_at": None})
                if hook is None:
                    break
                calls += 1
                if not await self._send(hook, delivery):
                    break  # its system is away: the others need not wait for a time-out each
        finally:
            await self._hooks_collection.update_one({"_id": agency_id, "claim": claim}, {"$set": {"leased_until": now}})
        return calls, is_done

    async def _send(self, hook: Mapping[str, Any], delivery: Mapping[str, Any]) -> bool:
        """Call once and note the outcome; False when nobody answered, or the hook pauses."""
        found = await self._call(hook, delivery["body"])
        now, is_done = self._clock(), 200 <= found["status"] < 300
        attempt = {"at": now, **found}
        changes: Document = {"tries": delivery["tries"] + 1}
        since = delivery.get("first_tried_at") or now
        changes["first_tried_at"] = since
        if is_done:
            changes |= {"state": "delivered", "is_open": False, "delivered_at": now}
        elif now - since > GIVE_UP_AFTER:
            changes |= {"state": "failed", "is_open": False, "failed_at": now}
            log.error("hook.failed", agency_id=hook["_id"], delivery_id=delivery["_id"], status=found["status"], cause=found["cause"])
        else:
            delay_s = _DELAYS_S[min(delivery["tries"], len(_DELAYS_S) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311
            changes["next_at"] = now + timedelta(seconds=delay_s)
        outcomes.labels(changes.get("state", "try_later")).inc()
        await self._deliveries.update_one(
            {"_id": delivery["_id"], "is_open": True},
            {"$set": changes, "$push": {"attempts": {"$each": [attempt], "$slice": -20}}},
        )
        if found["status"] == 410:  # "gone for good": the receiver's own word for stop
            await self._hooks_collection.update_one({"_id": hook["_id"]}, {"$set": {"paused_at": now, "paused_why": "gone"}})
            log.warning("hook.paused", agency_id=hook["_id"], why="gone")
            return False
        return bool(found["status"])

    async def _call(self, hook: Mapping[str, Any], content: Mapping[str, Any]) -> Document:
        """Make one signed call; return `{status, cause, ms}`, status 0 when nobody answered."""
        now, began = self._clock(), perf_counter()
        secret, previous = self._hooks.secrets_of(hook, now)
        body = orjson.dumps(content)
        headers = signed_headers(hook["app"], secret, "POST", hook["url"], body, hook["algorithm"], now, previous=previous)
        status, cause = 0, ""
        try:
            # A breaker and a cap per agency: one whose system hangs keeps nobody else's waiting.
            answer = await self._http.request(
                f"hook.{hook['_id']}",
                "POST",
                hook["url"],
                headers={"Content-Type": "application/json", **headers},
                body=body,
                timeout_s=TIMEOUT_S,
                max_bytes=_MOST_ANSWER,
            )
            status = answer.status
        except ProviderUnavailable as error:
            cause = str(error.context.get("cause") or "unreachable")
            status = int(error.context.get("status") or 0)  # type: ignore[call-overload]
        return {"status": status, "cause": cause, "ms": round((perf_counter() - began) * 1000)}

    # --- what an agency's people ask ---

    async def ping(self, staff: StaffSession) -> Document:
        """Call the hook with a test message now; return `{delivered, status, cause, ms}`. Raises HeadNeeded, HookNotFound."""
        await self._hooks.view(staff)
        hook = await self._hooks_collection.find_one({"_id": staff.agency_id})
        assert hook is not None
        now = self._clock()
        found = await self._call(hook, {"id": new_id("evt"), "event": "ping", "at": format_utc(now)})
        await record(self._database["audit"], actor=staff.account, action="hook.pinged", subject=staff.agency_id, owner_id="")
        return {"delivered": 200 <= found["status"] < 300, **found}

    async def page(self, staff: StaffSession, *, state: str, limit: int, cursor: str | None) -> tuple[list[Document], str | None]:
        """Return the agency's deliveries, newest first, of one state or all, and the cursor of the next page."""
        query: Document = {"agency_id": staff.agency_id} | ({"state": state} if state else {})
        if cursor:
            query["_id"] = {"$lt": cursor}
        rows = await self._deliveries.find(query).sort("_id", DESCENDING).limit(limit + 1).to_list()
        return [_view(row) for row in rows[:limit]], rows[limit - 1]["_id"] if len(rows) > limit else None

    async def repeat(self, staff: StaffSession, delivery_id: str) -> Document:
        """Send one that has ended once more, with 72 hours of its own. Raises HookDeliveryNotFound, HookDeliveryOpen."""
        row = await self._deliveries.find_one({"_id": delivery_id, "agency_id": staff.agency_id})
        if row is None:
            raise HookDeliveryNotFound("没有找到这次推送。", en="No such delivery.")
        again = {"state": "waiting", "is_open": True, "next_at": self._clock(), "tries": 0, "first_tried_at": None}
        changed = await self._deliveries.find_one_and_update(
            {"_id": delivery_id, "is_open": False}, {"$set": again}, return_document=ReturnDocument.AFTER
        )
        if changed is None:
            raise HookDeliveryOpen("这次推送还在进行，不用再发。", en="It is still under way.")
        await record(self._database["audit"], actor=staff.account, action="hook.repeated", subject=delivery_id, owner_id="")
        return _view(changed)


def _new_delivery(agency_id: str, event: Event, now: datetime) -> Document:
    return {
        "_id": new_id("hkd"),
        "agency_id": agency_id,
        "event_id": event.id,
        "event": event.name,
        "body": body_of(event),
        "state": "waiting",
        "is_open": True,
        "next_at": now,
        "made_at": now,
        "tries": 0,
        "first_tried_at": None,
        "attempts": [],
    }


def body_of(event: Event) -> Document:
    """Return what an agency's system is told of an event: nothing that says who the applicant is."""
    data = event.data
    return {
        "id": event.id,
        "event": event.name,
        "at": format_utc(event.at),
        "case": {
            "number": data.get("number"),
            "item_code": data.get("item_code"),
            "item_name": data.get("item_name"),
            "agency_id": data.get("agency_id"),
            "state": data.get("state"),
            "version": data.get("version"),
            **{name: str(data[name])[:10] for name in _DAYS if data.get(name)},
        },
    }


def _view(row: Mapping[str, Any]) -> Document:
    return {
        "id": row["_id"],
        "event_id": row["event_id"],
        "event": row["event"],
        "case_number": row["body"]["case"]["number"],
        "state": row["state"],
        "made_at": format_utc(row["made_at"]),
        "next_at": format_utc(row["next_at"]) if row["is_open"] else None,
        "delivered_at": format_utc(row.get("delivered_at")),
        "failed_at": format_utc(row.get("failed_at")),
        "tries": row["tries"],
        "attempts": [
            {"at": format_utc(one["at"]), "status": one["status"], "cause": one["cause"], "ms": one["ms"]} for one in row["attempts"]
        ],
    }
