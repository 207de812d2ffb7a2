"""An agency tells residents something: written, approved by a second person, sent by workers that are killed, each person once."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from app.kernel.ids import ulid
from commands.story import Refused
from tests.journeys.conftest import PASSWORD, ROOT
from tests.journeys.stories import someone, wait_sent

WANTED = {
    "title": "入学报名开始",
    "text": "2027年小学入学报名3月1日开始，请在大厅里报名。",
    "link": "/items/school_enrol",
    "channels": ["sms"],
    "rate": 20,
    "segment": {"kind": "subscribers", "items": ["school_enrol"]},
}


@pytest.fixture
async def families(anyone):
    """Residents who follow the item; the first one has asked for text messages."""
    found = [(await someone(anyone)) for _ in range(3)]
    found += [(await someone(anyone, phone=False)) for _ in range(9)]
    for resident, _name in found:
        await resident.call("PUT", "/v1/me/subscriptions/item/school_enrol")
    await found[0][0].call("PUT", "/v1/me/notification-preferences", {"kinds": {"notice": {"sms": True}}})
    await found[1][0].call("PUT", "/v1/me/notification-preferences", {"kinds": {"notice": {"inbox": False}}})
    return found


async def test_each_family_is_told_once_while_workers_are_killed(hall, anyone, families):
    writer = await anyone.sign_in_staff("clerk.sg-jyj", PASSWORD)
    head = await anyone.sign_in_staff("head.sg-jyj", PASSWORD)
    made = await writer.post("/staff/v1/campaigns", WANTED, key=ulid())
    path = f"/staff/v1/campaigns/{made['id']}"
    preview = await writer.get(f"{path}/preview")
    assert preview["size"]["count"] >= 12 and "入学报名开始" in preview["channels"]["sms"]["zh"]["text"]
    submitted = await writer.post(f"{path}/submit")
    with pytest.raises(Refused) as no:
        await writer.post(f"{path}/approve", {"version": submitted["version"]})
    assert no.value.status == 403
    await head.post(f"{path}/approve", {"version": submitted["version"]})
    for _ in range(3):
        await asyncio.sleep(0.4)
        hall.kill("worker")
        hall.start("worker")

    finished = await head.until(path, lambda answer: answer["state"] == "finished", 60)

    assert finished["progress"]["muted"] >= 1 and finished["progress"]["waiting"] == 0
    for number, (resident, _name) in enumerate(families):
        inbox = (await resident.get("/v1/notifications?limit=100"))["items"]
        assert sum(item["event"] == "campaign.sent" for item in inbox) == (0 if number == 1 else 1)
    phone = (await families[0][0].get("/v1/me"))["phone_masked"]
    sent = [row for row in await wait_sent(anyone.http, hall.sandbox_url, "", 1) if row.get("template") == "campaign.sent"]
    assert [row["to"][-4:] for row in sent] == [phone[-4:]]
    one = next(item for item in (await families[0][0].get("/v1/notifications"))["items"] if item["event"] == "campaign.sent")
    await families[0][0].post(f"/v1/notifications/{one['id']}/read")
    assert (await head.until(path, lambda answer: answer["progress"]["opened"] == 1, 20))["progress"]["told"] == finished["progress"]["told"]


async def test_from_a_terminal_it_is_watched_paused_and_resumed(hall, anyone, families):
    writer = await anyone.sign_in_staff("clerk.sg-jyj", PASSWORD)
    head = await anyone.sign_in_staff("head.sg-jyj", PASSWORD)
    made = await writer.post("/staff/v1/campaigns", {**WANTED, "rate": 1, "channels": []}, key=ulid())
    path = f"/staff/v1/campaigns/{made['id']}"
    submitted = await writer.post(f"{path}/submit")
    await head.post(f"{path}/approve", {"version": submitted["version"]})
    await head.until(path, lambda answer: answer["state"] == "running", 20)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "main.py", "campaign", *words], cwd=ROOT, env=hall.environment, capture_output=True, text=True, timeout=90
        )

    async def terminal(*words: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(run, *words)

    paused = await terminal("pause", made["id"], "--by", "clerk.sg-jyj", "--note", "再核对一下")
    assert paused.returncode == 0 and "is paused" in paused.stdout, paused.stderr
    told = (await head.get(path))["progress"]["told"]
    await asyncio.sleep(1.5)
    assert (await head.get(path))["progress"]["told"] == told < submitted["progress"]["size"]
    nobody, stranger, shown, listed, writers = await asyncio.to_thread(
        one_by_one,
        hall,
        ["resume", made["id"], "--by", "nobody"],
        ["resume", made["id"], "--by", "head.sg-jj"],
        ["show", made["id"]],
        ["list", "--state", "paused"],
        ["resume", made["id"], "--by", "clerk.sg-jyj"],
    )
    assert nobody[0] == 1 and "no staff account" in nobody[1]
    assert stranger[0] == 1 and "campaign.not_found" in stranger[1]
    assert "paused" in shown[1] and "再核对一下" in shown[1] and "clerk.sg-jyj" in shown[1]
    assert made["id"] in listed[1]
    assert writers[0] == 1, "a head answers for going on"
    assert "is running" in (await terminal("resume", made["id"], "--by", "head.sg-jyj")).stdout
    watched = await terminal(made["id"])
    assert watched.returncode == 0, watched.stderr
    lines = watched.stdout.strip().splitlines()
    assert lines[-1].startswith("finished 100%") and len(lines) > 1, watched.stdout
    assert "100%" in (shown := await asyncio.to_thread(on_a_screen, hall, made["id"])) and "━" in shown, shown


def one_by_one(hall, *commands: list[str]) -> list[tuple[int, str]]:
    """Run several commands in one process, since starting is most of each; return how each ended and what it printed."""
    script = """
import json, sys
from click.testing import CliRunner
from main import main
results = [CliRunner().invoke(main, ["campaign", *words]) for words in json.loads(sys.argv[1])]
print(json.dumps([(result.exit_code, result.output) for result in results]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], cwd=ROOT, env=hall.environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return [tuple(row) for row in json.loads(done.stdout)]


def on_a_screen(hall, *words: str) -> str:
    """Run the command as somebody sees it who sits at a terminal."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "main.py", "campaign", *words], cwd=ROOT, env={**hall.environment, "TERM": "xterm", "COLUMNS": "120"}, stdout=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # it has ended
            pass
        assert process.wait(60) == 0
    os.close(ours)
    return shown.decode(errors="replace")
