"""A process may die at any database command of any step: the step is there whole, with its events and its audit row, or not at all."""

from datetime import UTC, date, datetime, timedelta

import pytest

from app.cases.errors import ActionNotAllowed
from app.cases.model import State
from app.kernel.ids import new_id
from commands.story import picture
from tests.app.cases.dying import mortal
from tests.app.cases.handled import a_person, opened, set_clock, staff_of, with_materials

CLERK, HEAD = staff_of("sg-scjg"), staff_of("sg-scjg", "head")
BEGIN = datetime(2026, 3, 2, 2, tzinfo=UTC)
_AT_DAY = {"put_material": 1, "sweep": 4}  # the days on which time goes on
GAPS = {"missing": [{"key": "layout", "reason": "看不清"}]}


async def trace(hall, case_id):
    """What is stored of a case: version and state, its events, and what was audited."""
    case = await hall.database["cases"].find_one({"_id": case_id}) or {}
    events = await hall.database["events"].find({"subject_id": case_id}).sort("_id", 1).to_list()
    audit = await hall.database["audit"].find({"subject": case_id}).sort("_id", 1).to_list()
    return (case.get("version"), case.get("state")), [event["name"] for event in events], [row["action"] for row in audit]


def whole(before, after, told, audited):
    """Say whether a step is there entirely, or not at all."""
    if before == after:
        return True
    changed, events, audit = after
    return changed != before[0] and events == [*before[1], *told] and audit == [*before[2], *audited]


@pytest.mark.parametrize("after", [False, True], ids=["before_the_command", "before_its_answer"])
async def test_at_every_command_of_every_step(hall, monkeypatch, after):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    case = await opened(hall, "food_licence", owner)
    case_id, commands = case.id, {}
    await with_materials(hall, case, leave_out=("rules",))

    def staff(action, who=CLERK, **body):
        return lambda: hall.review.act(case_id, action, who, body)

    steps = [
        ("promise", lambda: hall.requests.promise(case_id, owner, ["rules"]), []),
        ("submit", lambda: hall.cases.submit(case_id, owner, command="cmd_1"), ["case.submitted"]),
        (
            "correction",
            lambda: hall.requests.correct(case_id, owner, {"place": "韶关市武江区示例路2号"}, "打错了"),
            ["case.correction_asked"],
        ),
        ("correct", staff("correct", approve=True, reason=""), ["case.correction_answered"]),
        ("pre_review", staff("pre_review", missing=[], note="", reason=""), ["case.pre_reviewed"]),
        ("request_supplement", staff("request_supplement", **GAPS), ["case.supplement_requested"]),
        ("put_material", lambda: hall.cases.put_material(case_id, owner, "layout", "b.png", picture(7)), []),
        ("supplement", lambda: hall.cases.supplement(case_id, owner, command="cmd_2"), ["case.supplemented"]),
        ("accept", staff("accept", tolerated=[{"key": "rules", "due_on": date(2026, 3, 20)}]), ["case.accepted"]),
        ("extend", staff("extend", HEAD, days=5, reason="现场核查"), ["case.extended"]),
        ("claim", staff("claim"), ["case.review_started"]),
        ("suspend", staff("suspend", kind="inspection", days=1), ["case.suspended"]),
        ("sweep", hall.sweeps.run, ["case.suspension_overdue"]),
        ("resume", staff("resume"), ["case.resumed"]),
        (
            "hand_in",
            lambda: hall.cases.put_material(case_id, owner, "rules", "r.png", picture(9)),
            ["case.material_handed_in"],
        ),
        ("reassign", staff("reassign", HEAD, account="head.sg-scjg"), []),
        ("decide", staff("decide", HEAD, outcome="approved", opinion=""), ["case.approved"]),
        ("deliver", staff("deliver", HEAD, method="electronic", tracking=None), ["case.completed"]),
        ("evaluate", lambda: hall.feedback.evaluate(case_id, owner, 1, [], ""), ["case.evaluated"]),
    ]
    by_staff = set(hall.review.act.__globals__["ACTIONS"])
    with mortal(monkeypatch) as attempt:
        for name, work, told in steps:
            if name in _AT_DAY:
                set_clock(hall, BEGIN + timedelta(days=_AT_DAY[name]))
            audited = [f"case.{name}"] if name in by_staff else []
            start = await trace(hall, case_id)
            for number in range(1, 60):
                died = await attempt(work, number, after)
                now = await trace(hall, case_id)
                assert whole(start, now, told, audited), (name, number, start, now)
                if now != start or not died:
                    break
            assert now != start, f"{name} was never done"
            commands[name] = number
            assert name in ("sweep", "put_material", "hand_in") or number > 1, name
    final = await hall.cases.get(case_id, owner)
    assert (final.state, final.evaluation_level) == (State.COMPLETED, 1)
    assert await hall.database["evaluations"].count_documents({"case_id": case_id}) == 1
    assert all(number > 2 for number in commands.values()), commands


async def test_a_retry_after_the_answer_was_lost_finds_the_step_done(hall, monkeypatch):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, "injury_identify", owner))

    def submit():
        return hall.cases.submit(case.id, owner, command="cmd_1")

    with mortal(monkeypatch) as attempt:
        number = 1
        while (await trace(hall, case.id))[0][1] == "draft":
            assert await attempt(submit, number, True)
            number += 1
    assert (await submit()).state is State.SUBMITTED
    assert (await trace(hall, case.id))[1].count("case.submitted") == 1


@pytest.mark.parametrize("after", [False, True])
async def test_the_law_accepts_once_however_often_the_worker_dies(hall, monkeypatch, after):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, "injury_identify", owner))
    await hall.cases.submit(case.id, owner)
    set_clock(hall, BEGIN + timedelta(days=10))
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(hall.sweeps.run, number, after):
            (_version, state), events, _audit = await trace(hall, case.id)
            assert (state == "accepted") == ("case.deemed_accepted" in events)
            number += 1
    assert number > 3
    assert (await trace(hall, case.id))[1].count("case.deemed_accepted") == 1


@pytest.mark.parametrize("after", [False, True])
async def test_money_moves_its_case_once_however_often_the_worker_dies(hall, monkeypatch, after):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, "driver_renew", owner, {"agent": "no"}))
    case = await hall.cases.submit(case.id, owner)
    order = new_id("ord")
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(lambda: hall.cases.fee_paid(case.id, order), number, after):
            (_version, state), events, _audit = await trace(hall, case.id)
            assert (state == "submitted") == ("case.fee_paid" in events)
            number += 1
    assert number > 3
    assert (await trace(hall, case.id))[1].count("case.fee_paid") == 1
    assert "case.payment_refused" not in (await trace(hall, case.id))[1]


async def test_applying_again_survives_a_death_between_its_two_steps(hall, monkeypatch):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    old = await with_materials(hall, await opened(hall, "injury_identify", owner))
    await hall.cases.withdraw(old.id, owner)
    case_id = new_id("case")
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(
            lambda: hall.requests.apply_again(old.id, owner, "injury_identify", "440203", {}, case_id=case_id), number, True
        ):
            number += 1
    again = await hall.cases.get(case_id, owner)
    assert (again.from_case, again.version) == (old.id, 2)
    assert await hall.database["events"].count_documents({"name": "case.created", "subject_id": case_id}) == 1


async def test_a_wrong_step_leaves_no_trace(hall):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, "injury_identify", owner))
    await hall.cases.submit(case.id, owner)
    before = await trace(hall, case.id)
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(case.id, "resume", staff_of("sg-rsj"), {})
    assert await trace(hall, case.id) == before
