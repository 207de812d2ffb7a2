"""./hall dev: one clear line when something is in the way, parts that die are started again, nothing is left running."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from commands.servers import free_port

ROOT = Path(__file__).resolve().parents[2]


def environment(folder, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HALL_")}
    return kept | {
        "HALL_PORT": str(free_port()),
        "HALL_SANDBOX_PORT": str(free_port()),
        "HALL_DATA_DIR": str(folder),
        **more,
    }


def left_running(folder):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes())
        except OSError:
            continue
    return found


def refused(folder, **more):
    result = subprocess.run(
        [sys.executable, "main.py", "dev"], cwd=ROOT, env=environment(folder, **more), capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert left_running(folder) == []
    return lines[0]


def test_a_taken_port_is_said_in_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "HALL_PORT" in refused(tmp_path, HALL_PORT=port)
        assert "HALL_SANDBOX_PORT" in refused(tmp_path, HALL_SANDBOX_PORT=port)


def test_a_data_directory_that_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert "HALL_DATA_DIR" in refused(tmp_path, HALL_DATA_DIR=str(tmp_path / "file" / "data"))


def test_wrong_settings_are_said_in_one_line(tmp_path):
    assert "HALL_LOG_LEVEL" in refused(tmp_path, HALL_LOG_LEVEL="loud")


def test_dev_is_not_for_production(tmp_path):
    assert "HALL_SECRET_KEYS" in subprocess.run(
        [sys.executable, "main.py", "dev"],
        cwd=ROOT, env=environment(tmp_path, HALL_ENV="production"), capture_output=True, text=True, timeout=60,
    ).stderr  # fmt: skip


def children_of(pid):
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found[(process / "cmdline").read_bytes().replace(b"\0", b" ").decode()] = int(process.name)
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_part_is_started_again_and_a_killed_supervisor_leaves_nothing(tmp_path):
    values = environment(tmp_path)
    with (tmp_path / "out").open("wb") as sink:
        supervisor = subprocess.Popen([sys.executable, "main.py", "dev"], cwd=ROOT, env=values, stdout=sink, stderr=sink)
    url = f"http://127.0.0.1:{values['HALL_PORT']}/readyz"

    def until_ready():
        for _ in range(300):
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((tmp_path / "out").read_text())

    try:
        until_ready()
        while "ready" not in (tmp_path / "out").read_text():  # until then a death means that it cannot start
            time.sleep(0.1)
        first = children_of(supervisor.pid)
        assert len(first) == 5, first
        for pid in first.values():
            os.kill(pid, signal.SIGKILL)
        for _ in range(200):
            again = children_of(supervisor.pid)
            if len(again) == 5 and not set(again.values()) & set(first.values()):
                break
            time.sleep(0.1)
        until_ready()
    finally:
        supervisor.kill()
        supervisor.wait()
    for _ in range(300):  # a worker in the middle of a commit waits for a database that has gone: worker.STOP_S, CUT_S
        if not left_running(tmp_path):
            break
        time.sleep(0.1)
    assert left_running(tmp_path) == []


_FORK = """
import os, time
from commands import servers
if os.fork() == 0:
    {first}
    servers.die_with_parent()
    os.write(1, b"lives")
    os._exit(0)
{then}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
@pytest.mark.parametrize(
    ("first", "then", "said"),
    [("pass", "os.wait()", b"lives"), ("while os.getppid() == servers._PARENT: time.sleep(0.01)", "", b"")],
    ids=["its_parent_lives", "its_parent_died_before_it_could_be_asked"],
)
def test_what_is_started_goes_on_only_with_its_parent(first, then, said):
    code = _FORK.format(first=first, then=then)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (said, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_commands_beside_it_find_its_servers_and_its_lines_tell_the_moved_clock_also_after_a_restart(tmp_path):
    values = environment(tmp_path, HALL_DEMO_PASSWORD="of-this-terminal")
    # Another terminal: it knows of no port and no password that the hall was given.
    elsewhere = {name: value for name, value in values.items() if not name.startswith("HALL_") or name == "HALL_DATA_DIR"}

    def beside(*words):
        result = subprocess.run(
            [sys.executable, "main.py", *words], cwd=ROOT, env=elsewhere, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "the stand-ins do not run" not in result.stderr
        return result.stdout

    def lines_of_a_run(until, *then):
        out = tmp_path / "out"
        with out.open("wb") as sink:
            supervisor = subprocess.Popen([sys.executable, "main.py", "dev"], cwd=ROOT, env=values, stdout=sink, stderr=sink)
        try:
            for wanted in (until, *then):
                if callable(wanted):
                    wanted()
                    continue
                for _ in range(400):
                    if wanted in out.read_text():
                        break
                    time.sleep(0.1)
                assert wanted in out.read_text()
        finally:
            supervisor.terminate()
            supervisor.wait(40)
        return out.read_text()

    lines_of_a_run("已就绪", lambda: beside("clock", "+40d"), "ahead by 40 days")
    again = lines_of_a_run("已就绪", lambda: beside("demo"))
    assert "ahead by 40 days" in again.partition("已就绪")[0], "kept over the restart"
    refused = subprocess.run(
        [sys.executable, "main.py", "clock", "reset"], cwd=ROOT, env=values, capture_output=True, text=True, timeout=60, check=False
    )
    assert "no hall runs here" in refused.stderr
