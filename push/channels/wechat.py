"""WeChat subscribe message: one per grant, fields within the limits of the approved template.

Not repeatable: WeChat cannot recognise a repetition, and a second message would use up a second grant.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.errors import ProviderUnavailable
from app.platforms.http import VendorUnknown
from app.platforms.wechat import WeChatRefused, answered_code
from push.channel import Effect, Envelope, Letter, People, Then, TryLater, Unclear
from push.channels.wechat_refusals import Refusals, cause_of, have_token
from push.grants import Grants
from push.pauses import Pauses

# What WeChat answers where asking again is no use before the person has allowed the template anew.
_NO_GRANT = frozenset({"43101", "40003"})

# errcode -> what follows. Source: WeChat, subscribeMessage.send and the list of global return codes.
EFFECTS: Mapping[str, Effect] = {
    "-1": Effect("WeChat is busy", Then.LATER),
    "40001": Effect("access token wrong", Then.LATER, "the token is replaced once, for all processes, and the call made again first"),
    "40014": Effect("access token wrong", Then.LATER, "as 40001"),
    "42001": Effect("access token expired", Then.LATER, "as 40001"),
    "40003": Effect("openid dead or of another app", Then.NEXT, "as 43101: nobody asks for it again"),
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
        self._refusals = Refusals(self.name, EFFECTS, pauses)
        self._clock = clock

    async def prepare(self, letter: Letter) -> Envelope | None:
        identity = await self._people.channel_identity(letter.owner_id, "wechat")
        if identity is None:
            return None
        template = await self._grants.best_for(identity["openid"], letter.event)
        if template is None or await self._refusals.is_left_out(template, self._clock()):
            return None
        extra = {
            "data": template.fill(letter.values),
            "page": template.page_for(letter.values),
            "asked_at": self._clock(),
            "key": self._refusals.key_of(template),
        }
        return Envelope(letter, identity["openid"], template.template_id, extra)

    async def send(self, envelope: Envelope) -> str:
        now = self._clock()
        await self._refusals.check_quota(now)
        await have_token(self._client)
        for page in dict.fromkeys((str(envelope.extra["page"]), "")):
            try:
                vendor_id = await self._client.send_subscribe_message(
                    envelope.to, envelope.template_id, envelope.extra["data"], page=page
                )
            except WeChatRefused as error:
                meaning = await self._refusals.meaning(error, envelope, page, now)
                if meaning is None:
                    continue
                raise meaning from error
            except VendorUnknown as error:
                code = answered_code(error)
                raise (Unclear(cause_of(error)) if code is None else TryLater(code)) from error
            except ProviderUnavailable as error:
                raise TryLater(cause_of(error)) from error
            await self._refusals.note_sent(envelope)
            return vendor_id
        raise AssertionError("the round without a page returns or raises")

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        if not error_code:
            await self._grants.used(envelope.to, envelope.template_id, session)
        elif error_code in _NO_GRANT:
            await self._grants.refused(
                envelope.to, envelope.template_id, asked_at=envelope.extra["asked_at"], session=session
            )
