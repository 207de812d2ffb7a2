"""A whole hall for the journeys: web, worker and the stand-ins as real processes, which tests may kill and start again."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from commands.servers import die_with_parent, free_port
from commands.story import Person

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "journey-password"


class RunningHall:
    """The processes of one hall and where they listen."""

    def __init__(self, servers: dict[str, str], folder: Path) -> None:
        self.port, self.sandbox_port = free_port(), free_port()
        self.url, self.sandbox_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.sandbox_port}"
        self.redis_url = servers["redis"]
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HALL_")},
            "HALL_ENV": "test",
            "HALL_PORT": str(self.port),
            "HALL_SANDBOX_PORT": str(self.sandbox_port),
            "HALL_DATA_DIR": str(folder),
            "HALL_MONGODB_URI": servers["mongodb"],
            "HALL_MONGODB_DATABASE": "journeys",
            "HALL_REDIS_URL": servers["redis"],
            "HALL_DEMO_PASSWORD": PASSWORD,
            "HALL_SMS_INTERVAL_S": "0",
            "HALL_LOG_LEVEL": "info",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.arguments = {
            "sandbox": ["-m", "sandbox", "--port", str(self.sandbox_port), "--data-dir", str(folder / "sandbox")],
            "web": ["main.py", "web"],
            "worker": ["main.py", "worker"],
        }

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as sink:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *self.arguments[name]],
                cwd=ROOT,
                env=self.environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        if name == "web":
            self._wait(f"{self.url}/readyz", name)
        elif name == "sandbox":
            self._wait(f"{self.sandbox_url}/_sim/sent", name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        self.processes[name].send_signal(number)
        self.processes[name].wait(20)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _wait(self, url: str, name: str) -> None:
        for _ in range(600):
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except OSError:
                if self.processes[name].poll() is not None:
                    break
                time.sleep(0.05)
        raise AssertionError(f"{name} did not start:\n{self.log(name)[-4000:]}")


@pytest.fixture(scope="session")
def running(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHall]:
    hall = RunningHall(servers, tmp_path_factory.mktemp("hall"))
    subprocess.run(
        [sys.executable, "main.py", "migrate", "--with-demo"], cwd=ROOT, env=hall.environment, check=True, timeout=60
    )
    for name in ("sandbox", "web", "worker"):
        hall.start(name)
    yield hall
    for name in ("worker", "web", "sandbox"):
        hall.processes[name].terminate()
    for process in hall.processes.values():
        process.wait(30)


@pytest.fixture
async def hall(running: RunningHall) -> AsyncIterator[RunningHall]:
    """The running hall, whole again before and after every test."""
    for name, process in running.processes.items():
        if process.poll() is not None:
            running.start(name)
    yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


@pytest.fixture
def anyone(hall: RunningHall, http: aiohttp.ClientSession) -> Person:
    """Somebody who has not signed in."""
    return Person(http, hall.url)


@pytest.fixture
async def clerk(anyone: Person) -> Any:
    """A function that signs a clerk of an agency in."""

    async def sign_in(agency: str) -> Person:
        return await anyone.sign_in_staff(f"clerk.{agency}", PASSWORD)

    return sign_in


async def settled(person: Person, seconds: float = 2.0) -> list[Any]:
    """Return a resident's inbox once nothing more arrives, oldest first."""
    before: list[Any] = []
    while True:
        await asyncio.sleep(seconds)
        inbox = (await person.get("/v1/notifications?limit=100"))["items"]
        if len(inbox) == len(before):
            return list(reversed(inbox))
        before = inbox
