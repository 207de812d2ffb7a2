"""WeChat subscribe message: one per grant, fields within the limits of the approved template.

Not repeatable: WeChat cannot recognise a repetition, and a second message would use up a second grant.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, time, timedelta
from typing import Any, Protocol

import orjson
import structlog
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.clock import SHANGHAI
from app.kernel.errors import ProviderUnavailable
from app.platforms.http import VendorUnknown
from app.platforms.wechat import WeChatRefused
from push.channel import Effect, Envelope, Letter, People, Refused, Then, TryLater, Unclear, alarms
from push.grants import Grants
from push.pauses import Pauses
from push.vendor_templates import VendorTemplate

log = structlog.get_logger(__name__)

_NO_GRANT, _NO_TEMPLATE, _FIELDS, _QUOTA = "43101", "40037", "47003", "45009"
_WRONG_AFTER = 3  # one message may have a value that WeChat dislikes; three in a row are the template
# Then it is tried again: what was mended in WeChat's console is in no file of ours.
_LEFT_OUT_FOR = timedelta(days=1)

# errcode -> what follows. Source: WeChat, subscribeMessage.send and the list of global return codes.
EFFECTS: Mapping[str, Effect] = {
    "-1": Effect("WeChat is busy", Then.LATER),
    "40001": Effect("access token wrong", Then.LATER, "the token is replaced once, for all processes, and the call made again first"),
    "40014": Effect("access token wrong", Then.LATER, "as 40001"),
    "42001": Effect("access token expired", Then.LATER, "as 40001"),
    "40003": Effect("openid dead or of another app", Then.NEXT),
    "40037": Effect("no such template", Then.NEXT, "the template is left out for a day, or until its entry is mended", True),
    "41030": Effect("page not in the released version", Then.BARE, "", True),
    "43101": Effect("no grant left, or taken back", Then.NEXT, "the person's grants of the template become 0"),
    "43107": Effect("subscribe messages barred for us", Then.NEXT, "", True),
    "43116": Effect("subscribe messages barred for us", Then.NEXT, "", True),
    "45009": Effect("quota of the day used up", Then.TOMORROW, "nobody asks until then", True),
    "47003": Effect("a field does not fit the template", Then.NEXT, "three in a row: as 40037", True),
    "48001": Effect("interface not granted to us", Then.NEXT, "", True),
    "other": Effect("a code we do not know", Then.NEXT, "", True),
}


class SubscribeSender(Protocol):
    """What is used of app.platforms.wechat.WeChat."""

    async def access_token(self) -> str: ...

    async def send_subscribe_message(
        self, openid: str, template_id: str, data: Mapping[str, str], *, page: str = ""
    ) -> str: ...


class WechatSubscribe:
    """Channel `wechat`: for a person who signed in through the mini-program and has allowed a fitting template."""

    name = "wechat"
    repeatable = False
    settles = True

    def __init__(
        self, client: SubscribeSender, grants: Grants, people: People, pauses: Pauses, clock: Callable[[], datetime]
    ) -> None:
        self._client = client
        self._grants = grants
        self._people = people
        self._clock = clock
        self._pauses = pauses

    async def prepare(self, letter: Letter) -> Envelope | None:
        identity = await self._people.channel_identity(letter.owner_id, "wechat")
        if identity is None:
            return None
        template = await self._grants.best_for(identity["openid"], letter.event)
        if template is None or await self._pauses.until(key_of(self.name, template), self._clock()) is not None:
            return None
        extra = {
            "data": template.fill(letter.values),
            "page": template.page_for(letter.values),
            "asked_at": self._clock(),
            "key": key_of(self.name, template),
        }
        return Envelope(letter, identity["openid"], template.template_id, extra)

    async def send(self, envelope: Envelope) -> str:
        now = self._clock()
        if paused_until := await self._pauses.until(self.name, now):  # the quota of the day is used up: asking once more changes nothing
            raise TryLater(_QUOTA, paused_until)
        try:
            # The token first: while there is none, surely nothing was sent.
            await self._client.access_token()
        except ProviderUnavailable as error:
            raise TryLater(cause_of(error)) from error
        page: str = envelope.extra["page"]
        try:
            vendor_id = await self._client.send_subscribe_message(
                envelope.to, envelope.template_id, envelope.extra["data"], page=page
            )
        except WeChatRefused as error:
            code = f"{error.errcode}"
            effect = EFFECTS.get(code, EFFECTS["other"])
            if effect.is_alarm:
                alarms.labels(self.name, code).inc()
                log.error("wechat.needs_operator", errcode=code, template_id=envelope.template_id, field=error.field)
            if effect.then is Then.BARE and page:
                return await self.send(replace(envelope, extra={**envelope.extra, "page": ""}))
            if effect.then is Then.TOMORROW:
                midnight = next_midnight(now)
                await self._pauses.pause(self.name, midnight, code)
                raise TryLater(code, midnight) from error
            await self._note_wrong(code, envelope.extra["key"], now)
            raise Refused(code) from error
        except VendorUnknown as error:
            # An errcode or a 5xx is an answer: it was not sent (WeChat's list of codes: -1 and 5xx may be retried).
            cause = str(error.context.get("cause", ""))
            if cause.startswith("errcode") or cause == "status":
                raise TryLater(cause.removeprefix("errcode ")) from error
            raise Unclear(cause or "unknown") from error
        except ProviderUnavailable as error:
            raise TryLater(cause_of(error)) from error
        await self._pauses.note_right(envelope.extra["key"])
        return vendor_id

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        if not error_code:
            await self._grants.used(envelope.to, envelope.template_id, session)
        elif error_code == _NO_GRANT:
            await self._grants.refused(
                envelope.to, envelope.template_id, asked_at=envelope.extra["asked_at"], session=session
            )

    async def _note_wrong(self, code: str, key: str, now: datetime) -> None:
        if code == _NO_TEMPLATE:
            await self._pauses.pause(key, now + _LEFT_OUT_FOR, code)
        elif code == _FIELDS:
            await self._pauses.count_wrong(key, code, most=_WRONG_AFTER, until=now + _LEFT_OUT_FOR)


def key_of(channel: str, template: VendorTemplate) -> str:
    """Return by what a template is left out: one whose entry was mended is another."""
    entry = orjson.dumps([template.page, template.fields], option=orjson.OPT_SORT_KEYS)
    return f"{channel}:{template.template_id}:{hashlib.sha256(entry).hexdigest()[:12]}"


def next_midnight(now: datetime) -> datetime:
    """Return the end of the Shanghai day of `now`: WeChat counts its quotas by that day."""
    return datetime.combine(now.astimezone(SHANGHAI).date() + timedelta(days=1), time(), SHANGHAI)


def cause_of(error: ProviderUnavailable) -> str:
    context: Mapping[str, Any] = error.context
    return str(context.get("cause") or type(error).__name__)
