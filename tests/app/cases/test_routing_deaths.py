"""Routing steps and a process that dies at any database command: the step is there whole, with its events and its audit row, or not at all."""

from datetime import UTC, datetime, timedelta

import pytest

from app.cases import auto_decision, handover
from app.cases.model import State
from tests.app.cases.dying import mortal
from tests.app.cases.handled import (
    a_person,
    opened,
    set_clock,
    staff_of,
    with_materials,
)
from tests.app.cases.test_deaths import trace, whole
from tests.app.cases.test_routing_auto import ready

BEGIN = datetime(2026, 3, 2, 2, tzinfo=UTC)
LEAD, HEAD = staff_of("sg-nyj"), staff_of("sg-nyj", "head")
PLANNING = staff_of("sg-zrzy")
REFUSED = {"answer": "refused", "opinion": "不符合规划"}


async def carried(hall, monkeypatch, case_id, steps, after):
    """Take every step in a process that dies at its first command, then at its second, and so on until it has outlived one."""
    with mortal(monkeypatch) as attempt:
        for name, work, told, audited in steps:
            start = await trace(hall, case_id)
            for number in range(1, 60):
                died = await attempt(work, number, after)
                now = await trace(hall, case_id)
                assert whole(start, now, told, audited), (name, number, start, now)
                if now != start or not died:
                    break
            assert now != start, f"{name} was never done"


@pytest.mark.parametrize(
    "after", [False, True], ids=["before_the_command", "before_its_answer"]
)
async def test_departments_stages_proposals_and_the_decision(hall, monkeypatch, after):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, "homestead", owner))
    await hall.cases.submit(case.id, owner)

    def staff(action, who, **body):
        return lambda: hall.review.act(case.id, action, who, body)

    def later():
        set_clock(
            hall, BEGIN + timedelta(days=5)
        )  # the department's day has passed, the office's has not
        return hall.sweeps.run()

    await carried(
        hall,
        monkeypatch,
        case.id,
        [
            (
                "accept",
                staff("accept", LEAD),
                ["case.accepted", "case.departments_asked"],
                ["case.accept"],
            ),
            (
                "finish_stage",
                staff("finish_stage", LEAD, note="", account=None),
                ["case.stage_finished"],
                ["case.finish_stage"],
            ),
            ("note_silence", later, ["case.department_silent"], []),
            (
                "give_opinion",
                staff("give_opinion", PLANNING, **REFUSED),
                ["case.department_answered"],
                ["case.give_opinion"],
            ),
            (
                "propose",
                staff("propose", LEAD, outcome="denied", opinion="规划不符"),
                [],
                ["case.propose"],
            ),
            (
                "decide",
                staff("decide", HEAD, outcome="denied", opinion="规划不符"),
                ["case.denied"],
                ["case.decide"],
            ),
        ],
        after,
    )
    final = await hall.cases.get(case.id, owner)
    assert final.state is State.DENIED
    assert final.departments[0].answer == "refused" and final.departments[0].silent_on


@pytest.mark.parametrize(
    "after", [False, True], ids=["before_the_command", "before_its_answer"]
)
async def test_a_transfer_and_a_handing_over(hall, monkeypatch, after):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, "no_crime_cert", owner))
    await hall.cases.submit(case.id, owner)
    to, clerk, head = (
        {"agency_id": "sg-jj", "reason": "属交警"},
        staff_of("sg-jj"),
        staff_of("sg-jj", "head"),
    )
    await carried(
        hall,
        monkeypatch,
        case.id,
        [
            (
                "transfer",
                lambda: hall.review.act(case.id, "transfer", staff_of("sg-gaj"), to),
                ["case.transferred"],
                ["case.transfer"],
            ),
            (
                "accept",
                lambda: hall.review.act(case.id, "accept", clerk, {}),
                ["case.accepted"],
                ["case.accept"],
            ),
            (
                "reassign",
                lambda: handover.hand_over(
                    hall.review, head, clerk.account, head.account
                ),
                [],
                ["case.reassign"],
            ),
        ],
        after,
    )
    final = await hall.cases.get(case.id, owner)
    assert (final.agency_id, final.assignee, len(final.transfers)) == (
        "sg-jj",
        head.account,
        1,
    )


@pytest.mark.parametrize(
    "after", [False, True], ids=["before_the_command", "before_its_answer"]
)
async def test_a_decision_by_rules_and_its_sample(hall, monkeypatch, after):
    monkeypatch.setattr(auto_decision, "is_sampled", lambda _case_id, _percent: True)
    draft = await ready(hall)
    told = ["case.submitted", "case.accepted", "case.approved", "case.completed"]
    finding = {"finding": "in_order", "note": ""}
    await carried(
        hall,
        monkeypatch,
        draft.id,
        [
            (
                "submit",
                lambda: hall.cases.submit(draft.id, draft.owner_id, command="c"),
                told,
                [],
            ),
            (
                "audit_sample",
                lambda: hall.review.act(
                    draft.id, "audit_sample", staff_of("sg-rsj", "head"), finding
                ),
                [],
                ["case.audit_sample"],
            ),
        ],
        after,
    )
    assert (await hall.cases.get(draft.id, draft.owner_id)).sample["state"] == "done"
