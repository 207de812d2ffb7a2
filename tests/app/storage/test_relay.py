"""The relay hands every event to every subscriber at least once, whoever fails or dies in between."""

import asyncio
from datetime import timedelta

from pymongo.asynchronous import command_runner
from pymongo.errors import OperationFailure

from app.kernel.clock import utc_now
from app.kernel.events import new_event
from app.storage import outbox, relay
from app.storage.mongo import ensure_indexes
from app.storage.relay import Relay


async def put(database, *names):
    events = [new_event(name, subject=("case", "case_1"), owner_id="res_1") for name in names]
    await database.transaction(lambda session: outbox.append(database, session, events))
    return events


async def test_each_subscriber_gets_each_event_and_a_failing_one_is_tried_again_alone(database):
    got, tries = [], []

    async def steady(event):
        got.append(event.id)

    async def shaky(event):
        tries.append(event.id)
        if len(tries) == 1:
            raise RuntimeError("first time fails")

    [event] = await put(database, "case.submitted")
    relays = Relay(database, {"case.submitted": [("steady", steady), ("shaky", shaky)]})
    await relays.drain()
    assert (got, tries) == ([event.id], [event.id])
    await database["events"].update_many({}, {"$set": {"next_at": utc_now()}})
    await relays.drain()
    assert (got, tries) == ([event.id], [event.id, event.id])
    assert (await database["events"].find_one({"_id": event.id}))["state"] == "done"


async def test_an_event_whose_relay_died_is_taken_again_after_its_lease(database):
    got = []

    async def note(event):
        got.append(event.id)

    [event] = await put(database, "case.submitted")
    dying = Relay(database, {})
    assert (await dying._claim(1))[0]["_id"] == event.id  # ... and then the process is gone
    living = Relay(database, {"case.submitted": [("note", note)]})
    assert await living.drain() == 0, "the lease still holds"
    await database["events"].update_one({"_id": event.id}, {"$inc": {"tries": 0}, "$set": {"next_at": utc_now() - timedelta(seconds=1)}})
    assert await living.drain() == 1
    assert got == [event.id]


async def test_two_relays_share_the_events(database):
    got = []

    async def note(event):
        got.append(event.id)
        await asyncio.sleep(0)

    events = [event for _ in range(5) for event in await put(database, "order.paid", "case.fee_paid")]
    both = [Relay(database, {"order.paid": [("n", note)], "case.fee_paid": [("n", note)]}) for _ in range(2)]
    await asyncio.gather(*(one.drain() for one in both))
    assert sorted(got) == sorted(event.id for event in events)


async def test_what_keeps_failing_is_kept_as_dead_and_can_be_replayed(database):
    broken = True
    got = []

    async def subscriber(event):
        if broken:
            raise RuntimeError("still broken")
        got.append(event.id)

    [event] = await put(database, "case.submitted")
    one = Relay(database, {"case.submitted": [("s", subscriber)]})
    for _ in range(relay.MAX_TRIES):
        await database["events"].update_many({"state": "waiting"}, {"$set": {"next_at": utc_now()}})
        await one.drain()
    stored = await database["events"].find_one({"_id": event.id})
    assert stored["state"] == "dead"
    assert stored["errors"] == ["s: RuntimeError: still broken"]
    broken = False
    assert await relay.replay(database) == 1
    await one.drain()
    assert got == [event.id]


async def test_an_aborted_transaction_leaves_no_event(database):
    async def work(session):
        await outbox.append(database, session, [new_event("case.submitted", subject=("case", "c"), owner_id="r")])
        raise RuntimeError("the process changes its mind")

    try:
        await database.transaction(work)
    except RuntimeError:
        pass
    assert await database["events"].count_documents({}) == 0


async def test_running_relay_stops_in_good_order(database):
    got = asyncio.Event()

    async def note(_event):
        got.set()

    stop = asyncio.Event()
    one = Relay(database, {"case.submitted": [("n", note)]})
    task = asyncio.create_task(one.run(stop, poll_s=0.1))
    await put(database, "case.submitted")
    one.wake()
    await asyncio.wait_for(got.wait(), 5)
    stop.set()
    await asyncio.wait_for(task, 5)


async def test_an_urgent_event_waits_behind_no_burst_and_brings_what_came_before_it_along(database):
    told, slow = [], asyncio.Event()

    async def tell(event):
        if event.subject_id.startswith("crowd"):
            await slow.wait()
        told.append((event.subject_id, event.name))

    before = utc_now() - timedelta(minutes=5)
    crowd = [new_event("case.resumed", subject=("case", f"crowd_{n}"), owner_id="r", at=before) for n in range(60)]
    await database.transaction(lambda session: outbox.append(database, session, crowd))
    mine = [new_event(name, subject=("case", "mine"), owner_id="r") for name in ("case.submitted", "case.resumed", "case.fee_due")]
    later = new_event("case.resumed", subject=("case", "mine"), owner_id="r")
    stop = asyncio.Event()
    one = Relay(database, {name: [("t", tell)] for name in ("case.submitted", "case.resumed", "case.fee_due")}, urgent=["case.fee_due"])
    task = asyncio.create_task(one.run(stop, poll_s=0.1))
    while len(one._in_hand) < relay._PLACES:  # the burst has every place it may have
        await asyncio.sleep(0.01)
    await database.transaction(lambda session: outbox.append(database, session, [*mine, later]))
    one.wake()
    async with asyncio.timeout(5):
        while len(told) < 3:
            await asyncio.sleep(0.01)
    assert told == [("mine", event.name) for event in mine]
    slow.set()
    async with asyncio.timeout(20):
        while len(told) < 64:
            await asyncio.sleep(0.01)
    stop.set()
    await task
    assert await database["events"].count_documents({"state": "done"}) == 64


async def test_what_takes_longer_than_the_lease_is_not_repeated_while_its_relay_lives(database, monkeypatch):
    monkeypatch.setattr(relay, "LEASE", timedelta(seconds=0.4))
    monkeypatch.setattr(relay, "_RENEWED_S", 0.1)
    got = []

    async def slowly(event):
        got.append(event.id)
        await asyncio.sleep(1.2)

    [event] = await put(database, "order.paid")
    stop = asyncio.Event()
    both = [Relay(database, {"order.paid": [("n", slowly)]}, urgent=["order.paid"]) for _ in range(2)]
    tasks = [asyncio.create_task(one.run(stop, poll_s=0.1)) for one in both]
    await asyncio.sleep(1.8)
    stop.set()
    await asyncio.gather(*tasks)
    assert got == [event.id]


async def test_looking_for_urgent_events_costs_the_same_whatever_waits(database):
    await ensure_indexes(database, outbox.INDEXES)
    before = utc_now() - timedelta(minutes=5)
    await database.transaction(
        lambda session: outbox.append(database, session, [new_event(f"case.other_{n % 9}", subject=("case", f"c{n}"), owner_id="r", at=before) for n in range(600)])
    )
    wanted = {"state": "waiting", "next_at": {"$lte": utc_now()}, "name": {"$in": ["case.fee_due", "order.paid"]}}
    told = await database["events"].find(wanted).sort([("next_at", 1), ("_id", 1)]).limit(8).explain()
    assert told["executionStats"]["totalKeysExamined"] <= 4


async def test_a_claim_that_fails_in_the_middle_keeps_no_urgent_event_for_ever(database, monkeypatch):
    monkeypatch.setattr(relay, "LEASE", timedelta(seconds=0.6))
    monkeypatch.setattr(relay, "_RENEWED_S", 0.2)
    run, hiccups = command_runner._run_command, []

    async def hiccup(conn, spec, *args, **kwargs):
        if not hiccups and "$or" in spec.get("filter", {}):  # the look for what came before, after the urgent one is taken
            hiccups.append(spec)
            raise OperationFailure("operation was interrupted", 11601)
        return await run(conn, spec, *args, **kwargs)

    monkeypatch.setattr(command_runner, "_run_command", hiccup)
    got, others = asyncio.Event(), asyncio.Event()

    async def note(_event):
        got.set()

    worker = Relay(database, {"case.submitted": [("note", note)]}, urgent=["case.submitted"])
    await put(database, "case.submitted")
    async with worker._renewing(), asyncio.TaskGroup() as group:  # the urgent places alone
        group.create_task(worker._loop(others, 0.1, group, worker._wakes["urgent"], worker._claim_urgent, 8))
        try:
            async with asyncio.timeout(5):
                await got.wait()
        finally:
            others.set()
    assert len(hiccups) == 1
