"""The Alipay gateway client against the stand-in."""

import json
from pathlib import Path

import aiohttp
import pytest

from app.platforms.alipay import AlipayGateway, AlipayMisconfigured, AlipayRefused, LoginRefused
from app.platforms.http import VendorUnknown, VendorUnreachable


@pytest.fixture
def own(sandbox):
    return sandbox.sandbox.credentials


def gateway_of(http, sandbox, own, **changes):
    settings = {
        "gateway_url": f"{sandbox.url}/gateway.do",
        "app_id": own.alipay_app_id,
        "app_private_key": own.alipay_app_private_key,
        "public_key": own.alipay_public_key,
        "aes_key": own.alipay_aes_key,
    }
    return AlipayGateway(http, **(settings | changes))


@pytest.fixture
def gateway(http, sandbox, own):
    return gateway_of(http, sandbox, own)


async def phone_payload(sandbox, name):
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{sandbox.url}/_sim/alipay/phone", params={"name": name}) as answer:
            return await answer.json()


async def test_auth_code(gateway):
    user = await gateway.oauth_token("sim-张三")
    assert user.open_id and user.user_id.startswith("2088") and user.union_id
    with pytest.raises(LoginRefused):
        await gateway.oauth_token("wrong")


async def test_wrong_key_is_our_fault(http, sandbox, own):
    gateway = gateway_of(http, sandbox, own, app_private_key=own.merchant_private_key)
    with pytest.raises(AlipayMisconfigured):
        await gateway.oauth_token("sim-张三")


@pytest.mark.parametrize("mode", ["lost", "error500", "bad_signature", "garbage", "down"])
async def test_unclear_answers_are_unknown(gateway, sim, mode):
    await sim("faults", provider="alipay", mode=mode, count=2)
    with pytest.raises(VendorUnknown):
        await gateway.call("alipay.trade.query", {"out_trade_no": "pay_x"})


async def test_business_refusal_is_signed_and_named(gateway):
    with pytest.raises(AlipayRefused) as caught:
        await gateway.call("alipay.trade.query", {"out_trade_no": "pay_unknown"})
    assert (caught.value.result_code, caught.value.sub_code, caught.value.is_signed) == ("40004", "ACQ.TRADE_NOT_EXIST", True)


async def test_nobody_there(http, sandbox, own):
    gateway = gateway_of(http, sandbox, own, gateway_url="http://127.0.0.1:1/gateway.do")
    with pytest.raises(VendorUnreachable):
        await gateway.call("alipay.trade.query", {"out_trade_no": "pay_x"})


async def test_phone(gateway, sandbox):
    payload = await phone_payload(sandbox, "张三")
    number = gateway.decrypt_phone(payload)
    assert number.isdigit() and len(number) == 11
    assert gateway.decrypt_phone(json.dumps(payload)) == number
    assert gateway.decrypt_phone({"response": json.dumps(payload)}) == number


async def test_forged_phone(gateway, http, sandbox, own):
    payload = await phone_payload(sandbox, "张三")
    other = await phone_payload(sandbox, "李四")
    forged = [
        payload | {"response": other["response"]},
        payload | {"sign": "AAAA"},
        {key: value for key, value in payload.items() if key != "sign"},
        payload | {"sign_type": "RSA"},
        {"response": '{"code":"10000","mobile":"13800000000"}', "sign": payload["sign"]},
        "not json",
        [],
        None,
        {},
    ]
    for each in forged:
        with pytest.raises(LoginRefused):
            gateway.decrypt_phone(each)
    with pytest.raises(AlipayMisconfigured):
        gateway_of(http, sandbox, own, aes_key="").decrypt_phone(payload)


async def test_template_message(gateway, sim):
    user = await gateway.oauth_token("sim-张三")
    data = {"keyword1": "身份证补领", "keyword2": "已受理"}
    await gateway.send_template_message("tpl", data, open_id=user.open_id, page="pages/case")
    await gateway.send_template_message("tpl", data, user_id=user.user_id, page="pages/case")
    await sim("alipay/refuse", name="张三")
    with pytest.raises(AlipayRefused) as caught:
        await gateway.send_template_message("tpl", data, open_id=user.open_id, page="pages/case")
    assert caught.value.kind == "no_grant"


async def test_certificate_mode(http, sandbox, own):
    folder = Path(__file__).parent / "vectors"
    vectors = json.loads((folder / "alipay.json").read_text())
    certificate = vectors["app_certificate"]
    gateway = gateway_of(
        http,
        sandbox,
        own,
        public_key="",
        app_cert=certificate["pem"],
        root_cert=(folder / "alipay_root.crt").read_text(),
        public_cert=certificate["pem"].replace("\n", "\r\n"),
    )
    sent = gateway.request("alipay.trade.query", {"out_trade_no": "pay_x"})
    assert sent["app_cert_sn"] == certificate["sn"]
    assert sent["alipay_root_cert_sn"] == vectors["root_certificates_sn"]
    assert list(gateway.keys) == [certificate["sn"]]
    with pytest.raises(VendorUnknown):  # signed, but not with the certificate we trust
        await gateway.call("alipay.trade.query", {"out_trade_no": "pay_x"})
