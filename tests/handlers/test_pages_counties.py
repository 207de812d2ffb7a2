"""City and counties on the desk's pages: whom a case may be transferred to, and what a window offers."""

import re

from tests.app.cases.handled import submitted
from tests.handlers.pages_world import World, world
from tests.handlers.test_pages_desk import staff

__all__ = ["world"]  # the fixture


async def test_a_transfer_is_chosen_among_the_bodies_of_the_line_the_own_countys_first(world: World) -> None:
    case = await submitted(world.hall, "no_crime_cert")
    clerk = await staff(world, "clerk.sg-gaj")
    page = await clerk.get(f"/staff/cases/{case.id}")
    offered = re.findall(r'<option value="(sg-[\w-]+)">', page.html)
    assert {"sg-gaj-440203", "sg-crj", "sg-jj-440281"} <= set(offered) and not {"sg-gaj", "sg-mzj", "sg-mzj-440203"} & set(offered)
    assert offered.index("sg-gaj-440203") < offered.index("sg-gaj-440281"), "that of the case's own place first"
    path = f"/staff/cases/{case.id}/transfer"
    refused = await clerk.submit(page, path, agency_id="", reason="属武江")
    assert refused.status == 422 and "属武江" in refused.html, "what was typed stays"
    done = await clerk.submit(page, path, agency_id="sg-gaj-440203", reason="属武江")
    assert done.path == "/staff/tasks"
    assert (await clerk.get(f"/staff/cases/{case.id}")).status == 404
    county = await staff(world, "clerk.sg-gaj-440203")
    back = await county.get(f"/staff/cases/{case.id}")
    assert back.status == 200 and "sg-gaj" not in re.findall(r'<option value="(sg-[\w-]+)">', back.html), "it does not go back"


async def test_the_window_for_all_lists_each_item_once(world: World) -> None:
    general = await staff(world, "clerk.sg-zsj")
    page = await general.get("/staff/intake")
    items = re.findall(r'<option value="(\d{11}[0-9A-Z]{20})"', page.html)
    assert len(items) == len(set(items)) > 50
    county = await staff(world, "clerk.sg-mzj-440222")
    own = re.findall(r'<option value="(\d{11}[0-9A-Z]{20})"', (await county.get("/staff/intake")).html)
    assert len(own) == 2, "what its county handles itself"
