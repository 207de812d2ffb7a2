"""Real servers for the tests: one mongod and one redis-server per worker, one database per test, the stand-ins on a free port."""

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pymongo
import pytest
import structlog
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.kernel.crypto import KeyRing, make_key_ring  # noqa: E402
from app.kernel.ids import ulid  # noqa: E402
from app.storage.mongo import Database  # noqa: E402
from app.storage.redis import connect  # noqa: E402
from commands.servers import start_embedded  # noqa: E402
from sandbox.credentials import FILE_NAME, load_or_make  # noqa: E402
from tests.catalogue import share_snapshots  # noqa: E402
from tests.prepared import Prepared  # noqa: E402

# How long an example takes says something about the machine, nothing about the code.
settings.register_profile("hall", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hall")

# By default an exception is drawn in boxes with everything its frames hold: three seconds of a busy loop for each.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

share_snapshots()

_JOURNEYS = "tests/journeys/"
_MEMORY = Path("/dev/shm")  # noqa: S108
_MEMORY_BYTES = 4 * 2**30


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With several workers a file stays with one of them, and so do all journeys, which share one running hall."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _JOURNEYS if nodeid.startswith(_JOURNEYS) else nodeid.partition("::")[0]

    return Together(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests unless they are asked for; let one worker begin with the journeys, the longest piece of work."""
    if not config.getoption("--long"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(_JOURNEYS))


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the servers keep their files: in memory when there is plenty, since the tests make and drop a database each."""
    try:
        is_roomy = shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES
    except OSError:
        is_roomy = False
    if not is_roomy:
        yield tmp_path_factory.mktemp("servers")
        return
    for left in _MEMORY.glob("hall-test-*"):  # by a run that was killed
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"hall-test-{os.getpid()}-", dir=_MEMORY))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(server_folder: Path) -> Iterator[dict[str, str]]:
    """The addresses of a real mongod (replica set) and redis-server."""
    mongodb, redis = os.environ.get("HALL_TEST_MONGODB_URI"), os.environ.get("HALL_TEST_REDIS_URL")
    started = start_embedded(server_folder, mongod=not mongodb, redis=not redis, journal_every_ms=5)
    yield {
        "mongodb": mongodb or started["mongod"].address,
        "redis": redis or started["redis-server"].address,
    }
    for server in started.values():
        server.stop()


@pytest.fixture(scope="session")
async def dropping(servers: dict[str, str]) -> AsyncIterator[Database]:
    """A client that only drops what tests have left."""
    database = Database(servers["mongodb"], "t_none")
    yield database
    await database.close()


@pytest.fixture
async def database(servers: dict[str, str], dropping: Database) -> AsyncIterator[Database]:
    """An empty database of its own, dropped afterwards."""
    database = Database(servers["mongodb"], f"t_{ulid().lower()}")
    yield database
    # Closed first: that ends its sessions, and with them a transaction that a cut-off request has left open and a drop would wait for.
    await database.close()
    with pymongo.timeout(60):  # of a busy machine
        await dropping.client.drop_database(database.db.name)


@pytest.fixture(scope="session")
async def one_name(servers: dict[str, str], dropping: Database) -> AsyncIterator[str]:
    """The name of the database that many tests use one after the other."""
    name = f"t_{ulid().lower()}"
    yield name
    await dropping.client.drop_database(name)


@pytest.fixture
async def reused_database(servers: dict[str, str], one_name: str) -> AsyncIterator[Database]:
    """A database without documents. Collections and indexes of the hall may stand in it from tests before, so that ensuring them is quick."""
    database = Database(servers["mongodb"], one_name)
    yield database
    await database.close()  # first, as above
    database = Database(servers["mongodb"], one_name)
    with pymongo.timeout(60):
        await Prepared().restore(database)
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


@pytest.fixture(scope="session")
def sandbox_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-ins' key file, to be copied into a data directory: making the keys takes seconds, so it is done once."""
    data_dir = tmp_path_factory.mktemp("sandbox-keys")
    load_or_make(data_dir)
    return data_dir / FILE_NAME

