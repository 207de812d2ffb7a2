"""What both of WeChat's channels do about its answers: a template that is left out, a quota that is used up, a page that is not there yet."""

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import Any, Protocol

import orjson
import structlog

from app.kernel import context
from app.kernel.clock import SHANGHAI
from app.kernel.errors import ProviderUnavailable
from app.platforms.wechat import TIMEOUT_S, WeChatRefused
from push.channel import ChannelError, Effect, Envelope, Refused, Then, TryLater, alarms
from push.pauses import Pauses
from push.vendor_templates import VendorTemplate

log = structlog.get_logger(__name__)

NO_TEMPLATE, FIELDS, QUOTA = "40037", "47003", "45009"
_WRONG_AFTER = 3  # one message may have a value that WeChat dislikes; three in a row are the template
# Then it is tried again: what was mended in WeChat's console is in no file of ours.
_LEFT_OUT_FOR = timedelta(days=1)


class TokenHolder(Protocol):
    async def access_token(self) -> str: ...


class Refusals:
    """What a refusal means on one channel: for this message, and for those that come after it.

    Args:
        effects: errcode -> what follows; `other` for those that are not there.
    """

    def __init__(self, channel: str, effects: Mapping[str, Effect], pauses: Pauses) -> None:
        self._channel = channel
        self._effects = effects
        self._pauses = pauses

    async def is_left_out(self, template: VendorTemplate, now: datetime) -> bool:
        """Say whether WeChat has refused a template so often that nobody asks for a while."""
        return await self._pauses.until(self.key_of(template), now) is not None

    async def check_quota(self, now: datetime) -> None:
        """Raise TryLater when the quota of the day is used up: asking once more changes nothing."""
        if paused_until := await self._pauses.until(self._channel, now):
            raise TryLater(QUOTA, paused_until)

    async def note_sent(self, envelope: Envelope) -> None:
        await self._pauses.note_right(envelope.extra["key"])

    async def meaning(self, error: WeChatRefused, envelope: Envelope, page: str, now: datetime) -> ChannelError | None:
        """Note what a refusal means for later messages; return what it means for this one, None: to be sent again without its page."""
        code, key = f"{error.errcode}", envelope.extra["key"]
        effect = self._effects.get(code, self._effects["other"])
        if effect.is_alarm:
            alarms.labels(self._channel, code).inc()
            log.error("wechat.needs_operator", channel=self._channel, errcode=code, template_id=envelope.template_id, field=error.field)
        if effect.then is Then.BARE and page:
            return None
        if effect.then is Then.TOMORROW:
            midnight = next_midnight(now)
            await self._pauses.pause(self._channel, midnight, code)
            return TryLater(code, midnight)
        if code == NO_TEMPLATE:
            await self._pauses.pause(key, now + _LEFT_OUT_FOR, code)
        elif code == FIELDS:
            await self._pauses.count_wrong(key, code, most=_WRONG_AFTER, until=now + _LEFT_OUT_FOR)
        return Refused(code)

    def key_of(self, template: VendorTemplate) -> str:
        """Return by what a template is left out: one whose entry was mended is another."""
        entry = orjson.dumps([template.page, template.fields], option=orjson.OPT_SORT_KEYS)
        return f"{self._channel}:{template.template_id}:{hashlib.sha256(entry).hexdigest()[:12]}"


def next_midnight(now: datetime) -> datetime:
    """Return the end of the Shanghai day of `now`: WeChat counts its quotas by that day."""
    return datetime.combine(now.astimezone(SHANGHAI).date() + timedelta(days=1), time(), SHANGHAI)


async def have_token(client: TokenHolder) -> None:
    """Raise TryLater while there is no access token: surely nothing was sent. Another task may be fetching it, and take its time."""
    try:
        async with asyncio.timeout(context.at_most(TIMEOUT_S)):
            await client.access_token()
    except TimeoutError as error:
        raise TryLater("no token") from error
    except ProviderUnavailable as error:
        raise TryLater(cause_of(error)) from error


def cause_of(error: ProviderUnavailable) -> str:
    context: Mapping[str, Any] = error.context
    return str(context.get("cause") or type(error).__name__)
