"""A campaign reaches each person of its segment once, whatever dies when and however many workers there are."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from app.kernel.clock import SHANGHAI, utc_now
from app.kernel.ids import new_id
from push.campaigns import sending
from tests.app.cases.dying import mortal
from tests.push.campaigns.office import CLERK, HEAD, Office, put_together


async def test_everybody_is_told_once_and_only_who_asked_is_texted(office: Office):
    texted = await office.residents(3, phone=True)
    silent = await office.residents(2)
    office.desk.town.phones[silent[0]] = "13900009999"  # has a number and did not ask for text messages
    refusing = await office.residents(1, phone=True)
    await office.desk.push.set_preferences(refusing[0], {"kinds": {"notice": {"inbox": False}}})
    campaign_id = await office.approved()

    found = await office.run_out(campaign_id)

    assert await office.told(campaign_id) == sorted(texted + silent)
    assert await office.texted() == sorted(office.desk.town.phones[each] for each in texted)
    progress = found["progress"]
    assert {name: progress[name] for name in ("size", "told", "muted", "sent", "inbox", "waiting", "failed", "opened", "percent")} == {
        "size": 6, "told": 5, "muted": 1, "sent": 3, "inbox": 2, "waiting": 0, "failed": 0, "opened": 0, "percent": 100,
    }  # fmt: skip
    [message] = (await office.desk.push.inbox(texted[0], unread=False, limit=5, cursor=None))["items"]
    assert (message["kind"], message["title"], message["link"]) == ("notice", "户籍窗口搬迁", "/items/id_card_lost")
    assert "新华南路1号" in message["body"] and "韶关市公安局" in message["body"]


async def test_opening_is_counted_once_also_after_the_end(office: Office):
    people = await office.residents(3)
    campaign_id = await office.approved(channels=())
    await office.run_out(campaign_id)
    [message] = (await office.desk.push.inbox(people[0], unread=False, limit=5, cursor=None))["items"]

    await office.desk.push.mark_read(people[0], message["id"])
    await office.run()
    await office.desk.push.mark_read(people[0], message["id"])
    await office.desk.push.mark_all_read(people[1])
    await asyncio.gather(office.run(2), office.run(2))

    assert (await office.seen(campaign_id))["progress"]["opened"] == 2


@pytest.mark.parametrize("after", [False, True])
async def test_whatever_write_the_worker_dies_at_each_person_has_one_message(office: Office, monkeypatch, after):
    monkeypatch.setattr(sending, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(sending, "LEASE", timedelta(0))  # whoever comes next need not wait for a dead one's lease
    people = await office.residents(5)
    ends_at = 0
    with mortal(monkeypatch) as attempt:
        while True:
            ends_at += 1
            campaign_id = await office.approved(channels=())
            died = await attempt(lambda: office.campaigns.sending.run(0.5), ends_at, after)
            found = await office.run_out(campaign_id, deliver=False)
            assert await office.told(campaign_id) == people
            assert await office.database["deliveries"].count_documents({"event_id": campaign_id}) == 5
            assert {name: found["progress"][name] for name in ("told", "inbox", "waiting", "muted")} == {
                "told": 5, "inbox": 5, "waiting": 0, "muted": 0,
            }  # fmt: skip
            if not died:
                break
    assert ends_at > 40, "every command of three batches, the counting and the end"
    numbers = [message["seq"] for message in await office.desk.push.store.after(people[0], 0, 1000)]
    assert numbers == list(range(1, len(numbers) + 1)), "and the stream's numbers have no gap"


async def test_whatever_write_the_channels_worker_dies_at_each_person_is_texted_once(office: Office, monkeypatch):
    people = await office.residents(1, phone=True)
    ends_at = 0
    with mortal(monkeypatch) as attempt:
        while True:
            ends_at += 1
            campaign_id = await office.approved()
            await office.run()
            died = await attempt(lambda: office.desk.push.deliver_due(lane="campaign"), ends_at, ends_at % 2 == 0)
            leases_are_over = {"$set": {"next_at": utc_now()}}
            await office.database["deliveries"].update_many({"event_id": campaign_id, "is_open": True}, leases_are_over)
            found = await office.run_out(campaign_id)
            assert found["progress"]["sent"] == 1
            assert len(await office.texted()) == ends_at, "the gateway knows the delivery's id"
            if not died:
                break
    assert ends_at > 3 and await office.told(campaign_id) == people


async def test_two_workers_at_once_and_a_second_process_tell_each_once(office: Office):
    people = await office.residents(60, phone=True)
    other = put_together(office.desk, office.identity, office.subscriptions, office.catalogue)
    campaign_id = await office.approved(rate=400)

    async def work(campaigns):
        for _ in range(12):
            await campaigns.sending.run(0.2)
            await office.desk.push.deliver_due(lane="campaign")

    await asyncio.gather(work(office.campaigns), work(other), work(office.campaigns))

    found = await office.run_out(campaign_id)
    assert await office.told(campaign_id) == people
    assert await office.texted() == sorted(office.desk.town.phones[each] for each in people)
    assert found["progress"]["sent"] == found["progress"]["told"] == 60


async def test_the_rate_is_kept_by_all_workers_together(office: Office):
    await office.residents(40)
    campaign_id = await office.approved(channels=(), rate=20)
    loop = asyncio.get_running_loop()
    began = loop.time()

    await asyncio.gather(office.run(for_s=1.0), office.run(for_s=1.0))

    told, took = len(await office.told(campaign_id)), loop.time() - began
    assert 10 <= told <= 20 * took + 10, (told, took)


async def test_a_pause_holds_also_what_is_written_and_resuming_sends_it(office: Office):
    await office.residents(8, phone=True)
    campaign_id = await office.approved()
    await office.run()
    assert len(await office.told(campaign_id)) == 8

    await office.campaigns.act(campaign_id, CLERK, "pause")
    for _ in range(3):
        await office.run()
        await office.desk.push.deliver_due(lane="campaign")
    assert await office.texted() == []
    paused = await office.seen(campaign_id)
    assert (paused["state"], paused["progress"]["waiting"]) == ("paused", 8)

    await office.campaigns.act(campaign_id, HEAD, "resume")
    await office.run_out(campaign_id)
    assert len(await office.texted()) == 8


async def test_a_pause_in_the_middle_stops_the_walk_and_it_goes_on_where_it_was(office: Office):
    people = await office.residents(30)
    campaign_id = await office.approved(channels=(), rate=20)
    await office.run(for_s=0.4)
    running = asyncio.create_task(office.run(for_s=2.0))
    await asyncio.sleep(0.3)

    await office.campaigns.act(campaign_id, CLERK, "pause")

    some = await office.told(campaign_id)
    await running
    await office.run(2, for_s=0.5)
    assert await office.told(campaign_id) == some and 0 < len(some) < 30
    await office.campaigns.act(campaign_id, HEAD, "resume")
    await office.run_out(campaign_id)
    assert await office.told(campaign_id) == people


async def test_a_worker_that_has_one_in_hand_when_it_is_paused_does_not_send_it(office: Office):
    await office.residents(1, phone=True)
    campaign_id = await office.approved()
    await office.run()
    channel = office.desk.push.deliveries._channels["sms"]
    really_prepare = channel.prepare

    async def prepare(letter):
        await office.campaigns.act(campaign_id, CLERK, "pause")  # between taking it up and sending it
        return await really_prepare(letter)

    channel.prepare = prepare
    await office.desk.push.deliver_due(lane="campaign")
    channel.prepare = really_prepare

    assert await office.texted() == []
    await office.campaigns.act(campaign_id, HEAD, "resume")
    await office.run_out(campaign_id)
    assert len(await office.texted()) == 1


async def test_stopping_takes_back_what_has_not_left_and_the_inbox_keeps_what_was_told(office: Office):
    await office.residents(6, phone=True)
    campaign_id = await office.approved()
    await office.run()

    await office.campaigns.act(campaign_id, HEAD, "stop", note="地址写错了")
    await office.run(2)
    await office.desk.push.deliver_due(lane="campaign")

    found = await office.seen(campaign_id)
    assert (found["state"], found["progress"]["inbox"], found["progress"]["waiting"]) == ("stopped", 6, 0)
    assert await office.texted() == [] and len(await office.told(campaign_id)) == 6
    assert found["allowed_actions"] == []
    document = await office.database["campaigns"].find_one({"_id": campaign_id})
    assert document["is_active"] is False, "nobody looks at it any more"


async def test_a_stop_whose_process_died_before_taking_anything_back_is_finished_by_the_worker(office: Office, monkeypatch):
    await office.residents(2, phone=True)
    campaign_id = await office.approved()
    await office.run()
    with monkeypatch.context() as patched:
        patched.setattr(office.campaigns.sending, "settle", lambda _id: asyncio.sleep(0))
        await office.campaigns.act(campaign_id, HEAD, "stop", note="地址写错了")

    await office.run()
    await office.desk.push.deliver_due(lane="campaign")

    assert await office.texted() == []


async def test_quiet_hours_hold_the_text_message_not_the_inbox(office: Office):
    [owner_id] = await office.residents(1, phone=True)
    now = utc_now().astimezone(SHANGHAI)
    hours = {"from": (now - timedelta(hours=1)).time(), "to": (now + timedelta(hours=2)).time()}
    await office.desk.push.set_preferences(owner_id, {"quiet_hours": hours})
    campaign_id = await office.approved()

    await office.run()
    await office.desk.push.deliver_due(lane="campaign")

    assert await office.told(campaign_id) == [owner_id] and await office.texted() == []
    await office.run()
    assert (await office.seen(campaign_id))["state"] == "running", "it is finished when the last one has left"
    await office.desk.push.deliver_due(utc_now() + timedelta(hours=3), lane="campaign")
    await office.run_out(campaign_id)
    assert len(await office.texted()) == 1


async def test_two_accounts_of_one_person_get_one_message(office: Office):
    older, younger = await office.residents(2)
    await office.case(younger)
    segment = sending.from_document({"kind": "applicants", "agency_id": "", "divisions": [], "items": ["id_card_lost"], "themes": [],
                                     "from_on": None, "until_on": None})  # fmt: skip
    # Known to be one before the walk comes to them.
    await join(office, younger, older)
    first = await office.approved(channels=(), segment=segment)
    await office.run_out(first)
    assert await office.told(first) == [older]
    # Both were told before it is known.
    mine, too = await office.residents(2)
    second = await office.approved(channels=())
    await office.run()
    await join(office, too, mine)
    await office.run_out(second)
    assert sorted(await office.told(second)) == [older, mine]
    # The walk has passed the older account, and only then the younger one's case comes to it.
    third_mine, third_too = await office.residents(2)
    await office.case(third_too)
    third = await office.approved(channels=(), segment=segment)
    await office.run(0)
    await office.campaigns.sending._step(third, "begin", utc_now(), {"next_at": utc_now(), "before": new_id("res"), "cursor": third_too})
    await join(office, third_too, third_mine)
    await office.run_out(third)
    assert await office.told(third) == [third_mine]
    # The same, and the campaign had finished before the join was heard of.
    fourth_mine, fourth_too = await office.residents(2)
    segment = replace(segment, items=("school_enrol",))
    fourth = await office.approved(channels=(), segment=segment)
    await office.run_out(fourth)
    assert await office.told(fourth) == []
    await office.case(fourth_mine, item="school_enrol")  # came over from the younger account when the walk had passed the older
    for _ in range(2):  # the event comes at least once
        await join(office, fourth_too, fourth_mine)
        await office.run(2)
    assert await office.told(fourth) == [fourth_mine]
    assert (await office.database["campaigns"].find_one({"_id": fourth}))["is_active"] is False


async def test_one_who_has_two_accounts_with_a_text_message_each_still_waiting_gets_one_of_them(office: Office):
    older, younger = await office.residents(2, phone=True)
    office.desk.town.phones[younger] = office.desk.town.phones[older]
    campaign_id = await office.approved()
    await office.run()

    await join(office, younger, older)
    found = await office.run_out(campaign_id)

    assert await office.told(campaign_id) == [older]
    assert await office.texted() == [office.desk.town.phones[older]]
    assert (found["progress"]["sent"], found["progress"]["merged"], found["progress"]["waiting"]) == (1, 1, 0)


async def join(office: Office, from_id: str, into_id: str) -> None:
    """As app.identity does: the accounts, then everything that hangs on them."""
    await office.database["residents"].update_one({"_id": from_id}, {"$set": {"merged_into": into_id}})
    await office.database["cases"].update_many({"owner_id": from_id}, {"$set": {"owner_id": into_id}})
    await office.desk.push.reassign(from_id, into_id)
    await office.campaigns.reassign(from_id, into_id)


async def test_who_registers_during_the_run_is_not_part_of_it(office: Office):
    before = await office.residents(4)
    campaign_id = await office.approved(channels=(), rate=4)
    await office.run(for_s=0.1)
    await office.residents(3)

    await office.run_out(campaign_id)

    assert await office.told(campaign_id) == before


async def test_more_than_was_approved_is_held_for_the_operator(office: Office):
    from tests.push.campaigns.office import OPERATOR

    office.campaigns._approval_size = 3
    await office.residents(3)
    as_many_as_may_be = await office.approved(channels=())
    await office.run_out(as_many_as_may_be)
    campaign_id = await office.approved(channels=())
    await office.residents(3)  # it has grown since

    await office.run(3)

    found = await office.seen(campaign_id, HEAD)
    assert (found["state"], found["progress"]["told"], found["needs_operator"]) == ("paused", 3, True)
    assert "resume" not in found["allowed_actions"]
    await office.campaigns.act(campaign_id, OPERATOR, "resume")
    await office.run_out(campaign_id)
    assert len(await office.told(campaign_id)) == 6


async def test_it_does_not_run_ahead_of_what_can_be_sent(office: Office, monkeypatch):
    monkeypatch.setattr(sending, "AHEAD", 5)
    await office.residents(20, phone=True)
    campaign_id = await office.approved(rate=8)

    for _ in range(4):
        await office.run(for_s=0.3)

    assert len(await office.told(campaign_id)) == 6, "two at a time until five wait"
    await office.run_out(campaign_id)
    assert len(await office.texted()) == 20


async def test_the_planned_start_is_waited_for(office: Office):
    await office.residents(1)
    later = utc_now() + timedelta(seconds=1)
    campaign_id = await office.approved(channels=(), start_at=later)

    await office.run(for_s=0.1)
    assert (await office.seen(campaign_id))["state"] == "approved" and await office.told(campaign_id) == []
    await asyncio.sleep(1)
    await office.run_out(campaign_id)
    assert utc_now() >= later


async def test_an_urgent_message_passes_a_running_campaign_at_once(office: Office):
    crowd = await office.residents(40, phone=True)
    campaign_id = await office.approved()
    await office.run()
    channel = office.desk.push.deliveries._channels["sms"]
    really_send, go_on, in_hand = channel.send, asyncio.Event(), []

    async def send_slowly(envelope):
        if envelope.letter.owner_id in crowd:
            in_hand.append(envelope.letter.owner_id)
            await go_on.wait()
        return await really_send(envelope)

    channel.send = send_slowly
    lane = asyncio.create_task(office.desk.push.deliver_due(lane="campaign"))
    while not in_hand:
        await asyncio.sleep(0.01)
    one = await office.desk.resident(phone=True)
    await office.desk.push.tell(office.desk.event(one, "case.fee_due"))
    assert await office.desk.push.deliver_due(lane="urgent") == 1
    assert [item["template"] for item in await office.desk.sent(one)] == ["case.fee_due"]
    go_on.set()
    await lane
    channel.send = really_send
    await office.run_out(campaign_id)
    assert len(await office.texted()) == 40


async def test_what_a_vendor_lost_after_it_was_counted_is_counted_anew(office: Office):
    [owner_id] = await office.residents(1, phone=True)
    campaign_id = await office.approved()
    await office.run_out(campaign_id)
    delivery = await office.database["deliveries"].find_one({"event_id": campaign_id})
    assert (await office.seen(campaign_id))["progress"]["sent"] == 1

    await office.desk.push.deliveries.report(delivery["vendor_id"], "failed: absent", utc_now(), channel="sms")
    await office.desk.push.deliver_due(lane="campaign")
    await office.run()

    progress = (await office.seen(campaign_id))["progress"]
    assert (progress["sent"], progress["failed"], progress["waiting"]) == (0, 1, 0) and await office.told(campaign_id) == [owner_id]


async def test_a_broken_campaign_keeps_no_other_waiting(office: Office):
    people = await office.residents(3)
    broken, whole = await office.approved(channels=()), await office.approved(channels=())
    await office.database["campaigns"].update_one({"_id": broken}, {"$set": {"segment.kind": "of_a_newer_version"}})

    await office.run_out(whole)

    assert await office.told(whole) == people and await office.told(broken) == []
    assert (await office.seen(broken))["state"] == "running"


async def test_what_no_channel_took_in_three_days_is_counted_and_no_task_for_staff(office: Office):
    await office.residents(2, phone=True)
    campaign_id = await office.approved()
    await office.run()
    await office.desk.sim("faults", {"provider": "sms", "mode": "rate_limited", "count": 4})
    await office.desk.push.deliver_due(lane="campaign")
    await office.desk.push.deliver_due(utc_now() + timedelta(hours=73), lane="campaign")

    found = await office.run_out(campaign_id, deliver=False)

    assert (found["progress"]["failed"], found["progress"]["sent"]) == (2, 0)
    assert await office.desk.push.undelivered.count(CLERK, is_superior=False) == 0
    assert len(await office.told(campaign_id)) == 2, "the inbox has it all the same"


@pytest.mark.long
async def test_a_campaign_of_three_thousand_is_told_once_each_while_workers_die_and_it_is_paused(office: Office, monkeypatch):
    monkeypatch.setattr(sending, "LEASE", timedelta(seconds=0.2))
    people = await office.residents(3000)
    for number, owner_id in enumerate(people[::10]):
        office.desk.town.phones[owner_id] = f"136{number:08d}"
    texted = people[::10]
    await office.database["push_preferences"].insert_many(
        [{"_id": each, "muted": {}, "quiet_from": None, "quiet_to": None, "elder_mode": False, "language": "zh", "asked": {"notice": ["sms"]}}
         for each in texted]
    )  # fmt: skip
    office.campaigns._approval_size = 5000
    campaign_id = await office.approved(rate=500)
    stop = asyncio.Event()

    async def work():
        while not stop.is_set():
            await office.campaigns.sending.run(0.5)
            await office.desk.push.deliver_due(lane="campaign")

    async def urgent():
        loop, slowest = asyncio.get_running_loop(), 0.0
        for _ in range(10):
            one = await office.desk.resident(phone=True)
            began = loop.time()
            await office.desk.push.tell(office.desk.event(one, "case.fee_due"))
            await office.desk.push.deliver_due(lane="urgent")
            assert len(await office.desk.sent(one)) == 1
            slowest = max(slowest, loop.time() - began)
            await asyncio.sleep(0.3)
        assert slowest < 10

    workers = [asyncio.create_task(work()) for _ in range(2)]
    passing = asyncio.create_task(urgent())
    third = put_together(office.desk, office.identity, office.subscriptions, office.catalogue)
    for number in range(12):  # a third worker dies again and again, in the middle of whatever it has in hand
        dying = asyncio.create_task(third.sending.run(1.0))
        await asyncio.sleep(0.01 + 0.017 * number)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    if (await office.seen(campaign_id))["state"] == "running":
        await office.campaigns.act(campaign_id, CLERK, "pause")
        await asyncio.sleep(1.5)
        some = len(await office.told(campaign_id))
        await asyncio.sleep(1)
        assert len(await office.told(campaign_id)) == some
        await office.campaigns.act(campaign_id, HEAD, "resume")
    await passing
    for _ in range(600):
        if (await office.seen(campaign_id))["state"] == "finished":
            break
        await asyncio.sleep(0.1)
    stop.set()
    await asyncio.gather(*workers)
    found = await office.seen(campaign_id)
    assert found["state"] == "finished" and await office.told(campaign_id) == people
    assert found["progress"]["told"] == 3000 and found["progress"]["sent"] == len(texted)
    assert await office.texted() == sorted(office.desk.town.phones[each] for each in texted)
