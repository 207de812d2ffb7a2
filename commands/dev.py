"""Everything on this machine: the real mongod and redis-server, the stand-ins, web and worker, supervised.

A part that dies is started again with the same data; Ctrl-C stops all in order and keeps the data. When something cannot start, one
line says what and nothing is left running.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from rich.console import Console

from app.storage import virtual_clock
from commands.clock import status
from commands.defaults import fill_in
from commands.servers import (
    RUNNING,
    CannotStart,
    check_disk,
    check_port_free,
    die_with_parent,
    note_running,
    start_embedded,
    start_mongod,
    start_redis,
)
from config.settings import ROOT, Settings, read_settings

READY_WITHIN_S = 40
STOP_WITHIN_S = 20
console = Console(highlight=False, soft_wrap=True)


def sandbox_settings(data_dir: Path, sandbox_port: int) -> dict[str, str]:
    """Return the HALL_* settings that lead to the stand-ins, with both sides' keys, made once and kept."""
    from sandbox.credentials import load_or_make

    return load_or_make(data_dir / "sandbox").hall_settings(f"http://127.0.0.1:{sandbox_port}")


@dataclass
class Part:
    """One supervised process."""

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    deaths: list[float] = field(default_factory=list)

    def stop(self, within_s: float = STOP_WITHIN_S) -> None:
        """End it in good order, and for certain after a while."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@click.command()
def command() -> None:
    """Everything on this machine: servers, stand-ins, web and worker."""
    settings = read_settings()
    if settings.is_production:
        raise CannotStart("dev is not for HALL_ENV=production: run web and worker there (docs/operations.md)")
    Supervisor(settings).run()


class Supervisor:
    """Starts the parts in order, watches them, stops them in the reverse order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data_dir = settings.data_dir.resolve()
        self._parts: list[Part] = []
        self._stopping = False
        self._ahead = timedelta(0)
        self._looked_at = 0.0
        self._database: MongoClient[dict[str, Any]] | None = None

    def run(self) -> None:
        began = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop_soon)
        try:
            environment = self._start()
            if not self._stopping:
                self._tell(environment, time.monotonic() - began)
            while not self._stopping:
                self._watch()
                self._watch_clock()
                time.sleep(0.2)
        finally:
            if self._parts:
                console.print("\n正在停止，数据保留在", str(self._settings.data_dir), "…")
            if self._database is not None:
                self._database.close()
                (self._data_dir / RUNNING).unlink(missing_ok=True)
            for part in reversed(self._parts):
                part.stop()

    def _stop_soon(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _start(self) -> dict[str, str]:
        settings, data_dir = self._settings, self._data_dir
        check_disk(data_dir)
        check_port_free(settings.host, settings.port, "web", "HALL_PORT")
        check_port_free("127.0.0.1", settings.sandbox_port, "the stand-ins", "HALL_SANDBOX_PORT")
        console.print("[bold]韶关掌上办事大厅[/bold] 正在启动 (starting) …")
        environment = fill_in(dict(os.environ), sandbox_settings(data_dir, settings.sandbox_port), data_dir)
        environment["HALL_DATA_DIR"] = str(data_dir)
        self._start_servers(environment)
        reached = {name: environment[name] for name in ("HALL_MONGODB_URI", "HALL_REDIS_URL", "HALL_DEMO_PASSWORD") if environment.get(name)}
        reached |= {"HALL_PORT": str(settings.port), "HALL_SANDBOX_PORT": str(settings.sandbox_port)}
        note_running(data_dir, reached)
        self._database = MongoClient(environment.get("HALL_MONGODB_URI") or settings.mongodb_uri, serverSelectionTimeoutMS=500)
        self._add("sandbox", ["-m", "sandbox", "--port", str(settings.sandbox_port), "--data-dir", str(data_dir / "sandbox")], environment)
        self._add("web", ["main.py", "web"], environment)  # prepares the database first, since this is no production
        self._add("worker", ["main.py", "worker"], environment)
        self._wait_ready()
        return environment

    def _start_servers(self, environment: dict[str, str]) -> None:
        servers = start_embedded(
            self._data_dir,
            mongod=not self._settings.mongodb_uri,
            redis=not self._settings.redis_url,
        )
        for name, key, again in (
            ("redis-server", "HALL_REDIS_URL", start_redis),
            ("mongod", "HALL_MONGODB_URI", start_mongod),
        ):
            server = servers.get(name)
            if server is None:
                continue
            environment[key] = server.address
            port = int(server.address.partition("127.0.0.1:")[2].partition("/")[0])

            def start(again: Callable[..., object] = again, port: int = port) -> "subprocess.Popen[bytes]":
                return again(self._data_dir, port).process  # type: ignore[attr-defined,no-any-return]

            self._parts.append(Part(name, start, server.log, server.process))

    def _add(self, name: str, arguments: list[str], environment: dict[str, str]) -> Part:
        logs = self._data_dir / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{name}.log"

        def start() -> "subprocess.Popen[bytes]":
            with log.open("ab") as sink:
                return subprocess.Popen(
                    [sys.executable, *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C reaches the supervisor alone
                    preexec_fn=die_with_parent,
                )

        part = Part(name, start, log, start())
        self._parts.append(part)
        return part

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        url = f"http://127.0.0.1:{self._settings.port}/readyz"
        while not self._stopping:
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                pass
            for part in self._parts:
                if part.process is not None and part.process.poll() is not None:
                    raise CannotStart(f"{part.name} ended while starting: {_last_line(part.log)} (log: {part.log})")
            if time.monotonic() > deadline:
                raise CannotStart(f"web did not become ready: {_last_line(self._parts[-2].log)} (logs: {self._data_dir / 'logs'})")
            time.sleep(0.05)

    def _watch(self) -> None:
        for part in self._parts:
            if part.process is None or part.process.poll() is None:
                continue
            now = time.monotonic()
            part.deaths = [death for death in part.deaths if now - death < 60] + [now]
            if len(part.deaths) > 10:
                raise CannotStart(f"{part.name} keeps dying: {_last_line(part.log)} (log: {part.log})")
            console.print(f"[yellow]{part.name} 停了，正在重新启动 (restarting)[/yellow]")
            try:
                part.process = part.start()
            except CannotStart as error:
                console.print(f"[red]{error}[/red]")
            time.sleep(min(2.0, 0.1 * len(part.deaths)))

    def _watch_clock(self) -> None:
        """Say so when the virtual clock was moved."""
        if time.monotonic() - self._looked_at < 1:
            return
        self._looked_at, before = time.monotonic(), self._ahead
        if self._read_clock() != before:
            console.print(f"[yellow]时间 clock[/yellow]  {status(self._ahead)}")

    def _read_clock(self) -> timedelta:
        assert self._database is not None
        try:
            kept = self._database[self._settings.mongodb_database][virtual_clock.COLLECTION].find_one({"_id": "clock"})
        except PyMongoError:  # it is being started again
            return self._ahead
        self._ahead = timedelta(seconds=kept["ahead_s"] if kept else 0)
        return self._ahead

    def _tell(self, environment: dict[str, str], seconds: float) -> None:
        settings = self._settings
        web, sandbox = settings.public_url, f"http://127.0.0.1:{settings.sandbox_port}"
        for name, address, more in (
            ("大厅 hall", f"{web}/", "用手机大小的窗口打开 (open in a phone-sized window)"),
            ("工作台 clerks", f"{web}/staff/sign-in", f"clerk.sg-gaj  密码 (password) {environment['HALL_DEMO_PASSWORD']}"),
            ("居民 resident", "微信登录，名字随意，如 zhangsan", "实名: 张示例 44020019000101001X"),
            ("接口 API", f"{web}/docs", f"{web}/openapi.json"),
            ("替身 stand-ins", f"{sandbox}/_sim/sent", "发出的短信和消息 (what was sent)"),
            ("时间 clock", status(self._read_clock()), "./hall clock +5wd"),
        ):
            console.print(f"  [bold]{name}[/bold]  {address}  [dim]{more}[/dim]")
        console.print(
            f"[green]已就绪 (ready)[/green] {seconds:.1f} s。"
            "先试试：首页搜“身份证丢了怎么办” → 微信登录 → 填表、传照片、提交 → 缴 40 元 → 用工作台受理、决定，看进度自己更新。\n"
            "或另开终端运行 ./hall demo。按 Ctrl-C 停止，数据会保留。日志: "
            f"{self._data_dir / 'logs'}"
        )


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return lines[-1][:400] if lines else "no output"
