"""An event becomes exactly one message in its person's inbox, numbered in the order of commits."""

import asyncio

import pytest

from app.kernel.errors import NotFound
from tests.push.desk import Desk


async def test_telling_again_changes_nothing(desk: Desk):
    owner_id = await desk.resident(phone=True)
    event = desk.event(owner_id, "case.accepted")

    await desk.push.tell(event)
    await desk.push.tell(event)

    inbox = await desk.push.inbox(owner_id, unread=False, limit=10, cursor=None)
    assert [item["event"] for item in inbox["items"]] == ["case.accepted"]
    assert inbox["items"][0]["subject"] == {"kind": "case", "id": event.subject_id}
    assert inbox["items"][0]["state"] == "accepted"
    assert inbox["unread_count"] == 1
    assert len(await desk.deliveries(owner_id)) == 1


async def test_two_relays_at_once_write_one_message(desk: Desk):
    owner_id = await desk.resident(phone=True)
    event = desk.event(owner_id, "case.accepted")

    await asyncio.gather(*(desk.push.tell(event) for _ in range(6)))
    await desk.push.deliver_due()

    assert len((await desk.push.inbox(owner_id, unread=False, limit=10, cursor=None))["items"]) == 1
    assert [item["channel"] for item in await desk.sent(owner_id)] == ["sms"]


async def test_many_writers_leave_no_gap_in_the_numbers(desk: Desk):
    owner_id = await desk.resident()
    events = [desk.event(owner_id, "case.evaluated") for _ in range(25)]

    await asyncio.gather(*(desk.push.tell(event) for event in events))

    numbers = [message["seq"] for message in await desk.push.store.after(owner_id, 0, 100)]
    assert numbers == list(range(1, 26))
    assert await desk.push.store.head(owner_id) == 25


async def test_pages_of_the_inbox_meet_without_overlap(desk: Desk):
    owner_id = await desk.resident()
    for _ in range(5):
        await desk.push.tell(desk.event(owner_id, "case.evaluated"))

    first = await desk.push.inbox(owner_id, unread=False, limit=3, cursor=None)
    second = await desk.push.inbox(owner_id, unread=False, limit=3, cursor=first["next_cursor"])

    ids = [item["id"] for item in first["items"] + second["items"]]
    assert len(set(ids)) == 5 and ids == sorted(ids, reverse=True)
    assert second["next_cursor"] is None


async def test_reading_counts_once_and_only_ones_own(desk: Desk):
    owner_id, stranger = await desk.resident(), await desk.resident()
    await desk.push.tell(desk.event(owner_id, "case.evaluated"))
    message_id = (await desk.push.inbox(owner_id, unread=True, limit=1, cursor=None))["items"][0]["id"]

    with pytest.raises(NotFound):
        await desk.push.mark_read(stranger, message_id)
    first = await desk.push.mark_read(owner_id, message_id)
    again = await desk.push.mark_read(owner_id, message_id)

    assert first["read_at"] == again["read_at"] is not None
    assert await desk.push.unread_count(owner_id) == 0


async def test_a_joined_resident_finds_everything_in_one_inbox(desk: Desk):
    old, new = await desk.resident(), await desk.resident()
    await desk.push.tell(desk.event(old, "case.evaluated"))
    await desk.push.tell(desk.event(new, "case.withdrawn"))
    late = desk.event(old, "case.completed")  # happened before the join, told after it

    await desk.push.reassign(old, new)
    await desk.push.reassign(old, new)
    await desk.push.tell(late)
    await desk.push.tell(late)

    names = [item["event"] for item in (await desk.push.inbox(new, unread=False, limit=10, cursor=None))["items"]]
    assert sorted(names) == ["case.completed", "case.evaluated", "case.withdrawn"]
    assert (await desk.push.inbox(old, unread=False, limit=10, cursor=None))["items"] == []
    numbers = [message["seq"] for message in await desk.push.store.after(new, 0, 10)]
    assert numbers == sorted(set(numbers)) and numbers[-1] == await desk.push.store.head(new)


async def test_language_of_the_person(desk: Desk):
    owner_id = await desk.resident(phone=True)
    await desk.push.set_preferences(owner_id, {"language": "en"})

    await desk.push.tell(desk.event(owner_id, "case.accepted"))
    await desk.push.deliver_due()

    assert (await desk.push.inbox(owner_id, unread=False, limit=1, cursor=None))["items"][0]["title"].startswith("Accepted:")
    assert (await desk.sent(owner_id))[0]["text"].startswith("[Shaoguan Hall]")
