"""Calls through the city's gateway: POST {base}/calls with a request id; the same id is one call. Reports: push/gateway_reports.py.

For people in elder mode and those who asked for calls, of what is urgent or must arrive (push/templates.py puts it last in their chains),
and only while people are awake: never from 21:00 to 08:00 in Shanghai, never in somebody's quiet hours, however urgent it is.

Repeatable: the delivery id is the request id, so a call of unknown outcome is simply asked for again.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, time

from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.errors import NotFound
from app.kernel.numbers import check_mobile
from app.platforms.http import HttpClient
from push.channel import Effect, Envelope, Letter, People, Refused, Then, TryLater
from push.gateway import ask_gateway
from push.model import Preferences
from push.store import Store
from push.templates import SIGNATURE

NIGHT = Preferences(quiet_from=time(21), quiet_to=time(8))
_LONGEST_TEXT = 220  # of what is said once: a minute at the gateway's pace
_SAID = {
    "zh": "您好，这里是韶关办事大厅，有一件您办的事要告诉您。{text}再说一遍。{text}再见。",
    "en": "Hello, this is the Shaoguan service hall with a message about your business. {text} Once more: {text} Goodbye.",
}
_TAGS = {"zh": "zh-CN", "en": "en"}

# HTTP status of the gateway -> what follows.
EFFECTS: Mapping[str, Effect] = {
    "night": Effect("21:00 to 08:00 in Shanghai, or the person's quiet hours", Then.WAIT, "without asking the gateway"),
    "408": Effect("the gateway gave up waiting", Then.LATER),
    "425": Effect("too early", Then.LATER),
    "429": Effect("rate exceeded", Then.LATER),
    "other": Effect("the gateway does not make this call", Then.NEXT, "", True),
}


class Voice:
    """Channel `voice`: for a person whose phone number is verified. Whether they want calls, push.model.Preferences says."""

    name = "voice"
    repeatable = True
    settles = False

    def __init__(self, http: HttpClient, store: Store, people: People, clock: Callable[[], datetime], *, base_url: str) -> None:
        self._http = http
        self._store = store
        self._people = people
        self._clock = clock
        self._url = f"{base_url.rstrip('/')}/calls" if base_url else ""

    async def prepare(self, letter: Letter) -> Envelope | None:
        if not self._url:  # a hall that calls nobody
            return None
        try:
            phone = check_mobile(await self._people.phone_of(letter.owner_id))
        except (NotFound, ValueError):
            return None
        return Envelope(letter, phone, extra={"preferences": await self._store.preferences(letter.owner_id)})

    async def send(self, envelope: Envelope) -> str:
        letter = envelope.letter
        may_call_at = first_allowed(self._clock(), envelope.extra["preferences"])
        if may_call_at is None:
            raise Refused("night")
        if may_call_at > self._clock():
            raise TryLater("night", may_call_at)
        text, language = spoken(letter.short)
        body = {
            "request_id": letter.delivery_id, "phone": envelope.to, "template": letter.event, "params": {}, "text": text,
            "language": _TAGS[language],
        }  # fmt: skip
        return await ask_gateway(self._http, self.name, self._url, body, EFFECTS)

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        """Nothing follows for later calls."""


def first_allowed(now: datetime, preferences: Preferences) -> datetime | None:
    """Return the first moment from `now` on outside the night and the person's quiet hours; None: they leave no moment of the day."""
    at = now
    for _ in range(4):  # one begins where the other ends, at most twice each
        ends = [end for end in (NIGHT.quiet_until(at), preferences.quiet_until(at)) if end is not None]
        if not ends:
            return at
        at = max(ends)
    return None


def spoken(short: str) -> tuple[str, str]:
    """Return what is said for a short text, and its language (`zh`, `en`): who calls, the text twice, without the signature for the eye."""
    for language, signature in SIGNATURE.items():
        if short.startswith(signature):
            said = short.removeprefix(signature)[:_LONGEST_TEXT]
            return _SAID[language].format(text=said), language
    return _SAID["zh"].format(text=short[:_LONGEST_TEXT]), "zh"
