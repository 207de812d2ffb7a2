"""The reports of the city's gateway on text messages and calls, pure: signature, reading. No clock, no storage.

    POST {hall}/callbacks/sms, /callbacks/voice
    X-Gateway-Timestamp: seconds since 1970      X-Gateway-Nonce: 16 to 64 letters and digits, new for every request
    X-Gateway-Signature: hex of HMAC-SHA256(key, timestamp + "\\n" + nonce + "\\n" + body)
    {"reports": [{"request_id", "message_id", "status", "at"}, ...]}     at most 500

The gateway repeats a request, newly signed, until it is answered 200; a report may come twice, late, out of order, or before the gateway's
answer to the send. Words for text messages are those of the carriers (CMPP 3.0, 7.4.4.1 SP_DELIVER Stat): what is not DELIVRD is a failure.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

MAX_AGE_S = 300
MAX_REPORTS = 500
_NONCE = re.compile(r"[A-Za-z0-9]{16,64}")
_WORD = re.compile(r"[\w:.-]{1,20}", re.ASCII)

SUCCESS, PENDING, LOST = "success", "pending", "lost"
# channel -> word of the gateway -> what it means; `other` is every word that is not named.
WORDS: Mapping[str, Mapping[str, str]] = {
    "sms": {
        "DELIVRD": SUCCESS, "ACCEPTD": PENDING, "ENROUTE": PENDING,
        "UNDELIV": LOST, "EXPIRED": LOST, "DELETED": LOST, "REJECTD": LOST, "UNKNOWN": LOST, "other": LOST,
    },
    "voice": {
        "ANSWERED": SUCCESS, "QUEUED": PENDING, "RINGING": PENDING,
        "NOANSWER": LOST, "BUSY": LOST, "REJECTED": LOST, "FAILED": LOST, "other": LOST,
    },
}  # fmt: skip


class ReportRejected(Exception):
    """Not from the gateway, or not readable. The text is for the log only; the sender learns nothing from it."""


@dataclass(frozen=True)
class Report:
    """One report. `fate` is SUCCESS, PENDING or LOST, `word` the gateway's own."""

    request_id: str
    message_id: str
    fate: str
    word: str


def sign(key: str, timestamp: str, nonce: str, body: bytes) -> str:
    return hmac.new(key.encode(), f"{timestamp}\n{nonce}\n".encode() + body, hashlib.sha256).hexdigest()


def check(key: str, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
    """Check signature and age; return the nonce, which the caller takes once only.

    Raises:
        ReportRejected: no key is set, or anything about the signature is wrong.
    """
    timestamp, nonce = headers.get("X-Gateway-Timestamp", ""), headers.get("X-Gateway-Nonce", "")
    if not key:
        raise ReportRejected("no key is set")
    if not _NONCE.fullmatch(nonce) or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise ReportRejected("headers")
    given = headers.get("X-Gateway-Signature", "")
    if not hmac.compare_digest(given.encode(), sign(key, timestamp, nonce, body).encode()):
        raise ReportRejected("signature")
    if abs(now_s - int(timestamp)) > MAX_AGE_S:
        raise ReportRejected("timestamp")
    return nonce


def read(channel: str, body: bytes) -> tuple[list[Report], int]:
    """Read a checked body; return its reports, and how many rows were not readable: they would be no more so if the request came again.

    Raises:
        ReportRejected: the whole is not what the protocol says.
    """
    try:
        rows: Any = orjson.loads(body)["reports"]
        if not isinstance(rows, list) or len(rows) > MAX_REPORTS:
            raise ReportRejected("rows")
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ReportRejected("body") from error
    found = [report for row in rows if (report := _report(WORDS[channel], row)) is not None]
    return found, len(rows) - len(found)


def _report(words: Mapping[str, str], row: Any) -> Report | None:
    if not isinstance(row, dict):
        return None
    request_id, message_id, word = (row.get(name) for name in ("request_id", "message_id", "status"))
    for text in (request_id, message_id):
        if not isinstance(text, str) or not 1 <= len(text) <= 64:
            return None
    if not isinstance(word, str) or not _WORD.fullmatch(word):
        return None
    return Report(request_id, message_id, words.get(word, words["other"]), word)


def printed() -> str:
    """Return the table of docs/push.md: what each word of the gateway means."""
    rows = [f"| {channel} | {word} | {fate} |" for channel, words in WORDS.items() for word, fate in words.items()]
    return "\n".join(["| channel | word | means |", "| --- | --- | --- |", *rows])
