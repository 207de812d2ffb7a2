"""One rating per contact and one per matter, whoever races, repeats or dies; text hidden from whoever handled the case."""

import asyncio
from dataclasses import replace

import pytest

from app.cases.errors import ActionNotAllowed
from app.feedback import statistics
from app.feedback.model import LEVELS, AlreadyRated, DeskNeeded, FollowedUp, PersonConcerned, RatingExpired
from app.kernel.errors import HallError, NotFound, ValidationFailed
from app.kernel.events import Event
from tests.app.cases.dying import mortal
from tests.app.cases.handled import a_person, staff_of
from tests.app.feedback.rated import CLERK, DESK, HEAD, SUPERIOR, at, handed_in, noted, now_is, totals


@pytest.fixture(autouse=True)
def monday(hall):
    now_is(hall, at(3, 2))


async def test_sixty_four_who_rate_one_contact_at_once_leave_one_rating_and_one_call_back(hall):
    case, contact = await handed_in(hall)
    code = hall.feedback.code(contact)
    tries = [
        hall.feedback.rate_by_code(code, 5, [], f"第{number}次") if number % 2 else hall.feedback.rate(contact, case.owner_id, 5, [], f"{number}")
        for number in range(64)
    ]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1, outcomes
    assert all(isinstance(outcome, AlreadyRated) for outcome in outcomes if isinstance(outcome, Exception))
    assert await hall.database["evaluations"].count_documents({}) == 1
    assert await hall.database["work_orders"].count_documents({}) == 1
    found = await totals(hall)
    assert (found["offered"], found["level_5"], found["unrated"]) == (1, 1, 0)


async def test_events_that_come_twice_or_after_the_rating_make_one_contact_and_count_once(hall):
    case, contact = await handed_in(hall)
    await noted(hall, times=2)
    await hall.review.act(case.id, "decide", HEAD, {"outcome": "denied", "opinion": "不符合条件"})
    await hall.feedback.evaluate(case.id, case.owner_id, 2, [], "")  # before the relay has handed the decision on
    await noted(hall, times=2)
    rows = (await hall.feedback.contacts(case.owner_id))[0]
    assert [(row["kind"], row["state"]) for row in rows if row["id"] != contact] == [("matter", "rated")]
    found = await totals(hall)
    assert (found["offered"], found["level_2"], found["rated"], found["unrated"]) == (2, 1, 1, 1)
    with pytest.raises(ActionNotAllowed):
        await hall.feedback.evaluate(case.id, case.owner_id, 1, [], "")
    matter = next(row["id"] for row in rows if row["kind"] == "matter")
    with pytest.raises(AlreadyRated):
        await hall.feedback.rate(matter, case.owner_id, 1, [], "")


async def test_every_level_is_kept_in_the_standards_code_and_only_bad_ones_open_a_call_back(hall):
    case, contact = await handed_in(hall)
    [event] = await hall.database["events"].find({"name": "case.submitted"}).to_list()
    for level in LEVELS:
        again = replace(Event.from_document(event), id=f"evt_{level:026d}")
        await hall.feedback.note(again)
        mine = f"con_{level:026d}"
        tag = hall.feedback.rules.tags["online"][level][0]
        seen = await hall.feedback.rate(mine, case.owner_id, level, [tag], "")
        assert (seen["state"], seen["level"]) == ("rated", level)
        assert await hall.database["work_orders"].count_documents({"_id": f"cbk_{level:026d}"}) == (level >= 4)
    found = await totals(hall)
    assert [found[f"level_{level}"] for level in LEVELS] == [1] * 5
    assert (found["satisfied_rate"], found["unrated"], found["bad"]) == (0.6, 1, 2)
    assert contact not in [row["contact_id"] async for row in hall.database["evaluations"].find()]


def test_the_unrated_count_only_where_a_rule_says_so():
    row = dict.fromkeys(statistics.MEASURES, 0) | {"on": "2026-03-02", "offered": 4, "level_1": 1, "level_5": 1}
    assert statistics.totals([row], at(3, 20).date())["satisfied_rate"] == 0.5
    assert statistics.totals([row], at(3, 20).date(), 7)["satisfied_rate"] == 0.75
    assert statistics.totals([row], at(3, 5).date(), 7)["satisfied_rate"] == 0.5, "not old enough"


async def test_a_process_that_dies_at_any_command_leaves_a_rating_whole_or_not_at_all(hall, monkeypatch):
    case, contact = await handed_in(hall)

    async def stored():
        names = ("evaluations", "work_orders")
        counts = [await hall.database[name].count_documents({}) for name in names]
        opened = await hall.database["events"].count_documents({"name": "call_back.opened"})
        row = await hall.database["contacts"].find_one({"_id": contact})
        return [*counts, opened, int(row["state"] == "rated"), (await totals(hall))["level_4"]]

    deaths = 0
    with mortal(monkeypatch) as attempt:
        for number in range(1, 60):
            died = await attempt(lambda: hall.feedback.rate(contact, case.owner_id, 4, [], "太慢"), number, number % 2 == 0)
            now = await stored()
            assert len(set(now)) == 1, (number, now)
            if now[0]:
                break
            deaths += died
    assert deaths > 5 and await stored() == [1] * 5


async def test_a_code_works_once_expires_and_cannot_be_made_up(hall):
    case, contact = await handed_in(hall)
    code = await hall.feedback.code_of_intake(case.id)
    assert code == hall.feedback.code(contact)
    assert case.owner_id not in str(await hall.feedback.by_code(code))
    for wrong in (code[:-1] + ("0" if code[-1] != "0" else "1"), "7" + code[1:], code[:26], "x", code + "0", "é" * 46):
        with pytest.raises(NotFound):
            await hall.feedback.rate_by_code(wrong, 1, [], "")
    now_is(hall, at(4, 2))
    with pytest.raises(RatingExpired):
        await hall.feedback.rate_by_code(code, 1, [], "")
    now_is(hall, at(3, 3))
    await hall.feedback.rate_by_code(code, 1, [], "", "tablet")
    with pytest.raises(AlreadyRated):
        await hall.feedback.rate_by_code(code, 1, [], "", "tablet")


async def test_a_follow_up_comes_once_and_changes_no_level(hall):
    case, contact = await handed_in(hall)
    with pytest.raises(FollowedUp):
        await hall.feedback.follow_up(contact, case.owner_id, "先追评")
    await hall.feedback.rate(contact, case.owner_id, 3, [], "还行")
    seen = await hall.feedback.follow_up(contact, case.owner_id, "后来更好了")
    assert (seen["evaluation"]["level"], seen["evaluation"]["text"], seen["evaluation"]["follow_up"]) == (3, "还行", "后来更好了")
    with pytest.raises(FollowedUp):
        await hall.feedback.follow_up(contact, case.owner_id, "再来")


async def test_what_was_written_is_sealed_and_hidden_from_whoever_took_part(hall):
    case, contact = await handed_in(hall)
    await hall.feedback.rate(contact, case.owner_id, 5, ["办得慢", "叫号机坏了"], "等了两个小时")  # the second tag is of no list
    for name in ("evaluations", "work_orders", "events", "contacts"):
        stored = str(await hall.database[name].find({}).to_list())
        assert "等了两个小时" not in stored and "叫号机坏了" not in stored
    with pytest.raises(DeskNeeded):
        await hall.staff_ratings.page(CLERK)
    for who in (HEAD, SUPERIOR, DESK):
        [row] = (await hall.staff_ratings.page(who))[0]
        assert (row["text"], row["tags"], row["level"], row["is_hidden"]) == ("叫号机坏了\n等了两个小时", ["办得慢"], 5, False)
    assert (await hall.staff_ratings.page(staff_of("sg-gaj", "head")))[0] == []
    await hall.review.act(case.id, "claim", HEAD, {})  # from now on the head handles it
    [row] = (await hall.staff_ratings.page(HEAD))[0]
    assert (row["text"], row["tags"], row["level"], row["is_hidden"]) == ("", [], 5, True)


async def test_the_wrong_person_and_the_wrong_words_are_refused_and_leave_nothing(hall):
    case, contact = await handed_in(hall)
    other = await a_person(hall)
    code = hall.feedback.code(contact)
    refused = (
        (NotFound, hall.feedback.rate(contact, other, 1, [], "")),
        (NotFound, hall.feedback.contact(contact, other)),
        (NotFound, hall.feedback.evaluate(case.id, other, 1, [], "")),
        (ActionNotAllowed, hall.feedback.evaluate(case.id, case.owner_id, 1, [], "")),  # not finished
        (ValidationFailed, hall.feedback.rate(contact, case.owner_id, 1, [], "", "carrier_pigeon")),
        (DeskNeeded, hall.feedback.rate_for(code, CLERK, 1, [], "", "phone")),
        (DeskNeeded, hall.staff_ratings.statistics(CLERK, None, None, None)),
        (DeskNeeded, hall.staff_ratings.statistics(HEAD, None, None, "sg-gaj")),
    )
    for error, attempt in refused:
        with pytest.raises(error) as caught:
            await attempt
        assert isinstance(caught.value, HallError) and caught.value.detail and caught.value.detail_en
    assert await hall.database["evaluations"].count_documents({}) == 0
    await hall.database["audit"].insert_one({"_id": "aud_1", "subject": case.id, "actor": DESK.account, "action": "case.accept"})
    with pytest.raises(PersonConcerned):
        await hall.feedback.rate_for(code, DESK, 1, [], "", "phone")
    await hall.feedback.rate_for(code, SUPERIOR, 1, [], "", "phone")
    assert (await hall.staff_ratings.statistics(HEAD, at(3, 1).date(), at(3, 3).date(), None))["channels"][0]["channel"] == "phone"
