"""Segments are walked by key set: each person once, in order, from anywhere on."""

from datetime import UTC, datetime, timedelta

import pytest

from app.kernel.clock import today
from push.campaigns.segments import LAST, Segment, count, within
from push.subscriptions import ITEM, NOTICE, THEME
from tests.push.campaigns.office import Office


async def walked(office: Office, segment: Segment, limit: int, before: str = LAST) -> list[str]:
    people, found, after = office.campaigns._people[segment.kind], [], ""
    while True:
        ids, following = await people.stretch(segment, after, before, limit)
        assert list(ids) == sorted(set(ids)) and (not found or not ids or ids[0] > found[-1])
        found += ids
        if following is None:
            return found
        assert following > after
        after = following


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_everybody_without_accounts_that_were_joined(office: Office, limit):
    people = await office.residents(5)
    await office.database["residents"].update_one({"_id": people[2]}, {"$set": {"merged_into": people[0]}})

    assert await walked(office, Segment("all"), limit) == [each for each in people if each != people[2]]
    assert await walked(office, Segment("all"), limit, before=people[3]) == people[:2]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_applicants_of_items_in_a_period_each_once(office: Office, limit):
    people = await office.residents(6)
    for _ in range(3):
        await office.case(people[0])  # three cases, one person
    await office.case(people[1], item="school_enrol")
    await office.case(people[2], item="driver_renew")
    await office.case(people[3], days_ago=30)
    await office.case(people[4], agency="sg-jj")
    await office.case(people[5])
    await office.database["cases"].update_one({"owner_id": people[5]}, {"$set": {"submitted_at": None}})  # a draft
    codes = tuple(office.catalogue.item(name)["code"] for name in ("id_card_lost", "school_enrol"))
    day = today()

    assert await walked(office, Segment("applicants", items=codes), limit) == [people[0], people[1], people[3], people[4]]
    assert await walked(office, Segment("applicants", "sg-gaj", items=codes, from_on=day - timedelta(days=3)), limit) == people[:2]
    last_month = Segment("applicants", items=codes, until_on=day - timedelta(days=20))
    assert await walked(office, last_month, limit) == [people[3]]
    then = day - timedelta(days=30)
    assert await walked(office, Segment("applicants", items=codes, from_on=then, until_on=then), limit) == [people[3]]


async def test_people_of_a_division_are_those_of_the_towns_in_it_too(office: Office):
    people = await office.residents(3)
    town = next(row for row in office.catalogue.choosable_divisions() if row["level"] == "town")
    await office.case(people[0], division=town["code"])
    await office.case(people[1], division=town["parent"])
    counties = [row for row in office.catalogue.choosable_divisions() if row["level"] not in ("town", "city")]
    other = next(row for row in counties if row["code"] != town["parent"])
    await office.case(people[2], division=other["code"])

    assert await walked(office, Segment("division", divisions=(town["parent"],)), 2) == people[:2]
    assert await walked(office, Segment("division", divisions=(town["code"],)), 2) == people[:1]
    assert await walked(office, Segment("division", divisions=("440200",)), 1) == people
    assert within(["1"], {"2": {"parent": "1"}, "3": {"parent": "2"}, "4": {"parent": "9"}}) == ("1", "2", "3")


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_followers_of_items_themes_and_places_together(office: Office, limit):
    people = await office.residents(7)
    for number, (kind, key) in enumerate([(ITEM, "id_card_lost"), (THEME, "教育科研"), (NOTICE, "440203")] * 2):
        await office.subscriptions.put(people[number], kind, key)
    await office.subscriptions.put(people[0], THEME, "教育科研")  # both: once
    await office.subscriptions.put(people[6], THEME, "交通出行")
    code = office.catalogue.item("id_card_lost")["code"]
    segment = Segment("subscribers", items=(code,), themes=("教育科研",), divisions=("440203",))

    assert await walked(office, segment, limit) == people[:6]
    assert await walked(office, segment, limit, before=people[4]) == people[:4]
    finder = office.campaigns._people["subscribers"]
    assert await finder.stretch(segment, "", LAST, 1, only=people[3]) == ([people[3]], None)
    assert await finder.stretch(segment, "", LAST, 1, only=people[6]) == ([], None)
    assert await count(finder, segment, 4) == (4, True) and await count(finder, segment, 6) == (6, False)


async def test_the_walk_of_applicants_reads_the_index_alone(office: Office):
    people = await office.residents(40)
    for each in people:
        await office.case(each, agency="sg-gaj" if each == people[-1] else "sg-jj")
    code = office.catalogue.item("id_card_lost")["code"]
    query = {"item_code": {"$in": [code]}, "owner_id": {"$gt": "", "$lt": LAST}, "agency_id": "sg-gaj"}
    query["submitted_at"] = {"$gte": datetime(2000, 1, 1, tzinfo=UTC)}
    plan = await office.database.db.command(
        {"explain": {"find": "cases", "filter": query, "projection": {"_id": 0, "owner_id": 1}, "sort": {"owner_id": 1}, "limit": 10,
                     "hint": "applicants_by_item_code"}, "verbosity": "executionStats"}
    )  # fmt: skip
    assert plan["executionStats"]["totalDocsExamined"] == 0 and plan["executionStats"]["nReturned"] == 1
