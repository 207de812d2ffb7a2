"""The message push of WeChat, pure: signatures, decryption, reading. No clock, no storage.

Source: WeChat open documentation, "消息推送" (signature: SHA-1 over the sorted strings; body: AES-256-CBC, IV = first half of the key,
PKCS#7 with blocks of 32 bytes, plaintext = 16 random bytes + length (big-endian, bytes) + message + app id).
"""

import base64
import hashlib
import hmac
import os
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import orjson
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_BLOCK = 32
_MOST_DEEP = 16  # WeChat's XML is four deep


class CallbackRejected(Exception):
    """Not from WeChat, or not for us. The text is for the log only; the sender learns nothing from it."""


@dataclass(frozen=True)
class Choice:
    """What a person chose for one template: `accept`, `reject`."""

    template_id: str
    status: str


@dataclass(frozen=True)
class Sent:
    """What became of one message we sent."""

    template_id: str
    message_id: str
    status: str


@dataclass(frozen=True)
class Message:
    """What a person wrote. `kind`: text, image, ...; `to`: the original id of the mini-program; `at`: epoch seconds."""

    kind: str
    text: str
    to: str
    at: int


@dataclass(frozen=True)
class Push:
    """One pushed event. `key` is the same for every repetition of it."""

    key: str
    event: str
    openid: str
    choices: tuple[Choice, ...] = ()
    sent: tuple[Sent, ...] = ()
    message: Message | None = None


@dataclass(frozen=True)
class AccountEvent:
    """One event of an official account. `at`: CreateTime in epoch seconds; `message_id`, `status`: of TEMPLATESENDJOBFINISH."""

    name: str
    openid: str
    at: int
    message_id: str = ""
    status: str = ""


def signature(*parts: str) -> str:
    return hashlib.sha1("".join(sorted(parts)).encode()).hexdigest()  # noqa: S324 (prescribed by WeChat)


def check_signature(given: str, *parts: str) -> None:
    """Compare in constant time. Raises CallbackRejected."""
    if not hmac.compare_digest(given.encode(), signature(*parts).encode()):
        raise CallbackRejected("signature")


class MessageCipher:
    """Secure mode of one mini-program. `aes_key`: the 43 characters of EncodingAESKey."""

    def __init__(self, aes_key: str, app_id: str) -> None:
        self._key = base64.b64decode(aes_key + "=")
        if len(self._key) != 32:
            raise ValueError("EncodingAESKey must be 43 characters of base64")
        self._app_id = app_id.encode()

    def open(self, encrypted: str) -> bytes:
        """Decrypt one message. Raises CallbackRejected: one error for every fault, so nobody learns from the difference."""
        try:
            data = base64.b64decode(encrypted, validate=True)
            decryptor = Cipher(algorithms.AES(self._key), modes.CBC(self._key[:16])).decryptor()
            padded = decryptor.update(data) + decryptor.finalize()
        except ValueError:
            raise CallbackRejected("cipher") from None
        pad = padded[-1] if padded else 0
        if not 1 <= pad <= _BLOCK or len(padded) < pad + 20 or padded[-pad:] != bytes([pad]) * pad:
            raise CallbackRejected("cipher")
        plain = padded[:-pad]
        length = int.from_bytes(plain[16:20])
        message, app_id = plain[20 : 20 + length], plain[20 + length :]
        if len(message) != length or not hmac.compare_digest(app_id, self._app_id):
            raise CallbackRejected("cipher")
        return message

    def seal(self, message: bytes, *, random: bytes | None = None) -> str:
        """Encrypt one message as WeChat does (for answers, and for tests)."""
        plain = (random or os.urandom(16)) + len(message).to_bytes(4) + message + self._app_id
        pad = _BLOCK - len(plain) % _BLOCK
        encryptor = Cipher(algorithms.AES(self._key), modes.CBC(self._key[:16])).encryptor()
        return base64.b64encode(encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize()).decode()


def parse(body: bytes) -> dict[str, Any]:
    """Read a JSON or XML body into a dict. Raises CallbackRejected, also for XML with a document type (entities).

    Whoever knows the address can send one: in secure mode it must be read before there is a signature to check.
    """
    if body.lstrip().startswith(b"<"):
        # A byte of zeros is UTF-16, which the parser would read as well, and in which the words below look otherwise.
        if b"<!DOCTYPE" in body.upper() or b"<!ENTITY" in body.upper() or b"\0" in body:
            raise CallbackRejected("document type in XML")
        try:
            return dict(_members(ElementTree.fromstring(body)))  # noqa: S314 (entities are refused above)
        except (ElementTree.ParseError, ValueError) as error:
            raise CallbackRejected("not XML") from error
    try:
        data = orjson.loads(body)
        orjson.dumps(data)  # reads what is nested deeper than it writes, and what is told apart is written (read)
    except orjson.JSONDecodeError as error:
        raise CallbackRejected("not JSON") from error
    except orjson.JSONEncodeError as error:
        raise CallbackRejected("nested too deep") from error
    if not isinstance(data, dict):
        raise CallbackRejected("not an object")
    return data


def read(data: dict[str, Any]) -> Push:
    """Read a decrypted push. Unknown events are read too: they are answered and left alone."""
    event, openid = str(data.get("Event", "")), str(data.get("FromUserName", ""))
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, holder in (
        ("subscribe_msg_popup_event", "SubscribeMsgPopupEvent"),
        ("subscribe_msg_change_event", "SubscribeMsgChangeEvent"),
        ("subscribe_msg_sent_event", "SubscribeMsgSentEvent"),
    ):
        if event == name:
            rows[name] = _list(data.get(holder), data.get("List"))
    picked = rows.get("subscribe_msg_popup_event", []) + rows.get("subscribe_msg_change_event", [])
    parts = [str(data.get("MsgId") or ""), openid, str(data.get("CreateTime", "")), event or str(data.get("MsgType", ""))]
    # Two events of one person in one second differ in their rows only.
    digest = hashlib.sha256(orjson.dumps([parts, data.get("List"), [data.get(h) for h in sorted(data) if h.startswith("Sub")]]))
    return Push(
        key=digest.hexdigest(),
        event=event,
        openid=openid,
        choices=tuple(
            Choice(str(row.get("TemplateId", "")), str(row.get("SubscribeStatusString", ""))) for row in picked
        ),
        sent=tuple(
            Sent(str(row.get("TemplateId", "")), str(row.get("MsgID", "")), str(row.get("ErrorStatus", "")))
            for row in rows.get("subscribe_msg_sent_event", [])
        ),
        message=_message(data),
    )


def _message(data: dict[str, Any]) -> Message | None:
    """Return what a person wrote; None for an event. The picture of an image is not fetched, so its address is not read."""
    kind = str(data.get("MsgType", ""))
    if kind in ("", "event") or not data.get("MsgId") or not data.get("FromUserName"):
        return None
    return Message(kind, str(data.get("Content") or ""), str(data.get("ToUserName", "")), _epoch(data))


def _epoch(data: dict[str, Any]) -> int:
    at = str(data.get("CreateTime", ""))
    return int(at) if at.isascii() and at.isdigit() and len(at) < 16 else 0


def read_account_event(data: dict[str, Any]) -> AccountEvent:
    """Read an event of an official account; a message that a person wrote to it has no name and is answered only."""
    return AccountEvent(
        name=str(data.get("Event", "")),
        openid=str(data.get("FromUserName", "")),
        at=_epoch(data),
        # The document writes MsgID, servers have sent MsgId.
        message_id=str(data.get("MsgID") or data.get("MsgId") or ""),
        status=str(data.get("Status", "")),
    )


def as_xml(message: dict[str, str | int]) -> bytes:
    """Return a message in WeChat's XML. A text that holds the end of a CDATA section is cut into two."""
    rows = [
        f"<{name}>{value}</{name}>"
        if isinstance(value, int)
        else f"<{name}><![CDATA[{value.replace(']]>', ']]]]><![CDATA[>')}]]></{name}>"
        for name, value in message.items()
    ]
    return f"<xml>{''.join(rows)}</xml>".encode()


def _list(holder: Any, bare: Any) -> list[dict[str, Any]]:
    """Return the rows, which come as `{List: row}`, `{List: [row, ...]}`, or as a `List` of the body itself (JSON)."""
    found = holder.get("List", holder) if isinstance(holder, dict) else holder
    found = bare if found is None else found
    rows = found if isinstance(found, list) else [found]
    return [row for row in rows if isinstance(row, dict)]


def _members(node: ElementTree.Element, deep: int = 0) -> list[tuple[str, Any]]:
    """Return the children of an XML element as pairs; a name that repeats becomes a list. Raises ValueError: nested too deep."""
    if deep > _MOST_DEEP:
        raise ValueError("nested too deep")
    found: dict[str, Any] = {}
    for child in node:
        value: Any = dict(_members(child, deep + 1)) if len(child) else (child.text or "")
        if child.tag not in found:
            found[child.tag] = value
        elif isinstance(found[child.tag], list):
            found[child.tag].append(value)
        else:
            found[child.tag] = [found[child.tag], value]
    return list(found.items())
