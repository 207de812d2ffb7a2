"""Cases on a real database: racing writers, and deadlines that are computed again once the notice of a year is there."""

import asyncio
import shutil
from datetime import UTC, datetime

import orjson
import pytest

from app.cases.drafts import Save
from app.cases.errors import CaseConflict
from app.identity import store
from app.identity.model import StaffSession
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from commands.assembly import assemble
from commands.defaults import fill_in
from commands.dev import sandbox_settings
from commands.migrate import prepare
from commands.servers import free_port
from commands.story import picture, sample_form
from config.settings import ROOT, read_settings

CLERK = StaffSession("clerk.sg-rsj", "经办员", "clerk", "sg-rsj")


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


async def submitted(hall, alias):
    resident_id = await a_resident(hall)
    item = hall.catalogue.item(alias)
    answers = {situation["key"]: situation["options"][0]["value"] for situation in item["situations"]}
    case = await hall.cases.drafts.open(resident_id, alias, "440203", answers, case_id=new_id("case"))
    case = await hall.cases.drafts.save(case.id, resident_id, Save(sample_form(item["form"]), {}, case.version))
    for row in (await hall.cases.view(case))["materials"]:
        if row["status"] == "missing":
            case = await hall.cases.put_material(case.id, resident_id, row["key"], "a.png", picture())
    return await hall.cases.submit(case.id, resident_id)


async def test_of_many_who_save_the_same_version_one_gets_through_and_nothing_is_overwritten(hall):
    resident_id = await a_resident(hall)
    case = await hall.cases.drafts.open(resident_id, "id_card_lost", "440203", {}, case_id=new_id("case"))
    saves = [
        hall.cases.drafts.save(case.id, resident_id, Save({"lost_date": f"2026-11-{day:02d}"}, {}, 1)) for day in range(1, 17)
    ]
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert sum(isinstance(result, CaseConflict) for result in results) == 15
    [saved] = [result for result in results if not isinstance(result, Exception)]
    stored = await hall.cases.get(case.id, resident_id)
    assert (stored.version, stored.form["lost_date"]) == (2, saved.form["lost_date"])


async def test_an_estimated_deadline_is_computed_again_when_the_notice_is_there_and_told_once(hall, tmp_path):
    case = await submitted(hall, "injury_identify")
    hall.review._clock = lambda: datetime(2026, 12, 20, 2, tzinfo=UTC)
    accepted = await hall.review.act(case.id, "accept", CLERK, {})
    assert accepted.deadline_estimated
    assert await hall.cases.recompute_deadlines() == 0, "without news nothing moves"
    # The notice of 2027 comes, with other holidays than the estimate had assumed.
    folder = tmp_path / "calendars"
    shutil.copytree(ROOT / "config" / "calendars", folder)
    notice = orjson.loads((folder / "2026.json").read_bytes())
    notice |= {"year": 2027, "holidays": [accepted.deadline_on.isoformat()], "makeup_workdays": []}
    (folder / "2027.json").write_bytes(orjson.dumps(notice))
    hall.cases.calendar = WorkingCalendar.load(folder)
    assert await hall.cases.recompute_deadlines() == 1
    moved = await hall.cases.get(case.id, case.owner_id)
    assert moved.deadline_on != accepted.deadline_on
    assert not moved.deadline_estimated
    assert await hall.cases.recompute_deadlines() == 0
    assert await hall.database["events"].count_documents({"name": "case.deadline_changed"}) == 1


async def test_nothing_personal_of_a_case_is_stored_in_clear(hall):
    case = await submitted(hall, "injury_identify")
    number = case.form["id_number"]
    for name in await hall.database.db.list_collection_names():
        stored = str(await hall.database[name].find({}).to_list())
        assert number not in stored, name
        assert "13800000001" not in stored, name
