"""Lanes never wait for one another, and all workers together keep the rate of a channel."""

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.platforms.http import CALLS_IN_FLIGHT
from app.storage.redis import connect
from push.in_hand import LEASES, longest_call_s
from push.lanes import KEPT, LANES, PLACES, Rates, load_rates
from tests.push.desk import Desk, put_together


async def test_an_urgent_message_goes_out_while_a_campaign_fills_every_place_it_may_have(desk: Desk):
    crowd = [await desk.resident(phone=True) for _ in range(PLACES["campaign"] * 3)]
    for owner_id in crowd:
        await desk.push.tell(desk.event(owner_id, "case.approved"))
    await desk.database["deliveries"].update_many({"owner_id": {"$in": crowd}}, {"$set": {"lane": "campaign"}})
    channel = desk.push.deliveries._channels["sms"]
    really_send, go_on, in_hand = channel.send, asyncio.Event(), set()

    async def send_slowly(envelope):
        if envelope.letter.owner_id in crowd:
            in_hand.add(envelope.letter.owner_id)
            await go_on.wait()
        return await really_send(envelope)

    channel.send = send_slowly
    campaign = asyncio.create_task(desk.push.deliver_due(lane="campaign"))
    while len(in_hand) < PLACES["campaign"]:
        await asyncio.sleep(0.01)
    owner_id = await desk.resident(phone=True)
    await desk.push.tell(desk.event(owner_id, "case.fee_due"))

    assert await desk.push.deliver_due(lane="urgent") == 1

    assert [item["template"] for item in await desk.sent(owner_id)] == ["case.fee_due"]
    assert len(in_hand) == PLACES["campaign"], "a campaign takes no more places than its own"
    go_on.set()
    assert await campaign == len(crowd)
    channel.send = really_send


def test_lanes_together_leave_places_at_every_vendor():
    assert set(PLACES) == set(LANES) and sum(PLACES.values()) < CALLS_IN_FLIGHT


def test_the_table_of_the_lanes_is_the_one_that_is_printed():
    text = (Path(__file__).resolve().parents[2] / "docs" / "push.md").read_text()
    for lane in LANES:
        figures = (f"{PLACES[lane]}", f"{KEPT[lane]:.0%}".replace("%", " %"), f"{LEASES[lane].total_seconds():.0f} s", f"{longest_call_s(lane)} s")
        row = next(line for line in text.splitlines() if line.startswith(f"| {lane} | "))
        assert row.endswith(f" | {' | '.join(figures)} |"), row


@pytest.mark.parametrize(("lane", "granted"), [("urgent", 4), ("ordinary", 3), ("campaign", 2)])
async def test_two_workers_share_one_bucket_whose_lower_part_is_kept_for_the_lanes_above(redis: Redis, lane: str, granted: int):
    workers = [Rates(redis, {"sms": 0.001}) for _ in range(2)]
    await redis.delete("hall:push:rate:{sms}")

    waits = await asyncio.gather(*(workers[turn % 2].take("sms", lane) for turn in range(20)))

    assert waits.count(0.0) == granted
    assert sum([await workers[0].take("sms", "urgent") == 0.0 for _ in range(5)]) == 4 - granted
    await redis.delete("hall:push:rate:{sms}")


async def test_without_redis_a_worker_keeps_a_quarter_of_the_rate_by_itself():
    nowhere = connect("redis://127.0.0.1:1/0")
    rates = Rates(nowhere, {"sms": 0.04})

    waits = [await rates.take("sms", "urgent") for _ in range(14)]

    assert waits.count(0.0) == 4 and max(waits) >= 100, "one in 25 seconds of all workers is one in 100 of this one"
    await nowhere.aclose()


async def test_what_waits_for_the_rate_goes_back_untried_and_is_sent_later(desk: Desk):
    owner_id = await desk.resident(phone=True)
    await desk.push.tell(desk.event(owner_id))
    desk.push.deliveries._sending.rates = Rates(desk.redis, {"sms": 0.001})
    for _ in range(4):
        await desk.push.deliveries._sending.rates.take("sms", "urgent")

    await desk.push.deliver_due()

    (delivery,) = await desk.deliveries(owner_id)
    assert (delivery["state"], delivery["is_open"], delivery["attempts"]) == ("waiting", True, [])
    await desk.redis.delete("hall:push:rate:{sms}")  # as a Redis that has lost everything
    other = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    await other.deliver_due(delivery["next_at"])
    assert len(await desk.sent(owner_id)) == 1


@pytest.mark.parametrize("text", ['{"sms": 0}', '{"sms": "10"}', '{"sms": true}'])
def test_a_rate_that_is_none_stops_the_start_and_names_the_channel(tmp_path, text: str):
    (tmp_path / "rates.json").write_text(text)

    with pytest.raises(ValueError, match="sms"):
        load_rates(tmp_path)
