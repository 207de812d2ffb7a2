"""Bills from looking up to the department's acknowledgement: each kind's rules, nobody pays twice, what goes back is told."""

import asyncio
from datetime import datetime, timedelta

import pytest

from app.checks import errors as bill_errors
from app.kernel.clock import SHANGHAI
from app.kernel.errors import ValidationFailed
from app.kernel.ids import new_id
from payments import errors
from payments.service import view
from tests.payments.bill_town import CHEN, LI, WANG, ZHANG, Town, opened, staff


@pytest.fixture
async def town(hall, keys, servers):
    async with opened(hall, keys, servers["mongodb"]) as town:
        yield town


def shanghai(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=SHANGHAI)


def pointers(caught) -> dict[str, str]:
    return {row["pointer"]: row["code"] for row in caught.value.errors}


# --- nobody pays twice ---


async def test_of_many_people_in_two_processes_at_once_one_gets_the_order(town: Town):
    """Also the same person twice: of his two requests both answer with one order."""
    people = [await town.resident(who) for who in (ZHANG, LI, WANG)]
    other = town.process()
    for person in people:
        bill = await town.fine(person, "粤F30001")
    answers = await asyncio.gather(
        *(town.order(person, bill["id"], payments=at.payments) for person in people for at in (town, other, town)),
        return_exceptions=True,
    )
    orders = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(orders) == 3 and len({order.id for order in orders}) == 1
    assert all(isinstance(answer, errors.PayableBusy) for answer in answers if answer not in orders)
    assert await town.database["orders"].count_documents({}) == 1


async def test_paid_in_both_channels_at_once_it_counts_once_and_the_rest_goes_back(town: Town):
    resident = await town.resident()
    bill = await town.fine(resident, "粤F30002")
    order = await town.order(resident, bill["id"])
    await town.hall.sim("faults", provider="wechatpay", mode="down")  # the old attempt cannot be closed before the new one
    attempts = []
    for provider in ("alipay", "wechatpay"):
        await town.hall.sim("faults", provider="wechatpay", mode="none")
        attempt, _ = await town.payments.pay(order.id, resident, provider=provider, scene="mini_program", attempt_id=new_id("pay"))
        await town.hall.sim("faults", provider="alipay", mode="down")
        attempts.append((provider, attempt.id))
    await town.hall.sim("faults", provider="alipay", mode="none")
    await asyncio.gather(*(town.hall.sim("pay", provider=provider, out_trade_no=number) for provider, number in attempts))
    await town.until(order, "paid")
    async with asyncio.timeout(15):
        while [str(refund.state) for refund in order.refunds] != ["succeeded"]:
            await town.payments.sweep()
            order = await town.payments.get_order(order.id, resident, refresh=True)
            await asyncio.sleep(0.05)
    await town.told()
    assert [(refund.kind, refund.amount_fen) for refund in order.refunds] == [("overpaid", bill["total_fen"])]
    # The department heard of one payment, and nothing of what was never its money.
    assert await town.reported(bill["id"]) == [("payment", "accepted", bill["total_fen"])]
    assert (await town.department(bill["id"]))["state"] == "paid"


async def test_two_workers_tell_one_payment(town: Town):
    resident = await town.resident()
    bill = await town.fine(resident, "粤F30003")
    order = await town.order(resident, bill["id"])
    other = town.process()
    await town.pay(order)
    async with asyncio.timeout(10):
        while (await town.payments.get_order(order.id, resident)).state != "paid":
            await asyncio.sleep(0.02)
    await asyncio.gather(town.told(), other.told(), town.told(), other.told())
    assert await town.reported(bill["id"]) == [("payment", "accepted", bill["total_fen"])]
    with pytest.raises(bill_errors.BillNotFound):  # who never looked it up learns nothing
        await town.order(await town.resident(LI), bill["id"])
    late = await town.resident(LI)
    await town.checks.lookup_bills("traffic_fine", {"plate": "粤F30003", "vin_last6": "000001"}, late)
    with pytest.raises((bill_errors.BillAlreadyPaid, errors.OrderAlreadyPaid)):
        await town.order(late, bill["id"])


# --- refused, refunded ---


async def test_paid_at_the_window_meanwhile_it_goes_back_and_the_department_is_told_of_that_too(town: Town):
    resident = await town.resident()
    bill = await town.fine(resident, "粤F30004")
    order = await town.order(resident, bill["id"])
    window = {
        "payment_id": "window", "amount_fen": bill["amount_fen"], "late_fee_fen": bill["late_fee_fen"],
        "paid_at": town.hall.now().isoformat(), "provider_trade_no": "w1",
    }
    async with town.hall.session.post(f"{town.hall.sandbox.url}/departments/bills/{bill['id']}/payments", json=window) as answer:
        assert answer.status == 200
    await town.paid(order)
    await town.until(order, "refunded")
    assert await town.reported(bill["id"]) == [
        ("payment", "refused", bill["total_fen"]),
        ("refund", "accepted", bill["total_fen"]),
    ]
    assert (await town.department(bill["id"]))["state"] == "paid"  # by the window


async def test_what_staff_give_back_is_told_and_the_bill_is_owed_again_only_when_its_department_says_so(town: Town):
    resident = await town.resident()
    bill = await town.fine(resident, "粤F30005")
    order = await town.paid(await town.order(resident, bill["id"]))
    await town.payments.refunds.request(
        order.id, staff("sg-jj"), amount_fen=order.amount_fen, reason="复议撤销", refund_id=new_id("rfd")
    )
    await town.until(order, "refunded")
    for _ in range(2):  # the event once more
        await town.database["events"].update_many({"name": "refund.succeeded"}, {"$set": {"done": [], "next_at": town.hall.now()}})
        await town.told()
    assert await town.reported(bill["id"]) == [
        ("payment", "accepted", bill["total_fen"]),
        ("refund", "accepted", bill["total_fen"]),
    ]
    assert (await town.department(bill["id"]))["state"] == "refunded"
    with pytest.raises(bill_errors.BillRefunded):
        await town.order(resident, bill["id"])
    await town.change_bill(bill["id"], state="unpaid")  # it was only the wrong payer: the fine itself stands
    again = await town.paid(await town.order(resident, bill["id"]))
    assert again.id != order.id
    assert (await town.department(bill["id"]))["state"] == "paid"


async def test_a_part_of_two_bills_of_one_agency_is_told_of_the_right_one(town: Town):
    resident = await town.resident()
    bills = [await town.fine(resident, plate) for plate in ("粤F30006", "粤F30007")]
    order = await town.paid(await town.order(resident, *(bill["id"] for bill in bills)))
    one, other = (bill["id"] for bill in bills)
    assert order.amount_fen == 40000
    for amount_fen in (5000, 20000, 15000):  # of the first a part; all of the second (exactly its sum); the rest of the first
        await town.payments.refunds.request(
            order.id, staff("sg-jj"), amount_fen=amount_fen, reason="复议", refund_id=new_id("rfd")
        )
        await town.until(order, "refunded" if amount_fen == 15000 else "partly_refunded")
        if amount_fen == 20000:
            # What went back whole is free, the other is not; what is owed its department says.
            locks = await town.database["payable_locks"].distinct("_id")
            assert locks == [f"bill:{one}"]
            assert [(await town.department(bill_id))["state"] for bill_id in (one, other)] == ["paid", "refunded"]
        town.set_clock(town.hall.now() + timedelta(seconds=62))  # WeChat Pay wants a minute between refunds of one payment
    refunds = [(kind, fen) for kind, _state, fen in await town.reported(one)]
    assert refunds == [("payment", 20000), ("refund", 5000), ("refund", 15000)]
    assert [(kind, fen) for kind, _state, fen in await town.reported(other)] == [("payment", 20000), ("refund", 20000)]
    assert (await town.department(one))["state"] == "refunded"


async def test_a_refund_is_told_after_its_payment_whatever_comes_first(town: Town):
    resident = await town.resident()
    bill = await town.fine(resident, "粤F30008")
    order = await town.order(resident, bill["id"])
    await town.pay(order)
    async with asyncio.timeout(10):
        while (await town.payments.get_order(order.id, resident)).state != "paid":
            await asyncio.sleep(0.02)
    paid = {"name": "order.paid"}  # the relay has not come to the payment yet
    await town.database["events"].update_many(paid, {"$set": {"next_at": town.hall.now() + timedelta(hours=1)}})
    await town.payments.refunds.request(order.id, staff("sg-jj"), amount_fen=20000, reason="复议", refund_id=new_id("rfd"))
    await town.until(order, "refunded")
    assert await town.reported(bill["id"]) == [("refund", "waiting", 20000)]
    await town.database["events"].update_many(paid, {"$set": {"next_at": town.hall.now()}})
    await town.told()
    await town.reports.sweep(town.hall.now() + timedelta(hours=1))
    assert sorted(await town.reported(bill["id"])) == [("payment", "accepted", 20000), ("refund", "accepted", 20000)]
    assert (await town.department(bill["id"]))["state"] == "refunded"


# --- fines ---


async def test_the_price_of_the_order_holds_over_midnight(town: Town):
    town.set_clock(shanghai("2026-11-23T23:50"))
    resident = await town.resident(ZHANG)
    bill = next(bill for bill in await town.bills(resident, "traffic_fine") if bill["id"] == "bill-tf-2")
    assert (bill["late_fee_fen"], bill["warning"]) == (5700, "")
    order = await town.order(resident, bill["id"])
    town.set_clock(shanghai("2026-11-24T00:10"))
    assert (await town.department("bill-tf-2"))["late_fee_fen"] == 6000
    assert (await town.payments.get_order(order.id, resident)).amount_fen == 15700
    assert (await town.order(resident, bill["id"])).id == order.id  # the order that is open, at its price
    await town.paid(order)
    assert await town.reported("bill-tf-2") == [("payment", "accepted", 15700)]


async def test_news_that_comes_days_later_is_told_with_the_day_of_the_payment(town: Town):
    town.set_clock(shanghai("2026-11-23T12:00"))
    resident = await town.resident(ZHANG)
    await town.bills(resident, "traffic_fine")
    order = await town.order(resident, "bill-tf-2")
    await town.hall.sim("faults", provider="wechatpay_notice", mode="down")
    await town.hall.sim("storm", drop=1.0)
    await town.pay(order)
    town.set_clock(shanghai("2026-11-26T09:00"))  # the hall stood still for three days; the surcharge has grown
    await town.hall.sim("storm", drop=0)
    await town.payments.get_order(order.id, resident, refresh=True)
    await town.until(order, "paid")
    assert await town.reported("bill-tf-2") == [("payment", "accepted", 15700)]


async def test_a_surcharge_above_the_fine_cannot_be_ordered(town: Town):
    resident = await town.resident()
    bill = await town.fine(resident, "粤F30009")
    await town.change_bill(bill["id"], late_fee_fen=20001)
    answer = await town.checks.lookup_bills("traffic_fine", {"plate": "粤F30009", "vin_last6": "000001"}, resident)
    assert answer["bills"] == [] and "超过了罚款本身" in answer["other_bills"][0]["warning"]
    with pytest.raises(bill_errors.BillDoubtful):
        await town.order(resident, bill["id"])
    await town.change_bill(bill["id"], late_fee_fen=300)  # not what the days give, but lawful: the department's figure, and it is said
    shown = await town.fine(resident, "粤F30009")
    assert shown["payable"] and "0.00元" in shown["warning"]
    order = await town.paid(await town.order(resident, bill["id"]))
    assert order.amount_fen == 20300
    assert await town.reported(bill["id"]) == [("payment", "accepted", 20300)]


# --- exams ---


async def test_an_order_for_an_exam_never_outlives_the_deadline(town: Town):
    town.set_clock(shanghai("2026-11-28T23:50"))
    resident = await town.resident(LI)
    [bill] = await town.bills(resident, "exam_fee", enrol_no="JZ2026440200001", id_number=LI[1])
    assert bill["pay_by"] == "2026-11-28T16:00:00Z"
    order = await town.order(resident, bill["id"])
    assert order.expires_at == shanghai("2026-11-29T00:00")
    attempt = await town.pay(order)  # in time, and told to the department after it
    trade = await town.hall.trade(attempt)
    assert trade
    await town.payments.get_order(order.id, resident, refresh=True)
    town.set_clock(shanghai("2026-11-29T00:05"))
    assert (await town.department(bill["id"]))["state"] == "closed"
    await town.until(order, "paid")
    assert await town.reported(bill["id"]) == [("payment", "accepted", 28000)]


async def test_after_the_deadline_an_exam_can_neither_be_ordered_nor_paid(town: Town):
    town.set_clock(shanghai("2026-11-28T23:50"))
    resident = await town.resident(LI)
    [bill] = await town.bills(resident, "exam_fee", pay_code="44020026000000001012")
    order = await town.order(resident, bill["id"])
    town.set_clock(shanghai("2026-11-28T23:59"))
    with pytest.raises(errors.OrderExpired):
        await town.payments.pay(order.id, resident, provider="wechatpay", scene="mini_program", attempt_id=new_id("pay"))
    town.set_clock(shanghai("2026-11-29T00:00") + timedelta(seconds=1))
    with pytest.raises(bill_errors.BillClosed):
        await town.order(resident, bill["id"])


# --- for others ---


async def test_insurance_is_paid_for_a_relative_and_only_masked_names_are_shown(town: Town):
    town.set_clock(shanghai("2026-11-23T12:00"))
    payer = await town.resident(ZHANG)
    with pytest.raises(ValidationFailed) as caught:
        await town.bills(payer, "medins_resident", id_number=WANG[1], year="2027")
    assert pointers(caught) == {"/inputs/name": "required"}
    # A wrong name finds nothing: the answer does not say whose number it is.
    assert await town.bills(payer, "medins_resident", id_number=WANG[1], name="李四", year="2027") == []
    [bill] = await town.bills(payer, "medins_resident", id_number=WANG[1], name=WANG[0], year="2027")
    assert (bill["holder"], bill["holder_masked"]) == ("参保人", "王**")
    assert WANG[0] not in str(bill) and WANG[1] not in str(bill)
    order = await town.paid(await town.order(payer, bill["id"]))
    assert [line["paid_for"] for line in view(order)["lines"]] == ["王**"]
    receipt = await town.payments.receipt(order.id, payer)
    assert receipt["lines"][0]["paid_for"] == "王**" and WANG[0] not in str(receipt)
    public = await town.payments.check_receipt(receipt["number"], receipt["code"])
    assert "王" not in str(public["lines"])  # strangers read nobody's name, not even masked
    stored = str(await town.database["orders"].find_one({})) + str(await town.database["bills"].find().to_list())
    assert WANG[0] not in stored and WANG[1] not in stored


async def test_ones_own_insurance_names_nobody(town: Town):
    resident = await town.resident(WANG)
    [bill] = await town.bills(resident, "medins_resident", year="2027")
    order = await town.order(resident, bill["id"])
    assert "paid_for" not in view(order)["lines"][0]


async def test_a_hospital_bill_is_for_the_patient_and_for_relatives_who_say_so(town: Town):
    town.set_clock(shanghai("2026-11-23T12:00"))
    patient, relative = await town.resident(CHEN), await town.resident(ZHANG)
    assert len(await town.bills(patient, "medical", visit_no="MZ20261120001")) == 1
    keys = {"id_number": CHEN[1], "visit_no": "MZ20261120001"}
    with pytest.raises(ValidationFailed) as caught:
        await town.bills(relative, "medical", **keys)
    assert pointers(caught) == {"/inputs/relation": "required"}
    with pytest.raises(ValidationFailed) as caught:
        await town.bills(relative, "medical", **keys, relation="朋友")
    assert pointers(caught) == {"/inputs/relation": "invalid"}
    [bill] = await town.bills(relative, "medical", **keys, relation="子女")
    assert bill["holder_masked"] == "陈**"
    order = await town.order(relative, bill["id"])
    assert order.lines[0].paid_for == "陈**"
    purposes = await town.database["audit"].distinct("purpose", {"actor": relative})
    assert purposes == ["为子女查询并缴纳医疗费用"]  # kept with the question; of the refused ones nothing was asked


async def test_whoever_holds_the_code_may_pay_and_full_width_digits_are_digits(town: Town):
    resident = await town.resident(LI, level=2)
    [bill] = await town.bills(resident, "nontax", pay_code=" ４４０２００２６ 0000 0000 2010 ")
    assert (bill["id"], bill["holder"], bill["holder_masked"]) == ("bill-nt-1", "缴款人", "张**")
    order = await town.paid(await town.order(resident, bill["id"]))
    assert order.receipts[0].agency_id == "sg-bdc"
    for wrong in ("4402002600000000201", "440200260000000020100", "4402002600000000201X"):
        with pytest.raises(ValidationFailed):
            await town.bills(resident, "nontax", pay_code=wrong)


async def test_of_a_water_account_the_older_bill_comes_first_or_together(town: Town):
    resident = await town.resident(LI, level=2)
    older, newer = await town.bills(resident, "water", account="44020000101")
    assert (older["id"], newer["id"], newer["holder"], newer["holder_masked"]) == ("bill-wa-2", "bill-wa-1", "户主", "张**")
    with pytest.raises(errors.OlderFirst):
        await town.order(resident, newer["id"])
    both = await town.order(resident, newer["id"], older["id"])
    assert both.amount_fen == newer["total_fen"] + older["total_fen"]
    await town.payments.close_order(both.id, resident)
    await town.paid(await town.order(resident, older["id"]))
    await town.paid(await town.order(resident, newer["id"]))  # after it, alone
    assert await town.reported("bill-wa-1") == [("payment", "accepted", newer["total_fen"])]
