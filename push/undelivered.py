"""What reached nobody outside the hall, as tasks for the staff of the agency whose notice it is; and what the person reads about it.

A delivery that failed is a task until somebody notes what was done (rung up, written to, met at the window). The message itself was in the
person's inbox from the first moment, and says that nobody could be reached. What belongs to no agency (orders, sign-in) is for the agency
that runs the hall, which sees all.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import format_utc
from app.kernel.errors import Conflict, NotFound
from app.storage.mongo import Database

_CHANNEL_NAMES = {"wechat": "微信", "official": "微信公众号", "alipay": "支付宝", "apns": "手机应用", "app": "手机应用", "email": "邮件", "sms": "短信", "voice": "电话"}
_CHANNEL_NAMES_EN = {"wechat": "WeChat", "official": "WeChat", "alipay": "Alipay", "apns": "the app", "app": "the app", "email": "e-mail", "sms": "text message", "voice": "a call"}
# State as the person sees it -> what it means. The inbox has every message whatever the state is.
_TOLD = {
    "waiting": ("正在通知您。", "On its way."),
    "sent": ("已用{channel}通知您。", "Sent by {channel}."),
    "arrived": ("已用{channel}送达您。", "Delivered by {channel}."),  # sent, and its vendor says so
    "inbox": ("只在这里通知您。", "Told here only."),
    "merged": ("和这件事后来的消息一起通知您。", "Told together with what came later."),
    "unclear": ("已用{channel}发出，没有回音。", "Sent by {channel}; no answer came."),
    "failed": ("{channel}未能送达，请以这里为准，并保持电话畅通：工作人员会联系您。", "{channel} could not reach you. Please keep your phone on: we will contact you."),
    "handled": ("{channel}未能送达，工作人员已经跟进。", "{channel} could not reach you; a member of staff has taken care of it."),
}  # fmt: skip


# Outcome of a try -> what staff read.
OUTCOMES = {
    "sent": "已发出",
    "refused": "对方拒收",
    "try_later": "没有成功，稍后再试",
    "unclear": "发出后没有回音",
    "undelivered": "回执说没有收到",
    "broken": "出错",
}
_SECRET = re.compile("查询码|query code", re.IGNORECASE)  # opens the case without sign-in: the person's alone
AT_MOST = 99  # the count stops there: "99+"


class UndeliveredNotFound(NotFound):
    code = "undelivered.not_found"


class UndeliveredHandled(Conflict):
    code = "undelivered.handled"


class Undelivered:
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._deliveries = database["deliveries"]
        self._clock = clock

    async def count(self, staff: StaffSession, *, is_superior: bool) -> int:
        """Return how many tasks wait, up to AT_MOST + 1."""
        query = self._seen_by(staff, is_superior) | {"is_undelivered": True}
        return await self._deliveries.count_documents(query, limit=AT_MOST + 1)

    async def page(
        self, staff: StaffSession, *, is_superior: bool, limit: int, cursor: str | None, is_open: bool = True
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return tasks, oldest first, and the cursor of the next page. Audited.

        Args:
            is_superior: of the agency that runs the hall, which sees what is anybody's.
            cursor: the id of the last one seen.
            is_open: or those that somebody has taken care of, newest first.
        """
        query = self._seen_by(staff, is_superior) | {"is_undelivered": is_open}
        if cursor:
            query["_id"] = {"$gt" if is_open else "$lt": cursor}
        found = await self._deliveries.find(query).sort("_id", 1 if is_open else -1).limit(limit + 1).to_list()
        rows = found[:limit]
        if rows:
            await record(
                self._database["audit"], actor=staff.account, action="undelivered.list", subject=staff.agency_id, owner_id="",
                subjects=[row["_id"] for row in rows],
            )  # fmt: skip
        titles = await self._titles(rows)
        return [_view(row, titles.get(row["message_id"], "")) for row in rows], rows[-1]["_id"] if len(found) > limit else None

    async def one(self, delivery_id: str, staff: StaffSession, *, is_superior: bool) -> dict[str, Any]:
        """Return a task, or one that is done, with what the person was to be told (`body`) and whose it is (`owner_id`). Audited.

        The text is for the agency whose notice it is, and for the one that runs the hall when it is nobody's.

        Raises:
            UndeliveredNotFound: none, or another agency's.
        """
        row = await self._deliveries.find_one(self._seen_by(staff, is_superior) | {"_id": delivery_id, "state": "failed"})
        if row is None:
            raise UndeliveredNotFound("没有找到这条没送达的通知。", en="No such undelivered notice.")
        await record(
            self._database["audit"], actor=staff.account, action="undelivered.read", subject=delivery_id, owner_id=row["owner_id"]
        )
        message = await self._database["messages"].find_one({"_id": row["message_id"]}, {"title": 1, "body": 1}) or {}
        is_theirs = row.get("agency_id", "") in ("", staff.agency_id)
        body = "\n".join(line for line in message.get("body", "").split("\n") if not _SECRET.search(line)) if is_theirs else ""
        return {**_view(row, message.get("title", "")), "body": body, "owner_id": row["owner_id"]}

    async def handle(self, delivery_id: str, staff: StaffSession, note: str, *, is_superior: bool) -> dict[str, Any]:
        """Note what was done about one, and close the task. Audited, in one transaction.

        Raises:
            UndeliveredNotFound: none, or another agency's. UndeliveredHandled: somebody was faster.
        """
        mine = self._seen_by(staff, is_superior) | {"_id": delivery_id, "state": "failed"}
        row = await self._deliveries.find_one(mine)
        if row is None:
            raise UndeliveredNotFound("没有找到这条没送达的通知。", en="No such undelivered notice.")

        async def work(session: Any) -> bool:
            done = {"is_undelivered": False, "handled_at": self._clock(), "handled_by": staff.account, "note": note}
            changed = await self._deliveries.update_one(mine | {"is_undelivered": True}, {"$set": done}, session=session)
            if changed.modified_count:
                await record(
                    self._database["audit"], actor=staff.account, action="undelivered.handled", subject=delivery_id,
                    owner_id=row["owner_id"], session=session,
                )  # fmt: skip
            return bool(changed.modified_count)

        if not await self._database.transaction(work):
            raise UndeliveredHandled("这条通知已经有人跟进了，请刷新后查看。", en="Somebody has taken care of it already.")
        message = await self._database["messages"].find_one({"_id": row["message_id"]}, {"title": 1})
        handled = await self._deliveries.find_one({"_id": delivery_id})
        assert handled is not None
        return _view(handled, message["title"] if message else "")

    async def of_subject(self, subject_id: str) -> list[dict[str, Any]]:
        """Return what was told about one case or order, oldest first, at most 200: no addresses, no texts."""
        rows = await self._deliveries.find({"subject.id": subject_id}).sort("_id", 1).limit(200).to_list()
        titles = await self._titles(rows)
        return [
            {
                "id": row["_id"],
                "event": row["event"],
                "title": titles.get(row["message_id"], ""),
                "state": row["state"],
                "channel": row.get("channel"),
                "at": format_utc(row["at"]),
                "sent_at": format_utc(row.get("sent_at")),
                "fate": row.get("fate"),
                "attempts": _attempts(row),
                "handled_by": row.get("handled_by"),
                "note": row.get("note", ""),
            }
            for row in rows
        ]

    async def told(self, owner_id: str, messages: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return, by message id, how the person was told outside the hall: `{state, told_by, has_arrived, text, en}`."""
        query = {"event_id": {"$in": [message["event_id"] for message in messages]}, "owner_id": owner_id}
        wanted = {"message_id": 1, "state": 1, "channel": 1, "attempts": 1, "handled_at": 1, "fate": 1}
        return {row["message_id"]: _told(row) async for row in self._deliveries.find(query, wanted)}

    async def _titles(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        wanted = {"_id": {"$in": [row["message_id"] for row in rows]}}
        return {message["_id"]: message["title"] async for message in self._database["messages"].find(wanted, {"title": 1})}

    @staticmethod
    def _seen_by(staff: StaffSession, is_superior: bool) -> dict[str, Any]:
        # Any id: without a word on `_id` the database would not look at the index of the tasks alone.
        return {"_id": {"$gt": ""}} if is_superior else {"agency_id": staff.agency_id}


def channel_name(channel: str | None) -> str:
    """Return a channel in the words of the pages."""
    return _CHANNEL_NAMES.get(channel or "", channel or "")


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    state = {"sending": "waiting"}.get(row["state"], row["state"])
    if row.get("handled_at"):
        state = "handled"
    tried = [attempt["channel"] for attempt in row["attempts"] if attempt["channel"] in _CHANNEL_NAMES]
    channel = tried[-1] if tried else row.get("channel", "")
    has_arrived = state == "sent" and str(row.get("fate") or "").partition(":")[0].strip() == "success"
    zh, en = _TOLD["arrived" if has_arrived else state]
    return {
        "state": state,
        "told_by": channel if state in ("sent", "unclear") else None,
        "has_arrived": has_arrived,
        "text": zh.format(channel=_CHANNEL_NAMES.get(channel, "通知")),
        "en": en.format(channel=_CHANNEL_NAMES_EN.get(channel, "A notice")),
    }


def _view(row: Mapping[str, Any], title: str) -> dict[str, Any]:
    subject = row["subject"]
    return {
        "id": row["_id"],
        "event": row["event"],
        "title": title,
        "subject": subject,
        "case_id": subject["id"] if subject["kind"] == "case" else None,
        "agency_id": row.get("agency_id", ""),
        "at": format_utc(row["at"]),
        "failed_at": format_utc(row["failed_at"]),
        "attempts": _attempts(row),
        "handled_at": format_utc(row.get("handled_at")),
        "handled_by": row.get("handled_by"),
        "note": row.get("note", ""),
    }


def _attempts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"channel": one["channel"], "outcome": one["outcome"], "code": one.get("code", ""), "at": format_utc(one["at"])}
        for one in row["attempts"]
    ]
