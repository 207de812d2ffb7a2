"""What every provider must do: one set of tests for all of them. A new provider is one more row in PROVIDERS."""

from dataclasses import dataclass
from datetime import timedelta

import pytest

from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from payments.provider import (
    NotificationRejected,
    PaymentState,
    ProviderNotSent,
    ProviderRefused,
    ProviderUnknown,
    Terms,
)
from tests.payments.conftest import providers

PROVIDERS = ("wechatpay", "alipay")


@dataclass
class Try:
    out_trade_no: str
    scene: str
    request: str


@pytest.fixture(params=PROVIDERS)
async def provider(request, hall):
    return hall.payments.providers[request.param]


async def attempt_of(hall, provider, **changes):
    resident = await hall.resident()
    terms = {
        "out_trade_no": new_id("pay"),
        "scene": "mini_program",
        "amount_fen": 4000,
        "description": "居民身份证丢失补领/工本费=40&元",
        "payer": provider.payer_from(hall.payers[(resident, provider.identity)]),
        "expires_at": utc_now() + timedelta(minutes=30),
        "notify_url": f"{hall.url}/callbacks/{provider.name}",
    } | changes
    return Try(terms["out_trade_no"], terms["scene"], provider.prepare(Terms(**terms)))


async def test_create_query_pay_query(hall, provider):
    attempt = await attempt_of(hall, provider)
    assert (await provider.query(attempt)).state is PaymentState.NOT_FOUND
    assert await provider.create(attempt)
    assert (await provider.query(attempt)).state is PaymentState.PENDING
    await hall.sim("pay", provider=provider.name, out_trade_no=attempt.out_trade_no, outcome="success_without_notice")
    report = await provider.query(attempt)
    assert report.state is PaymentState.PAID
    assert (report.amount_fen, report.currency, report.provider) == (4000, "CNY", provider.name)
    assert report.out_trade_no == attempt.out_trade_no and report.provider_trade_no
    assert report.merchant_id in ("", provider.merchant_id) and report.app_id in ("", provider.app_id)
    assert abs(report.paid_at - utc_now()) < timedelta(minutes=1) and report.paid_at.utcoffset() == timedelta()
    assert not report.is_refunded
    with pytest.raises(ProviderRefused):
        await provider.create(attempt)
    with pytest.raises(ProviderRefused):
        await provider.close(attempt)
    assert (await provider.query(attempt)).state is PaymentState.PAID


async def test_same_number_same_terms_is_the_same_trade(hall, provider):
    attempt = await attempt_of(hall, provider)
    await provider.create(attempt)
    await provider.create(attempt)
    other = await attempt_of(hall, provider, out_trade_no=attempt.out_trade_no, amount_fen=4001)
    with pytest.raises(ProviderRefused):
        await provider.create(other)


async def test_close(hall, provider):
    attempt = await attempt_of(hall, provider)
    with pytest.raises(ProviderRefused):
        await provider.close(attempt)
    await provider.create(attempt)
    await provider.close(attempt)
    assert (await provider.query(attempt)).state is PaymentState.CLOSED
    with pytest.raises(ProviderRefused):
        await provider.create(attempt)


@pytest.mark.parametrize("amount_fen", [1, 10, 100, 4000, 9999999999])
async def test_amounts_survive_both_ways(hall, provider, amount_fen):
    attempt = await attempt_of(hall, provider, amount_fen=amount_fen)
    await provider.create(attempt)
    assert (await hall.trade(attempt.out_trade_no))["amount_fen"] == amount_fen
    await hall.sim("pay", provider=provider.name, out_trade_no=attempt.out_trade_no, outcome="success_without_notice")
    assert (await provider.query(attempt)).amount_fen == amount_fen


@pytest.mark.parametrize("mode", ["lost", "down", "error500", "garbage", "bad_signature"])
async def test_unclear_is_unknown(hall, provider, mode):
    attempt = await attempt_of(hall, provider)
    await provider.create(attempt)
    for call in (provider.create, provider.query, provider.close):
        await hall.sim("faults", provider=provider.name, mode=mode)
        with pytest.raises(ProviderUnknown) as caught:
            await call(attempt)
        assert not isinstance(caught.value, ProviderNotSent)
        await hall.sim("faults", provider=provider.name, mode="none")


async def test_nobody_there_is_not_sent(hall, provider):
    attempt = await attempt_of(hall, provider)
    own = hall.credentials
    for dead in providers(hall.http, own, "http://127.0.0.1:1", "http://127.0.0.1:1/gateway.do"):
        if dead.name == provider.name:
            for call in (dead.create, dead.query, dead.close):
                with pytest.raises(ProviderNotSent):
                    await call(attempt)


async def test_request_is_fixed_text(hall, provider):
    attempt = await attempt_of(hall, provider)
    resident = await hall.resident()
    terms = Terms(
        out_trade_no="pay_1",
        scene="mini_program",
        amount_fen=1,
        description="x" * 400,
        payer=provider.payer_from(hall.payers[(resident, provider.identity)]),
        expires_at=utc_now().replace(microsecond=0),
        notify_url="https://hall.example.gov.cn/callbacks/x",
    )
    assert provider.prepare(terms) == provider.prepare(terms)
    assert attempt.request and isinstance(attempt.request, str)


def test_payer(hall):
    wechatpay, alipay = (hall.payments.providers[name] for name in PROVIDERS)
    assert wechatpay.payer_from({"openid": "o1", "unionid": "u"}) == {"openid": "o1"}
    assert wechatpay.payer_from({"openid": None}) == {}
    assert alipay.payer_from({"open_id": "a", "user_id": "2088"}) == {"open_id": "a"}
    assert alipay.payer_from({"open_id": None, "user_id": "2088"}) == {"user_id": "2088"}
    assert alipay.payer_from({}) == {}


async def test_user_id_pays_too(hall):
    alipay = hall.payments.providers["alipay"]
    resident = await hall.resident()
    user_id = hall.payers[(resident, "alipay")]["user_id"]
    attempt = await attempt_of(hall, alipay, payer={"user_id": user_id})
    assert '"buyer_id"' in attempt.request
    assert (await alipay.create(attempt))["tradeNO"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"a=b&c=d", b"\xff\x00", b"x" * 70000])
def test_garbage_notifications_are_rejected(hall, body):
    for provider in hall.payments.providers.values():
        for headers in ({}, {"Wechatpay-Timestamp": "x", "Wechatpay-Nonce": "", "Wechatpay-Serial": "\u00e9"}):
            with pytest.raises(NotificationRejected):
                provider.read_notification(headers, body, utc_now())
