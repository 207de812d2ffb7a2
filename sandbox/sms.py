"""The city's gateway for text messages and calls: POST /sms/messages, POST /voice/calls. The same request_id is one message, one call.

What became of each is reported to the hall: see reports.py.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from sandbox.base import StandIn, rfc3339_utc
from sandbox.mishaps import is_code

_MOBILE = re.compile(r"1[3-9]\d{9}")
_CODE = re.compile(r"(?<!\d)\d{6}(?!\d)")
_LONGEST_TEXT = 500  # seven parts of 70 characters, or two minutes of speech; a longer one is a mistake of the sender


class _Taken(StandIn):
    """POST {request_id, phone, template, params, text} -> {message_id}."""

    provider = channel = ""

    async def post(self) -> None:
        body = self.json_object()
        if body is None:
            return self.refuse(400, "malformed", "请求体不是JSON对象")
        # Whoever knows an id refuses no repetition of what it has taken.
        if is_code(self.fault) and not self.store.was_sent(f"{self.channel}/{body.get('request_id')}"):
            return self.refuse(int(self.fault), "scripted", "按脚本拒绝")
        problem = _find_problem(body) or self.problem_of(body)
        if problem:
            return self.refuse(422, "invalid_" + problem, f"{problem} 不正确", field=problem)
        now = self.now()
        record: dict[str, Any] = {"at": rfc3339_utc(now), "channel": self.channel, "to": body["phone"], "phone": body["phone"]}
        record |= {"template": body["template"], "params": body.get("params", {}), "text": body["text"]}
        record |= {"content": body["text"], "request_id": body["request_id"]} | self.more(body)
        dedupe = f"{self.channel}/{body['request_id']}"
        kept = self.store.record_sent(record, channel=self.channel, to=body["phone"], at=now, dedupe=dedupe)
        if (kept["phone"], kept["text"]) != (body["phone"], body["text"]):
            return self.refuse(409, "request_id_used", "request_id 已用于另一条")
        # Of the request id, so it is the same for a repetition and no other stand-in ever gives it for another message.
        message_id = self.channel + hashlib.sha256(body["request_id"].encode()).hexdigest()[:20]
        if self.sandbox.reporter is not None:
            await self.sandbox.reporter.message_taken(self.channel, body["phone"], body["request_id"], message_id)
        return self.send({"message_id": message_id})

    def problem_of(self, body: dict[str, Any]) -> str | None:
        return None

    def more(self, body: dict[str, Any]) -> dict[str, Any]:
        return {}


class Messages(_Taken):
    provider = channel = "sms"

    def more(self, body: dict[str, Any]) -> dict[str, Any]:
        code = _CODE.search(body["text"])
        return {"code": code[0]} if code else {}


class Calls(_Taken):
    """A call: `text` is read out. `language` is zh-CN or en."""

    provider = channel = "voice"

    def problem_of(self, body: dict[str, Any]) -> str | None:
        return None if body.get("language") in ("zh-CN", "en") else "language"

    def more(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"language": body["language"]}


def _find_problem(body: dict[str, Any]) -> str | None:
    request_id, text = body.get("request_id"), body.get("text")
    if not isinstance(request_id, str) or not 1 <= len(request_id) <= 64:
        return "request_id"
    if not isinstance(body.get("phone"), str) or not _MOBILE.fullmatch(body["phone"]):
        return "phone"
    if not isinstance(body.get("template"), str) or not body["template"]:
        return "template"
    if not isinstance(body.get("params", {}), dict):
        return "params"
    if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST_TEXT:
        return "text"
    return None


routes = [(r"/sms/messages", Messages), (r"/voice/calls", Calls)]
