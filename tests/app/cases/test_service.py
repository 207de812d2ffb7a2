"""Cases on a real database: racing writers, and deadlines that are computed again once the notice of a year is there."""

import asyncio
import shutil
from datetime import UTC, datetime

import orjson

from app.cases.drafts import Save
from app.cases.errors import CaseConflict
from app.identity.model import StaffSession
from app.kernel.calendar import WorkingCalendar
from app.kernel.ids import new_id
from commands.story import picture, sample_form
from config.settings import ROOT
from tests.app.cases.handled import a_resident

CLERK = StaffSession("clerk.sg-rsj", "经办员", "clerk", "sg-rsj")


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
    hall.cases._clock = hall.review._clock = lambda: datetime(2026, 12, 20, 2, tzinfo=UTC)
    case = await submitted(hall, "injury_identify")
    accepted = await hall.review.act(case.id, "accept", CLERK, {})
    assert accepted.deadline_estimated
    assert await hall.cases.recompute_deadlines() == 0, "without news nothing moves"
    # The notice of 2027 comes, with other holidays than the estimate had assumed.
    folder = tmp_path / "calendars"
    shutil.copytree(ROOT / "config" / "calendars", folder)
    notice = orjson.loads((folder / "2026.json").read_bytes())
    fixed = ["2027-01-01", "2027-05-01", "2027-10-01", "2027-10-02", "2027-10-03"]
    notice |= {"year": 2027, "holidays": [*fixed, accepted.deadline_on.isoformat()], "makeup_workdays": []}
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
