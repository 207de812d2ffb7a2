"""身份证丢了: through WeChat and through Alipay, from sign-in to the finished case, each message exactly once."""

import asyncio

import pytest

from app.kernel.ids import ulid
from tests.journeys.conftest import settled
from tests.journeys.stories import LOST, a_name, an_id_number, assert_once_each, paid_attempt, someone, submitted

WHOLE_STORY = [
    "case.submitted", "case.fee_due", "order.created", "order.paying", "order.paid", "case.fee_paid",
    "case.accepted", "case.approved", "case.completed", "case.evaluated",
]  # fmt: skip


@pytest.mark.parametrize(("channel", "provider"), [("wechat", "wechatpay"), ("alipay", "alipay")])
async def test_from_sign_in_to_the_finished_case(hall, anyone, clerk, channel, provider):
    found = await anyone.get("/v1/search?q=身份证丢了怎么办")
    code = found["items"][0]["code"]
    resident, _name = await someone(anyone, channel)
    case = await submitted(resident, code, {"age": "adult"}, LOST)
    assert case["state"] == "awaiting_payment"
    assert case["fee"]["due_fen"] == 4000

    order, attempt = await paid_attempt(resident, hall.sandbox_url, "case", case["id"], provider=provider)
    assert (order["amount_fen"], order["state"]) == (4000, "open")
    assert order["lines"] == [{"title": "丢失补领工本费", "amount_fen": 4000, "payee": "韶关市公安局"}]
    case = await resident.until(f"/v1/cases/{case['id']}", lambda answer: answer["state"] == "submitted")
    order = await resident.get(f"/v1/orders/{order['id']}")
    assert order["state"] == "paid"
    assert [one["state"] for one in order["attempts"]] == ["paid"]

    officer = await clerk("sg-gaj")
    tasks = await officer.get("/staff/v1/tasks?limit=100")
    assert case["id"] in [task["id"] for task in tasks["items"]]
    await officer.act(case["id"], "claim")
    accepted = await officer.act(case["id"], "accept")
    assert accepted["deadline_on"] is not None
    await officer.act(case["id"], "decide", outcome="approved", opinion="符合条件")
    await officer.act(case["id"], "deliver", method="self")
    case = await resident.get(f"/v1/cases/{case['id']}")
    assert case["state"] == "completed"
    await resident.post(f"/v1/cases/{case['id']}/evaluation", {"level": 1})
    inbox = await settled(resident)
    assert_once_each(inbox, WHOLE_STORY)
    receipt = await resident.get(f"/v1/orders/{order['id']}/receipt")
    assert receipt["amount_fen"] == 4000
    # The licence that the case issued is in the wallet and can stand in for a material next time.
    assert [licence["type"] for licence in (await resident.get("/v1/me/licences"))["items"]] == ["LIC-IDCARD"]


async def test_submit_tells_everything_that_is_missing_at_once(anyone):
    resident, _name = await someone(anyone)
    case = await resident.open_case("id_card_lost", {"age": "minor"})
    with pytest.raises(Exception) as caught:
        await resident.post(f"/v1/cases/{case['id']}/submit", key=ulid())
    assert caught.value.status == 422
    assert {row["pointer"] for row in caught.value.problem["errors"]} == {
        "/form/photo_code", "/form/lost_date", "/form/use_old_photo", "/form/delivery",
        "/materials/hukou", "/materials/guardian",
    }  # fmt: skip


async def test_the_level_is_asked_for_before_anything_is_handed_in(anyone):
    resident = await anyone.sign_in_wechat(a_name())
    case = await resident.open_case("id_card_lost", {"age": "adult"})
    with pytest.raises(Exception) as caught:
        await resident.post(f"/v1/cases/{case['id']}/submit", key=ulid())
    assert (caught.value.status, caught.value.code) == (403, "identity.level_required")
    assert caught.value.problem["required_level"] == 4


async def test_one_person_through_two_channels_is_one_resident(anyone):
    number = an_id_number()
    first, second = await anyone.sign_in_wechat(a_name()), await anyone.sign_in_alipay(a_name())
    await first.post("/v1/me/real-name", {"name": "李示例", "id_number": number})
    case = await second.open_case("id_card_lost", {"age": "adult"})
    joined = await second.post("/v1/me/real-name", {"name": "李示例", "id_number": number})
    me = await first.get("/v1/me")
    assert joined["id"] == me["id"] == (await second.get("/v1/me"))["id"]
    assert (await first.get(f"/v1/cases/{case['id']}"))["id"] == case["id"], "what the joined one had is there"


async def test_a_double_tap_makes_one_case_one_order_and_one_attempt(hall, anyone):
    resident, _name = await someone(anyone)
    case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
    key = ulid()
    body = {"payables": [{"kind": "case", "id": case["id"]}]}
    answers = await asyncio.gather(
        *(resident.post("/v1/orders", body, key=key) for _ in range(6)),
        *(resident.order("case", case["id"]) for _ in range(6)),
        return_exceptions=True,
    )
    made = {answer["id"] for answer in answers if isinstance(answer, dict)}
    refused = {getattr(answer, "code", None) for answer in answers if not isinstance(answer, dict)}
    assert len(made) == 1
    assert refused <= {"idempotency.in_progress"}
    listed = await resident.get("/v1/orders")
    assert len(listed["items"]) == 1
