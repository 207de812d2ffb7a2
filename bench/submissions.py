"""Applications handed in to one web process, against the least that can cost: a bare Tornado handler that makes the same majority write.

    python -m bench.submissions prepare <file>      make the drafts of all rounds
    python -m bench.submissions bare <port> <file>  serve the bare side

Both sides take the same number of POSTs from the same client, as many at once, and write the same document into the same collection: a
submitted case, by one compare-and-set on its version, majority and journaled. The hall is `main.py web` with its ordinary settings; every
case is another resident's, each with an Idempotency-Key of its own, and has looked at the case at this process before, longer ago than a
session is trusted. After each round every case is looked at: submitted once, told once.
"""

import asyncio
import pickle
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient
from rich.console import Console
from rich.table import Table

from app.identity.sessions import SESSION_TRUST_S
from app.kernel.clock import real_now, utc_now
from app.kernel.ids import new_id
from bench.load import cpu_seconds, post_all
from bench.notices import as_request
from bench.processes import processes, until_up
from commands.servers import free_port

AT_ONCE = 64
ROUNDS = 7
CASES = 1024
WARM_UP = 512
TARGET = 0.5
DATABASE = "bench_submissions"
ITEM = "injury_identify"  # a long form and files

Draft = tuple[str, str]  # case id, token
_BARE = "bare"  # the token of a draft of the bare side


# --- drafts that are complete ---


async def _prepare(file: Path) -> None:
    """Make one draft as a resident does, and copies of it for as many residents as there are cases in all rounds."""
    from app.identity import store, tokens
    from commands.assembly import assemble
    from commands.environment import load_settings, start_logging

    settings = load_settings()
    start_logging(settings, "bench")
    hall = await assemble(settings)
    now = utc_now()

    async def residents(count: int) -> list[str]:
        made = []
        for _ in range(count):
            resident_id = new_id("res")
            sealed = store.sealed_fields(hall.keys, resident_id, {"name": "张示例"})
            made.append(store.new_resident(resident_id, now) | {"level": 4} | sealed)
        await hall.database["residents"].insert_many(made)
        return [document["_id"] for document in made]

    async def drafts(template: Any, personal: frozenset[str]) -> list[Draft]:
        owners = await residents(CASES)
        cases = [replace(template, id=new_id("case"), owner_id=owner) for owner in owners]
        cases = [replace(case, number=f"{template.number}{case.id[-26:]}") for case in cases]
        await hall.database["cases"].insert_many([hall.cases.store._document(case, personal) for case in cases])
        sessions = [
            {"_id": new_id("ses"), "resident_id": owner, "channel": "sms", "expires_at": real_now() + tokens.REFRESH_FOR} for owner in owners
        ]
        await hall.database["sessions"].insert_many(sessions)
        return [
            (case.id, tokens.sign_token(hall.keys, audience="api", subject=case.owner_id, now=real_now(), lifetime=tokens.ACCESS_FOR, sid=session["_id"]))
            for case, session in zip(cases, sessions, strict=True)
        ]  # fmt: skip

    template, document, personal = await _worked_out(hall, (await residents(1))[0])
    rounds = []
    for _ in range(ROUNDS + 1):
        ours = await drafts(template, personal)
        theirs = [replace(template, id=new_id("case")) for _ in ours]
        theirs = [replace(case, number=f"{template.number}{case.id[-26:]}") for case in theirs]
        await hall.database["cases"].insert_many([hall.cases.store._document(case, personal) for case in theirs])
        rounds.append((ours, [(case.id, _BARE) for case in theirs]))
    file.write_bytes(pickle.dumps((template.version, document, rounds)))
    await hall.close()


async def _worked_out(hall: Any, owner: str) -> tuple[Any, dict[str, Any], frozenset[str]]:
    """Return a complete draft, the document that it becomes when it is handed in, and the keys of its personal answers."""
    from app.cases import forms
    from app.cases.drafts import Save
    from commands.story import picture, sample_form

    item = hall.catalogue.item(ITEM)
    answers = {situation["key"]: situation["options"][0]["value"] for situation in item["situations"]}
    case = await hall.cases.drafts.open(owner, ITEM, "440203", answers, case_id=new_id("case"))
    fields = [field for field in item["form"] if "computed" not in field]
    case = await hall.cases.drafts.save(case.id, owner, Save(sample_form(fields), {}, case.version))
    for row in (await hall.cases.view(case))["materials"]:
        if row["status"] == "missing":
            case = await hall.cases.put_material(case.id, owner, row["key"], "a.png", picture())
    await hall.cases.submit(case.id, owner)
    return case, await hall.database["cases"].find_one({"_id": case.id}), forms.personal_keys(item)


# --- the bare side ---


async def _serve_bare(port: int, file: Path) -> None:
    from tornado.web import Application, RequestHandler

    from app.storage.mongo import Database
    from commands.environment import load_settings

    settings = load_settings()
    cases = Database(settings.mongodb_uri, settings.mongodb_database)["cases"]  # majority and journaled, as everything the hall writes
    version, document, _rounds = pickle.loads(file.read_bytes())

    class Bare(RequestHandler):
        async def post(self, case_id: str) -> None:
            written = document | {"_id": case_id, "number": case_id}
            result = await cases.replace_one({"_id": case_id, "version": version}, written)
            self.set_status(200 if result.matched_count else 409)
            self.finish({"id": case_id})

        def get(self, _path: str) -> None:
            self.finish({})

    Application([(r"/v1/cases/([\w-]+)/submit", Bare), (r"/(.*)", Bare)], log_function=lambda _handler: None).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


# --- the comparison ---


def _requests(port: int, drafts: Sequence[Draft]) -> list[bytes]:
    return [
        as_request(
            port,
            f"/v1/cases/{case_id}/submit",
            {"Authorization": f"Bearer {token}", "Idempotency-Key": new_id("key"), "Content-Type": "application/json"},
            b"{}",
        )
        for case_id, token in drafts
    ]


def _looks(port: int, drafts: Sequence[Draft]) -> list[bytes]:
    head = "GET /v1/cases/{} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {}\r\n\r\n"
    return [head.format(case_id, port, token).encode() for case_id, token in drafts]


async def _seconds(port: int, pid: int, drafts: Sequence[Draft]) -> tuple[float, float]:
    """Return the seconds and the server's CPU seconds for these submissions. Raises AssertionError for any answer but 200."""
    requests = _requests(port, drafts)
    began, cpu = time.perf_counter(), cpu_seconds(pid)
    await post_all(port, requests, AT_ONCE, status=200)
    return time.perf_counter() - began, cpu_seconds(pid) - cpu


async def _assert_submitted_once(database: Any, ours: Sequence[Draft], theirs: Sequence[Draft]) -> None:
    ids = [case_id for case_id, _token in ours]
    told = await database["events"].find({"subject_id": {"$in": ids}}).to_list()
    assert sorted((event["subject_id"], event["name"]) for event in told) == sorted((case_id, "case.submitted") for case_id in ids)
    for each in (ids, [case_id for case_id, _token in theirs]):
        assert await database["cases"].count_documents({"_id": {"$in": each}, "state": "submitted"}) == len(each)


async def run(mongodb_uri: str, redis_url: str, folder: Path, console: Console) -> None:
    """Compare, show the table."""
    file, bare_port = folder / "drafts", free_port()
    with processes(folder, mongodb_uri, redis_url, HALL_MONGODB_DATABASE=DATABASE) as hall:
        await asyncio.to_thread(hall.start("main.py", "migrate", "--with-demo").wait)
        await asyncio.to_thread(hall.start("-m", "bench.submissions", "prepare", str(file)).wait)
        _version, _document, rounds = pickle.loads(file.read_bytes())
        web_port = int(hall.environment["HALL_PORT"])
        web = hall.start("main.py", "web")
        bare = hall.start("-m", "bench.submissions", "bare", str(bare_port), str(file))
        await until_up(f"http://127.0.0.1:{web_port}/readyz", web)
        await until_up(f"http://127.0.0.1:{bare_port}/", bare)
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongodb_uri)
        pairs = []
        for number, (ours, theirs) in enumerate(rounds):
            if number == 0:
                ours, theirs = ours[:WARM_UP], theirs[:WARM_UP]
            await post_all(web_port, _looks(web_port, ours), AT_ONCE, status=200)
            await asyncio.sleep(SESSION_TRUST_S)
            first = await _seconds(bare_port, bare.pid, theirs)
            pairs.append((first, await _seconds(web_port, web.pid, ours)))
            await _assert_submitted_once(client[DATABASE], ours, theirs)
        await client.close()
    del pairs[0]  # the warm-up
    table = Table("side", "submissions per second", "range", "ratio", "range of ratios", "CPU us each")
    ratios = sorted(theirs[0] / ours[0] for theirs, ours in pairs)
    for name, took, ratio in (
        ("bare", [theirs for theirs, _ours in pairs], ("1.00", "")),
        ("web", [ours for _theirs, ours in pairs], (f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}-{ratios[-1]:.2f}")),
    ):
        rates = sorted(CASES / seconds for seconds, _cpu in took)
        cpu_us = statistics.median(cpu for _seconds, cpu in took) / CASES * 1e6
        table.add_row(name, f"{statistics.median(rates):,.0f}", f"{rates[0]:,.0f}-{rates[-1]:,.0f}", *ratio, f"{cpu_us:,.0f}")
    console.print(table)
    console.print(
        f"{ROUNDS} rounds of {CASES:,} submissions each, {AT_ONCE} at once, the sides in turn. bare: the same majority write."
        f" web: at least {TARGET} of it."
    )


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        asyncio.run(_prepare(Path(sys.argv[2])))
    else:
        asyncio.run(_serve_bare(int(sys.argv[2]), Path(sys.argv[3])))
