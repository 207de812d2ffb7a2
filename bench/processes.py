"""The processes of a benchmark: the hall and its stand-ins with settings of their own, started, waited for, ended."""

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from commands.servers import die_with_parent, free_port
from config.settings import ROOT


@dataclass
class Processes:
    """What has been started, all with the same settings; their output goes to `bench.log` in `folder`."""

    folder: Path
    environment: dict[str, str]
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, *arguments: str, **settings: str) -> "subprocess.Popen[bytes]":
        """Start Python with these arguments; `settings` (HALL_...) are this process's own."""
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=self.environment | settings, preexec_fn=die_with_parent,
            stdout=(self.folder / "bench.log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started.append(process)
        return process

    async def answer(self, *arguments: str, **settings: str) -> str:
        """Run Python with these arguments to its end; return the last line it printed. Raises RuntimeError when it failed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=ROOT, env=self.environment | settings, preexec_fn=die_with_parent,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await process.communicate()
        if process.returncode:
            raise RuntimeError(errors.decode()[-2000:])
        return output.decode().splitlines()[-1]


@contextmanager
def processes(folder: Path, mongodb_uri: str, redis_url: str, **settings: str) -> Iterator[Processes]:
    """Give processes of a hall in test mode; all are ended afterwards."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HALL_")} | {
        "HALL_ENV": "test",
        "HALL_LOG_FORMAT": "json",  # as in production
        "HALL_PORT": str(free_port()),
        "HALL_SANDBOX_PORT": str(free_port()),
        "HALL_DATA_DIR": str(folder),
        "HALL_MONGODB_URI": mongodb_uri,
        "HALL_REDIS_URL": redis_url,
        "HALL_DEMO_PASSWORD": "bench",
        **settings,
    }
    all_of_them = Processes(folder, environment)
    try:
        yield all_of_them
    finally:
        for process in all_of_them.started:
            process.terminate()
        for process in all_of_them.started:
            process.wait(20)


async def until_up(url: str, process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Wait until a GET of `url` is answered with 200. Raises OSError when it is not within 40 s, or the process that should has ended."""
    deadline = time.monotonic() + 40
    while True:
        try:
            return (await asyncio.to_thread(urllib.request.urlopen, url, None, 2)).close()
        except OSError:
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise
            await asyncio.sleep(0.1)
