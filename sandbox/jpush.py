"""JPush REST v3: POST /jpush/v3/push and GET /jpush/v3/received/detail, with Basic authentication (reference: platforms, 4.2).

Whether a phone has got what it was sent: `POST /_sim/jpush/phones` {registration_id, has: "received" (as it is by default), "taken" (its
maker took it and says no more) or "off"}.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from typing import Any

from sandbox.base import StandIn, rfc3339_utc
from sandbox.mishaps import is_code

_PLATFORMS = {"android", "ios", "hmos", "quickapp"}
_AUDIENCES = {"tag": 20, "tag_and": 20, "tag_not": 20, "alias": 1000, "registration_id": 1000, "segment": 1, "abtest": 1}
_MAKERS = {"xiaomi", "huawei", "honor", "oppo", "vivo", "meizu", "fcm", "nio", "asus", "hmos"}
_DISTRIBUTIONS = {"secondary_push", "first_ospush", "ospush", "jpush"}
_LONGEST_KEPT_S = 10 * 86400
_MOST_ASKED = 100
_PHONES = ("received", "taken", "off")
_GONE = "gone-"  # a registration_id with this beginning belongs to an app that was removed


class _JPush(StandIn):
    provider = "jpush"

    def is_known(self) -> bool:
        own = self.credentials
        wanted = b64encode(f"{own.jpush_app_key}:{own.jpush_master_secret}".encode()).decode()
        sent = self.request.headers.get("Authorization", "")
        return secrets.compare_digest(sent.encode(), f"Basic {wanted}".encode())

    def _error(self, status: int, code: int, message: str) -> None:
        self.send({"error": {"code": code, "message": message}}, status=status)

    def answer_error500(self) -> None:
        self._error(500, 1000, "Internal error")


class Push(_JPush):
    """Takes one push. The same `cid` is one push."""

    def post(self) -> None:
        if not self.is_known():
            return self._error(401, 1004, "Authen failed")
        body = self.json_object()
        if body is None:
            return self._error(400, 1003, "Parameter value is invalid: body")
        if is_code(self.fault) and not self.store.was_sent(f"jpush/{body.get('cid')}"):
            return self._error(400, int(self.fault), "scripted")
        problem = _find_problem(body)
        if problem:
            return self._error(400, *problem)
        audience = body["audience"]
        targets = [who for who in audience.get("registration_id", []) if not who.startswith(_GONE)]
        if "registration_id" in audience and not targets:
            return self._error(400, 1011, "cannot find user by this audience")
        to = ",".join(targets or audience.get("alias", []) or audience.get("tag", []))
        now = self.now()
        record = {"at": rfc3339_utc(now), "channel": "jpush", "to": to, "audience": audience}
        record |= {"notification": body.get("notification"), "message": body.get("message"), "options": body["options"]}
        record |= {"content": _alert(body), "cid": body.get("cid"), "msg_id": str(secrets.randbelow(10**17))}
        dedupe = f"jpush/{body['cid']}" if body.get("cid") else None
        kept = self.store.record_sent(record, channel="jpush", to=to, at=now, dedupe=dedupe)
        self.store.put("jpush_message", kept["msg_id"], {"targets": targets, "platforms": body["platform"]})
        self.set_header("X-Rate-Limit-Limit", "600")
        self.set_header("X-Rate-Limit-Remaining", "599")
        self.set_header("X-Rate-Limit-Reset", "60")
        return self.send({"sendno": str(body["options"].get("sendno", 0)), "msg_id": kept["msg_id"]})


class Received(_JPush):
    """GET /v3/received/detail?msg_ids=: counts per message; null where there are none."""

    def get(self) -> None:
        if not self.is_known():
            return self._error(401, 3001, "Basic authentication failed")
        msg_ids = [one for one in self.get_query_argument("msg_ids", "").split(",") if one]
        if not msg_ids or len(msg_ids) > _MOST_ASKED or not all(one.isdigit() for one in msg_ids):
            return self._error(400, 3002, "msg_ids is wrong")
        return self.send([self._counts(msg_id) for msg_id in msg_ids])

    def _counts(self, msg_id: str) -> dict[str, Any]:
        targets = (self.store.get("jpush_message", msg_id) or {}).get("targets", [])
        phones = [self.store.get("jpush_phone", target) or "received" for target in targets]
        names = ("android_pns_received", "ios_apns_sent", "ios_apns_received", "ios_msg_received", "wp_mpns_sent")
        counts: dict[str, Any] = {"msg_id": msg_id} | dict.fromkeys(names)
        return counts | {"jpush_received": phones.count("received") or None, "android_pns_sent": phones.count("taken") or None}


class Phones(StandIn):
    """POST /_sim/jpush/phones {registration_id, has}."""

    def post(self) -> None:
        body = self.json_object() or {}
        if not isinstance(body.get("registration_id"), str) or body.get("has") not in _PHONES:
            return self.refuse(422, "invalid_phone", "registration_id 与 has 不正确", known=_PHONES)
        self.store.put("jpush_phone", body["registration_id"], body["has"])
        return self.send({"ok": True})


def _find_problem(body: dict[str, Any]) -> tuple[int, str] | None:
    platform, audience = body.get("platform"), body.get("audience")
    if platform != "all" and not (isinstance(platform, list) and platform and set(platform) <= _PLATFORMS):
        return 1003 if platform else 1002, "Parameter value is invalid: platform"
    # The original takes "all" for everybody. This hall never addresses everybody, so the stand-in refuses it.
    if not isinstance(audience, dict) or not audience or not set(audience) <= set(_AUDIENCES):
        return 1003 if audience else 1002, "Parameter value is invalid: audience"
    for kind, most in _AUDIENCES.items():
        values = audience.get(kind, [""])
        if not isinstance(values, list) or not 1 <= len(values) <= most or not all(isinstance(v, str) for v in values):
            return 1003, f"Parameter value is invalid: audience.{kind}"
    notification, message = body.get("notification"), body.get("message")
    if notification is None and message is None:
        return 1002, "The notification or message is missing"
    if not all(isinstance(part, dict) for part in _parts(notification, message)):
        return 1003, "Parameter value is invalid: notification or message"
    options = body.get("options")
    if not isinstance(options, dict) or not isinstance(options.get("apns_production"), bool):
        return 1003, "Parameter value is invalid: options.apns_production"
    problem = _find_option_problem(options)
    if problem:
        return 1003, f"Parameter value is invalid: options.{problem}"
    if len(json.dumps(notification or message, ensure_ascii=False).encode()) > 4000:
        return 1005, "Message too long"
    return None


def _find_option_problem(options: dict[str, Any]) -> str | None:
    kept_s, kind, makers = options.get("time_to_live", 86400), options.get("classification", 0), options.get("third_party_channel", {})
    if type(kept_s) is not int or not 0 <= kept_s <= _LONGEST_KEPT_S:
        return "time_to_live"
    if kind not in (0, 1):
        return "classification"
    if not isinstance(makers, dict) or not set(makers) <= _MAKERS:
        return "third_party_channel"
    for maker, part in makers.items():
        if not isinstance(part, dict) or part.get("distribution") not in _DISTRIBUTIONS:
            return f"third_party_channel.{maker}.distribution"
    return None


def _parts(notification: Any, message: Any) -> list[Any]:
    """List what must be an object: both, and the parts of the notification for each system."""
    parts = [part for part in (notification, message) if part is not None]
    inner = notification if isinstance(notification, dict) else {}
    return parts + [inner[name] for name in ("android", "ios", "hmos") if name in inner]


def _alert(body: dict[str, Any]) -> str:
    notification = body.get("notification") or {}
    for part in (notification, *(notification.get(name) or {} for name in ("android", "ios", "hmos"))):
        alert = part.get("alert")
        if alert:
            # iOS takes an object too: {"title", "body"}.
            return str(alert.get("body", "")) if isinstance(alert, dict) else str(alert)
    return str((body.get("message") or {}).get("msg_content", ""))


routes = [(r"/jpush/v3/push", Push), (r"/jpush/v3/received/detail", Received), (r"/_sim/jpush/phones", Phones)]
