"""Indexes of large collections: building them may take longer than any other command is allowed to."""

import pytest
from pymongo import AsyncMongoClient, IndexModel
from pymongo.errors import PyMongoError

from app.storage.mongo import Database, ensure_indexes

ROWS, KEYS_IN_A_ROW = 20_000, 40
TIMEOUT_MS = 150


@pytest.fixture
async def hasty(servers, database: Database):
    """The test's database with many rows, through a client that gives every command little time."""
    # 800,000 keys, made by the server itself.
    rows = [
        {"$documents": [{"n": {"$range": [0, ROWS]}}]},
        {"$unwind": "$n"},
        {"$project": {"_id": "$n", "keys": {"$map": {"input": {"$range": [0, KEYS_IN_A_ROW]}, "in": {"$add": [{"$multiply": ["$$this", ROWS]}, "$n"]}}}}},
        {"$out": "orders"},
    ]  # fmt: skip
    await (await database.db.aggregate(rows)).to_list()
    hasty = Database(servers["mongodb"], database.db.name)
    client: AsyncMongoClient = AsyncMongoClient(servers["mongodb"], timeoutMS=TIMEOUT_MS)
    hasty.db = client.get_database(database.db.name)  # as Database makes it, only quicker to give up
    yield hasty
    await client.close()
    await hasty.close()


async def test_an_index_is_built_however_long_it_takes(hasty):
    with pytest.raises(PyMongoError) as caught:  # what the client's time-out would do to it
        await hasty["orders"].create_indexes([IndexModel("keys", name="by_key")])
    assert caught.value.timeout
    await ensure_indexes(hasty, {"orders": [IndexModel("keys", name="by_key"), IndexModel([("keys", -1)], name="by_key_down")]})
    assert {"by_key", "by_key_down"} <= set(await hasty["orders"].index_information())
    # Other commands keep their time-out.
    with pytest.raises(PyMongoError) as caught:
        await hasty["orders"].find({"$where": "sleep(20) || true"}).to_list()
    assert caught.value.timeout


async def test_an_index_of_other_options_is_made_anew(database):
    await ensure_indexes(database, {"orders": [IndexModel("number", name="number")]})
    await ensure_indexes(database, {"orders": [IndexModel("number", name="number", unique=True)]})
    assert (await database["orders"].index_information())["number"]["unique"]
