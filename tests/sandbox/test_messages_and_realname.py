"""SMS, JPush and the real-name service."""

import aiohttp
import pytest

from tests.sandbox.callers import Merchant

ID_NUMBER = "44020019000101001X"


@pytest.fixture
def call(running, http):
    async def call(path, body, **kwargs):
        async with http.post(running.url + path, json=body, **kwargs) as answer:
            return answer.status, await answer.json()

    return call


async def sent(running, http, **query):
    async with http.get(f"{running.url}/_sim/sent", params=query) as answer:
        return await answer.json()


def sms(**changes):
    text = "【韶关办事】验证码 482913，5 分钟内有效，请勿告诉他人。"
    return {"request_id": "r1", "phone": "13800000001", "template": "login", "params": {}, "text": text} | changes


async def test_one_request_id_is_one_message(running, http, call):
    first = await call("/sms/messages", sms())
    assert first[0] == 200 and await call("/sms/messages", sms()) == first
    assert (await call("/sms/messages", sms(phone="13800000002")))[0] == 409
    assert (await call("/sms/messages", sms(request_id="r2", text="您的办件已受理")))[0] == 200
    listed = await sent(running, http, channel="sms", to="13800000001")
    assert [item.get("code") for item in listed["sms"]] == ["482913", None]
    later = await sent(running, http, after=listed["items"][0]["id"])
    assert [item["text"] for item in later["items"]] == ["您的办件已受理"]
    assert (await sent(running, http, after=listed["items"][-1]["at"]))["items"] == []


@pytest.mark.parametrize("change", [{"phone": "1380000"}, {"text": ""}, {"request_id": None}, {"template": 1}])
async def test_sms_refuses_what_no_gateway_takes(call, change):
    assert (await call("/sms/messages", sms(**change)))[0] == 422


async def test_push_needs_the_key_and_a_person(running, http, call):
    own = running.sandbox.credentials
    headers = Merchant.basic(own.jpush_app_key, own.jpush_master_secret)
    push = {
        "platform": "all",
        "audience": {"registration_id": ["1a0018970a8", "gone-1"]},
        "notification": {"alert": "您的办件有新进展"},
        "options": {"apns_production": False, "time_to_live": 86400},
        "cid": "cid-1",
    }
    first = await call("/jpush/v3/push", push, headers=headers)
    assert first[0] == 200 and first == await call("/jpush/v3/push", push, headers=headers)
    (item,) = (await sent(running, http, to="1a0018970a8"))["pushes"]
    assert item["content"] == "您的办件有新进展"
    assert (await call("/jpush/v3/push", push))[1]["error"]["code"] == 1004
    everybody = await call("/jpush/v3/push", push | {"audience": "all"}, headers=headers)
    assert everybody[1]["error"]["code"] == 1003
    gone = await call("/jpush/v3/push", push | {"audience": {"registration_id": ["gone-1"]}}, headers=headers)
    assert gone[1]["error"]["code"] == 1011


@pytest.mark.parametrize(
    ("name", "id_number", "expected"),
    [
        ("张三", ID_NUMBER, (200, {"match": True})),
        ("张不符", ID_NUMBER, (200, {"match": False})),
        ("张三", "440200190001010011", 422),
        ("张三", "44020019000101001x", 422),
        ("", ID_NUMBER, 422),
    ],
)
async def test_real_name(call, name, id_number, expected):
    status, body = await call("/realname/verify", {"name": name, "id_number": id_number})
    assert expected in (status, (status, body))


async def test_real_name_that_never_answers(call):
    with pytest.raises(aiohttp.ClientError):
        await call("/realname/verify", {"name": "张超时", "id_number": ID_NUMBER})


async def test_face_check(running, http, call):
    async def state(name, order_no):
        body = {"name": name, "id_number": ID_NUMBER, "order_no": order_no}
        (_, made), again = await call("/realname/face-checks", body), await call("/realname/face-checks", body)
        assert again[1]["id"] == made["id"] and made["client_params"]["certify_id"]
        async with http.get(f"{running.url}/realname/face-checks/{made['id']}") as answer:
            return (await answer.json())["state"]

    assert (await state("张三", "f1"), await state("张非本人", "f2")) == ("passed", "failed")
    async with http.get(f"{running.url}/realname/face-checks/none") as answer:
        assert answer.status == 404
