"""Native push through JPush REST v3. Addresses registration ids only: a call to everybody cannot be made from here.

Repeatable: `cid` makes the same push once, however often it is asked for. Source: JPush, REST API v3, push.
"""

import uuid
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from pymongo.asynchronous.client_session import AsyncClientSession

from app.platforms.http import HttpClient, VendorUnknown, VendorUnreachable
from push.channel import Effect, Envelope, Letter, Refused, Then, TryLater, Unclear, alarms
from push.store import Store

log = structlog.get_logger(__name__)

TIMEOUT_S = 5
_KEPT_OFFLINE_S = 3 * 86400
_NO_TARGET = "1011"

# error.code -> what follows. Source: JPush, REST API v3, error codes.
EFFECTS: Mapping[str, Effect] = {
    "1000": Effect("internal error of JPush", Then.LATER),
    "1030": Effect("JPush is busy", Then.LATER),
    "2002": Effect("rate exceeded (also any HTTP 429)", Then.LATER),
    "1011": Effect("none of the registrations lives", Then.NEXT, "the registrations are dropped"),
    "1004": Effect("app key and master secret do not fit", Then.NEXT, "", True),
    "other": Effect("a refusal of the call itself", Then.NEXT, "", True),
}


class JPush:
    """Channel `app`: for a person with the native app on a registered device."""

    name = "app"
    repeatable = True
    settles = False

    def __init__(
        self, http: HttpClient, store: Store, *, base_url: str, app_key: str, master_secret: str, production: bool
    ) -> None:
        self._http = http
        self._store = store
        self._url = f"{base_url.rstrip('/')}/v3/push" if base_url else ""
        self._app_key = app_key
        self._authorization = "Basic " + b64encode(f"{app_key}:{master_secret}".encode()).decode()
        self._production = production

    async def prepare(self, letter: Letter) -> Envelope | None:
        if not self._url:  # a hall without a native app
            return None
        devices = await self._store.devices(letter.owner_id)
        if not devices:
            return None
        return Envelope(letter, "", extra={"registration_ids": [device["_id"] for device in devices]})

    async def send(self, envelope: Envelope) -> str:
        try:
            response = await self._http.request(
                "jpush",
                "POST",
                self._url,
                headers={"Content-Type": "application/json", "Authorization": self._authorization},
                body=orjson.dumps(self._body(envelope)),
                timeout_s=TIMEOUT_S,
            )
            answer = orjson.loads(response.body)
        except VendorUnreachable as error:
            raise TryLater("unreachable") from error
        except VendorUnknown as error:
            raise Unclear(str(error.context.get("cause", "unknown"))) from error
        except orjson.JSONDecodeError as error:
            raise Unclear("not JSON") from error
        if response.status < 300:
            return str(answer.get("msg_id", ""))
        code = "2002" if response.status == 429 else str((answer.get("error") or {}).get("code", 0))
        effect = EFFECTS.get(code, EFFECTS["other"])
        if effect.then is Then.LATER:
            raise TryLater(code)
        if code == _NO_TARGET:  # none of the registrations lives any more
            for registration_id in envelope.extra["registration_ids"]:
                await self._store.drop_device(registration_id, envelope.letter.owner_id)
        if effect.is_alarm:
            alarms.labels(self.name, code).inc()
            log.error("jpush.refused", code=code)
        raise Refused(code)

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        """Nothing follows for later messages."""

    def _body(self, envelope: Envelope) -> dict[str, Any]:
        letter = envelope.letter
        extras = {"event": letter.event, "link": letter.link}
        return {
            "cid": f"{self._app_key}-{uuid.uuid5(uuid.NAMESPACE_OID, letter.delivery_id)}",
            "platform": ["android", "ios", "hmos"],
            "audience": {"registration_id": list(envelope.extra["registration_ids"])},
            "notification": {
                "android": {"alert": letter.short, "extras": extras},
                "ios": {"alert": letter.short, "sound": "default", "extras": extras},
                "hmos": {"alert": letter.short, "category": "WORK", "extras": extras},
            },
            "options": {
                "time_to_live": _KEPT_OFFLINE_S,
                "apns_production": self._production,
                "classification": 1,  # a notice of ours, not advertising: the makers' channels limit the latter
            },
        }
