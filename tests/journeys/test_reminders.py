"""A running hall reminds: days that a check told, and an enrolment that opens, each once, though the worker is killed on the way."""

import asyncio
from datetime import date, timedelta

from tests.journeys.conftest import settled
from tests.journeys.stories import someone
from tests.journeys.test_clock import move  # noqa: F401


async def events_in(resident, *names):
    inbox = (await resident.get("/v1/notifications?limit=100"))["items"]
    return [message["event"] for message in reversed(inbox) if message["event"] in names]


async def test_days_known_from_checks_and_an_enrolment_that_opens(hall, anyone, move):  # noqa: F811
    resident, _name = await someone(anyone)
    await resident.call("PUT", "/v1/me/subscriptions/item/school_enrol")
    answer = await resident.post("/v1/checks/licence_points", {"inputs": {}})
    rows = {row["label"]: row["value"] for row in answer["records"][0]["rows"]}
    began = date.fromisoformat(rows["本记分周期起"])
    try:
        cycle_ends = began.replace(year=began.year + 1)
    except ValueError:
        cycle_ends = date(began.year + 1, 2, 28)
    names = ("reminder.points_cycle", "news.period_opened")
    opens = date(2027, 5, 6)
    expected = []
    for day, event in sorted([(cycle_ends - timedelta(days=7), names[0]), (opens, names[1])]):
        hall.kill("worker")
        await move("set", f"{day}T10:00")
        assert await events_in(resident, *names) == expected, "nobody works"
        hall.start("worker")
        expected.append(event)
        for _ in range(100):
            if len(await events_in(resident, *names)) == len(expected):
                break
            await asyncio.sleep(0.2)
        hall.kill("worker")  # and whoever comes after it begins anew
        hall.start("worker")
        await settled(resident, 1)
        assert await events_in(resident, *names) == expected
