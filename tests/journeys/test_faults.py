"""What goes wrong on the way: notices lost, doubled, late, wrong and forged; processes killed; Redis emptied. The journey ends right."""

import asyncio
import signal

import pytest
from redis.asyncio import Redis

from app.kernel.ids import ulid
from tests.journeys.conftest import settled
from tests.journeys.stories import LOST, events_of, paid_attempt, someone, submitted

PAID_STORY = ["case.submitted", "case.fee_due", "order.created", "order.paying", "order.paid", "case.fee_paid"]


async def moved(resident, case, within_s=60):
    return await resident.until(f"/v1/cases/{case['id']}", lambda answer: answer["state"] == "submitted", within_s)


async def a_case(anyone):
    resident, _name = await someone(anyone)
    return resident, await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)


@pytest.mark.parametrize("outcome", ["success_without_notice", "success_notice_twice", "success_notice_late"])
async def test_a_payment_moves_its_case_once_whatever_happens_to_the_notice(hall, anyone, outcome):
    """With both providers at once: most of it is waiting for the sweep or the late notice."""

    async def pay(provider):
        resident, _name = await someone(anyone, "wechat" if provider == "wechatpay" else "alipay")
        case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
        await paid_attempt(resident, hall.sandbox_url, "case", case["id"], outcome, provider)
        await moved(resident, case)
        assert sorted(events_of(await settled(resident))) == sorted(PAID_STORY), provider

    await asyncio.gather(pay("wechatpay"), pay("alipay"))


async def test_a_wrong_amount_is_held_and_never_settled(hall, anyone):
    async def pay(provider):
        resident, _name = await someone(anyone, "wechat" if provider == "wechatpay" else "alipay")
        case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
        order, _attempt = await paid_attempt(
            resident, hall.sandbox_url, "case", case["id"], "success_wrong_amount", provider
        )
        await resident.get(f"/v1/orders/{order['id']}?refresh=1")
        await asyncio.sleep(3)
        assert (await resident.get(f"/v1/orders/{order['id']}?refresh=1"))["state"] != "paid", provider
        assert (await resident.get(f"/v1/cases/{case['id']}"))["state"] == "awaiting_payment", provider

    await asyncio.gather(pay("wechatpay"), pay("alipay"))


async def test_money_for_a_case_that_was_withdrawn_meanwhile_is_told_and_never_kept_in_silence(hall, anyone):
    resident, case = await a_case(anyone)
    await paid_attempt(resident, hall.sandbox_url, "case", case["id"], "success_without_notice")
    await resident.post(f"/v1/cases/{case['id']}/withdraw")
    await resident.until("/v1/notifications", lambda answer: "case.payment_refused" in events_of(answer["items"]))
    inbox = events_of(await settled(resident))
    assert inbox.count("case.payment_refused") == 1
    assert (await resident.get(f"/v1/cases/{case['id']}"))["state"] == "withdrawn"
    [order] = (await resident.get("/v1/orders"))["items"]
    await resident.until(f"/v1/orders/{order['id']}", lambda answer: answer["state"] == "refunded")


async def test_a_retry_of_submit_after_a_crash_gets_the_first_answer(anyone):
    resident, _name = await someone(anyone)
    case = await resident.open_case("id_card_lost", {"age": "adult"})
    case = await resident.fill(case, LOST)
    await resident.upload_missing(case)
    key = ulid()
    answers = [await resident.post(f"/v1/cases/{case['id']}/submit", key=key) for _ in range(2)]
    assert answers[0] == answers[1]


async def test_a_forged_notice_changes_nothing(hall, anyone):
    resident, case = await a_case(anyone)
    order = await resident.order("case", case["id"])
    attempt = await resident.pay(order["id"], "wechatpay")
    body = f'{{"id":"x","event_type":"TRANSACTION.SUCCESS","resource":{{"ciphertext":"{attempt["attempt_id"]}"}}}}'
    headers = {
        "Wechatpay-Timestamp": "1790000000", "Wechatpay-Nonce": "n", "Wechatpay-Signature": "bm8=",
        "Wechatpay-Serial": "PUB_KEY_ID_1", "Content-Type": "application/json",
    }  # fmt: skip
    async with resident.http.post(f"{hall.url}/callbacks/wechatpay", data=body, headers=headers) as response:
        assert 400 <= response.status < 500
        assert (await response.json())["code"] == "FAIL"
    form = {"out_trade_no": attempt["attempt_id"], "trade_status": "TRADE_SUCCESS", "total_amount": "40.00", "sign": "bm8="}
    async with resident.http.post(f"{hall.url}/callbacks/alipay", data=form) as response:
        assert await response.text() != "success"
    assert (await resident.get(f"/v1/orders/{order['id']}"))["state"] == "paying"


async def test_web_killed_between_notice_and_answer(hall, anyone):
    resident, case = await a_case(anyone)
    order = await resident.order("case", case["id"])
    attempt = await resident.pay(order["id"], "wechatpay")
    body = {"provider": "wechatpay", "out_trade_no": attempt["attempt_id"], "outcome": "success_notice_twice"}
    paying = asyncio.create_task(resident.http.post(f"{hall.sandbox_url}/_sim/pay", json=body))
    await asyncio.sleep(0.02)
    hall.kill("web")
    await asyncio.sleep(0.3)
    hall.start("web")
    await paying
    await moved(resident, case)
    assert sorted(events_of(await settled(resident))) == sorted(PAID_STORY)


@pytest.mark.long
async def test_worker_killed_in_the_middle_again_and_again(hall, anyone):
    resident, case = await a_case(anyone)
    await paid_attempt(resident, hall.sandbox_url, "case", case["id"])
    for _ in range(3):
        hall.kill("worker")
        hall.start("worker")
        await asyncio.sleep(1.2)
    await moved(resident, case, 90)
    inbox = await settled(resident, 4)
    # An event whose relay died comes again after its lease of 30 s; then it must have been told once.
    for _ in range(12):
        if sorted(events_of(inbox)) == sorted(PAID_STORY):
            break
        await asyncio.sleep(4)
        inbox = await settled(resident, 1)
    assert sorted(events_of(inbox)) == sorted(PAID_STORY)


async def test_redis_emptied_in_the_middle(hall, anyone):
    redis = Redis.from_url(hall.redis_url)
    resident, case = await a_case(anyone)
    await redis.flushall()
    order = await resident.order("case", case["id"])
    attempt = await resident.pay(order["id"], "wechatpay")
    await redis.flushall()
    body = {"provider": "wechatpay", "out_trade_no": attempt["attempt_id"], "outcome": "success"}
    async with resident.http.post(f"{hall.sandbox_url}/_sim/pay", json=body) as response:
        assert response.status == 200
    await redis.flushall()
    await moved(resident, case)
    await redis.aclose()
    assert sorted(events_of(await settled(resident))) == sorted(PAID_STORY)


async def test_a_request_in_flight_ends_when_web_is_asked_to_stop(hall, anyone):
    resident, _name = await someone(anyone)
    case = await resident.open_case("id_card_lost", {"age": "adult"})
    uploads = [asyncio.create_task(resident.upload(case["id"], "hukou", f"{number}.png")) for number in range(1)]
    await asyncio.sleep(0.005)
    hall.kill("web", signal.SIGTERM)
    results = await asyncio.gather(*uploads, return_exceptions=True)
    hall.start("web")
    stored = (await resident.get(f"/v1/cases/{case['id']}"))["materials"]
    files = next(material for material in stored if material["key"] == "hukou")["files"]
    if isinstance(results[0], dict):
        assert len(files) == 1, "what was answered is kept"
    else:
        assert len(files) in (0, 1), "what was not answered is kept whole or not at all"
    assert "http.bug" not in hall.log("web")


async def test_the_request_id_goes_from_the_request_through_the_event_into_the_worker(hall, anyone):
    resident, _name = await someone(anyone)
    case = await resident.open_case("id_card_lost", {})
    request_id = f"trace-{ulid()}"
    async with resident.http.post(
        f"{hall.url}/v1/cases/{case['id']}/withdraw",
        json={},
        headers={"Authorization": f"Bearer {resident.token}", "X-Request-ID": request_id},
    ) as response:
        assert response.headers["X-Request-ID"] == request_id
    await settled(resident)
    assert request_id in hall.log("web")
    assert request_id in hall.log("worker")


async def test_no_number_of_a_person_stands_in_any_log(hall, anyone):
    resident, case = await a_case(anyone)
    values = case["form"]["values"]
    assert values["id_number"] and values["mobile"]
    await settled(resident)
    for part in ("web", "worker"):
        log = hall.log(part)
        assert values["id_number"] not in log
        assert values["mobile"] not in log
        assert resident.token not in log
