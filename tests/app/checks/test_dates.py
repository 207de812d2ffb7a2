"""Days in a department's answer: noted for the person whose matter it is, and nothing else is."""

from datetime import date

import pytest

from app.checks.dates import dates_of
from app.checks.service import Checks
from app.reminders.model import Dated
from tests.app.checks.conftest import Desk

KIND = {
    "kind": "licence_points",
    "dates": [
        {"label": "有效期止", "kind": "driving_licence", "name": "机动车驾驶证", "item": "driver_renew"},
        {"label": "本记分周期起", "months": 12, "kind": "points_cycle", "name": "机动车驾驶证", "item": "violation_query"},
    ],
}


def record(**rows: str):
    return {"title": "x", "state": "正常", "rows": [{"label": label, "value": value} for label, value in rows.items()]}


def test_rows_become_days_and_what_is_no_day_is_passed_by():
    found = dates_of(KIND, [record(有效期止="2027-03-15", 本记分周期起="2024-02-29")], str)
    assert [(dated.kind, dated.due_on) for dated in found] == [("driving_licence", date(2027, 3, 15)), ("points_cycle", date(2025, 2, 28))]
    assert dates_of(KIND, [record(有效期止="长期", 本记分周期起="")], str) == []
    assert dates_of({"kind": "other"}, [record(有效期止="2027-03-15")], str) == []


def test_several_vehicles_are_told_apart_and_no_plate_is_kept():
    kind = {"kind": "v", "dates": [{"label": "到", "kind": "inspection", "name": "机动车", "named_by": "号牌", "item": "inspection_mark"}]}
    found = dates_of(kind, [record(号牌="粤F12345", 到="2027-03-31"), record(号牌="粤F54321", 到="2027-04-30")], lambda plate: f"#{len(plate)}{plate[-1]}")
    assert [dated.subject for dated in found] == ["check:v:inspection:#75", "check:v:inspection:#71"]
    assert [dated.name for dated in found] == ["机动车 粤F1**45", "机动车 粤F5**21"]


@pytest.fixture
def noting(desk: Desk, redis) -> tuple[Checks, list[tuple[str, Dated]]]:
    noted: list[tuple[str, Dated]] = []

    async def note(resident_id: str, dated: Dated) -> None:
        noted.append((resident_id, dated))

    checks = Checks(
        desk.database, None, desk.keys, catalogue=desk.checks._catalogue, people=desk.identity, departments=desk.departments, note_day=note
    )
    return checks, noted


async def test_the_departments_answers_hold_the_days(noting, desk: Desk):
    checks, noted = noting
    me = await desk.resident()
    for kind in ("licence_points", "vehicle_status", "social_insurance"):
        await checks.run(kind, {}, me)
    assert {dated.kind for _owner, dated in noted} == {"driving_licence", "points_cycle", "inspection"}
    assert {owner for owner, _dated in noted} == {me}
    assert all(dated.due_on > date(2026, 1, 1) for _owner, dated in noted)
    before = list(noted)
    await checks.run("vehicle_status", {}, me)
    assert [dated for _owner, dated in noted if dated.kind == "inspection"] == 2 * [dated for _owner, dated in before if dated.kind == "inspection"]
