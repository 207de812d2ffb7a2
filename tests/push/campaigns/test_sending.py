"""A campaign reaches each person of its segment once, whatever dies when and however many workers there are."""

import asyncio
from datetime import timedelta

import pytest

from app.kernel.clock import utc_now
from app.kernel.events import new_event
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


async def test_news_that_a_vendor_lost_go_on_to_the_next_channel_though_they_are_no_campaign(office: Office):
    [person] = await office.residents(1)
    push = office.desk.push
    office.desk.town.identities[person, "wechat"] = {"openid": "o_reader"}
    push.deliveries._channels["wechat"].send = _taken
    await office.desk.grant(person, "news.item_changed")
    await push.put_device(person, "reg1", "android", "xiaomi")
    data = {"item_name": "居民身份证", "page": "items", "parts": [], "once": "news:publication:1:x"}
    await push.tell(new_event("news.item_changed", subject=("news", "n1"), owner_id=person, data=data, at=utc_now()))
    await push.deliver_due()
    await push.reports.take("wechat", "msg_of_wechat", "failed:user block")
    await push.deliver_due()
    [one] = await office.desk.deliveries(person)
    assert (one["state"], one["channel"]) == ("sent", "app")


async def _taken(_envelope):
    return "msg_of_wechat"
