"""Cards: once per clock, whoever dies, repeats or comes late; settled by the end of their clock, in any order; passed on when nobody acts."""

import asyncio
import itertools
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.cases import machine
from app.cases.sweeps import Sweeps
from app.feedback.machine import TABLES as feedback_tables
from app.identity.model import StaffSession
from app.kernel.errors import ValidationFailed
from app.kernel.events import Event, new_event
from app.kernel.ids import new_id
from app.kernel.printed import with_printed
from app.supervision import cards as cards_module
from app.supervision import desk as desk_module
from app.supervision import printed
from app.supervision.cards import Cards
from config.settings import ROOT
from tests.app.cases.dying import mortal
from tests.app.cases.handled import events_of, set_clock, staff_of, submitted

CLERK, HEAD = staff_of("sg-rsj"), staff_of("sg-rsj", "head")
SUPERIOR = staff_of("sg-zsj", "head")


def at(month, day, hour=10):
    return datetime(2026, month, day, hour - 8, tzinfo=UTC)


def now_is(hall, moment):
    set_clock(hall, moment)
    for part in (hall.cards, hall.supervision):
        part._clock = lambda: moment


async def told(hall):
    """Hand every event to supervision, as the relay does."""
    async for document in hall.database["events"].find({"name": {"$in": cards_module.EVENTS}}).sort("_id", 1):
        await hall.cards.note(Event.from_document(document))


async def cards_of(hall, case):
    rows = await hall.database["cards"].find({"case_id": case.id}).sort("_id", 1).to_list()
    return [(row["rule"], row["is_open"]) for row in rows]


async def totals(hall, staff=HEAD, **more):
    return (await hall.supervision.measures(staff, at(1, 1).date(), at(12, 31).date(), more.get("agency")))["totals"]


async def days_go_by(hall, *days):
    for month, day in days:
        now_is(hall, at(month, day))
        await hall.sweeps.run()
        await told(hall)
        await hall.cards.escalate_due()


async def test_a_case_nobody_handles_is_warned_of_then_red_then_the_superiors_once_each(hall):
    now_is(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    await days_go_by(hall, (3, 3), (3, 4))
    assert await cards_of(hall, case) == []
    await days_go_by(hall, (3, 5), (3, 6), (3, 9))
    assert await cards_of(hall, case) == [("acceptance_near", True)]
    await days_go_by(hall, (3, 10), (3, 11))
    # The clock of acceptance has ended by law: its warning is settled, the red card is the head's.
    assert await cards_of(hall, case) == [("acceptance_near", False), ("acceptance_silent", True)]
    assert [row["what"] for row in (await hall.supervision.page(CLERK))[0]] == []
    assert [row["rule"] for row in (await hall.supervision.page(HEAD))[0]] == ["acceptance_silent"]
    assert (await hall.supervision.page(SUPERIOR, is_escalated=True))[0] == []
    accepted = await hall.cases.get(case.id, case.owner_id)
    assert accepted.due_on == at(4, 14).date()
    await days_go_by(hall, (3, 12), (3, 13))
    [passed_on] = (await hall.supervision.page(SUPERIOR, is_escalated=True))[0]
    assert (passed_on["rule"], passed_on["case"]["id"], passed_on["agency"]["id"]) == ("acceptance_silent", case.id, "sg-rsj")
    await days_go_by(hall, (4, 2))
    assert len(await cards_of(hall, case)) == 2
    # A fifth of thirty days is left: six working days, the holiday of Qingming not among them.
    await days_go_by(hall, (4, 3), (4, 14))
    assert (await cards_of(hall, case))[2:] == [("decision_near", True)]
    await days_go_by(hall, (4, 15), (4, 16), (4, 17))
    assert (await cards_of(hall, case))[2:] == [("decision_near", True), ("decision_over", True)]
    await days_go_by(hall, (4, 20), (4, 21), (5, 20))
    names = await events_of(hall, case)
    assert (names.count("case.warned"), names.count("case.escalated")) == (3, 2)
    assert await totals(hall) == (await totals(hall)) | {"yellow": 2, "red": 2, "escalated": 2, "deemed_accepted": 1, "late": 0}
    now_is(hall, at(5, 21))
    await hall.review.act(case.id, "decide", CLERK, {"outcome": "denied", "opinion": "不符合条件"})
    await told(hall)
    assert {is_open for _rule, is_open in await cards_of(hall, case)} == {False}
    assert (await totals(hall))["late"] == 1
    assert (await hall.supervision.counts(HEAD)) == {"yellow": 0, "red": 0, "escalated": 0}


async def test_workers_that_were_away_for_weeks_tell_red_at_once_and_no_warning_that_is_too_late(hall):
    now_is(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    await hall.review.act(case.id, "accept", CLERK, {})
    await days_go_by(hall, (6, 1))
    assert await cards_of(hall, case) == [("decision_over", True)]
    assert (await events_of(hall, case)).count("case.warned") == 1


async def test_many_workers_at_the_same_second_make_one_card_and_pass_it_on_once(hall):
    now_is(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    await hall.review.act(case.id, "accept", CLERK, {})
    now_is(hall, at(6, 1))
    await asyncio.gather(*(Sweeps(hall.cases, lambda: at(6, 1)).run() for _ in range(4)), return_exceptions=True)
    await asyncio.gather(*(told(hall) for _ in range(4)), return_exceptions=True)
    await told(hall)
    others = [Cards(hall.database, hall.calendar, lambda: at(6, 5)) for _ in range(4)]
    await asyncio.gather(*(other.escalate_due() for other in others))
    assert await cards_of(hall, case) == [("decision_over", True)]
    assert (await events_of(hall, case)).count("case.escalated") == 1
    assert await totals(hall) == (await totals(hall)) | {"red": 1, "escalated": 1}


async def test_events_that_come_twice_and_in_any_order_leave_the_same_cards_and_counts(hall):
    """A story of four events, told in all twenty-four orders and twice each."""

    def event(name, version, **data):
        facts = {
            "number": "1", "item_code": "X", "item_name": "事项", "agency_id": "a", "agency_name": "某局",
            "version": version, "deadline_on": "2026-03-20", **data,
        }  # fmt: skip
        return new_event(name, subject=("case", "case_1"), owner_id="res_1", data=facts, at=at(3, 1 + version))

    story = [
        event("case.warned", 3, card="yellow", clock="acceptance", due_on="2026-03-04", assignee=None),
        event("case.accepted", 4),
        event("case.warned", 20, card="red", clock="decision", due_on="2026-03-20", assignee="clerk.a"),
        event("case.approved", 21),
    ]
    seen = set()
    for order in itertools.permutations(story):
        ids = {each.id: new_id("evt") for each in story}
        again = [replace(each, id=ids[each.id]) for each in order]
        for each in [*again, *reversed(again)]:
            await hall.cards.note(each)
        rows = await hall.database["cards"].find({}).sort("rule", 1).to_list()
        day = [hall.database["supervision_days"].find({}, {"_id": 1, "yellow": 1, "red": 1, "late": 1})]
        counts = {row.pop("_id"): tuple(sorted(row.items())) for row in await day[0].to_list() if len(row) > 1}
        seen.add((tuple((row["rule"], row["is_open"]) for row in rows), tuple(sorted(counts.items()))))
        for name in ("cards", "supervision_days", "supervised_cases"):
            await hall.database[name].delete_many({})
    assert len(seen) == 1, seen
    [(cards, counts)] = seen
    assert cards == (("acceptance_near", False), ("decision_over", False))
    assert counts == (
        ("a:2026-03-04", (("yellow", 1),)), ("a:2026-03-21", (("red", 1),)), ("a:2026-03-22", (("late", 1),)),
    )  # fmt: skip


async def test_a_worker_that_dies_at_any_command_leaves_nothing_out_and_nothing_twice(hall, monkeypatch):
    now_is(hall, at(3, 2))
    cases = [await submitted(hall, "injury_identify") for _ in range(2)]
    for case in cases:
        await hall.review.act(case.id, "accept", CLERK, {})
    now_is(hall, at(6, 1))

    async def a_round():
        await hall.sweeps.run()
        await told(hall)
        hall.cards._clock = lambda: at(6, 5)
        await hall.cards.escalate_due()

    deaths = 0
    with mortal(monkeypatch) as attempt:
        for number in range(1, 200):
            if not await attempt(a_round, number, number % 2 == 0):
                break
            deaths += 1
    assert deaths > 2  # how many there are depends on how far each one came before it died
    await asyncio.sleep(0)
    await a_round()
    for case in cases:
        assert await cards_of(hall, case) == [("decision_over", True)]
        names = await events_of(hall, case)
        assert (names.count("case.warned"), names.count("case.escalated")) == (1, 1)
    assert await totals(hall) == (await totals(hall)) | {"red": 2, "escalated": 2}


async def test_a_second_notice_is_a_card_for_the_head_and_counts(hall):
    now_is(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    body = {"missing": [{"key": "name", "reason": "请填全名"}]}
    await hall.review.act(case.id, "request_supplement", CLERK, body)
    await hall.cases.supplement(case.id, case.owner_id)
    await hall.review.act(case.id, "request_supplement", HEAD, body | {"reason": "遗漏"})
    await told(hall)
    assert await cards_of(hall, case) == [("noticed_again", True)]
    found = await totals(hall)
    assert (found["noticed"], found["noticed_again"], found["noticed_once_rate"]) == (1, 1, 0.0)


async def test_a_clock_that_stands_is_not_warned_of_until_it_runs_again(hall):
    now_is(hall, at(3, 2))
    stopped = await submitted(hall, "injury_identify")
    accepted = await hall.review.act(stopped.id, "accept", CLERK, {})
    await hall.review.act(stopped.id, "suspend", CLERK, {"kind": "identification", "days": 60, "reason": "鉴定"})
    await days_go_by(hall, (4, 3), (5, 8))
    assert accepted.deadline_on < at(5, 8).date()
    assert await cards_of(hall, stopped) == []
    resumed = await hall.review.act(stopped.id, "resume", CLERK, {})
    await days_go_by(hall, (resumed.deadline_on.month, resumed.deadline_on.day))
    assert await cards_of(hall, stopped) == [("decision_near", True)]


async def test_a_head_settles_a_card_and_nobody_else(hall):
    now_is(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    await days_go_by(hall, (3, 10))
    [card] = (await hall.supervision.page(HEAD))[0]
    with pytest.raises(desk_module.HeadNeeded):
        await hall.supervision.handle(card["id"], CLERK, "已谈话")
    for stranger in (staff_of("sg-gaj", "head"), SUPERIOR):  # not passed on yet
        with pytest.raises(desk_module.CardNotFound):
            await hall.supervision.handle(card["id"], stranger, "已谈话")
    settled = await hall.supervision.handle(card["id"], HEAD, "已谈话，当日补办")
    assert (settled["is_open"], settled["handled_by"], settled["note"]) == (False, HEAD.account, "已谈话，当日补办")
    with pytest.raises(desk_module.CardHandled):
        await hall.supervision.handle(card["id"], HEAD, "再来一次")
    await days_go_by(hall, (3, 20))
    assert "case.escalated" not in await events_of(hall, case)
    assert await hall.database["audit"].count_documents({"action": "card.handled", "subject": card["id"]}) == 1


async def test_a_clerk_sees_the_warnings_of_the_own_cases_and_of_those_nobody_has(hall):
    now_is(hall, at(3, 2))
    mine, free = await submitted(hall, "injury_identify"), await submitted(hall, "injury_identify")
    await hall.review.act(mine.id, "claim", CLERK, {})
    await days_go_by(hall, (3, 6))
    colleague = StaffSession("other.sg-rsj", "同事", "clerk", "sg-rsj")
    seen = {
        who.account: {row["case"]["id"] for row in (await hall.supervision.page(who))[0]}
        for who in (CLERK, colleague, HEAD, staff_of("sg-gaj", "head"))
    }
    both = {mine.id, free.id}
    assert seen == {CLERK.account: both, colleague.account: {free.id}, HEAD.account: both, "head.sg-gaj": set()}
    first, cursor = await hall.supervision.page(HEAD, limit=1)
    second, end = await hall.supervision.page(HEAD, limit=1, cursor=cursor)
    assert ({row["case"]["id"] for row in first + second}, end) == (both, None)


async def test_measures_are_a_heads_and_another_agencys_are_the_superiors(hall):
    now_is(hall, at(3, 2))
    case = await submitted(hall, "injury_identify")
    await hall.review.act(case.id, "accept", CLERK, {})
    await hall.review.act(case.id, "decide", CLERK, {"outcome": "denied", "opinion": "不符合条件"})
    await told(hall)
    found = await totals(hall)
    assert (found["early"], found["decided"], found["early_rate"], found["late_rate"]) == (1, 1, 1.0, 0.0)
    assert (await totals(hall, SUPERIOR, agency="sg-rsj"))["early"] == 1
    for staff, agency in ((CLERK, None), (HEAD, "sg-gaj"), (staff_of("sg-zsj"), None)):
        with pytest.raises(desk_module.HeadNeeded):
            await hall.supervision.measures(staff, None, None, agency)
    with pytest.raises(ValidationFailed):
        await hall.supervision.measures(HEAD, at(3, 2).date(), at(3, 1).date(), None)


def test_the_rules_stand_in_the_docs_as_they_are():
    page = (ROOT / "docs" / "cases.md").read_text(encoding="utf-8")
    assert with_printed(page, printed.table()) == page, "python -m app.supervision.printed docs/cases.md"


def test_every_rule_is_made_of_something_that_is_told():
    told_of = {row.event for row in machine.TABLE} | {row.event for table in feedback_tables.values() for row in table}
    assert {rule.event for rule in cards_module.RULES} | set(cards_module.ENDS) <= told_of
