"""The long poll, for clients that cannot hold a stream."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from push import stream as hub
from tests.push.conftest import desk, stand_in_keys  # noqa: F401
from tests.push.desk import Desk, put_together
from tests.push.web import Web, open_web


@pytest.fixture
async def web(desk: Desk, keys) -> AsyncIterator[Web]:  # noqa: F811
    async with open_web(desk, keys) as web:
        yield web


async def _poll(web: Web, login: Any, after: str | None = None, wait_s: int = 5) -> dict[str, Any]:
    query = f"wait_s={wait_s}" + (f"&after={after}" if after is not None else "")
    status, answer, _ = await web.call("GET", f"/v1/stream/poll?{query}", login)
    assert status == 200, answer
    return answer


async def test_polls_see_everything_once_whatever_comes_between_them(web: Web, keys):
    """Two processes take turns in answering, six writers write; every answer goes on from the cursor of the last."""
    login, total, seen = await web.sign_in("poller"), 40, []
    other_push = put_together(web.desk.database, web.desk.redis, web.desk.running, web.desk.town, web.desk.out)
    async with open_web(web.desk, keys, push=other_push) as other:
        cursor = (await _poll(web, login, wait_s=25))["cursor"]  # at once: there is none to wait from
        gate = asyncio.Semaphore(6)

        async def tell() -> None:
            async with gate:
                await web.tell(login)

        writing = [asyncio.create_task(tell()) for _ in range(total)]
        turn = 0
        while len(seen) < total:
            answer = await _poll((web, other)[turn % 2], login, cursor)
            assert answer["items"] and answer["cursor"] == answer["items"][-1]["id"]
            seen, cursor, turn = seen + answer["items"], answer["cursor"], turn + 1
        await asyncio.gather(*writing)
        assert (await _poll(web, login, cursor, wait_s=0)) == {"items": [], "cursor": cursor}
    assert [int(item["id"]) for item in seen] == list(range(1, total + 1))
    inbox = (await web.call("GET", "/v1/notifications?limit=100", login))[1]["items"]
    assert [item["data"]["id"] for item in seen] == [item["id"] for item in inbox[::-1]]


async def test_a_poll_waits_is_limited_and_ends_with_the_process(web: Web, monkeypatch):
    monkeypatch.setattr(hub, "MAX_CONNECTIONS_PER_PERSON", 2)
    login = await web.sign_in("waits")
    waiting = [asyncio.create_task(_poll(web, login, "0", wait_s=25)) for _ in range(2)]
    await web.joined(login, 2)
    status, problem, answer = await web.call("GET", "/v1/stream/poll?after=0", login)
    assert (status, problem["code"], answer.headers["Retry-After"]) == (429, "rate.limited", "30")
    await web.tell(login)
    assert [[int(item["id"]) for item in (await one)["items"]] for one in waiting] == [[1], [1]]
    await web.joined(login, 0)
    cursor = waiting[0].result()["cursor"]

    assert (await _poll(web, login, "1", wait_s=1)) == {"items": [], "cursor": cursor}  # in vain
    leaving = asyncio.create_task(_poll(web, login, "1", wait_s=25))
    await web.joined(login, 1)
    leaving.cancel()
    await web.joined(login, 0)  # who hangs up leaves no trace
    last = asyncio.create_task(_poll(web, login, "1", wait_s=25))
    await web.joined(login, 1)
    await web.hall.push.stream.broadcast("notice.published", {"id": "n"})
    assert (await last) == {"items": [{"id": None, "type": "notice.published", "data": {"id": "n"}}], "cursor": cursor}
    last = asyncio.create_task(_poll(web, login, "1", wait_s=25))
    await web.joined(login, 1)
    web.hall.stopping.set()
    assert (await asyncio.wait_for(last, 3)) == {"items": [], "cursor": cursor}
    assert web.hall.push.stream._open == set()


async def test_a_poll_of_a_session_that_ended_meanwhile_is_told_nothing(web: Web):
    login = await web.sign_in("ends")
    asking = asyncio.create_task(web.call("GET", "/v1/stream/poll?after=0", login))
    await web.joined(login, 1)
    await web.hall.identity.sessions.end(login.resident.id, login.session_id)
    await web.tell(login)
    status, problem, _ = await asking
    assert status == 401 and "items" not in problem


@pytest.mark.parametrize(
    ("query", "status"),
    [("after=abc", 400), ("after=-1", 400), ("after=msg_none", 400), ("wait_s=26", 422), ("wait_s=x", 422), ("after=" + "1" * 65, 422)],
)
async def test_a_poll_that_asks_wrongly_is_told_so(web: Web, query, status):
    login = await web.sign_in("wrong")
    answered, problem, answer = await web.call("GET", f"/v1/stream/poll?{query}", login)
    assert answered == status and problem["detail"] and answer.headers["Content-Type"].startswith("application/problem+json")
    assert (await web.call("GET", "/v1/stream/poll"))[0] == 401
