"""Structured logs: one line per fact, with the request id, personal data masked, secrets never."""

import functools
import json
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import orjson
import structlog

_ID_NUMBER = re.compile(r"(?<!\d)([1-9]\d{2})\d{3}(?:18|19|20)\d{6}(\d{3}[\dXx])(?!\d)")
_PHONE = re.compile(r"(?<!\d)(1[3-9]\d)\d{4}(\d{4})(?!\d)")
_SECRET_IN_URL = re.compile(r"((?:access_token|secret|js_code|code|token|refresh_token)=)[^&\s\"']+")
# What all three have in common: most values have none of it, and one look instead of three is most of what a line costs.
_WORTH_A_LOOK = re.compile(r"\d{11}|(?:token|secret|code)=")
_SECRET_KEYS = re.compile(r"(secret|password|token|authorization|session_key|private|api_v3)", re.IGNORECASE)


def mask(value: Any) -> Any:
    """Mask citizen numbers, phone numbers and secrets in URLs, wherever they stand in a value."""
    if isinstance(value, str):
        if not _WORTH_A_LOOK.search(value):
            return value
        # Functions, not templates: a template is parsed by a module that is gone when the interpreter is ending.
        value = _ID_NUMBER.sub(lambda found: f"{found[1]}***********{found[2]}", value)
        value = _PHONE.sub(lambda found: f"{found[1]}****{found[2]}", value)
        return _SECRET_IN_URL.sub(lambda found: f"{found[1]}***", value)
    if isinstance(value, dict):
        return {key: "***" if _is_secret(str(key)) else mask(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(item) for item in value]
    return value


def _mask_line(_logger: object, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in line.items():
        line[key] = "***" if _is_secret(key) else mask(value)
    return line


@functools.lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return _SECRET_KEYS.search(key) is not None


def _as_json(line: MutableMapping[str, Any], default: Any, **_more: Any) -> str:
    try:
        return orjson.dumps(line, default=default).decode()
    except TypeError:  # half a surrogate pair, or a very large number: rare, and no reason to lose a line
        return json.dumps(line, default=default)


class _Lines:
    """Where our lines go. A full disk or a closed pipe costs the line, never the work that it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass

    def flush(self) -> None: ...


def configure_logging(level: str, form: str, *, process: str, request_id: Any = None) -> None:
    """Send all logs, ours and the libraries', to stderr as one kind of line.

    Args:
        level: debug, info, warning or error.
        form: `json` or `console`.
        process: the part that logs (web, worker ...).
        request_id: callable that gives the present request id.
    """

    def add_origin(_logger: object, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line["process"] = process
        current = request_id() if request_id else ""
        if current:
            line.setdefault("request_id", current)
        return line

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_origin,
        structlog.processors.format_exc_info,
        _mask_line,  # after the traceback has become text, so that it is masked too
    ]
    renderer = (
        structlog.processors.JSONRenderer(_as_json)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    # Our own lines go straight to stderr: the detour through the standard library's records costs as much as the line itself.
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(_Lines(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("tornado.access").setLevel(logging.ERROR)  # handlers/base.py writes the one line per request
    for noisy in ("pymongo", "asyncio", "fontTools", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
