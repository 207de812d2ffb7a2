"""What the worker does for uploaded files: shows those to the malware scanner that it has not seen, ends abandoned uploads, deletes what no case names."""

import structlog

from app.cases import errors
from app.cases.holdings import find_entry
from app.cases.pieces import Pieces
from app.cases.store import CaseStore
from app.kernel.audit import record
from app.platforms.clamav import ClamAV, ScannerAway
from app.storage import files as stored
from app.storage.files import Files
from app.storage.mongo import Database

log = structlog.get_logger(__name__)


class Scanning:
    """The malware check of uploads. Without a scanner everything passes as `off`; one that is away lets it pass as `unchecked`.

    An office that is down must not keep a resident from handing in on the last day; what nobody has looked at is shown to no clerk until the
    worker has had it checked.
    """

    def __init__(self, scanner: ClamAV | None) -> None:
        self._scanner = scanner

    async def __call__(self, content: bytes) -> tuple[str, str]:
        """Return one of files.CLEAN, UNCHECKED, INFECTED, OFF, and the name of what was found."""
        if self._scanner is None:
            return stored.OFF, ""
        try:
            found = await self._scanner.scan(content)
        except ScannerAway:
            return stored.UNCHECKED, ""
        return (stored.INFECTED, found) if found else (stored.CLEAN, "")


class Upkeep:
    """Any number of workers may run it at once; each round is harmless when repeated and when cut off."""

    def __init__(self, database: Database, files: Files, pieces: Pieces, store: CaseStore, scan: Scanning) -> None:
        self._audit = database["audit"]
        self._files = files
        self._pieces = pieces
        self._store = store
        self._scan = scan

    async def run(self) -> None:
        """Do one round."""
        await self.check()
        await self._pieces.expire()
        await self._files.sweep(self._is_named)

    async def check(self) -> int:
        """Ask the scanner about the files it has not seen; stop at the first one it does not answer. Return how many it has judged."""
        judged = 0
        async for file_id in self._files.unchecked():
            found = await self._files.get(file_id)
            if found is None:
                await self._files.tell_scan(file_id, stored.OFF)  # deleted meanwhile
                continue
            scan, signature = await self._scan(found.content)
            cases = await self._files.tell_scan(file_id, scan)
            if scan == stored.UNCHECKED:
                break
            judged += 1
            if scan == stored.INFECTED:
                log.warning("case.file_infected", case_ids=cases, signature=signature)
                for case_id in cases:
                    await self._record_infected(case_id, signature)
        return judged

    async def _record_infected(self, case_id: str, signature: str) -> None:
        try:
            owner_id = (await self._store.load({"_id": case_id})).owner_id
        except errors.CaseNotFound:
            return
        told = {"subject": case_id, "owner_id": owner_id, "purpose": signature[:100]}
        await record(self._audit, actor="worker", action="material.infected", **told)

    async def _is_named(self, file_id: str, case_ids: list[str]) -> bool:
        for case_id in case_ids:
            try:
                case = await self._store.load({"_id": case_id})
            except errors.CaseNotFound:
                continue
            if find_entry(case, file_id) is not None:
                return True
        return False
