"""The malware scanner over real TCP: what it says, and everything that is not an answer."""

import asyncio
import time

import pytest

from app.platforms.clamav import ClamAV, ScannerAway
from sandbox import clamd
from sandbox.base import Faults


@pytest.fixture
async def scanner():
    faults = Faults()
    server = await clamd.start("127.0.0.1", 0, faults, stream_max=2 * 2**20, slow_s=5)
    port = server.sockets[0].getsockname()[1]
    yield ClamAV(f"tcp://127.0.0.1:{port}", answer_s=0.5), faults
    server.close()


async def test_clean_and_found(scanner):
    clam, _faults = scanner
    assert await clam.scan(b"x" * 1_500_000) is None
    assert await clam.scan(b"%PDF-1.7\n" + clamd.EICAR) == "Eicar-Test-Signature"
    split = b"x" * (64 * 1024 - 10) + clamd.EICAR  # across two chunks
    assert await clam.scan(split) == "Eicar-Test-Signature"
    assert await asyncio.gather(*(clam.scan(b"y" * 300_000) for _ in range(8))) == [None] * 8


async def test_what_is_too_large_is_not_clean(scanner):
    clam, _faults = scanner
    with pytest.raises(ScannerAway):
        await clam.scan(b"x" * 3 * 2**20)


@pytest.mark.parametrize("mode", ["down", "lost", "slow", "garbage"])
async def test_no_answer_is_never_clean(scanner, mode):
    clam, faults = scanner
    faults.set("clamd", mode, 1)
    began = time.monotonic()
    with pytest.raises(ScannerAway):
        await clam.scan(b"x" * 100)
    assert time.monotonic() - began < 3
    assert await clam.scan(b"x" * 100) is None


async def test_nobody_listens(unused_tcp_port):
    with pytest.raises(ScannerAway):
        await ClamAV(f"tcp://127.0.0.1:{unused_tcp_port}").scan(b"x")


@pytest.mark.parametrize("answer", [b"", b"\0", b"stream: OK", b"PONG\0", b"stream: \0", b"OK\0", b"stream: OKAY\0", b"x" * 9000])
async def test_only_its_very_words_count(answer):
    async def talk(reader, writer):
        await reader.readuntil(bytes(4))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    with pytest.raises(ScannerAway):
        await ClamAV(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", answer_s=0.5).scan(b"x")
    server.close()
