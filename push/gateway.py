"""One request to the city's gateway for text messages and calls, and what its status means. The same request id is one message or one call."""

from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from app.platforms.http import HttpClient, VendorUnknown, VendorUnreachable
from push.channel import Effect, Refused, Then, TryLater, Unclear, alarms

log = structlog.get_logger(__name__)

TIMEOUT_S = 5


async def ask_gateway(http: HttpClient, channel: str, url: str, body: Mapping[str, Any], effects: Mapping[str, Effect]) -> str:
    """Ask once for what `body` says and return the gateway's id of it.

    Raises:
        Refused: the gateway does not take this (a 4xx that `effects` does not call passing).
        TryLater: too many at once, or not reachable. Unclear: no answer, or none of the gateway.
    """
    try:
        response = await http.request(
            channel,
            "POST",
            url,
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            body=orjson.dumps(body),
            timeout_s=TIMEOUT_S,
        )
    except VendorUnreachable as error:
        raise TryLater("unreachable") from error
    except VendorUnknown as error:
        raise Unclear(str(error.context.get("cause", "unknown"))) from error
    if response.status >= 300:
        code = str(response.status)
        if effects.get(code, effects["other"]).then is Then.LATER:
            raise TryLater(code)
        alarms.labels(channel, code).inc()
        log.error(f"{channel}.refused", status=response.status, template=body["template"])
        raise Refused(code)
    return _message_id(response.body)


def _message_id(body: bytes) -> str:
    """Return the id in an answer.

    Raises:
        Unclear: there is none. That is some page of a proxy, and nobody has promised to send anything.
    """
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    found = answer.get("message_id") if isinstance(answer, dict) else None
    if not found:
        raise Unclear("no message id")
    return str(found)
