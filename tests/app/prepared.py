"""A database made ready once for many tests: what stands in it then is put back before each of them."""

from dataclasses import dataclass
from typing import Any

from app.storage.mongo import Database, ensure_indexes
from commands.indexes import INDEXES
from config.settings import Settings


@dataclass(frozen=True)
class Prepared:
    """`rows`: collection -> its documents as they were when the database was made ready."""

    settings: Settings
    rows: dict[str, list[dict[str, Any]]]

    async def restore(self, database: Database) -> None:
        """Put everything back: documents, and collections that a test has made or given other rules. Indexes stay as they are."""
        for collection in await (await database.db.list_collections()).to_list():
            name = collection["name"]
            if name not in self.rows or collection["options"]:
                await database.db.drop_collection(name)
                await ensure_indexes(database, {name: INDEXES.get(name, ())})
            else:
                await database[name].delete_many({})
            if self.rows.get(name):
                await database[name].insert_many(self.rows[name])


async def snapshot(settings: Settings, database: Database) -> Prepared:
    """Return a database as it is now."""
    names = await database.db.list_collection_names()
    return Prepared(settings, {name: await database[name].find({}).to_list() for name in names})
