"""WeChat subscribe message: one per grant, fields within the limits of the approved template.

Not repeatable: WeChat cannot recognise a repetition, and a second message would use up a second grant.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import structlog
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.errors import ProviderUnavailable
from app.platforms.http import VendorUnknown
from app.platforms.wechat import WeChatRefused
from push.channel import Envelope, Letter, People, Refused, TryLater, Unclear
from push.grants import Grants

log = structlog.get_logger(__name__)

_NO_GRANT = "no_grant"


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

    def __init__(self, client: SubscribeSender, grants: Grants, people: People, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._grants = grants
        self._people = people
        self._clock = clock

    async def prepare(self, letter: Letter) -> Envelope | None:
        identity = await self._people.channel_identity(letter.owner_id, "wechat")
        if identity is None:
            return None
        template = await self._grants.best_for(identity["openid"], letter.event)
        if template is None:
            return None
        extra = {
            "data": template.fill(letter.values),
            "page": template.page_for(letter.values),
            "asked_at": self._clock(),
        }
        return Envelope(letter, identity["openid"], template.template_id, extra)

    async def send(self, envelope: Envelope) -> str:
        try:
            # The token first: while there is none, surely nothing was sent.
            await self._client.access_token()
        except ProviderUnavailable as error:
            raise TryLater(_code(error)) from error
        page: str = envelope.extra["page"]
        try:
            return await self._client.send_subscribe_message(
                envelope.to, envelope.template_id, envelope.extra["data"], page=page
            )
        except WeChatRefused as error:
            if error.kind == "page_invalid" and page:
                # The page is not in the released version yet: nothing was sent, and the message is of use without it.
                log.error("wechat.page_not_released", template_id=envelope.template_id)
                return await self.send(replace(envelope, extra={**envelope.extra, "page": ""}))
            raise Refused(_NO_GRANT if error.kind == _NO_GRANT else f"{error.errcode}") from error
        except VendorUnknown as error:
            # An errcode or a 5xx is an answer: it was not sent (WeChat's list of codes: -1 and 5xx may be retried).
            cause = str(error.context.get("cause", ""))
            if cause.startswith("errcode") or cause == "status":
                raise TryLater(cause) from error
            raise Unclear(cause or "unknown") from error
        except ProviderUnavailable as error:
            raise TryLater(_code(error)) from error

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        if not error_code:
            await self._grants.used(envelope.to, envelope.template_id, session)
        elif error_code == _NO_GRANT:
            await self._grants.refused(
                envelope.to, envelope.template_id, asked_at=envelope.extra["asked_at"], session=session
            )


def _code(error: ProviderUnavailable) -> str:
    context: Mapping[str, Any] = error.context
    return str(context.get("cause") or type(error).__name__)
