"""Message push: what WeChat's servers send to the mini-program's own server (reference: platforms, 2.2 and 2.3).

`POST /_sim/wechat/push` lets a test play WeChat: a resident accepts or rejects a subscribe message, a message was
delivered or blocked. Secure mode by default, plain and a broken signature on request.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from base64 import b64decode
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp

from sandbox.base import StandIn, compact
from sandbox.control import Control
from sandbox.credentials import Credentials
from sandbox.signing import cbc_open, cbc_seal

_ANSWER_WITHIN_S = 5
PATH, OFFICIAL_PATH = "/callbacks/wechat/messages", "/callbacks/wechat/official"


def signature(*parts: str) -> str:
    """SHA-1 hex of the texts sorted and joined: `signature` (three of them) and `msg_signature` (with Encrypt)."""
    return hashlib.sha1("".join(sorted(parts)).encode()).hexdigest()  # noqa: S324 - the platform's own choice


@dataclass(frozen=True)
class Side:
    """One account as its server knows it: where the hall listens (api.md), and the secrets between the two."""

    path: str
    app_id: str
    token: str
    aes_key: str


def mini_program(credentials: Credentials) -> Side:
    return Side(PATH, credentials.wechat_app_id, credentials.wechat_message_token, credentials.wechat_message_aes_key)


def official(credentials: Credentials) -> Side:
    return Side(
        OFFICIAL_PATH, credentials.official_app_id, credentials.official_message_token, credentials.official_message_aes_key
    )


def encrypt(side: Side, message: bytes) -> str:
    """Seal one message: 16 random bytes, length (4 bytes, big-endian), message, appid; AES-256-CBC, 32-byte blocks."""
    key = b64decode(side.aes_key + "=")
    plain = secrets.token_bytes(16) + struct.pack(">I", len(message)) + message + side.app_id.encode()
    return cbc_seal(key, key[:16], plain, block_bits=256)


def decrypt(side: Side, sealed: str) -> bytes:
    """Open what the hall sealed for this account. Raises ValueError when it is for another one."""
    key = b64decode(side.aes_key + "=")
    plain = cbc_open(key, key[:16], b64decode(sealed), block_bits=256)
    length = struct.unpack(">I", plain[16:20])[0]
    if plain[20 + length :].decode() != side.app_id:
        raise ValueError("another app id")
    return plain[20 : 20 + length]


def query_for(side: Side, now: float, encrypted: str | None = None) -> dict[str, str]:
    timestamp, nonce = str(int(now)), str(secrets.randbelow(10**10))
    token = side.token
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
        await self.push(mini_program(self.credentials), message, body)

    async def push(self, side: Side, message: dict[str, Any], how: dict[str, Any]) -> None:
        """Send a message to the hall. `how`: `mode` secure (default) or plain, `format` json or xml, `forged`."""
        is_xml = how.get("format", "json") == "xml"
        raw = as_xml(message) if is_xml else compact(message)
        if how.get("mode", "secure") == "plain":
            query = query_for(side, self.now())
        else:
            sealed = encrypt(side, raw)
            query = query_for(side, self.now(), sealed) | {"openid": str(message.get("FromUserName", ""))}
            wrapped = {"ToUserName": message.get("ToUserName", ""), "Encrypt": sealed}
            raw = as_xml(wrapped) if is_xml else compact(wrapped)
        if how.get("forged"):
            query |= {name: "0" * 40 for name in ("signature", "msg_signature") if name in query}
        await self._deliver("POST", side, query, raw)

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

    async def _deliver(self, method: str, side: Side, query: dict[str, str], raw: bytes | None) -> None:
        url = f"{self.sandbox.hall_url.rstrip('/')}{side.path}?{urlencode(query)}"
        timeout = aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)
        headers = {"Content-Type": "application/json"} if raw else {}
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.request(method, url, data=raw, headers=headers, timeout=timeout, allow_redirects=False) as answer,
            ):
                self.send({"status": answer.status, "answer": (await answer.text(errors="replace"))[:1000]})
        except (aiohttp.ClientError, TimeoutError) as error:
            self.refuse(502, "hall_does_not_answer", f"{type(error).__name__}: {side.path}")


class Verify(Push):
    """POST /_sim/wechat/verify-server: the GET with which the console checks a server; the hall returns echostr."""

    async def post(self) -> None:
        side = official(self.credentials) if self.body().get("account") == "official" else mini_program(self.credentials)
        query = query_for(side, self.now()) | {"echostr": str(secrets.randbelow(10**19))}
        if self.body().get("forged"):
            query["signature"] = "0" * 40
        await self._deliver("GET", side, query, None)


def as_xml(message: dict[str, Any]) -> bytes:
    """Write a message as official accounts get it: numbers bare, texts in CDATA."""
    rows = [f"<{name}>{value if isinstance(value, int) else f'<![CDATA[{value}]]>'}</{name}>" for name, value in message.items()]
    return f"<xml>{''.join(rows)}</xml>".encode()


routes: list[tuple[str, type[StandIn]]] = [(r"/_sim/wechat/push", Push), (r"/_sim/wechat/verify-server", Verify)]
