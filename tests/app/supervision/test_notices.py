"""Notices of years at run time: every process learns, every open case is counted again and told once, whoever dies in between."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import orjson
import pytest

from app.cases.model import State
from app.kernel.calendar import CalendarBroken, WorkingCalendar
from app.supervision import notices as notices_module
from app.supervision.notices import Notices, Recounts
from config.settings import ROOT
from tests.app.cases.dying import mortal
from tests.app.cases.handled import events_of, set_clock, staff_of, submitted

CLERK = staff_of("sg-rsj")
FIXED = ["2027-01-01", "2027-05-01", "2027-10-01", "2027-10-02", "2027-10-03"]
LATER = notices_module.LEARNT + timedelta(seconds=1)


def notice(*more_days, **changes):
    return {"year": 2027, "notice": "国办发明电〔2026〕9号", "issued_on": "2026-11-05", "holidays": [*FIXED, *more_days], "makeup_workdays": []} | changes


def in_december(hall, day=28):
    set_clock(hall, datetime(2026, 12, day, 2, tzinfo=UTC))


async def told_moved(hall, case):
    return (await events_of(hall, case)).count("case.deadline_changed")


async def test_a_notice_moves_the_days_of_every_clock_and_tells_those_whose_day_moved_once(hall):
    in_december(hall)
    waiting, decided, moved = [await submitted(hall, "injury_identify") for _ in range(3)]
    await hall.review.act(decided.id, "accept", CLERK, {})
    decided = await hall.review.act(decided.id, "decide", CLERK, {"outcome": "approved", "opinion": ""})
    moved = await hall.review.act(moved.id, "accept", CLERK, {})
    assert (waiting.accept_by_on, decided.state) == (date(2027, 1, 5), State.APPROVED)
    loaded = await hall.notices.load(notice("2027-01-04", "2027-01-05", "2027-01-06"), "2027.json")
    assert (loaded.changed, loaded.replaced) == (True, False)
    assert hall.calendar.is_workday(date(2027, 1, 5)) == (False, False)
    assert await hall.recounts.run(2027) == (3, 3)
    for case, name in ((waiting, "accept_by_on"), (decided, "deliver_by_on"), (moved, "deadline_on")):
        after = await hall.cases.get(case.id, case.owner_id)
        assert getattr(after, name) != getattr(case, name), name
        assert not (after.accept_by_estimated if name == "accept_by_on" else name == "deadline_on" and after.deadline_estimated)
        assert await told_moved(hall, case) == 1
    told = await hall.database["events"].find_one({"name": "case.deadline_changed", "subject_id": decided.id})
    assert told["data"]["deadline_on"] == (await hall.cases.get(decided.id, decided.owner_id)).deliver_by_on.isoformat()
    assert await hall.recounts.run(2027) == (3, 0)
    assert [await told_moved(hall, case) for case in (waiting, decided, moved)] == [1, 1, 1]
    assert not (await hall.notices.load(notice("2027-01-04", "2027-01-05", "2027-01-06"), "2027.json")).changed


async def test_a_day_that_stays_is_certain_now_and_nobody_is_told(hall):
    in_december(hall)
    case = await submitted(hall, "injury_identify")
    assert case.accept_by_estimated
    await hall.notices.load(notice(), "2027.json")
    assert await hall.recounts.run(2027) == (1, 1)
    after = await hall.cases.get(case.id, case.owner_id)
    assert (after.accept_by_on, after.accept_by_estimated) == (case.accept_by_on, False)
    assert await told_moved(hall, case) == 0


async def test_a_corrected_notice_replaces_the_earlier_one_also_for_days_that_were_certain(hall):
    in_december(hall)
    await hall.notices.load(notice("2027-01-04"), "2027.json")
    case = await submitted(hall, "injury_identify")
    assert (case.accept_by_on, case.accept_by_estimated) == (date(2027, 1, 6), False)
    loaded = await hall.notices.load(notice("2027-01-04", "2027-01-06"), "corrected.json")
    assert loaded.replaced
    await hall.recounts.run(2027)
    assert (await hall.cases.get(case.id, case.owner_id)).accept_by_on == date(2027, 1, 7)
    # The other way too: a day off that was taken back.
    await hall.notices.load(notice(), "again.json")
    await hall.recounts.run(2027)
    assert (await hall.cases.get(case.id, case.owner_id)).accept_by_on == date(2027, 1, 5)
    assert await told_moved(hall, case) == 2


async def test_a_wrong_file_names_the_wrong_day_and_changes_nothing(hall):
    for change, said in (
        ({"holidays": [*FIXED, "2027-02-29"]}, "bad.json: holidays: '2027-02-29' is no day"),
        ({"makeup_workdays": ["2027-01-04"]}, "bad.json: 2027-01-04 is no weekend"),
        ({"makeup_workdays": ["2028-12-31"]}, "bad.json: 2028-12-31 does not belong to 2027"),
        ({"holidays": FIXED[1:]}, "bad.json: 2027-01-01 is a public holiday and missing"),
    ):
        with pytest.raises(CalendarBroken) as caught:
            await hall.notices.load(notice(**change), "bad.json")
        assert str(caught.value).startswith(said)
        assert "\n" not in str(caught.value)
    assert await hall.database["calendar_notices"].count_documents({}) == 0
    assert 2027 not in hall.calendar.published_years


async def test_another_process_learns_without_a_restart_and_one_that_starts_later_too(hall):
    others = WorkingCalendar.load(ROOT / "config" / "calendars")
    other, stop = Notices(hall.database, others), asyncio.Event()
    running = asyncio.create_task(other.run(stop, every_s=0.05))
    await hall.notices.load(notice("2027-01-04"), "2027.json")
    for _ in range(100):
        if 2027 in others.published_years:
            break
        await asyncio.sleep(0.05)
    assert others.is_workday(date(2027, 1, 4)) == (False, False)
    stop.set()
    await running
    later = Notices(hall.database, WorkingCalendar.load(ROOT / "config" / "calendars"))
    await later.refresh()
    assert later.calendar.notice(2027) == others.notice(2027)
    assert later.calendar.notice(2026) == hall.calendar.notice(2026), "the files stay the defaults"


async def test_a_process_that_counted_by_the_old_calendar_meanwhile_is_put_right_by_a_worker(hall):
    in_december(hall)
    new, old = hall.calendar, WorkingCalendar.load(ROOT / "config" / "calendars")
    await hall.notices.load(notice("2027-01-04", "2027-01-05"), "2027.json")
    await hall.recounts.run(2027)
    hall.cases.calendar = old  # a web process that has not looked yet
    case = await submitted(hall, "injury_identify")
    hall.cases.calendar = new
    assert case.accept_by_on == date(2027, 1, 5)
    assert await hall.recounts.run_due() == 0, "not before every process has surely learnt"
    later = Recounts(hall.database, hall.notices, hall.cases, lambda: datetime.now(UTC) + LATER)
    assert await later.run_due() == 1
    assert await later.run_due() == 0
    assert (await hall.cases.get(case.id, case.owner_id)).accept_by_on == date(2027, 1, 7)


async def test_a_command_and_workers_that_die_at_any_command_leave_every_case_counted_and_told_once(hall, monkeypatch):
    in_december(hall)
    cases = [await submitted(hall, "injury_identify") for _ in range(3)]
    monkeypatch.setattr(notices_module, "_BATCH", 1)  # so that there are several pieces to stop between
    ahead = [LATER]

    async def a_life():
        await hall.notices.load(notice("2027-01-04", "2027-01-05"), "2027.json")
        await hall.recounts.run(2027)
        ahead[0] += timedelta(minutes=2)  # the lease of the one that died has run out
        await Recounts(hall.database, hall.notices, hall.cases, lambda: datetime.now(UTC) + ahead[0]).run_due()

    with mortal(monkeypatch) as attempt:
        for number in range(1, 200):
            if not await attempt(a_life, number, number % 2 == 0):
                break
    await a_life()
    for case in cases:
        assert (await hall.cases.get(case.id, case.owner_id)).accept_by_on == date(2027, 1, 7)
        assert await told_moved(hall, case) == 1
    [row] = await hall.database["calendar_notices"].find({}).to_list()
    assert row["recount"]["done"]


async def test_a_case_that_is_closed_or_ends_before_the_year_is_left_alone(hall):
    set_clock(hall, datetime(2026, 3, 2, 2, tzinfo=UTC))
    early = await submitted(hall, "injury_identify")
    in_december(hall)
    closed = await submitted(hall, "injury_identify")
    await hall.review.act(closed.id, "reject", CLERK, {"reason": "不属于本机关"})
    await hall.notices.load(notice("2027-01-04"), "2027.json")
    assert await hall.recounts.run(2027) == (0, 0)
    assert (await hall.cases.get(early.id, early.owner_id)).version == early.version


def test_a_notice_file_is_what_the_folder_holds():
    data = orjson.loads((ROOT / "config" / "calendars" / "2026.json").read_bytes())
    assert notices_module.notice_of(data, "2026.json") == WorkingCalendar.load(ROOT / "config" / "calendars").notice(2026)
