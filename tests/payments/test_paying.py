"""The way from an order to paid, through both providers, with the stand-ins."""

import pytest

from app.kernel.ids import new_id

PROVIDERS = ("wechatpay", "alipay")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_paid_by_notice(hall, provider):
    resident = await hall.resident()
    order = await hall.order(resident)
    attempt, client_params = await hall.pay(order, provider)
    assert set(client_params) == (
        {"timeStamp", "nonceStr", "package", "signType", "paySign"} if provider == "wechatpay" else {"tradeNO"}
    )
    # The stand-in's cashier checks client_params as the SDK would.
    told = await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, client_params=client_params)
    assert told["status"] == 200
    paid = await hall.until(order, "paid")
    assert paid.paid_attempt.provider_trade_no
    assert await hall.events(order) == ["order.created", "order.paying", "order.paid"]
    assert paid.receipt_number.startswith("RSGGAJ")
