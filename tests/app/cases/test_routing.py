"""Departments side by side, stages in turn, the second person, transfer, leave: on a real database, with races."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from app.cases import guards, handover
from app.cases.claiming import claim_all
from app.cases.errors import ActionNotAllowed, CaseConflict, CaseNotFound
from app.cases.model import Acting, State
from app.cases.queue import Wanted
from app.kernel.errors import ValidationFailed
from tests.app.cases.handled import events_of, set_clock, staff_of, submitted
from tests.app.cases.test_drafts import a_case

BEGIN = datetime(2026, 3, 2, 2, tzinfo=UTC)  # a Monday
APPROVE = {"outcome": "approved", "opinion": "符合条件"}
DENY = {"outcome": "denied", "opinion": "不符合条件"}
LEAD, PLANNING = (
    staff_of("sg-nyj"),
    staff_of("sg-zrzy"),
)  # homestead: planning must agree
TAX, LAND, HOUSING = (
    staff_of("sg-swj"),
    staff_of("sg-bdc"),
    staff_of("sg-zjj"),
)  # housing_transfer_tax: two verify side by side


async def accepted(hall, alias, clerk, at=BEGIN):
    set_clock(hall, at)
    case = await submitted(hall, alias)
    return await hall.review.act(case.id, "accept", clerk, {})


async def audits(hall, case, action):
    rows = (
        await hall.database["audit"]
        .find({"subject": case.id, "action": f"case.{action}"})
        .sort("_id", 1)
        .to_list()
    )
    return [(row["actor"], row["purpose"]) for row in rows]


async def queue_of(hall, staff):
    return [case.id for case in (await hall.queue.page(staff, Wanted())).cases]


def answer(hall, case, staff, what="agreed"):
    return hall.review.act(
        case.id, "give_opinion", staff, {"answer": what, "opinion": "核验意见"}
    )


async def test_departments_are_asked_at_acceptance_and_answer_from_their_own_lists(
    hall,
):
    case = await accepted(hall, "school_enrol", staff_of("sg-jyj"))
    asked = ["sg-gaj", "sg-bdc", "sg-sbj"]
    assert [each.agency_id for each in case.departments] == asked
    assert (
        case.joint_due_on
        == max(each.due_on for each in case.departments)
        == date(2026, 3, 4)
    ), "the longest path, not the sum"
    assert case.joint_due_on <= case.deadline_on
    for agency in asked:
        assert await queue_of(hall, staff_of(agency)) == [case.id]
        seen = await hall.review.view(
            await hall.review.get(case.id, staff_of(agency)), staff_of(agency)
        )
        assert seen["allowed_actions"] == ["give_opinion"]
    with pytest.raises(CaseNotFound):
        await hall.review.get(case.id, staff_of("sg-mzj"))
    with pytest.raises(CaseNotFound):
        await answer(hall, case, staff_of("sg-mzj"))
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(case.id, "decide", staff_of("sg-gaj", "head"), APPROVE)
    with pytest.raises(ActionNotAllowed):
        await answer(
            hall, case, staff_of("sg-jyj")
        )  # the lead decides, it is not asked
    after = await answer(hall, case, staff_of("sg-gaj"))
    assert (after.state, after.assignee) == (case.state, case.assignee), (
        "an answer moves nothing"
    )
    assert await queue_of(hall, staff_of("sg-gaj")) == []
    await hall.review.get(
        case.id, staff_of("sg-gaj")
    )  # what one has answered can still be seen
    view = await hall.cases.view(await hall.cases.get(case.id, case.owner_id))
    assert [row["has_answered"] for row in view["joint"]["departments"]] == [
        True,
        False,
        False,
    ]
    assert "opinion" not in view["joint"]["departments"][0], (
        "what they say is the agency's until the decision"
    )


async def test_one_refusal_closes_nothing_and_where_all_must_agree_holds_the_approval(
    hall,
):
    case = await accepted(hall, "homestead", LEAD)
    case = await answer(hall, case, PLANNING, "refused")
    assert case.is_open and case.rules["refusal_rule"] == "all_of"
    for who in (LEAD, staff_of("sg-nyj", "head")):
        with pytest.raises(ActionNotAllowed, match="部门不同意"):
            await hall.review.act(case.id, "decide", who, APPROVE)
    await answer(
        hall, case, PLANNING, "agreed"
    )  # a department may think again until the decision
    case = await hall.review.act(case.id, "decide", LEAD, APPROVE)
    assert case.decision["outcome"] == "approved"


async def test_against_a_refusal_the_lead_decides_with_a_second_person(hall):
    case = await accepted(hall, "housing_transfer_tax", TAX)
    await answer(hall, case, LAND, "refused")
    with pytest.raises(ActionNotAllowed, match="另一个人"):
        await hall.review.act(case.id, "decide", TAX, APPROVE)
    await hall.review.act(case.id, "propose", TAX, APPROVE)
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(case.id, "decide", TAX, APPROVE)
    case = await hall.review.act(case.id, "decide", staff_of("sg-swj", "head"), APPROVE)
    assert case.decision["unheard"] == ["韶关市住房和城乡建设管理局"]


async def test_the_lead_need_not_wait_and_what_it_did_not_wait_for_is_on_record(hall):
    case = await accepted(hall, "housing_transfer_tax", TAX)
    await answer(hall, case, LAND)
    case = await hall.review.act(case.id, "decide", TAX, APPROVE)
    assert case.decision["unheard"] == ["韶关市住房和城乡建设管理局"]
    [(_actor, purpose)] = await audits(hall, case, "decide")
    assert "unheard: sg-zjj" in purpose
    with pytest.raises(ActionNotAllowed):
        await answer(hall, case, HOUSING)
    assert await queue_of(hall, HOUSING) == []


async def test_silence_is_noted_once_and_blocks_nobody(hall):
    case = await accepted(hall, "housing_transfer_tax", TAX)
    await answer(hall, case, LAND)
    set_clock(hall, BEGIN + timedelta(days=1))
    await hall.sweeps.run()
    assert "case.department_silent" not in await events_of(hall, case), (
        "its day has not passed"
    )
    set_clock(hall, BEGIN + timedelta(days=2))
    await asyncio.gather(*(hall.sweeps.run() for _ in range(4)))
    await hall.sweeps.run()
    assert (await events_of(hall, case)).count("case.department_silent") == 1
    case = await hall.cases.get(case.id, case.owner_id)
    assert [each.silent_on is not None for each in case.departments] == [False, True]
    case = await answer(hall, case, HOUSING, "noted")  # late is better than never
    assert case.open_departments == ()
    await hall.review.act(case.id, "decide", TAX, APPROVE)


async def test_two_departments_and_the_lead_at_the_same_instant(hall):
    for _ in range(5):
        case = await accepted(hall, "housing_transfer_tax", TAX)
        results = await asyncio.gather(
            answer(hall, case, LAND),
            answer(hall, case, HOUSING),
            hall.review.act(case.id, "decide", TAX, DENY),
            return_exceptions=True,
        )
        final = await hall.cases.get(case.id, case.owner_id)
        told = await events_of(hall, final)
        assert final.state is State.DENIED
        heard = [each.name for each in final.departments if each.answer]
        assert (
            told.count("case.department_answered")
            == len(heard)
            == sum(not isinstance(r, Exception) for r in results[:2])
        )
        assert sorted(final.decision["unheard"]) == sorted(
            each.name for each in final.departments if not each.answer
        )
        assert all(
            isinstance(r, ActionNotAllowed | CaseConflict)
            for r in results
            if isinstance(r, Exception)
        )


async def test_an_answer_and_the_sweep_at_the_same_instant(hall):
    for _ in range(5):
        case = await accepted(hall, "homestead", LEAD)
        set_clock(hall, BEGIN + timedelta(days=20))
        await asyncio.gather(
            hall.sweeps.run(), answer(hall, case, PLANNING), hall.sweeps.run()
        )
        final = await hall.cases.get(case.id, case.owner_id)
        assert final.departments[0].answer == "agreed", (
            "an answer is never lost to the sweep"
        )
        told = await events_of(hall, final)
        assert told.count("case.department_answered") == 1
        assert told.count("case.department_silent") == (
            final.departments[0].silent_on is not None
        )


async def test_stages_follow_each_other_each_with_its_day_and_its_person(hall):
    clerk = staff_of("sg-mzj")
    case = await accepted(hall, "dibao", clerk)
    assert [stage.key for stage in case.stages] == [
        "visit",
        "check",
        "publicity",
        "review",
    ]
    assert (case.stage.key, case.stage.due_on) == ("visit", date(2026, 3, 9))
    set_clock(hall, BEGIN + timedelta(days=2))
    with pytest.raises(ValidationFailed):
        await hall.review.act(
            case.id, "finish_stage", clerk, {"note": "", "account": "clerk.sg-gaj"}
        )
    case = await hall.review.act(
        case.id, "finish_stage", clerk, {"note": "已入户", "account": "head.sg-mzj"}
    )
    assert (case.stage.key, case.stage.due_on, case.assignee) == (
        "check",
        date(2026, 3, 11),
        "head.sg-mzj",
    )
    head = staff_of("sg-mzj", "head")
    case = await hall.review.act(case.id, "decide", head, APPROVE)
    assert case.decision["left_out"] == ["经济状况核对", "村（社区）公示"]
    assert [row["state"] for row in (await hall.cases.view(case))["stages"]] == [
        "done",
        "left_out",
        "left_out",
        "done",
    ]
    assert "left out: check, publicity" in (await audits(hall, case, "decide"))[0][1]


@pytest.mark.parametrize(
    ("taken_in_by", "proposed_by", "accepted_by", "decides", "is_head", "may"),
    [
        ("a", "a", "a", "b", False, True),  # took it in and proposes, a colleague decides
        ("a", "b", "b", "a", False, False),  # took it in: not the second person too
        ("a", "b", "b", "a", True, False),  # nor as head
        ("a", None, "b", "a", True, False),  # nor over what a colleague accepted
        ("a", None, "a", "c", True, True),
        (None, "b", "b", "a", False, True),  # online: as ever
    ],
)
def test_who_took_it_in_at_the_window_is_one_of_the_two(
    taken_in_by, proposed_by, accepted_by, decides, is_head, may
):
    proposal = {"by": proposed_by, "outcome": "denied"} if proposed_by else None
    case = a_case(
        rules={"four_eyes": ["denied"]},
        taken_in_by=taken_in_by,
        proposal=proposal,
        accepted_by=accepted_by,
        acting=Acting(decides, "sg-mzj", is_head),
    )
    assert guards.may_deny(case, date(2026, 3, 2)) is may
    assert guards.may_approve(case, date(2026, 3, 2)), "an outcome that takes one"


async def test_a_sensitive_denial_takes_two_people(hall):
    clerk, other, head = (
        staff_of("sg-mzj"),
        replace(staff_of("sg-mzj"), account="other.sg-mzj"),
        staff_of("sg-mzj", "head"),
    )
    case = await accepted(hall, "dibao", clerk)
    with pytest.raises(ActionNotAllowed, match="另一个人"):
        await hall.review.act(case.id, "decide", clerk, DENY)
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(
            case.id, "decide", other, DENY
        )  # a colleague's case, nothing proposed
    case = await hall.review.act(case.id, "propose", clerk, DENY)
    assert case.state is State.ACCEPTED and "case.denied" not in await events_of(
        hall, case
    )
    view = await hall.cases.view(case)
    assert "proposal" not in view, "between colleagues"
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(case.id, "decide", clerk, DENY)
    results = await asyncio.gather(
        *(
            hall.review.act(case.id, "decide", who, DENY)
            for who in (other, head, clerk)
        ),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert isinstance(results[2], ActionNotAllowed)
    assert (await events_of(hall, case)).count("case.denied") == 1
    alone = await accepted(hall, "dibao", clerk)
    assert (
        await hall.review.act(alone.id, "decide", head, DENY)
    ).state is State.DENIED, "the clerk accepted, the head decides"
    by_head = await accepted(hall, "dibao", head)
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(by_head.id, "decide", head, DENY)
    assert (
        await hall.review.act(by_head.id, "decide", head, APPROVE)
    ).state is not State.DENIED


async def test_a_transfer_stays_in_the_line_keeps_the_clock_and_does_not_go_round(hall):
    set_clock(hall, BEGIN)
    police, traffic, border = staff_of("sg-gaj"), staff_of("sg-jj"), staff_of("sg-crj")
    case = await submitted(hall, "no_crime_cert")
    due = case.accept_by_on
    with pytest.raises(ValidationFailed) as refused:
        await hall.review.act(
            case.id, "transfer", police, {"agency_id": "sg-mzj", "reason": "不归我管"}
        )
    assert refused.value.errors[0]["code"] == "other_line"
    with pytest.raises(ValidationFailed):
        await hall.review.act(
            case.id, "transfer", police, {"agency_id": "nobody", "reason": "x"}
        )
    set_clock(hall, BEGIN + timedelta(days=1))
    case = await hall.review.act(
        case.id, "transfer", police, {"agency_id": "sg-jj", "reason": "属交警"}
    )
    assert (case.agency_id, case.assignee, case.accept_by_on) == ("sg-jj", None, due)
    assert (
        await queue_of(hall, traffic) == [case.id]
        and await queue_of(hall, police) == []
    )
    with pytest.raises(CaseNotFound):
        await hall.review.get(case.id, police)
    with pytest.raises(ValidationFailed) as refused:
        await hall.review.act(
            case.id, "transfer", traffic, {"agency_id": "sg-gaj", "reason": "退回"}
        )
    assert refused.value.errors[0]["code"] == "had_it"
    case = await hall.review.act(
        case.id, "transfer", traffic, {"agency_id": "sg-crj", "reason": "属出入境"}
    )
    assert (
        "transfer" not in (await hall.review.view(case, border))["allowed_actions"]
    ), "twice is enough"
    assert (await events_of(hall, case)).count("case.transferred") == 2
    assert (
        await hall.review.act(case.id, "accept", border, {})
    ).state is State.ACCEPTED


async def test_whoever_covers_a_colleague_on_leave_may_act_and_it_is_said_for_whom(
    hall,
):
    set_clock(hall, BEGIN)
    agency = "sg-rsj"
    assert await hall.staff.add("cover.sg-rsj", "代理", "clerk", agency, "Pass-word-1")
    case = await accepted(hall, "injury_identify", staff_of(agency))
    today = datetime.now(UTC).date()
    token, _seconds, _who = await hall.staff.login("cover.sg-rsj", "Pass-word-1")

    async def cover():
        return await hall.staff.authenticate(token)

    with pytest.raises(ActionNotAllowed):
        await hall.review.act(
            case.id, "suspend", await cover(), {"kind": "hearing", "days": 3}
        )
    await hall.staff.set_absence(
        f"clerk.{agency}",
        "cover.sg-rsj",
        today - timedelta(days=1),
        today + timedelta(days=1),
    )
    await hall.staff.set_absence(
        f"clerk.{agency}",
        "cover.sg-rsj",
        today - timedelta(days=1),
        today + timedelta(days=2),
    )
    assert len(await hall.staff.absences(agency)) == 1, "said again, it replaces"
    assert "suspend" in (await hall.review.view(case, await cover()))["allowed_actions"]
    case = await hall.review.act(
        case.id, "suspend", await cover(), {"kind": "hearing", "days": 3}
    )
    assert await audits(hall, case, "suspend") == [
        ("cover.sg-rsj", "cover for clerk.sg-rsj")
    ]
    [row] = await claim_all(hall.review, await cover(), [case.id])
    assert row["outcome"] == "taken", "many at once take only what nobody has"
    await hall.staff.end_absence(f"clerk.{agency}")
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(case.id, "resume", await cover(), {})


async def test_a_head_hands_over_many_and_a_request_that_died_is_sent_again(hall):
    clerk, head = staff_of("sg-rsj"), staff_of("sg-rsj", "head")
    mine = [(await accepted(hall, "injury_identify", clerk)).id for _ in range(3)]
    taken = await hall.review.act(mine[0], "reassign", head, {"account": "head.sg-rsj"})
    rows, more = await handover.hand_over(
        hall.review, head, clerk.account, "head.sg-rsj", [*mine, "case_none"]
    )
    assert [row["outcome"] for row in rows] == [
        "failed",
        "moved",
        "moved",
        "failed",
    ] and not more
    rows, _more = await handover.hand_over(
        hall.review, head, clerk.account, "head.sg-rsj"
    )
    assert rows == [], "nothing is left to move"
    assert (await hall.cases.get(taken.id, taken.owner_id)).assignee == "head.sg-rsj"


async def test_who_has_left_keeps_neither_what_waits_for_a_fee_nor_what_waits_for_the_post(hall):
    clerk, head = staff_of("sg-gaj"), staff_of("sg-gaj", "head")
    case = await submitted(hall, "id_card_renew", {"reason": "expire"})
    await hall.review.act(case.id, "accept", clerk, {})
    case = await hall.review.act(case.id, "decide", clerk, {"outcome": "approved", "opinion": ""})
    for state in (State.AWAITING_PAYMENT, State.DELIVERING):
        assert (case.state, case.assignee) == (state, clerk.account)
        [row], _more = await handover.hand_over(hall.review, head, clerk.account, head.account)
        assert row["outcome"] == "moved"
        await hall.review.act(case.id, "reassign", head, {"account": clerk.account})
        if state is State.AWAITING_PAYMENT:
            await hall.cases.fee_paid(case.id, "ord_1")
            case = await hall.review.act(case.id, "deliver", clerk, {"method": "post", "tracking": None})
