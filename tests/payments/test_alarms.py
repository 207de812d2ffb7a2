"""What operators watch really moves: each alarm of docs/operations is driven here by what it is there for."""

from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from app.kernel.errors import ProviderUnavailable

both = pytest.mark.parametrize("name", ["wechatpay", "alipay"])


def shown(metric, **labels):
    return REGISTRY.get_sample_value(metric, labels) or 0


@both
async def test_a_payment_that_no_callback_told_is_counted_as_found_by_query(hall, name):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, name)
    before = {source: shown("hall_payment_settled_total", provider=name, source=source) for source in ("query", "notice")}
    await hall.sim("pay", provider=name, out_trade_no=attempt.out_trade_no, outcome="success_without_notice")
    await hall.payments.sweep(hall.now() + timedelta(seconds=6))
    assert await hall.state(order) == "paid"
    assert shown("hall_payment_settled_total", provider=name, source="query") == before["query"] + 1
    assert shown("hall_payment_settled_total", provider=name, source="notice") == before["notice"]


@both
async def test_the_age_of_the_oldest_unclear_outcome_grows_until_it_is_cleared(hall, name):
    order = await hall.order(await hall.resident())
    await hall.sim("faults", provider=name, mode="error500")
    with pytest.raises(ProviderUnavailable):
        await hall.pay(order, name)
    for minutes in (11, 12):
        hall.offset = timedelta(minutes=minutes)
        await hall.payments.sweep(hall.now())
        assert minutes * 60 - 5 < shown("hall_payment_oldest_unknown_seconds") < minutes * 60 + 60
    await hall.sim("faults", provider=name, mode="none")
    hall.offset = timedelta(minutes=40)  # past the order's deadline: wound up
    await hall.payments.sweep(hall.now())
    hall.offset = timedelta(minutes=55)
    await hall.payments.sweep(hall.now())
    assert await hall.state(order) == "closed"
    hall.offset = timedelta(minutes=56)
    await hall.payments.sweep(hall.now())
    assert shown("hall_payment_oldest_unknown_seconds") == 0


async def test_refused_signatures_are_counted_by_reason(hall):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "wechatpay")
    for reason, headers in (
        ("headers_missing", {}),
        ("version_2_xml", {}),
        ("unknown_serial", {"Wechatpay-Serial": "7" * 40, "Wechatpay-Signature": "AAAA"}),
        ("signature", {"Wechatpay-Serial": hall.credentials.wechatpay_public_key_id, "Wechatpay-Signature": "AAAA"}),
        ("probe", {"Wechatpay-Serial": "7" * 40, "Wechatpay-Signature": "WECHATPAY/SIGNTEST/AAAA"}),
    ):
        before = shown("hall_payment_signatures_refused_total", provider="wechatpay", reason=reason)
        stamp = {"Wechatpay-Timestamp": str(int(hall.now().timestamp())), "Wechatpay-Nonce": "n"} if headers else {}
        body = b"<xml></xml>" if reason == "version_2_xml" else attempt.out_trade_no.encode()
        assert not (await hall.payments.receive("wechatpay", headers | stamp, body)).taken
        assert shown("hall_payment_signatures_refused_total", provider="wechatpay", reason=reason) == before + 1
    before = shown("hall_payment_signatures_refused_total", provider="alipay", reason="signature")
    form = f"out_trade_no={attempt.out_trade_no}&trade_status=TRADE_SUCCESS&sign=AAAA".encode()
    assert not (await hall.payments.receive("alipay", {}, form)).taken
    assert shown("hall_payment_signatures_refused_total", provider="alipay", reason="signature") == before + 1
    assert await hall.state(order) == "paying"
