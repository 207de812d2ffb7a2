"""What travels with a piece of work: the request id, from the request through the event to the worker and the provider call; and the time it has."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
_until: ContextVar[float | None] = ContextVar("until", default=None)  # a monotonic second


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let whatever waits for others within this block know how long it may (at_most). Nothing is interrupted by it."""
    token = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def at_most(seconds: float) -> float:
    """Return how long something may be waited for that would be given `seconds`: less when the time of the work is over before."""
    until = _until.get()
    return seconds if until is None else max(0.0, min(seconds, until - time.monotonic()))
