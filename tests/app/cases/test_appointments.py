"""Appointed days of a case: noted as the case stands, forgotten when it ends, told on the working day before by the moved clock."""

import asyncio
from datetime import UTC, date, datetime, timedelta

from app.cases.appointments import appointments
from app.kernel import clock
from app.kernel.events import Event
from app.storage import virtual_clock
from tests.app.cases.dying import mortal
from tests.app.cases.handled import a_person, opened, staff_of, submitted, with_materials


async def married(hall, day: date):
    """An application with an appointed day."""
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, "marriage", owner))
    await hall.database["cases"].update_one({"_id": case.id}, {"$set": {"form.slot": day.isoformat()}})
    return await hall.cases.submit(case.id, owner)


async def days(hall, owner: str) -> list[tuple[str, str]]:
    return [(row["name"], row["due_on"]) for row in await hall.reminders.of(owner)]


async def test_the_appointed_day_of_a_form_is_noted_and_forgotten_when_the_case_ends(hall):
    day = clock.today() + timedelta(days=20)
    case = await married(hall, day)
    await hall.relay.drain()
    assert await days(hall, case.owner_id) == [("内地居民结婚登记", day.isoformat())]
    await hall.cases.withdraw(case.id, case.owner_id)
    await hall.relay.drain()
    assert await days(hall, case.owner_id) == []


async def test_whatever_comes_late_or_twice_or_dies_the_case_as_it_stands_counts(hall, monkeypatch):
    day = clock.today() + timedelta(days=20)
    case = await married(hall, day)
    submitted_event = await hall.database["events"].find_one({"name": "case.submitted", "subject_id": case.id})
    note = next(handle for name, handle in hall.relay._subscribers["case.submitted"] if name == "reminders")
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(lambda: note(Event.from_document(submitted_event)), number, after=number % 2 == 0):
            number += 1
    assert number > 3 and len(await days(hall, case.owner_id)) == 1
    await hall.cases.withdraw(case.id, case.owner_id)
    await hall.relay.drain()
    await note(Event.from_document(submitted_event))  # an older event once more, after the end
    assert await days(hall, case.owner_id) == []


async def test_a_hearing_is_an_appointment_and_the_virtual_clock_brings_its_reminder(hall):
    clerk = staff_of("sg-rsj")
    case = await submitted(hall, "injury_identify")
    await hall.review.act(case.id, "accept", clerk, {})
    await hall.database["cases"].update_one(
        {"_id": case.id}, {"$set": {"rules.hearing": "on_application", "hearing": {"told_at": datetime.now(UTC), "asked_at": datetime.now(UTC)}}}
    )
    stopped = await hall.review.act(case.id, "suspend", clerk, {"kind": "hearing", "days": 9, "reason": "9时，市民中心三楼"})
    held_on = stopped.suspensions[-1].expected_on
    await _note(hall, case.id)
    assert await days(hall, case.owner_id) == [("工伤认定申请：听证", held_on.isoformat())]
    before = held_on - timedelta(days=1)
    while not hall.calendar.is_workday(before)[0]:
        before -= timedelta(days=1)
    told = []
    for day in (before - timedelta(days=1), before, before + timedelta(days=1)):
        await virtual_clock.move(hall.database, datetime(day.year, day.month, day.day, 4, tzinfo=UTC) - clock.real_now())
        while clock.today() != day:
            await asyncio.sleep(0.05)
        told += [day] * await hall.reminders.run()
        told += [day] * await hall.reminders.run()
    assert told == [before]
    await hall.relay.drain()
    [message] = await hall.database["messages"].find({"owner_id": case.owner_id, "event": "reminder.appointment"}).to_list()
    assert message["link"] == f"/cases/{case.id}" and "听证" in message["title"]


async def _note(hall, case_id: str) -> None:
    # The item of the catalogue knows no hearing, so its events are passed by; this one's case does.
    case = await hall.cases.store.load({"_id": case_id})
    for dated in appointments(case, await hall.catalogue.item_at(case.item_code, case.item_version)):
        await hall.reminders.put(case.owner_id, dated)
