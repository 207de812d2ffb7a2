"""WeChat subscribe message: one per grant, fields within the limits of the approved template.

Not repeatable: WeChat cannot recognise a repetition, and a second message would use up a second grant.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any, Protocol

import structlog
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.clock import SHANGHAI
from app.kernel.errors import ProviderUnavailable
from app.platforms.http import VendorUnknown
from app.platforms.wechat import WeChatRefused
from push.channel import Effect, Envelope, Letter, People, Refused, Then, TryLater, Unclear, alarms
from push.grants import Grants

log = structlog.get_logger(__name__)

_NO_GRANT, _NO_TEMPLATE, _FIELDS, _QUOTA = "43101", "40037", "47003", "45009"
_WRONG_AFTER = 3  # one message may have a value that WeChat dislikes; three in a row are the template

# errcode -> what follows. Source: WeChat, subscribeMessage.send and the list of global return codes.
EFFECTS: Mapping[str, Effect] = {
    "-1": Effect("WeChat is busy", Then.LATER),
    "40001": Effect("access token wrong", Then.LATER, "the token is replaced once, for all processes, and the call made again first"),
    "40014": Effect("access token wrong", Then.LATER, "as 40001"),
    "42001": Effect("access token expired", Then.LATER, "as 40001"),
    "40003": Effect("openid dead or of another app", Then.NEXT),
    "40037": Effect("no such template", Then.NEXT, "the template is left out until a restart", True),
    "41030": Effect("page not in the released version", Then.BARE, "", True),
    "43101": Effect("no grant left, or taken back", Then.NEXT, "the person's grants of the template become 0"),
    "43107": Effect("subscribe messages barred for us", Then.NEXT, "", True),
    "43116": Effect("subscribe messages barred for us", Then.NEXT, "", True),
    "45009": Effect("quota of the day used up", Then.TOMORROW, "this process asks no more until then", True),
    "47003": Effect("a field does not fit the template", Then.NEXT, "three in a row: the template is left out until a restart", True),
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

    def __init__(self, client: SubscribeSender, grants: Grants, people: People, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._grants = grants
        self._people = people
        self._clock = clock
        self._paused_until = datetime.min.replace(tzinfo=UTC)
        # Template -> refusals for its fields without a success between. A mended file comes with a restart, which forgets them.
        self._wrong: dict[str, int] = {}

    async def prepare(self, letter: Letter) -> Envelope | None:
        identity = await self._people.channel_identity(letter.owner_id, "wechat")
        if identity is None:
            return None
        template = await self._grants.best_for(identity["openid"], letter.event)
        if template is None or self._wrong.get(template.template_id, 0) >= _WRONG_AFTER:
            return None
        extra = {
            "data": template.fill(letter.values),
            "page": template.page_for(letter.values),
            "asked_at": self._clock(),
        }
        return Envelope(letter, identity["openid"], template.template_id, extra)

    async def send(self, envelope: Envelope) -> str:
        now = self._clock()
        if now < self._paused_until:  # the quota of the day is used up: asking once more changes nothing
            raise TryLater(_QUOTA, self._paused_until)
        try:
            # The token first: while there is none, surely nothing was sent.
            await self._client.access_token()
        except ProviderUnavailable as error:
            raise TryLater(_code(error)) from error
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
                self._paused_until = _next_midnight(now)
                raise TryLater(code, self._paused_until) from error
            self._note_wrong(code, envelope.template_id)
            raise Refused(code) from error
        except VendorUnknown as error:
            # An errcode or a 5xx is an answer: it was not sent (WeChat's list of codes: -1 and 5xx may be retried).
            cause = str(error.context.get("cause", ""))
            if cause.startswith("errcode") or cause == "status":
                raise TryLater(cause.removeprefix("errcode ")) from error
            raise Unclear(cause or "unknown") from error
        except ProviderUnavailable as error:
            raise TryLater(_code(error)) from error
        self._wrong.pop(envelope.template_id, None)
        return vendor_id

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        if not error_code:
            await self._grants.used(envelope.to, envelope.template_id, session)
        elif error_code == _NO_GRANT:
            await self._grants.refused(
                envelope.to, envelope.template_id, asked_at=envelope.extra["asked_at"], session=session
            )

    def _note_wrong(self, code: str, template_id: str) -> None:
        if code == _NO_TEMPLATE:
            self._wrong[template_id] = _WRONG_AFTER
        elif code == _FIELDS:
            self._wrong[template_id] = self._wrong.get(template_id, 0) + 1


def _next_midnight(now: datetime) -> datetime:
    """Return the end of the Shanghai day of `now`: WeChat counts its quotas by that day."""
    return datetime.combine(now.astimezone(SHANGHAI).date() + timedelta(days=1), time(), SHANGHAI)


def _code(error: ProviderUnavailable) -> str:
    context: Mapping[str, Any] = error.context
    return str(context.get("cause") or type(error).__name__)
