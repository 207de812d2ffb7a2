"""Template message of the city's official account on WeChat: for a follower, known by the unionid of the mini-program's sign-in.

Not repeatable: WeChat knows our id (client_msg_id) for ten minutes only, and a worker may be away for longer. Within one send it is enough:
a call without an answer is made once more at once, with the same id. Source: WeChat official account documents, "模板消息".
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.errors import ProviderUnavailable
from app.platforms.http import VendorUnknown
from app.platforms.wechat import WeChat, WeChatRefused, answered_code
from app.platforms.wechat_account import send_template_message
from push.channel import Effect, Envelope, Letter, People, Then, TryLater, Unclear
from push.channels.wechat_refusals import Refusals, cause_of, have_token
from push.followers import Followers
from push.pauses import Pauses
from push.vendor_templates import VendorTemplate

_GONE = frozenset({"40003", "43004"})

# errcode -> what follows. Source: "模板消息", and the list of global return codes.
EFFECTS: Mapping[str, Effect] = {
    "-1": Effect("WeChat is busy", Then.LATER),
    "40001": Effect("access token wrong", Then.LATER, "the token is replaced once, for all processes, and the call made again first"),
    "40014": Effect("access token wrong", Then.LATER, "as 40001"),
    "42001": Effect("access token expired", Then.LATER, "as 40001"),
    "40003": Effect("openid dead or of another account", Then.NEXT, "the person no longer counts as a follower"),
    "43004": Effect("the person does not follow the account", Then.NEXT, "the person no longer counts as a follower"),
    "43101": Effect("the person turned this template off", Then.NEXT),
    "43019": Effect("the person is on the account's black list", Then.NEXT),
    "40013": Effect("the mini-program is not bound to the account", Then.BARE, "", True),
    "40165": Effect("page not in the released version", Then.BARE, "", True),
    "40037": Effect("no such template", Then.NEXT, "the template is left out for a day, or until its entry is mended", True),
    "47003": Effect("a field does not fit the template", Then.NEXT, "three in a row: as 40037", True),
    "45009": Effect("quota of the day used up", Then.TOMORROW, "nobody asks until then", True),
    "48001": Effect("interface not granted to us", Then.NEXT, "", True),
    "50002": Effect("the account is limited", Then.NEXT, "", True),
    "other": Effect("a code we do not know", Then.NEXT, "", True),
}


class WechatOfficial:
    """Channel `official`.

    Args:
        account: of the official account, not of the mini-program.
        mini_program: app id of the mini-program that a tap opens.
        public_url: of the hall, for a WeChat that cannot open mini-programs.
    """

    name = "official"
    repeatable = False
    settles = True

    def __init__(
        self,
        account: WeChat,
        followers: Followers,
        templates: Sequence[VendorTemplate],
        people: People,
        pauses: Pauses,
        clock: Callable[[], datetime],
        *,
        mini_program: str,
        public_url: str,
    ) -> None:
        self._account = account
        self._followers = followers
        self._templates = templates
        self._people = people
        self._refusals = Refusals(self.name, EFFECTS, pauses)
        self._clock = clock
        self._mini_program = mini_program
        self._public_url = public_url

    async def prepare(self, letter: Letter) -> Envelope | None:
        template = next((one for one in self._templates if letter.event in one.events), None)
        if template is None or await self._refusals.is_left_out(template, self._clock()):
            return None
        identity = await self._people.channel_identity(letter.owner_id, "wechat")
        openid = await self._followers.openid_of(str((identity or {}).get("unionid") or ""))
        if not openid:
            return None
        extra = {
            "data": template.fill(letter.values),
            "page": template.page_for(letter.values),
            "key": self._refusals.key_of(template),
        }
        return Envelope(letter, openid, template.template_id, extra)

    async def send(self, envelope: Envelope) -> str:
        now = self._clock()
        await self._refusals.check_quota(now)
        await have_token(self._account)
        for page in dict.fromkeys((str(envelope.extra["page"]), "")):
            try:
                vendor_id = await self._call(envelope, page)
            except WeChatRefused as error:
                meaning = await self._refusals.meaning(error, envelope, page, now)
                if meaning is None:
                    continue
                raise meaning from error
            await self._refusals.note_sent(envelope)
            return vendor_id
        raise AssertionError("the round without a page returns or raises")

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        if error_code in _GONE:
            await self._followers.gone(envelope.to, session)

    async def _call(self, envelope: Envelope, page: str) -> str:
        """Send once; cut off without an answer, once more: the same id is one message. Raises WeChatRefused, TryLater, Unclear."""
        cut_off: VendorUnknown | None = None
        while True:
            try:
                return await send_template_message(
                    self._account,
                    envelope.to,
                    envelope.template_id,
                    envelope.extra["data"],
                    client_msg_id=envelope.letter.delivery_id,
                    mini_program=self._mini_program,
                    page=page,
                    url=f"{self._public_url}{envelope.letter.link}",
                )
            except WeChatRefused as error:
                if cut_off is not None and f"{error.errcode}" not in EFFECTS:  # perhaps WeChat's word for "sent already"
                    raise Unclear(f"{error.errcode}") from error
                raise
            except VendorUnknown as error:
                code, cause = answered_code(error), cause_of(error)
                if code is not None:
                    raise (TryLater if cut_off is None else Unclear)(code) from error
                if cut_off is not None or cause == "TimeoutError":  # whoever has waited that long has no time for another
                    raise Unclear(cause) from error
                cut_off = error
            except ProviderUnavailable as error:
                raise (TryLater if cut_off is None else Unclear)(cause_of(error)) from error
