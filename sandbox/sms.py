"""The SMS gateway: POST /sms/messages. The same request_id is one message, however often it is asked for."""

from __future__ import annotations

import re
from typing import Any

from sandbox.base import StandIn, rfc3339_utc

_MOBILE = re.compile(r"1[3-9]\d{9}")
_CODE = re.compile(r"(?<!\d)\d{6}(?!\d)")
_LONGEST_TEXT = 500  # seven parts of 70 characters; a longer one is a mistake of the sender


class Messages(StandIn):
    """POST {request_id, phone, template, params, text} -> {message_id}."""

    provider = "sms"

    def post(self) -> None:
        body = self.json_object()
        if body is None:
            return self.refuse(400, "malformed", "请求体不是JSON对象")
        problem = _find_problem(body)
        if problem:
            return self.refuse(422, "invalid_" + problem, f"{problem} 不正确", field=problem)
        now = self.now()
        record: dict[str, Any] = {"at": rfc3339_utc(now), "channel": "sms", "to": body["phone"], "phone": body["phone"]}
        record |= {"template": body["template"], "params": body.get("params", {}), "text": body["text"]}
        record |= {"content": body["text"], "request_id": body["request_id"]}
        code = _CODE.search(body["text"])
        if code:
            record["code"] = code[0]
        dedupe = f"sms/{body['request_id']}"
        kept = self.store.record_sent(record, channel="sms", to=body["phone"], at=now, dedupe=dedupe)
        if (kept["phone"], kept["text"]) != (body["phone"], body["text"]):
            return self.refuse(409, "request_id_used", "request_id 已用于另一条短信")
        return self.send({"message_id": f"sms{kept['id']}"})


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


routes = [(r"/sms/messages", Messages)]
