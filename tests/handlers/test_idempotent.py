"""An operation with an Idempotency-Key that takes its time: whoever repeats it waits while it lives, and goes on soon after it died."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import pytest

from app.identity import store
from app.identity.sessions import Sessions
from app.kernel.clock import utc_now
from app.kernel.ids import new_id, ulid
from app.storage import idempotency
from app.storage.mongo import ensure_indexes
from handlers.base import HallHandler, operation
from tests.handlers.serving import serving


class Slow(HallHandler):
    """Works until it is told that it may end; each run tells which id it would make."""

    may_end: asyncio.Event
    runs: list[str]

    @operation("slow", auth="resident", idempotent=True)
    async def post(self) -> None:
        made = self.idempotent_id("slow")
        self.runs.append(made)
        await self.may_end.wait()
        await self.answer({"id": made}, 201)


@pytest.fixture
async def slow(database, keys, monkeypatch):
    """Call it with a key; renewed every 0.1 s, a lease of 0.6 s."""
    monkeypatch.setattr(idempotency, "RENEWED_S", 0.1)
    monkeypatch.setattr(idempotency, "LEASE", timedelta(seconds=0.6))
    monkeypatch.setattr(Slow, "may_end", asyncio.Event(), raising=False)
    monkeypatch.setattr(Slow, "runs", [], raising=False)
    await ensure_indexes(database, idempotency.INDEXES)
    document = store.new_resident(new_id("res"), utc_now())
    await database["residents"].insert_one(document)
    sessions = Sessions(database, keys)
    login = await sessions.begin(document, "sms", True)
    identity = SimpleNamespace(sessions=sessions)
    async with serving([(r"/slow", Slow)], database=database, keys=keys, identity=identity) as site:

        async def call(key):
            return await site.call("POST", "/slow", token=login.access_token, headers={"Idempotency-Key": key})

        yield call


async def test_while_it_works_a_repetition_is_told_to_wait_and_then_gets_its_answer(slow):
    key = ulid()
    first = asyncio.create_task(slow(key))
    await asyncio.sleep(1.5)  # more than two leases
    again = await slow(key)
    assert (again.status, again.json["code"], again.headers["Retry-After"]) == (409, "idempotency.in_progress", "1")
    Slow.may_end.set()
    answer = await first
    repeated = await slow(key)
    assert (repeated.status, repeated.json, repeated.headers["Idempotent-Replayed"]) == (201, answer.json, "true")
    assert len(Slow.runs) == 1


async def test_after_its_death_the_next_try_goes_on_with_the_same_id(slow, database, keys):
    key = ulid()
    first = asyncio.create_task(slow(key))
    while not Slow.runs:
        await asyncio.sleep(0.01)
    # What a killed process leaves: its record, which nobody renews.
    record = await database["idempotency"].find_one({})
    Slow.may_end.set()
    await first
    await database["idempotency"].replace_one({"_id": record["_id"]}, record | {"lease_until": utc_now() + idempotency.LEASE})
    assert (await slow(key)).status == 409
    await asyncio.sleep(idempotency.LEASE.total_seconds())
    answer = await slow(key)
    assert (answer.status, answer.json["id"]) == (201, Slow.runs[0])
    assert Slow.runs == [Slow.runs[0]] * 2
