"""What the hall does when a day has passed, on a real database: once, whoever else acts at that second, however many workers sweep."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import pytest

from app.cases import steps
from app.cases.errors import ActionNotAllowed
from app.cases.model import State
from app.cases.sweeps import Sweeps, swept
from app.kernel.calendar import Notice, WorkingCalendar
from app.kernel.errors import ValidationFailed
from tests.app.cases.handled import a_person, events_of, opened, paid, set_clock, staff_of, submitted, with_materials
from tests.app.cases.walking import CALENDAR, draft, item

CLERK, HEAD = staff_of("sg-rsj"), staff_of("sg-rsj", "head")


def at(month, day, hour=10):
    return datetime(2026, month, day, hour - 8, tzinfo=UTC)


async def test_silence_is_acceptance_from_the_day_it_was_received_and_the_clock_runs_from_there(hall):
    set_clock(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    assert case.accept_by_on == date(2026, 3, 9)
    set_clock(hall, at(3, 9, 23))
    await hall.sweeps.run()
    assert (await hall.cases.get(case.id, case.owner_id)).state is State.SUBMITTED, "on its last day the office may still answer"
    set_clock(hall, at(3, 10, 8))
    assert await hall.sweeps.run() == 1
    assert await hall.sweeps.run() == 0
    assert (await events_of(hall, case)).count("case.deemed_accepted") == 1
    accepted = await hall.cases.get(case.id, case.owner_id)
    assert (accepted.state, accepted.is_deemed_accepted) == (State.ACCEPTED, True)
    assert accepted.accepted_at == case.submitted_at
    told = await hall.database["events"].find_one({"name": "case.deemed_accepted"})
    assert told["data"] | {"received_on": "2026-03-02", "card": "red", "silent_until_on": "2026-03-09"} == told["data"]


async def test_an_acceptance_on_time_counts_the_same_days_as_one_by_silence(hall):
    set_clock(hall, at(3, 2))
    spoken, silent = await submitted(hall, "injury_identify"), await submitted(hall, "injury_identify")
    spoken = await hall.review.act(spoken.id, "accept", CLERK, {})
    set_clock(hall, at(3, 10))
    await hall.sweeps.run()
    silent = await hall.cases.get(silent.id, silent.owner_id)
    assert silent.deadline_on == spoken.deadline_on


async def test_too_late_the_office_can_neither_refuse_nor_ask_and_its_acceptance_is_the_laws(hall):
    set_clock(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    set_clock(hall, at(3, 10))
    for action, body in (
        ("reject", {"reason": "不属于本机关"}),
        ("request_supplement", {"missing": [{"key": "name", "reason": "不清楚"}]}),
    ):
        with pytest.raises(ActionNotAllowed, match="第三十二条|受理期限已过"):
            await hall.review.act(case.id, action, CLERK, body)
    accepted = await hall.review.act(case.id, "accept", CLERK, {})
    assert (accepted.state, accepted.is_deemed_accepted) == (State.ACCEPTED, True)
    assert (await events_of(hall, case)).count("case.deemed_accepted") == 1
    assert "case.accepted" not in await events_of(hall, case)


@pytest.mark.parametrize("day", [9, 10])
async def test_a_clerk_and_many_workers_at_the_same_second_accept_once(hall, day):
    """On the last day the clerk may; a day later only the law: never both, never two."""
    set_clock(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    set_clock(hall, at(3, day))
    # The sweeps' clocks are a day ahead: what one second around midnight looks like from two machines.
    workers = [Sweeps(hall.cases, lambda: at(3, 10)) for _ in range(4)]
    results = await asyncio.gather(
        hall.review.act(case.id, "accept", CLERK, {}), *(worker.run() for worker in workers), return_exceptions=True
    )
    assert not [result for result in results if isinstance(result, Exception) and not isinstance(result, ActionNotAllowed)]
    names = await events_of(hall, case)
    assert names.count("case.accepted") + names.count("case.deemed_accepted") == 1
    assert (await hall.cases.get(case.id, case.owner_id)).state is State.ACCEPTED


async def test_an_unpaid_application_is_not_accepted_by_silence_and_is_reminded_once(hall):
    set_clock(hall, at(3, 2))
    case = await with_materials(hall, await opened(hall, "driver_renew", await a_person(hall), {"agent": "no"}))
    case = await hall.cases.submit(case.id, case.owner_id)
    assert (case.state, case.clock) == (State.AWAITING_PAYMENT, None)
    for day in (20, 21, 22):
        set_clock(hall, at(3, day))
        await hall.sweeps.run()
    names = await events_of(hall, case)
    assert names.count("case.fee_reminder") == 1
    assert "case.deemed_accepted" not in names
    # The office's days begin with the payment.
    going_on = await paid(hall, case)
    assert (going_on.state, going_on.accept_by_on) == (State.SUBMITTED, date(2026, 3, 27))


async def test_a_notice_is_reminded_once_and_closed_when_nothing_comes(hall):
    set_clock(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    await hall.review.act(case.id, "request_supplement", CLERK, {"missing": [{"key": "name", "reason": "请填全名"}]})
    noticed = await hall.cases.get(case.id, case.owner_id)
    assert noticed.supplement["by_on"] == "2026-03-23"
    assert noticed.clock is None
    for day in (10, 18, 19, 23):
        set_clock(hall, at(3, day))
        await hall.sweeps.run()
    assert (await events_of(hall, case)).count("case.supplement_reminder") == 1
    assert (await hall.cases.get(case.id, case.owner_id)).state is State.SUPPLEMENT_REQUIRED, "the last day is still theirs"
    set_clock(hall, at(3, 24))
    await hall.sweeps.run()
    closed = await hall.cases.get(case.id, case.owner_id)
    assert (closed.state, closed.refusal["code"]) == (State.NOT_ACCEPTED, "5")
    with pytest.raises(ActionNotAllowed):
        await hall.cases.supplement(case.id, case.owner_id)


async def test_a_supplement_and_the_sweep_that_would_close_it_at_the_same_second_do_one_thing(hall):
    set_clock(hall, at(3, 2))
    for _ in range(3):
        case = await submitted(hall, "injury_identify")
        await hall.review.act(case.id, "request_supplement", CLERK, {"missing": [{"key": "name", "reason": "请填全名"}]})
        late = [Sweeps(hall.cases, lambda: at(3, 24)).run() for _ in range(3)]
        await asyncio.gather(hall.cases.supplement(case.id, case.owner_id), *late, return_exceptions=True)
        names = await events_of(hall, case)
        assert names.count("case.supplemented") + names.count("case.supplement_expired") == 1


async def test_a_second_notice_is_the_heads_alone_with_a_reason_and_counts_against_the_office(hall):
    set_clock(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    body = {"missing": [{"key": "name", "reason": "请填全名"}]}
    await hall.review.act(case.id, "request_supplement", CLERK, body)
    await hall.cases.supplement(case.id, case.owner_id)
    with pytest.raises(ActionNotAllowed, match="一次性告知"):
        await hall.review.act(case.id, "request_supplement", CLERK, body)
    with pytest.raises(ValidationFailed):
        await hall.review.act(case.id, "request_supplement", HEAD, body)
    noticed = await hall.review.act(case.id, "request_supplement", HEAD, body | {"reason": "第一次告知遗漏"})
    assert [notice["by_superior"] for notice in noticed.supplements] == [False, True]
    told = await hall.database["events"].find({"name": "case.supplement_requested"}).sort("_id", 1).to_list()
    assert [event["data"]["by_superior"] for event in told] == [False, True]


async def test_a_special_procedure_that_takes_too_long_is_told_once_and_the_clock_stands(hall):
    set_clock(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    accepted = await hall.review.act(case.id, "accept", CLERK, {})
    stopped = await hall.review.act(case.id, "suspend", CLERK, {"kind": "identification", "days": 3, "reason": "伤情鉴定"})
    assert stopped.due_on == date(2026, 3, 5)
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(case.id, "suspend", CLERK, {"kind": "hearing", "days": 3})
    for day in (5, 6, 9, 13):
        set_clock(hall, at(3, day))
        await hall.sweeps.run()
    assert (await events_of(hall, case)).count("case.suspension_overdue") == 1
    resumed = await hall.review.act(case.id, "resume", CLERK, {})
    assert resumed.deadline_on > accepted.deadline_on


async def test_one_broken_case_holds_up_no_other(hall):
    set_clock(hall, at(3, 2))
    broken, sound = await submitted(hall, "injury_identify"), await submitted(hall, "injury_identify")
    await hall.database["cases"].update_one({"_id": broken.id}, {"$set": {"item_version": 99}})
    set_clock(hall, at(3, 10))
    assert await hall.sweeps.run() == 1
    assert (await hall.cases.get(sound.id, sound.owner_id)).state is State.ACCEPTED


def test_a_day_that_was_only_estimated_is_counted_again_before_silence_becomes_acceptance():
    of = item()
    start = replace(draft(of), now=datetime(2026, 12, 28, 2, tzinfo=UTC))
    case = steps.submit(start.case, of, (), {}, CALENDAR, start.now).case
    assert case.accept_by_estimated
    # The notice of 2027 says that the first days of January are off.
    days = frozenset(date(2027, 1, day) for day in range(1, 9))
    published = WorkingCalendar([CALENDAR.notice(2026), Notice(2027, "n", date(2026, 11, 5), days, frozenset())])
    after = datetime.combine(case.accept_by_on + timedelta(days=1), time(2), UTC)
    moved = swept(case, of, published, after)
    assert (moved.case.state, [event.name for event in moved.events]) == (State.SUBMITTED, ["case.deadline_changed", "case.warned"])
    assert moved.case.accept_by_on == date(2027, 1, 12)
    assert swept(moved.case, of, published, after).case is moved.case
    silent = swept(moved.case, of, published, datetime(2027, 1, 13, 2, tzinfo=UTC))
    assert silent.case.state is State.ACCEPTED
