"""Customer messages of the mini-program: what people write to it, and the answers that WeChat takes for 48 hours, five at most.

| call | does |
| --- | --- |
| `POST /_sim/wechat/say {name, text, kind?, msgid?, mode?, format?, forged?}` | a person writes; answers what the hall said, opened when it was sealed |
"""

from __future__ import annotations

import json
import secrets
from typing import Any
from xml.etree import ElementTree

from sandbox import wechat
from sandbox.base import StandIn, rfc3339_utc
from sandbox.wechat import WechatHandler
from sandbox.wechat_push import Push, decrypt, mini_program, signature

_WINDOW_S = 48 * 3600
_ANSWERS = 5
_LONGEST = 2048


class CustomSend(WechatHandler):
    """POST /cgi-bin/message/custom/send {touser, msgtype: text, text: {content}}."""

    def post(self) -> None:
        if not self.has_token():
            return
        body = self.json_object()
        if body is None:
            return self.fail(47001, "data format error")
        openid = body.get("touser")
        name = self.store.get("openid", openid) if isinstance(openid, str) else None
        if name is None:
            return self.fail(40003, "invalid openid")
        content = body["text"].get("content") if body.get("msgtype") == "text" and isinstance(body.get("text"), dict) else None
        if not isinstance(content, str) or not 1 <= len(content.encode()) <= _LONGEST:
            return self.fail(44004, "empty content" if not content else "content size out of limit")
        now, window = self.now(), self.store.get("wechat_window", openid)
        if window is None or now - window["at"] > _WINDOW_S:
            return self.fail(45015, "response out of time limit or subscription is canceled")
        if window["left"] <= 0:
            return self.fail(45047, "out of response count limit")
        self.store.put("wechat_window", openid, window | {"left": window["left"] - 1})
        record = {"at": rfc3339_utc(now), "channel": "wechat_customer", "to": openid, "openid": openid, "name": name, "content": content}
        self.store.record_sent(record, channel="wechat_customer", to=openid, at=now)
        return self.answer({"errcode": 0, "errmsg": "ok"})


class Say(Push):
    """POST /_sim/wechat/say."""

    async def post(self) -> None:
        body = self.body()
        who = self.person_in(body)
        if who is None:
            return
        wechat.register(self.sandbox, who)
        kind = str(body.get("kind", "text"))
        if not body.get("msgid"):  # a new one, so answers may follow; WeChat's repetition is no new one
            self.store.put("wechat_window", who.openid, {"at": self.now(), "left": _ANSWERS})
        message: dict[str, Any] = {"ToUserName": "gh_hall_sandbox", "FromUserName": who.openid, "CreateTime": int(body.get("at") or self.now())}
        message |= {"MsgType": kind, "MsgId": int(body.get("msgid") or secrets.randbelow(2**62))}
        message |= {"Content": str(body.get("text", ""))} if kind == "text" else {"PicUrl": "https://example.com/x.jpg", "MediaId": "m1"}
        self._msgid = message["MsgId"]
        await self.push(mini_program(self.credentials), message, body)

    def send(self, value: Any, **more: Any) -> None:
        if isinstance(value, dict) and "answer" in value:
            value = value | {"msgid": str(self._msgid), "opened": self._opened(value["answer"])}
        super().send(value, **more)

    def _opened(self, answer: str) -> dict[str, Any] | None:
        """Read what the hall answered, as WeChat does: None for `success`; a sealed one must be signed rightly and for this app."""
        if answer in ("", "success"):
            return None
        side, found = mini_program(self.credentials), _read(answer)
        if "Encrypt" in found:
            right = signature(side.token, str(found["TimeStamp"]), str(found["Nonce"]), str(found["Encrypt"]))
            if found["MsgSignature"] != right:
                return {"problem": "signature"}
            found = _read(decrypt(side, str(found["Encrypt"])).decode())
        return found


def _read(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("<"):
        return {child.tag: child.text or "" for child in ElementTree.fromstring(text)}  # noqa: S314 (the hall's own answer)
    try:
        value = json.loads(text)
    except ValueError:
        return {"problem": text[:100]}
    return value if isinstance(value, dict) else {"problem": text[:100]}


routes: list[tuple[str, type[StandIn]]] = [(r"/cgi-bin/message/custom/send", CustomSend), (r"/_sim/wechat/say", Say)]
