"""Bodies of the counties: every line of business has one in each, an item says where they handle it, and searching is not flooded by them."""

import pytest

from app.catalogue.load import COUNTY_BODY
from tests.app.catalogue.test_load import change, folder, mistakes

__all__ = ["folder"]  # the fixture

NO_COUNTY_BODY = {"sg-hg", "sg-water"}  # customs of the state, one water works of the city
OUTER = ["440205", "440222", "440224", "440229", "440232", "440233", "440281", "440282"]


def test_every_line_has_one_body_in_every_county(catalogue):
    counties = {row["code"] for row in catalogue.divisions if row["level"] == "county"}
    city = {row["id"] for row in catalogue.agencies if row["level"] != COUNTY_BODY}
    assert len(counties) == 10
    for agency in city - NO_COUNTY_BODY:
        bodies = [row for row in catalogue.agencies if row["parent"] == agency and row["level"] == COUNTY_BODY]
        assert sorted(row["division"] for row in bodies) == sorted(counties), agency
        assert all(row["id"] == f"{agency}-{row['division']}" for row in bodies)
    assert len({row["uscc"] for row in catalogue.agencies}) == len({row["name"] for row in catalogue.agencies}) == len(catalogue.agencies)


def test_an_item_says_in_which_counties_their_own_body_handles_it(snapshot):
    relief, lost = snapshot.item("dibao"), snapshot.item("id_card_lost")
    town = next(code for code, row in snapshot.divisions.items() if row["parent"] == "440222")
    assert relief["by_counties"] == OUTER
    assert snapshot.handling_agency(relief, "440222")["name"] == "始兴县民政局"
    assert snapshot.handling_agency(relief, town)["id"] == "sg-mzj-440222", "a town is its county's"
    assert snapshot.handling_agency(relief, "440203")["id"] == snapshot.handling_agency(relief, "440200")["id"] == "sg-mzj"
    assert snapshot.handling_agency(relief, "000000")["id"] == "sg-mzj", "an unknown place is refused elsewhere"
    assert snapshot.handling_agency(lost, "440222")["id"] == "sg-gaj", "where nothing is said: the item's agency"
    assert [item["alias"] for item in snapshot.handled_by("sg-mzj-440222")] == ["dibao", "temp_relief"]
    assert snapshot.handled_by("sg-mzj-440203") == [] and {"dibao", "marriage"} <= {item["alias"] for item in snapshot.handled_by("sg-mzj")}


@pytest.mark.parametrize("county", ["440203100", "440200", "nowhere"])
def test_a_county_without_a_body_of_the_line_is_a_mistake(folder, county):
    change(folder, "items.json", "items", 0, lambda item: item.update(by_counties=[county]))
    assert any("by_counties: sg-scjg has no body in" in line for line in mistakes(folder))


def test_searching_shows_the_citys_bodies_first_and_of_the_counties_the_own(snapshot):
    found = [row["id"] for row in snapshot.search("公安局")["agencies"]]
    is_city = [len(agency.split("-")) == 2 for agency in found]
    assert "sg-gaj" in found and is_city == sorted(is_city, reverse=True), found
    near = [row["id"] for row in snapshot.search("始兴县公安局", division="440222")["agencies"]]
    assert near[0] == "sg-gaj-440222"
    other = [row["id"] for row in snapshot.search("公安局", division="440281")["agencies"]]
    assert "sg-gaj-440281" in other and "sg-gaj-440222" not in other
    assert snapshot.suggest("公安") and "县公安局" not in str(snapshot.suggest("公安"))


def test_a_countys_body_sits_at_its_lines_window_in_the_own_county(snapshot):
    from app.catalogue import views

    shown = views.agency(snapshot.agency("sg-mzj-440222"), snapshot.catalogue.halls)
    assert {hall["division"][:6] for hall in shown["halls"]} == {"440222"} and shown["halls"][0]["windows"]
    assert (shown["level"], shown["parent"], shown["division"]) == (COUNTY_BODY, "sg-mzj", "440222")
