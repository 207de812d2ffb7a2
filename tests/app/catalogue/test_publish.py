"""Publishing: twice changes nothing, old versions stay readable, every process follows."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.catalogue.errors import CatalogueNotLoaded, ItemNotFound
from app.catalogue.live import LiveCatalogue
from app.catalogue.publish import COLLECTION, publish, read_version

NOW = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.fixture(scope="session")
def small(catalogue):
    """A few items are enough to publish."""
    kept = [item for item in catalogue.items if item["alias"] in ("id_card_lost", "driver_renew")]
    synonyms = {"groups": [], "leads_to": [], "stop_words": [], "words": []}
    return replace(catalogue, items=tuple(kept), bundles=(), knowledge=(), notices=(), synonyms=synonyms)


def changed(catalogue, alias, **fields):
    items = tuple(item | fields if item["alias"] == alias else item for item in catalogue.items)
    return replace(catalogue, items=items)


async def test_publishing_twice_changes_nothing(database, small):
    first = await publish(database, small, now=NOW)
    count = await database[COLLECTION].count_documents({})
    second = await publish(database, small, now=NOW)
    assert (first.changed, second.changed) == (True, False)
    assert (second.number, second.version_id) == (first.number, first.version_id)
    assert await database[COLLECTION].count_documents({}) == count


async def test_two_processes_that_publish_at_once_publish_once(database, small):
    published = await asyncio.gather(*(publish(database, small, now=NOW) for _ in range(4)))
    assert sum(one.changed for one in published) == 1
    assert {one.number for one in published} == {1}


async def test_a_changed_item_gets_the_next_version_and_cases_keep_theirs(database, small):
    await publish(database, small, now=NOW)
    live = LiveCatalogue(database)
    await live.load()
    old = live.item("id_card_lost")
    assert old["version"] == 1

    await publish(database, changed(small, "id_card_lost", summary="新的说明"), now=NOW)
    assert await live.load()
    new = live.item("id_card_lost")
    assert (new["version"], new["summary"]) == (2, "新的说明")
    assert live.item("driver_renew")["version"] == 1
    assert await live.item_at(old["code"], 1) == old
    assert (await live.item_at(old["code"], 2))["summary"] == "新的说明"
    with pytest.raises(ItemNotFound):
        await live.item_at(old["code"], 9)


async def test_going_back_brings_back_the_version_it_was(database, small):
    first = await publish(database, small, now=NOW)
    await publish(database, changed(small, "id_card_lost", summary="新的说明"), now=NOW)
    back = await publish(database, small, now=NOW)
    assert (back.version_id, back.number, back.changed) == (first.version_id, 3, True)
    live = LiveCatalogue(database)
    await live.load()
    assert live.item("id_card_lost")["version"] == 1
    again = await publish(database, changed(small, "id_card_lost", summary="第三版"), now=NOW)
    await live.load()
    assert (again.number, live.item("id_card_lost")["version"]) == (4, 3)


async def test_a_withdrawn_item_is_gone_for_new_cases_only(database, small):
    await publish(database, small, now=NOW)
    live = LiveCatalogue(database)
    await live.load()
    code = live.item("driver_renew")["code"]
    await publish(database, changed(small, "driver_renew", status="withdrawn"), now=NOW)
    await live.load()
    with pytest.raises(ItemNotFound):
        live.item("driver_renew")
    assert (await live.item_at(code, 1))["status"] == "published"


async def test_a_whole_version_can_be_read_back(database, catalogue):
    published = await publish(database, catalogue, now=NOW)
    again = await read_version(database, published.version_id)
    assert again == catalogue
    assert await read_version(database, "unknown") is None


async def test_before_the_first_publication_the_hall_says_so(database):
    live = LiveCatalogue(database)
    assert not await live.load()
    assert not live.is_loaded
    with pytest.raises(CatalogueNotLoaded):
        live.item("id_card_lost")


async def follow(live, stop, redis, every_s, until):
    running = asyncio.create_task(live.run(stop, redis, every_s=every_s))
    async with asyncio.timeout(10):
        while not until():
            await asyncio.sleep(0.01)
    stop.set()
    await running


async def test_a_running_process_is_told_through_redis(database, redis, small):
    live, stop = LiveCatalogue(database), asyncio.Event()
    following = asyncio.create_task(follow(live, stop, redis, 3600, lambda: live.is_loaded and live.snapshot.number == 2))
    await asyncio.sleep(0.2)
    await publish(database, small, redis=redis, now=NOW)
    await publish(database, changed(small, "id_card_lost", summary="新的说明"), redis=redis, now=NOW)
    await following
    assert live.item("id_card_lost")["summary"] == "新的说明"


async def test_without_redis_it_finds_out_from_mongodb(database, small):
    live, stop = LiveCatalogue(database), asyncio.Event()
    following = asyncio.create_task(follow(live, stop, None, 0.05, lambda: live.is_loaded))
    await publish(database, small, now=NOW)
    await following
