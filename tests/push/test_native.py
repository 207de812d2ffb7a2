"""Pushes to the native app through JPush: makers' channels, whose phone it is, and what became of each."""

import asyncio
import shutil
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from app.kernel.clock import utc_now
from push.channels.jpush import KEPT_OFFLINE
from push.channels.jpush_receipts import ARRIVED, NOWHERE, TAKEN, JPushReceipts, verdict
from push.native_options import FILE_NAME, MAKERS, load_native_options
from push.store import MAX_DEVICES
from push.templates import FOLDER
from tests.push.desk import Desk

OVER = KEPT_OFFLINE + timedelta(minutes=11)


def _receipts(desk: Desk, *, after: timedelta = timedelta(seconds=11)) -> JPushReceipts:
    """Return the asker of a worker, whose clock is so much ahead."""
    settings = desk.settings
    return JPushReceipts(
        desk.out, desk.database, desk.push.reports, lambda: utc_now() + after, base_url=settings["HALL_JPUSH_REPORT_URL"],
        app_key=settings["HALL_JPUSH_APP_KEY"], master_secret=settings["HALL_JPUSH_MASTER_SECRET"],
    )  # fmt: skip


async def _pushed(desk: Desk, has: str, *, name: str = "case.accepted", phone: bool = True) -> str:
    owner_id = await desk.resident(phone=phone)
    await desk.push.put_device(owner_id, owner_id, "android", "xiaomi")
    await desk.sim("jpush/phones", {"registration_id": owner_id, "has": has})
    await desk.push.tell(desk.event(owner_id, name))
    await desk.push.deliver_due()
    return owner_id


async def _delivery(desk: Desk, owner_id: str) -> dict:
    return (await desk.deliveries(owner_id))[-1]


async def _asked_about(desk: Desk, owner_id: str) -> int:
    return await desk.database["push_receipts"].count_documents({"_id": (await _delivery(desk, owner_id))["_id"]})


async def test_a_push_carries_the_class_and_the_channel_of_its_maker(desk: Desk):
    owner_id = await _pushed(desk, "received")

    (sent,) = await desk.sent(owner_id)

    options = sent["options"]
    assert options["classification"] == 1 and options["time_to_live"] == 12 * 3600 and options["apns_production"] is False
    assert options["third_party_channel"] == {"xiaomi": {"distribution": "secondary_push", "channel_id": "hall_progress"}}
    assert sent["notification"]["android"]["channel_id"] == "hall_progress" and sent["notification"]["hmos"]["category"] == "WORK"


async def test_of_a_phone_whose_maker_is_not_known_every_maker_is_asked(desk: Desk):
    owner_id = await desk.resident()
    await desk.push.put_device(owner_id, owner_id, "android", "")
    await desk.push.tell(desk.event(owner_id))
    await desk.push.deliver_due()

    assert set((await desk.sent(owner_id))[0]["options"]["third_party_channel"]) == set(MAKERS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data["third_party_channel"].pop("oppo"), "oppo is missing"),
        (lambda data: data["third_party_channel"].update(nokia={}), "nokia: unknown maker"),
        (lambda data: data["third_party_channel"]["honor"].update(importance="HIGH"), "honor: importance"),
        (lambda data: data["third_party_channel"]["vivo"].update(classification=0), "vivo: classification"),
        (lambda data: data["third_party_channel"]["meizu"].update(distribution="often"), "meizu: distribution"),
        (lambda data: data["third_party_channel"]["xiaomi"].update(channel_id=""), "xiaomi: channel_id"),
        (lambda data: data.update(ios={}), "ios: unknown"),
    ],
)
def test_options_that_a_maker_would_refuse_stop_the_start(tmp_path: Path, change, told: str):
    shutil.copy(FOLDER / FILE_NAME, tmp_path)
    data = orjson.loads((tmp_path / FILE_NAME).read_bytes())
    change(data)
    (tmp_path / FILE_NAME).write_bytes(orjson.dumps(data))

    with pytest.raises(ValueError, match=told):
        load_native_options(tmp_path)


async def test_a_phone_that_has_it_is_noted_as_arrived(desk: Desk):
    owner_id = await _pushed(desk, "received")
    assert await _asked_about(desk, owner_id) == 1

    await _receipts(desk).sweep()
    await _receipts(desk, after=timedelta(minutes=5)).sweep()

    delivery = await _delivery(desk, owner_id)
    assert (delivery["state"], delivery["fate"]) == ("sent", "success") and await _asked_about(desk, owner_id) == 0


async def test_what_must_arrive_and_reached_no_phone_in_time_goes_on_once(desk: Desk):
    owner_id = await _pushed(desk, "off")
    for after in (timedelta(seconds=11), timedelta(hours=6), OVER, OVER, OVER + timedelta(hours=1)):
        await _receipts(desk, after=after).sweep()
        if after < OVER:
            assert "fate" not in await _delivery(desk, owner_id) and await _asked_about(desk, owner_id) == 1
    await desk.push.deliver_due()
    await _receipts(desk, after=OVER + timedelta(hours=2)).sweep()
    await desk.push.deliver_due()

    assert [item["channel"] for item in await desk.sent(owner_id)] == ["jpush", "sms"]
    attempts = [(one["channel"], one["outcome"]) for one in (await _delivery(desk, owner_id))["attempts"]]
    assert attempts == [("app", "sent"), ("app", "undelivered"), ("sms", "sent")]


@pytest.mark.parametrize(("has", "name"), [("taken", "case.accepted"), ("off", "order.paid")])
async def test_where_nobody_knows_or_it_may_be_missed_nothing_follows(desk: Desk, has: str, name: str):
    owner_id = await _pushed(desk, has, name=name)

    await _receipts(desk, after=OVER).sweep()
    await desk.push.deliver_due()

    delivery = await _delivery(desk, owner_id)
    assert delivery["state"] == "sent" and not delivery.get("fate") and await _asked_about(desk, owner_id) == 0


async def test_a_worker_that_dies_after_its_report_reports_once_all_the_same(desk: Desk):
    owner_id = await _pushed(desk, "off")
    dying = _receipts(desk, after=OVER)

    class Dying:
        def __getattr__(self, name):
            raise asyncio.CancelledError

    kept, dying._receipts = dying._receipts, Dying()
    rows = await kept.find({"_id": (await _delivery(desk, owner_id))["_id"]}).to_list()
    with pytest.raises(asyncio.CancelledError):
        await dying._ask(rows, utc_now() + OVER)
    assert (await _delivery(desk, owner_id))["state"] == "waiting" and await _asked_about(desk, owner_id) == 1

    await desk.push.deliver_due()
    await _receipts(desk, after=OVER).sweep()
    await desk.push.deliver_due()

    assert [item["channel"] for item in await desk.sent(owner_id)] == ["jpush", "sms"] and await _asked_about(desk, owner_id) == 0


@pytest.mark.parametrize("mode", ["down", "garbage", "error500", "rate_limited"])
async def test_while_jpush_does_not_answer_nothing_is_lost_and_nothing_guessed(desk: Desk, mode: str):
    owner_id = await _pushed(desk, "off")
    await desk.sim("faults", {"provider": "jpush", "mode": mode})
    await _receipts(desk, after=OVER).sweep()
    await desk.sim("faults", {"provider": "jpush", "mode": "none"})
    assert "fate" not in await _delivery(desk, owner_id) and await _asked_about(desk, owner_id) == 1

    await _receipts(desk, after=OVER + timedelta(minutes=2)).sweep()

    assert (await _delivery(desk, owner_id))["fate"] == "failed:expired"


async def test_two_hundred_messages_are_asked_about_in_batches_each_once(desk: Desk):
    await desk.database["push_receipts"].delete_many({})
    now = utc_now()
    ids = [f"dlv_batch{n:03}" for n in range(230)]
    deliveries = [
        {"_id": one, "event_id": one, "owner_id": "res_batch", "channel": "app", "state": "sent", "vendor_id": f"9{n:08}",
         "must_arrive": False, "lane": "ordinary", "is_open": False}
        for n, one in enumerate(ids)
    ]  # fmt: skip
    await desk.database["deliveries"].insert_many(deliveries)
    await desk.database["push_receipts"].insert_many([{"_id": one, "at": now, "next_at": now, "until": now} for one in ids])

    assert await _receipts(desk, after=timedelta(hours=1)).sweep() == 230

    assert await desk.database["push_receipts"].count_documents({}) == 0
    await desk.database["deliveries"].delete_many({"owner_id": "res_batch"})


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({}, NOWHERE),
        ({"jpush_received": None, "android_pns_sent": 0}, NOWHERE),
        ({"android_pns_sent": 1, "android_pns_received": None}, TAKEN),
        ({"ios_apns_sent": 1}, TAKEN),
        ({"android_pns_sent": 1, "android_pns_received": 1}, ARRIVED),
        ({"jpush_received": 2}, ARRIVED),
        ({"jpush_received": "2"}, NOWHERE),
    ],
)
def test_what_the_counts_of_jpush_say(counts, says):
    assert verdict({"msg_id": "1"} | counts) == says


async def test_a_device_registered_again_while_jpush_called_it_dead_stays(desk: Desk):
    owner_id = await desk.resident()
    await desk.push.put_device(owner_id, f"gone-{owner_id}", "android", "xiaomi")
    channel = desk.push.deliveries._channels["app"]
    really_send = channel.send

    async def send_while_the_app_starts(envelope):
        try:
            return await really_send(envelope)
        finally:
            assert await desk.push.store.devices(owner_id) == [], "gone as JPush says"

    channel.send = send_while_the_app_starts
    await desk.push.tell(desk.event(owner_id))
    await desk.push.deliver_due()
    device_at = utc_now()
    await desk.push.put_device(owner_id, f"gone-{owner_id}", "android", "xiaomi")
    await desk.push.store.drop_dead(f"gone-{owner_id}", device_at - timedelta(seconds=1))
    assert len(await desk.push.store.devices(owner_id)) == 1


async def test_signing_out_forgets_the_devices_of_that_session_only(desk: Desk):
    owner_id = await desk.resident()
    await desk.push.put_device(owner_id, f"a{owner_id}", "android", "vivo", "ses_1")
    await desk.push.put_device(owner_id, f"b{owner_id}", "android", "vivo", "ses_2")

    await desk.push.forget_session("res_other", "ses_1")
    assert len(await desk.push.store.devices(owner_id)) == 2
    await desk.push.forget_session(owner_id, "ses_1")

    assert [one["_id"] for one in await desk.push.store.devices(owner_id)] == [f"b{owner_id}"]


async def test_of_one_person_the_last_devices_are_kept(desk: Desk):
    owner_id, other_id = await desk.resident(), await desk.resident()
    await desk.push.put_device(other_id, f"x{other_id}", "android", "vivo")
    for number in range(MAX_DEVICES + 5):
        await desk.push.put_device(owner_id, f"{owner_id}-{number:02}", "android", "vivo")
        await asyncio.sleep(0.002)  # moments are kept to the millisecond

    kept = [one["_id"] async for one in desk.database["push_devices"].find({"owner_id": owner_id}).sort("_id", 1)]
    assert kept == [f"{owner_id}-{number:02}" for number in range(5, MAX_DEVICES + 5)]
    assert len(await desk.push.store.devices(other_id)) == 1
