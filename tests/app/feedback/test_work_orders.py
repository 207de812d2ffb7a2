"""Call-backs and complaints: one step at a time by whoever may, in time over holidays, told of once when late, never by whom they are about."""

import asyncio
import itertools
from datetime import date

import pytest

from app.feedback import machine
from app.feedback.model import DeskNeeded, PersonConcerned, StepNotAllowed
from app.feedback.work_order import LAMPS, view
from app.feedback.work_orders import WorkOrderNotFound
from app.kernel.errors import HallError, NotFound, RateLimited, ValidationFailed
from app.kernel.ids import new_id
from tests.app.cases.dying import mortal
from tests.app.cases.handled import a_person, staff_of
from tests.app.feedback.rated import (
    CLERK,
    DESK,
    HEAD,
    SUPERIOR,
    at,
    bad_rating,
    events_about,
    handed_in,
    noted,
    now_is,
    totals,
)  # fmt: skip

SAID = {"text": "已说明情况", "reason": "mistaken"}


@pytest.fixture(autouse=True)
def monday(hall):
    now_is(hall, at(3, 2))


async def complained(hall, resident_id=None, **asked):
    resident_id = resident_id or await a_person(hall)
    given = {"about": "agency", "agency_id": "sg-rsj", "text": "窗口没有人"} | asked
    return await hall.complaints.submit(resident_id, given, complaint_id=new_id("cmp"))


async def steps(hall, order, *names, staff=HEAD):
    for name in names:
        order = await hall.work_orders.by_staff(order.id, staff, name, SAID)
    return order


async def cards_of(hall, order):
    rows = await hall.database["cards"].find({"case_id": order.id}).sort("_id", 1).to_list()
    return [(row["rule"], row["is_open"]) for row in rows]


async def test_a_call_back_goes_from_the_bad_rating_to_what_the_resident_says(hall):
    resident, order = await bad_rating(hall)
    assert (order.state, order.due_on, order.desk_agency, order.concerned) == ("open", date(2026, 3, 3), "sg-rsj", (CLERK.account,))
    order = await steps(hall, order, "try", "contact", "answer")
    assert (order.state, order.due_on) == ("answered", date(2026, 3, 23))  # 15 working days from the rating
    order = await hall.work_orders.by_resident(order.id, "call_back", resident, "reopen", "没有人来")
    assert (order.state, order.reopened) == ("open", True)
    order = await steps(hall, order, "contact", "answer", "correct")
    with pytest.raises(StepNotAllowed):  # once
        await hall.work_orders.by_resident(order.id, "call_back", resident, "reopen", "还是没有")
    order = await hall.work_orders.by_resident(order.id, "call_back", resident, "settle", "")
    assert (order.state, order.is_settled, order.due_on) == ("corrected", True, None)
    audited = [row["action"] async for row in hall.database["audit"].find({"subject": order.id}).sort("_id", 1)]
    assert audited == [f"call_back.{name}" for name in ("try", "contact", "answer", "contact", "answer", "correct")]
    found = await totals(hall)
    assert (found["contacted"], found["answered"], found["corrected"], found["called_back_rate"]) == (1, 1, 1, 1.0)


async def test_nobody_deals_with_what_is_about_themselves(hall):
    case, contact = await handed_in(hall)
    await hall.feedback.rate(contact, case.owner_id, 4, [], "")
    [order] = (await hall.work_orders.list_of_resident("call_back", case.owner_id))[0]
    with pytest.raises(DeskNeeded):
        await steps(hall, order, "contact", staff=CLERK)
    for stranger in (staff_of("sg-gaj", "head"),):
        with pytest.raises(WorkOrderNotFound):
            await steps(hall, order, "contact", staff=stranger)
    await hall.review.act(case.id, "claim", HEAD, {})
    for attempt in (hall.work_orders.read(order.id, HEAD), steps(hall, order, "contact")):
        with pytest.raises(PersonConcerned):
            await attempt
    assert (await steps(hall, order, "contact", staff=DESK)).state == "contacted"
    # All heads of the agency took part: from the start it is the superior's.
    await noted(hall)
    complaint = await complained(hall, case.owner_id, about="case", case_id=case.id)
    assert (complaint.desk_agency, complaint.is_with_superior) == ("sg-zsj", True)
    with pytest.raises(WorkOrderNotFound):
        await steps(hall, complaint, "accept")
    with pytest.raises(WorkOrderNotFound):  # complaints are the head's
        await steps(hall, complaint, "accept", staff=DESK)
    assert (await steps(hall, complaint, "accept", staff=SUPERIOR)).state == "accepted"


async def test_a_complaint_is_answered_extended_once_and_heard_once_more_by_the_superior(hall):
    resident = await a_person(hall)
    order = await complained(hall, resident)
    assert (order.number[:10], order.due_on) == ("TS" + order.number[2:10], date(2026, 3, 4))
    order = await steps(hall, order, "accept")
    assert order.due_on == date(2026, 3, 23)
    order = await hall.work_orders.by_resident(order.id, "complaint", resident, "add", "下午也没有人")
    order = await steps(hall, order, "extend")
    assert order.due_on == date(2026, 4, 14)  # over 清明
    with pytest.raises(StepNotAllowed):
        await steps(hall, order, "extend")
    order = await steps(hall, order, "answer")
    order = await hall.work_orders.by_resident(order.id, "complaint", resident, "appeal", "答非所问")
    assert (order.state, order.desk_agency, order.due_on) == ("submitted", "sg-zsj", date(2026, 3, 4))
    with pytest.raises(WorkOrderNotFound):
        await steps(hall, order, "accept")
    order = await steps(hall, order, "accept", "answer", staff=SUPERIOR)
    with pytest.raises(StepNotAllowed):
        await hall.work_orders.by_resident(order.id, "complaint", resident, "appeal", "还是不满意")
    order = await hall.work_orders.by_resident(order.id, "complaint", resident, "settle", "")
    assert order.state == "settled"
    names = ("submitted", "accepted", "extended", "answered", "appealed", "accepted", "answered", "settled")
    assert await events_about(hall, order.id) == [f"complaint.{name}" for name in names]
    for name in ("work_orders", "events"):
        assert "窗口没有人" not in str(await hall.database[name].find({}).to_list())


@pytest.mark.parametrize(
    ("opened_at", "clocks"),
    [
        (at(2, 13), {"open": date(2026, 2, 14), "contacted": date(2026, 2, 27), "answered": date(2026, 3, 12)}),  # 春节, make-up days
        (at(9, 30), {"open": date(2026, 10, 8), "contacted": date(2026, 10, 13), "answered": date(2026, 10, 27)}),  # 国庆
    ],
)
async def test_limits_count_over_holidays(hall, opened_at, clocks):
    now_is(hall, opened_at)
    _resident, order = await bad_rating(hall)
    seen = {order.state: order.due_on}
    for name in ("contact", "answer"):
        order = await steps(hall, order, name)
        seen[order.state] = order.due_on
    assert seen == clocks


async def test_a_limit_that_passes_is_told_of_once_and_goes_to_the_superior_when_nobody_acts(hall):
    resident, order = await bad_rating(hall)
    complaint = await complained(hall, resident)
    now_is(hall, at(3, 3))
    assert await hall.work_orders.sweep() == 2, "the last day, and the last but one"
    now_is(hall, at(3, 5))
    told = await asyncio.gather(*(hall.work_orders.sweep() for _ in range(4)))
    assert (sum(told), await hall.work_orders.sweep()) == (2, 0)
    await noted(hall, times=2)
    assert await cards_of(hall, order) == [("contact_near", True), ("contact_over", True)]
    assert await cards_of(hall, complaint) == [("complaint_acceptance_near", True), ("complaint_silent", True)]
    await steps(hall, order, "contact")
    await noted(hall)
    assert await cards_of(hall, order) == [("contact_near", False), ("contact_over", False)]
    now_is(hall, at(3, 10))
    assert await hall.cards.escalate_due() == 1
    assert (await events_about(hall, complaint.id))[-1] == "complaint.escalated"
    [card] = (await hall.supervision.page(SUPERIOR, is_escalated=True))[0]
    assert (card["kind"], card["case"]["id"]) == ("complaint", complaint.id)
    assert (await totals(hall))["contacted_late"] == 1


async def test_a_limit_that_is_near_makes_one_yellow_card_which_goes_when_it_is_met(hall):
    resident, order = await bad_rating(hall)
    complaint = await complained(hall, resident)
    assert await hall.work_orders.sweep() == 0, "on the first day nothing is near"
    order = await steps(hall, order, "contact")  # to be answered by Monday the 9th: near from Thursday
    now_is(hall, at(3, 4))
    await steps(hall, complaint, "accept")
    assert await hall.work_orders.sweep() == 0
    now_is(hall, at(3, 5))
    told = await asyncio.gather(*(hall.work_orders.sweep() for _ in range(4)))
    assert (sum(told), await hall.work_orders.sweep()) == (1, 0)
    await noted(hall, times=2)
    assert await cards_of(hall, order) == [("call_back_near", True)]
    [card] = (await hall.supervision.page(HEAD, card="yellow"))[0]
    assert (card["kind"], card["case"]["id"], card["due_on"]) == ("call_back", order.id, "2026-03-09")
    seen = await hall.work_orders.of_resident(order.id, "call_back", resident)
    assert [line["step"] for line in view(seen, at(3, 5).date(), machine.RESIDENT)["log"]] == ["open", "contact"], "between the office and its supervision"
    await steps(hall, order, "answer")
    await noted(hall)
    assert await cards_of(hall, order) == [("call_back_near", False)]


async def test_who_looks_late_is_told_that_it_is_late_and_not_that_it_is_near(hall):
    _resident, order = await bad_rating(hall)
    order = await steps(hall, order, "contact")
    now_is(hall, at(3, 10))
    assert (await hall.work_orders.sweep(), await hall.work_orders.sweep()) == (1, 0)
    await noted(hall)
    assert await cards_of(hall, order) == [("call_back_over", True)]


async def test_a_work_order_from_before_nearness_was_kept_is_still_told_of_when_late(hall):
    _resident, order = await bad_rating(hall)
    old = {"near_on": "", "told_near": ""}
    await hall.database["work_orders"].update_one({"_id": order.id}, {"$unset": old, "$set": {"look_on": "2026-03-04"}})
    now_is(hall, at(3, 5))
    assert (await hall.work_orders.sweep(), await hall.work_orders.sweep()) == (1, 0)
    await noted(hall)
    assert await cards_of(hall, order) == [("contact_over", True)]


async def test_the_list_holds_what_its_counts_say(hall):
    orders = [await complained(hall) for _ in range(3)]
    await steps(hall, orders[0], "accept")
    now_is(hall, at(3, 5))
    orders.append(await complained(hall))
    for who, most in ((HEAD, 4), (staff_of("sg-gaj", "head"), 0), (SUPERIOR, 0), (DESK, 0)):
        counts = (await hall.work_orders.page(who))["counts"]
        for lamp in LAMPS:
            rows = (await hall.work_orders.page(who, lamp=lamp))["orders"]
            assert len(rows) == counts[lamp] and all(row.lamp(at(3, 5).date()) == lamp for row in rows)
        assert counts["all"] == most
    found, cursor = [], None
    while True:
        page = await hall.work_orders.page(HEAD, limit=1, cursor=cursor)
        found += [order.id for order in page["orders"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert sorted(found) == sorted(order.id for order in orders)
    assert found[-1] == orders[0].id, "the latest day last"


@pytest.mark.parametrize("kind", [machine.CALL_BACK, machine.COMPLAINT])
async def test_every_step_from_every_state_does_what_the_table_says_and_nothing_else(hall, kind):
    """The table alone decides: each row's step from each state, taken by everybody, against the real store."""
    if kind == machine.CALL_BACK:
        resident, first = await bad_rating(hall)
    else:
        resident = await a_person(hall)
        first = await complained(hall, resident)
    stored = await hall.database["work_orders"].find_one({"_id": first.id})
    names = sorted({row.name for row in machine.TABLES[kind] if row.actor != machine.SYSTEM})
    walked = set()
    for state, name, actor in itertools.product(machine.STATE_NAMES[kind], names, (machine.RESIDENT, machine.DESK, machine.HEAD)):
        await hall.database["work_orders"].replace_one({"_id": first.id}, {**stored, "state": state, "desk_agency": "sg-zsj"})
        rows = [
            row for row in machine.TABLES[kind]
            if row.name == name and state in row.sources and row.actor in {"resident": ("resident",), "desk": ("desk",), "head": ("desk", "head")}[actor]
        ]  # fmt: skip
        try:
            if actor == machine.RESIDENT:
                after = await hall.work_orders.by_resident(first.id, kind, resident, name, "说明")
            else:
                after = await hall.work_orders.by_staff(first.id, DESK if actor == machine.DESK else SUPERIOR, name, SAID)
        except (StepNotAllowed, WorkOrderNotFound):
            assert not rows, (state, name, actor)
            continue
        [row] = rows
        assert after.state == (row.target or state) and after.version == first.version + 1
        assert (after.due_on is not None) == machine.is_open(kind, after.state)
        walked.add((state, name))
    wanted = {(state, row.name) for row in machine.TABLES[kind] for state in row.sources if row.actor != machine.SYSTEM}
    assert walked == wanted


async def test_of_sixteen_who_take_a_step_at_once_one_does(hall):
    _resident, order = await bad_rating(hall)
    outcomes = await asyncio.gather(*(steps(hall, order, "contact", staff=who) for who in (HEAD, DESK) * 8), return_exceptions=True)
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert all(isinstance(outcome, StepNotAllowed) for outcome in outcomes if isinstance(outcome, Exception)), outcomes
    assert (await totals(hall))["contacted"] == 1


async def test_a_process_that_dies_at_any_command_leaves_a_complaint_and_a_step_whole_or_not_at_all(hall, monkeypatch):
    resident, complaint_id = await a_person(hall), new_id("cmp")
    asked = {"about": "hall", "text": "页面打不开"}

    async def stored():
        rows = await hall.database["work_orders"].count_documents({"_id": complaint_id})
        return rows, len(await events_about(hall, complaint_id)), await hall.database["audit"].count_documents({"subject": complaint_id})

    deaths = 0
    with mortal(monkeypatch) as attempt:
        for work, whole in (
            (lambda: hall.complaints.submit(resident, asked, complaint_id=complaint_id), (1, 1, 0)),
            (lambda: hall.work_orders.by_staff(complaint_id, SUPERIOR, "accept", {}), (1, 2, 1)),
        ):
            before = await stored()
            for number in range(1, 40):
                deaths += await attempt(work, number, number % 2 == 0)
                now = await stored()
                assert now in (before, whole), number
                if now == whole:
                    break
    assert deaths > 4 and await stored() == (1, 2, 1)
    again = await hall.complaints.submit(resident, asked, complaint_id=complaint_id)
    assert again.state == "accepted" and (await stored())[0] == 1
    day = await hall.database["counters"].find_one({"_id": f"complaints:{resident}:2026-03-02"})
    assert day["value"] == 1, "a retry is no further complaint of the day"


async def test_no_more_complaints_a_day_than_the_limit_however_they_come(hall):
    resident = await a_person(hall)
    outcomes = await asyncio.gather(*(complained(hall, resident) for _ in range(12)), return_exceptions=True)
    made = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert len(made) == hall.feedback.rules.complaints_per_day
    refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert all(isinstance(outcome, RateLimited) and "12345" in outcome.detail for outcome in refused), refused
    now_is(hall, at(3, 3))
    assert (await complained(hall, resident)).state == "submitted"


async def test_the_wrong_person_and_the_wrong_words_are_refused_and_leave_nothing(hall):
    resident, other = await a_person(hall), await a_person(hall)
    order = await complained(hall, resident)
    case, _contact = await handed_in(hall)
    refused = (
        (NotFound, hall.work_orders.of_resident(order.id, "complaint", other)),
        (NotFound, hall.work_orders.of_resident(order.id, "call_back", resident)),
        (NotFound, hall.work_orders.by_resident(order.id, "complaint", other, "withdraw", "")),
        (StepNotAllowed, hall.work_orders.by_resident(order.id, "complaint", resident, "accept", "")),
        (ValidationFailed, hall.work_orders.by_resident(order.id, "complaint", resident, "add", " ")),
        (ValidationFailed, hall.work_orders.by_staff(order.id, HEAD, "refuse", {"text": ""})),
        (DeskNeeded, hall.work_orders.page(CLERK)),
        (NotFound, complained(hall, other, about="case", case_id=case.id)),
        (ValidationFailed, complained(hall, other, agency_id="sg-none")),
        (ValidationFailed, complained(hall, other, text="  ")),
    )
    for error, attempt in refused:
        with pytest.raises(error) as caught:
            await attempt
        assert isinstance(caught.value, HallError) and caught.value.detail
    assert await events_about(hall, order.id) == ["complaint.submitted"]
    assert await hall.database["work_orders"].count_documents({}) == 1
