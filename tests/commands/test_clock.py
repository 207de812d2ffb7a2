"""./hall clock and ./hall calendar: what moves, what is refused in one line, and that production has no such thing."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.kernel import clock
from app.kernel.calendar import WorkingCalendar
from app.storage import virtual_clock
from commands.assembly import assemble
from commands.calendar import month_lines
from commands.clock import moved
from commands.migrate import prepare
from commands.servers import CannotStart
from config.settings import REQUIRED_IN_PRODUCTION, read_settings

ROOT = Path(__file__).resolve().parents[2]
CALENDAR = WorkingCalendar.load(ROOT / "config" / "calendars")
REAL = datetime(2026, 2, 12, 2, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("words", "before", "ahead"),
    [
        (["+5wd"], DAY * 0, DAY * 14),  # to 26 Feb: Sat 14 is worked, then nine days off
        (["+1wd"], DAY * 1, DAY * 2),  # from Friday the 13th to the Saturday that is worked
        (["+0wd"], DAY * 3, DAY * 3),
        (["+3d"], DAY * 2, DAY * 5),
        (["+2h"], DAY * 0, timedelta(hours=2)),
        (["set", "2026-12-31T09:00"], DAY * 9, datetime(2026, 12, 31, 1, tzinfo=UTC) - REAL),  # Shanghai time
        (["reset"], DAY * 9, DAY * 0),
    ],
)
def test_the_clock_moves_as_it_is_told(words, before, ahead):
    assert moved(before, tuple(words), REAL, CALENDAR) == ahead


@pytest.mark.parametrize("words", [["-3d"], ["+3w"], ["set", "tomorrow"], ["set", "2026-02-11T09:00"], ["+9999d"], ["reset", "now"], ["set"]])
def test_what_is_not_understood_or_leads_before_the_real_time_is_refused(words):
    with pytest.raises(CannotStart):
        moved(DAY * 0, tuple(words), REAL, CALENDAR)


def hall(*arguments, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HALL_")}
    return subprocess.run(
        [sys.executable, "main.py", *arguments], cwd=ROOT, env=kept | more, capture_output=True, text=True, timeout=60, check=False
    )


def one_line(result):
    assert result.returncode == 1, result.stdout
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


async def a_hall(servers, database, folder):
    environment = {
        "HALL_ENV": "test",
        "HALL_DATA_DIR": str(folder),
        "HALL_MONGODB_URI": servers["mongodb"],
        "HALL_MONGODB_DATABASE": database.db.name,
        "HALL_REDIS_URL": servers["redis"],
        "HALL_DEMO_PASSWORD": "x",
    }
    from commands.defaults import fill_in
    from commands.dev import sandbox_settings

    settings = read_settings(fill_in(environment, sandbox_settings(folder, 8889), folder), env_file=None)
    await prepare(settings, with_demo=True)
    return settings, environment


def test_without_a_running_hall_it_says_so(tmp_path):
    for arguments in (("clock", "+1d"), ("calendar", "show", "2026")):
        assert "no hall runs here" in one_line(hall(*arguments, HALL_ENV="dev", HALL_DATA_DIR=str(tmp_path), HALL_MONGODB_URI=""))


def production(settings):
    names = (*REQUIRED_IN_PRODUCTION, "mongodb_database", "alipay_public_key", "wechatpay_public_key", "wechatpay_public_key_id")
    made = {f"HALL_{name.upper()}": str(getattr(settings, name)) for name in names}
    urls = {name: value.replace("http://", "https://") for name, value in made.items() if name.endswith("_URL") and "redis" not in value}
    return made | urls | {"HALL_ENV": "production"}


async def test_production_refuses_in_one_line_and_its_processes_never_look_at_the_virtual_clock(servers, database, tmp_path, monkeypatch):
    settings, _environment = await a_hall(servers, database, tmp_path)
    refused = one_line(hall("clock", "+5wd", **production(settings)))
    assert "HALL_ENV=production" in refused
    assert await virtual_clock.stored(database) == DAY * 0
    await virtual_clock.move(database, DAY * 30)
    looked = []
    monkeypatch.setattr(virtual_clock, "stored", lambda _database: looked.append(1))
    made = await assemble(replace(settings, env="production"))
    try:
        assert clock.ahead() == DAY * 0
    finally:
        await made.close()
    assert looked == []


async def test_a_process_of_dev_begins_with_the_moved_clock_and_puts_it_right_when_it_ends(servers, database, tmp_path):
    settings, environment = await a_hall(servers, database, tmp_path)
    told = hall("clock", "+40d", **environment)
    assert (told.returncode, "ahead by 40 days" in told.stdout) == (0, True), told.stderr
    made = await assemble(settings)
    try:
        assert clock.ahead() == DAY * 40
        assert DAY * 39 < clock.utc_now() - clock.real_now() < DAY * 41
    finally:
        await made.close()
    assert clock.ahead() == DAY * 0


async def test_a_notice_is_loaded_shown_and_repeated_by_commands(servers, database, tmp_path):
    _settings, environment = await a_hall(servers, database, tmp_path)
    estimated = hall("calendar", "show", "2027", **environment)
    assert "estimated" in estimated.stdout.splitlines()[0]
    notice = {
        "year": 2027,
        "notice": "国办发明电〔2026〕9号",
        "issued_on": "2026-11-05",
        "holidays": ["2027-01-01", "2027-01-02", "2027-01-03", "2027-05-01", "2027-10-01", "2027-10-02", "2027-10-03"],
        "makeup_workdays": ["2027-01-09"],
    }
    path = tmp_path / "2027.json"
    path.write_text(json.dumps(notice, ensure_ascii=False))
    loaded = hall("calendar", "load", str(path), **environment)
    assert "7 days off, 1 make-up workdays: loaded" in loaded.stdout, loaded.stderr
    assert "unchanged" in hall("calendar", "load", str(path), **environment).stdout
    shown = hall("calendar", "show", "2027", **environment).stdout
    assert "国办发明电〔2026〕9号" in shown.splitlines()[0]
    january = shown.partition("2027-01")[2].partition("2027-02")[0]
    assert "[ 1]" in january
    assert "+ 9" in january
    path.write_text(json.dumps(notice | {"makeup_workdays": ["2027-01-11"]}, ensure_ascii=False))
    assert one_line(hall("calendar", "load", str(path), **environment)) == "hall: 2027.json: 2027-01-11 is no weekend, so it needs no make-up"
    path.write_text("{")
    assert "2027.json" in one_line(hall("calendar", "load", str(path), **environment))


def test_a_month_is_shown_as_the_notice_says():
    assert month_lines(CALENDAR, 2026, 2)[1:4] == [
        " " * 38 + "[ 1]",
        "          2    3    4    5    6  [ 7] [ 8]",
        "          9   10   11   12   13  +14  [15]",
    ]
