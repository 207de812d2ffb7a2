"""News for followers: each told once of each thing, whatever dies, however many workers walk, and by however many keys they follow it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.catalogue import publish as publishing
from app.catalogue.live import LiveCatalogue
from app.catalogue.load import Catalogue
from app.catalogue.publish import publish
from app.kernel.events import Event
from app.kernel.ids import new_id
from app.storage import outbox
from app.storage.mongo import Database, ensure_indexes
from push import news as module
from push import subscriptions
from push.news import BATCH, News
from push.subscriptions import ITEM, NOTICE, THEME, Subscriptions
from tests.app.cases.dying import mortal
from tests.catalogue import the_catalogue
from tests.push.desk import Desk


class At:
    """A clock that the test moves."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture(scope="module")
def files() -> Catalogue:
    return the_catalogue()


def with_item(catalogue: Catalogue, alias: str, **changes) -> Catalogue:
    return replace(catalogue, items=tuple(item | changes if item["alias"] == alias else item for item in catalogue.items))


class World:
    """A published catalogue, people who follow something, and the relay's part of handing item events over."""

    def __init__(self, database: Database, files: Catalogue) -> None:
        self.database, self.files = database, files
        self.clock = At(datetime(2027, 4, 1, 4, tzinfo=UTC))

    async def open(self, push) -> "World":
        indexes = {**subscriptions.INDEXES, **module.INDEXES, **outbox.INDEXES, **publishing.INDEXES}
        await ensure_indexes(self.database, indexes)
        await publish(self.database, self.files, now=self.clock())
        self.live = LiveCatalogue(self.database)
        await self.live.load()
        self.push = push
        self.subscriptions = Subscriptions(self.database, push.store, self.live, self.clock)
        self.news = self.another()
        await self.news.look()  # what shows already is no news
        await self.news.run()
        return self

    def another(self) -> News:
        return News(self.database, self.subscriptions, self.live, self.clock)

    async def publish(self, files: Catalogue) -> None:
        self.clock.moment += timedelta(minutes=1)
        await publish(self.database, files, now=self.clock())
        await self.live.load()
        await self.hand_over()

    async def hand_over(self) -> None:
        async for document in self.database["events"].find({"owner_id": "", "state": "waiting"}):
            for _ in range(2):  # at least once
                await self.news.note_item(Event.from_document(document))

    async def tell(self) -> None:
        """Tell every event of news, each twice: the relay hands over at least once."""
        async for document in self.database["events"].find({"name": {"$regex": "^news"}}):
            for _ in range(2):
                await self.push.tell(Event.from_document(document))

    async def told(self, person: str) -> list[str]:
        found = await self.database["messages"].find({"owner_id": person}).sort("seq", 1).to_list()
        return [message["event"] for message in found]

    async def people(self, count: int, kind: str = ITEM, key: str = "school_enrol") -> list[str]:
        people = [new_id("res") for _ in range(count)]
        rows = [
            {"_id": new_id("sub"), "owner_id": person, "kind": kind, "key": key, "name": "x", "since": self.clock()} for person in people
        ]
        await self.database["subscriptions"].insert_many(rows)
        return people


@pytest.fixture
async def world(desk: Desk, files: Catalogue) -> World:
    return await World(desk.database, files).open(desk.push)


async def test_followers_hear_what_a_publication_changed_for_them(world: World):
    [mine] = await world.people(1)
    [theme] = await world.people(1, THEME, "教育科研")
    [other] = await world.people(1, ITEM, "id_card_lost")
    closed = with_item(world.files, "school_enrol", status="withdrawn")
    changed = with_item(world.files, "school_enrol", conditions=["新的条件"], visits=3)
    unseen = with_item(changed, "school_enrol", search_words=["别的词"], conditions=["新的条件"], visits=3)
    for files in (changed, unseen, closed, world.files):
        await world.publish(files)
        await world.news.run()
    await world.tell()
    assert await world.told(mine) == ["news.item_changed", "news.item_closed", "news.item_opened"]
    assert await world.told(theme) == ["news.item_opened"], "of a theme only what is new in it"
    assert await world.told(other) == []
    first = await world.database["messages"].find_one({"owner_id": mine}, sort=[("seq", 1)])
    assert "什么人能办、办理方式" in first["body"] and first["link"] == "/items/school_enrol"
    deliveries = await world.database["deliveries"].find({"owner_id": mine}).to_list()
    assert {row["lane"] for row in deliveries} == {"campaign"}


async def test_enrolment_opens_on_its_day_at_nine_and_is_told_once(world: World):
    [mine] = await world.people(1)
    both = (await world.people(1, THEME, "教育科研"))[0]
    await world.subscriptions.put(both, ITEM, "school_enrol")
    for day, hour in ((5, 12), (6, 8), (6, 9), (6, 15), (7, 9), (21, 10)):
        world.clock.moment = datetime(2027, 5, day, hour - 8, tzinfo=UTC)
        await world.news.look()
        await world.news.run()
        late = (await world.people(1))[0]  # who follows it now sees it on the page
        expected = (day, hour) >= (6, 9)
        assert await world.database["events"].count_documents({"name": "news.period_opened", "owner_id": mine}) == expected
    await world.tell()
    assert await world.told(mine) == await world.told(both) == ["news.period_opened"]
    assert await world.told(late) == []
    message = await world.database["messages"].find_one({"owner_id": mine})
    assert "2027年5月6日到2027年5月20日" in message["body"]


async def test_a_notice_reaches_its_place_and_its_theme(world: World):
    county = next(row for row in world.files.divisions if row["level"] == "county")
    town = next(row for row in world.files.divisions if row["parent"] == county["code"] and not row.get("statistical_only") and row["level"] == "town")
    elsewhere = next(row for row in world.files.divisions if row["level"] == "county" and row["code"] != county["code"])
    people = {code: (await world.people(1, NOTICE, code))[0] for code in (county["code"], town["code"], elsewhere["code"])}
    [theme] = await world.people(1, THEME, "公用事业")
    notice = {
        "id": "water", "title": "停水通知", "body": "明天停水。", "item": None, "from_on": "2027-04-01", "until_on": None,
        "divisions": [county["code"]], "themes": ["公用事业"],
    }  # fmt: skip
    await world.publish(replace(world.files, notices=(*world.files.notices, notice)))
    for _ in range(2):
        await world.news.look()
        await world.news.run()
    await world.tell()
    for person in (people[county["code"]], people[town["code"]], theme):
        assert await world.told(person) == ["news.notice_published"]
    assert await world.told(people[elsewhere["code"]]) == []


async def test_a_walk_that_dies_at_any_command_goes_on_and_tells_each_once(world: World, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)
    people = await world.people(10)
    await world.publish(with_item(world.files, "school_enrol", conditions=["新的条件"]))
    ends_at = 0
    with mortal(monkeypatch) as attempt:
        while True:
            ends_at += 1
            if not await attempt(world.another().run, ends_at, after=ends_at % 2 == 0):
                break
    assert ends_at > 5
    events = await world.database["events"].find({"name": "news.item_changed"}).to_list()
    assert sorted(event["owner_id"] for event in events) == sorted(people)


async def test_many_workers_at_one_announcement_write_each_person_once(world: World, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 7)
    people = await world.people(60)
    await world.publish(with_item(world.files, "school_enrol", conditions=["新的条件"]))
    await asyncio.gather(*(world.another().run() for _ in range(4)))
    await world.news.run()
    events = await world.database["events"].find({"name": "news.item_changed"}).to_list()
    assert sorted(event["owner_id"] for event in events) == sorted(people)
    [row] = await world.database["announcements"].find({"event": "news.item_changed"}).to_list()
    assert (row["told"], row["is_open"]) == (60, False)


@pytest.mark.parametrize("told_before", [0, 1, 2])
async def test_two_accounts_of_one_person_are_told_once(world: World, told_before: int):
    old, new = sorted(await world.people(2))
    await world.publish(with_item(world.files, "school_enrol", conditions=["新的条件"]))
    await world.news.run()
    events = [Event.from_document(row) async for row in world.database["events"].find({"name": "news.item_changed"})]
    assert len(events) == 2
    for event in events[:told_before]:
        await world.push.tell(event)
    await world.push.reassign(old, new)  # they turn out to be one person
    await world.subscriptions.reassign(old, new)
    for event in events:
        await world.push.tell(event)
    assert await world.told(new) == ["news.item_changed"]
    assert await world.told(old) == []
    assert await world.database["deliveries"].count_documents({"owner_id": new}) == 1


async def test_a_join_in_the_middle_of_a_walk_loses_nobody_and_tells_nobody_twice(world: World, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    people = sorted(await world.people(6))
    stays = "res_" + "0" * 26  # before all the others, so that the walk has passed this id, and follows nothing yet
    await world.publish(with_item(world.files, "school_enrol", conditions=["新的条件"]))
    [row] = await world.database["announcements"].find({"is_open": True}).to_list()
    assert await world.news.step(row["_id"]) == 2
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(lambda: world.subscriptions.reassign(people[5], stays), number, after=number % 2 == 0):
            number += 1
    await world.push.reassign(people[5], stays)
    await world.subscriptions.reassign(people[0], people[4])  # told already, and again on the way
    await world.push.reassign(people[0], people[4])
    await world.news.run()
    await world.tell()
    for person in (stays, *people[1:5]):
        assert await world.told(person) == ["news.item_changed"], person


async def test_who_wants_no_news_gets_none_and_who_turned_channels_off_has_the_inbox(world: World, desk: Desk):
    none, quiet = await world.people(2)
    await desk.push.set_preferences(none, {"kinds": {"news": {"inbox": False}}})
    await desk.push.set_preferences(quiet, {"kinds": {"news": {"wechat": False, "alipay": False, "app": False}}})
    await world.publish(with_item(world.files, "school_enrol", conditions=["新的条件"]))
    await world.news.run()
    await world.tell()
    assert await world.told(none) == []
    assert await world.told(quiet) == ["news.item_changed"]
    await desk.push.deliver_due()
    assert {row["state"] for row in await desk.deliveries(quiet)} == {"inbox"}


async def test_a_long_walk_waits_while_much_of_it_is_still_to_be_handed_over(world: World, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 2 * BATCH)
    await world.people(3 * BATCH)
    await world.publish(with_item(world.files, "school_enrol", conditions=["新的条件"]))
    assert await world.news.run() == 2 * BATCH
    assert await world.news.run() == 0
    await world.database["events"].update_many({"name": "news.item_changed"}, {"$set": {"state": "done"}})
    assert await world.news.run() == BATCH
