"""A campaign is held, stopped, kept to its rate and its limit, and stands in nobody's way."""

import asyncio
from datetime import timedelta

import pytest

from app.kernel.clock import SHANGHAI, utc_now
from push.campaigns import sending
from push.channel import Refused
from tests.push.campaigns.office import CLERK, HEAD, OPERATOR, Office, put_together


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


@pytest.mark.parametrize(("step", "texted"), [("stop", 0), ("pause", 0), ("", 1)])
async def test_what_a_vendor_reports_lost_goes_on_only_where_the_campaign_does(office: Office, step: str, texted: int):
    [owner_id] = await office.residents(1, phone=True)
    await office.desk.push.put_device(owner_id, owner_id, "android", "xiaomi")
    campaign_id = await office.approved(channels=("app", "sms"))
    await office.run()
    await office.desk.push.deliver_due(lane="campaign")
    [delivery] = await office.desk.deliveries(owner_id)
    assert (delivery["state"], delivery["channel"]) == ("sent", "app")
    if step:
        await office.campaigns.act(campaign_id, HEAD, step, note="内容写错了")
    await office.desk.push.reports.take("app", delivery["vendor_id"], "failed:system failed")
    await office.desk.push.deliver_due(lane="campaign")
    assert len(await office.texted()) == texted
    [delivery] = await office.desk.deliveries(owner_id)
    assert delivery["is_open"] is (step == "pause"), "what is paused waits, what is stopped is over"


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


async def test_more_than_was_approved_is_held_for_the_operator(office: Office):
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


@pytest.mark.parametrize("step", ["pause", "stop"])
async def test_paused_or_stopped_while_one_channel_refuses_it_goes_to_no_other(office: Office, step: str):
    [person] = await office.residents(1, phone=True)
    await office.desk.push.put_device(person, "reg1", "android", "xiaomi")
    campaign_id = await office.approved(channels=("app", "sms"))
    await office.run()
    channel = office.desk.push.deliveries._channels["app"]
    really_send = channel.send

    async def send(envelope):
        await office.campaigns.act(campaign_id, HEAD, step, note="写错了地址")
        raise Refused("1011")

    channel.send = send
    await office.desk.push.deliver_due(lane="campaign")
    channel.send = really_send
    await office.desk.push.deliver_due(lane="campaign")
    await office.run()
    progress = (await office.seen(campaign_id))["progress"]
    assert await office.texted() == [] and (progress["waiting"], progress["inbox"]) == ((1, 0) if step == "pause" else (0, 1))
    if step == "pause":
        await office.campaigns.act(campaign_id, HEAD, "resume")
        await office.run_out(campaign_id)
        assert len(await office.texted()) == 1


async def test_a_pause_while_a_worker_lets_go_what_had_been_held_stays_a_pause(office: Office, monkeypatch: pytest.MonkeyPatch):
    await office.residents(8, phone=True)
    campaign_id = await office.approved()
    await office.run()
    await office.campaigns.act(campaign_id, HEAD, "pause")
    await office.campaigns.act(campaign_id, HEAD, "resume")
    other = put_together(office.desk, office.identity, office.subscriptions, office.catalogue)
    looking = office.campaigns.sending._campaigns

    class Slow:
        """The round of a worker, stopped between its look at the campaign and what it does about it."""

        async def find_one(self, *query):
            found = await looking.find_one(*query)
            monkeypatch.setattr(office.campaigns.sending, "_campaigns", looking)
            await other.act(campaign_id, HEAD, "pause")
            return found

    monkeypatch.setattr(office.campaigns.sending, "_campaigns", Slow())
    await office.campaigns.sending.settle(campaign_id)
    await office.desk.push.deliver_due(lane="campaign")
    assert await office.texted() == [] and (await office.seen(campaign_id))["progress"]["waiting"] == 8
