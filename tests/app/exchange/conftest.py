"""The office of web hooks."""

from tests.app.exchange.office import office  # noqa: F401
