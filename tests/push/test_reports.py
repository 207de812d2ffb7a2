"""What the gateway reports of its messages: applied once, whatever comes twice, early, late, out of order or forged."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from app.kernel.clock import utc_now
from app.kernel.crypto import KeyRing
from push import gateway_reports
from push.in_hand import LEASES
from tests.push.desk import Desk, put_together
from tests.push.web import Web, open_web


@pytest.fixture
async def web(desk: Desk, keys: KeyRing) -> AsyncIterator[Web]:
    async with open_web(desk, keys) as web:
        desk.running.sandbox.hall_url = web.url
        yield web


async def _told(desk: Desk, *, name: str = "case.accepted", **script) -> str:
    """Return a resident who was told by text message, of which the gateway reports what the script says."""
    owner_id = await desk.resident(phone=True)
    await desk.sim("reports", {"channel": "sms", "to": desk.town.phones[owner_id], "delay_s": 0, **script})
    await desk.push.tell(desk.event(owner_id, name))
    await desk.push.deliver_due()
    return owner_id


async def _until(look, wanted) -> None:
    async with asyncio.timeout(5):
        while await look() != wanted:
            await asyncio.sleep(0.02)


async def _one(desk: Desk, owner_id: str) -> dict:
    (delivery,) = await desk.deliveries(owner_id)
    return delivery


async def test_a_report_of_arrival_is_noted_with_the_delivery(desk: Desk, web: Web):
    owner_id = await _told(desk, repeat=2)

    async def fate() -> str:
        return (await _one(desk, owner_id)).get("fate")

    await _until(fate, "success")
    assert (await _one(desk, owner_id))["state"] == "sent"
    (message,) = (await desk.push.inbox(owner_id, unread=False, limit=5, cursor=None))["items"]
    assert message["delivery"]["text"] == "已用短信送达您。" and message["delivery"]["has_arrived"] is True


async def test_a_message_that_did_not_arrive_goes_on_once_and_later_words_change_nothing(desk: Desk, web: Web):
    owner_id = await desk.resident(alipay=True, phone=True)
    await desk.push.set_preferences(owner_id, {"elder_mode": True})  # the text message first
    await desk.push.set_preferences(owner_id, {"kinds": {"case": {"voice": False}}})
    script = {"channel": "sms", "to": desk.town.phones[owner_id], "delay_s": 0, "repeat": 2}
    await desk.sim("reports", script | {"statuses": ["ACCEPTD", "UNDELIV", "DELIVRD"]})
    await desk.push.tell(desk.event(owner_id))
    await desk.push.deliver_due()

    async def attempts() -> list[str]:
        await desk.push.deliver_due()
        return [f"{one['channel']} {one['outcome']}" for one in (await _one(desk, owner_id))["attempts"]]

    await _until(attempts, ["sms sent", "sms undelivered", "alipay sent"])
    await asyncio.sleep(0.7)  # the other reports have come by then
    assert [item["channel"] for item in await desk.sent(owner_id)] == ["sms", "alipay_message"]
    assert (await attempts())[-1] == "alipay sent" and "sms" in (await _one(desk, owner_id))["closed"]
    assert {status for _channel, status in desk.running.sandbox.reporter.answers} == {200}


@pytest.mark.parametrize(("status", "fate", "state"), [("DELIVRD", "success", "sent"), ("MK:0012", "failed:MK:0012", "failed")])
async def test_a_report_that_comes_before_our_own_note_of_the_send_is_not_lost(desk: Desk, web: Web, status, fate, state):
    owner_id = await _told(desk, statuses=[status], early=True)

    delivery = await _one(desk, owner_id)
    assert delivery["state"] == "sent" and "fate" not in delivery
    await desk.push.reports.sweep()
    desk.push.reports._clock = lambda: utc_now() + timedelta(seconds=5)
    await desk.push.reports.sweep()
    await desk.push.deliver_due(utc_now() + timedelta(seconds=10))

    delivery = await _one(desk, owner_id)
    assert (delivery["fate"], delivery["state"]) == (fate, state)
    desk.push.reports._clock = lambda: utc_now() + timedelta(hours=2)
    assert await desk.push.reports.sweep() == 0, "and it counts once"


async def test_a_worker_that_died_before_its_note_finds_the_report_when_it_has_sent_again(desk: Desk, web: Web):
    owner_id = await desk.resident(phone=True)
    await desk.sim("reports", {"channel": "sms", "to": desk.town.phones[owner_id], "early": True})
    await desk.push.tell(desk.event(owner_id))
    channel = desk.push.deliveries._channels["sms"]
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
    assert await desk.database["delivery_reports"].count_documents({"is_waiting": True, "fate": "success"}) >= 1

    other = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    await desk.sim("reports", {"channel": "sms", "to": desk.town.phones[owner_id], "statuses": []})
    await other.deliver_due(utc_now() + LEASES["ordinary"] + timedelta(seconds=1))
    other.reports._clock = lambda: utc_now() + timedelta(minutes=5)
    await other.reports.sweep()

    delivery = await _one(desk, owner_id)
    assert (delivery["state"], delivery["fate"]) == ("sent", "success") and len(await desk.sent(owner_id)) == 1


def _request(desk: Desk, rows, *, key: str | None = None, at: float | None = None, nonce: str = "n" * 20) -> tuple[bytes, dict]:
    body = rows if isinstance(rows, bytes) else orjson.dumps({"reports": rows})
    stamp = str(int(time.time() if at is None else at))
    signature = gateway_reports.sign(key or desk.settings["HALL_GATEWAY_KEY"], stamp, nonce, body)
    return body, {"X-Gateway-Timestamp": stamp, "X-Gateway-Nonce": nonce, "X-Gateway-Signature": signature}


async def _post(web: Web, body: bytes, headers: dict) -> int:
    async with web.desk.http.post(f"{web.url}/callbacks/sms", data=body, headers=headers) as answer:
        text = await answer.text()
        assert answer.status == 200 or "callback.refused" in text
        return answer.status


async def test_what_is_forged_old_replayed_or_garbled_changes_nothing(desk: Desk, web: Web):
    owner_id = await _told(desk, statuses=[])
    delivery = await _one(desk, owner_id)
    rows = [{"request_id": delivery["_id"], "message_id": delivery["vendor_id"], "status": "UNDELIV"}]
    good = _request(desk, rows, nonce=delivery["_id"].replace("_", ""))

    for body, headers in [
        _request(desk, rows, key="another"),
        _request(desk, rows, at=time.time() - 400),
        _request(desk, rows, at=time.time() + 400),
        _request(desk, rows, nonce="short"),
        (good[0] + b" ", good[1]),
        (good[0], {}),
        (good[0], good[1] | {"X-Gateway-Signature": "ä"}),
        _request(desk, b"{", nonce="a" * 20),
        _request(desk, b"[]", nonce="b" * 20),
        _request(desk, rows * 501, nonce="d" * 20),
    ]:
        assert await _post(web, body, headers) == 403
    assert "fate" not in await _one(desk, owner_id)

    assert await _post(web, *good) == 200
    assert await _post(web, *good) == 403, "the same signed request a second time"
    assert (await _one(desk, owner_id))["fate"] == "failed:UNDELIV"


async def test_a_row_that_cannot_be_read_spoils_none_beside_it(desk: Desk, web: Web):
    owner_id = await _told(desk, statuses=[])
    delivery = await _one(desk, owner_id)
    good = {"request_id": delivery["_id"], "message_id": delivery["vendor_id"], "status": "UNDELIV"}
    rows = [{"request_id": 1}, good | {"status": "两"}, good | {"status": "X" * 21}, good | {"message_id": "9" * 65}, [], None, "x", good]
    assert await _post(web, *_request(desk, rows, nonce="e" * 20)) == 200, "it would be no more readable if it came again"
    assert (await _one(desk, owner_id))["fate"] == "failed:UNDELIV"


async def test_without_a_key_every_report_is_refused(desk: Desk, keys: KeyRing):
    async with open_web(desk, keys, HALL_GATEWAY_KEY="") as web:
        assert await _post(web, *_request(desk, [])) == 403


async def test_reports_on_sign_in_codes_leave_nothing_behind(desk: Desk, web: Web):
    before = await desk.database["delivery_reports"].count_documents({})
    body, headers = _request(desk, [{"request_id": "sms_1", "message_id": "sms9", "status": "UNDELIV"}], nonce="f" * 20)

    assert await _post(web, body, headers) == 200

    assert await desk.database["delivery_reports"].count_documents({}) == before


async def test_one_request_with_many_reports_is_taken_side_by_side_and_the_first_of_each_message_counts(desk: Desk, web: Web):
    owners = [await _told(desk, statuses=[]) for _ in range(40)]
    deliveries = [await _one(desk, owner_id) for owner_id in owners]
    rows = [
        {"request_id": one["_id"], "message_id": one["vendor_id"], "status": status}
        for status in ("ACCEPTD", "DELIVRD", "UNDELIV")
        for one in deliveries
    ]
    began = time.monotonic()

    assert await _post(web, *_request(desk, rows, nonce=owners[0].replace("_", ""))) == 200

    assert time.monotonic() - began < 3
    assert {(await _one(desk, owner_id)).get("fate") for owner_id in owners} == {"success"}


async def test_who_dies_behind_the_nonce_loses_nothing(desk: Desk, web: Web):
    owner_id = await _told(desk, statuses=[])
    delivery = await _one(desk, owner_id)
    rows = [{"request_id": delivery["_id"], "message_id": delivery["vendor_id"], "status": "UNDELIV"}]
    really_take_all = desk.push.reports.take_all

    async def die(*_args):
        raise ConnectionResetError

    desk.push.reports.take_all = die
    body, headers = _request(desk, rows, nonce="g" * 20)
    async with desk.http.post(f"{web.url}/callbacks/sms", data=body, headers=headers) as answer:
        assert answer.status == 500, "not taken, so the gateway comes again"
    desk.push.reports.take_all = really_take_all

    assert await _post(web, *_request(desk, rows, nonce="h" * 20)) == 200
    assert (await _one(desk, owner_id))["fate"] == "failed:UNDELIV"


def test_the_words_of_the_gateway_are_the_ones_that_are_printed():
    text = (Path(__file__).resolve().parents[2] / "docs" / "push.md").read_text()

    assert f"<!-- gateway reports -->\n{gateway_reports.printed()}\n<!-- end -->" in text
