"""The base of every handler: parse (marshmallow), authorise, call one domain function, answer; every failure as problem+json.

A handler method is declared with `@operation(...)`, which authenticates, parses and replays idempotent answers, and is what
/openapi.json is generated from. Handlers hold no rules.
"""

import asyncio
import functools
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
import structlog
from marshmallow import Schema
from prometheus_client import Counter, Histogram
from pymongo.errors import PyMongoError
from tornado.web import HTTPError, RequestHandler

from app.kernel import context
from app.kernel.errors import (
    BadRequest,
    HallError,
    NotFound,
    TooLarge,
    ValidationFailed,
    WrongType,
    error_row,
)
from app.kernel.ids import ulid
from app.storage import idempotency
from handlers.problems import as_hall_error, judged

if TYPE_CHECKING:
    from app.identity.model import ResidentSession, StaffSession

log = structlog.get_logger(__name__)

MAX_JSON_BYTES = 1024 * 1024
_KEY = re.compile(r"[\x21-\x7e]{1,64}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

requests = Counter("hall_http_requests", "Requests", ["route", "method", "status"])
seconds = Histogram("hall_http_seconds", "Time to answer", ["route"], buckets=(0.005, 0.02, 0.05, 0.1, 0.3, 1, 3, 10))


@dataclass(frozen=True)
class Operation:
    """What `@operation` says of a method; read by the method's wrapper and by handlers/openapi.py."""

    summary: str
    body: type[Schema] | None
    query: type[Schema] | None
    answers: Mapping[int, type[Schema] | None]
    auth: str | None
    idempotent: bool
    body_optional: bool


def operation(
    summary: str,
    *,
    body: type[Schema] | None = None,
    query: type[Schema] | None = None,
    answers: Mapping[int, type[Schema] | None] | None = None,
    auth: str | None = None,
    idempotent: bool = False,
    body_optional: bool = False,
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Declare a handler method.

    Args:
        summary: one line for the API docs.
        body: schema of the JSON body; the parsed dict is `self.body`.
        query: schema of the query; the parsed dict is `self.query`.
        answers: status -> schema of the answer (for the docs).
        auth: `resident` (sets `self.resident`), `staff` (sets `self.staff`), or None.
        idempotent: demand `Idempotency-Key` and replay the first answer.
        body_optional: an empty body counts as `{}`.
    """
    declared = Operation(summary, body, query, answers or {200: None}, auth, idempotent, body_optional)

    def wrap(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(method)
        async def run(self: "HallHandler", *args: str, **kwargs: str) -> None:
            if declared.auth == "resident":
                self.resident = await self.require_resident()
            elif declared.auth == "staff":
                self.staff = await self.require_staff()
            if declared.query is not None:
                self.query = self.load_query(declared.query)
            if declared.body is not None:
                self.body = self.load_json(declared.body, optional=declared.body_optional)
            if not declared.idempotent:
                return await method(self, *args, **kwargs)
            if await self._replayed():
                return None
            return await method(self, *args, **kwargs)

        run.operation = declared  # type: ignore[attr-defined]
        return run

    return wrap


class HallHandler(RequestHandler):
    """Base of all handlers. `self.hall` is what commands/assembly.py put together."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    route: ClassVar[str] = ""

    resident: "ResidentSession"
    staff: "StaffSession"
    body: dict[str, Any]
    query: dict[str, Any]

    def initialize(self) -> None:
        self._reservation: idempotency.Reservation | None = None
        self._renewing: asyncio.TimerHandle | None = None
        self._began = time.perf_counter()
        # A stream is no request that ends: stopping closes streams by itself (commands/web.py).
        self._is_counted = self.request.headers.get("Upgrade", "").lower() != "websocket"
        if self._is_counted:
            self.application.begin()  # type: ignore[attr-defined]

    @property
    def hall(self) -> Any:
        return self.application.hall  # type: ignore[attr-defined]

    async def prepare(self) -> None:
        given = self.request.headers.get("X-Request-ID", "")
        context.request_id.set(given if _REQUEST_ID.fullmatch(given) else f"req_{ulid()}")
        structlog.contextvars.clear_contextvars()
        self.set_header("X-Request-ID", context.request_id.get())

    def set_default_headers(self) -> None:
        self.set_header("Server", "hall")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")

    def compute_etag(self) -> str | None:
        return None  # only the catalogue has entity tags, and it brings its own

    def check_xsrf_cookie(self) -> None:
        """The API is authorised by header, not by cookie; pages check it themselves (handlers/pages_base.py)."""

    # --- who ---

    def bearer(self) -> str:
        """Return the token of the Authorization header, or empty text."""
        kind, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else ""

    async def require_resident(self) -> "ResidentSession":
        """Return who is signed in. Raises Unauthorized."""
        session: ResidentSession = await self.hall.identity.sessions.authenticate(self.bearer())
        return session

    async def require_staff(self) -> "StaffSession":
        """Return which staff member is signed in. Raises Unauthorized."""
        session: StaffSession = await self.hall.staff.authenticate(self.bearer())
        return session

    @property
    def client_address(self) -> str:
        return self.request.remote_ip or ""

    @property
    def wants_english(self) -> bool:
        return self.request.headers.get("Accept-Language", "").lower().lstrip().startswith("en")

    # --- what came ---

    def load_json(self, schema: type[Schema], *, optional: bool = False) -> dict[str, Any]:
        """Return the JSON body judged by a schema.

        Raises:
            TooLarge, WrongType, BadRequest (not a JSON object), ValidationFailed (one row per field).
        """
        raw = self.request.body
        if optional and not raw.strip():
            raw = b"{}"
        else:
            if len(raw) > MAX_JSON_BYTES:
                raise TooLarge("提交的内容太大。", en="The body is too large.")
            kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise WrongType("请用 application/json 提交。", en="Send application/json.")
        try:
            data = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise BadRequest("提交的内容不是有效的 JSON。", en="The body is not valid JSON.") from error
        if not isinstance(data, dict):
            raise ValidationFailed([error_row("", "type", "应为一个 JSON 对象")])
        return judged(schema, data, "")

    def load_query(self, schema: type[Schema]) -> dict[str, Any]:
        """Return the query judged by a schema; of a repeated name the last counts."""
        try:
            data = {name: values[-1].decode() for name, values in self.request.query_arguments.items()}
        except UnicodeDecodeError as error:
            raise BadRequest("网址中的参数不是有效的 UTF-8 文字。", en="The query is not UTF-8.") from error
        return judged(schema, data, "/query")

    def idempotent_id(self, prefix: str) -> str:
        """Return the id for what this request creates: the same again when it is retried after a crash."""
        if self._reservation is None:
            raise RuntimeError("idempotent_id outside an idempotent operation")
        return f"{prefix}_{self._reservation.seed}"

    async def _replayed(self) -> bool:
        key = self.request.headers.get("Idempotency-Key", "")
        if not _KEY.fullmatch(key):
            raise BadRequest(
                "缺少请求头 Idempotency-Key（1到64个可见字符），它保证重复提交只办一次。",
                en="Header Idempotency-Key (1-64 visible ASCII characters) is required.",
            )
        owner = self.resident.resident_id if hasattr(self, "resident") else self.staff.account
        self._reservation = await idempotency.reserve(
            self.hall.database,
            owner_id=owner,
            route=f"{self.request.method} {self.request.path}",
            key=key,
            body=self.request.body,
        )
        if self._reservation.body is None:
            self._renew_later(self._reservation)
            return False
        self.set_status(self._reservation.status or 200)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Idempotent-Replayed", "true")
        reservation, self._reservation = self._reservation, None
        # Answers hold personal data, so they are kept sealed like every other field of that kind.
        self.finish(self.hall.keys.open_sealed((reservation.body or b"").decode(), context=reservation.id))
        return True

    def _renew_later(self, reservation: idempotency.Reservation) -> None:
        """Renew the lease of the key as long as this request works with it."""

        async def renew() -> None:
            try:
                await idempotency.renew(self.hall.database, reservation)
            except PyMongoError as error:  # where the database is away nobody else gets on either
                log.warning("idempotency.not_renewed", error=type(error).__name__)
            if self._reservation is reservation:
                self._renew_later(reservation)

        def begin() -> None:
            self._renewal = asyncio.ensure_future(renew())

        # A timer, which costs nothing: hardly any request lasts that long.
        self._renewing = asyncio.get_running_loop().call_later(idempotency.RENEWED_S, begin)

    # --- what goes ---

    async def answer(self, data: Any, status: int = 200) -> None:
        """Answer JSON; in an idempotent operation the answer is kept before it is sent."""
        body = orjson.dumps(data)
        if self._reservation is not None:
            sealed = self.hall.keys.seal(body.decode(), context=self._reservation.id)
            await idempotency.keep(self.hall.database, self._reservation, status, sealed.encode())
            self._reservation = None
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(body)

    async def _execute(self, *args: Any, **kwargs: Any) -> None:
        # Tornado's own _execute turns exceptions into write_error, which cannot await; the key must be freed first.
        await super()._execute(*args, **kwargs)
        if self._renewing is not None:
            self._renewing.cancel()
        if self._reservation is not None:
            reservation, self._reservation = self._reservation, None
            try:
                await idempotency.release(self.hall.database, reservation, nothing_done=400 <= self.get_status() < 500)
            except PyMongoError as error:
                log.warning("idempotency.release_failed", error=type(error).__name__)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if isinstance(value, HallError):
            log.info("http.refused", code=value.code, **value.context)
        elif isinstance(value, PyMongoError):
            log.warning("http.database_away", error=type(value).__name__, exc_info=value)
        elif not isinstance(value, HTTPError):
            log.error("http.bug", path=self.request.path, exc_info=(typ, value, tb))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.answer_problem(as_hall_error(status_code, kwargs.get("exc_info", (None, None, None))[1]))

    def answer_problem(self, error: HallError) -> None:
        """Answer an expected failure as RFC 9457 problem+json."""
        english = self.wants_english
        problem: dict[str, Any] = {
            "type": f"{self.hall.settings.public_url}/docs/errors#{error.code}",
            "title": HTTPStatus(error.status).phrase if english else error.title,
            "status": error.status,
            "detail": error.detail_en if english else error.detail,
            "code": error.code,
            "request_id": context.request_id.get(),
            "errors": getattr(error, "errors", []),
        }
        for name in getattr(error, "public", ()):
            problem[name] = error.context.get(name)
        problem |= getattr(error, "answer_only", {})  # what is never logged
        self.set_status(error.status)
        retry_after_s = getattr(error, "retry_after_s", None)
        if retry_after_s is not None:
            self.set_header("Retry-After", str(retry_after_s))
        if error.status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        if error.status == 405:
            self.set_header("Allow", ", ".join(allowed_methods(type(self))))
        self.set_header("Content-Type", "application/problem+json; charset=utf-8")
        self.finish(orjson.dumps(problem))

    def on_finish(self) -> None:
        if self._is_counted:
            self.application.end()  # type: ignore[attr-defined]
        took = time.perf_counter() - self._began
        requests.labels(self.route, self.request.method, self.get_status()).inc()
        seconds.labels(self.route).observe(took)
        log.info(
            "http.request",
            method=self.request.method,
            route=self.route,
            status=self.get_status(),
            ms=round(took * 1000, 1),
        )

    # A method that a handler lacks answers 405 through Tornado's default, as problem+json with Allow.
    async def options(self, *_args: str, **_kwargs: str) -> None:
        self.set_header("Allow", ", ".join(allowed_methods(type(self))))
        self.set_status(204)
        self.finish()


class NotFoundHandler(HallHandler):
    """Whatever no route takes."""

    route = "none"

    async def prepare(self) -> None:
        await super().prepare()
        raise NotFound("没有这个地址。", en="No such address.")


def allowed_methods(handler: type[HallHandler]) -> list[str]:
    """Return the methods a handler really has, OPTIONS included."""
    own = [
        name
        for name in HallHandler.SUPPORTED_METHODS
        if getattr(handler, name.lower()) is not getattr(RequestHandler, name.lower())
    ]
    return own
