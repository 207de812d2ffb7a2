"""The live stream over real sockets: no gap, no repeat, whatever breaks; nobody hears what is not theirs."""

import asyncio
import socket as sockets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from app.catalogue.live import LiveCatalogue
from app.catalogue.publish import publish
from handlers import stream as handler
from push import stream as hub
from push.stream import Stream
from tests.catalogue import the_catalogue
from tests.push.conftest import desk, stand_in_keys  # noqa: F401
from tests.push.desk import Desk, put_together
from tests.push.web import Web, open_web


@pytest.fixture
async def web(desk: Desk, keys) -> AsyncIterator[Web]:  # noqa: F811
    async with open_web(desk, keys) as web:
        yield web


async def _take(socket: Any, count: int, timeout_s: float = 8) -> list[dict[str, Any]]:
    async with asyncio.timeout(timeout_s):
        return [await socket.receive_json() for _ in range(count)]


async def _closing(socket: Any, timeout_s: float = 5) -> tuple[list[Any], int | None]:
    """Return what came before the close, and the close code."""
    said = []
    async with asyncio.timeout(timeout_s):
        while (message := await socket.receive()).type == aiohttp.WSMsgType.TEXT:
            said.append(message.json())
    return said, socket.close_code


async def test_sign_in_by_subprotocol_and_hear_at_once(web: Web):
    login = await web.sign_in("sub")
    await web.tell(login)  # before the connection: not asked for
    async with web.connect(protocol=f"bearer, {login.access_token}") as socket:
        assert socket.protocol == "bearer"
        await web.tell(login, name="case.accepted")

        (message,) = await _take(socket, 1)

    assert message["type"] == "case.accepted" and message["id"].isdigit()
    data = message["data"]
    inbox = (await web.call("GET", "/v1/notifications?limit=1", login))[1]["items"][0]
    inbox.pop("delivery")  # how it fares outside the hall is asked for, not streamed
    assert data == inbox and data["case_id"] == data["subject"]["id"] and data["state"] == "accepted"


async def test_sign_in_by_first_message_with_a_cursor(web: Web):
    login = await web.sign_in("first")
    await web.tell(login, 3)
    async with web.connect() as socket:
        await socket.send_json({"token": login.access_token, "after": "0"})
        seen = await _take(socket, 3)
    await web.tell(login, 2)

    async with web.connect() as socket:
        await socket.send_json({"token": login.access_token, "after": seen[-1]["id"]})
        missed = await _take(socket, 2)
        await web.tell(login)
        live = await _take(socket, 1)

    ids = [message["id"] for message in seen + missed + live]
    assert ids == sorted(set(ids)) and len(ids) == 6


async def test_a_cursor_sent_after_signing_in_by_header(web: Web):
    login = await web.sign_in("header")
    await web.tell(login, 2)
    async with web.connect(protocol=f"bearer, {login.access_token}") as socket:
        await socket.send_json({"after": 0})
        await web.tell(login)

        ids = [message["id"] for message in await _take(socket, 3)]

    assert [int(one) for one in ids] == [1, 2, 3]


async def test_an_inbox_id_serves_as_cursor(web: Web):
    login = await web.sign_in("inboxid")
    await web.tell(login, 3)
    items = (await web.call("GET", "/v1/notifications", login))[1]["items"]
    async with web.connect() as socket:
        await socket.send_json({"token": login.access_token, "after": items[1]["id"]})
        (message,) = await _take(socket, 1)

    assert message["data"]["id"] == items[0]["id"]


async def test_no_gap_and_no_repeat_across_reconnects_with_many_writers(web: Web):
    login, total = await web.sign_in("writers"), 60
    events = [web.desk.event(login.resident.id, "case.evaluated") for _ in range(total)]
    other = put_together(web.desk.database, web.desk.redis, web.desk.running, web.desk.town, web.desk.out)

    async def write() -> None:
        gate = asyncio.Semaphore(6)

        async def tell(index: int) -> None:
            async with gate:
                await (web.desk.push if index % 2 else other).tell(events[index])

        await asyncio.gather(*(tell(index) for index in range(total)))

    writing = asyncio.create_task(write())
    seen: list[dict[str, Any]] = []
    while len(seen) < total:
        async with web.connect() as socket:
            await socket.send_json({"token": login.access_token, "after": seen[-1]["id"] if seen else "0"})
            seen += await _take(socket, min(7, total - len(seen)))
        # the connection breaks here, in the middle of everything
    await writing

    assert [int(message["id"]) for message in seen] == list(range(1, total + 1))
    assert len({message["data"]["id"] for message in seen}) == total


async def test_redis_losing_everything_only_makes_it_slower(desk: Desk, keys):  # noqa: F811
    deaf = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    deaf.stream = Stream(deaf.store, desk.redis, poll_s=0.3)

    async def hear_nothing() -> None:
        await asyncio.sleep(3600)

    deaf.stream._listen = hear_nothing  # the subscription that never delivers
    async with open_web(desk, keys, push=deaf) as web:
        login = await web.sign_in("noredis")
        async with web.connect(protocol=f"bearer, {login.access_token}") as socket:
            await web.tell(login, 2)
            ids = [int(message["id"]) for message in await _take(socket, 2)]
    assert ids == [1, 2]


async def test_the_subscription_comes_back_after_redis_cut_it(web: Web):
    login = await web.sign_in("cut")
    async with web.connect(protocol=f"bearer, {login.access_token}") as socket:
        await web.tell(login)
        await _take(socket, 1)
        await web.desk.redis.client_kill_filter(_type="pubsub")
        await web.tell(login)
        (message,) = await _take(socket, 1)
        await asyncio.sleep(1.2)  # by now it is subscribed again
        await web.tell(login)
        (last,) = await _take(socket, 1, timeout_s=2)
    assert (int(message["id"]), int(last["id"])) == (2, 3)


async def test_nobody_hears_what_is_not_theirs(web: Web):
    mine, other = await web.sign_in("ears"), await web.sign_in("mouth")
    async with web.connect(protocol=f"bearer, {other.access_token}") as socket:
        await web.tell(mine)
        await web.tell(other)
        (message,) = await _take(socket, 1)
        inbox = (await web.call("GET", "/v1/notifications", other))[1]["items"]
    assert [message["data"]["id"]] == [item["id"] for item in inbox]


@pytest.mark.parametrize("token", ["nonsense", "e30.e30.e30"])
async def test_a_bad_token_is_told_and_closed_with_4401(web: Web, token):
    async with web.connect(protocol=f"bearer, {token}") as socket:
        by_header = await _closing(socket)
    async with web.connect() as socket:
        await socket.send_json({"token": token})
        by_message = await _closing(socket)
    for said, code in (by_header, by_message):
        assert code == 4401 and said[0]["type"] == "error" and said[0]["data"]["code"].startswith("auth.")


@pytest.mark.parametrize(
    "said", ["", "no json", "[]", "{}", "3", '{"what": 1}', '{"token": 5}', '{"after": {}}', "x" * 5000, "\x00"]
)
async def test_garbage_is_closed_with_4400(web: Web, said):
    async with web.connect() as socket:
        await socket.send_str(said)
        answer, code = await _closing(socket)
    assert code == 4400 and answer[0]["data"]["code"] == "request.malformed"


@pytest.mark.parametrize("after", ["abc", "-1", "msg_none", "9" * 30, "１２"])
async def test_a_cursor_that_is_none_is_closed_with_4400(web: Web, after):
    login = await web.sign_in("cursor")
    async with web.connect() as socket:
        await socket.send_json({"token": login.access_token, "after": after})
        assert (await _closing(socket))[1] == 4400


async def test_asking_before_signing_in_is_closed_with_4401(web: Web):
    async with web.connect() as socket:
        await socket.send_json({"after": "0"})
        assert (await _closing(socket))[1] == 4401


async def test_silence_is_closed_after_a_while(web: Web, monkeypatch):
    monkeypatch.setattr(handler, "SIGN_IN_WITHIN_S", 0.1)
    async with web.connect() as socket:
        assert (await _closing(socket))[1] == 4401


async def test_the_page_cookie_counts_for_our_own_pages_only(web: Web):
    login = await web.sign_in("page")
    cookie = f"hall_page={web.hall.identity.sessions.page_token(login)}"
    async with web.connect(Cookie=cookie, Origin=web.url) as socket:
        await asyncio.sleep(0.1)
        await web.tell(login)
        assert len(await _take(socket, 1)) == 1
    async with web.connect(Cookie=cookie, Origin="https://elsewhere.example") as socket:
        await socket.send_json({"after": "0"})
        assert (await _closing(socket))[1] == 4401


async def test_a_session_that_ends_ends_its_stream(web: Web, monkeypatch):
    monkeypatch.setattr(web.hall.push.stream, "_heartbeat_s", 0.1)
    login = await web.sign_in("leaving")
    async with web.connect(protocol=f"bearer, {login.access_token}") as socket:
        await web.joined(login, 1)
        await web.hall.identity.sessions.end(login.resident.id, login.session_id)
        assert (await _closing(socket))[1] == 4401


async def test_a_person_has_a_limited_number_of_connections(web: Web, monkeypatch):
    monkeypatch.setattr(hub, "MAX_CONNECTIONS_PER_PERSON", 2)
    login, open_ones = await web.sign_in("greedy"), []
    for _ in range(2):
        socket = await web.connect()
        await socket.send_json({"token": login.access_token})
        open_ones.append(socket)
    await web.joined(login, 2)
    async with web.connect() as socket:
        await socket.send_json({"token": login.access_token})
        said, code = await _closing(socket)
    assert code == 4429 and said[0]["data"]["code"] == "rate.limited"
    await open_ones.pop().close()
    await web.joined(login, 1)
    async with web.connect() as socket:  # there is room again
        await socket.send_json({"token": login.access_token})
        await web.joined(login, 2)
        await web.tell(login)
        assert len(await _take(socket, 1)) == 1
    await open_ones.pop().close()


async def test_a_reader_that_takes_nothing_is_cut_off(web: Web, monkeypatch):
    monkeypatch.setattr(hub, "_FLUSH_S", 0.2)
    login = await web.sign_in("slow")

    class Stuck:
        cursor, was_cut = 0, False

        def send(self, frame: bytes) -> None: ...

        async def flushed(self) -> None:
            await asyncio.sleep(3600)

        def cut(self) -> None:
            self.was_cut = True

        def go_away(self) -> None: ...

    stuck = Stuck()
    web.hall.push.stream.join(login.resident.id, stuck)
    async with web.connect(protocol=f"bearer, {login.access_token}") as socket:
        await web.joined(login, 2)
        await web.tell(login, 2)
        assert len(await _take(socket, 2)) == 2
        async with asyncio.timeout(5):
            while not stuck.was_cut:
                await asyncio.sleep(0.02)


async def test_a_browser_that_stops_reading_is_cut_off_and_delays_nobody(web: Web, monkeypatch):
    monkeypatch.setattr(hub, "_FLUSH_S", 0.2)
    slow, quick = await web.sign_in("stops"), await web.sign_in("reads")
    host, port = web.url.removeprefix("http://").split(":")
    stuck = sockets.socket()
    stuck.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    stuck.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stuck, (host, int(port)))
    head = "GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    head += f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: bearer, {slow.access_token}\r\n\r\n"
    await loop.sock_sendall(stuck, head.encode())
    await web.joined(slow, 1)
    large = {"body": "长" * 1_000_000}  # more than the kernel keeps for one who does not read
    async with web.connect(protocol=f"bearer, {quick.access_token}") as socket:
        await web.joined(quick, 1)
        telling = [asyncio.create_task(web.hall.push.stream.broadcast("notice.published", data)) for data in (large, {"id": "n"})]
        messages = await _take(socket, 2)
        await asyncio.gather(*telling)
        await web.joined(slow, 0)
        assert [message["data"] for message in messages] == [large, {"id": "n"}]
        await web.tell(quick)
        assert int((await _take(socket, 1))[0]["id"]) == 1
    stuck.close()


async def test_who_does_not_answer_a_heartbeat_is_cut_off(web: Web, monkeypatch):
    monkeypatch.setattr(web.hall.push.stream, "_heartbeat_s", 0.1)
    login = await web.sign_in("mute")
    async with web.connect(protocol=f"bearer, {login.access_token}") as answers:
        async with web.desk.http.ws_connect(
            f"{web.url}/v1/stream", protocols=["bearer", login.access_token], autoping=False
        ) as mute:
            await web.joined(login, 2)
            reading = asyncio.create_task(answers.receive())  # aiohttp answers pings while it reads
            async with asyncio.timeout(5):
                while (await mute.receive()).type in (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.TEXT):
                    pass
            await web.joined(login, 1)
            await asyncio.sleep(0.3)  # three more heartbeats: the one that answers stays
            await web.tell(login)
            assert int((await reading).json()["id"]) == 1


# --- what goes to everybody ---


@pytest.mark.parametrize("length", [0, 125, 126, 65_535, 65_536])
async def test_a_frame_of_any_length_arrives_whole(web: Web, length):
    login = await web.sign_in("length")
    frame = hub.Frame(b"", hub._text_frame(b"x" * length))
    async with web.connect(protocol=f"bearer, {login.access_token}") as socket:
        await web.joined(login, 1)
        (connection,) = web.hall.push.stream._groups[login.resident.id].members
        connection.send(frame)
        assert await socket.receive_str(timeout=5) == "x" * length


async def test_a_notice_that_is_published_reaches_everybody_in_every_process_once(web: Web, keys):
    own, stop = web.desk, asyncio.Event()
    whole = the_catalogue()
    items = tuple(item for item in whole.items if item["alias"] == "id_card_lost")
    small = replace(whole, items=items, bundles=(), knowledge=(), notices=(), synonyms={"groups": [], "leads_to": [], "stop_words": [], "words": []})
    old = {"id": "old", "title": "旧", "body": "旧", "item": None, "from_on": "2020-01-01", "until_on": None}
    later = old | {"id": "later", "from_on": "2999-01-01"}
    new = old | {"id": "new", "title": "新", "item": "id_card_lost"}
    await publish(own.database, replace(small, notices=(old,)), now=datetime.now(UTC))
    other_push = put_together(own.database, own.redis, own.running, own.town, own.out)
    async with open_web(own, keys, push=other_push) as other:
        logins = [await web.sign_in("one"), await web.sign_in("two")]
        async with (
            web.connect(protocol=f"bearer, {logins[0].access_token}") as first,
            web.connect(protocol=f"bearer, {logins[1].access_token}") as second,
            other.connect(protocol=f"bearer, {logins[1].access_token}") as third,
        ):
            for where, login in ((web, logins[0]), (web, logins[1]), (other, logins[1])):
                await where.joined(login, 1)
            following, telling = [], []
            for stream in (web.hall.push.stream, other_push.stream):
                live = LiveCatalogue(own.database)
                live.on_notice = lambda row, stream=stream: telling.append(asyncio.create_task(stream.broadcast("notice.published", row)))
                await live.load()
                following.append(asyncio.create_task(live.run(stop, own.redis)))
            await asyncio.sleep(0)
            await publish(own.database, replace(small, notices=(old, new, later)), redis=own.redis, now=datetime.now(UTC))
            heard = [(await _take(socket, 1))[0] for socket in (first, second, third)]
            await publish(own.database, replace(small, notices=(old, new)), redis=own.redis, now=datetime.now(UTC))  # nothing new shows
            for login in logins:
                await web.tell(login)
            after = [(await _take(socket, 1))[0]["type"] for socket in (first, second, third)]
            stop.set()
            await asyncio.gather(*following, *telling)
    assert {message["type"] for message in heard} == {"notice.published"} and after == ["case.evaluated"] * 3
    assert [message["id"] for message in heard] == [None] * 3 and heard[0] == heard[1] == heard[2]
    assert heard[0]["data"]["title"] == "新" and heard[0]["data"]["item"]["name"] and set(heard[0]["data"]) == {"id", "title", "body", "published_on", "item"}


async def test_a_plain_request_gets_a_problem(web: Web):
    status, problem, answer = await web.call("GET", "/v1/stream")

    assert (status, problem["code"]) == (400, "request.malformed")
    assert answer.headers["Content-Type"].startswith("application/problem+json")


@pytest.mark.parametrize("signed_in", [True, False])
async def test_stopping_sends_everybody_away_and_does_not_wait_for_them(web: Web, signed_in):
    login = await web.sign_in("restart")
    async with web.connect(protocol=f"bearer, {login.access_token}" if signed_in else "") as socket:
        await asyncio.sleep(0.05)
        web.hall.stopping.set()
        web.server.stop()
        stopping = asyncio.create_task(web.server.close_all_connections())
        assert (await _closing(socket))[1] == 1001
        await asyncio.wait_for(stopping, 3)
