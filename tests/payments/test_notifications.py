"""Notifications: what is taken, what is refused, and how the providers are answered, through our real callback addresses."""

import asyncio
import json
import time
from base64 import b64encode
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pymongo import AsyncMongoClient

from app.kernel.ids import new_id
from app.platforms import rsa
from app.storage.mongo import Database
from payments.model import AttemptState
from payments.providers.wechatpay import WeChatPay
from sandbox.signing import make_rsa_key


async def post(hall, path, body, headers):
    async with hall.session.post(hall.url + path, data=body, headers=headers) as answer:
        return answer.status, await answer.text()


def wechat_notice(hall, content, *, key="", key_id="", kind="transaction", at=0, tag=None):
    """Build a signed WeChat Pay notification (with the stand-in's keys unless told otherwise)."""
    own = hall.credentials
    nonce = "123456789012"
    sealed = bytearray(AESGCM(own.wechatpay_api_v3_key.encode()).encrypt(nonce.encode(), json.dumps(content).encode(), kind.encode()))
    if tag is not None:
        sealed[-1] ^= tag
    body = json.dumps(
        {
            "id": "n-1",
            "create_time": "2026-11-02T10:00:00+08:00",
            "resource_type": "encrypt-resource",
            "event_type": "TRANSACTION.SUCCESS",
            "summary": "支付成功",
            "resource": {
                "original_type": kind,
                "algorithm": "AEAD_AES_256_GCM",
                "ciphertext": b64encode(bytes(sealed)).decode(),
                "associated_data": kind,
                "nonce": nonce,
            },
        },
        ensure_ascii=False,
    ).encode()
    timestamp = str(int(time.time()) + at)
    private = rsa.load_private_key(key or own.wechatpay_private_key)
    return body, {
        "Content-Type": "application/json",
        "Wechatpay-Timestamp": timestamp,
        "Wechatpay-Nonce": "abc",
        "Wechatpay-Serial": key_id or own.wechatpay_public_key_id,
        "Wechatpay-Signature": rsa.sign(private, f"{timestamp}\nabc\n".encode() + body + b"\n"),
    }


def transaction(hall, number, **changes):
    own = hall.credentials
    return {
        "appid": own.wechat_app_id,
        "mchid": own.wechatpay_mch_id,
        "out_trade_no": number,
        "transaction_id": "4200000000",
        "trade_type": "JSAPI",
        "trade_state": "SUCCESS",
        "success_time": "2026-11-02T10:00:00+08:00",
        "amount": {"total": 4000, "payer_total": 3500, "currency": "CNY", "payer_currency": "CNY"},
    } | changes


def alipay_notice(hall, number, *, key="", **changes):
    own = hall.credentials
    form = {
        "notify_id": "n-1",
        "notify_type": "trade_status_sync",
        "notify_time": "2026-11-02 10:00:01",
        "app_id": own.alipay_app_id,
        "charset": "utf-8",
        "version": "1.0",
        "seller_id": own.alipay_seller_id,
        "trade_no": "2026110222001400000000000001",
        "out_trade_no": number,
        "trade_status": "TRADE_SUCCESS",
        "total_amount": "40.00",
        "receipt_amount": "35.00",
        "subject": " 补领 + {工本费} ",
        "body": "",
        "gmt_payment": "2026-11-02 10:00:00",
        "fund_bill_list": '[{"amount":"40.00","fundChannel":"PCREDIT"}]',
    } | changes
    form = {name: value for name, value in form.items() if value is not None}
    text = "&".join(f"{name}={form[name]}" for name in sorted(form))
    private = rsa.load_private_key(key or own.alipay_private_key)
    form |= {"sign_type": "RSA2", "sign": rsa.sign(private, text.encode())}
    return urlencode(form).encode(), {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}


async def test_taken_exactly_as_the_providers_expect(hall):
    resident = await hall.resident()
    one, two = await hall.order(resident), await hall.order(resident)
    first, _ = await hall.pay(one, "wechatpay")
    second, _ = await hall.pay(two, "alipay")
    for _ in range(3):  # and again, and again
        assert await post(hall, "/callbacks/wechatpay", *wechat_notice(hall, transaction(hall, first.id))) == (204, "")
        assert await post(hall, "/callbacks/alipay", *alipay_notice(hall, second.id)) == (200, "success")
    for order in (one, two):
        assert await hall.state(order) == "paid"
        assert (await hall.events(order)).count("order.paid") == 1
    stored = await hall.database["payment_notifications"].find().to_list()
    assert len(stored) == 6 and {row["state"] for row in stored} == {"applied"}
    assert all(row["body"] and row["headers"] for row in stored)


async def test_before_the_prepay_answer_was_stored(hall):
    """The notice can be faster than the answer of the prepay: the attempt is there since before the call."""
    order = await hall.order(await hall.resident())
    dead = hall.build(wechatpay_url="http://127.0.0.1:1")
    attempt_id = new_id("pay")
    with pytest.raises(Exception, match="没有被扣款"):
        await dead.pay(order.id, order.owner_id, provider="wechatpay", scene="mini_program", attempt_id=attempt_id)
    assert (await post(hall, "/callbacks/wechatpay", *wechat_notice(hall, transaction(hall, attempt_id))))[0] == 204
    assert await hall.state(order) == "paid"


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"amount": {"total": 3999, "currency": "CNY"}}, "amount"),
        ({"amount": {"total": 4000, "currency": "USD"}}, "currency"),
    ],
)
async def test_another_amount_is_held_until_the_true_news_comes(hall, change, differs):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "wechatpay")
    for _ in range(2):
        status, _ = await post(hall, "/callbacks/wechatpay", *wechat_notice(hall, transaction(hall, attempt.id, **change)))
        assert status >= 400  # nothing was booked, so nothing is acknowledged
    found = await hall.payments.get_order(order.id, order.owner_id)
    assert found.state == "paying" and found.attempts[0].held_for == (differs,)
    assert (await hall.events(order)).count("order.payment_held") == 1
    status, _ = await post(hall, "/callbacks/wechatpay", *wechat_notice(hall, transaction(hall, attempt.id)))
    assert (status, await hall.state(order)) == (204, "paid")


@pytest.mark.parametrize("change", [{"mchid": "1900000000"}, {"appid": "wx-another"}])
async def test_news_of_another_merchant_or_application_changes_nothing(hall, change):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "wechatpay")
    status, _ = await post(hall, "/callbacks/wechatpay", *wechat_notice(hall, transaction(hall, attempt.id, **change)))
    found = await hall.payments.get_order(order.id, order.owner_id)
    assert status >= 400 and found.attempts[0].state is AttemptState.WAITING
    assert "order.payment_held" not in await hall.events(order)


@pytest.mark.parametrize(
    ("change", "state"),
    [({"total_amount": "40.01"}, "held"), ({"seller_id": "2088000000000000"}, "waiting"), ({"app_id": "2021"}, "waiting")],
)
async def test_one_difference_settles_no_alipay_payment(hall, change, state):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "alipay")
    assert (await post(hall, "/callbacks/alipay", *alipay_notice(hall, attempt.id, **change)))[1] != "success"
    found = await hall.payments.get_order(order.id, order.owner_id)
    assert found.state == "paying" and found.attempts[0].state == state
    assert (await post(hall, "/callbacks/alipay", *alipay_notice(hall, attempt.id)))[1] == "success"
    assert await hall.state(order) == "paid"


async def test_a_number_of_the_other_provider_is_no_match(hall):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "wechatpay")
    await post(hall, "/callbacks/alipay", *alipay_notice(hall, attempt.id))
    found = await hall.payments.get_order(order.id, order.owner_id)
    assert found.state == "paying" and found.attempts[0].state is AttemptState.WAITING


async def test_forged_replayed_and_damaged(hall):
    order = await hall.order(await hall.resident())
    first, _ = await hall.pay(order, "wechatpay")
    content = transaction(hall, first.id)
    stranger, _ = make_rsa_key()
    body, headers = wechat_notice(hall, content)
    refused = [
        wechat_notice(hall, content, key=stranger),
        wechat_notice(hall, content, key=stranger, key_id="PUB_KEY_ID_0000"),
        wechat_notice(hall, content, at=-330),
        wechat_notice(hall, content, at=330),
        wechat_notice(hall, content, tag=1),
        (body + b" ", headers),
        (body, {name: value for name, value in headers.items() if name != "Wechatpay-Signature"}),
        (body, headers | {"Wechatpay-Signature": "WECHATPAY/SIGNTEST/" + headers["Wechatpay-Signature"]}),
        (b"", headers),
        (b"\x00\xff", {}),
    ]
    for body, headers in refused:
        status, text = await post(hall, "/callbacks/wechatpay", body, headers)
        assert 400 <= status < 600
        assert json.loads(text)["code"] == "FAIL"
    for body, headers in (
        alipay_notice(hall, first.id, key=stranger),
        (alipay_notice(hall, first.id)[0] + b"&extra=1", {}),
        (alipay_notice(hall, first.id)[0] + b"&total_amount=0.01", {}),
        (b"", {}),
        (b"\xff\xfe=1", {}),
        (b"{}", {"Content-Type": "application/json"}),
    ):
        status, text = await post(hall, "/callbacks/alipay", body, headers)
        assert text == "failure" and status != 200
    assert await hall.state(order) == "paying"
    assert await hall.database["payment_notifications"].count_documents({"state": {"$ne": "not_understood"}}) == 0
    # Written without waiting for a majority, so a majority read may come a moment too early.
    async with asyncio.timeout(5):
        while await hall.database["payment_notifications_rejected"].count_documents({}) < 15:
            await asyncio.sleep(0.02)
    assert (await hall.database.db.command("collStats", "payment_notifications_rejected"))["capped"]


async def test_signed_but_not_understood_is_kept_and_comes_again(hall):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "wechatpay")
    for content in (
        transaction(hall, attempt.id, trade_state="SOMETHING_NEW"),
        transaction(hall, attempt.id, amount={"currency": "CNY"}),
        transaction(hall, attempt.id, amount={"total": "4000"}),
    ):
        assert (await post(hall, "/callbacks/wechatpay", *wechat_notice(hall, content)))[0] == 400
    for change in ({"trade_status": "NEW"}, {"total_amount": "40.001"}, {"total_amount": "4e1"}, {"total_amount": ""}):
        assert (await post(hall, "/callbacks/alipay", *alipay_notice(hall, attempt.id, **change)))[1] == "failure"
    assert await hall.state(order) == "paying"
    assert await hall.database["payment_notifications"].count_documents({"state": "not_understood"}) == 7


async def test_unknown_number_is_stored_and_refused(hall):
    number = new_id("pay")
    assert (await post(hall, "/callbacks/wechatpay", *wechat_notice(hall, transaction(hall, number))))[0] == 400
    assert (await post(hall, "/callbacks/alipay", *alipay_notice(hall, number)))[1] == "failure"
    rows = await hall.database["payment_notifications"].find({"out_trade_no": number}).to_list()
    assert [row["state"] for row in rows] == ["unknown_number"] * 2


async def test_too_large(hall):
    for path in ("/callbacks/wechatpay", "/callbacks/alipay"):
        status, _ = await post(hall, path, b"x" * (64 * 1024 + 1), {})
        assert status == 413
    assert await hall.database["payment_notifications_rejected"].count_documents({}) == 0


async def test_notices_of_unknown_refunds_are_kept_and_come_again(hall):
    content = {
        "mchid": hall.credentials.wechatpay_mch_id, "out_trade_no": "pay_1", "out_refund_no": "rfd_1", "refund_status": "SUCCESS",
        "amount": {"total": 4000, "refund": 4000, "payer_total": 4000, "payer_refund": 4000},
    }  # fmt: skip
    notice = wechat_notice(hall, content, kind="refund")
    for path in ("/callbacks/wechatpay/refunds", "/callbacks/wechatpay"):
        assert (await post(hall, path, *notice))[0] == 400
    xml = (b"<xml><return_code>SUCCESS</return_code></xml>", {"Content-Type": "text/xml"})
    assert (await post(hall, "/callbacks/wechatpay/refunds", *xml))[0] == 400  # version 2: refused cleanly
    rows = await hall.database["payment_notifications"].find().to_list()
    assert [(row["kind"], row["state"]) for row in rows] == [("refund", "unknown_number")] * 2


async def test_partial_refund_is_no_second_payment(hall):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "alipay")
    refund = {"refund_fee": "10.00", "gmt_refund": "2026-11-03 10:00:00.123", "out_biz_no": "rfd_1"}
    # The refund can be the first thing we hear: it was paid, then.
    assert (await post(hall, "/callbacks/alipay", *alipay_notice(hall, attempt.id, **refund)))[1] == "success"
    assert await hall.state(order) == "paid"
    full = refund | {"refund_fee": "40.00", "trade_status": "TRADE_CLOSED"}
    assert (await post(hall, "/callbacks/alipay", *alipay_notice(hall, attempt.id, **full)))[1] == "success"
    assert await hall.events(order) == ["order.created", "order.paying", "order.paid"]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"trade_status": "TRADE_FINISHED"}, "paid"),
        ({"trade_status": "WAIT_BUYER_PAY", "gmt_payment": None}, "paying"),
        ({"trade_status": "TRADE_CLOSED", "gmt_payment": None}, "paying"),  # timed out unpaid: the attempt ends, not the order
        ({"trade_status": "TRADE_CLOSED", "gmt_payment": None, "refund_fee": "0.00"}, "paying"),
        ({"trade_status": "TRADE_CLOSED"}, "paid"),
    ],
)
async def test_alipay_words(hall, fields, state):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "alipay")
    assert (await post(hall, "/callbacks/alipay", *alipay_notice(hall, attempt.id, **fields)))[1] == "success"
    assert await hall.state(order) == state


async def test_wechat_refund_state_still_books_the_payment(hall):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "wechatpay")
    content = transaction(hall, attempt.id, trade_state="REFUND")
    assert (await post(hall, "/callbacks/wechatpay", *wechat_notice(hall, content)))[0] == 204
    assert await hall.state(order) == "paid"


async def test_stored_but_not_applied_is_applied_by_the_sweep(hall):
    """The process was killed between storing and applying, and the provider gave up telling."""
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "wechatpay")
    assert (await post(hall, "/callbacks/wechatpay", *wechat_notice(hall, transaction(hall, attempt.id))))[0] == 204
    await hall.database["orders"].update_one(
        {"_id": order.id},
        {"$set": {"state": "paying", "attempts.0.state": "waiting", "receipt_number": "", "next_ask_at": None}},
    )
    await hall.database["ledger_entries"].delete_many({"order_id": order.id})
    await hall.database["payment_notifications"].update_many({}, {"$set": {"state": "stored"}})
    await hall.payments.sweep(hall.now() + timedelta(seconds=11))
    assert await hall.state(order) == "paid"


async def test_database_away_means_come_again(hall):
    order = await hall.order(await hall.resident())
    first, _ = await hall.pay(order, "wechatpay")
    notice, form = wechat_notice(hall, transaction(hall, first.id)), alipay_notice(hall, first.id)
    away = Database("mongodb://127.0.0.1:1", "hall")
    nobody: AsyncMongoClient = AsyncMongoClient("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=200)
    away.db = nobody.get_database("hall")  # as Database makes it, only quicker to give up
    hall.web.payments = hall.build(database=away)
    answers = await asyncio.gather(post(hall, "/callbacks/wechatpay", *notice), post(hall, "/callbacks/alipay", *form))
    assert [answer[0] for answer in answers] == [503, 503]
    assert json.loads(answers[0][1])["code"] == "FAIL" and answers[1][1] == "failure"
    await away.close()
    await nobody.close()
    hall.web.payments = hall.payments
    assert (await post(hall, "/callbacks/wechatpay", *notice))[0] == 204
    assert await hall.state(order) == "paid"


async def test_signtest_probe_then_the_real_one(hall):
    """The stand-in probes as WeChat Pay does; the refusal brings the true notice again."""
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "wechatpay")
    await hall.sim("faults", provider="wechatpay_notice", mode="bad_signature", count=1)
    await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.out_trade_no)
    await hall.until(order, "paid")
    async with asyncio.timeout(5):
        while await hall.database["payment_notifications_rejected"].count_documents({"reason": "probe"}) != 1:
            await asyncio.sleep(0.02)


async def test_lost_answer_brings_it_again(hall):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "alipay")
    await hall.sim("faults", provider="alipay_notice", mode="lost", count=2)
    await hall.sim("pay", provider="alipay", out_trade_no=attempt.out_trade_no)
    await hall.until(order, "paid")
    async with asyncio.timeout(5):
        while await hall.database["payment_notifications"].count_documents({"state": "applied"}) < 3:
            await asyncio.sleep(0.05)
    assert (await hall.events(order)).count("order.paid") == 1


# --- certificate mode ---


async def test_certificate_mode(hall):
    payments = hall.build(certificate_mode=True)
    order = await hall.order(await hall.resident())
    await payments.pay(order.id, order.owner_id, provider="wechatpay", scene="mini_program", attempt_id=new_id("pay"))
    (attempt,) = (await payments.get_order(order.id, order.owner_id)).attempts
    await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success_without_notice")
    # A process that has never called WeChat Pay gets the first notice: refused at once, fetched meanwhile, taken when it comes again.
    fresh = hall.build(certificate_mode=True)
    own = hall.credentials
    body, headers = wechat_notice(
        hall, transaction(hall, attempt.id), key=own.platform_private_key, key_id=own.platform_serial
    )
    assert not (await fresh.receive("wechatpay", headers, body)).taken
    await fresh.providers["wechatpay"].learn_keys()  # waits for the one under way
    assert (await fresh.receive("wechatpay", headers, body)).taken
    assert await hall.state(order) == "paid"


async def test_unknown_serials_fetch_at_most_once_a_minute(hall):
    own = hall.credentials
    calls = []

    class Counting:
        async def request(self, *args, **kwargs):
            calls.append(args[2])
            return await hall.http.request(*args, **kwargs)

    now = hall.now()
    wechatpay = WeChatPay(
        Counting(),
        base_url=hall.sandbox.url,
        app_id=own.wechat_app_id,
        mch_id=own.wechatpay_mch_id,
        api_v3_key=own.wechatpay_api_v3_key,
        merchant_serial=own.merchant_serial,
        merchant_key=own.merchant_private_key,
        clock=lambda: now,
    )
    await asyncio.gather(*(wechatpay.learn_keys() for _ in range(20)))
    assert len(calls) == 1
    assert set(wechatpay.keys.at(now)) == {own.platform_serial}
    now += timedelta(seconds=61)
    assert await wechatpay.learn_keys() and len(calls) == 2


async def test_held_attempts_are_told_apart_in_the_answer(hall):
    order = await hall.order(await hall.resident())
    attempt, _ = await hall.pay(order, "alipay")
    await post(hall, "/callbacks/alipay", *alipay_notice(hall, attempt.id, total_amount="0.01"))
    found = await hall.payments.get_order(order.id, order.owner_id)
    assert found.attempts[0].state is AttemptState.HELD
    row = await hall.database["events"].find_one({"name": "order.payment_held"})
    assert row["data"]["differs"] == ["amount"] and row["data"]["reported_fen"] == 1
