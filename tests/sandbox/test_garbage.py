"""Whatever arrives, a stand-in answers in its platform's words: a 500 here would hide a mistake of the hall."""

import json

import pytest

from tests.sandbox.callers import number

ODD = (None, True, 1, -1.5, "", "\u0000", "长" * 3000, [], [1], {}, {"value": 1}, {"a": {"b": []}})


def spoilt(body, path=()):
    """Yield the body with each of its fields, at every depth, replaced by each odd value, and without it."""
    for key, value in body.items():
        for odd in ODD:
            yield body | {key: odd}
        yield {name: kept for name, kept in body.items() if name != key}
        if isinstance(value, dict):
            for inner in spoilt(value):
                yield body | {key: inner}


ID_NUMBER = "44020019000101001X"
BODIES = {
    "/sms/messages": {"request_id": "r", "phone": "13800000001", "template": "t", "params": {"a": "b"}, "text": "好"},
    "/realname/verify": {"name": "张三", "id_number": ID_NUMBER},
    "/realname/face-checks": {"name": "张三", "id_number": ID_NUMBER, "order_no": "f"},
    "/departments/bills/lookup": {"kind": "traffic_fine", "keys": {"plate": "粤F12345", "vin_last6": "123456"}},
    "/departments/bills/bill-tf-1/payments": {
        "payment_id": "p", "amount_fen": 20000, "late_fee_fen": 0, "paid_at": "2026-11-24T00:00:00Z",
        "provider_trade_no": "42",
    },
    "/departments/checks/traffic_violation": {
        "inputs": {"plate": "粤F12345", "vin_last6": "123456"}, "person": {"name": "张三", "id_number": ID_NUMBER},
    },
    "/departments/checks/housing_fund": {"inputs": {}, "person": {"name": "张三", "id_number": ID_NUMBER}},
    "/cgi-bin/stable_token": {"grant_type": "client_credential", "appid": "a", "secret": "s", "force_refresh": False},
    "/_sim/pay": {"provider": "wechatpay", "out_trade_no": "pay_1", "outcome": "success", "client_params": {"a": "b"}},
    "/_sim/faults": {"provider": "sms", "mode": "none", "count": 1},
    "/_sim/people": {"name": "张三"},
    "/_sim/wechat/grants": {"name": "张三", "template_id": "t", "count": 1},
    "/_sim/wechat/refuse": {"name": "张三"},
    "/_sim/wechat/templates": {"templates": [{"template_id": "t", "keys": ["thing1"]}]},
    "/_sim/reset": {"what": "sent"},
    "/_sim/notices/hurry": {"out_trade_no": "pay_1"},
    "/_sim/storm": {"repeat": 2, "reorder": False, "delay_s": 0, "drop": 0.0, "seed": 1, "keys": "mixed"},
    "/_sim/refunds": {"mode": "success", "seconds": 0},
    "/_sim/certificates": {"provider": "none", "days": 1},
    "/_sim/clock": {"offset_s": 0},
}  # fmt: skip


@pytest.mark.parametrize("path", BODIES)
async def test_plain_services(running, http, path):
    for body in [*spoilt(BODIES[path]), [], 1, "x"]:
        async with http.post(running.url + path, json=body) as answer:
            assert answer.status < 500, (body, await answer.text())
    for raw in (b"", b"\xff\xfe", b"{" * 5000, b"[" * 100_000):
        async with http.post(running.url + path, data=raw, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status < 500, raw[:20]


async def test_signed_prepay_and_close(merchant):
    order = merchant.jsapi_order(number()) | {"attach": "x", "scene_info": {"payer_client_ip": "::1", "h5_info": {}}}
    paths = {f"/v3/pay/transactions/{kind}" for kind in ("jsapi", "h5", "native")}
    for path in paths:
        for body in spoilt(order):
            answer = await merchant.wechatpay("POST", path, body)
            assert answer.status < 500, body
    refund = {"out_trade_no": "pay_1", "out_refund_no": "rfd_1", "reason": "r", "amount": {"refund": 1, "total": 1, "currency": "CNY"}}
    for body in spoilt(refund | {"notify_url": "https://a.example/b"}):
        answer = await merchant.wechatpay("POST", "/v3/refund/domestic/refunds", body)
        assert answer.status < 500, body
    for body in spoilt({"mchid": merchant.credentials.wechatpay_mch_id}):
        answer = await merchant.wechatpay("POST", "/v3/pay/transactions/out-trade-no/pay_nothing/close", body)
        assert answer.status < 500, body


async def test_signed_gateway(merchant):
    message = {"to_open_id": "x", "user_template_id": "t", "page": "p", "data": '{"keyword1":{"value":"v"}}'}
    for method, content in (
        ("alipay.trade.create", merchant.trade(number()) | {"body": "b", "timeout_express": "30m"}),
        ("alipay.trade.query", {"out_trade_no": "pay_1", "trade_no": "2"}),
        ("alipay.trade.refund", {"out_trade_no": "pay_1", "out_request_no": "r", "refund_amount": "0.01"}),
        ("alipay.trade.fastpay.refund.query", {"out_trade_no": "pay_1", "out_request_no": "r", "query_options": ["gmt_refund_pay"]}),
        ("alipay.open.app.alipaycert.download", {"alipay_cert_sn": "x"}),
        ("alipay.trade.close", {"out_trade_no": "pay_1", "trade_no": "2"}),
        ("alipay.open.app.mini.templatemessage.send", message),
        ("alipay.open.app.mini.templatemessage.send", message | {"to_open_id": merchant.people["张三"]["alipay"]["open_id"]}),
    ):
        for body in spoilt(content):
            answer = await merchant.alipay(method, body)
            assert answer.status == 200, body
            merchant.business(answer, method.replace(".", "_") + "_response")


async def test_subscribe_message_and_push(running, http, merchant):
    own = running.sandbox.credentials
    ask = {"grant_type": "client_credential", "appid": own.wechat_app_id, "secret": own.wechat_app_secret}
    async with http.post(f"{running.url}/cgi-bin/stable_token", json=ask) as answer:
        token = json.loads(await answer.text())["access_token"]
    body = {"touser": merchant.people["张三"]["wechat"]["openid"], "template_id": "A" * 43, "page": "p", "lang": "zh_CN"}
    for message in spoilt(body | {"data": {"thing1": {"value": "x"}}}):
        url = f"{running.url}/cgi-bin/message/subscribe/send"
        async with http.post(url, params={"access_token": token}, json=message) as answer:
            assert answer.status == 200, message
            assert "errcode" in json.loads(await answer.text())
    push = {"platform": ["ios"], "audience": {"alias": ["a"]}, "notification": {"alert": "x", "ios": {"alert": {}}}}
    login = merchant.basic(own.jpush_app_key, own.jpush_master_secret)
    for message in spoilt(push | {"options": {"apns_production": True}, "message": {"msg_content": "x"}, "cid": "c"}):
        async with http.post(f"{running.url}/jpush/v3/push", json=message, headers=login) as answer:
            assert answer.status < 500, message
