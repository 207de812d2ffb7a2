"""Department systems behind one Protocol, and the adapter for the hall's exchange format (JSON over HTTPS, docs/integration.md).

Wire: POST /bills/lookup {kind, keys} -> {as_of, source, bills}; GET /bills/{id}; POST /bills/{id}/payments and /bills/{id}/refunds ->
{accepted}; POST /checks/{kind} {inputs, person} -> {as_of, source, records, bills}. Every answer is judged before anybody sees it: what cannot
be read is "the system did not answer", never "nothing was found".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol
from urllib.parse import quote

import orjson
import structlog
from marshmallow import EXCLUDE, Schema, ValidationError, fields
from marshmallow.validate import And, Equal, Length, OneOf, Range, Regexp

from app.kernel import context
from app.kernel.clock import format_utc
from app.kernel.errors import HallError, NotFound, ProviderUnavailable
from app.kernel.numbers import mask_name

log = structlog.get_logger(__name__)

TIMEOUT_S = 8.0

# The states of a bill that the exchange format knows. Another word makes the answer unreadable: it is never guessed.
BILL_STATES = ("unpaid", "paid", "closed", "disputed", "refunded")


@dataclass(frozen=True)
class Office:
    """Whom to ask, and whom a resident turns to when the system is away."""

    id: str
    name: str
    hotline: str


@dataclass(frozen=True)
class Bill:
    """A bill as its department has it now; amounts in fen, `late_fee_fen` is today's surcharge on top."""

    id: str
    kind: str
    title: str
    amount_fen: int
    late_fee_fen: int
    due_on: str
    issued_on: str | None
    payee_id: str
    payee_name: str
    state: str
    notes: str
    points: int | None
    receipt_no: str | None
    hard_deadline: str | None = None  # RFC 3339: the moment after which it is closed
    payer_masked: str = ""  # whose bill it is, as far as a payer may know


@dataclass(frozen=True)
class Found:
    """What a department answered. `records` are {title, state, rows: [{label, value}]}."""

    as_of: str
    source: str
    records: tuple[Mapping[str, Any], ...]
    bills: tuple[Bill, ...]


class InputsRefused(HallError):
    """The department needs more, or other, inputs. `fields` names them where it said so."""

    code = "validation.failed"
    status = 422

    def __init__(self, fields_: tuple[str, ...]) -> None:
        super().__init__("查询条件不完整")
        self.fields = fields_


class PaymentRefused(HallError):
    """The department does not take a payment or a refund: paid already, not its amount, not known. Asking again changes nothing."""

    code = "bill.payment_refused"
    status = 409


class BillNotFound(NotFound):
    code = "bill.not_found"
    title = "没有找到这张账单"


class DepartmentSystems(Protocol):
    """What the hall asks of department systems.

    Every method raises ProviderUnavailable, naming the office's hotline, when the system is down, slow, or not to be understood.
    """

    async def lookup_bills(self, office: Office, kind: str, keys: Mapping[str, str]) -> Found:
        """Return the bills that fit. Raises InputsRefused."""
        ...

    async def bill(self, office: Office, bill_id: str) -> Bill:
        """Return one bill as it is now. Raises BillNotFound."""
        ...

    async def report_payment(
        self,
        office: Office,
        bill_id: str,
        *,
        payment_id: str,
        amount_fen: int,
        late_fee_fen: int,
        paid_at: datetime,
        provider_trade_no: str,
    ) -> str:
        """Tell that a bill was paid; the same `payment_id` again is the same payment. Return the department's receipt number.

        Raises:
            PaymentRefused, BillNotFound.
        """
        ...

    async def report_refund(
        self, office: Office, bill_id: str, *, refund_id: str, payment_id: str, amount_fen: int, refunded_at: datetime
    ) -> None:
        """Tell that money of a payment told before has gone back; the same `refund_id` again is the same refund.

        Raises:
            PaymentRefused, BillNotFound.
        """
        ...

    async def check(
        self, office: Office, kind: str, inputs: Mapping[str, str], person: Mapping[str, str] | None
    ) -> Found:
        """Ask about a person's own matter; `person` is {name, id_number}, verified. Raises InputsRefused."""
        ...


class HttpResponse(Protocol):
    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...


class Http(Protocol):
    """What is needed of app/platforms/http.py."""

    async def request(
        self,
        vendor: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
    ) -> HttpResponse: ...


class _Lenient(Schema):
    class Meta:
        unknown = EXCLUDE  # a department may add fields; what we use is judged


class _Payee(_Lenient):
    agency = fields.String(load_default="")
    name = fields.String(required=True, validate=Length(1, 100))


def _is_day(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ValidationError("not a day") from error


_DAY = And(Regexp(r"^\d{4}-\d{2}-\d{2}$"), _is_day)


class _BillSchema(_Lenient):
    id = fields.String(required=True, validate=Regexp(r"^[\w.-]{1,64}$"))
    kind = fields.String(required=True, validate=Length(1, 40))
    title = fields.String(required=True, validate=Length(1, 200))
    amount_fen = fields.Integer(required=True, strict=True, validate=Range(0, 10**11))
    late_fee_fen = fields.Integer(load_default=0, strict=True, validate=Range(0, 10**11))
    due_on = fields.String(required=True, validate=_DAY)
    issued_on = fields.String(load_default=None, allow_none=True, validate=_DAY)
    payee = fields.Nested(_Payee, required=True)
    state = fields.String(required=True, validate=OneOf(BILL_STATES))
    notes = fields.String(load_default="", validate=Length(max=500))
    points = fields.Integer(load_default=None, allow_none=True, strict=True, validate=Range(0, 12))
    receipt_no = fields.String(load_default=None, allow_none=True, validate=Length(max=64))
    hard_deadline = fields.AwareDateTime(load_default=None, allow_none=True, format="iso")
    payer_name_masked = fields.String(load_default="", validate=Length(max=60))


class _Row(_Lenient):
    label = fields.String(required=True, validate=Length(1, 60))
    value = fields.String(required=True, validate=Length(max=500))


class _Record(_Lenient):
    title = fields.String(required=True, validate=Length(1, 100))
    state = fields.String(load_default="", validate=Length(max=60))
    rows = fields.List(fields.Nested(_Row), required=True, validate=Length(max=60))


class _FoundSchema(_Lenient):
    as_of = fields.AwareDateTime(required=True, format="iso")
    source = fields.String(required=True, validate=Length(1, 100))
    records = fields.List(fields.Nested(_Record), load_default=list, validate=Length(max=500))
    bills = fields.List(fields.Nested(_BillSchema), required=True, validate=Length(max=500))


class _LookupSchema(_Lenient):
    as_of = fields.AwareDateTime(required=True, format="iso")
    source = fields.String(required=True, validate=Length(1, 100))
    bills = fields.List(fields.Nested(_BillSchema), required=True, validate=Length(max=500))


class _PaymentSchema(_Lenient):
    accepted = fields.Boolean(required=True, truthy={True}, falsy={False}, validate=Equal(True))
    receipt_no = fields.String(load_default="", validate=Length(max=64))


_FOUND, _LOOKUP, _BILL, _PAYMENT = _FoundSchema(), _LookupSchema(), _BillSchema(), _PaymentSchema()


class Departments:
    """The department systems at one base address. Each office has its own breaker: one that is away does not close the others."""

    def __init__(self, http: Http, base_url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._http = http
        self._base = base_url.rstrip("/")
        self._timeout_s = timeout_s

    async def lookup_bills(self, office: Office, kind: str, keys: Mapping[str, str]) -> Found:
        status, answer = await self._call(office, "POST", "/bills/lookup", {"kind": kind, "keys": dict(keys)})
        if status == 422:
            raise InputsRefused(_wanted(answer))
        return _found(self._judged(office, status, answer, _LOOKUP))

    async def bill(self, office: Office, bill_id: str) -> Bill:
        status, answer = await self._call(office, "GET", f"/bills/{quote(bill_id, safe='')}")
        if status == 404:
            raise BillNotFound("部门系统里没有这张账单，请重新查询。", en="No such bill.")
        found = _bill(self._judged(office, status, answer, _BILL))
        if found.id != bill_id:
            raise self._away(office, "another bill")
        return found

    async def report_payment(
        self,
        office: Office,
        bill_id: str,
        *,
        payment_id: str,
        amount_fen: int,
        late_fee_fen: int,
        paid_at: datetime,
        provider_trade_no: str,
    ) -> str:
        status, answer = await self._call(
            office,
            "POST",
            f"/bills/{quote(bill_id, safe='')}/payments",
            {
                "payment_id": payment_id,
                "amount_fen": amount_fen,
                "late_fee_fen": late_fee_fen,
                "paid_at": format_utc(paid_at),
                "provider_trade_no": provider_trade_no,
            },
        )
        if status == 404:
            raise BillNotFound("部门系统里没有这张账单。", en="No such bill.")
        if status in (409, 422):
            raise PaymentRefused("部门没有接受这笔缴款。", word=_word(answer))
        return str(self._judged(office, status, answer, _PAYMENT)["receipt_no"])

    async def report_refund(
        self, office: Office, bill_id: str, *, refund_id: str, payment_id: str, amount_fen: int, refunded_at: datetime
    ) -> None:
        told = {
            "refund_id": refund_id,
            "payment_id": payment_id,
            "amount_fen": amount_fen,
            "refunded_at": format_utc(refunded_at),
        }
        status, answer = await self._call(office, "POST", f"/bills/{quote(bill_id, safe='')}/refunds", told)
        if status == 404:
            raise BillNotFound("部门系统里没有这张账单。", en="No such bill.")
        if status in (409, 422):
            raise PaymentRefused("部门没有接受这笔退款。", word=_word(answer))
        self._judged(office, status, answer, _PAYMENT)

    async def check(
        self, office: Office, kind: str, inputs: Mapping[str, str], person: Mapping[str, str] | None
    ) -> Found:
        status, answer = await self._call(
            office, "POST", f"/checks/{quote(kind, safe='')}", {"inputs": dict(inputs), "person": dict(person or {})}
        )
        if status == 422:
            raise InputsRefused(_wanted(answer))
        return _found(self._judged(office, status, answer, _FOUND))

    async def _call(self, office: Office, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Accept": "application/json", "X-Request-ID": context.request_id.get()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = await self._http.request(
                f"department.{office.id}",
                method,
                self._base + path,
                headers=headers,
                body=None if body is None else orjson.dumps(body),
                timeout_s=self._timeout_s,
            )
        except ProviderUnavailable as error:
            raise self._away(office, type(error).__name__, error.retry_after_s) from error
        try:
            return response.status, orjson.loads(response.body)
        except orjson.JSONDecodeError as error:
            raise self._away(office, "not json") from error

    def _judged(self, office: Office, status: int, answer: Any, schema: Schema) -> dict[str, Any]:
        if status != 200:
            raise self._away(office, f"status {status}")
        try:
            judged: dict[str, Any] = schema.load(answer)
            return judged
        except ValidationError as error:
            # The field names say enough; the values are somebody's data.
            raise self._away(office, f"wrong shape: {', '.join(map(str, list(error.messages)[:5]))}") from error

    def _away(self, office: Office, cause: str, retry_after_s: int = 30) -> ProviderUnavailable:
        log.warning("department.unusable", office=office.id, cause=cause)
        return ProviderUnavailable(
            f"{office.name}的系统暂时没有给出可靠的回答，现在查不到，不代表没有。"
            f"请稍后再试，或拨打{office.hotline}、到{office.name}的窗口办理。",
            retry_after_s=retry_after_s,
            en=f"The system of this department ({office.id}) does not answer; this does not mean there is nothing. "
            f"Try later, or call {office.hotline}.",
            office=office.id,
            cause=cause,
        )


def _word(answer: Any) -> str:
    """Return the word with which a department refuses."""
    return str(answer.get("code") if isinstance(answer, dict) else None)[:40]


def _wanted(answer: Any) -> tuple[str, ...]:
    """Return the input names that a 422 asks for, as far as it says."""
    if not isinstance(answer, dict):
        return ()
    named = answer.get("fields") or [name for names in (answer.get("key_sets") or [])[:1] for name in names]
    return tuple(str(name).removeprefix("inputs.") for name in named if isinstance(name, str))


def _masked(name: str) -> str:
    """Return a name with nothing but its first character readable; what is masked already stays as it is."""
    return name if not name or "*" in name else mask_name(name)


def _bill(row: Mapping[str, Any]) -> Bill:
    return Bill(
        id=row["id"],
        kind=row["kind"],
        title=row["title"],
        amount_fen=row["amount_fen"],
        late_fee_fen=row["late_fee_fen"],
        due_on=row["due_on"],
        issued_on=row["issued_on"],
        payee_id=row["payee"]["agency"],
        payee_name=row["payee"]["name"],
        state=row["state"],
        notes=row["notes"],
        points=row["points"],
        receipt_no=row["receipt_no"],
        hard_deadline=format_utc(row["hard_deadline"]),
        # Masked once more: a department that sends a whole name must not make us show it.
        payer_masked=_masked(row["payer_name_masked"]),
    )


def _found(answer: Mapping[str, Any]) -> Found:
    return Found(
        as_of=format_utc(answer["as_of"]) or "",
        source=answer["source"],
        records=tuple(answer.get("records", ())),
        bills=tuple(_bill(row) for row in answer["bills"]),
    )
