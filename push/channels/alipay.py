"""Alipay mini-program template message.

Not repeatable: Alipay cannot recognise a repetition. Whether the person has subscribed, only Alipay knows; its refusal is final.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.errors import ProviderUnavailable
from app.platforms.alipay import AlipayRefused
from app.platforms.http import VendorUnknown
from push.channel import Effect, Envelope, Letter, People, Refused, Then, TryLater, Unclear, alarms
from push.vendor_templates import VendorTemplate

log = structlog.get_logger(__name__)

# sub_code (20000: result code) -> what follows. Source: Alipay, alipay.open.app.mini.templatemessage.send.
EFFECTS: Mapping[str, Effect] = {
    "20000": Effect("service unavailable", Then.LATER),
    "40005": Effect("called too often", Then.LATER),
    "USER_NOT_SUBSCRIBE": Effect("not subscribed", Then.NEXT),
    "USER_NOT_EXIST": Effect("no such user", Then.NEXT),
    "TEMPLATE_ID_INVALID": Effect("no such template", Then.NEXT, "", True),
    "PAGE_INVALID": Effect("page not in the released version", Then.NEXT, "", True),
    "DATA_INVALID": Effect("a field does not fit the template", Then.NEXT, "", True),
    "other": Effect("a refusal we do not know", Then.NEXT, "", True),
}


class TemplateSender(Protocol):
    """What is used of app.platforms.alipay.AlipayGateway."""

    async def send_template_message(
        self, template_id: str, data: Mapping[str, str], *, open_id: str = "", user_id: str = "", page: str
    ) -> None: ...


class AlipayMessage:
    """Channel `alipay`: for a person who signed in through Alipay, and events that have a template there."""

    name = "alipay"
    repeatable = False
    settles = False

    def __init__(self, gateway: TemplateSender, templates: Sequence[VendorTemplate], people: People) -> None:
        self._gateway = gateway
        self._templates = templates
        self._people = people

    async def prepare(self, letter: Letter) -> Envelope | None:
        template = next((one for one in self._templates if letter.event in one.events), None)
        if template is None:
            return None
        identity = await self._people.channel_identity(letter.owner_id, "alipay")
        if identity is None:
            return None
        extra = {
            "open_id": identity.get("open_id") or "",
            "user_id": identity.get("user_id") or "",
            "data": template.fill(letter.values),
            "page": template.page_for(letter.values),
        }
        return Envelope(letter, extra["open_id"] or extra["user_id"], template.template_id, extra)

    async def send(self, envelope: Envelope) -> str:
        extra = envelope.extra
        try:
            await self._gateway.send_template_message(
                envelope.template_id, extra["data"], open_id=extra["open_id"], user_id=extra["user_id"], page=extra["page"]
            )
        except AlipayRefused as error:
            code = error.sub_code or "other"
            if EFFECTS.get(code, EFFECTS["other"]).is_alarm:
                alarms.labels(self.name, code).inc()
                log.error("alipay.needs_operator", sub_code=error.sub_code, template_id=envelope.template_id)
            raise Refused(code) from error
        except VendorUnknown as error:
            cause = str(error.context.get("cause", ""))
            # A result code (20000 "service unavailable") or a 5xx is an answer: it was not sent.
            if cause[:5].isdigit() or cause == "status":
                raise TryLater(cause) from error
            raise Unclear(cause or "unknown") from error
        except ProviderUnavailable as error:
            raise TryLater(str(error.context.get("cause") or type(error).__name__)) from error
        return ""  # Alipay names no message id

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        """Nothing follows for later messages: the subscription is known to Alipay alone."""
