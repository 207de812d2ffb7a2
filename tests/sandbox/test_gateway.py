"""The stand-ins of what reaches a phone are as strict as the real ones: calls, receipts, makers' channels."""

import aiohttp
import pytest

CALL = {"request_id": "dlv_1", "phone": "13800000001", "template": "case.accepted", "params": {}, "text": "您好。", "language": "zh-CN"}
PUSH = {
    "platform": ["android"], "audience": {"registration_id": ["reg1"]}, "notification": {"alert": "x"},
    "options": {"apns_production": False, "classification": 1, "time_to_live": 3600,
                "third_party_channel": {"xiaomi": {"distribution": "secondary_push"}}},
}  # fmt: skip


def _basic(running) -> dict[str, str]:
    own = running.sandbox.credentials
    return {"Authorization": aiohttp.encode_basic_auth(own.jpush_app_key, own.jpush_master_secret)}


async def test_the_same_request_id_is_one_call_and_another_text_under_it_is_refused(running, http):
    answers = []
    for body in (CALL, CALL, CALL | {"text": "别的"}):
        async with http.post(f"{running.url}/voice/calls", json=body) as answer:
            answers.append((answer.status, (await answer.json()).get("message_id")))

    assert [status for status, _ in answers] == [200, 200, 409] and answers[0] == answers[1]
    async with http.get(f"{running.url}/_sim/sent?channel=calls") as answer:
        assert len((await answer.json())["items"]) == 1


@pytest.mark.parametrize("change", [{"language": "zh"}, {"phone": "123"}, {"text": ""}, {"request_id": ""}])
async def test_a_call_that_is_not_as_agreed_is_refused(running, http, change):
    async with http.post(f"{running.url}/voice/calls", json=CALL | change) as answer:
        assert answer.status == 422 and (await answer.json())["code"] == f"invalid_{next(iter(change))}"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("classification", 2),
        ("time_to_live", 864_001),
        ("third_party_channel", {"nokia": {"distribution": "ospush"}}),
        ("third_party_channel", {"vivo": {"distribution": "sometimes"}}),
    ],
)
async def test_options_that_jpush_does_not_know_are_refused(running, http, option, value):
    body = PUSH | {"options": PUSH["options"] | {option: value}}
    async with http.post(f"{running.url}/jpush/v3/push", json=body, headers=_basic(running)) as answer:
        assert answer.status == 400 and (await answer.json())["error"]["code"] == 1003


@pytest.mark.parametrize(("has", "counts"), [("received", (1, None)), ("taken", (None, 1)), ("off", (None, None))])
async def test_receipts_tell_what_each_phone_got(running, http, has, counts):
    async with http.post(f"{running.url}/_sim/jpush/phones", json={"registration_id": "reg1", "has": has}) as answer:
        assert answer.status == 200
    async with http.post(f"{running.url}/jpush/v3/push", json=PUSH, headers=_basic(running)) as answer:
        msg_id = (await answer.json())["msg_id"]

    url = f"{running.url}/jpush/v3/received/detail"
    async with http.get(url, params={"msg_ids": f"{msg_id},1"}, headers=_basic(running)) as answer:
        first, unknown = await answer.json()
    assert first["msg_id"] == msg_id and (first["jpush_received"], first["android_pns_sent"]) == counts
    assert unknown == {**unknown, "msg_id": "1", "jpush_received": None}
    async with http.get(url, params={"msg_ids": msg_id}) as answer:
        assert answer.status == 401
    for wrong in ("", "x", ",".join(["1"] * 101)):
        async with http.get(url, params={"msg_ids": wrong}, headers=_basic(running)) as answer:
            assert answer.status == 400
