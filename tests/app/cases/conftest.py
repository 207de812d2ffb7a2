"""A hall of its own for a test of cases, on a real database, and somebody who lives in it."""

import pytest

from app.identity import store
from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from commands.assembly import assemble
from commands.defaults import fill_in
from commands.dev import sandbox_settings
from commands.migrate import prepare
from commands.servers import free_port
from config.settings import read_settings


@pytest.fixture
async def hall(servers, database, tmp_path):
    """The parts put together as in a process; the platforms are away, and nothing here needs them."""
    port = free_port()
    environment = {
        "HALL_ENV": "test",
        "HALL_DATA_DIR": str(tmp_path),
        "HALL_SANDBOX_PORT": str(port),
        "HALL_MONGODB_URI": servers["mongodb"],
        "HALL_MONGODB_DATABASE": database.db.name,
        "HALL_REDIS_URL": servers["redis"],
        "HALL_DEMO_PASSWORD": "x",
    }
    settings = read_settings(fill_in(environment, sandbox_settings(tmp_path, port), tmp_path), env_file=None)
    await prepare(settings, with_demo=True)
    hall = await assemble(settings)
    yield hall
    await hall.close()


async def a_resident(hall):
    resident_id = new_id("res")
    document = store.new_resident(resident_id, utc_now()) | {"level": 4}
    await hall.database["residents"].insert_one(
        document | store.sealed_fields(hall.keys, resident_id, {"name": "张示例", "phone": "13800000001"})
    )
    return resident_id
