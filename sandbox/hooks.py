"""A department's own system that receives the hall's web hooks: it knows the secret it was told, and believes nothing else.

| call | does |
| --- | --- |
| `POST /_sim/hooks {app, secret, algorithm?}` | tells it the secret of one hook, as the head of the agency would |
| `POST /hooks/events` | takes an event: 401 for a wrong signature, an old timestamp or a nonce it has seen; the same `id` counts once |

What it took stands under /_sim/sent as channel `hook`. The fault switch is `hooks`; `POST /hooks/gone` answers 410.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any
from urllib.parse import quote, unquote_plus

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from sandbox.base import StandIn, rfc3339_utc
from sandbox.control import Control

_WINDOW_S = 300


class Tell(Control):
    """POST /_sim/hooks."""

    def post(self) -> None:
        body = self.body()
        if not isinstance(body.get("app"), str) or not isinstance(body.get("secret"), str):
            return self.refuse(422, "invalid_hook", "请给出 app 和 secret")
        self.store.put("hook", body["app"], {"secret": body["secret"], "algorithm": body.get("algorithm", "hmac-sm3")})
        return self.send({"ok": True})


class Receive(StandIn):
    """POST /hooks/events."""

    provider = "hooks"

    def post(self) -> None:
        problem = self._problem()
        if problem:
            return self.refuse(401, "signature", problem)
        event = self.json_object()
        if event is None or not isinstance(event.get("id"), str):
            return self.refuse(422, "malformed", "没有 id")
        now, app = self.now(), self.request.headers["X-Hall-App"]
        is_repeat = self.store.get("hook_event", f"{app}/{event['id']}") is not None
        self.store.put("hook_event", f"{app}/{event['id']}", rfc3339_utc(now))
        if not is_repeat:
            case = event.get("case") or {}
            record: dict[str, Any] = {"at": rfc3339_utc(now), "channel": "hook", "to": app, "event": event}
            record["content"] = f"{event.get('event')} {case.get('number', '')}"
            self.store.record_sent(record, channel="hook", to=app, at=now)
        return self.send({"accepted": True, "repeated": is_repeat})

    def _problem(self) -> str | None:
        headers = self.request.headers
        app, timestamp, nonce = (headers.get(f"X-Hall-{name}", "") for name in ("App", "Timestamp", "Nonce"))
        known = self.store.get("hook", app)
        if known is None:
            return "不认识这个 app"
        if not timestamp.isdigit() or abs(self.now() - int(timestamp)) > _WINDOW_S:
            return "时间戳不在5分钟内"
        if not 16 <= len(nonce) <= 64 or self.store.get("hook_nonce", f"{app}/{nonce}"):
            return "随机串不对，或已用过"
        right = self._signature(known["secret"], known["algorithm"], timestamp, nonce)
        given = (headers.get("X-Hall-Signature", ""), headers.get("X-Hall-Signature-Previous", ""))
        if not any(hmac.compare_digest(one.encode(), right.encode()) for one in given):
            return "签名不对"
        self.store.put("hook_nonce", f"{app}/{nonce}", timestamp)
        return None

    def _signature(self, secret: str, algorithm: str, timestamp: str, nonce: str) -> str:
        """Compute the signature from the request as it came, by the document, not by the hall's code."""
        pairs = []
        for part in filter(None, self.request.query.split("&")):
            name, _, value = part.partition("=")
            pairs.append((unquote_plus(name), unquote_plus(value)))
        query = "&".join(f"{quote(name, safe='-._~')}={quote(value, safe='-._~')}" for name, value in sorted(pairs))
        if algorithm == "hmac-sha256":
            digest = hashlib.sha256(self.request.body).hexdigest()
        else:
            sm3 = hashes.Hash(hashes.SM3())
            sm3.update(self.request.body)
            digest = sm3.finalize().hex()
        text = "\n".join([self.request.method or "", self.request.path, query, timestamp, nonce, digest]).encode()
        if algorithm == "hmac-sha256":
            return hmac.new(secret.encode(), text, "sha256").hexdigest()
        mac = HMAC(secret.encode(), hashes.SM3())
        mac.update(text)
        return mac.finalize().hex()


class Gone(StandIn):
    """POST /hooks/gone: a system that was switched off for good."""

    def post(self) -> None:
        self.refuse(410, "gone", "本系统已停用")


routes: list[tuple[str, type[StandIn]]] = [(r"/_sim/hooks", Tell), (r"/hooks/events", Receive), (r"/hooks/gone", Gone)]
