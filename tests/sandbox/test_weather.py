"""Storms of notices, changes of certificates and the switches over them; judged with the published SDKs where something is signed."""

import asyncio
import json

import pytest
from cryptography import x509
from wechatpayv3 import utils

from tests.sandbox.callers import number


async def prepaid(merchant):
    out_trade_no = number()
    await merchant.wechatpay("POST", "/v3/pay/transactions/jsapi", merchant.jsapi_order(out_trade_no))
    return out_trade_no


async def test_a_storm_repeats_delays_and_reorders(merchant, sim, receiver):
    status, answer = await sim("storm", repeat=20, reorder=True, delay_s=0.3, seed=3)
    assert (status, answer["storm"]["repeat"]) == (200, 20)
    first, second = await prepaid(merchant), await prepaid(merchant)
    for out_trade_no in (first, second):
        await sim("pay", provider="wechatpay", out_trade_no=out_trade_no)
    await receiver.wait_for(40)
    assert all(merchant.is_signed(headers, raw) for headers, raw in receiver.notices)
    told = [merchant.open_notice(raw)["out_trade_no"] for _, raw in receiver.notices]
    assert told.count(first) == told.count(second) == 20 and told != [first] * 20 + [second] * 20
    assert len({json.loads(raw)["id"] for _, raw in receiver.notices}) == 2  # the same two notifications
    assert (await sim("storm"))[1]["storm"]["repeat"] == 1  # what is not named ends


async def test_what_the_storm_loses_comes_again_on_the_ladder(merchant, sim, receiver, running):
    await sim("storm", drop=1.0)
    out_trade_no = await prepaid(merchant)
    await sim("pay", provider="wechatpay", out_trade_no=out_trade_no)
    async with asyncio.timeout(3):
        while not (rows := running.sandbox.store.notices(out_trade_no)) or rows[0].attempts < 2:
            await asyncio.sleep(0.01)
    assert receiver.notices == [] and "storm" in rows[0].last_result
    await sim("storm")
    await sim("notices/hurry")
    await receiver.wait_for(1)


@pytest.mark.parametrize("body", [{"repeat": 0}, {"repeat": 1.5}, {"drop": 2}, {"delay_s": -1}, {"reorder": 1}, {"keys": "x"}, {"seed": "s"}])
async def test_storms_that_do_not_exist(sim, body):
    assert (await sim("storm", **body))[0] == 422


async def test_a_rotated_platform_certificate_signs_and_both_are_listed(merchant, sim, receiver):
    rotated = (await sim("certificates", provider="wechatpay", days=30))[1]["serial"]
    answer = await merchant.wechatpay("GET", "/v3/certificates", headers={"Wechatpay-Serial": ""})
    assert answer.headers["Wechatpay-Serial"] == rotated
    rows = answer.json["data"]
    assert [row["serial_no"] for row in rows] == [merchant.credentials.platform_serial, rotated]
    sealed = rows[1]["encrypt_certificate"]
    pem = utils.aes_decrypt(
        sealed["nonce"], sealed["ciphertext"], sealed["associated_data"], merchant.credentials.wechatpay_api_v3_key
    )
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert f"{certificate.serial_number:040X}" == rotated
    headers = answer.headers
    assert utils.rsa_verify(
        headers["Wechatpay-Timestamp"], headers["Wechatpay-Nonce"], answer.raw.decode(), headers["Wechatpay-Signature"], certificate.public_key()
    )
    # In a change of keys notices come signed with either.
    await sim("storm", keys="certificate")
    await sim("pay", provider="wechatpay", out_trade_no=await prepaid(merchant))
    await receiver.wait_for(1)
    assert receiver.notices[0][0]["Wechatpay-Serial"] == rotated
    await sim("storm", keys="public_key", rotate=True)
    await sim("pay", provider="wechatpay", out_trade_no=await prepaid(merchant))
    await receiver.wait_for(2)
    assert merchant.is_signed(*receiver.notices[1])


async def test_no_certificates_for_a_merchant_of_public_key_mode(merchant, sim):
    await sim("certificates", provider="wechatpay", none=True)
    answer = await merchant.wechatpay("GET", "/v3/certificates")
    assert (answer.status, answer.json["code"]) == (404, "RESOURCE_NOT_EXISTS")


async def test_alipay_certificate_mode(merchant, running, http):
    async with http.get(f"{running.url}/_sim/certificates") as answer:
        chain = (await answer.json())["alipay"]
    serials = {"app_cert_sn": chain["app_cert_sn"], "alipay_root_cert_sn": chain["root_cert_sn"]}
    answer = await merchant.alipay("alipay.trade.create", merchant.trade(number()), **serials)
    signer = json.loads(answer.raw)["alipay_cert_sn"]
    # The first certificate holds the key of key mode, so the same SDK verifies it.
    assert merchant.business(answer, "alipay_trade_create_response")["code"] == "10000"
    wrong = await merchant.alipay("alipay.trade.query", {"out_trade_no": "pay_x"}, **serials | {"app_cert_sn": "0" * 32})
    assert b"isv.invalid-cert-sn" in wrong.raw
    fetched = await merchant.alipay("alipay.open.app.alipaycert.download", {"alipay_cert_sn": signer}, **serials)
    assert json.loads(fetched.raw)["alipay_open_app_alipaycert_download_response"]["alipay_cert_content"]
    missing = await merchant.alipay("alipay.open.app.alipaycert.download", {"alipay_cert_sn": "0" * 32}, **serials)
    assert b"CERT_NOT_EXIST" in missing.raw


async def test_faults_of_signature_and_rate(merchant, sim):
    await sim("faults", provider="payments", mode="rate_limited", count=1)
    answer = await merchant.wechatpay("GET", "/v3/certificates")
    assert (answer.status, answer.json["code"]) == (429, "FREQUENCY_LIMITED")
    assert b'"code":"40005"' in (await merchant.alipay("alipay.trade.query", {"out_trade_no": "x"})).raw
    await sim("faults", provider="payments", mode="unsigned", count=1)
    answer = await merchant.wechatpay("GET", "/v3/certificates")
    assert answer.status == 200 and "Wechatpay-Signature" not in answer.headers
    assert b'"sign"' not in (await merchant.alipay("alipay.trade.query", {"out_trade_no": "x"})).raw


async def test_the_providers_clock_can_be_wrong(merchant, sim):
    await sim("clock", offset_s=600)
    answer = await merchant.wechatpay("GET", "/v3/certificates")
    assert (answer.status, answer.json["code"]) == (401, "SIGN_ERROR")
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    ahead_s = (parsedate_to_datetime(answer.headers["Date"]) - datetime.now(UTC)).total_seconds()
    assert 590 < ahead_s < 610
