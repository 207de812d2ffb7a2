"""Every scene of both providers: what the client gets is verified by signature with code nobody here wrote, then paid with."""

import json
from datetime import timedelta
from importlib import metadata
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from alipay import AliPay
from wechatpayv3 import utils

from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from payments.model import AttemptState
from payments.provider import PaymentState
from tests.payments.providers.tries import IP, attempt_of, paid_attempt

SCENES = [(provider, scene) for provider in ("wechatpay", "alipay") for scene in ("mini_program", "app", "h5", "native")]
BY_CLIENT = {("alipay", "app"), ("alipay", "h5")}  # the trade comes into being at the cashier


def is_signed_by_merchant(own, lines, signature):
    """Let wechatpayv3 verify four lines; its verifier takes three, so the first two go in as one."""
    first, second, third, fourth = lines
    key = utils.load_public_key(own.merchant_public_key)
    return utils.rsa_verify(f"{first}\n{second}", third, fourth, signature, key)


def alipay_fields(own, text):
    """Check a signed text as Alipay does, with python-alipay-sdk and our application's public key; return its fields."""
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
    fields = dict(pairs)
    assert len(pairs) == len(fields) and all(fields.values())
    sdk = AliPay(
        appid=own.alipay_app_id,
        app_notify_url=None,
        app_private_key_string=own.alipay_app_private_key,
        alipay_public_key_string=own.alipay_app_public_key,  # so that its verifier checks what *we* signed
        sign_type="RSA2",
    )
    unsigned = "&".join(f"{name}={fields[name]}" for name in sorted(fields) if name != "sign")
    assert sdk._verify(unsigned, fields["sign"])
    assert not sdk._verify(unsigned + " ", fields["sign"])
    assert sdk._sign(unsigned) == fields["sign"]  # PKCS#1 v1.5 has no chance in it: the same text, the same signature
    return fields


def test_only_one_of_the_two_packages_named_alipay_is_here():
    """alipay-sdk-python installs over python-alipay-sdk (both are the package `alipay`), and its checks are not to be relied on."""
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("alipay-sdk-python")


async def test_wechat_app_object(hall):
    own, wechatpay = hall.credentials, hall.payments.providers["wechatpay"]
    attempt = await attempt_of(hall, wechatpay, "app")
    params = await wechatpay.create(attempt)
    assert set(params) == {"appid", "partnerid", "prepayid", "package", "noncestr", "timestamp", "sign"}
    assert (params["appid"], params["partnerid"], params["package"]) == (own.wechat_open_app_id, own.wechatpay_mch_id, "Sign=WXPay")
    assert all(isinstance(value, str) for value in params.values())
    lines = (params["appid"], params["timestamp"], params["noncestr"], params["prepayid"])
    assert is_signed_by_merchant(own, lines, params["sign"])
    assert not is_signed_by_merchant(own, (own.wechat_app_id, *lines[1:]), params["sign"])
    sent = json.loads(attempt.request)
    assert sent["appid"] == own.wechat_open_app_id == wechatpay.app_id_of("app") and "payer" not in sent


async def test_wechat_mini_program_object(hall):
    own, wechatpay = hall.credentials, hall.payments.providers["wechatpay"]
    params = await wechatpay.create(await attempt_of(hall, wechatpay, "mini_program"))
    assert set(params) == {"timeStamp", "nonceStr", "package", "signType", "paySign"} and params["signType"] == "RSA"
    lines = (own.wechat_app_id, params["timeStamp"], params["nonceStr"], params["package"])
    assert is_signed_by_merchant(own, lines, params["paySign"])


async def test_wechat_h5_address_leads_back(hall):
    wechatpay = hall.payments.providers["wechatpay"]
    attempt = await attempt_of(hall, wechatpay, "h5")
    params = await wechatpay.create(attempt)
    query = parse_qs(urlsplit(params["redirect_url"]).query)
    assert set(params) == {"redirect_url"} and query["redirect_url"] == [f"{hall.url}/orders/ord_1"]
    sent = json.loads(json.loads(attempt.request)["body"])
    assert sent["scene_info"] == {"payer_client_ip": IP, "h5_info": {"type": "Wap"}} and "payer" not in sent
    async with hall.session.get(params["redirect_url"]) as answer:
        page = await answer.text()
    assert answer.status == 200 and "40.00" in page and f"{hall.url}/orders/ord_1" in page


async def test_wechat_native_code(hall):
    wechatpay = hall.payments.providers["wechatpay"]
    params = await wechatpay.create(await attempt_of(hall, wechatpay, "native"))
    assert set(params) == {"code_url"} and params["code_url"].startswith("weixin://wxpay/")


async def test_alipay_app_order_string(hall):
    own, alipay = hall.credentials, hall.payments.providers["alipay"]
    attempt = await attempt_of(hall, alipay, "app")
    params = await alipay.create(attempt)
    assert set(params) == {"orderStr"}
    fields = alipay_fields(own, params["orderStr"])
    content = json.loads(fields["biz_content"])
    assert fields["method"] == "alipay.trade.app.pay" and fields["notify_url"] == f"{hall.url}/callbacks/alipay"
    assert (content["out_trade_no"], content["total_amount"], content["product_code"]) == (
        attempt.out_trade_no, "40.00", "QUICK_MSECURITY_PAY",
    )  # fmt: skip
    assert content["time_expire"] and content["seller_id"] == own.alipay_seller_id
    assert not {"buyer_id", "buyer_open_id", "op_app_id"} & set(content)


async def test_alipay_h5_address(hall):
    own, alipay = hall.credentials, hall.payments.providers["alipay"]
    attempt = await attempt_of(hall, alipay, "h5")
    params = await alipay.create(attempt)
    assert set(params) == {"redirect_url"} and params["redirect_url"].startswith(f"{hall.sandbox.url}/gateway.do?")
    fields = alipay_fields(own, urlsplit(params["redirect_url"]).query)
    content = json.loads(fields["biz_content"])
    assert (fields["method"], fields["return_url"]) == ("alipay.trade.wap.pay", f"{hall.url}/orders/ord_1")
    assert (content["product_code"], content["quit_url"]) == ("QUICK_WAP_PAY", f"{hall.url}/orders/ord_1")
    assert (await alipay.query(attempt)).state is PaymentState.NOT_FOUND
    async with hall.session.get(params["redirect_url"]) as answer:
        page = await answer.text()
    assert answer.status == 200 and "40.00" in page and f"{hall.url}/orders/ord_1" in page
    assert (await alipay.query(attempt)).state is PaymentState.PENDING


async def test_alipay_qr_code(hall):
    alipay = hall.payments.providers["alipay"]
    params = await alipay.create(await attempt_of(hall, alipay, "native"))
    assert set(params) == {"qr_code"} and params["qr_code"].startswith("https://qr.alipay.com/")


@pytest.mark.parametrize(("name", "scene"), SCENES)
async def test_every_scene_is_paid_with_what_the_client_got(hall, name, scene):
    provider = hall.payments.providers[name]
    attempt = await attempt_of(hall, provider, scene)
    params = await provider.create(attempt)
    seen = (await provider.query(attempt)).state
    assert seen is (PaymentState.NOT_FOUND if (name, scene) in BY_CLIENT else PaymentState.PENDING)
    again = await attempt_of(hall, provider, scene)
    params = await provider.create(again)
    paid = await hall.sim("pay", provider=name, out_trade_no=again.out_trade_no, outcome="success_without_notice", client_params=params)
    assert paid["status"] == 200, paid
    report = await provider.query(again)
    assert (report.state, report.amount_fen) == (PaymentState.PAID, 4000)
    assert report.app_id in ("", provider.app_id_of(scene))


@pytest.mark.parametrize(("name", "scene"), SCENES)
async def test_every_scene_is_settled_through_an_order_by_its_notice(hall, name, scene):
    resident = await hall.resident()
    if scene != "mini_program":  # nobody needs to have signed in anywhere to pay so
        hall.payers.clear()
    order = await hall.order(resident)
    attempt, params = await hall.payments.pay(
        order.id, resident, provider=name, scene=scene, attempt_id=new_id("pay"), client_ip=IP
    )
    assert all(isinstance(value, str) for value in params.values())
    if scene == "h5":
        assert f"{hall.url}/orders/{order.id}" in str(parse_qs(urlsplit(params["redirect_url"]).query))
    paid = await hall.sim("pay", provider=name, out_trade_no=attempt.out_trade_no, client_params=params)
    assert paid["status"] == 200, paid
    await hall.until(order, "paid")


@pytest.mark.parametrize("scene", ["app", "h5"])
async def test_an_alipay_text_that_was_handed_out_stays_open_until_it_has_expired(hall, scene):
    resident = await hall.resident()
    order = await hall.order(resident)
    attempt, _ = await hall.payments.pay(order.id, resident, provider="alipay", scene=scene, attempt_id=new_id("pay"))
    for hall.offset in (timedelta(minutes=1), timedelta(minutes=30, seconds=30)):
        await hall.payments.sweep()
        found = await hall.payments.get_order(order.id, resident)
        assert found.attempts[0].state is AttemptState.WAITING  # "does not exist" means "not yet"
    hall.offset = timedelta(minutes=33)
    await hall.payments.sweep()
    found = await hall.payments.get_order(order.id, resident)
    assert (found.state, found.attempts[0].state) == ("closed", "closed")


@pytest.mark.parametrize(
    ("name", "scene", "field"),
    [
        ("wechatpay", "mini_program", "nonceStr"), ("wechatpay", "mini_program", "package"), ("wechatpay", "app", "timestamp"),
        ("wechatpay", "app", "partnerid"), ("wechatpay", "app", "package"), ("alipay", "app", "orderStr"), ("alipay", "h5", "redirect_url"),
    ],
)  # fmt: skip
async def test_what_was_changed_on_the_way_pays_nothing(hall, name, scene, field):
    provider = hall.payments.providers[name]
    attempt = await attempt_of(hall, provider, scene)
    params = await provider.create(attempt)
    for changed in (params[field] + "1", params[field].replace("40.00", "0.01")):
        if changed == params[field]:
            continue
        answer = await hall.sim("pay", provider=name, out_trade_no=attempt.out_trade_no, client_params=params | {field: changed})
        assert (answer["status"], answer["code"]) == (400, "pay_sign")
    assert (await provider.query(attempt)).state in (PaymentState.PENDING, PaymentState.NOT_FOUND)


async def test_the_request_is_kept_byte_for_byte(hall):
    """Asked twice, WeChat Pay takes it for the same order, return address and time included."""
    wechatpay = hall.payments.providers["wechatpay"]
    for scene in ("app", "h5", "native"):
        attempt = await attempt_of(hall, wechatpay, scene, expires_at=utc_now() + timedelta(minutes=9, microseconds=5))
        assert await wechatpay.create(attempt)
        assert await wechatpay.create(attempt)


async def test_h5_without_an_address_of_the_payer_is_refused_and_told(hall):
    from payments import errors

    resident = await hall.resident()
    order = await hall.order(resident)
    with pytest.raises(errors.PaymentRefused):
        await hall.payments.pay(order.id, resident, provider="wechatpay", scene="h5", attempt_id=new_id("pay"))
    assert await paid_attempt(hall, hall.payments.providers["wechatpay"], "h5")
