"""Keys and state that stay, the pages, and what an operator may count on."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time

import aiohttp
import pytest

from sandbox.base import Pace
from sandbox.credentials import load_or_make
from sandbox.server import start
from tests.sandbox.callers import Merchant, number
from tests.sandbox.test_wechatpay import prepaid, query_path


def test_keys_are_made_once_and_kept_from_others(data_dir):
    path = data_dir / "credentials.json"
    assert load_or_make(data_dir) == load_or_make(data_dir)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("{}")
    with pytest.raises(ValueError, match="credentials.json"):
        load_or_make(data_dir)


def test_hall_settings_name_every_stand_in(data_dir):
    own = load_or_make(data_dir)
    settings = own.hall_settings("http://127.0.0.1:8889/")
    assert settings["HALL_ALIPAY_GATEWAY_URL"] == "http://127.0.0.1:8889/gateway.do"
    assert settings["HALL_WECHATPAY_MERCHANT_KEY"].startswith("-----BEGIN PRIVATE KEY-----\n")
    assert (len(own.wechat_message_aes_key), len(own.wechatpay_api_v3_key), len(own.merchant_serial)) == (43, 32, 40)
    assert all(settings.values())


def test_the_ladders_are_the_documented_ones():
    assert sum(Pace().wechatpay_retries_s) == 24 * 3600 + 4 * 60 and len(Pace().wechatpay_retries_s) == 15
    assert Pace().alipay_retries_s == (240, 600, 600, 3600, 7200, 21600, 54000)


async def test_production_has_no_sandbox(data_dir, monkeypatch):
    monkeypatch.setenv("HALL_ENV", "production")
    with pytest.raises(RuntimeError):
        await start(0, data_dir)


async def test_kill_9_loses_neither_trades_nor_notices(data_dir, receiver):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def served(http):
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "--port", str(port), "--data-dir", str(data_dir)],
            env=os.environ | {"HALL_ENV": "test"},
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{port}/healthz"):
                    return process
            except aiohttp.ClientError:
                assert time.monotonic() < deadline and process.poll() is None

    async with aiohttp.ClientSession() as http:
        process = await served(http)
        try:
            merchant = Merchant(f"http://127.0.0.1:{port}", load_or_make(data_dir), http, receiver.url)
            await merchant.know("张三")
            receiver.replies = [(503, "")]  # refused once: the next try is 15 s away
            out_trade_no, _ = await prepaid(merchant)
            pay = {"provider": "wechatpay", "out_trade_no": out_trade_no, "outcome": "success"}
            async with http.post(f"{merchant.url}/_sim/pay", json=pay) as answer:
                assert answer.status == 200
            await receiver.wait_for(1)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = await served(http)
            assert (await merchant.wechatpay("GET", query_path(merchant, out_trade_no))).json["trade_state"] == "SUCCESS"
            async with http.post(f"{merchant.url}/_sim/notices/hurry", json={}) as answer:
                assert answer.status == 200
            await receiver.wait_for(2)
            assert merchant.open_notice(receiver.notices[1][1])["out_trade_no"] == out_trade_no
        finally:
            process.terminate()
            assert process.wait(timeout=10) == 0


async def test_cashier_pays_and_leads_back(merchant, http):
    out_trade_no, _ = await prepaid(merchant, description="<b>补领</b> & 换领")
    back = "http://127.0.0.1:8888/orders/ord_1?x=1"
    query = {"provider": "wechatpay", "out_trade_no": out_trade_no, "back": back}
    async with http.get(f"{merchant.url}/_sim/cashier", params=query) as page:
        text = await page.text()
    assert "40.00" in text and "支付成功" in text and "&lt;b&gt;" in text and "<b>补领" not in text
    form = {"provider": "wechatpay", "out_trade_no": out_trade_no, "outcome": "success", "back": back}
    async with http.post(f"{merchant.url}/_sim/pay", data=form, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, back)
    async with http.get(f"{merchant.url}/_sim/cashier", params=query) as page:
        assert "已经支付" in await page.text()
    async with http.get(f"{merchant.url}/_sim/cashier", params={"out_trade_no": number()}) as page:
        assert page.status == 404


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "http://127.0.0.1@evil.example/", ""]
)
async def test_no_way_back_to_strangers(merchant, http, back):
    query = {"provider": "wechat", "back": back, "state": "s", "name": "张三"}
    async with http.get(f"{merchant.url}/_sim/login", params=query, allow_redirects=False) as page:
        assert page.status == 200 and "evil" not in await page.text()


@pytest.mark.parametrize(("provider", "parameter"), [("wechat", "code"), ("alipay", "auth_code")])
async def test_sign_in_page_goes_back_with_a_code(merchant, http, provider, parameter):
    query = {"provider": provider, "back": "http://127.0.0.1:8888/login?next=%2Fme", "state": "s1"}
    async with http.get(f"{merchant.url}/_sim/login", params=query) as page:
        assert "同意并登录" in await page.text()
    async with http.get(f"{merchant.url}/_sim/login", params=query | {"name": "张三"}, allow_redirects=False) as page:
        assert page.status == 302
        location = page.headers["Location"]
    assert location == f"http://127.0.0.1:8888/login?next=%2Fme&{parameter}=sim-%E5%BC%A0%E4%B8%89&state=s1"


async def test_faults_are_known_words_and_counted(merchant, http, sim):
    assert (await sim("faults", provider="wechat", mode="sleepy"))[0] == 422
    await sim("faults", provider="sms", mode="down", count=1)
    with pytest.raises(aiohttp.ClientError):
        await http.post(f"{merchant.url}/sms/messages", json={})
    async with http.post(f"{merchant.url}/sms/messages", json={}) as answer:
        assert answer.status == 422
    async with http.get(f"{merchant.url}/v3/nothing") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "RESOURCE_NOT_EXISTS")
