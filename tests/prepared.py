"""One database for many tests: what stood in it is put back before each of them, since making collections and indexes anew takes longer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.storage.mongo import Database, ensure_indexes
from commands.indexes import INDEXES

_NOTHING = "d41d8cd98f00b204e9800998ecf8427e"  # what dbHash says of a collection without documents


@dataclass(frozen=True)
class Prepared:
    """What stands in a database before a test.

    `rows`: collection -> its documents, `digests`: what dbHash said of those that have any. Left out: the hall's collections, all empty.
    """

    rows: Mapping[str, list[dict[str, Any]]] = field(default_factory=lambda: dict.fromkeys(INDEXES, []))
    digests: Mapping[str, str] = field(default_factory=dict)

    async def restore(self, database: Database) -> None:
        """Put everything back: documents, and collections that a test has made or given other rules. Indexes stay as they are."""
        digests = await _digests(database)
        for collection in await (await database.db.list_collections()).to_list():
            name = collection["name"]
            if name not in self.rows or collection["options"]:
                await database.db.drop_collection(name)
                if name in INDEXES:
                    await ensure_indexes(database, {name: INDEXES[name]})
            elif digests[name] != self.digests.get(name, _NOTHING):
                await database[name].delete_many({})
            else:
                continue
            if self.rows.get(name):
                await database[name].insert_many(self.rows[name])


async def snapshot(database: Database) -> Prepared:
    """Return a database as it is now."""
    names = await database.db.list_collection_names()
    return Prepared({name: await database[name].find({}).to_list() for name in names}, await _digests(database))


async def _digests(database: Database) -> dict[str, str]:
    """Return a digest of the documents of each collection: one command instead of a hundred."""
    return dict((await database.db.command("dbHash"))["collections"])
