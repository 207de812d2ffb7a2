"""What the hall asks of a payment provider, in the hall's own words. Each file in providers/ fulfils it; the contract tests are shared.

How a provider may fail:

ProviderError
├── ProviderUnknown       it may have happened: ask by query, repeat only with the same number and the same bytes
│   └── ProviderNotSent   certainly nothing happened: not sent, or turned away unread
│       └── NotEnoughFunds   a refund that waits for money at the provider: finance acts, then the same number again
└── ProviderRefused       a definite no, with the provider's code
NotificationRejected      a message that is not the provider's, or cannot be understood
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


class PaymentState(StrEnum):
    """What a provider says of one attempt."""

    PENDING = "pending"
    PAID = "paid"
    CLOSED = "closed"
    NOT_FOUND = "not_found"


class RefundProviderState(StrEnum):
    """What a provider says of one refund."""

    PROCESSING = "processing"  # taken, the money is not there yet; may last weeks
    SUCCEEDED = "succeeded"
    ABNORMAL = "abnormal"  # the money cannot reach the payer; a person has to act at the provider
    CLOSED = "closed"  # failed for good; a new try needs a new number
    NOT_FOUND = "not_found"  # not received, or failed without a trace: the same request may be sent again


class ProviderError(Exception):
    """A provider did not do what was asked; the text is for the log."""


class ProviderUnknown(ProviderError):
    """Time-out, 5xx, an unsigned or unreadable answer: it may have happened."""


class ProviderNotSent(ProviderUnknown):
    """Nothing was done at the provider."""


class NotEnoughFunds(ProviderNotSent):
    """The merchant's balance at the provider does not cover a refund: the same request later."""


class ProviderRefused(ProviderError):
    """A definite refusal; `code` is the provider's own."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NotificationRejected(Exception):
    """Not applied: a wrong signature, or nothing we understand.

    Attributes:
        reason: for log and metrics, never with contents.
        is_signed: the signature holds, the content does not make sense.
        is_probe: WeChat Pay's own test of whether we check (SIGNTEST); no alarm.
        key_unknown: signed with a key we do not have (yet).
    """

    def __init__(
        self, reason: str, *, is_signed: bool = False, is_probe: bool = False, key_unknown: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_signed = is_signed
        self.is_probe = is_probe
        self.key_unknown = key_unknown


@dataclass(frozen=True)
class PaymentReport:
    """What a provider has said, verified, about one attempt; from a notice or from a query, both go the same way.

    Attributes:
        amount_fen, currency: what was paid; None when nothing was.
        merchant_id, app_id: as the provider named them; empty when this kind of message does not name them.
        paid_at: aware UTC.
        is_refunded: the payment was made and has been given back, in part or whole.
        notice_id: of the notification, for the log only.
    """

    provider: str
    out_trade_no: str
    state: PaymentState
    provider_trade_no: str = ""
    amount_fen: int | None = None
    currency: str = ""
    merchant_id: str = ""
    app_id: str = ""
    paid_at: datetime | None = None
    is_refunded: bool = False
    notice_id: str = ""

    def to_document(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if value is not None}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "PaymentReport":
        return cls(**{**document, "state": PaymentState(document["state"])})


@dataclass(frozen=True)
class RefundReport:
    """What a provider has said, verified, about one refund; from the answer to a refund, a query or a notice alike.

    Attributes:
        out_trade_no: the attempt whose money goes back; out_refund_no: our number of the refund.
        amount_fen: of this refund; None when this kind of message does not name it (Alipay's notice tells the sum of all).
        provider_refund_no: the provider's own number, if it has one.
        refunded_at: aware UTC.
        merchant_id, app_id: as the provider named them; empty when this kind of message does not name them.
    """

    provider: str
    out_trade_no: str
    out_refund_no: str
    state: RefundProviderState
    amount_fen: int | None = None
    provider_refund_no: str = ""
    refunded_at: datetime | None = None
    merchant_id: str = ""
    app_id: str = ""
    notice_id: str = ""

    def to_document(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if value is not None}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RefundReport":
        return cls(**{**document, "state": RefundProviderState(document["state"])})


@dataclass(frozen=True)
class Notice:
    """A verified notification.

    Attributes:
        kind: `payment`, `refund` (then `refund` is there) or `other` (nothing to apply).
        report: the payment it tells of. Alipay tells of a refund in a notice of its payment: then both are there, the payment
            is to be applied first.
    """

    kind: str
    notice_id: str
    report: PaymentReport | None
    refund: RefundReport | None = None


@dataclass(frozen=True)
class Terms:
    """What an attempt is about; a provider turns it into the request that is stored and then sent, byte for byte.

    Attributes:
        payer: who pays at this provider, as `payer_from` gave it.
        expires_at: last moment to pay, aware UTC, never after the order's own deadline.
        notify_url: where the provider tells of the payment.
        return_url: the page to come back to from an H5 cashier; coming back proves nothing.
        client_ip: of the payer, which WeChat Pay wants for H5.
    """

    out_trade_no: str
    scene: str
    amount_fen: int
    description: str
    payer: Mapping[str, str]
    expires_at: datetime
    notify_url: str
    return_url: str = ""
    client_ip: str = ""


@dataclass(frozen=True)
class RefundTerms:
    """What a refund is about; a provider turns it into the request that is stored and then sent, byte for byte.

    Attributes:
        paid_fen: the whole amount of the attempt, whatever of it has gone back already.
        reason: seen by the payer.
        notify_url: where the provider tells of the refund, when it can be told so.
    """

    out_trade_no: str
    out_refund_no: str
    amount_fen: int
    paid_fen: int
    reason: str
    notify_url: str


@dataclass(frozen=True)
class BankCard:
    """A payer's own bank card, for a refund that cannot go the way it came; never stored, never logged.

    Attributes:
        bank: the provider's word for the bank, e.g. `ICBC_DEBIT`.
    """

    bank: str
    account: str = field(repr=False)
    holder: str = field(repr=False)


class AttemptRequest(Protocol):
    """What a provider needs of an attempt to act on it."""

    @property
    def out_trade_no(self) -> str: ...
    @property
    def scene(self) -> str: ...
    @property
    def request(self) -> str: ...


class RefundRequest(Protocol):
    """What a provider needs of a refund to act on it; `request` is what `prepare_refund` returned."""

    @property
    def out_trade_no(self) -> str: ...
    @property
    def out_refund_no(self) -> str: ...
    @property
    def request(self) -> str: ...


class PaymentProvider(Protocol):
    """One provider.

    Attributes:
        name: `wechatpay`, `alipay`: in URLs, documents and metrics.
        label: what residents call it.
        identity: which channel identity says who pays (`wechat`, `alipay`).
        merchant_id, app_id: compared with every report.
        scenes: the scenes it can pay in.
        payer_scenes: those of them in which the request names who pays.
        clock_offset_s: how far the provider's clock is ahead of ours by its last answer, in seconds; None before the first.
    """

    name: str
    label: str
    identity: str
    merchant_id: str
    app_id: str
    scenes: frozenset[str]
    payer_scenes: frozenset[str]

    @property
    def clock_offset_s(self) -> float | None: ...

    def app_id_of(self, scene: str) -> str:
        """Return the application a scene is paid under: what its reports name."""
        ...

    def payer_from(self, identity: Mapping[str, Any]) -> dict[str, str]:
        """Return who pays, from a channel identity; empty when it does not say."""
        ...

    def prepare(self, terms: Terms) -> str:
        """Return the request for these terms as text: stored before it is sent, and always sent as stored."""
        ...

    async def create(self, attempt: AttemptRequest) -> dict[str, Any]:
        """Make the attempt payable and return exactly what the client SDK takes. Raises ProviderError."""
        ...

    async def query(self, attempt: AttemptRequest) -> PaymentReport:
        """Ask what became of an attempt. Raises ProviderError."""
        ...

    async def close(self, attempt: AttemptRequest) -> None:
        """Ask the provider to let nobody pay this any more; only a query afterwards proves it. Raises ProviderError."""
        ...

    def prepare_refund(self, terms: RefundTerms) -> str:
        """Return the refund's request as text: stored before it is sent, and always sent as stored."""
        ...

    async def refund(self, refund: RefundRequest) -> RefundReport:
        """Ask for a refund, or repeat exactly that; the answer says how far it is (seldom at its end).

        Raises:
            ProviderNotSent: nothing was done, the same again later (too often; NotEnoughFunds: finance has to act).
            ProviderUnknown: it may have been taken: query by its number, never a new number.
            ProviderRefused: a definite no. Only a query that says NOT_FOUND afterwards proves that nothing was done before.
        """
        ...

    async def query_refund(self, refund: RefundRequest) -> RefundReport:
        """Ask what became of a refund. Raises ProviderError."""
        ...

    async def apply_abnormal(
        self, refund: RefundRequest, provider_refund_no: str, card: BankCard | None = None
    ) -> RefundReport:
        """Have an ABNORMAL refund paid out another way: to the payer's own card, or with None to the merchant's bank account.

        A person decides on it. It may be asked twice: of a refund that is on its way again the second is refused.

        Raises:
            ProviderRefused: not abnormal, a card the provider does not take, or a provider that has no such call.
            ProviderUnknown, ProviderNotSent: as for refund; a query tells.
        """
        ...

    def read_notification(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notice:
        """Check and read a notification. Pure. Raises NotificationRejected."""
        ...

    async def learn_keys(self) -> bool:
        """Fetch verification keys if that may help (certificate mode, at most once a minute), or wait for a fetch under way.

        Says whether there was one. Never raises ProviderError.
        """
        ...

    def learn_keys_soon(self) -> None:
        """Do the same in the background: a notice with an unknown key is refused at once and costs nothing more."""
        ...
