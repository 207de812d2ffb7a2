"""Between county and city: an application goes to the county's body where that one handles the item, and cases move up and down in every line."""

import pytest

from app.cases import routing
from app.cases.drafts import Save
from app.cases.errors import CaseNotFound
from app.cases.intake import NotYourItem
from app.cases.model import State
from app.cases.queue import Wanted
from app.catalogue.load import COUNTY_BODY, load_catalogue
from app.kernel.ids import new_id
from commands.story import sample_form
from tests.app.cases.handled import a_person, staff_of, submitted, with_materials
from tests.app.catalogue.conftest import FOLDER

CATALOGUE = load_catalogue(FOLDER)
LINES = sorted({row["parent"] for row in CATALOGUE.agencies if row["level"] == COUNTY_BODY})


async def queue_of(hall, agency):
    return [case.id for case in (await hall.queue.page(staff_of(agency), Wanted())).cases]


async def in_county(hall, alias, county):
    owner = await a_person(hall)
    item = hall.catalogue.item(alias)
    answers = {row["key"]: row["options"][0]["value"] for row in item["situations"]}
    case = await hall.cases.drafts.open(owner, alias, county, answers, case_id=new_id("case"))
    fields = [field for field in item["form"] if "computed" not in field]
    case = await hall.cases.drafts.save(case.id, owner, Save(sample_form(fields), {}, case.version))
    case = await with_materials(hall, case)
    return await hall.cases.submit(case.id, owner)


async def test_an_application_of_a_county_goes_to_its_body_and_is_decided_there(hall):
    case = await in_county(hall, "dibao", "440222")
    assert (case.agency_id, case.agency_name) == ("sg-mzj-440222", "始兴县民政局")
    assert await queue_of(hall, "sg-mzj-440222") == [case.id]
    for other in ("sg-mzj", "sg-mzj-440224", "sg-gaj-440222"):
        assert case.id not in await queue_of(hall, other)
        with pytest.raises(CaseNotFound):
            await hall.review.get(case.id, staff_of(other))
    clerk, head = staff_of("sg-mzj-440222"), staff_of("sg-mzj-440222", "head")
    await hall.review.act(case.id, "accept", clerk, {})
    case = await hall.cases.get(case.id, case.owner_id)
    for each in case.departments:
        await hall.review.act(case.id, "give_opinion", staff_of(each.agency_id), {"answer": "agreed", "opinion": "属实"})
    while "finish_stage" in (await hall.review.view(await hall.review.get(case.id, clerk), clerk))["allowed_actions"]:
        await hall.review.act(case.id, "finish_stage", clerk, {"note": "完成"})
    case = await hall.review.act(case.id, "decide", head, {"outcome": "approved", "opinion": "符合条件"})
    assert case.state in (State.APPROVED, State.COMPLETED)


async def test_where_the_city_handles_it_itself_the_citys_body_has_it(hall):
    assert (await in_county(hall, "dibao", "440203")).agency_id == "sg-mzj"
    assert (await in_county(hall, "id_card_lost", "440222")).agency_id == "sg-gaj"


async def test_a_case_moves_up_to_the_city_and_down_to_a_county(hall):
    case = await in_county(hall, "dibao", "440222")
    case = await hall.review.act(
        case.id, "transfer", staff_of("sg-mzj-440222"), {"agency_id": "sg-mzj", "reason": "户籍在市区"}
    )
    assert case.agency_id == "sg-mzj" and await queue_of(hall, "sg-mzj") == [case.id]
    case = await hall.review.act(case.id, "transfer", staff_of("sg-mzj"), {"agency_id": "sg-mzj-440224", "reason": "已迁入仁化"})
    assert case.agency_name == "仁化县民政局" and await queue_of(hall, "sg-mzj-440224") == [case.id]
    down = await submitted(hall, "no_crime_cert")
    down = await hall.review.act(down.id, "transfer", staff_of("sg-gaj"), {"agency_id": "sg-gaj-440281", "reason": "户籍地在乐昌"})
    assert (await hall.review.act(down.id, "accept", staff_of("sg-gaj-440281"), {})).state is State.ACCEPTED


@pytest.mark.parametrize("line", LINES)
def test_city_and_counties_are_one_line_in_every_line_and_no_other(line):
    agencies = {row["id"]: row for row in CATALOGUE.agencies}
    counties = [row["id"] for row in CATALOGUE.agencies if row["parent"] == line and row["level"] == COUNTY_BODY]
    assert len(counties) == 10
    for county in counties:
        assert routing.same_line(line, county, agencies.__getitem__) and routing.same_line(county, line, agencies.__getitem__)
    for stranger in {"sg-mzj-440203", "sg-swj-440203"} - set(counties):
        assert not routing.same_line(counties[0], stranger, agencies.__getitem__)


async def test_a_countys_window_takes_in_what_its_body_handles_and_nothing_else(hall):
    asked = {"name": "张示例", "id_number": "44020019000101001X", "phone": "", "answers": {}}
    clerk = staff_of("sg-mzj-440222")
    case = await hall.intake.open(clerk, {**asked, "item_code": "dibao", "division_code": "440222"}, case_id=new_id("case"))
    assert case.agency_id == clerk.agency_id
    for item, place in (("dibao", "440224"), ("dibao", "440203"), ("marriage", "440222"), ("id_card_lost", "440222")):
        with pytest.raises(NotYourItem):
            await hall.intake.open(clerk, {**asked, "item_code": item, "division_code": place}, case_id=new_id("case"))
    with pytest.raises(NotYourItem):
        await hall.intake.open(staff_of("sg-mzj"), {**asked, "item_code": "dibao", "division_code": "440222"}, case_id=new_id("case"))
