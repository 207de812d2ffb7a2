"""From the intent to a final state: the right channel, once, whatever fails or dies on the way."""

import asyncio
from datetime import timedelta

import pytest

from app.kernel.clock import utc_now
from app.kernel.errors import ProviderUnavailable
from push.in_hand import LEASES
from push.model import Preferences
from tests.push.desk import Desk, put_together, utc


async def _tell(desk: Desk, owner_id: str, name: str = "case.accepted") -> None:
    await desk.push.tell(desk.event(owner_id, name))


async def _state(desk: Desk, owner_id: str) -> tuple[str, list[tuple[str, str]]]:
    (delivery,) = await desk.deliveries(owner_id)
    return delivery["state"], [(one["channel"], one["outcome"]) for one in delivery["attempts"]]


async def test_a_grant_is_used_for_one_message(desk: Desk):
    owner_id = await desk.resident(wechat=True, phone=True)
    template_id = await desk.grant(owner_id, "case.accepted", 2)

    await _tell(desk, owner_id)
    await desk.push.deliver_due()

    (message,) = await desk.sent(owner_id)
    assert (message["channel"], message["template_id"]) == ("wechat_subscribe", template_id)
    assert message["data"]["thing1"] == "居民身份证丢失补领" and message["data"]["phrase3"] == "已受理"
    assert await desk.left(owner_id, template_id) == 1
    (delivery,) = await desk.deliveries(owner_id)
    assert delivery["state"] == "sent" and delivery["vendor_id"] == str(message["msgid"])


async def test_without_a_grant_the_text_message_tells(desk: Desk):
    owner_id = await desk.resident(wechat=True, phone=True)

    await _tell(desk, owner_id)
    await desk.push.deliver_due()

    assert [item["channel"] for item in await desk.sent(owner_id)] == ["sms"]


async def test_a_grant_that_wechat_does_not_know_is_zero_and_the_next_channel_tells(desk: Desk):
    owner_id = await desk.resident(wechat=True, phone=True)
    template_id = await desk.grant(owner_id, "case.accepted", 3)
    openid = desk.town.identities[owner_id, "wechat"]["openid"]
    await desk.sim("wechat/grants", {"openid": openid, "template_id": template_id, "count": 0})

    await _tell(desk, owner_id)
    await desk.push.deliver_due()

    assert await _state(desk, owner_id) == ("sent", [("wechat", "refused"), ("sms", "sent")])
    assert await desk.left(owner_id, template_id) == 0


async def test_alipay_tells_its_people_and_falls_to_text_when_refused(desk: Desk):
    happy, refusing = await desk.resident(alipay=True, phone=True), await desk.resident(alipay=True, phone=True)
    await desk.sim("alipay/refuse", {"name": f"r{refusing[-10:].lower()}"})

    await _tell(desk, happy)
    await _tell(desk, refusing)
    await desk.push.deliver_due()

    assert [item["channel"] for item in await desk.sent(happy)] == ["alipay_message"]
    assert await _state(desk, refusing) == ("sent", [("alipay", "refused"), ("sms", "sent")])


async def test_the_native_app_is_told_and_dead_registrations_are_dropped(desk: Desk):
    owner_id = await desk.resident(phone=True)
    await desk.push.put_device(owner_id, f"gone-{owner_id}", "android", "xiaomi")
    await _tell(desk, owner_id)
    await desk.push.deliver_due()
    assert await _state(desk, owner_id) == ("sent", [("app", "refused"), ("sms", "sent")])
    assert await desk.push.store.devices(owner_id) == []

    await desk.push.put_device(owner_id, owner_id, "ios", "")
    await _tell(desk, owner_id)
    await desk.push.deliver_due()
    assert (await desk.sent(owner_id))[-1]["channel"] == "jpush"


async def test_an_event_for_the_inbox_alone_never_leaves(desk: Desk):
    owner_id = await desk.resident(wechat=True, alipay=True, phone=True)

    await _tell(desk, owner_id, "order.paying")
    await desk.push.deliver_due()

    assert await desk.sent(owner_id) == []
    assert (await _state(desk, owner_id))[0] == "inbox"


async def test_nobody_to_reach_ends_in_the_inbox(desk: Desk):
    owner_id = await desk.resident()

    await _tell(desk, owner_id)
    await desk.push.deliver_due()

    assert await _state(desk, owner_id) == ("inbox", [])


async def test_a_gateway_that_is_away_is_asked_again_later(desk: Desk):
    owner_id = await desk.resident(phone=True)
    await desk.sim("faults", {"provider": "sms", "mode": "error500", "count": 1})
    await _tell(desk, owner_id)
    await desk.push.deliver_due()
    assert await _state(desk, owner_id) == ("waiting", [("sms", "try_later")])

    await desk.push.deliver_due(utc_now() + timedelta(seconds=10))

    assert await _state(desk, owner_id) == ("sent", [("sms", "try_later"), ("sms", "sent")])
    assert len(await desk.sent(owner_id)) == 1


async def test_an_answer_lost_on_the_way_is_one_text_message(desk: Desk):
    owner_id = await desk.resident(phone=True)
    await desk.sim("faults", {"provider": "sms", "mode": "lost", "count": 1})
    await _tell(desk, owner_id)
    await desk.push.deliver_due()

    await desk.push.deliver_due(utc_now() + timedelta(seconds=10))

    assert (await _state(desk, owner_id))[0] == "sent"
    assert len(await desk.sent(owner_id)) == 1


async def test_an_answer_lost_by_wechat_is_not_repeated_there(desk: Desk):
    first, owner_id = await desk.resident(wechat=True), await desk.resident(wechat=True, phone=True)
    for one in (first, owner_id):
        await desk.grant(one, "case.accepted", 2)
    await _tell(desk, first)
    await desk.push.deliver_due()  # fetches the access token, so that it is the message whose answer gets lost
    await _tell(desk, owner_id)
    await desk.sim("faults", {"provider": "wechat", "mode": "lost", "count": 1})

    await desk.push.deliver_due()
    await desk.push.deliver_due(utc_now() + timedelta(hours=1))

    assert [item["channel"] for item in await desk.sent(owner_id)] == ["wechat_subscribe", "sms"]
    assert (await _state(desk, owner_id))[1] == [("wechat", "unclear"), ("sms", "sent")]


@pytest.mark.parametrize(
    ("name", "then"),
    [("case.accepted", [("wechat", "unclear"), ("sms", "sent")]), ("order.paid", [("wechat", "unclear")])],
    ids=["must arrive: the next channel", "may be missed: not repeated"],
)
async def test_a_worker_killed_between_send_and_note_never_sends_twice_on_wechat(desk: Desk, name, then):
    owner_id = await desk.resident(wechat=True, phone=True)
    await desk.grant(owner_id, name, 2)
    await _tell(desk, owner_id, name)
    await _kill_after_send(desk, "wechat")

    other = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    assert await other.deliver_due() == 0  # the lease still runs
    await other.deliver_due(utc_now() + LEASES["ordinary"] + timedelta(seconds=1))

    assert [item["channel"] for item in await desk.sent(owner_id)].count("wechat_subscribe") == 1
    assert (await _state(desk, owner_id))[1] == then


async def test_a_worker_killed_between_send_and_note_sends_one_text_message(desk: Desk):
    owner_id = await desk.resident(phone=True)
    await _tell(desk, owner_id)
    await _kill_after_send(desk, "sms")

    other = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    await other.deliver_due(utc_now() + LEASES["ordinary"] + timedelta(seconds=1))

    assert len(await desk.sent(owner_id)) == 1
    assert (await _state(desk, owner_id))[0] == "sent"


async def test_a_call_that_a_dead_worker_had_begun_comes_first_or_is_noted_as_unclear(desk: Desk):
    owner_id = await desk.resident(phone=True)
    await desk.push.put_device(owner_id, owner_id, "ios", "")
    await _tell(desk, owner_id)
    await _kill_after_send(desk, "app")
    await desk.push.drop_device(owner_id, owner_id)  # nobody can be asked again whether it arrived

    other = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    await other.deliver_due(utc_now() + LEASES["ordinary"] + timedelta(seconds=1))

    assert await _state(desk, owner_id) == ("sent", [("app", "unclear"), ("sms", "sent")])


async def _kill_after_send(desk: Desk, channel_name: str) -> None:
    """Deliver what is due, and die in the moment after the vendor has answered."""
    channel = desk.push.deliveries._channels[channel_name]
    really_send, sent = channel.send, asyncio.Event()

    async def send_and_hang(envelope):
        await really_send(envelope)
        sent.set()
        await asyncio.sleep(3600)

    channel.send = send_and_hang
    worker = asyncio.create_task(desk.push.deliver_due())
    await asyncio.wait_for(sent.wait(), 10)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    channel.send = really_send


async def test_two_workers_share_the_work_without_sending_twice(desk: Desk):
    owners = [await desk.resident(phone=True) for _ in range(12)]
    for owner_id in owners:
        await _tell(desk, owner_id)
    other = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)

    taken = await asyncio.gather(desk.push.deliver_due(), other.deliver_due())

    assert sum(taken) == 12
    for owner_id in owners:
        assert len(await desk.sent(owner_id)) == 1


async def test_muted_channels_and_elder_mode_are_honoured(desk: Desk):
    owner_id = await desk.resident(wechat=True, phone=True)
    template_id = await desk.grant(owner_id, "case.accepted", 3)
    await desk.push.set_preferences(owner_id, {"kinds": {"case": {"sms": False}}})
    await _tell(desk, owner_id)
    await desk.push.deliver_due()
    await desk.push.set_preferences(owner_id, {"kinds": {"case": {"sms": True}}, "elder_mode": True})
    await _tell(desk, owner_id)
    await desk.push.deliver_due()

    assert [item["channel"] for item in await desk.sent(owner_id)] == ["wechat_subscribe", "sms"]
    assert await desk.left(owner_id, template_id) == 2


async def test_quiet_hours_hold_back_what_can_wait(desk: Desk):
    owner_id = await desk.resident(phone=True)
    local = utc_now() + timedelta(hours=8)
    quiet = {
        "from": (local - timedelta(hours=1)).time().replace(second=0, microsecond=0),
        "to": (local + timedelta(hours=1)).time().replace(second=0, microsecond=0),
    }
    await desk.push.set_preferences(owner_id, {"quiet_hours": quiet})
    await _tell(desk, owner_id, "case.accepted")
    await _tell(desk, owner_id, "case.fee_due")  # urgent

    await desk.push.deliver_due()
    assert [item["template"] for item in await desk.sent(owner_id)] == ["case.fee_due"]

    await desk.push.deliver_due(utc_now() + timedelta(hours=1, minutes=1))
    assert [item["template"] for item in await desk.sent(owner_id)] == ["case.fee_due", "case.accepted"]


@pytest.mark.parametrize(
    ("quiet", "now", "until"),
    [
        (("22:00", "07:00"), "2026-11-23T15:00", "2026-11-23T23:00"),  # 23:00 in Shanghai -> 07:00 of the next day
        (("22:00", "07:00"), "2026-11-22T20:00", "2026-11-22T23:00"),  # 04:00 -> 07:00 of the same day
        (("22:00", "07:00"), "2026-11-23T04:00", None),  # noon
        (("12:00", "14:00"), "2026-11-23T05:59", "2026-11-23T06:00"),
        (("12:00", "14:00"), "2026-11-23T06:00", None),  # the end does not count
        (("08:00", "08:00"), "2026-11-23T00:00", None),  # no length: no quiet hours
    ],
)
def test_end_of_the_quiet_hours(quiet, now, until):
    document = Preferences().to_document() | {"quiet_from": quiet[0], "quiet_to": quiet[1]}

    found = Preferences.from_document(document).quiet_until(utc(now))

    assert found == (utc(until) if until else None)


async def test_a_sign_in_code_goes_out_at_once_and_once(desk: Desk):
    await desk.sim("faults", {"provider": "sms", "mode": "lost", "count": 1})

    await desk.push.send_code("13800138000", "048213", "login")

    desk.town.phones["somebody"] = "13800138000"
    (message,) = await desk.sent("somebody")
    assert message["text"].startswith("【韶关办事】您的验证码是048213，5分钟内有效。")
    await desk.sim("faults", {"provider": "sms", "mode": "error500", "count": 2})
    with pytest.raises(ProviderUnavailable):
        await desk.push.send_code("13800138000", "048213", "login")


async def test_what_cannot_be_delivered_for_three_days_is_given_up_loudly(desk: Desk):
    owner_id = await desk.resident(phone=True)
    await _tell(desk, owner_id)
    await desk.sim("faults", {"provider": "sms", "mode": "error500"})
    now = utc_now()
    for hours in (0, 1, 24, 73):
        await desk.push.deliver_due(now + timedelta(hours=hours))
    await desk.sim("faults", {"provider": "sms", "mode": "none"})

    assert (await _state(desk, owner_id))[0] == "failed"
