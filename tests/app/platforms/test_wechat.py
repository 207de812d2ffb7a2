"""The WeChat client against the stand-in."""

import asyncio

import pytest

from app.kernel.errors import ProviderUnavailable, RateLimited
from app.platforms.http import VendorUnknown
from app.platforms.wechat import LoginBlocked, LoginRefused, WeChat, WeChatMisconfigured, WeChatRefused


@pytest.fixture
def wechat(http, redis, sandbox):
    own = sandbox.sandbox.credentials
    return WeChat(http, redis, base_url=sandbox.url, app_id=own.wechat_app_id, app_secret=own.wechat_app_secret)


async def test_login_code(wechat):
    session = await wechat.code2session("sim-张三")
    assert session.openid.startswith("o") and session.session_key and session.unionid
    assert (await wechat.code2session("sim-张三")).openid == session.openid
    with pytest.raises(LoginRefused):
        await wechat.code2session("wrong")


async def test_wrong_secret_is_our_fault_not_the_residents(http, sandbox, redis):
    own = sandbox.sandbox.credentials
    wechat = WeChat(http, redis, base_url=sandbox.url, app_id=own.wechat_app_id, app_secret="wrong")
    with pytest.raises(WeChatMisconfigured):
        await wechat.code2session("sim-张三")
    with pytest.raises(WeChatMisconfigured):
        await wechat.access_token()


@pytest.mark.parametrize(
    ("errcode", "error"),
    [(40029, LoginRefused), (40163, LoginRefused), (45011, RateLimited), (40226, LoginBlocked), (40125, WeChatMisconfigured), (-1, VendorUnknown), (99999, VendorUnknown)],
)
def test_every_login_errcode_means_something_to_the_caller(wechat, errcode, error):
    with pytest.raises(error):
        wechat._raise_login_error({"errcode": errcode, "errmsg": "x"})


async def test_busy_is_tried_again_with_the_same_code(wechat, sim):
    await sim("faults", provider="wechat", mode="error500", count=1)  # the stand-in says errcode -1
    assert (await wechat.code2session("sim-张三")).openid
    await sim("faults", provider="wechat", mode="error500", count=3)
    with pytest.raises(ProviderUnavailable):
        await wechat.code2session("sim-张三")


async def test_an_ambiguous_failure_never_repeats_the_code(wechat, sim):
    await sim("faults", provider="wechat", mode="lost", count=1)
    with pytest.raises(VendorUnknown):
        await wechat.code2session("sim-李四")


async def test_phone_is_bound_to_the_openid(wechat):
    zhang = await wechat.code2session("sim-张三")
    number = await wechat.phone_number("sim-张三", zhang.openid)
    assert number.isdigit() and len(number) == 11
    with pytest.raises(LoginRefused):
        await wechat.phone_number("sim-李四", zhang.openid)


async def test_token_is_fetched_once_for_all(wechat, redis, http, sandbox):
    tokens = await asyncio.gather(*(wechat.access_token() for _ in range(20)))
    assert len(set(tokens)) == 1
    own = sandbox.sandbox.credentials
    other = WeChat(http, redis, base_url=sandbox.url, app_id=own.wechat_app_id, app_secret="not needed: cached")
    assert await other.access_token() == tokens[0]


async def test_token_without_redis(http, sandbox):
    own = sandbox.sandbox.credentials
    from app.storage.redis import connect

    gone = connect("redis://127.0.0.1:1")
    for redis in (None, gone):
        wechat = WeChat(http, redis, base_url=sandbox.url, app_id=own.wechat_app_id, app_secret=own.wechat_app_secret)
        assert await wechat.access_token() == await wechat.access_token()
    await gone.aclose()


async def test_a_refused_token_is_replaced_once(wechat, redis):
    session = await wechat.code2session("sim-张三")
    await wechat.access_token()
    await redis.set(wechat._token_key, "stale-token")
    assert await wechat.phone_number("sim-张三", session.openid)
    assert await redis.get(wechat._token_key) != "stale-token"


async def test_subscribe_message(wechat, sim):
    session = await wechat.code2session("sim-张三")
    await sim("wechat/templates", templates=[{"template_id": "tpl-progress-00000000001", "keys": ["thing1", "time2"]}])
    data = {"thing1": "身份证补领", "time2": "2026年11月23日 09:30"}
    assert await wechat.send_subscribe_message(session.openid, "tpl-progress-00000000001", data, page="pages/case?id=1")
    await sim("wechat/grants", openid=session.openid, template_id="tpl-progress-00000000001", count=0)
    with pytest.raises(WeChatRefused) as caught:
        await wechat.send_subscribe_message(session.openid, "tpl-progress-00000000001", data)
    assert (caught.value.errcode, caught.value.kind) == (43101, "no_grant")
    with pytest.raises(WeChatRefused) as caught:
        await wechat.send_subscribe_message("o-nobody", "tpl-progress-00000000001", data)
    assert caught.value.kind == "recipient_unknown"
    await sim("wechat/grants", openid=session.openid, template_id="tpl-progress-00000000001", count=1)
    with pytest.raises(WeChatRefused) as caught:
        await wechat.send_subscribe_message(session.openid, "tpl-progress-00000000001", {"thing1": "x" * 30, "time2": "2026年11月23日 09:30"})
    assert (caught.value.kind, caught.value.field) == ("data_invalid", "thing1")
    with pytest.raises(WeChatRefused) as caught:
        await wechat.send_subscribe_message(session.openid, "tpl-unknown-000000000002", data)
    assert caught.value.kind == "template_invalid"
    await sim("faults", provider="wechat", mode="error500", count=1)
    with pytest.raises(VendorUnknown):
        await wechat.send_subscribe_message(session.openid, "tpl-progress-00000000001", data)
