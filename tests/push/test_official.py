"""The city's official account: who follows it, template messages to followers, what each error causes, what WeChat says afterwards."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from app.kernel.clock import SHANGHAI, utc_now
from app.platforms.http import VendorUnknown
from app.platforms.wechat import WeChatRefused
from push.channels import wechat_official
from push.wechat_callback import as_xml, parse, read_account_event
from sandbox.people import Person, person
from tests.push.desk import Desk
from tests.push.web import Web, open_web


@pytest.fixture
async def web(desk: Desk, keys) -> AsyncIterator[Web]:
    async with open_web(desk, keys) as web:
        desk.running.sandbox.hall_url = web.url
        yield web


async def _follower(desk: Desk, *, phone: bool = False, ask: bool = True) -> tuple[str, Person]:
    """Return a resident of the mini-program who follows the account, and who it is at WeChat."""
    owner_id = await desk.resident(wechat=True, phone=phone)
    who = person(f"r{owner_id[-10:].lower()}")
    desk.town.identities[owner_id, "wechat"]["unionid"] = who.unionid
    assert (await desk.sim("wechat/follow", {"name": who.name}))["status"] == 200
    if ask:
        assert await desk.push.followers.ask_due() >= 1
    return owner_id, who


async def _told(desk: Desk, owner_id: str, name: str = "case.transferred") -> dict[str, Any]:
    await desk.push.tell(desk.event(owner_id, name))
    await desk.push.deliver_due()
    return (await desk.deliveries(owner_id))[-1]


async def _sent(desk: Desk, who: Person) -> list[dict[str, Any]]:
    async with desk.http.get(f"{desk.running.url}/_sim/sent", params={"channel": "template_messages", "to": who.official_openid}) as answer:
        return (await answer.json())["template_messages"]


class Answering:
    """The account with a script of answers in the place of sending: an errcode, an error, or None to really send."""

    def __init__(self, account: Any, *answers: Any) -> None:
        self._account = account
        self.answers = list(answers)
        self.bodies: list[Mapping[str, Any]] = []

    async def access_token(self) -> str:
        return await self._account.access_token()

    async def call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, int):
            return {"errcode": answer, "errmsg": "x"}
        really: dict[str, Any] = await self._account.call(path, body) if answer is None or answer == "lost" else {}
        if answer is not None:
            raise VendorUnknown("x", vendor="wechat", cause="ServerDisconnectedError")
        return really


def _script(desk: Desk, *answers: Any) -> Answering:
    channel = desk.push.deliveries._channels["official"]
    channel._account = Answering(channel._account, *answers)
    return channel._account


async def test_a_follower_gets_a_template_message_that_opens_the_mini_program(web: Web):
    desk = web.desk
    owner_id, who = await _follower(desk)

    delivery = await _told(desk, owner_id)

    (message,) = await _sent(desk, who)
    assert (delivery["state"], delivery["channel"], delivery["vendor_id"]) == ("sent", "official", str(message["msgid"]))
    assert message["miniprogram"] == {
        "appid": desk.settings["HALL_WECHAT_APP_ID"], "pagepath": f"pages/case/detail?id={delivery['subject']['id']}",
    }  # fmt: skip
    assert message["url"] == f"https://hall.example{delivery['link']}" and message["data"]["thing1"] == "居民身份证丢失补领"
    assert not {"440203199001010018", "A7K9PM"} & set(str(message).split("'"))


async def test_who_does_not_follow_is_told_otherwise(web: Web):
    desk = web.desk
    owner_id, who = await _follower(desk, phone=True)
    await desk.sim("wechat/follow", {"name": who.name, "follows": False})
    assert (await _told(desk, owner_id))["channel"] == "sms"
    stranger = await desk.resident(wechat=True, phone=True)
    assert (await _told(desk, stranger))["channel"] == "sms"
    assert await _sent(desk, who) == []


async def test_who_left_without_our_hearing_of_it_counts_as_a_follower_no_longer(web: Web):
    desk = web.desk
    owner_id, who = await _follower(desk, phone=True)
    desk.running.sandbox.store.put("official_follows", who.official_openid, False)
    delivery = await _told(desk, owner_id)
    assert [(one["channel"], one.get("code", "")) for one in delivery["attempts"]] == [("official", "43004"), ("sms", "")]
    assert await desk.push.followers.openid_of(who.unionid) == ""


@pytest.mark.parametrize("mode", ["secure", "plain"])
async def test_events_count_in_the_order_in_which_they_happened(desk: Desk, keys, mode: str):
    aes = {} if mode == "secure" else {"HALL_WECHAT_OFFICIAL_MESSAGE_AES_KEY": ""}
    async with open_web(desk, keys, **aes) as web:
        desk.running.sandbox.hall_url = web.url
        who = person(f"order{mode}")
        for follows, at in ((True, 100), (False, 300), (True, 200), (False, 300)):
            said = await desk.sim("wechat/follow", {"name": who.name, "follows": follows, "at": at, "mode": mode})
            assert (said["status"], said["answer"]) == (200, "success")
        desk.running.sandbox.store.put("official_follows", who.official_openid, True)  # what WeChat would say does not matter now
        await desk.push.followers.ask_due()
        assert await desk.push.followers.openid_of(who.unionid) == "", "the end at 300 is the last"
        await desk.sim("wechat/follow", {"name": who.name, "at": 400, "mode": mode})
        assert await desk.push.followers.openid_of(who.unionid) == "", "who it is is not known yet"
        await desk.push.followers.ask_due()
        assert await desk.push.followers.openid_of(who.unionid) == who.official_openid


async def test_forged_plain_and_foreign_events_are_refused(web: Web):
    desk, who = web.desk, person("forger")
    for how in ({"forged": True}, {"mode": "plain"}, {"mode": "plain", "forged": True}):
        assert (await desk.sim("wechat/follow", {"name": who.name, **how}))["status"] == 403
    assert await desk.database["wechat_followers"].count_documents({}) == 0
    assert (await desk.sim("wechat/verify-server", {"account": "official"}))["status"] == 200
    assert (await desk.sim("wechat/verify-server", {"account": "official", "forged": True}))["status"] == 403


async def test_who_followed_before_the_hall_heard_of_it_is_taken_in_page_by_page(web: Web):
    desk = web.desk
    people = [person(f"before{number}") for number in range(7)]
    for who in people:
        await desk.sim("wechat/follow", {"name": who.name, "silent": True})
    gone = people[0]
    await desk.sim("wechat/follow", {"name": gone.name, "follows": False, "at": 5})  # this end was heard of
    desk.running.sandbox.store.put("official_follows", gone.official_openid, True)  # and the list is older than it
    followers = desk.push.followers
    await desk.sim("faults", {"provider": "wechat", "mode": "error500", "count": 1})
    assert await followers.walk() == 0, "WeChat is away"
    followers._clock = lambda: utc_now() + timedelta(seconds=61)
    new = [await followers.walk() for _ in range(4)]
    assert new == [3, 3, 1, 0] and await followers.walk() == 0, "then not again for a week"
    desk.running.sandbox.store.put("official_follows", gone.official_openid, False)
    await followers.ask_due()
    assert [await followers.openid_of(who.unionid) for who in people] == ["", *(who.official_openid for who in people[1:])]
    followers._clock = lambda: utc_now() + timedelta(days=8)
    assert [await followers.walk() for _ in range(3)] == [0, 0, 0], "known already"


async def test_wechat_away_is_asked_again_who_follows(web: Web):
    desk = web.desk
    _owner_id, who = await _follower(desk, ask=False)
    await desk.sim("faults", {"provider": "wechat", "mode": "error500", "count": 1})
    assert await desk.push.followers.ask_due() == 0
    row = await desk.database["wechat_followers"].find_one({"_id": who.official_openid})
    assert row["ask_at"] > utc_now()
    desk.push.followers._clock = lambda: row["ask_at"]
    assert await desk.push.followers.ask_due() == 1 and await desk.push.followers.openid_of(who.unionid) == who.official_openid


@pytest.mark.parametrize(
    ("answers", "attempts", "calls"),
    [
        ((43004,), [("official", "refused", "43004"), ("sms", "sent", "")], 1),
        ((40003,), [("official", "refused", "40003"), ("sms", "sent", "")], 1),
        ((43101,), [("official", "refused", "43101"), ("sms", "sent", "")], 1),
        ((47003,), [("official", "refused", "47003"), ("sms", "sent", "")], 1),
        ((45009,), [("official", "try_later", "45009"), ("sms", "sent", "")], 1),
        ((-1,), [("official", "try_later", "-1")], 1),
        ((42001,), [("official", "try_later", "42001")], 1),
        ((40165, None), [("official", "sent", "")], 2),  # once more without the page
        ((40013, 43004), [("official", "refused", "43004"), ("sms", "sent", "")], 2),
        ((99999,), [("official", "refused", "99999"), ("sms", "sent", "")], 1),
        (("lost", None), [("official", "sent", "")], 2),  # cut off after WeChat had it: the same id is one message
        (("lost", "lost"), [("official", "unclear", "ServerDisconnectedError")], 2),
        (("lost", 99999), [("official", "unclear", "99999")], 2),
    ],
)
async def test_an_error_has_the_effect_of_its_row(web: Web, answers, attempts, calls: int):
    desk = web.desk
    owner_id, who = await _follower(desk, phone=True)
    account = _script(desk, *answers)

    delivery = await _told(desk, owner_id)

    found = [(one["channel"], one["outcome"], one.get("code", "")) for one in delivery["attempts"]]
    assert found == attempts and len(account.bodies) == calls
    if calls == 2 and answers[0] in (40165, 40013):
        assert "miniprogram" in account.bodies[0] and "miniprogram" not in account.bodies[1]
    assert len({body["client_msg_id"] for body in account.bodies}) == 1
    assert len(await _sent(desk, who)) == (1 if "lost" in answers or None in answers else 0), "never two"
    if answers[0] == 45009:
        again = next(iter(delivery.get("paused", {}).values())).astimezone(SHANGHAI)
        assert (again.hour, again.minute) == (0, 0)


async def test_a_template_refused_three_times_in_a_row_is_left_out(web: Web):
    desk = web.desk
    owner_id, _who = await _follower(desk, phone=True)
    account = _script(desk, 47003, 47003, 47003)
    channels = [(await _told(desk, owner_id))["attempts"][0]["channel"] for _ in range(4)]
    assert channels == ["official"] * 3 + ["sms"] and len(account.bodies) == 3


@pytest.mark.parametrize("status", ["success", "failed:user block", "failed: system failed"])
async def test_the_fate_of_a_template_message_is_noted_and_a_loss_goes_on(web: Web, status: str):
    desk = web.desk
    owner_id, who = await _follower(desk, phone=True)
    delivery = await _told(desk, owner_id)
    for _ in range(2):  # WeChat repeats
        said = await desk.sim("wechat/fate", {"msgid": delivery["vendor_id"], "status": status})
        assert (said["status"], said["answer"]) == (200, "success")
    await desk.push.deliver_due()

    (delivery,) = await desk.deliveries(owner_id)
    if status == "success":
        assert delivery["fate"] == "success" and delivery["channel"] == "official"
    else:
        assert [one["outcome"] for one in delivery["attempts"]] == ["sent", "undelivered", "sent"] and delivery["channel"] == "sms"
    assert len(await _sent(desk, who)) == 1


async def test_the_token_is_the_accounts_own_and_shared(web: Web):
    desk = web.desk
    account = desk.push.deliveries._channels["official"]._account
    tokens = await asyncio.gather(*(account.access_token() for _ in range(10)))
    mini_program = desk.push.deliveries._channels["wechat"]._client
    assert len(set(tokens)) == 1 and await mini_program.access_token() not in tokens
    with pytest.raises(WeChatRefused):
        openid = desk.town.identities[await desk.resident(wechat=True), "wechat"]["openid"]  # of the mini-program, not of the account
        await wechat_official.send_template_message(account, openid, "x" * 30, {"thing1": "x"}, client_msg_id="c")


def test_account_events_are_read_from_xml_and_answers_written_to_it():
    xml = (
        b"<xml><ToUserName><![CDATA[gh_7f083739789a]]></ToUserName><FromUserName><![CDATA[oia2TjuEGTNoeX76QEjQNrcURxG8]]></FromUserName>"
        b"<CreateTime>1395658920</CreateTime><MsgType><![CDATA[event]]></MsgType><Event><![CDATA[TEMPLATESENDJOBFINISH]]></Event>"
        b"<MsgID>200163836</MsgID><Status><![CDATA[failed:user block]]></Status></xml>"
    )
    event = read_account_event(parse(xml))
    assert (event.name, event.message_id, event.status, event.at) == ("TEMPLATESENDJOBFINISH", "200163836", "failed:user block", 1395658920)
    assert parse(as_xml({"A": "x ]]> <b>&", "N": 5})) == {"A": "x ]]> <b>&", "N": "5"}
    assert read_account_event({"CreateTime": "x", "Event": None}).at == 0
