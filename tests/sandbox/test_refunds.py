"""Refunds of both stand-ins, judged with the published SDKs: rules, states, notices, and the switches over them."""

import asyncio
import json
from urllib.parse import parse_qsl

import pytest

from tests.sandbox.callers import number

REFUNDS = "/v3/refund/domestic/refunds"


async def paid(merchant, sim, provider, amount_fen=4000):
    out_trade_no = number()
    if provider == "wechatpay":
        order = merchant.jsapi_order(out_trade_no, amount={"total": amount_fen, "currency": "CNY"})
        await merchant.wechatpay("POST", "/v3/pay/transactions/jsapi", order)
    else:
        await merchant.alipay("alipay.trade.create", merchant.trade(out_trade_no), notify_url=merchant.notify_url)
    assert (await sim("pay", provider=provider, out_trade_no=out_trade_no, outcome="success_without_notice"))[0] == 200
    return out_trade_no


def refund_body(merchant, out_trade_no, refund_fen, /, **changes):
    return {
        "out_trade_no": out_trade_no,
        "out_refund_no": f"rfd_{number()}",
        "reason": "重复缴费退回",
        "notify_url": merchant.notify_url,
        "amount": {"refund": refund_fen, "total": 4000, "currency": "CNY"},
    } | changes


@pytest.fixture(autouse=True)
def no_pauses(running):
    running.sandbox.pace = running.sandbox.pace.__class__(
        **running.sandbox.pace.__dict__ | {"wechatpay_refund_s": 0.05, "wechatpay_refund_pause_s": 0, "alipay_refund_pause_s": 0}
    )


async def test_wechat_refund_is_under_way_first_then_told_sealed_and_signed(merchant, sim, receiver):
    out_trade_no = await paid(merchant, sim, "wechatpay")
    body = refund_body(merchant, out_trade_no, 1500)
    answer = await merchant.wechatpay("POST", REFUNDS, body)
    assert answer.status == 200 and merchant.is_signed(answer.headers, answer.raw)
    assert (answer.json["status"], answer.json["amount"]["refund"], answer.json["channel"]) == ("PROCESSING", 1500, "ORIGINAL")
    assert "success_time" not in answer.json
    # One refund, however small, makes it REFUND for good.
    query = f"/v3/pay/transactions/out-trade-no/{out_trade_no}?mchid={merchant.credentials.wechatpay_mch_id}"
    trade = (await merchant.wechatpay("GET", query)).json
    assert (trade["trade_state"], trade["amount"]["total"], bool(trade["success_time"])) == ("REFUND", 4000, True)
    await receiver.wait_for(1)
    headers, raw = receiver.notices[0]
    assert merchant.is_signed(headers, raw)
    notice, content = json.loads(raw), merchant.open_notice(raw)
    assert (notice["event_type"], notice["resource"]["original_type"]) == ("REFUND.SUCCESS", "refund")
    assert content["refund_status"] == "SUCCESS" and "status" not in content and "appid" not in content
    asked = await merchant.wechatpay("GET", f"{REFUNDS}/{body['out_refund_no']}")
    assert (asked.json["status"], asked.json["refund_id"]) == ("SUCCESS", content["refund_id"])
    assert merchant.is_signed(asked.headers, asked.raw)


async def test_wechat_refund_rules(merchant, sim):
    out_trade_no = await paid(merchant, sim, "wechatpay")
    first = refund_body(merchant, out_trade_no, 1500)

    async def asked(body):
        answer = await merchant.wechatpay("POST", REFUNDS, body)
        return answer.status, answer.json.get("code")

    assert (await asked(first))[0] == 200
    assert (await asked(first))[0] == 200  # the retry
    assert await asked(first | {"amount": first["amount"] | {"refund": 1501}}) == (400, "INVALID_REQUEST")
    assert await asked(refund_body(merchant, out_trade_no, 2501)) == (400, "INVALID_REQUEST")  # more than is left
    assert await asked(refund_body(merchant, out_trade_no, 1, amount={"refund": 1, "total": 3999, "currency": "CNY"})) == (
        400, "INVALID_REQUEST",
    )  # fmt: skip
    assert await asked(refund_body(merchant, "pay_nothing", 1)) == (404, "RESOURCE_NOT_EXISTS")
    assert await asked(refund_body(merchant, out_trade_no, 1, reason="x" * 81)) == (400, "PARAM_ERROR")
    assert await asked(refund_body(merchant, out_trade_no, 1, notify_url="http://hall.example/x")) == (400, "PARAM_ERROR")
    missing = await merchant.wechatpay("GET", f"{REFUNDS}/rfd_nothing")
    assert (missing.status, missing.json["code"]) == (404, "RESOURCE_NOT_EXISTS")
    await sim("refunds", mode="not_enough")
    assert await asked(refund_body(merchant, out_trade_no, 1)) == (403, "NOT_ENOUGH")


async def test_wechat_wants_a_minute_between_two_refunds(merchant, sim, running):
    running.sandbox.pace = running.sandbox.pace.__class__()
    out_trade_no = await paid(merchant, sim, "wechatpay")
    first = refund_body(merchant, out_trade_no, 1)
    assert (await merchant.wechatpay("POST", REFUNDS, first)).status == 200
    soon = await merchant.wechatpay("POST", REFUNDS, refund_body(merchant, out_trade_no, 1))
    assert (soon.status, soon.json["code"]) == (429, "FREQUENCY_LIMITED")
    assert (await merchant.wechatpay("POST", REFUNDS, first)).status == 200


@pytest.mark.parametrize("status", ["ABNORMAL", "CLOSED"])
async def test_wechat_refunds_that_fail_are_told_and_may_still_turn(merchant, sim, receiver, status):
    out_trade_no = await paid(merchant, sim, "wechatpay")
    await sim("refunds", mode="processing")
    body = refund_body(merchant, out_trade_no, 4000)
    await merchant.wechatpay("POST", REFUNDS, body)
    await asyncio.sleep(0.1)
    assert receiver.notices == []
    await sim("refunds", out_refund_no=body["out_refund_no"], status=status)
    await receiver.wait_for(1)
    assert merchant.open_notice(receiver.notices[0][1])["refund_status"] == status
    await sim("refunds", out_refund_no=body["out_refund_no"], status="SUCCESS")
    await receiver.wait_for(2)
    assert merchant.open_notice(receiver.notices[1][1])["refund_status"] == "SUCCESS"
    assert (await sim("refunds", out_refund_no="rfd_nothing", status="SUCCESS"))[0] == 404


def alipay_notice(merchant, raw):
    form = dict(parse_qsl(raw.decode(), keep_blank_values=True))
    sign = form.pop("sign")
    assert merchant.sdk.verify(dict(form), sign)
    return form


async def test_alipay_refunds_are_told_in_the_notice_of_the_payment(merchant, sim, receiver):
    out_trade_no = await paid(merchant, sim, "alipay")
    name = "alipay_trade_refund_response"

    async def refund(request_no, amount):
        content = {"out_trade_no": out_trade_no, "out_request_no": request_no, "refund_amount": amount}
        return merchant.business(await merchant.alipay("alipay.trade.refund", content), name)

    first = await refund("rfd_1", "15.00")
    assert (first["code"], first["fund_change"], first["refund_fee"]) == ("10000", "Y", "15.00")
    assert (await refund("rfd_1", "15.00"))["fund_change"] == "N"  # a repeat moves nothing
    assert (await refund("rfd_1", "15.01"))["sub_code"] == "ACQ.DISCORDANT_REPEAT_REQUEST"
    assert (await refund("rfd_2", "25.01"))["sub_code"] == "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"
    await receiver.wait_for(1)
    second = await refund("rfd_2", "25.00")
    assert (second["fund_change"], second["refund_fee"]) == ("Y", "40.00")
    await receiver.wait_for(2)
    part, whole = (alipay_notice(merchant, raw) for _, raw in receiver.notices)
    assert (part["trade_status"], part["refund_fee"], part["out_biz_no"]) == ("TRADE_SUCCESS", "15.00", "rfd_1")
    assert (whole["trade_status"], whole["refund_fee"], whole["out_biz_no"]) == ("TRADE_CLOSED", "40.00", "rfd_2")
    assert part["gmt_refund"] and part["gmt_payment"] and part["total_amount"] == "40.00"
    asked = merchant.business(
        await merchant.alipay("alipay.trade.query", {"out_trade_no": out_trade_no}), "alipay_trade_query_response"
    )
    assert (asked["trade_status"], bool(asked["send_pay_date"])) == ("TRADE_CLOSED", True)


async def test_alipay_refund_query_has_no_word_for_not_yet(merchant, sim):
    out_trade_no = await paid(merchant, sim, "alipay")
    content = {"out_trade_no": out_trade_no, "out_request_no": "rfd_1", "query_options": ["gmt_refund_pay"]}

    async def asked():
        answer = await merchant.alipay("alipay.trade.fastpay.refund.query", content)
        return merchant.business(answer, "alipay_trade_fastpay_refund_query_response")

    assert "refund_status" not in await asked()
    await sim("refunds", mode="processing")
    await merchant.alipay("alipay.trade.refund", {"out_trade_no": out_trade_no, "out_request_no": "rfd_1", "refund_amount": "1.00"})
    assert "refund_status" not in await asked()
    await sim("refunds", out_refund_no="rfd_1", status="SUCCESS")
    done = await asked()
    assert (done["refund_status"], done["refund_amount"], bool(done["gmt_refund_pay"])) == ("REFUND_SUCCESS", "1.00", True)


async def test_refunds_survive_a_restart(merchant, sim, running, data_dir):
    from sandbox import refunds
    from sandbox.store import Store

    out_trade_no = await paid(merchant, sim, "wechatpay")
    body = refund_body(merchant, out_trade_no, 1)
    await merchant.wechatpay("POST", REFUNDS, body)
    again = Store(data_dir)
    assert again.get(refunds.KIND, f"wechatpay/{body['out_refund_no']}")["amount_fen"] == 1
    again.close()
