"""Apple's push service: HTTP/2 (prior knowledge, or TLS in tests), POST /3/device/{token}, a provider token checked with its public key.

It listens on a port beside the sandbox's own: Tornado speaks no HTTP/2. What a device answers is scripted by `POST /_sim/apns/devices`
{token, status, reason?, timestamp?}; status 200 lifts it. What comes with the same apns-collapse-id replaces what is on the screen: `sent`
has it once. The fault switch is `apns`.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
import uuid
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError

from sandbox.base import HUGE_BYTES, Sandbox, StandIn, compact, log, rfc3339_utc

_TOKEN = re.compile(r"[0-9a-f]{64,200}")
_OLDEST_S, _NEWEST_S = 3600, 60
_CHANGE_S = 20 * 60
_MAX_PAYLOAD = 4096
_TYPES = {"alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity", "pushtotalk"}


@dataclass
class Apns:
    """The state of the stand-in: which provider token is in use since when, and how many calls and connections there were."""

    sandbox: Sandbox
    tokens: list[tuple[str, float]] = field(default_factory=list)  # token, first seen
    url: str = ""
    calls: int = 0
    connections: int = 0
    protocols: set[str] = field(default_factory=set)

    def judge(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        """Return status and body of the answer, and remember what a phone would show."""
        self.calls += 1
        path = re.fullmatch(r"/3/device/([^/]*)", headers.get(":path", ""))
        if path is None:
            return 404, {"reason": "BadPath"}
        if headers.get(":method") != "POST":
            return 405, {"reason": "MethodNotAllowed"}
        refused = self._find_token_problem(headers.get("authorization", ""))
        if refused:
            return refused
        refused = self._find_header_problem(headers) or self._find_body_problem(body)
        if refused:
            return refused
        device = path[1]
        if not _TOKEN.fullmatch(device):
            return 400, {"reason": "BadDeviceToken"}
        scripted = self.sandbox.store.get("apns_device", device)
        if scripted:
            status = scripted.pop("status")
            return status, scripted
        self._keep(device, headers, json.loads(body))
        return 200, {}

    def _find_token_problem(self, authorization: str) -> tuple[int, dict[str, Any]] | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return 403, {"reason": "MissingProviderToken"}
        own = self.sandbox.credentials
        try:
            head, claims, signature = token.split(".")
            header, claimed = json.loads(_unpadded(head)), json.loads(_unpadded(claims))
            raw = _unpadded(signature)
            if header.get("alg") != "ES256" or header.get("kid") != own.apns_key_id or claimed.get("iss") != own.apns_team_id:
                return 403, {"reason": "InvalidProviderToken"}
            der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
            own.apns_private.public_key().verify(der, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
            age_s = time.time() - int(claimed["iat"])  # Apple's clock does not follow ours
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature):
            return 403, {"reason": "InvalidProviderToken"}
        if not -_NEWEST_S <= age_s <= _OLDEST_S:
            return 403, {"reason": "ExpiredProviderToken"}
        now = time.time()
        if not self.tokens or self.tokens[-1][0] != token:
            if self.tokens and now - self.tokens[-1][1] < _CHANGE_S and not _is_next_slice(self.tokens[-1][0], token):
                return 429, {"reason": "TooManyProviderTokenUpdates"}
            self.tokens.append((token, now))
        return None

    def _find_header_problem(self, headers: dict[str, str]) -> tuple[int, dict[str, Any]] | None:
        try:
            uuid.UUID(headers.get("apns-id", str(uuid.uuid4())))
        except ValueError:
            return 400, {"reason": "BadMessageId"}
        checks = (
            ("apns-topic" in headers, "MissingTopic"),
            (headers.get("apns-topic") == self.sandbox.credentials.apns_topic, "TopicDisallowed"),
            (headers.get("apns-push-type") in _TYPES, "InvalidPushType"),
            (headers.get("apns-priority", "10") in ("1", "5", "10"), "BadPriority"),
            (headers.get("apns-expiration", "0").isdigit(), "BadExpirationDate"),
            (len(headers.get("apns-collapse-id", "").encode()) <= 64, "BadCollapseId"),
        )
        return next(((400, {"reason": reason}) for is_right, reason in checks if not is_right), None)

    @staticmethod
    def _find_body_problem(body: bytes) -> tuple[int, dict[str, Any]] | None:
        if not body:
            return 400, {"reason": "PayloadEmpty"}
        if len(body) > _MAX_PAYLOAD:
            return 413, {"reason": "PayloadTooLarge"}
        try:
            is_right = isinstance(json.loads(body)["aps"], dict)
        except (ValueError, KeyError, TypeError):
            is_right = False
        return None if is_right else (400, {"reason": "BadPayload"})

    def _keep(self, device: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        alert, now = body["aps"].get("alert", ""), self.sandbox.clock()
        text = alert if isinstance(alert, str) else str(alert.get("body", ""))
        collapse = headers.get("apns-collapse-id", "")
        record = {"at": rfc3339_utc(now), "channel": "apns", "to": device, "content": text, "payload": body}
        record |= {name: headers.get(name) for name in ("apns-id", "apns-topic", "apns-expiration", "apns-collapse-id")}
        dedupe = f"apns/{device}/{collapse}" if collapse else None
        self.sandbox.store.record_sent(record, channel="apns", to=device, at=now, dedupe=dedupe)


async def start(sandbox: Sandbox, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> asyncio.Server:
    """Serve until the returned server is closed; `sandbox.apns` is what a test looks at.

    Args:
        port: where the settings say; when it is taken, any other one (`sandbox.apns.url`).
        tls: with ALPN `h2`; without it, HTTP/2 with prior knowledge.
    """
    apns = sandbox.apns = Apns(sandbox)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        apns.connections += 1
        secured = writer.get_extra_info("ssl_object")
        apns.protocols.add(secured.selected_alpn_protocol() or "" if secured else "h2c")
        try:
            await _Talk(apns, reader, writer).run()
        except (ConnectionError, ProtocolError, asyncio.IncompleteReadError, ssl.SSLError) as error:
            log.debug("apns: %s", type(error).__name__)
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(talk, host, port, ssl=tls)
    except OSError:
        server = await asyncio.start_server(talk, host, 0, ssl=tls)
    apns.url = "{}://{}:{}".format("https" if tls else "http", *server.sockets[0].getsockname()[:2])
    log.info("apns on %s", apns.url)
    return server


class _Talk:
    """One connection: many calls side by side."""

    def __init__(self, apns: Apns, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._apns = apns
        self._reader = reader
        self._writer = writer
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._open: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        self._h2.initiate_connection()
        self._flush()
        try:
            while data := await self._reader.read(65536):
                for event in self._h2.receive_data(data):
                    if isinstance(event, RequestReceived):
                        self._open[event.stream_id] = ({str(name): str(value) for name, value in event.headers}, bytearray())
                    elif isinstance(event, DataReceived):
                        self._open[event.stream_id][1].extend(event.data)
                        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, StreamEnded):
                        task = asyncio.create_task(self._answer(event.stream_id, *self._open.pop(event.stream_id)))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
                    elif isinstance(event, ConnectionTerminated):
                        return
                self._flush()
        finally:
            for task in self._tasks:
                task.cancel()

    async def _answer(self, stream_id: int, headers: dict[str, str], body: bytearray) -> None:
        fault = self._apns.sandbox.faults.take("apns")
        if fault == "down":
            self._writer.close()
            return
        if fault == "slow":
            await asyncio.sleep(self._apns.sandbox.pace.slow_s)
        if fault == "error500":
            status, answer = 503, compact({"reason": "ServiceUnavailable"})
        elif fault == "rate_limited":
            status, answer = 429, compact({"reason": "TooManyRequests"})
        elif fault == "garbage":
            status, answer = 400, b"<html>{not json"
        elif fault == "huge":
            status, answer = 400, b"x" * min(HUGE_BYTES, 60000)
        else:
            status, found = self._apns.judge(headers, bytes(body))
            answer = compact(found) if found else b""
        if fault == "lost":
            self._writer.close()
            return
        self._h2.send_headers(stream_id, [(":status", str(status)), ("apns-id", headers.get("apns-id") or str(uuid.uuid4()))])
        for begin in range(0, len(answer), 16000):
            self._h2.send_data(stream_id, answer[begin : begin + 16000])
        self._h2.end_stream(stream_id)
        self._flush()

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())


class Devices(StandIn):
    """POST /_sim/apns/devices {token, status, reason?, timestamp?}."""

    def post(self) -> None:
        body = self.json_object() or {}
        token, status = body.get("token"), body.get("status")
        if not isinstance(token, str) or type(status) is not int or not 200 <= status <= 599:
            return self.refuse(422, "invalid_device", "token 与 status 不正确")
        if status == 200:
            self.store.drop("apns_device", token)
        else:
            answer = {name: body[name] for name in ("reason", "timestamp") if name in body}
            self.store.put("apns_device", token, {"status": status} | answer)
        return self.send({"ok": True})


def _unpadded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _is_next_slice(old: str, new: str) -> bool:
    """Say whether a team's tokens are at least twenty minutes apart by their own `iat`: what Apple's rule is about."""
    issued = [int(json.loads(_unpadded(token.split(".")[1]))["iat"]) for token in (old, new)]
    return issued[1] - issued[0] >= _CHANGE_S


routes = [(r"/_sim/apns/devices", Devices)]
