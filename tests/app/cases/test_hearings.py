"""The right to a hearing stands before the decision: told, asked for or given up in time, held with its record, and raced."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.cases.errors import ActionNotAllowed, CaseNotFound
from app.cases.model import Case, State
from app.kernel.errors import HallError, ValidationFailed
from tests.app.cases.handled import events_of, set_clock, staff_of, submitted
from tests.app.cases.test_papers import paper

BEGIN = datetime(2026, 3, 2, 2, tzinfo=UTC)  # a Monday
DENY = {"outcome": "denied", "opinion": "占用基本农田"}
REASON = {"reason": "拟不予批准：占用基本农田"}


async def heard(hall, rule):
    """A case of an item whose data say that an applicant may ask for a hearing, or that one is required."""
    set_clock(hall, BEGIN)
    case = await submitted(hall, "homestead")
    await hall.database["cases"].update_one({"_id": case.id}, {"$set": {"rules.hearing": rule}})
    return case


async def told(hall):
    """A case of an item that knows a hearing, whose applicant was told of it on 2 March; the last day to ask is 9 March."""
    case = await heard(hall, "on_application")
    clerk = staff_of(case.agency_id)
    await hall.review.act(case.id, "accept", clerk, {})
    with pytest.raises(ActionNotAllowed) as refused:  # never a denial before the right was told
        await hall.review.act(case.id, "decide", clerk, DENY)
    assert "听证" in refused.value.detail
    case = await hall.review.act(case.id, "tell_hearing", clerk, REASON)
    assert case.hearing["ask_by_on"] == "2026-03-09"
    _number, _code, text = await paper(hall, case, "hearing")
    assert "听证告知书" in text and "占用基本农田" in text and "3月9日" in text
    return case, clerk


async def test_nothing_is_denied_before_the_last_day_to_ask_has_passed(hall):
    case, clerk = await told(hall)
    for day in (0, 7):
        set_clock(hall, BEGIN + timedelta(days=day))
        with pytest.raises(ActionNotAllowed):
            await hall.review.act(case.id, "decide", clerk, DENY)
    set_clock(hall, BEGIN + timedelta(days=8))
    with pytest.raises(ActionNotAllowed):
        await hall.requests.hearing(case.id, case.owner_id, True)
    assert (await hall.review.act(case.id, "decide", clerk, DENY)).state is State.DENIED


async def test_who_gives_it_up_need_not_wait_and_an_approval_never_does(hall):
    case, clerk = await told(hall)
    with pytest.raises(CaseNotFound):
        await hall.requests.hearing(case.id, "res_other", False)
    await hall.requests.hearing(case.id, case.owner_id, False)
    with pytest.raises(ActionNotAllowed):  # said once
        await hall.requests.hearing(case.id, case.owner_id, True)
    assert (await hall.review.act(case.id, "decide", clerk, DENY)).state is State.DENIED
    other, clerk = await told(hall)
    await hall.requests.hearing(other.id, other.owner_id, True)
    assert (await hall.review.act(other.id, "decide", clerk, {"outcome": "approved", "opinion": ""})).decision["outcome"] == "approved"


async def test_who_asks_is_heard_first_with_notice_while_the_clock_stands_and_with_a_record(hall):
    case, clerk = await told(hall)
    before = case.deadline_on
    case = await hall.requests.hearing(case.id, case.owner_id, True)
    assert case.hearing["hold_by_on"] == "2026-03-30"
    set_clock(hall, BEGIN + timedelta(days=10))
    with pytest.raises(ActionNotAllowed):  # asked for: the last day to ask does not matter any more
        await hall.review.act(case.id, "decide", clerk, DENY)
    for days, reason, pointer in ((6, "3月24日，会议室", "/days"), (20, "4月9日，会议室", "/days"), (8, " ", "/reason")):
        with pytest.raises(ValidationFailed) as refused:
            await hall.review.act(case.id, "suspend", clerk, {"kind": "hearing", "days": days, "reason": reason})
        assert [row["pointer"] for row in refused.value.errors] == [pointer]
    await hall.review.act(case.id, "suspend", clerk, {"kind": "hearing", "days": 8, "reason": "3月24日9时，市民中心三楼"})
    set_clock(hall, BEGIN + timedelta(days=22))
    with pytest.raises(ValidationFailed) as refused:
        await hall.review.act(case.id, "resume", clerk, {"record": " "})
    assert refused.value.errors[0]["pointer"] == "/record"
    case = await hall.review.act(case.id, "resume", clerk, {"record": "申请人陈述：……"})
    assert case.deadline_on > before and case.hearing["held_on"] == "2026-03-24"
    view = (await hall.cases.view(await hall.cases.get(case.id, case.owner_id)))["hearing"]
    assert (view["state"], view["record"]) == ("held", "申请人陈述：……")
    assert (await hall.review.act(case.id, "decide", clerk, DENY)).state is State.DENIED
    names = [name for name in await events_of(hall, case) if "hearing" in name]
    assert names == ["case.hearing_told", "case.hearing_asked"]


async def test_a_required_hearing_stands_before_any_decision(hall):
    case = await heard(hall, "required")
    clerk = staff_of(case.agency_id)
    await hall.review.act(case.id, "accept", clerk, {})
    case = await hall.review.act(case.id, "tell_hearing", clerk, {"reason": "公告：依法举行听证"})
    assert "最迟举行日" in (await paper(hall, case, "hearing"))[2]
    set_clock(hall, BEGIN + timedelta(days=9))
    for outcome in ("approved", "denied"):
        with pytest.raises(ActionNotAllowed):
            await hall.review.act(case.id, "decide", clerk, {"outcome": outcome, "opinion": "x"})
    await hall.review.act(case.id, "suspend", clerk, {"kind": "hearing", "days": 7, "reason": "3月20日，会议室"})
    for day in (9, 17):  # announced on 11 March: nothing is heard before 20 March
        set_clock(hall, BEGIN + timedelta(days=day))
        with pytest.raises(ValidationFailed) as refused:
            await hall.review.act(case.id, "resume", clerk, {"record": "笔录"})
        assert [(row["pointer"], row["code"]) for row in refused.value.errors] == [("/record", "too_early")]
    set_clock(hall, BEGIN + timedelta(days=18))
    await hall.review.act(case.id, "resume", clerk, {"record": "笔录"})
    assert (await hall.review.act(case.id, "decide", clerk, {"outcome": "approved", "opinion": ""})).decision["outcome"] == "approved"


async def test_of_asking_giving_up_and_denying_at_once_a_hearing_asked_for_is_never_passed_over(hall):
    case, clerk = await told(hall)
    answers = await asyncio.gather(
        hall.requests.hearing(case.id, case.owner_id, False),
        hall.requests.hearing(case.id, case.owner_id, True),
        hall.review.act(case.id, "decide", clerk, DENY),
        return_exceptions=True,
    )
    assert all(isinstance(answer, (Case, HallError)) for answer in answers), answers
    after = await hall.cases.get(case.id, case.owner_id)
    assert bool(after.hearing.get("asked_at")) != bool(after.hearing.get("waived_at")), "one of both was first"
    assert after.state is not State.DENIED or after.hearing.get("waived_at")
    assert (await events_of(hall, case)).count("case.hearing_asked") == bool(after.hearing.get("asked_at"))
