"""A consultation is rated once, by whoever was told something: by the assistant, by whom it handed over to, or at a window."""

import asyncio

import pytest

from app.feedback.model import AlreadyRated, RatingExpired
from app.kernel.errors import NotFound
from app.kernel.events import Event
from app.kernel.ids import new_id
from tests.app.cases.dying import mortal
from tests.app.feedback.rated import CLERK, DESK, HEAD, SUPERIOR, at, events_about, handed_in, now_is, totals


async def stored(hall):
    return [await hall.database[name].count_documents({}) for name in ("contacts", "evaluations", "work_orders")]


async def test_a_conversation_is_rated_once_and_nothing_is_stored_before(hall):
    conversation = new_id("conv")
    code = hall.feedback.code_of_conversation(conversation)
    shown = await hall.feedback.by_code(code)
    assert (shown["kind"], shown["kind_name"], shown["state"], shown["agency"]["id"]) == ("consultation", "咨询", "unrated", "sg-zsj")
    assert await stored(hall) == [0, 0, 0]
    outcomes = await asyncio.gather(*(hall.feedback.rate_by_code(code, 2, [], f"{n}") for n in range(16)), return_exceptions=True)
    assert sum(not isinstance(each, Exception) for each in outcomes) == 1
    assert all(isinstance(each, AlreadyRated) for each in outcomes if isinstance(each, Exception)), outcomes
    assert await stored(hall) == [1, 1, 0]
    assert (await hall.feedback.by_code(code))["level"] == 2
    found = (await hall.staff_ratings.statistics(SUPERIOR, None, None, None))["totals"]
    assert (found["offered"], found["level_2"], found["unrated"]) == (1, 1, 0)


async def test_a_client_that_names_its_conversation_after_a_case_reaches_no_contact_of_it(hall):
    case, contact = await handed_in(hall)
    for of in (case.id, contact):
        code = hall.feedback.code_of_conversation("conv_" + of.rpartition("_")[2])
        assert (await hall.feedback.rate_by_code(code, 5, [], "x"))["id"] not in (contact, "con_" + case.id.rpartition("_")[2])
    assert (await hall.feedback.contact(contact, case.owner_id))["state"] == "unrated"


async def test_a_code_of_a_conversation_cannot_be_made_up_and_expires(hall):
    code = hall.feedback.code_of_conversation(new_id("conv"))
    wrong = code[:-1] + ("0" if code[-1] != "0" else "1")
    with pytest.raises(NotFound):
        await hall.feedback.rate_by_code(wrong, 1, [], "")
    later = at(12, 31).replace(year=2030)
    now_is(hall, later)
    with pytest.raises(RatingExpired):
        await hall.feedback.rate_by_code(code, 1, [], "")


async def test_at_a_window_the_clerk_makes_one_and_does_not_read_what_is_written(hall):
    now_is(hall, at(3, 2))
    made = await hall.feedback.consulted(HEAD, new_id("con"), "injury_identify")
    again = await hall.feedback.consulted(HEAD, made["id"], "injury_identify")
    assert again["code"] == made["code"] and await hall.database["contacts"].count_documents({}) == 1
    assert (made["agency"]["id"], made["item"]["code"] != "", made["tags"]["1"][1]) == ("sg-rsj", True, "业务熟练")
    assert await hall.database["audit"].count_documents({"action": "consultation.open", "subject": made["id"], "actor": HEAD.account}) == 1
    with pytest.raises(NotFound):
        await hall.feedback.consulted(CLERK, new_id("con"), "no_such_item")

    await hall.feedback.rate_by_code(made["code"], 5, ["态度不好"], "没说清楚", "tablet")

    [row] = (await hall.staff_ratings.page(HEAD))[0]
    assert (row["is_hidden"], row["text"], row["level"]) == (True, "", 5), "who was asked reads none of it"
    [row] = (await hall.staff_ratings.page(SUPERIOR))[0]
    assert row["text"] == "没说清楚"
    found = await totals(hall)
    assert (found["offered"], found["level_5"]) == (1, 1)


async def test_a_bad_one_is_looked_into_although_nobody_left_a_name(hall):
    now_is(hall, at(3, 2))
    made = await hall.feedback.consulted(CLERK, new_id("con"))
    await hall.feedback.rate_by_code(made["code"], 4, [], "没说清楚")
    [order] = (await hall.work_orders.page(HEAD))["orders"]
    assert (order.state, order.owner_id, order.about, order.concerned) == ("contacted", "", "agency", (CLERK.account,))
    assert (await hall.work_orders.page(DESK))["orders"][0].id == order.id
    order = await hall.work_orders.by_staff(order.id, HEAD, "answer", {"text": "已提醒窗口"})
    await hall.work_orders.by_staff(order.id, HEAD, "close", {"text": "不用整改"})
    assert (await events_about(hall, order.id))[0] == "call_back.opened"
    # Nobody is told, and nothing fails for it.
    async for document in hall.database["events"].find({"subject_id": order.id}):
        event = Event.from_document(document)
        if event.name in hall.push.event_names:
            await hall.push.tell(event)
    assert await hall.database["messages"].count_documents({"owner_id": ""}) == 0


async def test_a_process_that_dies_leaves_a_rated_conversation_whole_or_not_at_all(hall, monkeypatch):
    code = hall.feedback.code_of_conversation(new_id("conv"))
    deaths = 0
    with mortal(monkeypatch) as attempt:
        for number in range(1, 60):
            deaths += await attempt(lambda: hall.feedback.rate_by_code(code, 5, [], "慢"), number, number % 2 == 0)
            now = await stored(hall)
            assert len(set(now)) == 1, (number, now)
            if now[0]:
                break
    assert deaths > 4 and await stored(hall) == [1, 1, 1]
