"""The benchmarks: server CPU per request as a ratio to a bare Tornado handler that answers the same bytes, in the same run."""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich.console import Console
from rich.table import Table

from commands.servers import die_with_parent, free_port, start_embedded
from commands.story import Person
from config.settings import ROOT

ROUNDS = 7
REQUESTS = 3200

console = Console(highlight=False, soft_wrap=True)


# Benchmarks that take minutes run only when named.
NAMED = ("reconcile",)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(["reads", *NAMED]))
def command(names: tuple[str, ...]) -> None:
    """The benchmarks, as ratios within one run: reads, or the ones that are named (reads, reconcile)."""
    with tempfile.TemporaryDirectory(prefix="hall-bench-") as folder:
        servers = start_embedded(Path(folder), mongod=True, redis=True)
        try:
            if not names or "reads" in names:
                asyncio.run(_run(Path(folder), servers["mongod"].address, servers["redis-server"].address))
            if "reconcile" in names:
                from bench.reconcile import run

                asyncio.run(run(servers["mongod"].address, Path(folder), console))
        finally:
            for server in servers.values():
                server.stop()


async def _run(folder: Path, mongodb_uri: str, redis_url: str) -> None:
    web, sandbox = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HALL_")} | {
        "HALL_ENV": "test",
        "HALL_PORT": str(web),
        "HALL_SANDBOX_PORT": str(sandbox),
        "HALL_DATA_DIR": str(folder),
        "HALL_MONGODB_URI": mongodb_uri,
        "HALL_REDIS_URL": redis_url,
        "HALL_LOG_LEVEL": "warning",
        "HALL_DEMO_PASSWORD": "bench",
    }
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, preexec_fn=die_with_parent,
            stdout=(folder / "bench.log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        started.append(process)
        return process

    try:
        await asyncio.to_thread(start("main.py", "migrate", "--with-demo").wait)
        start("-m", "sandbox", "--port", str(sandbox), "--data-dir", str(folder / "sandbox"))
        hall = start("main.py", "web")
        await _until_up(f"http://127.0.0.1:{web}/readyz")
        await _until_up(f"http://127.0.0.1:{sandbox}/healthz")
        token, case_id = await _someone_with_a_case(f"http://127.0.0.1:{web}")
        reads: list[tuple[str, str, dict[str, str]]] = [
            ("item read", "/v1/items/id_card_lost", {}),
            ("authenticated case read", f"/v1/cases/{case_id}", {"Authorization": f"Bearer {token}"}),
        ]
        table = Table("read", "bare us", "hall us", "ratio", "range", "bytes")
        for name, path, headers in reads:
            table.add_row(name, *await _compare(start, folder, hall, web, path, headers))
        console.print(table)
        console.print(f"{ROUNDS} rounds of {REQUESTS} requests each, bare and hall in turn, on this machine, in this run.")
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)


async def _compare(
    start: Any, folder: Path, hall: "subprocess.Popen[bytes]", web: int, path: str, headers: dict[str, str]
) -> tuple[str, ...]:
    from bench.load import load, microseconds_per_request

    request = urllib.request.Request(f"http://127.0.0.1:{web}{path}", headers=headers)
    body = (await asyncio.to_thread(urllib.request.urlopen, request)).read()
    (folder / "body").write_bytes(body)
    port = free_port()
    bare = start("-m", "bench.bare", str(port), str(folder / "body"))
    await _until_up(f"http://127.0.0.1:{port}/")
    for warm in (port, web):
        await load(warm, path, headers, 480, 16)
    pairs = []
    for _ in range(ROUNDS):
        pairs.append(
            (
                await microseconds_per_request(bare.pid, port, path, headers, REQUESTS),
                await microseconds_per_request(hall.pid, web, path, headers, REQUESTS),
            )
        )
    bare.terminate()
    ratios = sorted(ours / theirs for theirs, ours in pairs)
    return (
        f"{statistics.median(theirs for theirs, _ours in pairs):.0f}",
        f"{statistics.median(ours for _theirs, ours in pairs):.0f}",
        f"{statistics.median(ratios):.2f}",
        f"{ratios[0]:.2f}-{ratios[-1]:.2f}",
        str(len(body)),
    )


async def _someone_with_a_case(base: str) -> tuple[str, str]:
    async with aiohttp.ClientSession() as http:
        resident = await Person(http, base).sign_in_wechat("bench")
        return resident.token, (await resident.open_case("id_card_lost", {"age": "adult"}))["id"]


async def _until_up(url: str) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            return (await asyncio.to_thread(urllib.request.urlopen, url, None, 2)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
