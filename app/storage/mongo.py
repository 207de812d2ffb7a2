"""MongoDB: one client per process, majority writes, and one way to run a transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import pymongo
from bson import CodecOptions
from pymongo import AsyncMongoClient, IndexModel, ReadPreference, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ConnectionFailure, OperationFailure
from pymongo.monitoring import CommandListener
from pymongo.read_concern import ReadConcern

from app.storage.gather import Gather

_NAMESPACE_EXISTS = 48
_INDEX_OPTIONS_CONFLICT = 85
_INDEX_KEY_SPECS_CONFLICT = 86
# Building an index over a large collection takes as long as it takes; the client's time-out is for everything else.
_INDEX_BUILD_S = 7 * 24 * 3600

Document = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R")


class Database:
    """The hall's database. Make it inside the running loop (AsyncMongoClient binds to it); close it at the end."""

    def __init__(self, uri: str, name: str, *, listeners: Sequence[CommandListener] = ()) -> None:
        """`listeners` hear of every command before it is sent and after it was answered."""
        self.client: AsyncMongoClient[Document] = AsyncMongoClient(
            uri,
            serverSelectionTimeoutMS=5000,
            connectTimeoutMS=3000,
            timeoutMS=10000,
            maxPoolSize=64,
            appname="hall",
            tz_aware=True,
            event_listeners=list(listeners),
        )
        self.db = self.client.get_database(
            name,
            codec_options=CodecOptions(tz_aware=True),
            # Majority and journaled: an acknowledged write outlives the primary.
            write_concern=WriteConcern(w="majority", j=True),
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        # Called after each commit; assembly sets it to wake the relay.
        self.on_commit: Callable[[], None] = lambda: None
        self._collections: dict[str, AsyncCollection[Document]] = {}
        self._gathers: dict[Callable[..., Any], Gather[Any, Any]] = {}

    def __getitem__(self, collection: str) -> AsyncCollection[Document]:
        found = self._collections.get(collection)
        if found is None:  # the driver would make it anew each time
            found = self._collections[collection] = self.db[collection]
        return found

    async def transaction(self, work: Callable[[AsyncClientSession], Awaitable[T]]) -> T:
        """Run `work(session)` in one transaction and commit it.

        A transient conflict runs `work` again from the start (with_transaction), so it must load what it changes
        inside, and must have no effect outside the database. Any exception of `work` aborts and is raised.
        """
        async with self.client.start_session() as session:
            # Of the database, not of the client: there the server's default would count, which an operator may set lower.
            result = await session.with_transaction(
                work, read_concern=self.db.read_concern, write_concern=self.db.write_concern, read_preference=self.db.read_preference
            )
        self.on_commit()
        return result

    async def together(self, flush: Callable[["Database", list[T]], Awaitable[Sequence[R | Exception]]], item: T) -> R:
        """Return what `flush(database, items)` answers to `item`, among whatever else is given to the same `flush` at the same moment."""
        gather = self._gathers.get(flush)
        if gather is None:
            gather = self._gathers[flush] = Gather(lambda items: flush(self, items), in_flight=2)
        return await gather.add(item)  # type: ignore[no-any-return]

    async def document(self, collection: str, document_id: Any) -> Document | None:
        """Return a document by its id, or None: one read for all that are asked for at the same moment, begun after they were."""
        return await self.together(_documents, (collection, document_id))

    async def ping(self) -> None:
        """Raise when the database does not answer."""
        await self.db.command("ping")

    async def close(self) -> None:
        await self.client.close()


async def _documents(database: Database, wanted: list[tuple[str, Any]]) -> list[Document | None]:
    found: dict[tuple[str, Any], Document] = {}
    for collection in dict.fromkeys(collection for collection, _id in wanted):
        ids = list({document_id for name, document_id in wanted if name == collection})
        for document in await database[collection].find({"_id": {"$in": ids}}, batch_size=len(ids) + 1).to_list():
            found[collection, document["_id"]] = document
    return [found.get(each) for each in wanted]


async def ensure_indexes(database: Database, indexes: Mapping[str, Sequence[IndexModel]]) -> None:
    """Create the named collections and indexes; an index that exists under the same name with other options is dropped and made anew.

    A collection without an index of its own is named with an empty list: it must be there before the first transaction writes to it,
    since one that a transaction makes itself takes locks that fail others, and is not there for who began before.

    Waits until every index is built, whatever the client's time-out is.
    """

    async def ensure(collection: str, models: Sequence[IndexModel]) -> None:
        if not models:
            try:
                await database.db.create_collection(collection, check_exists=False)
            except OperationFailure as error:
                if error.code != _NAMESPACE_EXISTS:
                    raise
            return
        try:
            await database[collection].create_indexes(list(models))
        except OperationFailure as error:
            if error.code not in (_INDEX_OPTIONS_CONFLICT, _INDEX_KEY_SPECS_CONFLICT):
                raise
            for model in models:
                try:
                    await database[collection].create_indexes([model])
                except OperationFailure as conflict:
                    if conflict.code not in (_INDEX_OPTIONS_CONFLICT, _INDEX_KEY_SPECS_CONFLICT):
                        raise
                    await database[collection].drop_index(model.document["name"])
                    await database[collection].create_indexes([model])

    with pymongo.timeout(_INDEX_BUILD_S):  # None would mean the client's own
        await asyncio.gather(*(ensure(collection, models) for collection, models in indexes.items()))


async def wait_until_up(database: Database, timeout_s: float) -> None:
    """Wait for a primary. Raises ConnectionFailure when none answers in time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            return await database.ping()
        except ConnectionFailure:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)
