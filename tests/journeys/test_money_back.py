"""Money that has to go back does so by itself, and the resident is told: paid elsewhere meanwhile, and paid twice."""

from app.kernel.clock import format_utc, utc_now
from tests.journeys.stories import cashier, someone


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
