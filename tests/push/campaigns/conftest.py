"""Campaigns on top of push with its stand-ins."""

from collections.abc import AsyncIterator

import pytest

from tests.push.campaigns.office import Office, open_office
from tests.push.desk import Desk


@pytest.fixture
async def office(desk: Desk, keys) -> AsyncIterator[Office]:
    yield await open_office(desk, keys)
