"""Files of any size, by stream: what is kept, and what is given up."""

import asyncio

import pytest
from aiohttp import web

from app.platforms import http as http_module
from app.platforms.http import HttpClient, VendorUnknown, VendorUnreachable


@pytest.fixture
async def server():
    async def file(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(8):
            await answer.write(b"x" * 100_000)
        return answer

    async def missing(_request):
        return web.json_response({"code": "NO_AUTH"}, status=403)

    async def moved(_request):
        raise web.HTTPFound("/file")

    async def broken(_request):
        return web.Response(status=502)

    async def stalls(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"x")
        await asyncio.sleep(5)
        return answer

    app = web.Application()
    for name, handler in (("file", file), ("missing", missing), ("moved", moved), ("broken", broken), ("stalls", stalls)):
        app.router.add_get(f"/{name}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    await runner.cleanup()


@pytest.fixture
async def client():
    client = HttpClient()
    yield client
    await client.close()


def fetch(client, url, to, **changes):
    return client.download("vendor", url, **{"headers": {}, "to": to, "max_bytes": 10**6, "timeout_s": 5} | changes)


async def test_a_file_is_written_as_it_comes(server, client, tmp_path):
    to = tmp_path / "file"
    to.write_bytes(b"older")
    response = await fetch(client, f"{server}/file", to)
    assert (response.status, response.body, to.stat().st_size) == (200, b"", 800_000)


async def test_a_file_that_is_too_large_is_given_up(server, client, tmp_path):
    with pytest.raises(VendorUnknown):
        await fetch(client, f"{server}/file", tmp_path / "file", max_bytes=500_000)


@pytest.mark.parametrize(("path", "status"), [("missing", 403), ("moved", 302)])
async def test_anything_but_200_is_an_answer_without_a_file(server, client, tmp_path, path, status):
    response = await fetch(client, f"{server}/{path}", tmp_path / "file")
    assert response.status == status and (tmp_path / "file").stat().st_size == 0
    assert (path != "missing") or b"NO_AUTH" in response.body


async def test_a_vendor_that_is_broken_stalls_or_is_not_there(server, client, tmp_path, monkeypatch):
    monkeypatch.setattr(http_module, "STALL_TIMEOUT_S", 0.2)
    for path in ("broken", "stalls"):
        with pytest.raises(VendorUnknown):
            await fetch(client, f"{server}/{path}", tmp_path / "file")
    with pytest.raises(VendorUnreachable):
        await fetch(client, "http://127.0.0.1:1/", tmp_path / "file")
