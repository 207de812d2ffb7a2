"""The WeChat open platform: login, tokens, phone number, subscribe messages."""

import json
import time

import pytest

TEMPLATE = "4kXh2m0JtFmQv8m0l9yQ3xYwR5cT7uN1bVzA6sD8eGk"


@pytest.fixture
def call(running, http):
    async def call(method, path, *, query=None, body=None):
        async with http.request(method, running.url + path, params=query or {}, json=body) as answer:
            assert answer.status == 200 and answer.headers["Content-Type"] == "text/plain"
            return json.loads(await answer.text())

    return call


@pytest.fixture
async def login(running, call):
    own = running.sandbox.credentials

    async def login(code, **changes):
        query = {"appid": own.wechat_app_id, "secret": own.wechat_app_secret, "js_code": code}
        return await call("GET", "/sns/jscode2session", query=query | {"grant_type": "authorization_code"} | changes)

    return login


@pytest.fixture
async def token(running, call):
    own = running.sandbox.credentials

    async def token(**changes):
        body = {"grant_type": "client_credential", "appid": own.wechat_app_id, "secret": own.wechat_app_secret}
        return await call("POST", "/cgi-bin/stable_token", body=body | changes)

    return token


@pytest.fixture
async def send(running, call, login, token):
    openid = (await login("sim-张三"))["openid"]
    access_token = (await token())["access_token"]

    async def send(data, *, query=None, **changes):
        values = {key: {"value": value} for key, value in data.items()}
        body = {"touser": openid, "template_id": TEMPLATE, "data": values} | changes
        return await call(
            "POST", "/cgi-bin/message/subscribe/send", query=query or {"access_token": access_token}, body=body
        )

    return send


GOOD = {"thing1": "身份证丢失补领", "time2": "2026年11月24日 09:30", "phrase3": "已受理", "character_string4": "SG2026-1"}


async def test_one_name_is_one_person(login):
    first, again, other = await login("sim-张三"), await login("sim-张三"), await login("sim-李四")
    assert first == again and first["openid"] != other["openid"]
    assert len(first["openid"]) == 28 and {"session_key", "unionid"} <= set(first)


@pytest.mark.parametrize(
    ("code", "changes", "errcode"),
    [
        ("abc", {}, 40029),
        ("sim-", {}, 40029),
        ("", {}, 41008),
        ("sim-张三", {"appid": "wx0"}, 40013),
        ("sim-张三", {"secret": "x"}, 40125),
        ("sim-张三", {"grant_type": "password"}, 40002),
    ],
)
async def test_login_errors_come_with_status_200(login, code, changes, errcode):
    answer = await login(code, **changes)
    assert answer["errcode"] == errcode and "rid: " in answer["errmsg"]


async def test_stable_token_stays_until_its_last_five_minutes(running, token):
    first = await token()
    running.sandbox.clock = lambda: time.time() + 6000
    assert (await token())["access_token"] == first["access_token"]
    running.sandbox.clock = lambda: time.time() + 6950
    second = await token()
    assert second["access_token"] != first["access_token"] and second["expires_in"] == 7200


async def test_phone_code_is_bound_to_the_openid(call, login, token):
    who = await login("sim-张三")
    query = {"access_token": (await token())["access_token"]}
    path = "/wxa/business/getuserphonenumber"
    info = (await call("POST", path, query=query, body={"code": "sim-张三", "openid": who["openid"]}))["phone_info"]
    assert info["purePhoneNumber"].startswith("1") and len(info["purePhoneNumber"]) == 11
    assert (await call("POST", path, query=query, body={"code": "sim-李四", "openid": who["openid"]}))["errcode"] == 40029
    assert (await call("POST", path, query={"access_token": "x"}, body={"code": "sim-张三"}))["errcode"] == 40001


async def test_subscribe_message_is_sent_and_listed(running, http, send):
    assert (await send(GOOD, page="pages/case/index?id=1"))["errcode"] == 0
    async with http.get(f"{running.url}/_sim/sent", params={"channel": "wechat_subscribe", "to": "张三"}) as answer:
        listed = await answer.json()
    (item,) = listed["items"]
    assert listed["subscribe_messages"] == [item] and item["data"] == GOOD and item["template_id"] == TEMPLATE


@pytest.mark.parametrize(
    ("change", "errcode"),
    [
        ({"thing1": "长" * 21}, 47003),
        ({"thing1": ""}, 47003),
        ({"phrase3": "已经受理了吗"}, 47003),
        ({"phrase3": "OK"}, 47003),
        ({"character_string4": "中文"}, 47003),
        ({"time2": "明天"}, 47003),
        ({"thing9": "多余"}, 47003),
    ],
)
async def test_values_must_fit_the_template(send, change, errcode):
    assert (await send(GOOD))["errcode"] == 0  # the first message teaches the stand-in the keys
    assert (await send(GOOD | change))["errcode"] == errcode


async def test_other_refusals(send, sim):
    assert (await send(GOOD, touser="o_nobody"))["errcode"] == 40003
    assert (await send(GOOD, template_id="?"))["errcode"] == 40037
    assert (await send(GOOD, page="/pages/x"))["errcode"] == 41030
    assert (await send(GOOD, query={"access_token": "x"}))["errcode"] == 40001
    await sim("wechat/templates", templates=[{"template_id": TEMPLATE, "keys": list(GOOD), "title": "办理进度"}])
    assert (await send(GOOD))["errcode"] == 0
    assert (await send(GOOD, template_id="A" * 43))["errcode"] == 40037
    missing = {key: value for key, value in GOOD.items() if key != "time2"}
    assert (await send(missing))["errcode"] == 47003


async def test_counted_grants_and_refusal(send, sim):
    await sim("wechat/grants", name="张三", template_id=TEMPLATE, count=1)
    assert [(await send(GOOD))["errcode"] for _ in range(2)] == [0, 43101]
    await sim("wechat/grants", name="张三", template_id=TEMPLATE, count=5)
    await sim("wechat/refuse", name="张三")
    assert (await send(GOOD))["errcode"] == 43101
    await sim("wechat/refuse", name="张三", refuse=False)
    assert (await send(GOOD))["errcode"] == 0


async def test_busy_is_minus_one(login, sim):
    await sim("faults", provider="wechat", mode="error500", count=1)
    assert (await login("sim-张三"))["errcode"] == -1
    assert "openid" in await login("sim-张三")
