"""Many events of one case leave the hall as one message; the inbox keeps each, and a legal notice always goes alone."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from app.kernel.clock import utc_now
from push.deliveries import MERGE_WINDOW
from tests.push.desk import Desk

LATER = "case.resumed", "case.deadline_changed", "case.escalated", "case.correction_answered"


async def _tell_of_one_case(desk: Desk, owner_id: str, *names: str, at_once: bool = False) -> None:
    first = desk.event(owner_id, names[0])
    events = [first, *(replace(desk.event(owner_id, name), subject_id=first.subject_id) for name in names[1:])]
    if at_once:
        await asyncio.gather(*(desk.push.tell(event) for event in events))
    else:
        for event in events:
            await desk.push.tell(event)


async def _with_app(desk: Desk) -> str:
    owner_id = await desk.resident()
    await desk.push.put_device(owner_id, owner_id, "ios", "")
    return owner_id


@pytest.mark.parametrize("at_once", [False, True])
async def test_events_that_come_together_leave_as_one_and_stay_apart_in_the_inbox(desk: Desk, at_once: bool):
    owner_id = await _with_app(desk)

    await _tell_of_one_case(desk, owner_id, *LATER, at_once=at_once)
    await desk.push.deliver_due()

    (sent,) = await desk.sent(owner_id)
    assert "另有3条新进展" in str(sent)
    assert len((await desk.push.inbox(owner_id, unread=False, limit=10, cursor=None))["items"]) == 4
    assert sorted(one["state"] for one in await desk.deliveries(owner_id)) == ["merged"] * 3 + ["sent"]


async def test_what_follows_a_message_waits_for_the_end_of_the_window(desk: Desk):
    owner_id = await _with_app(desk)
    first = desk.event(owner_id, LATER[0])
    await desk.push.tell(first)
    await desk.push.deliver_due()
    for name in LATER[1:]:
        await desk.push.tell(replace(desk.event(owner_id, name), subject_id=first.subject_id))

    await desk.push.deliver_due()
    assert len(await desk.sent(owner_id)) == 1
    await desk.push.deliver_due(utc_now() + MERGE_WINDOW + timedelta(seconds=1))

    sent = await desk.sent(owner_id)
    assert len(sent) == 2 and "另有2条新进展" in str(sent[1])


async def test_legal_notices_and_other_cases_are_never_merged(desk: Desk):
    owner_id = await desk.resident(phone=True)

    await _tell_of_one_case(desk, owner_id, "case.accepted", "case.suspended", "case.fee_due", "case.approved")
    await desk.push.tell(desk.event(owner_id, "case.accepted"))
    await desk.push.deliver_due()

    assert len(await desk.sent(owner_id)) == 5


async def test_one_that_a_worker_has_in_hand_is_not_merged_away(desk: Desk):
    owner_id = await _with_app(desk)
    first = desk.event(owner_id, LATER[0])
    await desk.push.tell(first)
    assert len(await desk.push.deliveries._in_hand.claim("ordinary", utc_now(), 1)) == 1

    await desk.push.tell(replace(desk.event(owner_id, LATER[1]), subject_id=first.subject_id))

    assert [one["state"] for one in await desk.deliveries(owner_id)] == ["waiting", "waiting"]
    await desk.push.deliver_due(utc_now() + 3 * MERGE_WINDOW)
    assert len(await desk.sent(owner_id)) == 2
