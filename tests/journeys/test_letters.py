"""One case told by every way out that is not a phone's own: the official account, e-mail, the agency's system; and a question that is answered.

By the real worker, which is killed in the middle: each comes once all the same.
"""

import asyncio
from typing import Any

import pytest

from commands.story import Refused
from sandbox.people import person
from tests.journeys.conftest import PASSWORD
from tests.journeys.stories import LOST, someone, submitted


async def _sim(person_: Any, hall: Any, what: str, body: dict[str, Any]) -> dict[str, Any]:
    async with person_.http.post(f"{hall.sandbox_url}/_sim/{what}", json=body) as answer:
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())


async def _sent(person_: Any, hall: Any, channel: str, to: str, count: int) -> list[dict[str, Any]]:
    """Wait until so many have gone out, and a little longer for one too many."""
    for _ in range(200):
        async with person_.http.get(f"{hall.sandbox_url}/_sim/sent", params={"channel": channel, "to": to}) as answer:
            items = (await answer.json())["items"]
        if len(items) >= count:
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    async with person_.http.get(f"{hall.sandbox_url}/_sim/sent", params={"channel": channel, "to": to}) as answer:
        return list((await answer.json())["items"])


async def test_a_case_is_told_by_the_official_account_by_mail_and_to_the_agencys_system(hall, anyone):
    head = await anyone.sign_in_staff("head.sg-gaj", PASSWORD)
    hook = await head.call("PUT", "/staff/v1/hook", {"url": f"{hall.sandbox_url}/hooks/events"})
    await _sim(anyone, hall, "hooks", {"app": hook["app"], "secret": hook["secret"]})

    resident, name = await someone(anyone)
    who = person(name)
    email = f"{name.lower()}@example.com"
    await resident.call("PUT", "/v1/me/email", {"email": email})
    code = (await _sent(anyone, hall, "emails", email, 1))[-1]["code"]
    assert (await resident.post("/v1/me/email/confirm", {"code": code}))["verified_at"]
    assert (await _sim(anyone, hall, "wechat/follow", {"name": name}))["answer"] == "success"
    for _ in range(100):  # the worker asks WeChat who the follower is
        if "user/info/batchget" in hall.log("worker"):
            break
        await asyncio.sleep(0.1)

    case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
    hall.kill("worker")
    hall.start("worker")

    messages = await _sent(anyone, hall, "template_messages", who.official_openid, 2)
    told = [row["data"]["thing1"] for row in messages]
    assert len(told) == 2 and set(told) == {"居民身份证丢失补领"}, "submitted, and the fee that is due"
    events = [row["event"] for row in await _sent(anyone, hall, "hooks", hook["app"], 2)]
    mine = [event for event in events if event["case"]["number"] == case["number"]]
    assert sorted(event["event"] for event in mine) == ["case.fee_due", "case.submitted"]
    assert len({event["id"] for event in mine}) == 2 and name not in str(mine)
    deliveries = (await head.get("/staff/v1/hook/deliveries?state=delivered"))["items"]
    assert {row["case_number"] for row in deliveries} >= {case["number"]}
    await head.call("DELETE", "/staff/v1/hook")

    # Without the account the next channel tells; e-mail is the last for what must arrive, and a person may leave it as the only one.
    await _sim(anyone, hall, "wechat/follow", {"name": name, "follows": False, "at": 2_000_000_000})
    off = dict.fromkeys(("wechat", "official", "alipay", "app", "sms"), False)
    await resident.call("PUT", "/v1/me/notification-preferences", {"kinds": {"case": off}})
    await resident.post(f"/v1/cases/{case['id']}/withdraw")
    case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
    mails = [row for row in await _sent(anyone, hall, "emails", email, 3) if "code" not in row]
    assert len(mails) == 2 and {row["subject"] for row in mails} == {
        "【韶关办事】居民身份证丢失补领：已提交", "【韶关办事】居民身份证丢失补领：待缴费",
    }  # fmt: skip
    assert all(f"/cases/{case['id']}" in row["text"] for row in mails)


async def test_a_question_to_the_mini_program_is_answered_and_a_human_takes_over(hall, anyone):
    _resident, name = await someone(anyone)
    openid = person(name).openid
    said = await _sim(anyone, hall, "wechat/say", {"name": name, "text": "身份证丢了怎么办"})
    assert (said["status"], said["answer"]) == (200, "success")
    (answered,) = await _sent(anyone, hall, "customer_messages", openid, 1)
    assert "身份证" in answered["content"] and "智能回答" in answered["content"]

    await _sim(anyone, hall, "wechat/say", {"name": name, "text": "转人工"})
    staff = await anyone.sign_in_staff("clerk.sg-zsj", PASSWORD)
    for _ in range(50):
        mine = [row for row in (await staff.get("/staff/v1/customer-messages?limit=100"))["items"] if row["text"] == "转人工"]
        if mine:
            break
        await asyncio.sleep(0.1)
    await staff.post(f"/staff/v1/customer-messages/{mine[-1]['id']}/reply", {"text": "您好，请带户口簿到窗口。"})
    heard = [row["content"] for row in await _sent(anyone, hall, "customer_messages", openid, 3)]
    assert len(heard) == 3 and heard[-1].startswith("您好，请带户口簿到窗口。\n评价这次咨询")
    code = heard[-1].rpartition("/rate/")[2]
    assert (await anyone.get(f"/v1/ratings/{code}"))["kind"] == "consultation"
    assert (await anyone.post(f"/v1/ratings/{code}", {"level": 2}))["state"] == "rated"
    with pytest.raises(Refused):
        await anyone.post(f"/v1/ratings/{code}", {"level": 1})
