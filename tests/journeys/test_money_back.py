"""Money that goes back, by itself or by staff: the resident, the department and the case are told."""

import asyncio

from app.kernel.clock import format_utc, utc_now
from app.kernel.ids import ulid
from tests.journeys.stories import LOST, cashier, paid_attempt, someone, submitted


async def test_a_fine_paid_elsewhere_meanwhile_comes_back(hall, anyone):
    resident, _name = await someone(anyone)
    inputs = {"plate": "粤F7R459", "driver_file_no": "440200000019"}
    [bill] = (await resident.post("/v1/bills/lookup", {"kind": "traffic_fine", "inputs": inputs}))["bills"]
    order = await resident.order("bill", bill["id"])
    attempt = await resident.pay(order["id"], "wechatpay")
    at_the_window = {
        "payment_id": "window-1",
        "amount_fen": bill["amount_fen"],
        "late_fee_fen": bill["late_fee_fen"],
        "paid_at": format_utc(utc_now()),
        "provider_trade_no": "window-1",
    }
    async with resident.http.post(f"{hall.sandbox_url}/departments/bills/{bill['id']}/payments", json=at_the_window) as answer:
        assert answer.status == 200, await answer.text()
    await cashier(resident.http, hall.sandbox_url, "wechatpay", attempt["attempt_id"], "success")
    order = await resident.until(f"/v1/orders/{order['id']}", lambda found: found["state"] == "refunded", 90)
    assert [(refund["state"], refund["amount_fen"]) for refund in order["refunds"]] == [("succeeded", order["amount_fen"])]
    inbox = await resident.until(
        "/v1/notifications?limit=100",
        lambda found: {"bill.payment_refused", "refund.succeeded"} <= {message["event"] for message in found["items"]},
    )
    told = next(message for message in inbox["items"] if message["event"] == "refund.succeeded")
    assert told["link"] == f"/orders/{order['id']}" and "退" in told["body"]


async def test_a_fine_given_back_by_staff_is_told_to_the_department(hall, anyone, clerk):
    resident, _name = await someone(anyone)
    inputs = {"plate": "粤F7R460", "driver_file_no": "440200000020"}
    [bill] = (await resident.post("/v1/bills/lookup", {"kind": "traffic_fine", "inputs": inputs}))["bills"]
    order, _attempt = await paid_attempt(resident, hall.sandbox_url, "bill", bill["id"])
    await resident.until(f"/v1/orders/{order['id']}", lambda found: found["state"] == "paid")
    officer = await clerk("sg-jj")
    body = {"amount_fen": order["amount_fen"], "reason": "行政复议决定撤销处罚"}
    await officer.post(f"/staff/v1/orders/{order['id']}/refunds", body, key=ulid())
    await resident.until(f"/v1/orders/{order['id']}", lambda found: found["state"] == "refunded", 90)
    async with resident.http.get(f"{hall.sandbox_url}/departments/bills/{bill['id']}") as response:
        shown = await response.json()
    for _ in range(40):
        if shown["state"] == "refunded":
            break
        await asyncio.sleep(0.25)
        async with resident.http.get(f"{hall.sandbox_url}/departments/bills/{bill['id']}") as response:
            shown = await response.json()
    assert shown["state"] == "refunded"
    receipt = await resident.get(f"/v1/orders/{order['id']}/receipt")
    public = await anyone.get(f"/v1/receipts/{receipt['number']}?code={receipt['code']}")
    assert (public["state"], public["refunded_fen"]) == ("refunded", order["amount_fen"])


async def test_a_fee_given_back_by_staff_stands_in_the_case(hall, anyone, clerk):
    resident, _name = await someone(anyone)
    case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
    order, _attempt = await paid_attempt(resident, hall.sandbox_url, "case", case["id"])
    await resident.until(f"/v1/orders/{order['id']}", lambda found: found["state"] == "paid")
    officer = await clerk("sg-gaj")
    body = {"amount_fen": order["amount_fen"], "reason": "重复收取"}
    await officer.post(f"/staff/v1/orders/{order['id']}/refunds", body, key=ulid())
    shown = await resident.until(
        f"/v1/cases/{case['id']}", lambda found: any(row["event"] == "case.fee_refunded" for row in found["timeline"]), 90
    )
    assert (shown["fee"]["state"], shown["fee"]["refunded_fen"]) == ("refunded", order["amount_fen"])
