"""Reminders on a real database: each day once per threshold, together what belongs together, whatever dies, repeats or jumps."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import chinese_day
from app.kernel.events import Event
from app.kernel.ids import new_id
from app.kernel.printed import with_printed
from app.reminders import printed, service
from app.reminders.model import Dated
from app.reminders.service import Reminders
from app.storage import outbox
from app.storage.mongo import Database, ensure_indexes
from config.settings import ROOT
from push.templates import load_templates
from tests.app.cases.dying import mortal

CALENDAR = WorkingCalendar.load(Path(__file__).resolve().parents[3] / "config" / "calendars")
BEGIN = date(2026, 3, 2)


class At:
    """A clock that the test moves; ten in the morning in Shanghai."""

    def __init__(self, day: date = BEGIN) -> None:
        self.day, self.hour = day, 10

    def __call__(self) -> datetime:
        return datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC) + timedelta(hours=self.hour - 8)


@pytest.fixture
async def clock() -> At:
    return At()


@pytest.fixture
async def reminders(database: Database, clock: At) -> Reminders:
    await ensure_indexes(database, {**service.INDEXES, **outbox.INDEXES})
    return Reminders(database, CALENDAR, clock)


def licence(days: int, name: str = "护士执业证书", subject: str = "licence:lic_1") -> Dated:
    return Dated(subject, "licence", name, BEGIN + timedelta(days=days), item="nurse_register")


async def told(database: Database, owner_id: str) -> list[dict]:
    return await database["events"].find({"owner_id": owner_id}).sort("_id", 1).to_list()


async def test_each_threshold_is_told_once_however_often_it_is_swept_and_noted(reminders, database, clock):
    me = new_id("res")
    days = []
    for passed in range(110):
        clock.day = BEGIN + timedelta(days=passed)
        if passed % 3 == 0:
            await reminders.put(me, licence(100))  # its source is handed over again and again
        for _ in range(2):
            if await reminders.run():
                days.append(100 - passed)
    assert days == [90, 30, 7]
    assert [event["data"]["entries"][0]["days_left"] for event in await told(database, me)] == [90, 30, 7]
    assert {event["name"] for event in await told(database, me)} == {"reminder.expiring"}
    assert {event["data"]["page"] for event in await told(database, me)} == {"items/nurse_register"}


async def test_three_licences_that_end_in_one_week_are_one_message(reminders, database, clock):
    me, other = new_id("res"), new_id("res")
    for days, name in ((100, "居民身份证"), (103, "普通护照"), (106, "广东省居住证")):
        await reminders.put(me, licence(days, name, f"licence:{name}"))
    await reminders.put(me, licence(150, "社会保障卡", "licence:card"))
    await reminders.put(other, licence(101, "普通护照", "licence:others"))
    for passed in range(160):
        clock.day = BEGIN + timedelta(days=passed)
        await reminders.run()
    messages = [[entry["name"] for entry in event["data"]["entries"]] for event in await told(database, me)]
    week = ["居民身份证", "普通护照", "广东省居住证"]
    assert messages == [week, ["社会保障卡"], week, week, ["社会保障卡"], ["社会保障卡"]]
    assert len(await told(database, other)) == 3
    rendered = load_templates().render(_event(await told(database, me)), "zh")
    assert rendered.title == "快到期了：居民身份证等3项"
    assert f"1. 居民身份证：{chinese_day(BEGIN + timedelta(days=100))}到期，还有90天" in rendered.body
    assert rendered.link == "/items/nurse_register"


def _event(documents):
    return Event.from_document(documents[0])


async def test_a_clock_that_jumps_over_thresholds_tells_once_and_says_what_is_past(reminders, database, clock):
    me = new_id("res")
    await reminders.put(me, licence(100))
    clock.day = BEGIN + timedelta(days=95)
    assert (await reminders.run(), await reminders.run()) == (1, 0)
    other = new_id("res")
    await reminders.put(other, licence(200, subject="licence:2"))
    clock.day = BEGIN + timedelta(days=300)
    assert (await reminders.run(), await reminders.run()) == (1, 0)
    text = load_templates().render(_event(await told(database, other)), "zh").body
    assert "已经过期" in text


async def test_nobody_is_woken_at_midnight(reminders, database, clock):
    me = new_id("res")
    await reminders.put(me, licence(100))
    clock.day, clock.hour = BEGIN + timedelta(days=10), 0
    assert await reminders.run() == 0
    clock.hour = 9
    assert await reminders.run() == 1


async def test_another_day_of_the_same_thing_takes_the_place_of_the_old_one(reminders, database, clock):
    me = new_id("res")
    await reminders.put(me, licence(100))
    clock.day = BEGIN + timedelta(days=12)
    assert await reminders.run() == 1
    await reminders.put(me, licence(400))  # renewed
    clock.day = BEGIN + timedelta(days=75)
    assert await reminders.run() == 0
    clock.day = BEGIN + timedelta(days=311)
    assert await reminders.run() == 1
    await reminders.drop(["licence:lic_1"])
    clock.day = BEGIN + timedelta(days=399)
    assert await reminders.run() == 0


@pytest.mark.parametrize(
    ("due", "told_on"),
    [
        (date(2026, 3, 4), date(2026, 3, 3)),
        (date(2026, 3, 9), date(2026, 3, 6)),  # a Monday: the Friday before
        (date(2026, 10, 8), date(2026, 9, 30)),  # after the national holidays
    ],
)
async def test_an_appointment_is_told_on_the_working_day_before(reminders, database, clock, due, told_on):
    me = new_id("res")
    await reminders.put(me, Dated("case:case_1:slot", "appointment", "结婚登记", due, case_id="case_1"))
    for passed in range((told_on - BEGIN).days + 1):
        clock.day = BEGIN + timedelta(days=passed)
        assert await reminders.run() == (clock.day == told_on)
    [event] = await told(database, me)
    assert (event["name"], event["data"]["page"]) == ("reminder.appointment", "cases/case_1")


async def test_many_workers_at_once_tell_once(reminders, database, clock):
    people = [new_id("res") for _ in range(12)]
    for person in people:
        await reminders.put(person, licence(100))
    clock.day = BEGIN + timedelta(days=10)
    counts = await asyncio.gather(*(Reminders(database, CALENDAR, clock).run() for _ in range(5)))
    assert sum(counts) == 12
    assert [len(await told(database, person)) for person in people] == [1] * 12


async def test_who_dies_at_any_command_tells_once_all_the_same(reminders, database, clock, monkeypatch):
    with mortal(monkeypatch) as attempt:
        for after in (False, True):
            ends_at = 0
            while True:
                ends_at += 1
                me = new_id("res")
                clock.day = BEGIN

                async def work(me=me) -> None:
                    await reminders.put(me, licence(100, subject=f"licence:{me}"))
                    clock.day = BEGIN + timedelta(days=10)
                    await reminders.run()

                died = await attempt(work, ends_at, after)
                clock.day = BEGIN
                await reminders.put(me, licence(100, subject=f"licence:{me}"))
                clock.day = BEGIN + timedelta(days=10)
                await reminders.run()
                await reminders.run()
                assert len(await told(database, me)) == 1, (ends_at, after)
                if not died:
                    break
            assert ends_at > 6


async def test_joined_residents_are_reminded_once(reminders, database, clock, monkeypatch):
    with mortal(monkeypatch) as attempt:
        ends_at, died = 0, True
        while died:
            ends_at += 1
            clock.day = BEGIN
            old, new = new_id("res"), new_id("res")
            shared = licence(100, "机动车驾驶证", "check:licence_points:driving_licence")
            await reminders.put(old, shared)
            await reminders.put(new, shared)
            await reminders.put(old, licence(200, subject=f"licence:{old}"))
            clock.day = BEGIN + timedelta(days=10)
            await reminders._tell(old, clock.day)  # told to one of the two accounts, before they were one
            died = await attempt(lambda old=old, new=new: reminders.reassign(old, new), ends_at, after=ends_at % 2 == 0)
            await reminders.reassign(old, new)
            await reminders.run()
            assert await told(database, new) == [], "the other account has heard of it"
            assert len(await reminders.of(new)) == 2 and await reminders.of(old) == []
            clock.day = BEGIN + timedelta(days=70)
            await reminders.run()
            assert [entry["name"] for entry in (await told(database, new))[0]["data"]["entries"]] == ["机动车驾驶证"]
    assert ends_at > 5


async def test_one_row_that_cannot_be_told_holds_up_nobody_else(reminders, database, clock):
    broken, me = new_id("res"), new_id("res")
    await reminders.put(broken, licence(100, subject="licence:broken"))
    await database["reminders"].update_one({"owner_id": broken}, {"$set": {"kind": "unknown"}})
    await reminders.put(me, licence(100))
    clock.day = BEGIN + timedelta(days=10)
    assert await reminders.run() == 1
    assert len(await told(database, me)) == 1


def test_the_docs_show_when_each_kind_is_told():
    page = (ROOT / "docs" / "push.md").read_text(encoding="utf-8")
    assert with_printed(page, printed.table()) == page, "run: python -m app.reminders.printed docs/push.md"


async def test_what_is_over_is_not_announced_and_not_looked_at_again(reminders, database, clock):
    me = new_id("res")
    await reminders.put(me, Dated("case:case_1:hearing", "appointment", "听证会", BEGIN + timedelta(days=1), case_id="case_1"))
    await reminders.put(me, licence(40))
    clock.day = BEGIN + timedelta(days=12)  # no worker was there
    assert await reminders.run() == 1
    assert [row["name"] for row in await told(database, me)] == ["reminder.expiring"]
    assert [(row["kind"], row["look_on"] is None) for row in await reminders.of(me)] == [("appointment", True), ("licence", False)]
