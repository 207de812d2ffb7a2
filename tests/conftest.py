"""Real servers for the tests: one mongod and one redis-server per run, one database per test, the stand-ins on a free port."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.kernel.crypto import KeyRing, make_key_ring  # noqa: E402
from app.kernel.ids import ulid  # noqa: E402
from app.storage.mongo import Database  # noqa: E402
from app.storage.redis import connect  # noqa: E402
from commands.servers import start_embedded  # noqa: E402


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of a real mongod (replica set) and redis-server."""
    mongodb, redis = os.environ.get("HALL_TEST_MONGODB_URI"), os.environ.get("HALL_TEST_REDIS_URL")
    started = start_embedded(tmp_path_factory.mktemp("servers"), mongod=not mongodb, redis=not redis)
    yield {
        "mongodb": mongodb or started["mongod"].address,
        "redis": redis or started["redis-server"].address,
    }
    for server in started.values():
        server.stop()


@pytest.fixture
async def database(servers: dict[str, str]) -> AsyncIterator[Database]:
    """An empty database of its own, dropped afterwards."""
    database = Database(servers["mongodb"], f"t_{ulid().lower()}")
    yield database
    await database.client.drop_database(database.db.name)
    await database.close()


@pytest.fixture
async def redis(servers: dict[str, str]) -> AsyncIterator[object]:
    """A client of the run's Redis; keys are the test's own by the ids inside them."""
    client = connect(servers["redis"])
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def keys() -> KeyRing:
    """A key ring made for this run."""
    return KeyRing.from_text(make_key_ring())

