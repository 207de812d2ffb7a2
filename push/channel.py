"""What a channel is: the Protocol every file in channels/ fulfils, and how its failures are told apart.

ChannelError
├── Refused     for good: this person cannot be reached here with this message; the next channel is tried
├── TryLater    nothing was sent; the same channel may be tried again, with `not_before` the others first
└── Unclear     nobody knows whether it was sent (no answer after the question had gone out)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

from prometheus_client import Counter
from pymongo.asynchronous.client_session import AsyncClientSession

# `code` is one of a channel's table, or what a vendor made up: few in any case.
alarms = Counter("hall_push_alarms", "Answers of vendors that need an operator", ["channel", "code"])


class ChannelError(Exception):
    """A channel did not deliver. `code` is the vendor's code or a short word: kept with the delivery, no personal data."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Refused(ChannelError):
    """Final on this channel."""


class TryLater(ChannelError):
    """Surely not sent; worth another try. `not_before`: on this channel, until then the others are to be used."""

    def __init__(self, code: str, not_before: datetime | None = None) -> None:
        super().__init__(code)
        self.not_before = not_before


class Unclear(ChannelError):
    """Sent or not, nobody knows."""


class Then(Enum):
    """What happens to a message that a vendor answers with an error."""

    NEXT = "next channel"
    LATER = "same channel later, with back-off"
    TOMORROW = "next channel; this one again after midnight in Shanghai"
    WAIT = "next channel; this one when it may again"
    BARE = "sent once more without the page"


@dataclass(frozen=True)
class Effect:
    """One row of a channel's table of errors. docs/push.md prints the rows, a test compares them.

    Attributes:
        means: what the vendor says by it.
        also: what else follows; empty: nothing.
        is_alarm: an operator must act; counted in hall_push_alarms_total.
    """

    means: str
    then: Then
    also: str = ""
    is_alarm: bool = False


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
    language: str = "zh"  # of `short`


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
    `settles`: an outcome means something for later sends, so `settle` is called.
    """

    name: str
    repeatable: bool
    settles: bool

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
