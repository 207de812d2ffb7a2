"""A stand-in of clamd: zINSTREAM, zPING and zVERSION over TCP, on the port after the sandbox's own. It knows one signature, the EICAR test file."""

from __future__ import annotations

import asyncio
import logging

from sandbox.base import Faults

log = logging.getLogger("sandbox.clamd")

# In two parts, or a scanner on this machine would take this source for the test file.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD" + b"-ANTIVIRUS-TEST-FILE!$H+H*"
STREAM_MAX = 25 * 1024 * 1024  # clamd's StreamMaxLength
_LONGEST_COMMAND = 64
_IDLE_S = 30


async def start(host: str, port: int, faults: Faults, *, stream_max: int = STREAM_MAX, slow_s: float = 30) -> asyncio.Server:
    """Serve until the returned server is closed. The fault switch is `clamd`: down, lost, slow, garbage."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_IDLE_S + slow_s):
                fault = faults.take("clamd")
                if fault == "down":
                    return
                command = (await reader.readuntil(b"\0"))[:_LONGEST_COMMAND]
                if command == b"zPING\0":
                    answer = b"PONG"
                elif command == b"zVERSION\0":
                    answer = b"ClamAV 1.4.3/sandbox"
                elif command == b"zINSTREAM\0":
                    answer = await _scan(reader, stream_max)
                else:
                    answer = b"UNKNOWN COMMAND"
                if fault == "slow":
                    await asyncio.sleep(slow_s)
                if fault != "lost":
                    writer.write((b"\xff\xfenonsense" if fault == "garbage" else answer) + b"\0")
                    await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, TimeoutError):
            pass  # the caller is gone, or speaks something else
        finally:
            writer.close()

    server = await asyncio.start_server(talk, host, port)
    log.info("clamd on %s:%s", *server.sockets[0].getsockname()[:2])
    return server


async def _scan(reader: asyncio.StreamReader, stream_max: int) -> bytes:
    content = bytearray()
    while size := int.from_bytes(await reader.readexactly(4), "big"):
        if len(content) + size > stream_max:
            return b"INSTREAM size limit exceeded. ERROR"
        content += await reader.readexactly(size)
    return b"stream: Eicar-Test-Signature FOUND" if EICAR in content else b"stream: OK"
