"""Subscriptions: one per person and thing whoever asks at once, a limit that holds, nothing lost when residents are joined."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from app.catalogue.live import LiveCatalogue
from app.catalogue.publish import publish
from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from app.storage.mongo import Database, ensure_indexes
from push import store as push_store
from push import subscriptions as module
from push.store import Store
from push.subscriptions import ITEM, MOST, NOTICE, THEME, NothingToFollow, Subscriptions, TooManySubscriptions
from tests.app.cases.dying import mortal
from tests.catalogue import the_catalogue
from tests.push.desk import Desk
from tests.push.web import open_web


@pytest.fixture
async def catalogue(database: Database) -> LiveCatalogue:
    await publish(database, the_catalogue())
    live = LiveCatalogue(database)
    await live.load()
    return live


@pytest.fixture
async def subscriptions(database: Database, catalogue: LiveCatalogue) -> AsyncIterator[Subscriptions]:
    await ensure_indexes(database, {**push_store.INDEXES, **module.INDEXES})
    yield Subscriptions(database, Store(database), catalogue)


async def test_asked_twice_or_at_once_it_is_followed_once(subscriptions: Subscriptions, database: Database):
    me = new_id("res")
    await asyncio.gather(*(subscriptions.put(me, ITEM, "school_enrol") for _ in range(6)))
    code = subscriptions._catalogue.item("school_enrol")["code"]
    again = await subscriptions.put(me, ITEM, code)  # by its code: the same thing
    assert again["key"] == "school_enrol" and again["link"] == "/items/school_enrol"
    assert [row["key"] for row in await subscriptions.of(me)] == ["school_enrol"]
    await subscriptions.drop(me, ITEM, code)
    await subscriptions.drop(me, ITEM, code)
    assert await subscriptions.of(me) == []
    with pytest.raises(NothingToFollow):
        await subscriptions.get(me, ITEM, "school_enrol")


@pytest.mark.parametrize(("kind", "key"), [(ITEM, "none"), (THEME, "占卜"), (NOTICE, "999999"), ("person", "school_enrol")])
async def test_what_does_not_exist_cannot_be_followed(subscriptions: Subscriptions, kind, key):
    with pytest.raises(NothingToFollow):
        await subscriptions.put(new_id("res"), kind, key)


async def test_the_limit_holds_for_requests_at_once(subscriptions: Subscriptions):
    me, snapshot = new_id("res"), subscriptions._catalogue.snapshot
    aliases = [item["alias"] for item in snapshot.items][: MOST + 6]
    for alias in aliases[: MOST - 2]:
        await subscriptions.put(me, ITEM, alias)
    answers = await asyncio.gather(*(subscriptions.put(me, ITEM, alias) for alias in aliases[MOST - 2 :]), return_exceptions=True)
    assert sum(isinstance(answer, TooManySubscriptions) for answer in answers) == 6
    assert len(await subscriptions.of(me)) == MOST


async def test_readers_walk_the_people_of_a_key_in_order_and_can_stop_anywhere(subscriptions: Subscriptions):
    people = [new_id("res") for _ in range(7)]
    for person in reversed(people):
        await subscriptions.put(person, THEME, "教育科研")
    await subscriptions.put(new_id("res"), THEME, "交通出行")
    found: list[str] = []
    while batch := await subscriptions.subscribers(THEME, "教育科研", found[-1] if found else "", 3):
        found += batch
    assert found == sorted(people)
    assert await subscriptions.subscribers(THEME, "教育科研", until=utc_now() - timedelta(hours=1)) == []


async def test_joining_keeps_each_thing_once_whatever_dies(subscriptions: Subscriptions, database: Database, monkeypatch):
    with mortal(monkeypatch) as attempt:
        for after in (False, True):
            ends_at = 0
            while True:
                ends_at += 1
                old, new = new_id("res"), new_id("res")
                await subscriptions.put(old, ITEM, "school_enrol")
                await subscriptions.put(old, NOTICE, "440200")
                await subscriptions.put(new, ITEM, "school_enrol")
                died = await attempt(lambda old=old, new=new: subscriptions.reassign(old, new), ends_at, after)
                await subscriptions.reassign(old, new)  # the relay hands the event over again
                assert sorted(row["kind"] for row in await subscriptions.of(new)) == [ITEM, NOTICE]
                assert await database["subscriptions"].count_documents({"owner_id": old}) == 0
                if not died:
                    break
            assert ends_at > 3


async def test_over_http_it_is_mine_and_only_mine(subscriptions: Subscriptions, desk: Desk, keys):
    async with open_web(desk, keys) as web:
        web.hall.subscriptions = subscriptions
        mine, other = await web.sign_in("follows"), await web.sign_in("stranger")
        path = "/v1/me/subscriptions/theme/%E6%95%99%E8%82%B2%E7%A7%91%E7%A0%94"
        assert (await web.call("PUT", path))[0] == 401
        assert (await web.call("PUT", path, mine))[1]["name"] == "“教育科研”类事项"
        assert (await web.call("PUT", path, mine))[0] == (await web.call("GET", path, mine))[0] == 200
        assert (await web.call("GET", path, other))[1]["code"] == "subscription.unknown_key"
        assert [row["key"] for row in (await web.call("GET", "/v1/me/subscriptions", mine))[1]["items"]] == ["教育科研"]
        assert (await web.call("GET", "/v1/me/subscriptions", other))[1] == {"items": []}
        assert (await web.call("DELETE", path, other))[0] == 204, "which takes nobody else's away"
        assert (await web.call("GET", path, mine))[0] == 200
        assert (await web.call("DELETE", path, mine))[0] == (await web.call("DELETE", path, mine))[0] == 204
        for wrong in ("item/nothing", "item/%00%00", "person/school_enrol", "notice/999999"):
            assert (await web.call("PUT", f"/v1/me/subscriptions/{wrong}", mine))[0] == 404
