"""One draft, two web processes, 64 clients that edit and submit it at once, and one of the processes killed in the middle."""

import asyncio
import itertools
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from pymongo import MongoClient

from app.kernel.ids import ulid
from commands.servers import die_with_parent, free_port
from commands.story import Person, Refused, sample_form
from tests.journeys.conftest import ROOT, RunningHall
from tests.journeys.stories import a_name, an_id_number, someone

CLIENTS = 64
SAVES, KILL_AFTER = 60, 25
KEYS = ["org_name", "legal_rep", "english", "bank", "contact", "agent_name"]


@pytest.fixture
def second_web(hall: RunningHall) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Another web process of the same hall."""
    port = free_port()
    with (hall.folder / "web2.log").open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "main.py", "web"],
            cwd=ROOT,
            env=hall.environment | {"HALL_PORT": str(port), "HALL_PUBLIC_URL": hall.url},
            stdout=sink,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
    hall.processes["web2"] = process
    hall._wait(f"http://127.0.0.1:{port}/readyz", "web2")
    yield f"http://127.0.0.1:{port}", process
    del hall.processes["web2"]
    if process.poll() is None:
        process.terminate()
        process.wait(20)


@dataclass
class Storm:
    """What happened: acknowledged saves by version, saves whose answer never came, and every status seen."""

    acknowledged: dict[int, tuple[str, str]] = field(default_factory=dict)
    unknown: set[tuple[str, str]] = field(default_factory=set)
    submits: list[int] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


async def edit_and_submit(number: int, urls: list[str], token: str, case_id: str, storm: Storm, http: aiohttp.ClientSession) -> None:
    """One client: saves, merging or not, until the case is handed in; every eighth hands it in once enough was acknowledged.

    What fails on one process goes on at the other.
    """
    at = number

    async def call(method: str, path: str, body: object, key: str | None = None) -> tuple[int, dict[str, object]]:
        nonlocal at
        person = Person(http, urls[at % len(urls)], token)
        try:
            answer = await person.call(method, f"/v1/cases/{case_id}{path}", body, key=key)
            storm.statuses["200"] += 1
            return 200, answer
        except Refused as refused:
            storm.statuses[f"{refused.status} {refused.code}"] += 1
            return refused.status, dict(refused.problem)
        except (aiohttp.ClientError, TimeoutError, OSError):
            at += 1
            return 0, {}

    def is_submitting() -> bool:
        return number % 8 == 0 and len(storm.acknowledged) >= SAVES

    version = 2
    for turn in itertools.count():
        name, value = KEYS[(number + turn) % len(KEYS)], f"第{number}人第{turn}次"
        if is_submitting():
            break
        while not is_submitting():
            body = {"form": {name: value}, "version": version} | ({"merge": True} if number % 2 else {})
            status, answer = await call("PATCH", "", body)
            if status == 200:
                version = answer["version"]
                if (name, value) in storm.unknown:
                    break  # perhaps kept by the try that was cut off: then this one changed nothing, and was told the version of another's save
                assert version not in storm.acknowledged, "two saves were told the same version"
                storm.acknowledged[version] = (name, value)
                break
            if status == 0:
                storm.unknown.add((name, value))
            elif answer.get("code") == "case.action_not_allowed":
                return  # handed in meanwhile
            else:
                version = answer.get("version") or version
                await asyncio.sleep(random.random() * 0.1)
    key = ulid()
    for _ in range(200):
        status, answer = await call("POST", "/submit", {}, key)
        if status and answer.get("code") != "idempotency.in_progress":
            break
        if (await call("GET", "", None))[1].get("state") not in (None, "draft"):
            break
        await asyncio.sleep(0.1)
    storm.submits.append(status)


async def test_64_clients_edit_and_submit_one_draft_while_a_process_is_killed(hall, anyone, second_web):
    url, process = second_web
    resident, _name = await someone(anyone)
    case = await resident.open_case("customs_record", {"agent": "no"})
    case = await resident.fill(case, sample_form(case["form"]["fields"]))
    await resident.upload_missing(case)
    storm = Storm()
    sessions = [aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) for _ in range(CLIENTS)]

    async def kill_in_the_middle() -> None:
        while len(storm.acknowledged) < KILL_AFTER:
            await asyncio.sleep(0.005)
        process.send_signal(signal.SIGKILL)

    began = time.monotonic()
    async with asyncio.timeout(120):
        await asyncio.gather(
            kill_in_the_middle(),
            *(
                edit_and_submit(number, [hall.url, url], resident.token, case["id"], storm, http)
                for number, http in zip(range(CLIENTS), itertools.cycle(sessions))
            ),
        )
    for session in sessions:
        await session.close()
    process.wait(20)
    stored = await resident.get(f"/v1/cases/{case['id']}")
    # Whatever was acknowledged last for a field stands there, unless a save whose answer was lost with the process came after it.
    for name in KEYS:
        acknowledged = [value for _version, (key, value) in sorted(storm.acknowledged.items()) if key == name]
        unanswered = {value for key, value in storm.unknown if key == name}
        assert stored["form"]["values"][name] in {*acknowledged[-1:], *unanswered}, name
    assert storm.unknown, "nothing was in flight when the process died"
    assert stored["state"] == "submitted"
    assert len(storm.submits) == CLIENTS / 8
    assert storm.submits.count(200) <= 1, "one of them did it, the others are told that it is done"
    assert not [status for status in storm.statuses if status.startswith("5")], storm.statuses
    with MongoClient(hall.environment["HALL_MONGODB_URI"]) as client:
        database = client[hall.environment["HALL_MONGODB_DATABASE"]]
        assert database["events"].count_documents({"name": "case.submitted", "subject_id": case["id"]}) == 1
        assert database["cases"].count_documents({"owner_id": database["cases"].find_one({"_id": case["id"]})["owner_id"]}) == 1
    print(storm.statuses, len(storm.acknowledged), len(storm.unknown), round(time.monotonic() - began, 1))


async def test_one_person_in_two_channels_sees_the_case_of_the_other_before_a_second_is_handed_in(anyone):
    number, name = an_id_number(), a_name()
    wechat = await anyone.sign_in_wechat(name)
    await wechat.post("/mp/v1/wechat/phone", {"code": f"sim-{name}"})
    await wechat.prove("张示例", number)
    first = await wechat.open_case("water_open", {})
    alipay = await anyone.sign_in_alipay(a_name())
    await alipay.prove("张示例", number)
    body, key = {"item_code": "water_open", "division_code": "440203", "answers": {}}, ulid()
    second = await alipay.post("/v1/cases", body, key=key)
    assert [row["id"] for row in second["possible_duplicates"]] == [first["id"]]
    # The same intent again, from the other channel: the same draft. Both edit it, and neither undoes the other.
    assert (await wechat.post("/v1/cases", body, key=key))["id"] == second["id"]
    await alipay.call("PATCH", f"/v1/cases/{second['id']}", {"form": {"address": "甲路1号"}, "version": 1, "merge": True})
    merged = await wechat.call("PATCH", f"/v1/cases/{second['id']}", {"form": {"account": "42"}, "version": 1, "merge": True})
    assert merged["form"]["values"] | {"address": "甲路1号", "account": "42"} == merged["form"]["values"]
