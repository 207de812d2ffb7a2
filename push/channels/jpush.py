"""Native push through JPush REST v3. Addresses registration ids only: a call to everybody cannot be made from here.

Aliases are not used: a phone that changes hands would keep one until JPush is told, and JPush takes ten phones per alias. Whose phone it is,
our own table says (push/store.py): the app registers at each start, a sign-out forgets it, and so does JPush when it knows none of them.

Repeatable: `cid` makes the same push once, however often it is asked for. Receipts: push/channels/jpush_receipts.py.
Source: JPush, REST API v3, push.
"""

import uuid
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog
from pymongo.asynchronous.client_session import AsyncClientSession

from app.platforms.http import HttpClient, VendorUnknown, VendorUnreachable
from push.channel import Effect, Envelope, Letter, Refused, Then, TryLater, Unclear, alarms
from push.native_options import NativeOptions
from push.store import APNS, Store

log = structlog.get_logger(__name__)

TIMEOUT_S = 5
# How long JPush keeps a push for a phone that is off. Then it is gone, and what must arrive goes on to the next channel: never both.
KEPT_OFFLINE = timedelta(hours=12)
_NO_TARGET = "1011"

# error.code -> what follows. Source: JPush, REST API v3, error codes.
EFFECTS: Mapping[str, Effect] = {
    "1000": Effect("internal error of JPush", Then.LATER),
    "1030": Effect("JPush is busy", Then.LATER),
    "2002": Effect("rate exceeded (also any HTTP 429)", Then.LATER),
    "1011": Effect("none of the registrations lives", Then.NEXT, "the registrations are dropped"),
    "1004": Effect("app key and master secret do not fit", Then.NEXT, "", True),
    "1005": Effect("longer than JPush takes", Then.NEXT, "", True),
    "2003": Effect("the app is barred", Then.NEXT, "", True),
    "2004": Effect("our address is not on the app's list", Then.NEXT, "", True),
    "other": Effect("a refusal of the call itself", Then.NEXT, "", True),
}


def authorization(app_key: str, master_secret: str) -> str:
    return "Basic " + b64encode(f"{app_key}:{master_secret}".encode()).decode()


class JPush:
    """Channel `app`: for a person with the native app on a registered device that is not reached through Apple directly."""

    name = "app"
    repeatable = True

    def __init__(
        self,
        http: HttpClient,
        store: Store,
        options: NativeOptions,
        clock: Callable[[], datetime],
        *,
        base_url: str,
        app_key: str,
        master_secret: str,
        production: bool,
        asks_receipts: bool,
    ) -> None:
        self._http = http
        self._store = store
        self._options = options
        self._clock = clock
        self._url = f"{base_url.rstrip('/')}/v3/push" if base_url else ""
        self._app_key = app_key
        self._authorization = authorization(app_key, master_secret)
        self._production = production
        self.settles = asks_receipts

    async def prepare(self, letter: Letter) -> Envelope | None:
        if not self._url:  # a hall without a native app
            return None
        devices = [device for device in await self._store.devices(letter.owner_id) if device.get("vendor") != APNS]
        return Envelope(letter, "", extra={"devices": devices}) if devices else None

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
        if not isinstance(answer, dict):
            raise Unclear("not an object")
        if response.status < 300:
            return str(answer.get("msg_id", ""))
        code = "2002" if response.status == 429 else str((answer.get("error") or {}).get("code", 0))
        effect = EFFECTS.get(code, EFFECTS["other"])
        if effect.then is Then.LATER:
            raise TryLater(code)
        if code == _NO_TARGET:  # none of the registrations lives any more; one that was renewed meanwhile does
            for device in envelope.extra["devices"]:
                await self._store.drop_dead(device["_id"], device["at"])
        if effect.is_alarm:
            alarms.labels(self.name, code).inc()
            log.error("jpush.refused", code=code)
        raise Refused(code)

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        """What went out is asked about until a phone has it, or JPush keeps it no longer."""
        if not error_code:
            now = self._clock()
            await self._store.expect_receipt(envelope.letter.delivery_id, now, now + KEPT_OFFLINE, session)

    def _body(self, envelope: Envelope) -> dict[str, Any]:
        letter, options = envelope.letter, self._options
        devices = envelope.extra["devices"]
        extras = {"event": letter.event, "link": letter.link}
        makers = {device.get("vendor", "") for device in devices if device.get("platform") == "android"}
        return {
            "cid": f"{self._app_key}-{uuid.uuid5(uuid.NAMESPACE_OID, letter.delivery_id)}",
            "platform": ["android", "ios", "hmos"],
            "audience": {"registration_id": [device["_id"] for device in devices]},
            "notification": {
                "android": {"alert": letter.short, "extras": extras, **options.android},
                "ios": {"alert": letter.short, "sound": "default", "extras": extras},
                "hmos": {"alert": letter.short, "extras": extras, **options.hmos},
            },
            "options": {
                "time_to_live": int(KEPT_OFFLINE.total_seconds()),
                "apns_production": self._production,
                "classification": 1,  # a notice of ours, not advertising: the makers' channels limit the latter
                **({"third_party_channel": options.third_party(makers)} if makers else {}),
            },
        }
