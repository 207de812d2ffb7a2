"""Web hooks: signed by the document, stored once, sent until acknowledged, never to an address inside, never with personal data."""

import asyncio
import hashlib
import hmac
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from app.exchange import hook_deliveries
from app.exchange.hook_deliveries import HookDeliveries, HookDeliveryNotFound, HookDeliveryOpen, body_of
from app.exchange.hooks import HeadNeeded, HookNotFound
from app.exchange.signing import ALGORITHMS, signature, signed_headers, signed_text
from app.identity.model import StaffSession
from app.kernel.clock import utc_now
from app.kernel.errors import ValidationFailed
from app.platforms.http import HttpClient
from tests.app.exchange.office import HEAD, OTHER, Office, case_event

DOCS = Path(__file__).resolve().parents[3] / "docs" / "integration.md"


# --- the signature ---


def test_the_example_of_the_document_is_right_by_three_hands():
    block = re.search(r"An example:\n\n```\n(.*?)```", DOCS.read_text(), re.S)
    rows = dict(re.split(r"\s+", line, maxsplit=1) for line in block[1].splitlines())
    for algorithm, digest, mac in (("hmac-sm3", "SM3", "HMAC-SM3"), ("hmac-sha256", "SHA-256", "HMAC-SHA-256")):
        text = signed_text(rows["method"], rows["url"], rows["timestamp"], rows["nonce"], rows["body"].encode(), algorithm)
        assert text.split("\n") == ["POST", "/hall-events", rows["query"], rows["timestamp"], rows["nonce"], rows[digest]]
        assert signature(rows["secret"], text, algorithm) == rows[mac]
    lines = ["POST", "/hall-events", rows["query"], rows["timestamp"], rows["nonce"]]
    text = "\n".join([*lines, hashlib.sha256(rows["body"].encode()).hexdigest()])
    assert hmac.new(rows["secret"].encode(), text.encode(), "sha256").hexdigest() == rows["HMAC-SHA-256"]
    if shutil.which("openssl"):  # a third implementation, as an integrator's shell has it
        for digest, option in (("SM3", "-sm3"), ("SHA-256", "-sha256")):
            text = "\n".join([*lines, rows[digest]])
            said = subprocess.run(
                ["openssl", "dgst", option, "-hmac", rows["secret"]], input=text.encode(), capture_output=True, check=False
            )
            if said.returncode == 0:
                assert said.stdout.decode().strip().endswith(rows[f"HMAC-{digest}"])


def test_a_query_is_sorted_and_encoded_once():
    text = signed_text("post", "/p?b=%E4%B8%AD&a=2&a=1&c=x+y&d=&e=~-._", "1", "n", b"", "hmac-sha256")
    assert text.split("\n")[:3] == ["POST", "/p", "a=1&a=2&b=%E4%B8%AD&c=x%20y&d=&e=~-._"]


def test_every_request_has_a_nonce_of_its_own():
    made = [signed_headers("app", "s", "POST", "/p", b"{}", "hmac-sm3", utc_now()) for _ in range(50)]
    assert len({one["X-Hall-Nonce"] for one in made}) == 50 and "X-Hall-Signature-Previous" not in made[0]


# --- sending ---


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_an_event_reaches_the_agencys_system_once_and_without_personal_data(office: Office, algorithm: str):
    await office.register(algorithm=algorithm)
    event = case_event()
    for _ in range(3):
        await office.deliveries.note(event)  # the relay may come again
    await asyncio.gather(*(office.deliveries.note(event) for _ in range(5)))

    assert await office.deliveries.deliver_due() == 1 and await office.deliveries.deliver_due() == 0

    (got,) = await office.got()
    assert got == body_of(event) and got["id"] == event.id and got["case"]["deadline_on"] == "2027-01-08"
    assert set(got["case"]) <= {"number", "item_code", "item_name", "agency_id", "state", "version", *hook_deliveries._DAYS}
    for private in ("张三", "A7K9PM", "res_1", "case_1"):
        assert private not in str(got)
    assert [row["state"] for row in await office.rows()] == ["delivered"]


async def test_who_is_concerned_is_told_and_nobody_else(office: Office):
    await office.register(HEAD)
    app = await office.register(OTHER, events=["case.transferred"])
    office.asked = {"sg-gaj"}
    await office.deliveries.note(case_event(agency_id="sg-mzj"))  # asked about it
    await office.deliveries.note(case_event("case.transferred", agency_id="sg-gaj", from_agency_id="sg-jj"))
    await office.deliveries.note(case_event("case.completed", agency_id="sg-jj"))  # not wanted by the one, not concerning the other
    office.asked = set()
    await office.deliveries.note(case_event("case.completed", agency_id="sg-mzj"))
    assert [(row["agency_id"], row["event"]) for row in await office.rows()] == [
        ("sg-gaj", "case.accepted"), ("sg-gaj", "case.transferred"), ("sg-jj", "case.transferred"), ("sg-gaj", "case.completed"),
    ]  # fmt: skip
    assert app


@pytest.mark.parametrize(("fault", "status"), [("error500", 500), ("down", 0), ("rate_limited", 429), ("garbage", 200), ("redirect", 307)])
async def test_what_is_not_acknowledged_is_sent_again(office: Office, fault: str, status: int):
    await office.register()
    await office.sim("faults", {"provider": "hooks", "mode": fault, "count": 1})
    await office.deliveries.note(case_event())
    await office.deliveries.deliver_due()
    (row,) = await office.rows()
    assert row["attempts"][0]["status"] == status
    if fault == "garbage":  # 200 is 200: the body is not read
        assert row["state"] == "delivered"
        return
    assert row["is_open"] and office.now[0] < row["next_at"] < office.now[0] + timedelta(seconds=10)
    office.now[0] = row["next_at"]
    await office.deliveries.deliver_due()
    assert len(await office.got()) == 1 and (await office.rows())[0]["state"] == "delivered"


async def test_a_call_whose_answer_was_lost_is_repeated_and_told_apart_by_its_id(office: Office):
    await office.register()
    await office.sim("faults", {"provider": "hooks", "mode": "lost", "count": 1})
    await office.deliveries.note(case_event())
    await office.deliveries.deliver_due()
    office.now[0] += timedelta(minutes=1)
    await office.deliveries.deliver_due()
    (row,) = await office.rows()
    assert row["state"] == "delivered" and row["tries"] == 2 and len(await office.got()) == 1


async def test_after_72_hours_it_is_a_task_of_the_agency_until_it_is_sent_again(office: Office):
    await office.register()
    await office.sim("faults", {"provider": "hooks", "mode": "error500"})
    await office.deliveries.note(case_event())
    began, tries = office.now[0], 0
    while (row := (await office.rows())[0])["is_open"]:
        office.now[0] = max(office.now[0], row["next_at"])
        tries += await office.deliveries.deliver_due()
        assert tries < 200
    assert row["state"] == "failed" and timedelta(hours=72) < office.now[0] - began < timedelta(hours=74) and 70 < tries < 110

    tasks, _ = await office.deliveries.page(HEAD, state="failed", limit=20, cursor=None)
    assert [task["id"] for task in tasks] == [row["_id"]] and {one["status"] for one in tasks[0]["attempts"]} <= {500, 0}
    assert (await office.deliveries.page(OTHER, state="failed", limit=20, cursor=None))[0] == []
    with pytest.raises(HookDeliveryNotFound):
        await office.deliveries.repeat(OTHER, row["_id"])
    await office.sim("faults", {"provider": "hooks", "mode": "none"})
    assert (await office.deliveries.repeat(HEAD, row["_id"]))["state"] == "waiting"
    with pytest.raises(HookDeliveryOpen):
        await office.deliveries.repeat(HEAD, row["_id"])
    office.running.sandbox.clock = lambda: office.now[0].timestamp()
    office.deliveries._http = later = HttpClient()  # three days on, the breaker has long let go
    await office.deliveries.deliver_due()
    assert len(await office.got()) == 1
    await later.close()


async def test_workers_side_by_side_and_one_that_dies_lose_nothing_and_keep_the_order(office: Office, keys):
    await office.register()
    events = [case_event(version=version) for version in range(12)]
    for event in events:
        await office.deliveries.note(event)
    dead = replace(office).deliveries
    claimed = await office.database["hooks"].find_one_and_update(
        {"_id": "sg-gaj"}, {"$set": {"leased_until": office.now[0] + hook_deliveries.LEASE, "claim": "dead"}}
    )  # a worker took the hook and died
    assert claimed and await dead.deliver_due() == 0
    office.now[0] += hook_deliveries.LEASE
    others = [HookDeliveries(office.database, office.hooks, office.out, dead._concerned, lambda: office.now[0]) for _ in range(3)]
    calls = await asyncio.gather(*(one.deliver_due() for one in others))
    assert sum(calls) == 12, "one of the three had the hook, nobody sent anything twice"
    assert [got["id"] for got in await office.got()] == [event.id for event in events]


async def test_one_agency_whose_system_hangs_holds_no_other_up(office: Office, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hook_deliveries, "TIMEOUT_S", 0.3)
    held = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    await office.register(HEAD)
    await office.hooks.put(OTHER, url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", algorithm="hmac-sm3", events=[])
    office.asked = {"sg-gaj", "sg-jj"}
    for _ in range(3):
        await office.deliveries.note(case_event())
    began = asyncio.get_running_loop().time()
    await office.deliveries.deliver_due()
    assert asyncio.get_running_loop().time() - began < 2, "the others of the one that hangs need not wait for a time-out each"
    assert len(await office.got()) == 3
    assert [row["state"] for row in await office.rows() if row["agency_id"] == "sg-jj"] == ["waiting"] * 3
    held.set()
    server.close()


class Receiver:
    """A department's system that takes its time; `took` has the events and the header with the old secret's signature, by path."""

    def __init__(self) -> None:
        self.took: dict[str, list[tuple[str, bool]]] = {}
        self.pause_s = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        rows = self.took.setdefault(request.path, [])
        rows.append(((await request.json())["id"], "X-Hall-Signature-Previous" in request.headers))
        await asyncio.sleep(self.pause_s)
        return web.Response(text="ok")


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, str]]:
    made = Receiver()
    application = web.Application()
    application.router.add_post("/{name}", made.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_while_one_agency_takes_its_time_what_comes_for_another_goes_out(office: Office, receiver: tuple[Receiver, str]):
    made, url = receiver
    made.pause_s = 1.5
    await office.hooks.put(HEAD, url=f"{url}/slow", algorithm="hmac-sm3", events=[])
    await office.register(OTHER)
    for _ in range(3):
        await office.deliveries.note(case_event(agency_id="sg-gaj"))
    sending = asyncio.create_task(office.deliveries.deliver_due())
    while not made.took:
        await asyncio.sleep(0.01)
    await office.deliveries.note(case_event(agency_id="sg-jj"))
    async with asyncio.timeout(3):
        while not await office.got():
            await asyncio.sleep(0.05)
    assert not sending.done()
    assert await sending == 4


async def test_a_hook_is_as_it_is_at_each_call(office: Office, receiver: tuple[Receiver, str]):
    """Paused, moved or with a new secret while a round is on its way: the next call goes by it."""
    made, url = receiver
    made.pause_s = 0.3
    await office.hooks.put(HEAD, url=f"{url}/old", algorithm="hmac-sm3", events=[])
    for _ in range(4):
        await office.deliveries.note(case_event(agency_id="sg-gaj"))
    sending = asyncio.create_task(office.deliveries.deliver_due())
    while not made.took:
        await asyncio.sleep(0.01)
    await office.hooks.rotate(HEAD)
    await office.hooks.put(HEAD, url=f"{url}/new", algorithm="hmac-sm3", events=[])
    while "/new" not in made.took:
        await asyncio.sleep(0.01)
    await office.hooks.pause(HEAD)
    assert await sending == 2
    assert (len(made.took["/old"]), len(made.took["/new"])) == (1, 1)
    assert made.took["/new"][0][1], "for a day the old secret signs along"
    await office.hooks.resume(HEAD)
    assert await office.deliveries.deliver_due() == 2


# --- the hook itself ---


async def test_a_secret_is_shown_once_kept_sealed_and_changed_with_a_day_of_both(office: Office):
    hook, secret = await office.hooks.put(HEAD, url=office.running.url + "/hooks/events", algorithm="hmac-sm3", events=[])
    again, none = await office.hooks.put(HEAD, url=office.running.url + "/hooks/events", algorithm="hmac-sm3", events=["case.accepted"])
    assert secret and none == "" and again["app"] == hook["app"] and again["events"] == ["case.accepted"]
    assert secret not in str(await office.database["hooks"].find_one()) and "secret" not in await office.hooks.view(HEAD)
    await office.sim("hooks", {"app": hook["app"], "secret": secret})

    renewed = await office.hooks.rotate(HEAD)
    assert renewed != secret and (await office.deliveries.ping(HEAD))["delivered"], "the receiver still has the old one"
    await office.sim("hooks", {"app": hook["app"], "secret": renewed})
    assert (await office.deliveries.ping(HEAD))["delivered"]
    await office.sim("hooks", {"app": hook["app"], "secret": secret})
    office.now[0] += timedelta(hours=25)
    office.running.sandbox.clock = lambda: office.now[0].timestamp()
    found = await office.deliveries.ping(HEAD)
    assert (found["delivered"], found["status"]) == (False, 401)
    assert await office.database["audit"].count_documents({"action": "hook.secret_rotated", "actor": HEAD.account}) == 1


async def test_a_paused_hook_waits_and_410_pauses(office: Office):
    await office.register()
    await office.hooks.pause(HEAD)
    await office.deliveries.note(case_event())
    assert await office.deliveries.deliver_due() == 0
    office.now[0] += timedelta(days=5)
    office.running.sandbox.clock = lambda: office.now[0].timestamp()
    await office.hooks.resume(HEAD)
    assert await office.deliveries.deliver_due() == 1 and len(await office.got()) == 1, "waiting in a pause is no trying"

    await office.register(OTHER, path="/hooks/gone")
    await office.deliveries.note(case_event(agency_id="sg-jj"))
    await office.deliveries.deliver_due()
    assert (await office.hooks.view(OTHER))["paused_why"] == "gone"
    await office.hooks.remove(OTHER)
    assert [row["state"] for row in await office.rows() if row["agency_id"] == "sg-jj"] == ["dropped"]
    with pytest.raises(HookNotFound):
        await office.hooks.view(OTHER)


async def test_a_pause_after_the_first_try_is_no_trying_either(office: Office):
    await office.register()
    await office.sim("faults", {"provider": "hooks", "mode": "error500"})
    await office.deliveries.note(case_event())
    await office.deliveries.deliver_due()
    await office.hooks.pause(HEAD)
    office.now[0] += timedelta(days=5)
    await office.hooks.resume(HEAD)
    await office.deliveries.deliver_due()  # its system is not quite up yet
    assert [(row["state"], row["tries"]) for row in await office.rows()] == [("waiting", 1)]

    # Of a hook that does not pause, "resume" changes nothing.
    office.now[0] += timedelta(days=5)
    await office.hooks.resume(HEAD)
    await office.deliveries.deliver_due()
    assert [row["state"] for row in await office.rows()] == ["failed"]


async def test_what_was_noted_while_the_hook_was_removed_does_not_wait_for_ever(office: Office):
    await office.register()
    await office.deliveries.note(case_event())
    await office.database["hooks"].delete_one({})  # the removal had looked for open ones before this was noted
    assert await office.deliveries.deliver_due() == 0
    assert [row["state"] for row in await office.rows()] == ["dropped"]


async def test_only_a_head_and_only_of_the_own_agency(office: Office):
    clerk = StaffSession("clerk.sg-gaj", "赵", "clerk", "sg-gaj")
    await office.register(HEAD)
    for call in (
        office.hooks.view(clerk), office.hooks.rotate(clerk), office.hooks.pause(clerk), office.hooks.resume(clerk), office.hooks.remove(clerk),
        office.deliveries.ping(clerk), office.hooks.put(clerk, url="http://127.0.0.1/x", algorithm="hmac-sm3", events=[]),
    ):  # fmt: skip
        with pytest.raises(HeadNeeded):
            await call
    for call in (office.hooks.view(OTHER), office.hooks.rotate(OTHER), office.hooks.remove(OTHER), office.deliveries.ping(OTHER)):
        with pytest.raises(HookNotFound):
            await call
    with pytest.raises(ValidationFailed) as refused:
        await office.hooks.put(HEAD, url="ftp://x", algorithm="hmac-sm3", events=["case.flew"])
    assert [row["pointer"] for row in refused.value.errors] == ["/url", "/events/0"]


async def test_the_receiver_believes_no_changed_old_or_repeated_request(office: Office):
    app = await office.register()
    hook = await office.database["hooks"].find_one({"app": app})
    secret, _ = office.hooks.secrets_of(hook, office.now[0])
    url, body = f"{office.running.url}/hooks/events?b=2&a=%E4%B8%AD", orjson.dumps(body_of(case_event()))

    async def post(headers: dict[str, str], content: bytes = body, target: str = url) -> int:
        async with office.http.post(target, data=content, headers=headers) as answer:
            return answer.status

    good = signed_headers(app, secret, "POST", url, body, "hmac-sm3", office.now[0])
    assert await post(good, body + b" ") == 401 and await post(good, target=url + "&c=1") == 401
    assert await post({**good, "X-Hall-App": "app_x"}) == 401 and await post({**good, "X-Hall-Signature": "é"}) in (400, 401)
    old = signed_headers(app, secret, "POST", url, body, "hmac-sm3", office.now[0] - timedelta(minutes=6))
    assert await post(old) == 401
    assert await post(good) == 200 and await post(good) == 401, "each nonce once"
