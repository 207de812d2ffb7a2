"""Applications that are handed in at once are written in one transaction, and none depends on what the others are."""

import asyncio
import contextlib
from contextvars import copy_context
from dataclasses import replace

import pymongo
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from app.cases import errors, forms
from app.cases.model import State
from app.identity.errors import LevelRequired
from app.kernel import context
from app.kernel.clock import utc_now
from app.kernel.errors import NotFound
from app.kernel.ids import new_id
from tests.app.cases.dying import mortal
from tests.app.cases.handled import a_person, opened, with_materials


async def drafts(hall, count):
    """Complete drafts, each of another resident."""
    first = await with_materials(hall, await opened(hall, "injury_identify", await a_person(hall)))
    personal = forms.personal_keys(hall.catalogue.item("injury_identify"))
    copies = [
        replace(first, id=new_id("case"), number=f"{first.number}-{number}", owner_id=await a_person(hall)) for number in range(1, count)
    ]
    await hall.database["cases"].insert_many([hall.cases.store._document(case, personal) for case in copies])
    return [first, *copies]


def submit(hall, case, owner=None, command="cmd_1"):
    """Hand a case in, in a task of its own with a request id of its own."""

    def start():
        context.request_id.set(f"req-of-{case.id}")
        return asyncio.create_task(hall.cases.submit(case.id, owner or case.owner_id, command=command))

    return copy_context().run(start)


async def told(hall, case):
    return [row async for row in hall.database["events"].find({"subject_id": case.id, "name": "case.submitted"})]


async def stored(hall, case):
    document = await hall.database["cases"].find_one({"_id": case.id})
    return document["state"], document["version"] - case.version, len(await told(hall, case))


async def transactions(hall):
    return (await hall.database.client.admin.command("serverStatus"))["transactions"]["totalCommitted"]


DONE, NOTHING = ("submitted", 1, 1), ("draft", 0, 0)


async def test_each_member_gets_its_own_answer(hall):
    """Plain ones beside every odd one there is: what is odd about one is nobody else's business, and leaves no trace."""
    cases = hall.database["cases"]
    *plain, empty, foreign, unreadable, low, ownerless, known, twice = await drafts(hall, 27)
    await cases.update_one({"_id": empty.id}, {"$set": {"form": {}, "materials": {}}})
    await cases.update_one({"_id": unreadable.id}, {"$set": {"state": "nonsense"}})
    await hall.database["residents"].update_one({"_id": low.owner_id}, {"$set": {"level": 1}})
    await hall.database["residents"].delete_one({"_id": ownerless.owner_id})
    before_retry = await submit(hall, known)
    before = await transactions(hall)
    members = [
        *(submit(hall, case) for case in plain[:10]),
        submit(hall, empty),
        submit(hall, foreign, owner=plain[0].owner_id),
        submit(hall, unreadable),
        submit(hall, low),
        submit(hall, ownerless),
        submit(hall, known),
        submit(hall, twice),
        submit(hall, twice, command="cmd_2"),
        *(submit(hall, case) for case in plain[10:]),
    ]
    answers = await asyncio.gather(*members, return_exceptions=True)
    assert await transactions(hall) - before <= 4, "they were gathered"
    kinds = [errors.Incomplete, errors.CaseNotFound, ValueError, LevelRequired, NotFound]
    assert [type(answer) for answer in answers[10:15]] == kinds
    assert len(answers[10].errors) > 3
    assert (answers[15].state, answers[15].version) == (State.SUBMITTED, before_retry.version), "the retry finds what was done"
    assert answers[16].state is State.SUBMITTED
    assert isinstance(answers[17], errors.ActionNotAllowed), "the second one is judged on what the first one wrote"
    for case, answer in zip(plain, answers[:10] + answers[18:], strict=True):
        assert (answer.id, answer.state) == (case.id, State.SUBMITTED)
        assert await stored(hall, case) == DONE
        [event] = await told(hall, case)
        assert event["request_id"] == f"req-of-{case.id}", "of its own request, whoever else is in the batch"
    for case in (empty, foreign, low, ownerless):
        assert await stored(hall, case) == NOTHING
    assert await stored(hall, known) == await stored(hall, twice) == DONE


@pytest.mark.parametrize("alias", ["injury_identify", "unemployment_register", "food_licence"])
async def test_the_answer_of_a_hand_in_is_what_is_read_afterwards(hall, alias):
    case = await with_materials(hall, await opened(hall, alias, await a_person(hall)))
    for papers_known in (True, False):  # the second time is a retry, which finds what was done
        handed_in = await hall.cases.hand_in(case.id, case.owner_id, command="cmd_1")
        assert (handed_in.papers is not None) is papers_known
        answered, read = await hall.cases.view(handed_in.case, handed_in), await hall.cases.view(await hall.cases.get(case.id, case.owner_id))
        # Moments are stored by the millisecond, and told by the second.
        assert answered == read and answered["papers"]


async def test_one_that_cannot_be_written_or_is_being_changed_holds_up_nobody_but_itself(hall):
    *plain, refused, locked = await drafts(hall, 10)
    await hall.database.db.command("collMod", "cases", validator={"$or": [{"_id": {"$ne": refused.id}}, {"state": "draft"}]})
    async with hall.database.client.start_session() as session:
        await session.start_transaction()
        await hall.database["cases"].update_one({"_id": locked.id}, {"$inc": {"version": 1}}, session=session)
        waiting = submit(hall, locked)
        answers = await asyncio.gather(*(submit(hall, case) for case in [*plain, refused]), return_exceptions=True)
        assert isinstance(answers[-1], OperationFailure)
        assert [answer.state for answer in answers[:-1]] == [State.SUBMITTED] * len(plain)
        assert not waiting.done()
        await session.commit_transaction()
    assert (await waiting).version == locked.version + 2, "decided anew, on what the other one wrote"
    assert [await stored(hall, case) for case in plain] == [DONE] * len(plain)
    assert await stored(hall, refused) == NOTHING


async def test_whoever_saves_without_end_does_not_keep_a_case_from_being_handed_in(hall, servers):
    """Somebody saves between every reading of a hand-in and its write: only one that holds the case comes through."""
    case, _other = await drafts(hall, 2)
    saved = []
    with MongoClient(servers["mongodb"]) as client:
        rows = client[hall.database.db.name]["cases"]

        def save_and_tell_the_time():
            with contextlib.suppress(PyMongoError), pymongo.timeout(0.3):  # kept waiting
                rows.update_one({"_id": case.id}, {"$inc": {"version": 1}})
                saved.append(case.id)
            return utc_now()

        hall.cases._clock = save_and_tell_the_time
        async with asyncio.timeout(20):
            done = await submit(hall, case)
    assert saved, "it was never in the way"
    assert (done.state, done.version) == (State.SUBMITTED, case.version + len(saved) + 1), "no save that was answered is lost"
    document = await hall.database["cases"].find_one({"_id": case.id})
    assert (document["state"], "held_by" in document) == ("submitted", False)
    assert len(await told(hall, case)) == 1


async def test_whoever_names_a_stranger_s_case_does_not_hold_it(hall):
    mine, theirs = await drafts(hall, 2)
    async with hall.database.client.start_session() as session, await session.start_transaction():
        await hall.cases.store.hold([mine.id, theirs.id], [mine.owner_id], session)
    held = [row["_id"] async for row in hall.database["cases"].find({"held_by": {"$exists": True}}, {"_id": 1})]
    assert held == [mine.id]
    assert (await submit(hall, mine)).state is State.SUBMITTED


async def test_a_caller_that_goes_away_takes_nobody_along(hall):
    cases = await drafts(hall, 6)
    tasks = [submit(hall, case) for case in cases]
    await asyncio.sleep(0)  # all are waiting for their batch
    tasks[0].cancel()
    tasks[4].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(answer, "state", None) for answer in answers] == [None, *[State.SUBMITTED] * 3, None, State.SUBMITTED]
    # As if the cancellation had come a moment later: with the same command they find it done.
    assert [(await submit(hall, case)).version for case in cases] == [case.version + 1 for case in cases]
    assert [await stored(hall, case) for case in cases] == [DONE] * 6


@pytest.mark.parametrize("after", [False, True], ids=["before_the_command", "before_its_answer"])
async def test_at_every_command_of_a_batch_all_of_it_is_there_or_nothing_and_the_retry_finds_it(hall, monkeypatch, after):
    cases = await drafts(hall, 3)

    async def all_of_them():
        # In this task, so that the whole batch dies with its process.
        await asyncio.gather(*(hall.cases.submit(case.id, case.owner_id, command="cmd_1") for case in cases))

    with mortal(monkeypatch) as attempt:
        for number in range(1, 30):
            died = await attempt(all_of_them, number, after)
            states = [await stored(hall, case) for case in cases]
            assert states in ([NOTHING] * 3, [DONE] * 3), (number, states)
            if states == [DONE] * 3:
                break
    assert number > 5, "cases, files, residents, write, events, commit"
    assert died is after
    answers = await asyncio.gather(*(submit(hall, case) for case in cases))
    assert [answer.state for answer in answers] == [State.SUBMITTED] * 3
    assert [await stored(hall, case) for case in cases] == [DONE] * 3
