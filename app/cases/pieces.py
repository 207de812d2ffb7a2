"""Uploads in pieces: announced, sent piece by piece in any order, looked at after a break, then completed into a material.

Guarantees, whatever dies between two writes and however many devices and web processes take part:

- An acknowledged piece is on disk with a majority, sealed; sending it again is harmless.
- Announcing the same file (same SHA-256) for the same material again is the same upload, so another device goes on where the first stopped.
- Completing twice is completing once: what was done is found by the upload's id in the case, what was refused is refused again in the same words.
- Nothing stays for ever: upload and pieces each carry the moment they end at, and the worker's sweep takes both.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from app.cases import errors
from app.cases.holdings import Holdings
from app.cases.model import Case
from app.cases.uploads import LIMITS, require_size
from app.kernel.clock import format_utc
from app.kernel.crypto import KeyRing, SealBroken
from app.kernel.errors import HallError, ValidationFailed, error_row
from app.kernel.ids import new_id
from app.storage.mongo import Database

PIECE_BYTES = 256 * 1024  # at the 30 KB/s of a mountain village nine seconds: what a break costs at most
KEPT_FOR = timedelta(days=1)
MOST_WAITING_BYTES = 100 * 1024 * 1024
MOST_WAITING = 30
_SHA256 = re.compile(r"[0-9a-f]{64}")

INDEXES = {
    "uploads": [
        IndexModel([("expires_at", ASCENDING)], name="expires_at"),
        IndexModel([("owner_id", ASCENDING)], name="waiting", partialFilterExpression={"state": "open"}),
    ],
    "upload_pieces": [
        IndexModel([("upload_id", ASCENDING), ("number", ASCENDING)], name="of_upload", unique=True),
        IndexModel([("expires_at", ASCENDING)], name="expires_at"),
    ],
}

# Refusals that are final for these bytes: kept, so that a retry hears the same.
_FINAL: Mapping[str, type[HallError]] = {
    error.code: error for error in (errors.FileTooLarge, errors.FileRefused, errors.FileBroken)
}


class Pieces:
    def __init__(self, database: Database, keys: KeyRing, holdings: Holdings, clock: Callable[[], datetime]) -> None:
        self._uploads = database["uploads"]
        self._pieces = database["upload_pieces"]
        self._keys = keys
        self._holdings = holdings
        self._clock = clock

    async def announce(
        self, case_id: str, resident_id: str, key: str, name: str, size: int, sha256: str | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Begin an upload, or find the one begun before; return its view and whether it is new.

        Raises:
            CaseNotFound, MaterialNotFound, ActionNotAllowed, FileTooLarge, FileBroken (empty), TooMuchWaiting, ValidationFailed (sha256).
        """
        case = await self._holdings.may_hand_in(case_id, resident_id, key)
        require_size(size)
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            raise ValidationFailed([error_row("/sha256", "format", "应为64位小写十六进制")])
        now = self._clock()
        upload_id = self._id_of(case_id, key, size, sha256)
        document = {
            "_id": upload_id,
            "owner_id": resident_id,
            "case_id": case_id,
            "key": key,
            "name": self._keys.seal(name[:200], context=f"{upload_id}.name"),
            "size": size,
            "sha256": sha256,
            "state": "open",
            "refusal": None,
            "created_at": now,
            "expires_at": now + KEPT_FOR,
        }
        try:
            await self._uploads.insert_one(document)
        except DuplicateKeyError:
            known = await self._uploads.find_one({"_id": upload_id})
            if known is not None and known["expires_at"] > now and _goes_on(known, case):
                return await self._view(known), False
            # It was refused, taken out of the case since, or has ended: from the beginning. A slower device finds it open.
            await self._pieces.delete_many({"upload_id": upload_id})
            await self._uploads.replace_one({"_id": upload_id}, document, upsert=True)
        await self._require_room(document)
        return await self._view(document), True

    def _id_of(self, case_id: str, key: str, size: int, sha256: str | None) -> str:
        if sha256 is None:
            return new_id("upl")
        return "upl_" + self._keys.blind_index(f"{case_id}.{key}.{size}.{sha256}", purpose="upload")[:40]

    async def _require_room(self, document: Mapping[str, Any]) -> None:
        # Written first and counted then: two devices at once may both be refused, never both let through.
        waiting = await self._uploads.find({"owner_id": document["owner_id"], "state": "open"}, ["size"]).to_list()
        if len(waiting) > MOST_WAITING or sum(row["size"] for row in waiting) > MOST_WAITING_BYTES:
            await self._uploads.delete_one({"_id": document["_id"], "state": "open"})
            raise errors.TooMuchWaiting(
                "没传完的文件太多，请先把前面的传完，或明天再试。", en="Too many unfinished uploads.", retry_after_s=3600
            )

    async def put(self, case_id: str, resident_id: str, key: str, upload_id: str, number: int, data: bytes) -> dict[str, Any]:
        """Keep one piece, counted from 0; return the view. A piece that comes again replaces itself.

        Raises:
            CaseNotFound, UploadNotFound, ValidationFailed: no such number, or not as long as it must be.
        """
        upload = await self._load(case_id, resident_id, key, upload_id)
        if upload["state"] != "open":
            return await self._view(upload)
        if not 0 <= number < _count(upload["size"]):
            raise ValidationFailed([error_row("/n", "range", f"应为0到{_count(upload['size']) - 1}")])
        if len(data) != _length(upload["size"], number):
            raise ValidationFailed([error_row("", "length", f"这一片应为{_length(upload['size'], number)}字节")])
        piece_id = f"{upload_id}.{number}"
        piece = {
            "upload_id": upload_id,
            "number": number,
            "data": await asyncio.to_thread(self._keys.seal_bytes, data, context=piece_id),
            "expires_at": upload["expires_at"],
        }
        try:
            await self._pieces.replace_one({"_id": piece_id}, piece, upsert=True)
        except DuplicateKeyError:  # two devices inserted it at once: it is there
            pass
        return await self._view(upload)

    async def get(self, case_id: str, resident_id: str, key: str, upload_id: str) -> dict[str, Any]:
        """Return `{id, state, name, size, piece_size, pieces, received: [n...], expires_at, limits}`. Raises CaseNotFound, UploadNotFound."""
        return await self._view(await self._load(case_id, resident_id, key, upload_id))

    async def drop(self, case_id: str, resident_id: str, key: str, upload_id: str) -> None:
        """Give an unfinished upload up. Harmless when repeated."""
        try:
            upload = await self._load(case_id, resident_id, key, upload_id)
        except errors.UploadNotFound:
            return
        await self._uploads.delete_one({"_id": upload["_id"], "state": "open"})
        await self._pieces.delete_many({"upload_id": upload["_id"]})

    async def complete(self, case_id: str, resident_id: str, key: str, upload_id: str) -> Case:
        """Put the pieces together and hand the file in, judged like a direct upload; return the case.

        Raises:
            UploadIncomplete (`missing`), UploadBroken (the checksum differs), and whatever Holdings.put_file raises.
        """
        upload = await self._load(case_id, resident_id, key, upload_id)
        if upload["state"] == "refused":
            raise _FINAL[upload["refusal"]["code"]](upload["refusal"]["detail"], en=upload["refusal"]["en"])
        case = await self._holdings.case_of(case_id, resident_id)
        if upload["state"] == "done":
            return case
        if not _is_in(case, key, upload_id):  # else the one who put it there died before saying so here
            content = await self._whole(upload)
            name = self._keys.open_sealed(upload["name"], context=f"{upload_id}.name")
            try:
                case = await self._holdings.put_file(case_id, resident_id, key, name, content, upload_id=upload_id)
            except tuple(_FINAL.values()) as error:
                refusal = {"code": error.code, "detail": error.detail, "en": error.detail_en}
                # Too many files is a matter of the case and may change; the bytes do not.
                if not isinstance(error, errors.FileTooLarge):
                    await self._end(upload_id, {"state": "refused", "refusal": refusal})
                raise
            except errors.FileInfected:
                await self.drop(case_id, resident_id, key, upload_id)
                raise
        await self._end(upload_id, {"state": "done"})
        return case

    async def _end(self, upload_id: str, change: Mapping[str, Any]) -> None:
        await self._uploads.update_one({"_id": upload_id}, {"$set": dict(change)})
        await self._pieces.delete_many({"upload_id": upload_id})  # whoever dies before this leaves them to the sweep

    async def _whole(self, upload: Mapping[str, Any]) -> bytes:
        rows = await self._pieces.find({"upload_id": upload["_id"]}).sort("number", 1).to_list()
        missing = sorted(set(range(_count(upload["size"]))) - {row["number"] for row in rows})
        if missing:
            raise errors.UploadIncomplete("文件还没有传完，请接着传。", en="Pieces are missing.", missing=missing)
        try:
            content = await asyncio.to_thread(self._joined, rows)
        except SealBroken:
            content = b""
        is_whole = len(content) == upload["size"]
        if not is_whole or (upload["sha256"] and hashlib.sha256(content).hexdigest() != upload["sha256"]):
            await self._pieces.delete_many({"upload_id": upload["_id"]})
            raise errors.UploadBroken("文件没有传完整，请再传一次。", en="The checksum differs: send the pieces again.")
        return content

    def _joined(self, rows: list[dict[str, Any]]) -> bytes:
        return b"".join(self._keys.open_bytes(row["data"], context=row["_id"]) for row in rows)

    async def _load(self, case_id: str, resident_id: str, key: str, upload_id: str) -> dict[str, Any]:
        await self._holdings.case_of(case_id, resident_id)  # whoever owns the case owns its uploads, also after two accounts were joined
        found = await self._uploads.find_one({"_id": upload_id, "case_id": case_id, "key": key})
        if found is None or found["expires_at"] <= self._clock():
            raise errors.UploadNotFound
        return found

    async def _view(self, upload: Mapping[str, Any]) -> dict[str, Any]:
        received: list[int] = list(range(_count(upload["size"]))) if upload["state"] == "done" else []
        if upload["state"] == "open":
            rows = self._pieces.find({"upload_id": upload["_id"]}, {"number": 1, "_id": 0}).sort("number", 1)
            received = [row["number"] async for row in rows]
        return {
            "id": upload["_id"],
            "state": upload["state"],
            "size": upload["size"],
            "piece_size": PIECE_BYTES,
            "pieces": _count(upload["size"]),
            "received": received,
            "expires_at": format_utc(upload["expires_at"]),
            "limits": dict(LIMITS),
        }

    async def expire(self) -> int:
        """Remove what was abandoned and what is over; return how many uploads ended."""
        now = self._clock()
        ended = await self._uploads.delete_many({"expires_at": {"$lte": now}})
        await self._pieces.delete_many({"expires_at": {"$lte": now}})
        return ended.deleted_count


def _goes_on(upload: Mapping[str, Any], case: Case) -> bool:
    """Say whether announcing it again finds it, rather than beginning anew."""
    return upload["state"] == "open" or (upload["state"] == "done" and _is_in(case, upload["key"], upload["_id"]))


def _count(size: int) -> int:
    return -(-size // PIECE_BYTES)


def _length(size: int, number: int) -> int:
    return min(PIECE_BYTES, size - number * PIECE_BYTES)


def _is_in(case: Case, key: str, upload_id: str) -> bool:
    return any(entry.get("upload_id") == upload_id for entry in case.materials.get(key, {}).get("files", ()))
