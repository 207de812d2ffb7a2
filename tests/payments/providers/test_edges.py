"""What a provider may say besides the usual: rare codes, unknown words, odd spellings. Scripted hosts over real HTTP, truly signed."""

from datetime import timedelta
from types import SimpleNamespace

import orjson
import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from app.kernel.clock import utc_now
from app.platforms import rsa
from payments.provider import (
    NotEnoughFunds,
    NotificationRejected,
    PaymentState,
    ProviderNotSent,
    ProviderRefused,
    ProviderUnknown,
    RefundProviderState,
)
from sandbox import wechatpay_notice
from tests.payments.conftest import providers
from tests.payments.providers.tries import RefundTry, Try, attempt_of

TRY = Try("pay_01KB2M3N4P5Q6R7S8T9V0W1X2Y", "mini_program", "{}")
REFUND = RefundTry(TRY.out_trade_no, "rfd_1", "{}")


@pytest.fixture
async def scripted(hall):
    """Both providers at a host that answers what the test says: `(status, body)`, signed where it is a 200 or 204."""
    own, say = hall.credentials, SimpleNamespace(status=200, body=b"{}", requests=[], signatures=[], cut_off=0)

    async def wechat(request):
        say.requests.append(await request.read())
        say.signatures.append(request.headers.get("Authorization", ""))
        if say.cut_off and request.method == "POST":
            say.cut_off -= 1
            request.transport.close()
            return web.Response()
        headers = {"Content-Type": "application/json"}
        if say.status < 300:
            headers |= wechatpay_notice.signature_headers(
                hall.sandbox.sandbox, say.body, own.wechatpay_public_key_id, utc_now().timestamp(), forged=False
            )
        return web.Response(status=say.status, body=say.body, headers=headers)

    async def alipay(request):
        say.requests.append(await request.read())
        return web.Response(status=say.status, body=say.body)

    app = web.Application()
    app.router.add_post("/gateway.do", alipay)
    app.router.add_route("*", "/{path:.*}", wechat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    say.wechatpay, say.alipay = providers(hall.http, own, url, f"{url}/gateway.do")
    alipay_key = rsa.load_private_key(own.alipay_private_key)

    def of_alipay(method: str, part: bytes) -> None:
        name = method.replace(".", "_").encode() + b"_response"
        say.body = b'{"' + name + b'":' + part + b',"sign":"' + rsa.sign(alipay_key, part).encode() + b'"}'

    say.of_alipay = of_alipay
    yield say
    await runner.cleanup()


def counted(provider):
    return REGISTRY.get_sample_value("hall_payment_not_understood_total", {"provider": provider}) or 0


# --- WeChat Pay ---


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (202, "USERPAYING", ProviderUnknown),  # not settled yet: the same again later
        (400, "PARAM_ERROR", ProviderRefused),
        (403, "OUT_TRADE_NO_USED", ProviderRefused),
        (403, "RULELIMIT", ProviderRefused),
        (429, "RATELIMIT_EXCEEDED", ProviderNotSent),
        (403, "FREQUENCYLIMITED", ProviderNotSent),
        (403, "NOTENOUGH", NotEnoughFunds),
        (403, "NOT_ENOUGH", NotEnoughFunds),
        (400, "SYSTEMERROR", ProviderUnknown),
        (400, "SYSTEM_ERROR", ProviderUnknown),
        (403, "SERVICE_UNAVAILABLE", ProviderUnknown),
        (400, "", ProviderUnknown),
    ],
)
async def test_codes_of_wechat_pay_with_and_without_underscores(scripted, status, code, error):
    scripted.status, scripted.body = status, orjson.dumps({"code": code, "message": "…"})
    with pytest.raises(ProviderUnknown if issubclass(error, ProviderUnknown) else ProviderRefused) as caught:
        await scripted.wechatpay.refund(REFUND)
    assert type(caught.value) is error


@pytest.mark.parametrize("code", ["ORDER_NOT_EXIST", "ORDERNOTEXIST", "RESOURCE_NOT_EXISTS", "RESOURCENOTEXISTS"])
async def test_not_there_in_every_spelling(scripted, code):
    scripted.status, scripted.body = 404, orjson.dumps({"code": code})
    assert (await scripted.wechatpay.query(TRY)).state is PaymentState.NOT_FOUND
    assert (await scripted.wechatpay.query_refund(REFUND)).state is RefundProviderState.NOT_FOUND


async def test_a_call_that_was_cut_off_is_signed_afresh_and_a_refusal_of_its_repetition_proves_nothing(scripted):
    scripted.status, scripted.body, scripted.cut_off = 401, b'{"code":"SIGN_ERROR"}', 1
    with pytest.raises(ProviderUnknown):
        await scripted.wechatpay.create(TRY)
    posts = [pair for pair in zip(scripted.requests, scripted.signatures, strict=True) if pair[0]]
    assert [body for body, _ in posts] == [b"{}", b"{}"] and posts[0][1] != posts[1][1]
    with pytest.raises(ProviderRefused):
        await scripted.wechatpay.create(TRY)


def order(**changes):
    return {
        "out_trade_no": TRY.out_trade_no, "mchid": "m", "appid": "a", "trade_state": "SUCCESS", "transaction_id": "42",
        "success_time": "2026-11-02T10:00:00+08:00", "amount": {"total": 4000, "payer_total": 3000, "currency": "CNY"},
    } | changes  # fmt: skip


async def test_an_unknown_state_is_not_final_and_somebody_hears_of_it(scripted):
    for word in ("ACCEPT", "", None, 7):
        before = counted("wechatpay")
        scripted.body = orjson.dumps(order(trade_state=word))
        with pytest.raises(ProviderUnknown):
            await scripted.wechatpay.query(TRY)
        assert counted("wechatpay") == before + 1
    before = counted("alipay")
    scripted.of_alipay("alipay.trade.query", orjson.dumps({"code": "10000", "out_trade_no": TRY.out_trade_no, "trade_status": "NEW"}))
    with pytest.raises(ProviderUnknown):
        await scripted.alipay.query(TRY)
    assert counted("alipay") == before + 1


@pytest.mark.parametrize(
    ("word", "state", "is_refunded"),
    [
        ("SUCCESS", PaymentState.PAID, False),
        ("REFUND", PaymentState.PAID, True),  # also when it is the first we see of the order
        ("NOTPAY", PaymentState.PENDING, False),
        ("USERPAYING", PaymentState.PENDING, False),
        ("PAYERROR", PaymentState.PENDING, False),
        ("CLOSED", PaymentState.CLOSED, False),
        ("REVOKED", PaymentState.CLOSED, False),
    ],
)
async def test_states_of_wechat_pay(scripted, word, state, is_refunded):
    scripted.body = orjson.dumps(order(trade_state=word))
    report = await scripted.wechatpay.query(TRY)
    assert (report.state, report.is_refunded) == (state, is_refunded)
    # With coupons the payer pays less; the fee is the total.
    assert report.amount_fen == (4000 if state is PaymentState.PAID else None)


@pytest.mark.parametrize("change", [{"amount": {"total": "4000"}}, {"amount": {"total": True}}, {"amount": None}, {"out_trade_no": "pay_2"}])
async def test_an_answer_about_something_else_is_no_answer(scripted, change):
    scripted.body = orjson.dumps(order(**change))
    with pytest.raises(ProviderUnknown):
        await scripted.wechatpay.query(TRY)


# --- Alipay ---


PAID = '{"code":"10000","msg":"Success","out_trade_no":"%s","trade_no":"2026","trade_status":"TRADE_SUCCESS","total_amount":"40.00"%s}'


@pytest.mark.parametrize(
    "more",
    [
        ',"subject":"a } b { \\"sign\\":\\"x\\" ] \\\\"',  # braces, quotes and the word sign in a value
        ',"buyer_logon_id":"a\\/b","fund_bill_list":[{"amount":"40.00"}]',  # escaped slashes
        ',"note":"\\u6c34\\ud83d\\ude00"',
    ],
)
async def test_odd_answers_of_alipay_are_read(scripted, more):
    scripted.of_alipay("alipay.trade.query", (PAID % (TRY.out_trade_no, more)).encode())
    report = await scripted.alipay.query(TRY)
    assert (report.state, report.amount_fen) == (PaymentState.PAID, 4000)


async def test_an_answer_in_gbk_is_unclear_never_misread(scripted):
    """We ask for UTF-8. A gateway that answers in GBK all the same is checked over its bytes, and is then no JSON."""
    scripted.of_alipay("alipay.trade.query", (PAID % (TRY.out_trade_no, ',"subject":"水费缴"')).encode("gbk"))
    with pytest.raises(ProviderUnknown):
        await scripted.alipay.query(TRY)


@pytest.mark.parametrize(
    ("code", "sub_code", "error"),
    [
        ("20000", "aop.unknow-error", ProviderUnknown),
        ("20000", "isp.unknow-error", ProviderUnknown),
        ("40004", "ACQ.SYSTEM_ERROR", ProviderUnknown),
        ("40004", "aop.ACQ.SYSTEM_ERROR", ProviderUnknown),
        ("40005", "", ProviderNotSent),
        ("40004", "ACQ.SELLER_BALANCE_NOT_ENOUGH", NotEnoughFunds),
        ("40004", "ACQ.DISCORDANT_REPEAT_REQUEST", ProviderRefused),
        ("40002", "isv.invalid-signature", ProviderRefused),
        ("40003", "", ProviderRefused),
        ("40006", "isv.insufficient-isv-permissions", ProviderRefused),
    ],
)
async def test_codes_of_alipay(scripted, code, sub_code, error):
    scripted.of_alipay("alipay.trade.refund", orjson.dumps({"code": code, "sub_code": sub_code, "msg": "…"}))
    with pytest.raises(ProviderUnknown if issubclass(error, ProviderUnknown) else ProviderRefused) as caught:
        await scripted.alipay.refund(REFUND)
    assert type(caught.value) is error


async def test_alipay_cancel_is_never_used(scripted):
    """It gives the money back when the trade is paid; what we want of an unpaid one is `close`."""
    scripted.of_alipay("alipay.trade.close", orjson.dumps({"code": "10000", "out_trade_no": TRY.out_trade_no}))
    await scripted.alipay.close(TRY)
    assert b"method=alipay.trade.close" in scripted.requests[-1]


def test_a_field_that_comes_twice_refuses_the_notice(hall):
    alipay = hall.payments.providers["alipay"]
    with pytest.raises(NotificationRejected, match="form"):
        alipay.read_notification({}, b"out_trade_no=a&total_amount=1.00&total_amount=40.00&sign=x", utc_now())


# --- what we send ---


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name in ("wechatpay", "alipay") for text in ("水" * 300, "a/b=c&d" * 60, "😀" * 130)] + [("alipay", "/ &")],
)
async def test_any_description_is_taken(hall, name, text):
    """127 characters at WeChat Pay; at Alipay 256 and no `/ = &`."""
    provider = hall.payments.providers[name]
    attempt = await attempt_of(hall, provider, description=text)
    assert await provider.create(attempt)
    sent = orjson.loads(attempt.request)
    if name == "wechatpay":
        assert 1 <= len(sent["description"]) <= 127
    else:
        subject = sent["biz_content"]["subject"]
        assert 1 <= len(subject) <= 256 and not set(subject) & set("/=&")


@pytest.mark.parametrize("name", ["wechatpay", "alipay"])
async def test_two_equal_fees_in_a_row_are_two_payments(hall, name):
    resident = await hall.resident()
    for _ in range(2):
        placed = await hall.order(resident)
        attempt, _ = await hall.pay(placed, name)
        await hall.sim("pay", provider=name, out_trade_no=attempt.out_trade_no)
        assert not (await hall.until(placed, "paid")).attempts[0].is_overpaid


@pytest.mark.parametrize(("ahead", "is_taken"), [(timedelta(seconds=62), True), (timedelta(days=7), True), (timedelta(seconds=30), False)])
async def test_the_last_moment_to_pay_is_a_minute_to_seven_days_ahead(hall, ahead, is_taken):
    wechatpay = hall.payments.providers["wechatpay"]
    attempt = await attempt_of(hall, wechatpay, expires_at=utc_now().replace(microsecond=0) + ahead)
    assert '+08:00"' in attempt.request
    if is_taken:
        assert await wechatpay.create(attempt)
    else:  # never sent so by an order: none is begun in its last minute
        with pytest.raises(ProviderRefused, match="PARAM_ERROR"):
            await wechatpay.create(attempt)
