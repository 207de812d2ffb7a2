"""What a publication tells of items: opened, changed, closed, in its transaction, and nothing that only the office sees."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.catalogue.changes import CHANGED, CLOSED, OPENED, changes
from app.catalogue.publish import COLLECTION, publish
from tests.app.cases.dying import mortal

NOW = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.fixture(scope="session")
def two(catalogue):
    kept = [item for item in catalogue.items if item["alias"] in ("id_card_lost", "driver_renew")]
    synonyms = {"groups": [], "leads_to": [], "stop_words": [], "words": []}
    return replace(catalogue, items=tuple(kept), bundles=(), knowledge=(), notices=(), synonyms=synonyms)


def with_item(catalogue, alias, **fields):
    return replace(catalogue, items=tuple(item | fields if item["alias"] == alias else item for item in catalogue.items))


def rows(before, after):
    return [(row["event"], row["alias"], row["parts"]) for row in changes(before.items, after.items)]


def test_only_what_a_person_cares_about_is_a_change(two):
    assert rows(two, two) == []
    assert rows(two, with_item(two, "id_card_lost", search_words=["x"], hot_rank=9, notes="y")) == []
    assert rows(two, with_item(two, "id_card_lost", conditions=["x"], visits=5)) == [(CHANGED, "id_card_lost", ["conditions", "channels"])]
    withdrawn = with_item(two, "id_card_lost", status="withdrawn")
    assert rows(two, withdrawn) == [(CLOSED, "id_card_lost", [])]
    assert rows(withdrawn, two) == [(OPENED, "id_card_lost", [])]
    assert rows(two, replace(two, items=two.items[:1])) == [(CLOSED, two.items[1]["alias"], [])]


async def told(database):
    return [(row["name"], row["data"]["alias"], row["data"]["publication"]) async for row in database["events"].find().sort("_id", 1)]


async def test_the_first_publication_is_no_news_and_each_later_one_tells_once(database, two):
    await publish(database, two, now=NOW)
    assert await told(database) == []
    other = with_item(two, "id_card_lost", conditions=["x"])
    for _ in range(2):
        await publish(database, other, now=NOW)
    await publish(database, two, now=NOW)  # back to what it was: another change
    assert await told(database) == [(CHANGED, "id_card_lost", 2), (CHANGED, "id_card_lost", 3)]


async def test_a_publication_that_dies_tells_of_what_is_published_and_of_nothing_else(database, two, monkeypatch):
    await publish(database, two, now=NOW)
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(lambda: publish(database, with_item(two, "id_card_lost", conditions=[f"x{number}"]), now=NOW), number, number % 2 == 0):
            current = await database[COLLECTION].find_one({"_id": "current"})
            assert len(await told(database)) == current["number"] - 1
            number += 1
    assert number > 5
    current = await database[COLLECTION].find_one({"_id": "current"})
    assert len(await told(database)) == current["number"] - 1
