"""The benchmarks: server CPU per request as a ratio to a bare Tornado handler that answers the same bytes, in the same run."""

import asyncio
import statistics
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import aiohttp
import click
from rich.console import Console
from rich.table import Table

from bench.processes import Processes, processes, until_up
from commands.servers import free_port, start_embedded
from commands.story import Person

ROUNDS = 7
REQUESTS = 3200

console = Console(highlight=False, soft_wrap=True)


# Benchmarks that take minutes run only when named.
NAMED = ("reconcile", "notices", "submissions", "growth", "queue", "stream", "messages")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(["reads", *NAMED]))
def command(names: tuple[str, ...]) -> None:
    """The benchmarks, as ratios within one run: reads, or the ones that are named (reads, reconcile, notices, submissions, growth, queue, stream, messages)."""
    with tempfile.TemporaryDirectory(prefix="hall-bench-") as folder:
        servers = start_embedded(Path(folder), mongod=True, redis=True)
        try:
            if not names or "reads" in names:
                asyncio.run(_run(Path(folder), servers["mongod"].address, servers["redis-server"].address))
            if "reconcile" in names:
                from bench.reconcile import run

                asyncio.run(run(servers["mongod"].address, Path(folder), console))
            if "notices" in names:
                from bench import notices

                asyncio.run(notices.run(servers["mongod"].address, servers["redis-server"].address, Path(folder), console))
            if "submissions" in names:
                from bench import submissions

                asyncio.run(submissions.run(servers["mongod"].address, servers["redis-server"].address, Path(folder), console))
            if "growth" in names:
                from bench import growth

                asyncio.run(growth.run(servers, Path(folder), console))
            if "queue" in names:
                from bench import queue

                asyncio.run(queue.run(servers, Path(folder), console))
            if "stream" in names:
                from bench import stream

                asyncio.run(stream.run(servers["mongod"].address, servers["redis-server"].address, Path(folder), console))
            if "messages" in names:
                from bench import messages

                asyncio.run(messages.run(servers["mongod"].address, servers["redis-server"].address, Path(folder), console))
        finally:
            for server in servers.values():
                server.stop()


async def _run(folder: Path, mongodb_uri: str, redis_url: str) -> None:
    with processes(folder, mongodb_uri, redis_url, HALL_LOG_LEVEL="warning") as started:
        web, sandbox = int(started.environment["HALL_PORT"]), int(started.environment["HALL_SANDBOX_PORT"])
        await asyncio.to_thread(started.start("main.py", "migrate", "--with-demo").wait)
        started.start("-m", "sandbox", "--port", str(sandbox), "--data-dir", str(folder / "sandbox"))
        hall = started.start("main.py", "web")
        await until_up(f"http://127.0.0.1:{web}/readyz")
        await until_up(f"http://127.0.0.1:{sandbox}/healthz")
        token, case_id = await _someone_with_a_case(f"http://127.0.0.1:{web}")
        reads: list[tuple[str, str, dict[str, str]]] = [
            ("item read", "/v1/items/id_card_lost", {}),
            ("authenticated case read", f"/v1/cases/{case_id}", {"Authorization": f"Bearer {token}"}),
        ]
        table = Table("read", "bare us", "hall us", "ratio", "range", "bytes")
        for name, path, headers in reads:
            table.add_row(name, *await _compare(started, hall, web, path, headers))
        console.print(table)
        console.print(f"{ROUNDS} rounds of {REQUESTS} requests each, bare and hall in turn, on this machine, in this run.")


async def _compare(
    started: Processes, hall: "subprocess.Popen[bytes]", web: int, path: str, headers: dict[str, str]
) -> tuple[str, ...]:
    from bench.load import load, microseconds_per_request

    request = urllib.request.Request(f"http://127.0.0.1:{web}{path}", headers=headers)
    body = (await asyncio.to_thread(urllib.request.urlopen, request)).read()
    (started.folder / "body").write_bytes(body)
    port = free_port()
    bare = started.start("-m", "bench.bare", str(port), str(started.folder / "body"))
    await until_up(f"http://127.0.0.1:{port}/")
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
