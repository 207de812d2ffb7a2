"""The Alipay gateway: judged with python-alipay-sdk as the second opinion."""

import asyncio
import json
import time
from base64 import b64decode
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from yarl import URL

from tests.sandbox.callers import number

CREATE, QUERY, CLOSE = "alipay.trade.create", "alipay.trade.query", "alipay.trade.close"
CREATED, QUERIED, CLOSED = (f"{name.replace('.', '_')}_response" for name in (CREATE, QUERY, CLOSE))


async def created(merchant, **changes):
    out_trade_no = number()
    answer = await merchant.alipay(CREATE, merchant.trade(out_trade_no, **changes), notify_url=merchant.notify_url)
    value = merchant.business(answer, CREATED)
    assert value["code"] == "10000", value
    return out_trade_no, value["trade_no"]


async def queried(merchant, out_trade_no):
    answer = await merchant.alipay(QUERY, {"out_trade_no": out_trade_no})
    return merchant.business(answer, QUERIED)


async def test_answers_are_signed_over_raw_bytes_that_parsing_would_not_give_back(merchant):
    answer = await merchant.alipay("alipay.system.oauth.token", grant_type="authorization_code", code="sim-张三")
    token = merchant.business(answer, "alipay_system_oauth_token_response")
    assert "code" not in token and token["user_id"].startswith("2088")
    answer = await merchant.alipay("alipay.user.info.share", auth_token=token["access_token"])
    shown = merchant.business(answer, "alipay_user_info_share_response")
    assert shown["nick_name"] == "张三" and shown["open_id"] == token["open_id"]
    assert b"https:\\/\\/" in answer.raw
    assert answer.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    ("change", "sub_code"),
    [
        ({"biz_content": '{"out_trade_no":"other"}'}, "isv.invalid-signature"),
        ({"sign": "AAAA"}, "isv.invalid-signature"),
        ({"sign": "not base64!"}, "isv.invalid-signature"),
        ({"sign": ""}, "isv.missing-signature"),
        ({"app_id": "2021000000000000"}, "isv.invalid-app-id"),
        ({"sign_type": "RSA"}, "isv.invalid-signature-type"),
        ({"charset": "utf-8 "}, "isv.invalid-parameter"),  # says something else than the URL does
        ({"timestamp": "2026-01-01 00:00:00"}, "isv.invalid-timestamp"),
        ({"timestamp": "now"}, "isv.invalid-timestamp"),
        ({"version": "2.0"}, "isv.invalid-version"),
    ],
)
async def test_a_request_that_is_not_quite_right_is_refused(merchant, change, sub_code):
    form = merchant.gateway_form(QUERY, {"out_trade_no": "pay_1"}) | change
    answer = await merchant.alipay_send(form)
    (value,) = (part for name, part in answer.json.items() if name.endswith("_response"))
    assert answer.status == 200 and value["sub_code"] == sub_code


async def test_method_is_part_of_what_is_signed_and_must_exist(merchant):
    answer = await merchant.alipay("alipay.trade.nothing", {})
    assert merchant.business(answer, "error_response")["sub_code"] == "isv.invalid-method"


async def test_wrong_login_code_comes_as_error_response(merchant):
    answer = await merchant.alipay("alipay.system.oauth.token", grant_type="authorization_code", code="abc")
    value = merchant.business(answer, "error_response")
    assert (value["code"], value["sub_code"]) == ("40002", "isv.code-invalid")


@pytest.mark.parametrize(
    ("changes", "sub_code"),
    [
        ({"total_amount": "40.001"}, "ACQ.INVALID_PARAMETER"),
        ({"total_amount": 40.0}, "ACQ.INVALID_PARAMETER"),
        ({"total_amount": "0.00"}, "ACQ.INVALID_PARAMETER"),
        ({"subject": "a=b"}, "ACQ.INVALID_PARAMETER"),
        ({"out_trade_no": "pay-with-dash"}, "ACQ.INVALID_PARAMETER"),
        ({"op_app_id": "2021"}, "ACQ.INVALID_PARAMETER"),
        ({"product_code": "QUICK_WAP_PAY"}, "ACQ.INVALID_PARAMETER"),
        ({"time_expire": "2020-01-01 00:00:00"}, "ACQ.INVALID_PARAMETER"),
        ({"buyer_open_id": "nobody"}, "ACQ.BUYER_NOT_EXIST"),
    ],
)
async def test_create_refuses(merchant, changes, sub_code):
    answer = await merchant.alipay(CREATE, merchant.trade(number(), **changes), notify_url=merchant.notify_url)
    value = merchant.business(answer, CREATED)
    assert (value["code"], value["sub_code"]) == ("40004", sub_code)


async def test_the_same_number_again(merchant, sim):
    out_trade_no, trade_no = await created(merchant)

    async def again(**changes):
        return merchant.business(await merchant.alipay(CREATE, merchant.trade(out_trade_no, **changes)), CREATED)

    assert (await again())["trade_no"] == trade_no
    assert (await again(total_amount="40.01"))["sub_code"] == "ACQ.CONTEXT_INCONSISTENT"
    await sim("pay", provider="alipay", out_trade_no=out_trade_no, outcome="success_without_notice")
    assert (await again())["sub_code"] == "ACQ.TRADE_HAS_SUCCESS"
    answer = await merchant.alipay(CLOSE, {"out_trade_no": out_trade_no})
    assert merchant.business(answer, CLOSED)["sub_code"] == "ACQ.TRADE_STATUS_ERROR"


async def test_close_and_unknown_number(merchant, sim):
    out_trade_no, trade_no = await created(merchant)
    answer = await merchant.alipay(CLOSE, {"trade_no": trade_no})
    assert merchant.business(answer, CLOSED)["out_trade_no"] == out_trade_no
    closed = await queried(merchant, out_trade_no)
    assert closed["trade_status"] == "TRADE_CLOSED" and "send_pay_date" not in closed
    assert (await sim("pay", provider="alipay", out_trade_no=out_trade_no, outcome="success"))[0] == 409
    assert (await queried(merchant, "pay_unknown"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"


async def test_payment_is_notified_and_the_query_says_the_same(merchant, receiver, sim):
    out_trade_no, trade_no = await created(merchant)
    assert (await queried(merchant, out_trade_no))["trade_status"] == "WAIT_BUYER_PAY"
    status, body = await sim("pay", provider="alipay", out_trade_no=out_trade_no, outcome="success")
    assert (status, body["trade_state"]) == (200, "TRADE_SUCCESS")
    await receiver.wait_for(1)
    form = dict(parse_qsl(receiver.notices[0][1].decode(), keep_blank_values=True))
    signature = form.pop("sign")
    assert form["body"] == ""  # an empty value that stays in the signed text
    assert merchant.sdk.verify(dict(form), signature)
    assert not merchant.sdk.verify(form | {"total_amount": "0.01"}, signature)
    assert (form["app_id"], form["seller_id"]) == (
        merchant.credentials.alipay_app_id,
        merchant.credentials.alipay_seller_id,
    )
    paid = await queried(merchant, out_trade_no)
    assert paid["trade_no"] == trade_no == form["trade_no"]
    assert paid["total_amount"] == form["total_amount"] == "40.00"
    assert paid["send_pay_date"] == form["gmt_payment"]


async def test_only_the_word_success_ends_the_ladder(merchant, receiver, sim):
    receiver.replies = [(200, "success\n")]
    out_trade_no, _ = await created(merchant)
    await sim("pay", provider="alipay", out_trade_no=out_trade_no, outcome="success")
    await receiver.wait_for(2)
    await asyncio.sleep(0.15)
    assert len(receiver.notices) == 2
    ids = {dict(parse_qsl(raw.decode()))["notify_id"] for _, raw in receiver.notices}
    assert len(ids) == 1


async def test_wrong_amount_and_twice(merchant, receiver, sim):
    out_trade_no, _ = await created(merchant, total_amount="0.01")
    await sim("pay", provider="alipay", out_trade_no=out_trade_no, outcome="success_wrong_amount")
    await receiver.wait_for(1)
    assert (await queried(merchant, out_trade_no))["total_amount"] == "0.02"
    assert dict(parse_qsl(receiver.notices[0][1].decode()))["total_amount"] == "0.02"
    out_trade_no, _ = await created(merchant)
    await sim("pay", provider="alipay", out_trade_no=out_trade_no, outcome="success_notice_twice")
    await receiver.wait_for(3)


async def test_alipay_closes_an_expired_trade_by_itself(merchant, running, sim):
    out_trade_no, _ = await created(merchant)
    trade = running.sandbox.store.trade("alipay", out_trade_no)
    trade.expires_at = time.time() - 1
    running.sandbox.store.save_trade(trade)
    assert (await sim("pay", provider="alipay", out_trade_no=out_trade_no, outcome="success"))[0] == 409
    assert (await queried(merchant, out_trade_no))["trade_status"] == "TRADE_CLOSED"


async def test_forged_notice_fails_the_check(merchant, receiver, sim):
    await sim("faults", provider="alipay_notice", mode="bad_signature", count=1)
    out_trade_no, _ = await created(merchant)
    await sim("pay", provider="alipay", out_trade_no=out_trade_no, outcome="success")
    await receiver.wait_for(1)
    form = dict(parse_qsl(receiver.notices[0][1].decode(), keep_blank_values=True))
    assert not merchant.sdk.verify(form, form.pop("sign"))


async def test_20000_comes_unsigned(merchant, sim):
    await sim("faults", provider="alipay", mode="error500", count=1)
    answer = await merchant.alipay(QUERY, {"out_trade_no": "pay_1"})
    assert answer.json["error_response"]["code"] == "20000" and "sign" not in answer.json


async def test_phone_payload_is_signed_with_quotes_and_opens_with_a_zero_iv(merchant, http):
    async with http.get(f"{merchant.url}/_sim/alipay/phone", params={"name": "张三"}) as answer:
        payload = await answer.json()
    assert merchant.sdk._verify(f'"{payload["response"]}"', payload["sign"])
    key = b64decode(merchant.credentials.alipay_aes_key)
    decryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).decryptor()
    padded = decryptor.update(b64decode(payload["response"])) + decryptor.finalize()
    unpadder = padding.PKCS7(128).unpadder()
    opened = json.loads(unpadder.update(padded) + unpadder.finalize())
    assert opened == {"code": "10000", "msg": "Success", "mobile": merchant.people["张三"]["phone"]}


async def test_template_message(merchant, http, sim):
    content = {
        "to_open_id": merchant.people["张三"]["alipay"]["open_id"],
        "user_template_id": "MzQ1",
        "page": "pages/case/index?id=1",
        "data": json.dumps({"keyword1": {"value": "已受理"}}, ensure_ascii=False),
    }
    method = "alipay.open.app.mini.templatemessage.send"
    sent = merchant.business(await merchant.alipay(method, content), method.replace(".", "_") + "_response")
    assert sent["code"] == "10000"
    async with http.get(f"{merchant.url}/_sim/sent", params={"channel": "alipay_message"}) as answer:
        (item,) = (await answer.json())["alipay_messages"]
    assert item["data"] == {"keyword1": "已受理"} and item["to"] == content["to_open_id"]
    await sim("alipay/refuse", name="张三")
    refused = merchant.business(await merchant.alipay(method, content), method.replace(".", "_") + "_response")
    assert refused["sub_code"] == "USER_NOT_SUBSCRIBE"


async def test_wap_pay_makes_the_trade_when_the_browser_arrives(merchant, http, monkeypatch):
    # The SDK stamps requests with the local time of the machine; the gateway wants Beijing's.
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    out_trade_no = number()
    assert (await queried(merchant, out_trade_no))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    url = merchant.sdk.api_alipay_trade_wap_pay(
        subject="水费", out_trade_no=out_trade_no, total_amount="61.30", return_url="http://127.0.0.1:8888/pay/done",
        notify_url=merchant.notify_url, quit_url="http://127.0.0.1:8888/",
    )  # fmt: skip
    monkeypatch.undo()
    time.tzset()
    async with http.get(URL(f"{merchant.url}/gateway.do?{url}", encoded=True)) as page:
        text = await page.text()
        assert page.status == 200, text
    assert "61.30" in text and "http://127.0.0.1:8888/pay/done" in text
    assert (await queried(merchant, out_trade_no))["trade_status"] == "WAIT_BUYER_PAY"
