"""What travels with a piece of work: the request id, from the request through the event to the worker and the provider call."""

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
