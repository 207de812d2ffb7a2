"""Push against the stand-ins."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.storage.mongo import Database
from tests.push.desk import Desk, open_desk


@pytest.fixture(scope="session")
def stand_in_keys(sandbox_keys: Path) -> Path:
    return sandbox_keys


@pytest.fixture
def database(reused_database: Database) -> Database:
    return reused_database


@pytest.fixture
async def desk(database: Database, redis, stand_in_keys: Path, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(database, redis, stand_in_keys, tmp_path) as desk:
        yield desk
