"""What a channel is: the Protocol every file in channels/ fulfils, and how its failures are told apart.

ChannelError
├── Refused     for good: this person cannot be reached here with this message; the next channel is tried
├── TryLater    nothing was sent; the same channel may be tried again
└── Unclear     nobody knows whether it was sent (no answer after the question had gone out)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pymongo.asynchronous.client_session import AsyncClientSession


class ChannelError(Exception):
    """A channel did not deliver. `code` is the vendor's code or a short word: kept with the delivery, no personal data."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Refused(ChannelError):
    """Final on this channel."""


class TryLater(ChannelError):
    """Surely not sent; worth another try."""


class Unclear(ChannelError):
    """Sent or not, nobody knows."""


@dataclass(frozen=True)
class Letter:
    """What is to be carried.

    Attributes:
        delivery_id: the same for every try, so a gateway that knows it sends one message only.
        short: one text for text messages and native pushes.
        values: for the fields of vendor templates; only what may stand on a lock screen.
        link: path inside the hall.
    """

    delivery_id: str
    event: str
    owner_id: str
    short: str
    values: Mapping[str, str]
    link: str


@dataclass(frozen=True)
class Envelope:
    """A letter made ready for one person on one channel. `to` is a personal address: never logged, never stored."""

    letter: Letter
    to: str
    template_id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


class Channel(Protocol):
    """One way to reach a person outside the hall.

    `repeatable`: the vendor takes the same delivery id twice as one message, so an unclear send may simply be repeated.
    """

    name: str
    repeatable: bool

    async def prepare(self, letter: Letter) -> Envelope | None:
        """Return the envelope, or None when this person cannot be reached here. Sends nothing."""
        ...

    async def send(self, envelope: Envelope) -> str:
        """Send once; return the vendor's message id ("" when it gives none). Raises a ChannelError."""
        ...

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        """Note what the outcome means for later sends ("" = sent), in the transaction that records the outcome."""
        ...


class People(Protocol):
    """What push asks about a person; assembly connects it to app.identity."""

    async def channel_identity(self, resident_id: str, provider: str) -> Mapping[str, Any] | None: ...

    async def phone_of(self, resident_id: str) -> str: ...
