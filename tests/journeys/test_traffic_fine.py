"""交通违法罚款: found by plate, paid, receipted, told to the department; a department that is away says so."""

import asyncio

import pytest

from tests.journeys.conftest import settled
from tests.journeys.stories import events_of, paid_attempt, someone

LOOKUP = {"kind": "traffic_fine", "inputs": {"plate": "粤F7A123", "driver_file_no": "440200000015"}}


async def test_found_paid_and_receipted(hall, anyone):
    resident, _name = await someone(anyone)
    found = await resident.post("/v1/bills/lookup", LOOKUP)
    [bill] = found["bills"]
    assert bill["amount_fen"] == 20000
    order, _attempt = await paid_attempt(resident, hall.sandbox_url, "bill", bill["id"])
    assert order["amount_fen"] == bill["amount_fen"] + bill["late_fee_fen"]
    order = await resident.until(f"/v1/orders/{order['id']}", lambda answer: answer["state"] == "paid")
    receipt = await resident.get(f"/v1/orders/{order['id']}/receipt")
    public = await anyone.get(f"/v1/receipts/{receipt['number']}?code={receipt['code']}")
    assert public["amount_fen"] == order["amount_fen"]
    pdf = await resident.get(f"/v1/orders/{order['id']}/receipt.pdf")
    assert pdf.startswith(b"%PDF")
    with pytest.raises(Exception) as caught:
        await anyone.get(f"/v1/receipts/{receipt['number']}?code=WRONG")
    assert caught.value.status == 404
    await resident.until("/v1/notifications", lambda answer: "order.paid" in events_of(answer["items"]))  # the worker may just be starting
    inbox = await settled(resident)
    assert [message["event"] for message in inbox] == ["order.created", "order.paying", "order.paid"]
    # The department knows: the bill is no longer owed, by anybody.
    async with resident.http.get(f"{hall.sandbox_url}/departments/bills/{bill['id']}") as response:
        assert (await response.json())["state"] == "paid"
    other, _name = await someone(anyone)
    await other.post("/v1/bills/lookup", LOOKUP)
    with pytest.raises(Exception) as caught:
        await other.order("bill", bill["id"])
    assert caught.value.status == 409


async def test_a_bill_nobody_looked_up_cannot_be_ordered(anyone):
    resident, _name = await someone(anyone)
    with pytest.raises(Exception) as caught:
        await resident.order("bill", "bill-tf-1")
    assert caught.value.status == 404


@pytest.mark.parametrize("plate", ["粤F0DOWN", "粤F0JUNK"])
async def test_a_department_that_is_away_is_said_to_be_away_never_nothing_found(anyone, plate):
    resident, _name = await someone(anyone)
    with pytest.raises(Exception) as caught:
        await resident.post("/v1/bills/lookup", {"kind": "traffic_fine", "inputs": {**LOOKUP["inputs"], "plate": plate}})
    assert (caught.value.status, caught.value.code) == (503, "provider.unavailable")


async def test_of_two_who_pay_the_same_fine_at_once_one_is_told_to_wait(anyone):
    inputs = {"plate": "粤F7B456", "driver_file_no": "440200000016"}
    people = [(await someone(anyone))[0] for _ in range(2)]
    for person in people:
        [bill] = (await person.post("/v1/bills/lookup", {"kind": "traffic_fine", "inputs": inputs}))["bills"]
    answers = await asyncio.gather(*(person.order("bill", bill["id"]) for person in people * 3), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    made = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len({order["id"] for order in made}) == 1 and len(made) == 3
    assert {(error.status, error.code) for error in refused} == {(409, "order.payable_busy")}
