"""What comes at once goes to the database together, and each caller gets what is theirs."""

import asyncio

from pymongo.monitoring import CommandListener

from app.storage import idempotency
from app.storage.mongo import Database


class Commands(CommandListener):
    def __init__(self):
        self.names = []

    def started(self, event):
        self.names.append(event.command_name)

    def succeeded(self, event): ...
    def failed(self, event): ...


async def test_keys_that_come_at_once_are_reserved_and_kept_together_and_none_suffers_for_another(servers, database):
    commands = Commands()
    ours = Database(servers["mongodb"], database.db.name, listeners=[commands])

    def reserve(number, body=b"{}"):
        return idempotency.reserve(ours, owner_id="res_1", route="POST /v1/cases", key=f"k{number}", body=body)

    known = await reserve(0)
    await idempotency.keep(ours, known, 201, b"first")
    held = await reserve(1)
    commands.names.clear()
    results = await asyncio.gather(
        reserve(0), reserve(0, b"other"), reserve(1), *(reserve(number) for number in range(2, 32)), reserve(2), return_exceptions=True
    )
    assert (results[0].status, results[0].body) == (201, b"first")
    assert isinstance(results[1], idempotency.KeyReused)
    assert isinstance(results[2], idempotency.StillRunning)
    fresh = results[3:33]
    assert len({each.seed for each in fresh} | {held.seed}) == 31 and all(each.body is None for each in fresh)
    assert isinstance(results[33], idempotency.StillRunning), "of one key twice in one batch one runs"
    assert commands.names.count("insert") == 1
    commands.names.clear()
    await asyncio.gather(*(idempotency.keep(ours, each, 200, each.seed.encode()) for each in fresh))
    assert commands.names == ["update"] * len(commands.names) and len(commands.names) <= 2
    assert [(await reserve(number)).body for number in (2, 31)] == [fresh[0].seed.encode(), fresh[-1].seed.encode()]
    await ours.close()


async def test_a_document_is_read_after_it_was_asked_for_and_missing_ones_are_none(database):
    await database["things"].insert_many([{"_id": number, "of": "things"} for number in range(100)])
    await database["others"].insert_one({"_id": 1, "of": "others"})
    found = await asyncio.gather(
        *(database.document("things", number % 110) for number in range(220)), database.document("others", 1), database.document("none", 1)
    )
    assert [document and document["_id"] for document in found[:220]] == [number % 110 if number % 110 < 100 else None for number in range(220)]
    assert (found[220]["of"], found[221]) == ("others", None)
    for number in range(20):
        await database["things"].update_one({"_id": 1}, {"$set": {"n": number}})
        read, *_ = await asyncio.gather(database.document("things", 1), database.document("things", 2))
        assert read["n"] == number
