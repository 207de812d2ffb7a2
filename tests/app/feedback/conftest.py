"""The hall of the tests of feedback: that of the tests of cases."""

from tests.app.cases.conftest import hall  # noqa: F401
