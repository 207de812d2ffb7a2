"""The refund calls of both providers: how each outcome is named, and what may be repeated. The provider decides, never our guess."""

import asyncio
import json
from datetime import timedelta

import pytest

from app.kernel.clock import utc_now
from payments.provider import (
    NotEnoughFunds,
    PaymentState,
    ProviderNotSent,
    ProviderRefused,
    ProviderUnknown,
    RefundProviderState,
    RefundReport,
)
from tests.payments.conftest import providers
from tests.payments.providers.tries import attempt_of, paid_attempt, refund_of

PROVIDERS = ("wechatpay", "alipay")


@pytest.fixture(params=PROVIDERS)
async def provider(request, hall):
    return hall.payments.providers[request.param]


async def ended(provider, refund):
    """Ask until a refund is no longer under way."""
    async with asyncio.timeout(3):
        while (report := await provider.query_refund(refund)).state is RefundProviderState.PROCESSING:
            await asyncio.sleep(0.02)
    return report


async def test_a_refund_arrives(hall, provider):
    attempt = await paid_attempt(hall, provider)
    refund = refund_of(hall, provider, attempt, 1500)
    assert (await provider.query_refund(refund)).state is RefundProviderState.NOT_FOUND
    first = await provider.refund(refund)
    assert first.state in (RefundProviderState.PROCESSING, RefundProviderState.SUCCEEDED)
    report = await ended(provider, refund)
    assert (report.state, report.amount_fen) == (RefundProviderState.SUCCEEDED, 1500)
    assert (report.out_trade_no, report.out_refund_no) == (attempt.out_trade_no, refund.out_refund_no)
    assert report.provider_refund_no and report.refunded_at and abs(report.refunded_at - utc_now()) < timedelta(minutes=1)
    # A repeat is the same refund and never a second one.
    again = await provider.refund(refund)
    assert again.state in (RefundProviderState.PROCESSING, RefundProviderState.SUCCEEDED)
    assert len((await hall.sim_get("refunds", out_trade_no=attempt.out_trade_no))["items"]) == 1
    paid = await provider.query(attempt)
    assert (paid.state, paid.amount_fen, paid.paid_at is not None) == (PaymentState.PAID, 4000, True)


async def test_the_payment_stays_paid_through_all_its_refunds(hall, provider):
    attempt = await paid_attempt(hall, provider)
    for amount_fen in (1, 999, 3000):
        await provider.refund(refund := refund_of(hall, provider, attempt, amount_fen))
        await ended(provider, refund)
        report = await provider.query(attempt)
        assert report.state is PaymentState.PAID and report.amount_fen == 4000
    with pytest.raises(ProviderRefused):
        await provider.refund(refund_of(hall, provider, attempt, 1))
    # WeChat Pay says REFUND after the first fen, Alipay TRADE_CLOSED after the last one.
    assert report.is_refunded or provider.name == "alipay"


async def test_a_refused_refund_is_definite(hall, provider):
    unpaid = await attempt_of(hall, provider)
    await provider.create(unpaid)
    with pytest.raises(ProviderRefused):
        await provider.refund(refund_of(hall, provider, unpaid))
    attempt = await paid_attempt(hall, provider)
    with pytest.raises(ProviderRefused):
        await provider.refund(refund_of(hall, provider, attempt, 4001, paid_fen=4000))
    refund = refund_of(hall, provider, attempt, 1000)
    await provider.refund(refund)
    other = refund_of(hall, provider, attempt, 1001, out_refund_no=refund.out_refund_no)
    with pytest.raises(ProviderRefused):
        await provider.refund(other)


async def test_not_enough_funds_waits_under_the_same_number(hall, provider):
    attempt = await paid_attempt(hall, provider)
    refund = refund_of(hall, provider, attempt)
    await hall.sim("refunds", mode="not_enough")
    with pytest.raises(NotEnoughFunds):
        await provider.refund(refund)
    assert (await provider.query_refund(refund)).state is RefundProviderState.NOT_FOUND
    await hall.sim("refunds", mode="success")
    await provider.refund(refund)
    assert (await ended(provider, refund)).state is RefundProviderState.SUCCEEDED


@pytest.mark.parametrize("mode", ["lost", "down", "error500", "garbage", "bad_signature", "unsigned"])
async def test_an_unclear_refund_is_asked_for_and_repeated_under_its_number(hall, provider, mode):
    attempt = await paid_attempt(hall, provider)
    refund = refund_of(hall, provider, attempt, 2500)
    await hall.sim("faults", provider=provider.name, mode=mode)
    for call in (provider.refund, provider.query_refund):
        with pytest.raises(ProviderUnknown) as caught:
            await call(refund)
        assert not isinstance(caught.value, ProviderNotSent)
    await hall.sim("faults", provider=provider.name, mode="none")
    if (await provider.query_refund(refund)).state is RefundProviderState.NOT_FOUND:
        await provider.refund(refund)
    assert (await ended(provider, refund)).state is RefundProviderState.SUCCEEDED
    rows = (await hall.sim_get("refunds", out_trade_no=attempt.out_trade_no))["items"]
    assert [row["amount_fen"] for row in rows] == [2500]


async def test_too_often_and_unreachable_are_not_sent(hall, provider):
    attempt = await paid_attempt(hall, provider)
    refund = refund_of(hall, provider, attempt)
    await hall.sim("faults", provider=provider.name, mode="rate_limited")
    for call in (provider.refund, provider.query_refund):
        with pytest.raises(ProviderNotSent):
            await call(refund)
    await hall.sim("faults", provider=provider.name, mode="none")
    for dead in providers(hall.http, hall.credentials, "http://127.0.0.1:1", "http://127.0.0.1:1/gateway.do"):
        if dead.name == provider.name:
            with pytest.raises(ProviderNotSent):
                await dead.refund(refund)


async def test_a_long_refund_stays_under_way(hall, provider):
    attempt = await paid_attempt(hall, provider)
    await hall.sim("refunds", mode="processing")
    refund = refund_of(hall, provider, attempt)
    assert (await provider.refund(refund)).state is RefundProviderState.PROCESSING
    # Alipay knows no word for "under way": it answers without a status, and the same request may be sent again.
    under_way = RefundProviderState.PROCESSING if provider.name == "wechatpay" else RefundProviderState.NOT_FOUND
    assert (await provider.query_refund(refund)).state is under_way
    assert (await provider.refund(refund)).state is RefundProviderState.PROCESSING
    await hall.sim("refunds", out_refund_no=refund.out_refund_no, status="SUCCESS")
    assert (await provider.query_refund(refund)).state is RefundProviderState.SUCCEEDED


@pytest.mark.parametrize("status", ["ABNORMAL", "CLOSED"])
async def test_wechat_refunds_that_fail(hall, status):
    wechatpay = hall.payments.providers["wechatpay"]
    attempt = await paid_attempt(hall, wechatpay)
    await hall.sim("refunds", mode=status.lower(), seconds=0)
    refund = refund_of(hall, wechatpay, attempt)
    await wechatpay.refund(refund)
    report = await wechatpay.query_refund(refund)
    assert (report.state, report.refunded_at) == (RefundProviderState(status.lower()), None)
    # A failed one is over: its amount is free again, under a new number; an abnormal one keeps it until somebody acts.
    await hall.sim("refunds", mode="success")
    second = refund_of(hall, wechatpay, attempt)
    if status == "CLOSED":
        await wechatpay.refund(second)
        assert (await ended(wechatpay, second)).state is RefundProviderState.SUCCEEDED
    else:
        with pytest.raises(ProviderRefused):
            await wechatpay.refund(second)
        # The late truth: the bank found a way after all.
        await hall.sim("refunds", out_refund_no=refund.out_refund_no, status="SUCCESS")
        assert (await wechatpay.query_refund(refund)).state is RefundProviderState.SUCCEEDED


async def test_what_is_sent(hall):
    """notify_url always (without it WeChat Pay tells in the XML of version 2); the reason fits; the amounts are exact."""
    wechatpay, alipay = (hall.payments.providers[name] for name in PROVIDERS)
    attempt = await attempt_of(hall, wechatpay)
    sent = json.loads(refund_of(hall, wechatpay, attempt, 10, reason="退" * 200).request)
    assert sent["notify_url"] == f"{hall.url}/callbacks/wechatpay/refunds"
    assert sent["amount"] == {"refund": 10, "total": 4000, "currency": "CNY"} and len(sent["reason"]) == 80
    sent = json.loads(refund_of(hall, alipay, attempt, 10, reason="退" * 300).request)
    assert sent["refund_amount"] == "0.10" and len(sent["refund_reason"]) == 256 and "notify_url" not in sent


def _delivered(hall, attempt, kind):
    return [n for n in hall.sandbox.sandbox.store.notices(attempt.out_trade_no) if kind in n.kind]


@pytest.mark.parametrize("status", ["SUCCESS", "ABNORMAL", "CLOSED"])
async def test_wechat_refund_notices_are_read(hall, status):
    from sandbox import wechatpay_notice

    wechatpay = hall.payments.providers["wechatpay"]
    attempt = await paid_attempt(hall, wechatpay)
    await hall.sim("refunds", mode=status.lower() if status != "SUCCESS" else "success", seconds=0)
    refund = refund_of(hall, wechatpay, attempt, 1234)
    await wechatpay.refund(refund)
    (row,) = _delivered(hall, attempt, f"REFUND.{status}")
    assert row.url == f"{hall.url}/callbacks/wechatpay/refunds"
    headers, body = wechatpay_notice.build(hall.sandbox.sandbox, row)
    notice = wechatpay.read_notification(headers, body, utc_now())
    word = {"SUCCESS": "succeeded"}.get(status, status.lower())
    assert (notice.kind, notice.report) == ("refund", None)
    assert (notice.refund.state, notice.refund.amount_fen) == (RefundProviderState(word), 1234)
    assert (notice.refund.out_trade_no, notice.refund.out_refund_no) == (attempt.out_trade_no, refund.out_refund_no)
    assert notice.refund.merchant_id == hall.credentials.wechatpay_mch_id
    assert (notice.refund.refunded_at is not None) == (status == "SUCCESS")
    assert RefundReport.from_document(notice.refund.to_document()) == notice.refund


async def test_alipay_tells_of_refunds_in_the_notice_of_the_payment(hall):
    from sandbox import alipay_trade

    alipay = hall.payments.providers["alipay"]
    attempt = await paid_attempt(hall, alipay)
    first, second = (refund_of(hall, alipay, attempt, amount_fen) for amount_fen in (1000, 3000))
    await alipay.refund(first)
    await alipay.refund(second)
    part, whole = (
        alipay.read_notification(*alipay_trade.build_notice(hall.sandbox.sandbox, row), utc_now())
        for row in _delivered(hall, attempt, "TRADE_")
    )
    for notice, refund in ((part, first), (whole, second)):
        # Both are told: the payment, which may be news after a lost notice, and the refund. The sum in it is of all refunds.
        assert (notice.kind, notice.report.state, notice.report.amount_fen) == ("refund", PaymentState.PAID, 4000)
        assert notice.report.is_refunded
        assert (notice.refund.out_refund_no, notice.refund.state) == (refund.out_refund_no, RefundProviderState.SUCCEEDED)
        assert notice.refund.amount_fen is None and notice.refund.refunded_at


def test_a_refund_notice_of_version_2_is_refused_by_name(hall):
    from payments.provider import NotificationRejected

    with pytest.raises(NotificationRejected) as caught:
        hall.payments.providers["wechatpay"].read_notification({}, b"<xml><return_code>SUCCESS</return_code></xml>", utc_now())
    assert (caught.value.reason, caught.value.is_probe) == ("version_2_xml", False)
