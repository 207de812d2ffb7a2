"""The department systems: finding, surcharge, paying once, bad days."""

import asyncio
import time
from datetime import datetime

import pytest

from sandbox.base import CHINA

ZHANG = {"name": "张示例", "id_number": "44020019000101001X"}


@pytest.fixture(autouse=True)
def on_the_day_of_the_sample(running):
    """23 November 2026, noon in Shaoguan: the day for which the sample file gives its late fees."""
    running.sandbox.clock = lambda: datetime(2026, 11, 23, 12, tzinfo=CHINA).timestamp()


@pytest.fixture
def call(running, http):
    async def call(method, path, body=None):
        async with http.request(method, f"{running.url}/departments/{path}", json=body) as answer:
            return answer.status, await answer.json(content_type=None)

    return call


@pytest.fixture
def look_up(call):
    async def look_up(kind, **keys):
        status, body = await call("POST", "bills/lookup", {"kind": kind, "keys": keys})
        return {bill["id"]: bill for bill in body["bills"]} if status == 200 else (status, body["code"])

    return look_up


async def test_every_key_of_one_set_must_match(look_up):
    mine = await look_up("traffic_fine", **ZHANG)
    assert list(mine) == ["bill-tf-2", "bill-tf-1"]  # oldest due day first
    assert mine["bill-tf-1"]["payee"]["agency"] == "sg-jj" and mine["bill-tf-1"]["payer_name_masked"] == "张**"
    assert "id_number" not in str(mine)
    assert list(await look_up("traffic_fine", decision_no="4402031900000023")) == ["bill-tf-2"]
    assert list(await look_up("traffic_fine", plate="粤F00001", driver_file_no="440200000015")) == ["bill-tf-1"]
    assert len(await look_up("traffic_fine", plate="粤F00001", vin_last6="000001")) == 2
    assert await look_up("traffic_fine", name="李示例", id_number=ZHANG["id_number"]) == {}
    assert await look_up("traffic_fine", plate="粤F00001") == (422, "keys_incomplete")
    assert await look_up("parking") == (404, "unknown_kind")
    assert len(await look_up("water", account="44020000101")) == 2
    both = await look_up("exam_fee", enrol_no="JZ2026440200001", id_number="440200190102020022")
    assert list(both) == ["bill-ex-1"]


@pytest.mark.parametrize(
    ("bill_id", "day", "late_fee_fen"),
    [
        ("bill-tf-1", "2026-12-01", 0),
        ("bill-tf-1", "2026-12-02", 600),
        ("bill-tf-1", "2026-12-11", 6000),
        ("bill-tf-2", "2026-11-23", 5700),
        ("bill-tf-2", "2026-12-07", 9900),
        ("bill-tf-2", "2026-12-31", 10000),  # never more than the fine
        ("bill-tf-3", "2026-11-23", 20000),
        ("bill-tf-5", "2026-11-23", 0),  # disputed: the surcharge rests
    ],
)
async def test_late_fee_is_three_percent_a_day_as_the_sample_file_says(running, call, bill_id, day, late_fee_fen):
    running.sandbox.clock = lambda: datetime.fromisoformat(day).replace(hour=1, tzinfo=CHINA).timestamp()
    status, bill = await call("GET", f"bills/{bill_id}")
    assert (status, bill["late_fee_fen"]) == (200, late_fee_fen)


async def test_paying_is_idempotent_and_exact(call, sim, running):
    payment = {
        "payment_id": "pay_1",
        "amount_fen": 10000,
        "late_fee_fen": 5700,
        "paid_at": "2026-11-23T04:00:00Z",
        "provider_trade_no": "4200001",
    }
    path = "bills/bill-tf-2/payments"
    status, body = await call("POST", path, payment | {"late_fee_fen": 0})
    assert (status, body["code"], body["late_fee_fen"]) == (422, "wrong_amount", 5700)
    first = await call("POST", path, payment)
    assert first[0] == 200 and first[1]["accepted"] and first[1]["receipt_no"]
    assert await call("POST", path, payment) == first
    assert (await call("POST", path, payment | {"payment_id": "pay_2"}))[1]["code"] == "already_paid"
    assert (await call("POST", "bills/bill-tf-1/payments", payment))[1]["code"] == "payment_id_used"
    assert (await call("POST", "bills/bill-tf-5/payments", payment | {"payment_id": "p"}))[1]["code"] == "not_payable"
    assert (await call("POST", "bills/none/payments", payment))[0] == 404
    bill = (await call("GET", "bills/bill-tf-2"))[1]
    assert (bill["state"], bill["paid_on"], bill["receipt_no"]) == ("paid", "2026-11-23", first[1]["receipt_no"])
    await sim("reset", what="bills")
    assert (await call("GET", "bills/bill-tf-2"))[1]["state"] == "unpaid"


async def test_refunds_belong_to_a_payment_and_never_exceed_it(call, sim):
    payment = {"payment_id": "pay_1", "amount_fen": 10000, "late_fee_fen": 5700, "paid_at": "2026-11-23T04:00:00Z", "provider_trade_no": "4"}
    refund = {"refund_id": "rfd_1", "payment_id": "pay_1", "amount_fen": 700, "refunded_at": "2026-11-23T05:00:00Z"}
    path = "bills/bill-tf-2/refunds"
    assert (await call("POST", path, refund))[1]["code"] == "unknown_payment"
    await call("POST", "bills/bill-tf-2/payments", payment)
    taken = await call("POST", path, refund)
    assert taken == (200, {"accepted": True}) == await call("POST", path, refund)
    assert (await call("POST", path, refund | {"amount_fen": 701}))[1]["code"] == "refund_id_used"
    assert (await call("POST", path, refund | {"refund_id": "rfd_2", "amount_fen": 15001}))[1]["code"] == "wrong_amount"
    assert (await call("POST", "bills/none/refunds", refund))[0] == 404
    for wrong in ({"amount_fen": 0}, {"amount_fen": "1"}, {"refunded_at": "2026-11-23"}, {"refund_id": ""}):
        assert (await call("POST", path, refund | {"refund_id": "rfd_3"} | wrong))[0] == 422
    assert (await call("GET", "bills/bill-tf-2"))[1]["state"] == "paid"
    await call("POST", path, refund | {"refund_id": "rfd_2", "amount_fen": 15000})
    assert (await call("GET", "bills/bill-tf-2"))[1]["state"] == "refunded"
    # A payment that was not taken is known by its number: that its money went back can be told.
    assert (await call("POST", "bills/bill-tf-2/payments", payment | {"payment_id": "pay_2"}))[0] == 409
    assert (await call("POST", path, refund | {"refund_id": "rfd_4", "payment_id": "pay_2", "amount_fen": 15700}))[0] == 200


async def test_an_exam_is_closed_after_its_deadline_and_takes_what_was_paid_before(call, running):
    payment = {"payment_id": "pay_1", "amount_fen": 28000, "late_fee_fen": 0, "provider_trade_no": "4"}
    running.sandbox.clock = lambda: datetime(2026, 11, 29, 0, 1, tzinfo=CHINA).timestamp()
    assert (await call("GET", "bills/bill-ex-1"))[1]["state"] == "closed"
    late = payment | {"paid_at": "2026-11-29T00:00:01+08:00"}
    assert (await call("POST", "bills/bill-ex-1/payments", late))[1]["code"] == "not_payable"
    in_time = payment | {"payment_id": "pay_2", "paid_at": "2026-11-28T23:59:59+08:00"}
    assert (await call("POST", "bills/bill-ex-1/payments", in_time))[0] == 200


async def test_ordered_before_midnight_paid_after_it(call):
    payment = {"payment_id": "pay_1", "amount_fen": 10000, "provider_trade_no": "42"}
    late = payment | {"late_fee_fen": 5700, "paid_at": "2026-11-24T00:00:30+08:00"}
    assert (await call("POST", "bills/bill-tf-2/payments", late))[0] == 200


async def test_every_other_plate_has_a_fine_of_its_own(running, look_up):
    one = await look_up("traffic_fine", plate="粤F8A123", vin_last6="A1B2C3")
    (bill,) = one.values()
    assert (bill["amount_fen"], bill["state"], bill["late_fee_fen"]) == (20000, "unpaid", 0)
    running.sandbox.clock = lambda: datetime(2026, 11, 30, 12, tzinfo=CHINA).timestamp()
    assert await look_up("traffic_fine", plate="粤F8A123", driver_file_no="440200123456") == one
    other = await look_up("traffic_fine", plate="粤FD12345", vin_last6="A1B2C3")
    assert set(other).isdisjoint(one)
    assert await look_up("traffic_fine", plate="粤A8A123", vin_last6="A1B2C3") == {}
    assert await look_up("traffic_fine", plate="粤F8A123", vin_last6="?") == {}


@pytest.mark.parametrize("kind", ["bills", "checks"])
async def test_bad_days(running, http, kind):
    async def ask(plate):
        if kind == "bills":
            path, body = "bills/lookup", {"kind": "traffic_fine", "keys": {"plate": plate, "vin_last6": "000000"}}
        else:
            path, body = "checks/traffic_violation", {"inputs": {"plate": plate, "vin_last6": "000000"}, "person": {}}
        started = time.monotonic()
        async with http.post(f"{running.url}/departments/{path}", json=body) as answer:
            return answer.status, await answer.read(), time.monotonic() - started

    assert (await ask("粤F0DOWN"))[0] == 503
    status, raw, _ = await ask("粤F0JUNK")
    assert status == 200 and raw.startswith(b"<xml>")
    assert (await ask("粤F0SLOW"))[2] >= 0.2


async def test_checks_answer_labelled_rows_and_the_same_for_the_same_person(call):
    kinds = "licence_points social_insurance housing_fund id_card_progress exit_entry_progress appointment"
    for kind in [*kinds.split(), "medical_insurance", "traffic_violation"]:
        body = {"inputs": {}, "person": ZHANG}
        (status, one), (_, again) = await asyncio.gather(*(call("POST", f"checks/{kind}", body) for _ in range(2)))
        assert status == 200 and one["records"] == again["records"]
        assert all(row["label"] and row["value"] for record in one["records"] for row in record["rows"])
    violations = (await call("POST", "checks/traffic_violation", {"inputs": {}, "person": ZHANG}))[1]
    assert {bill["id"] for bill in violations["bills"]} == {"bill-tf-1", "bill-tf-2"}
    by_plate = {"inputs": {"plate": "粤F00003", "vin_last6": "000003"}}
    (bill,) = (await call("POST", "checks/traffic_violation", by_plate))[1]["bills"]
    assert bill["state"] == "disputed"
    assert (await call("POST", "checks/housing_fund", {"inputs": {}, "person": {}}))[0] == 422
    assert (await call("POST", "checks/weather", {"inputs": {}, "person": ZHANG}))[0] == 404
