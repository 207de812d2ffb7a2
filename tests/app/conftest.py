"""A hall put together on a real database, for the tests of what happens to cases, feedback and supervision."""

import shutil
from collections.abc import AsyncIterator

import pytest

from app.kernel.ids import ulid
from app.storage.mongo import Database
from commands.assembly import assemble
from commands.defaults import fill_in
from commands.dev import sandbox_settings
from commands.migrate import prepare
from config.settings import Settings, read_settings
from sandbox.credentials import FILE_NAME
from tests.prepared import Prepared, snapshot


@pytest.fixture(scope="session")
async def prepared(servers, sandbox_keys, tmp_path_factory) -> AsyncIterator[tuple[Settings, Prepared]]:
    """A database that is ready; the platforms are away, and nothing here needs them."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "sandbox").mkdir()
    shutil.copy2(sandbox_keys, folder / "sandbox" / FILE_NAME)
    environment = {
        "HALL_ENV": "test",
        "HALL_DATA_DIR": str(folder),
        "HALL_SANDBOX_PORT": "1",  # where nobody listens
        "HALL_MONGODB_URI": servers["mongodb"],
        "HALL_MONGODB_DATABASE": f"t_{ulid().lower()}",
        "HALL_REDIS_URL": servers["redis"],
        "HALL_DEMO_PASSWORD": "x",
    }
    settings = read_settings(fill_in(environment, sandbox_settings(folder, 1), folder), env_file=None)
    await prepare(settings, with_demo=True)
    database = Database(settings.mongodb_uri, settings.mongodb_database)
    yield settings, await snapshot(database)
    await database.client.drop_database(settings.mongodb_database)
    await database.close()


@pytest.fixture
async def hall(prepared):
    """The parts put together as in a process, on a database where nothing has happened yet."""
    settings, before = prepared
    hall = await assemble(settings)
    yield hall
    await hall.close()  # first: that ends what a cut-off transaction still holds
    database = Database(settings.mongodb_uri, settings.mongodb_database)
    await before.restore(database)
    await database.close()
