"""What people write to the mini-program: stored once, answered by the assistant at most once, or in the queue of the staff until seen to."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.catalogue.assistant import asks_for_person
from app.identity.model import StaffSession
from app.kernel.clock import utc_now
from app.kernel.errors import ProviderUnavailable
from app.platforms.http import VendorUnknown
from app.storage.mongo import ensure_indexes
from push import customer_messages
from push.customer_messages import (
    EFFECTS,
    LEASE,
    QUEUE,
    TRANSFER,
    CustomerMessageNotFound,
    CustomerMessages,
    NotYours,
    ReplyRefused,
)  # fmt: skip
from sandbox.people import person
from tests.push.desk import Desk
from tests.push.web import Web, open_web

STAFF = StaffSession("clerk.sg-zsj", "李", "clerk", "sg-zsj")
WORDS = "您是要办“身份证补领”吗？（智能回答）"


def _assistant(text: str) -> Mapping[str, Any]:
    """A catalogue with one item."""
    items = [{"code": "id_card_lost", "name": "居民身份证丢失补领"}] if "身份证" in text else []
    return {"reply": WORDS if items else "没有找到相关的事项。", "items": items, "handover": None}


@dataclass
class Counter:
    """The desk's web server with the room of customer messages, and what WeChat saw."""

    web: Web
    messages: CustomerMessages

    async def say(self, name: str, text: str = "身份证丢了怎么办", **how: Any) -> dict[str, Any]:
        """A person writes; returns what WeChat heard, when the work beside the request is done."""
        said = await self.web.desk.sim("wechat/say", {"name": name, "text": text, **how})
        for work in self.web.hall.beside:
            await work
        self.web.hall.beside.clear()
        return said

    async def heard(self, name: str) -> list[str]:
        url = f"{self.web.desk.running.url}/_sim/sent"
        async with self.web.desk.http.get(url, params={"channel": "customer_messages", "to": person(name).openid}) as answer:
            return [row["content"] for row in (await answer.json())["customer_messages"]]

    async def rows(self) -> list[dict[str, Any]]:
        return await self.web.desk.database["customer_messages"].find().sort("at", 1).to_list()

    async def queue(self) -> list[dict[str, Any]]:
        return (await self.messages.queue(STAFF, is_superior=True, limit=50, after=None))[0]


async def _open(desk: Desk, keys, mode: str = QUEUE, **settings: str) -> AsyncIterator[Counter]:
    await ensure_indexes(desk.database, customer_messages.INDEXES)
    async with open_web(desk, keys, **settings) as web:
        desk.running.sandbox.hall_url = web.url
        client = desk.push.deliveries._channels["wechat"]._client
        messages = CustomerMessages(
            desk.database, keys, client, utc_now, answer=_assistant, wants_person=asks_for_person, public_url="https://hall.example",
            mode=mode,
        )  # fmt: skip
        web.hall.customer_messages, web.hall.beside = messages, []
        web.hall.run_beside = lambda work: web.hall.beside.append(asyncio.ensure_future(work))
        yield Counter(web, messages)


@pytest.fixture
async def counter(desk: Desk, keys) -> AsyncIterator[Counter]:
    async for counter in _open(desk, keys):
        yield counter


@pytest.mark.parametrize("how", [{}, {"format": "xml"}])
async def test_a_question_is_answered_by_the_assistant_and_wechat_hears_success_at_once(counter: Counter, how):
    said = await counter.say("asker", **how)

    assert (said["status"], said["answer"], said["opened"]) == (200, "success", None)
    assert await counter.heard("asker") == [f"{WORDS}\n居民身份证丢失补领：https://hall.example/items/id_card_lost"]
    (row,) = await counter.rows()
    assert row["state"] == "answered" and not row["is_open"] and "身份证" not in str(row), "sealed at rest"
    assert await counter.queue() == []


async def test_plain_mode_is_taken_and_forged_bodies_are_refused(desk: Desk, keys):
    async for counter in _open(desk, keys, HALL_WECHAT_MESSAGE_AES_KEY=""):
        assert (await counter.say("plain", mode="plain"))["answer"] == "success"
        assert (await counter.say("plain", mode="plain", forged=True))["status"] == 403
        assert len(await counter.rows()) == len(await counter.heard("plain")) == 1


async def test_forged_and_plain_bodies_are_refused_in_secure_mode(counter: Counter):
    for how in ({"forged": True}, {"mode": "plain"}):
        assert (await counter.say("forger", **how))["status"] == 403
    assert await counter.rows() == []


async def test_a_repeated_message_is_stored_and_answered_once(counter: Counter):
    first = await counter.say("repeat")
    at = (await counter.rows())[0]["at"]
    for _ in range(3):
        await counter.say("repeat", msgid=first["msgid"], at=int(at.timestamp()))
    await asyncio.gather(*(counter.messages.answer_due() for _ in range(3)))
    assert len(await counter.heard("repeat")) == 1 and len(await counter.rows()) == 1


async def test_many_workers_at_once_answer_each_message_once(counter: Counter):
    counter.web.hall.run_beside = lambda work: work.close()  # the web process died right after `success`
    for number in range(12):
        await counter.say(f"many{number}")
    assert sum(await asyncio.gather(*(counter.messages.answer_due() for _ in range(4)))) == 12
    for number in range(12):
        assert len(await counter.heard(f"many{number}")) == 1


async def test_a_worker_that_died_in_the_call_does_not_call_again_staff_sees_it(counter: Counter):
    counter.web.hall.run_beside = lambda work: work.close()
    await counter.say("crash")
    row = await counter.messages._claim({})
    assert row and await counter.messages._change(row, {"is_sending": True})  # and here it dies
    assert await counter.messages.answer_due() == 0
    counter.messages._clock = lambda: utc_now() + LEASE + timedelta(seconds=1)
    assert await counter.messages.answer_due() == 1
    assert await counter.heard("crash") == []
    (waiting,) = await counter.queue()
    assert waiting["code"] == "unclear" and waiting["text"] == "身份证丢了怎么办" and not waiting["asked_human"]


async def test_what_is_no_text_is_told_what_can_be_read(counter: Counter):
    await counter.say("picture", kind="image")
    (heard,) = await counter.heard("picture")
    assert "看得懂文字" in heard


class Answering:
    """The client with a script of errcodes or errors in the place of sending; empty: really."""

    def __init__(self, client: Any, *answers: Any) -> None:
        self._client, self.answers, self.calls = client, list(answers), 0

    async def access_token(self) -> str:
        return await self._client.access_token()

    async def call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.calls += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, int):
            return {"errcode": answer, "errmsg": "x"}
        if answer is not None:
            raise VendorUnknown("x", vendor="wechat", cause=answer)
        return await self._client.call(path, body)


@pytest.mark.parametrize("answer", [-1, 42001, 45009, "status"])
async def test_what_is_for_later_is_tried_again(counter: Counter, answer):
    counter.messages._client = Answering(counter.messages._client, answer)
    await counter.say("later")
    assert await counter.heard("later") == []
    (row,) = await counter.rows()
    assert row["is_open"] and row["next_at"] > utc_now()
    counter.messages._clock = lambda: row["next_at"]
    await counter.messages.answer_due()
    assert len(await counter.heard("later")) == 1 and await counter.queue() == []


@pytest.mark.parametrize(
    ("answer", "code"), [(45015, "45015"), (45047, "45047"), (40003, "40003"), (48001, "48001"), (99999, "99999"), ("TimeoutError", "unclear")]
)
async def test_what_wechat_does_not_take_is_seen_by_staff(counter: Counter, answer, code: str):
    counter.messages._client = client = Answering(counter.messages._client, answer)
    await counter.say("held")
    counter.messages._clock = lambda: utc_now() + timedelta(hours=1)
    await counter.messages.answer_due()
    assert client.calls == 1
    assert [row["code"] for row in await counter.queue()] == [code]
    assert code == "99999" or code in EFFECTS


async def test_the_window_of_48_hours_and_the_five_answers_are_wechats_own(counter: Counter):
    counter.web.hall.run_beside = lambda work: work.close()
    await counter.say("window")
    counter.messages._clock = lambda: utc_now() + timedelta(hours=49)
    await counter.messages.answer_due()
    assert [row["code"] for row in await counter.queue()] == ["45015"] and await counter.heard("window") == []


async def test_what_comes_while_staff_writes_an_answer_is_not_done_by_it(counter: Counter):
    await counter.say("human", "转人工")
    [seen] = await counter.queue()
    await counter.say("human", "另外，我母亲的护照丢了")  # after the page was opened
    await counter.messages.reply(STAFF, seen["id"], "您好，请问您要办什么？", is_superior=True)
    [left] = await counter.queue()
    assert left["text"] == "另外，我母亲的护照丢了"
    await counter.say("human", "还有一件")
    await counter.messages.close(STAFF, left["id"], "电话里答复了", is_superior=True)
    assert [row["text"] for row in await counter.queue()] == ["还有一件"]


async def test_who_asks_for_a_human_stands_in_the_queue_until_staff_has_answered(counter: Counter):
    await counter.say("human", "转人工")
    await counter.say("human", "我的办件卡住了")
    assert len(await counter.heard("human")) == 1, "told that a human comes, and no machine in between"
    first, second = await counter.queue()
    assert first["asked_human"] and (first["text"], second["text"]) == ("转人工", "我的办件卡住了")

    done = await counter.messages.reply(STAFF, second["id"], "您好，我帮您查了，今天下午会有结果。", is_superior=True)

    assert done["handled_by"] == STAFF.account and (await counter.heard("human"))[-1].startswith("您好，我帮您查了")
    assert await counter.queue() == [], "one conversation, one answer"
    with pytest.raises(CustomerMessageNotFound):
        await counter.messages.reply(STAFF, second["id"], "再说一次", is_superior=True)
    await counter.say("human")
    assert len(await counter.heard("human")) == 3, "the assistant again"
    audit = await counter.web.desk.database["audit"].distinct("action")
    assert {"customer_message.list", "customer_message.answered"} <= set(audit)


async def test_two_colleagues_at_once_send_one_answer(counter: Counter):
    await counter.say("two", "找人工")
    (row,) = await counter.queue()
    results = await asyncio.gather(
        *(counter.messages.reply(STAFF, row["id"], f"第{n}位", is_superior=True) for n in range(4)), return_exceptions=True
    )
    assert sum(isinstance(one, dict) for one in results) == 1
    assert all(isinstance(one, dict | ReplyRefused | CustomerMessageNotFound) for one in results)
    assert len([text for text in await counter.heard("two") if text.startswith("第")]) == 1


async def test_an_answer_of_staff_that_wechat_refuses_leaves_it_open_until_it_is_closed(counter: Counter):
    await counter.say("late", "人工")
    (row,) = await counter.queue()
    counter.messages._client = Answering(counter.messages._client, 45015, "status")
    with pytest.raises(ReplyRefused, match="48小时"):
        await counter.messages.reply(STAFF, row["id"], "您好", is_superior=True)
    with pytest.raises(ProviderUnavailable):
        await counter.messages.reply(STAFF, row["id"], "您好", is_superior=True)
    assert len(await counter.queue()) == 1
    closed = await counter.messages.close(STAFF, row["id"], "已电话回复", is_superior=True)
    assert closed["note"] == "已电话回复" and await counter.queue() == []


def test_the_table_of_codes_is_the_one_that_is_printed():
    text = (Path(__file__).resolve().parents[2] / "docs" / "push.md").read_text()
    for code, effect in EFFECTS.items():
        assert f"| {code} | {effect.means} | {effect.then.value} | {'yes' if effect.is_alarm else ''} |" in text, code


async def test_the_queue_is_of_the_agency_that_runs_the_hall(counter: Counter):
    await counter.say("yours", "人工")
    (row,) = await counter.queue()
    for call in (
        counter.messages.queue(STAFF, is_superior=False, limit=1, after=None),
        counter.messages.reply(STAFF, row["id"], "x", is_superior=False),
        counter.messages.close(STAFF, row["id"], "x", is_superior=False),
    ):
        with pytest.raises(NotYours):
            await call


@pytest.mark.parametrize(("mode", "how"), [("secure", {}), ("secure", {"format": "xml"}), ("plain", {"mode": "plain"})])
async def test_wechats_own_customer_service_is_given_the_conversation_where_that_is_set(desk: Desk, keys, mode: str, how):
    settings = {} if mode == "secure" else {"HALL_WECHAT_MESSAGE_AES_KEY": ""}
    async for counter in _open(desk, keys, TRANSFER, **settings):
        said = await counter.say("transfer", "转人工", **how)
        opened = said["opened"]
        assert (said["status"], opened["MsgType"], opened["ToUserName"]) == (200, "transfer_customer_service", person("transfer").openid)
        assert opened["FromUserName"] == "gh_hall_sandbox" and ("Encrypt" in said["answer"]) is (mode == "secure")
        again = await counter.say("transfer", "转人工", msgid=said["msgid"], at=int((await counter.rows())[0]["at"].timestamp()), **how)
        assert again["opened"]["MsgType"] == "transfer_customer_service", "a repetition hears the same"
        assert await counter.queue() == [] and await counter.heard("transfer") == []
        assert (await counter.say("transfer", "身份证丢了", **how))["answer"] == "success" and len(await counter.heard("transfer")) == 1
