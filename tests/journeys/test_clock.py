"""Weeks in seconds: the clock of a running hall is moved, every process and the stand-ins follow, also those that die and start again."""

import asyncio
import subprocess
import sys
from datetime import datetime, timedelta

import aiohttp
import pytest

from app.kernel.clock import real_now
from tests.journeys.conftest import PASSWORD, ROOT, settled
from tests.journeys.stories import events_of, someone, submitted


@pytest.fixture
async def move(hall):
    """A function that moves the clock as the command does; the real time is back afterwards."""

    async def run(*words):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "main.py", "clock", *words,
            cwd=ROOT, env=hall.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return out.decode()

    yield run
    await run("reset")
    for name, process in hall.processes.items():
        if process.poll() is not None:
            hall.start(name)
    await asyncio.sleep(1.5)


async def cards_of(head, case, **query):
    parameters = "".join(f"&{name}={value}" for name, value in query.items())
    rows = (await head.get(f"/staff/v1/cards?limit=100{parameters}"))["items"]
    return {row["rule"]: row for row in rows if row["case"]["id"] == case["id"]}


async def until_card(head, case, rule, **query):
    for _ in range(200):
        found = await cards_of(head, case, **query)
        if rule in found:
            return found[rule]
        await asyncio.sleep(0.1)
    raise AssertionError(f"no {rule} among {sorted(found)}")


@pytest.mark.long
async def test_an_office_that_sleeps_is_warned_then_red_then_its_superior_knows(hall, anyone, clerk, move):
    resident, _name = await someone(anyone)
    officer = await clerk("sg-rsj")
    head = await anyone.sign_in_staff("head.sg-rsj", PASSWORD)
    superior = await anyone.sign_in_staff("head.sg-zsj", PASSWORD)
    case = await submitted(resident, "injury_identify", {}, {})
    await move("+4wd")
    near = await until_card(officer, case, "acceptance_near")
    assert (near["card"], near["to"], near["due_on"]) == ("yellow", "clerk", case["clock"]["due_on"])
    hall.kill("worker")  # it starts again only after the day has passed
    await move("+2wd")
    hall.start("worker")
    accepted = await resident.until(f"/v1/cases/{case['id']}", lambda answer: answer["state"] == "accepted")
    assert accepted["is_deemed_accepted"]
    silent = await until_card(head, case, "acceptance_silent")
    assert (silent["card"], silent["to"]) == ("red", "head")
    hall.kill("web")
    await move("+30wd")
    hall.start("web")
    over = await until_card(head, case, "decision_over")
    assert (over["card"], over["due_on"]) == ("red", accepted["deadline_on"])
    [task] = [row for row in (await officer.get("/staff/v1/tasks?limit=100"))["items"] if row["id"] == case["id"]]
    assert task["lamp"] == "red"
    assert "decision_over" not in await cards_of(superior, case, escalated="true")
    await move("+4wd")
    passed_on = await until_card(superior, case, "decision_over", escalated="true")
    assert passed_on["agency"]["id"] == "sg-rsj"
    measures = (await head.get(f"/staff/v1/supervision?from={real_now().date()}&to={real_now().date() + timedelta(days=90)}"))["totals"]
    assert measures["red"] >= 2
    assert measures["escalated"] >= 2
    # Nobody was signed out by ten weeks, and the case can still be ended.
    decided = await officer.act(case["id"], "decide", outcome="denied", opinion="不符合条件")
    assert decided["state"] == "denied"
    for _ in range(100):
        if "decision_over" not in await cards_of(head, case):
            break
        await asyncio.sleep(0.1)
    assert await cards_of(head, case) == {}
    inbox = [name for name in events_of(await settled(resident)) if name.startswith("case.")]
    assert (inbox.count("case.deemed_accepted"), inbox.count("case.escalated")) == (1, 2)
    timeline = [entry["title"] for entry in decided["timeline"]]
    assert timeline.count("超过办理期限") == 1


async def test_web_worker_and_stand_ins_follow_within_two_seconds_and_outlive_a_restart(hall, anyone, http, move):
    resident, _name = await someone(anyone)
    await move("+3d")

    async def hall_time():
        try:
            opened = await resident.open_case("injury_identify", {})
        except aiohttp.ClientError:  # a connection to the process that was killed
            opened = await resident.open_case("injury_identify", {})
        return datetime.fromisoformat(opened["created_at"])

    async def sandbox_time():
        async with http.get(f"{hall.sandbox_url}/_sim/sent") as answer:
            return datetime.strptime(answer.headers["Date"], "%a, %d %b %Y %H:%M:%S %Z").replace(tzinfo=real_now().tzinfo)

    await asyncio.sleep(1)
    for restarted in ((), ("web", "sandbox")):
        for name in restarted:
            hall.kill(name)
            hall.start(name)
        for time in (await hall_time(), await sandbox_time()):
            assert abs(time - real_now() - timedelta(days=3)) < timedelta(seconds=20)
    assert "ahead by 3 days" in await move()
    await move("reset")
    await asyncio.sleep(1)
    for time in (await hall_time(), await sandbox_time()):
        assert abs(time - real_now()) < timedelta(seconds=20)
