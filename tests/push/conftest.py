"""Push against the stand-ins; their keys take a second to make, so once for all tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.storage.mongo import Database
from sandbox.credentials import FILE_NAME, load_or_make
from tests.push.desk import Desk, open_desk


@pytest.fixture(scope="session")
def stand_in_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stand-in-keys")
    load_or_make(folder)
    return folder / FILE_NAME


@pytest.fixture
async def desk(database: Database, redis, stand_in_keys: Path, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(database, redis, stand_in_keys, tmp_path) as desk:
        yield desk
