"""Text messages through the city's gateway: POST {base}/messages with a request id; the same id is one message.

Repeatable: the delivery id is the request id, so a send of unknown outcome is simply made again.
"""

from collections.abc import Mapping

from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.errors import HallError, NotFound, ProviderUnavailable
from app.kernel.ids import new_id
from app.kernel.numbers import check_mobile
from app.platforms.http import HttpClient
from push.channel import Effect, Envelope, Letter, People, Refused, Then, TryLater, Unclear
from push.gateway import ask_gateway

CODE_MINUTES = 5
# HTTP status of the gateway -> what follows.
EFFECTS: Mapping[str, Effect] = {
    "408": Effect("the gateway gave up waiting", Then.LATER),
    "425": Effect("too early", Then.LATER),
    "429": Effect("rate exceeded", Then.LATER),
    "other": Effect("the gateway does not take this message", Then.NEXT, "", True),
}
_PURPOSES = {"login": "登录", "phone": "验证手机号"}


class SmsGateway:
    """Thin client of the gateway."""

    def __init__(self, http: HttpClient, base_url: str) -> None:
        self._http = http
        self._url = f"{base_url.rstrip('/')}/messages"

    async def send(self, request_id: str, phone: str, template: str, params: Mapping[str, str], text: str) -> str:
        """Send one message and return the gateway's id.

        Raises:
            Refused, TryLater, Unclear: as ask_gateway.
        """
        body = {"request_id": request_id, "phone": phone, "template": template, "params": dict(params), "text": text}
        return await ask_gateway(self._http, "sms", self._url, body, EFFECTS)

    async def send_code(self, phone: str, code: str, purpose: str) -> None:
        """Send a sign-in code at once. Raises ProviderUnavailable when the gateway does not take it.

        An unclear send is made once more with the same request id: still one message.
        """
        what = _PURPOSES.get(purpose, "办理业务")
        text = (
            f"【韶关办事】您的验证码是{code}，{CODE_MINUTES}分钟内有效。您正在{what}，"
            "请不要告诉任何人，工作人员也不会向您要。"
        )
        request_id = new_id("sms")
        for is_last in (False, True):
            try:
                await self.send(request_id, phone, f"code.{purpose}", {"code": code}, text)
                return
            except Refused as error:
                raise _code_not_sent() from error
            except (TryLater, Unclear) as error:
                if is_last:
                    raise _code_not_sent() from error


class Sms:
    """Channel `sms`: for a person whose phone number is verified."""

    name = "sms"
    repeatable = True
    settles = False

    def __init__(self, gateway: SmsGateway, people: People) -> None:
        self._gateway = gateway
        self._people = people

    async def prepare(self, letter: Letter) -> Envelope | None:
        try:
            phone = await self._people.phone_of(letter.owner_id)
            return Envelope(letter, check_mobile(phone))
        except (NotFound, ValueError):  # no account any more, no number, or one the gateway does not serve
            return None

    async def send(self, envelope: Envelope) -> str:
        letter = envelope.letter
        params = {name: letter.values[name] for name in ("item_name",) if name in letter.values}
        return await self._gateway.send(letter.delivery_id, envelope.to, letter.event, params, letter.short)

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        """Nothing follows for later messages."""


def _code_not_sent() -> HallError:
    return ProviderUnavailable(
        "短信暂时发不出去，请稍后再试，或用微信、支付宝登录。", en="The text message could not be sent; please try again.", retry_after_s=10
    )
