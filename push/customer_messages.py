"""Customer messages of the mini-program (用户消息): what people write to it, answered by the assistant or by a person.

    waiting -> sending -> answered   the assistant's words went out
                       -> waiting    WeChat is busy: later, with back-off
                       -> held       WeChat takes no answer, or nobody knows whether it went out: staff sees it
    asked                            the person wants a human, or is talking to one: staff sees it
    transferred                      handed to WeChat's own customer service tool, which answers there

Guarantee: a message is stored, once however often WeChat repeats it, before WeChat hears `success`; from there it is answered at most once
(`sending` is written before the call, and who finds it after a crash does not call again), or stands in the queue of the staff until somebody
has taken care of it. What people write is sealed at rest and kept for half a year.

Source: mini-program documents, "客服消息", customerServiceMessage.send, "转发客服消息".
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import structlog
from prometheus_client import Counter
from pymongo import ASCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import format_utc
from app.kernel.crypto import KeyRing
from app.kernel.errors import Conflict, Forbidden, NotFound, ProviderUnavailable
from app.kernel.ids import random_code
from app.platforms.http import VendorUnknown
from app.platforms.wechat import WeChat, WeChatRefused, answered_code
from app.platforms.wechat_account import send_customer_text
from app.storage.mongo import Database
from push.channel import alarms

log = structlog.get_logger(__name__)

WINDOW = timedelta(hours=48)  # so long after a person wrote WeChat takes answers
KEPT = timedelta(days=180)
LEASE = timedelta(seconds=20)  # longer than a call
QUEUE, TRANSFER = MODES = ("queue", "transfer")
_AT_ONCE = 8
_ROUND = 200
_DELAYS_S = (2, 10, 60, 300, 1800)
_LONGEST_TEXT, _LONGEST_REPLY = 2000, 600
_SHOWN_ITEMS = 3

_NOT_TEXT = "我现在只看得懂文字。请用文字说您要办什么，例如“身份证丢了”；需要人工，请回复“人工”。"
_HANDED_OVER = "好的，已为您转给工作人员，会在这里回复您。着急的事请拨打政务服务热线12345。"


class Then(Enum):
    """What happens to an answer that WeChat does not take."""

    LATER = "tried again with back-off, for 48 hours"
    STAFF = "not sent; staff sees the message"


@dataclass(frozen=True)
class Effect:
    means: str
    then: Then
    is_alarm: bool = False


# errcode -> what follows. Source: customerServiceMessage.send, and the list of global return codes.
EFFECTS: Mapping[str, Effect] = {
    "-1": Effect("WeChat is busy", Then.LATER),
    "40001": Effect("access token wrong; it is replaced once and the call made again first (also 40014, 42001)", Then.LATER),
    "40003": Effect("openid dead or of another app", Then.STAFF),
    "45009": Effect("quota of the day used up", Then.LATER, True),
    "45015": Effect("the person has not written for 48 hours", Then.STAFF),
    "45047": Effect("five answers are out already and the person has not written since", Then.STAFF),
    "48001": Effect("interface not granted to us", Then.STAFF, True),
    "unclear": Effect("no answer: sent or not, nobody knows", Then.STAFF),
    "other": Effect("a code we do not know", Then.STAFF, True),
}

INDEXES = {
    "customer_messages": [
        IndexModel([("next_at", ASCENDING)], name="due", partialFilterExpression={"is_open": True}),
        IndexModel([("taken_at", ASCENDING), ("_id", ASCENDING)], name="queue", partialFilterExpression={"needs_human": True}),
        IndexModel([("openid", ASCENDING)], name="talking", partialFilterExpression={"needs_human": True}),
        IndexModel([("expires_at", ASCENDING)], name="expires", expireAfterSeconds=0),
    ]
}

answers = Counter("hall_customer_messages", "Messages that people wrote to the mini-program", ["outcome"])

Document = dict[str, Any]


class CustomerMessageNotFound(NotFound):
    code = "customer_message.not_found"


class ReplyRefused(Conflict):
    """WeChat does not take the answer; `code` in the detail says why in plain words."""

    code = "customer_message.not_sent"


class NotYours(Forbidden):
    code = "customer_message.not_yours"


@dataclass(frozen=True)
class Written:
    """One message as WeChat pushed it. `at`: CreateTime, epoch seconds."""

    key: str
    openid: str
    kind: str
    text: str
    at: int


class CustomerMessages:
    """
    Args:
        answer: the assistant: a text -> {"reply", "items": [{"code", "name"}], "handover"} (app/catalogue/assistant.py).
        wants_person: says whether a text asks for a human.
        mode: QUEUE, or TRANSFER: whoever wants a human is handed to WeChat's customer service tool.
    """

    def __init__(
        self,
        database: Database,
        keys: KeyRing,
        client: WeChat,
        clock: Callable[[], datetime],
        *,
        answer: Callable[[str], Mapping[str, Any]],
        wants_person: Callable[[str], bool],
        public_url: str,
        mode: str,
    ) -> None:
        self._database = database
        self._messages = database["customer_messages"]
        self._keys = keys
        self._client = client
        self._clock = clock
        self._answer = answer
        self._wants_person = wants_person
        self._public_url = public_url
        self._mode = mode

    # --- what WeChat pushes ---

    async def take(self, written: Written) -> str:
        """Store a message and what is to be said to it; return its state: `transferred` wants WeChat to be told so in the answer."""
        now = self._clock()
        text = written.text[:_LONGEST_TEXT]
        talks = await self._messages.find_one({"openid": written.openid, "needs_human": True}, {"_id": 1}) is not None
        state, reply = self._judged(written.kind, text, talks)
        row: Document = {
            "_id": written.key,
            "openid": written.openid,
            "kind": written.kind[:20],
            "text": self._sealed(written.key, "text", text),
            "at": datetime.fromtimestamp(written.at, UTC) if 0 < written.at < 2**33 else now,
            "taken_at": now,  # finer than WeChat's whole seconds: the order of what one person wrote
            "state": state,
            "reply": self._sealed(written.key, "reply", reply),
            "is_open": bool(reply),
            "next_at": now,
            "tries": 0,
            "needs_human": state == "asked",
            "asked_human": state in ("asked", "transferred"),
            "expires_at": now + KEPT,
        }
        try:
            await self._messages.insert_one(row)
        except DuplicateKeyError:  # WeChat repeats what it heard no answer to
            kept = await self._messages.find_one({"_id": written.key}, {"state": 1})
            return str(kept["state"]) if kept else state
        answers.labels(state).inc()
        return state

    def _judged(self, kind: str, text: str, talks: bool) -> tuple[str, str]:
        """Return the state of a new message and what is to be said to it (empty: nothing)."""
        if talks:  # a human has it already: a machine between them would only be in the way
            return "asked", ""
        if kind == "text" and self._wants_person(text):
            return ("transferred", "") if self._mode == TRANSFER else ("asked", _HANDED_OVER)
        return "waiting", self._words(text) if kind == "text" else _NOT_TEXT

    def _words(self, text: str) -> str:
        found = self._answer(text)
        lines = [str(found["reply"])]
        lines += [f"{item['name']}：{self._public_url}/items/{item['code']}" for item in found["items"][:_SHOWN_ITEMS]]
        return "\n".join(lines)[:_LONGEST_REPLY]

    # --- answering ---

    async def answer_due(self) -> int:
        """Answer what waits; called by the worker, which finds what a web process did not get to. Returns how many were taken up."""
        count = 0

        async def place() -> None:
            nonlocal count
            while count < _ROUND and (row := await self._claim({})) is not None:
                count += 1
                await self._send(row)

        await asyncio.gather(*(place() for _ in range(_AT_ONCE)))
        return count

    async def answer_now(self, key: str) -> None:
        """Answer one message at once, beside the request in which it came."""
        row = await self._claim({"_id": key})
        if row is not None:
            await self._send(row)

    async def _claim(self, which: Mapping[str, Any]) -> Document | None:
        """Take one message under a lease; it is returned as it was before, so `sending` tells of a crash."""
        now, claim = self._clock(), random_code(12)
        found = await self._messages.find_one_and_update(
            {**which, "is_open": True, "next_at": {"$lte": now}},
            {"$set": {"next_at": now + LEASE, "claim": claim}},
            sort=[("next_at", ASCENDING)],
        )
        return None if found is None else found | {"claim": claim}

    async def _send(self, row: Document) -> None:
        if row.get("is_sending"):
            return await self._hold(row, "unclear")
        now = self._clock()
        if now - row["at"] > WINDOW:
            return await self._hold(row, "45015")
        try:
            await self._client.access_token()  # first: while there is none, surely nothing was sent
        except ProviderUnavailable as error:
            return await self._later(row, str(error.context.get("cause") or "token"))
        if not await self._change(row, {"is_sending": True}):
            return None
        try:
            await send_customer_text(self._client, row["openid"], self._opened(row, "reply"))
        except WeChatRefused as error:
            code = f"{error.errcode}"
            effect = EFFECTS.get(code, EFFECTS["other"])
            if effect.is_alarm:
                alarms.labels("customer", code).inc()
                log.error("customer.needs_operator", errcode=code)
            await (self._later if effect.then is Then.LATER else self._hold)(row, code)
        except VendorUnknown as error:
            code = answered_code(error)
            await (self._hold(row, "unclear") if code is None else self._later(row, code))
        except ProviderUnavailable:
            await self._later(row, "unreachable")
        else:
            # Who asked for a human was told that one comes, and waits for that one.
            state = "asked" if row["asked_human"] else "answered"
            await self._change(row, {"state": state, "is_open": False, "is_sending": False, "answered_at": self._clock()})
            answers.labels("sent").inc()
        return None

    async def _later(self, row: Mapping[str, Any], code: str) -> None:
        delay = timedelta(seconds=_DELAYS_S[min(row["tries"], len(_DELAYS_S) - 1)])
        answers.labels("later").inc()
        changes = {"is_sending": False, "tries": row["tries"] + 1, "next_at": self._clock() + delay, "code": code}
        await self._change(row, changes)

    async def _hold(self, row: Mapping[str, Any], code: str) -> None:
        """No answer goes out: staff sees the message. That one has asked for a human is not held up by an answer that was not taken."""
        answers.labels("held").inc()
        state = "asked" if row["asked_human"] else "held"
        await self._change(row, {"state": state, "is_open": False, "is_sending": False, "needs_human": True, "code": code})

    async def _change(self, row: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
        """Change a message that is still ours."""
        mine = {"_id": row["_id"], "claim": row["claim"], "is_open": True}
        return (await self._messages.update_one(mine, {"$set": dict(changes)})).matched_count == 1

    # --- the queue of the staff ---

    async def queue(self, staff: StaffSession, *, is_superior: bool, limit: int, after: str | None) -> tuple[list[Document], str | None]:
        """Return what waits for a human, oldest first, and the cursor of the next page. Audited. Raises NotYours."""
        _require(is_superior)
        query: Document = {"needs_human": True}
        if after:
            last = await self._messages.find_one({"_id": after}, {"taken_at": 1})
            if last is not None:
                query["$or"] = [{"taken_at": {"$gt": last["taken_at"]}}, {"taken_at": last["taken_at"], "_id": {"$gt": after}}]
        rows = await self._messages.find(query).sort([("taken_at", 1), ("_id", 1)]).limit(limit + 1).to_list()
        shown = rows[:limit]
        if shown:
            await record(
                self._database["audit"], actor=staff.account, action="customer_message.list", subject=staff.agency_id, owner_id="",
                subjects=[row["_id"] for row in shown],
            )  # fmt: skip
        return [self._view(row) for row in shown], shown[-1]["_id"] if len(rows) > limit else None

    async def reply(self, staff: StaffSession, key: str, text: str, *, is_superior: bool) -> Document:
        """Answer a person through WeChat; what this person has open up to this message is done by it. Audited.

        Raises:
            NotYours, CustomerMessageNotFound, ReplyRefused (WeChat does not take it: ring the person up, then `close`),
            ProviderUnavailable (nothing was sent: try again).
        """
        row = await self._open(key, is_superior)
        now = self._clock()
        # Two colleagues at once: one of them sends.
        taken = await self._messages.find_one_and_update(
            {"_id": key, "needs_human": True, "$or": [{"replying_until": None}, {"replying_until": {"$lt": now}}]},
            {"$set": {"replying_until": now + LEASE}},
        )
        if taken is None:
            raise ReplyRefused("同事正在回复这条消息，请刷新后查看。", en="A colleague is answering this one.")
        try:
            await send_customer_text(self._client, row["openid"], text)
        except WeChatRefused as error:
            await self._messages.update_one({"_id": key}, {"$set": {"replying_until": None, "code": f"{error.errcode}"}})
            raise _refused(error.errcode) from error
        except VendorUnknown as error:
            if answered_code(error) is not None:
                await self._messages.update_one({"_id": key}, {"$set": {"replying_until": None}})
                raise
            # The lease stays, so that nobody sends it twice in haste.
            raise ReplyRefused("微信没有回应，不确定对方是否收到。请一分钟后再看。", en="WeChat did not answer: it may have been sent.") from error
        except ProviderUnavailable:
            await self._messages.update_one({"_id": key}, {"$set": {"replying_until": None}})
            raise
        return await self._done(staff, row, "customer_message.answered", staff_reply=text, note="")

    async def close(self, staff: StaffSession, key: str, note: str, *, is_superior: bool) -> Document:
        """Note that it was taken care of otherwise. Audited. Raises NotYours, CustomerMessageNotFound."""
        return await self._done(staff, await self._open(key, is_superior), "customer_message.closed", staff_reply="", note=note)

    async def _open(self, key: str, is_superior: bool) -> Document:
        _require(is_superior)
        row = await self._messages.find_one({"_id": key, "needs_human": True})
        if row is None:
            raise CustomerMessageNotFound("没有找到这条咨询，或已经有人处理了。", en="No such message, or somebody has taken care of it.")
        return row

    async def _done(self, staff: StaffSession, row: Document, action: str, *, staff_reply: str, note: str) -> Document:
        done: Document = {
            "needs_human": False, "is_open": False, "handled_by": staff.account, "handled_at": self._clock(), "note": note,
            "replying_until": None, "state": "answered" if staff_reply else "closed",
        }  # fmt: skip

        async def work(session: Any) -> Document:
            own = done | ({"staff_reply": self._sealed(row["_id"], "staff_reply", staff_reply)} if staff_reply else {})
            changed = await self._messages.find_one_and_update(
                {"_id": row["_id"]}, {"$set": own}, return_document=ReturnDocument.AFTER, session=session
            )
            # What the same person has written up to this message is one conversation; what came after it nobody may have seen yet.
            others = {"openid": row["openid"], "needs_human": True, "taken_at": {"$lte": row["taken_at"]}}
            await self._messages.update_many(others, {"$set": done}, session=session)
            await record(self._database["audit"], actor=staff.account, action=action, subject=row["_id"], owner_id="", session=session)
            assert changed is not None
            return changed

        return self._view(await self._database.transaction(work))

    # --- within ---

    def _view(self, row: Mapping[str, Any]) -> Document:
        return {
            "id": row["_id"],
            "at": format_utc(row["at"]),
            "kind": row["kind"],
            "text": self._opened(row, "text"),
            "asked_human": row["asked_human"],
            "reply": self._opened(row, "reply") if row.get("answered_at") else "",
            "code": row.get("code", ""),
            "answerable_until": format_utc(row["at"] + WINDOW),
            "handled_by": row.get("handled_by"),
            "handled_at": format_utc(row.get("handled_at")),
            "staff_reply": self._opened(row, "staff_reply") if row.get("staff_reply") else "",
            "note": row.get("note", ""),
        }

    def _sealed(self, key: str, field: str, text: str) -> str:
        return self._keys.seal(text, context=f"customer.{key}.{field}")

    def _opened(self, row: Mapping[str, Any], field: str) -> str:
        return self._keys.open_sealed(row[field], context=f"customer.{row['_id']}.{field}")


def _require(is_superior: bool) -> None:
    if not is_superior:
        raise NotYours("用户消息由大厅管理单位处理。", en="The agency that runs the hall answers these.")


def _refused(errcode: int) -> ReplyRefused:
    words = {
        45015: ("对方超过48小时没有再说话，微信不让再回复。请改打电话，或等对方再次留言。", "The person has not written for 48 hours: ring up."),
        45047: ("已经回复了五条，对方再说话后才能继续回复。", "Five answers are out: wait until the person writes again."),
        40003: ("微信找不到这位用户了。", "WeChat does not know this person any more."),
    }
    zh, en = words.get(errcode, (f"微信没有接受这条回复（{errcode}）。", f"WeChat refused the answer ({errcode})."))
    return ReplyRefused(zh, en=en, errcode=errcode)
