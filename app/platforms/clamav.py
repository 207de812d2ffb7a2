"""A malware scanner that speaks ClamAV's protocol (clamd, command INSTREAM). One connection per file; nothing is kept.

On the wire: `zINSTREAM\\0`, then chunks of 4 bytes length (big endian) and data, then a length of 0. The answer ends with `\\0`: `stream: OK`,
`stream: <signature> FOUND`, or a text that ends with `ERROR`. Source: clamd(8).
"""

import asyncio
from urllib.parse import urlsplit

import structlog
from prometheus_client import Counter

log = structlog.get_logger(__name__)

_CHUNK = 64 * 1024
_LONGEST_ANSWER = 4096

scans = Counter("hall_malware_scans", "Files shown to the malware scanner", ["outcome"])


class ScannerAway(Exception):
    """No answer, or none that can be understood: the file is as unknown as before."""


class ClamAV:
    """clamd at `tcp://host:port`.

    Args:
        connect_s, answer_s: how long is waited for a connection, and for the answer to one file.
    """

    def __init__(self, url: str, *, connect_s: float = 2, answer_s: float = 20) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 3310
        self._connect_s = connect_s
        self._answer_s = answer_s

    async def scan(self, content: bytes) -> str | None:
        """Return the name of what was found, None when the file is clean.

        Raises:
            ScannerAway: refused, too late, over the scanner's size limit, or garbage. Never counts as clean.
        """
        try:
            async with asyncio.timeout(self._connect_s):
                reader, writer = await asyncio.open_connection(self._host, self._port, limit=_LONGEST_ANSWER)
        except (OSError, TimeoutError) as error:
            raise self._away("unreachable", type(error).__name__) from error
        try:
            async with asyncio.timeout(self._answer_s):
                answer = await self._ask(reader, writer, content)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise self._away("no_answer", type(error).__name__) from error
        finally:
            writer.close()
        if answer == "stream: OK":
            scans.labels("clean").inc()
            return None
        if answer.startswith("stream: ") and answer.endswith(" FOUND"):
            scans.labels("found").inc()
            return answer.removeprefix("stream: ").removesuffix(" FOUND")
        raise self._away("error", answer[:200])

    @staticmethod
    async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> str:
        try:
            writer.write(b"zINSTREAM\0")
            for start in range(0, len(content), _CHUNK):
                chunk = content[start : start + _CHUNK]
                writer.write(len(chunk).to_bytes(4, "big") + chunk)
                await writer.drain()
            writer.write(bytes(4))
            await writer.drain()
        except ConnectionError:
            pass  # over its size limit it answers and hangs up while we still send: the answer is worth reading
        return (await reader.readuntil(b"\0")).rstrip(b"\0").decode(errors="replace").strip()

    @staticmethod
    def _away(outcome: str, detail: str) -> ScannerAway:
        scans.labels(outcome).inc()
        log.warning("clamav.away", outcome=outcome, detail=detail)
        return ScannerAway(detail)
