"""Stored files (materials): GridFS behind four functions. What the files mean is kept by the areas that own them."""

from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from gridfs.asynchronous import AsyncGridFSBucket
from gridfs.errors import NoFile

from app.storage.mongo import Database

_BUCKET = "materials"


@dataclass(frozen=True)
class StoredFile:
    """What a file was stored with, and its bytes."""

    id: str
    metadata: dict[str, Any]
    content: bytes


class Files:
    """Files of at most some megabytes each, read and written whole."""

    def __init__(self, database: Database) -> None:
        self._bucket = AsyncGridFSBucket(database.db, bucket_name=_BUCKET)

    async def put(self, name: str, content: bytes, metadata: dict[str, Any]) -> str:
        """Store a file and return its id. A broken upload leaves nothing that can be read."""
        return str(await self._bucket.upload_from_stream(name, content, metadata=metadata))

    async def get(self, file_id: str) -> StoredFile | None:
        """Return a file, or None."""
        try:
            stream = await self._bucket.open_download_stream(ObjectId(file_id))
        except (NoFile, InvalidId):
            return None
        return StoredFile(file_id, dict(stream.metadata or {}), await stream.read())

    async def delete(self, file_id: str) -> None:
        """Delete a file; deleting it twice is no error."""
        try:
            await self._bucket.delete(ObjectId(file_id))
        except (NoFile, InvalidId):
            pass
