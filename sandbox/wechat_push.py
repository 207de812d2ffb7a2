"""Message push: what WeChat's servers send to the mini-program's own server (reference: platforms, 2.2 and 2.3).

`POST /_sim/wechat/push` lets a test play WeChat: a resident accepts or rejects a subscribe message, a message was
delivered or blocked. Secure mode by default, plain and a broken signature on request.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from base64 import b64decode
from typing import Any
from urllib.parse import urlencode

import aiohttp

from sandbox.base import StandIn, compact
from sandbox.control import Control
from sandbox.credentials import Credentials
from sandbox.signing import cbc_seal

_ANSWER_WITHIN_S = 5
PATH = "/callbacks/wechat/messages"  # where the hall listens, see api.md


def signature(*parts: str) -> str:
    """SHA-1 hex of the texts sorted and joined: `signature` (three of them) and `msg_signature` (with Encrypt)."""
    return hashlib.sha1("".join(sorted(parts)).encode()).hexdigest()  # noqa: S324 - the platform's own choice


def encrypt(credentials: Credentials, message: bytes) -> str:
    """Seal one message: 16 random bytes, length (4 bytes, big-endian), message, appid; AES-256-CBC, 32-byte blocks."""
    key = b64decode(credentials.wechat_message_aes_key + "=")
    plain = secrets.token_bytes(16) + struct.pack(">I", len(message)) + message + credentials.wechat_app_id.encode()
    return cbc_seal(key, key[:16], plain, block_bits=256)


def query_for(credentials: Credentials, now: float, encrypted: str | None = None) -> dict[str, str]:
    timestamp, nonce = str(int(now)), str(secrets.randbelow(10**10))
    token = credentials.wechat_message_token
    query = {"signature": signature(token, timestamp, nonce), "timestamp": timestamp, "nonce": nonce}
    if encrypted is not None:
        query |= {"encrypt_type": "aes", "msg_signature": signature(token, timestamp, nonce, encrypted)}
    return query


class Push(Control):
    """POST /_sim/wechat/push {name, event, list?, mode?, forged?} -> {status, answer} of the hall.

    `event`: subscribe_msg_popup_event, subscribe_msg_change_event, subscribe_msg_sent_event or any other name. `list`:
    rows like {"TemplateId", "SubscribeStatusString", "PopupScene"}; a single row goes out as an object, several as an
    array, as the original does. `mode`: secure (default) or plain. `message`: the whole message instead.
    """

    async def post(self) -> None:
        body = self.body()
        message = body.get("message") or self._message(body)
        if message is None:
            return
        raw = compact(message)
        if body.get("mode", "secure") == "plain":
            query = query_for(self.credentials, self.now())
        else:
            sealed = encrypt(self.credentials, raw)
            query = query_for(self.credentials, self.now(), sealed) | {"openid": str(message.get("FromUserName", ""))}
            raw = compact({"ToUserName": message.get("ToUserName", ""), "Encrypt": sealed})
        if body.get("forged"):
            query |= {name: "0" * 40 for name in ("signature", "msg_signature") if name in query}
        await self._deliver("POST", query, raw)

    def _message(self, body: dict[str, Any]) -> dict[str, Any] | None:
        who = self.person_in(body)
        if who is None:
            return None
        event, rows = str(body.get("event", "subscribe_msg_popup_event")), body.get("list") or []
        return {
            "ToUserName": "gh_hall_sandbox",
            "FromUserName": who.openid,
            "CreateTime": int(self.now()),
            "MsgType": "event",
            "Event": event,
            "List": rows[0] if len(rows) == 1 else rows,
        }

    async def _deliver(self, method: str, query: dict[str, str], raw: bytes | None) -> None:
        url = f"{self.sandbox.hall_url.rstrip('/')}{PATH}?{urlencode(query)}"
        timeout = aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)
        headers = {"Content-Type": "application/json"} if raw else {}
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.request(method, url, data=raw, headers=headers, timeout=timeout, allow_redirects=False) as answer,
            ):
                self.send({"status": answer.status, "answer": (await answer.text(errors="replace"))[:1000]})
        except (aiohttp.ClientError, TimeoutError) as error:
            self.refuse(502, "hall_does_not_answer", f"{type(error).__name__}: {PATH}")


class Verify(Push):
    """POST /_sim/wechat/verify-server: the GET with which the console checks a server; the hall returns echostr."""

    async def post(self) -> None:
        query = query_for(self.credentials, self.now()) | {"echostr": str(secrets.randbelow(10**19))}
        if self.body().get("forged"):
            query["signature"] = "0" * 40
        await self._deliver("GET", query, None)


routes: list[tuple[str, type[StandIn]]] = [(r"/_sim/wechat/push", Push), (r"/_sim/wechat/verify-server", Verify)]
