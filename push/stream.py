"""The live stream: every open connection of this process, and who has something new.

Redis says at once whose inbox grew; every five seconds one query asks MongoDB the same for all connected persons, so losing Redis only
makes the stream slower. What is sent is always read from MongoDB by sequence number above the connection's own cursor: no gap, no repeat.

What goes to everybody (`broadcast`) has no cursor: it is public and can be read again (GET /v1/notices). It is encoded once and pushed in slices,
so that ten thousand connections never hold up a request. One task beats for all connections; none has a timer or a task of its own.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import structlog
from prometheus_client import Gauge
from pymongo.errors import PyMongoError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.kernel.tasks import end
from push.model import STREAM_CHANNEL, stream_id, view_message
from push.store import Store

log = structlog.get_logger(__name__)

MAX_CONNECTIONS_PER_PERSON = 10  # in one process
POLL_S = 5.0
_BATCH = 100
_FLUSH_S = 5.0  # a reader that has not taken a batch by then is cut off; it comes back with its cursor
_OWNERS_PER_QUERY = 1000
HEARTBEAT_S = 30.0
_BEATS_PER_ROUND = 30  # a heartbeat of all connections is spread over the round
_BEATS_AT_ONCE = 32
_SLICE_S = 0.004  # a broadcast gives the loop back after so long

connections = Gauge("hall_stream_connections", "Open connections of the live stream", multiprocess_mode="livesum")


@dataclass(frozen=True, slots=True)
class Frame:
    """What is sent, made once for all who get it: the JSON text, and the same as a WebSocket text frame."""

    json: bytes
    wire: bytes


class Connection(Protocol):
    """One open connection. `cursor`: the highest sequence number it was sent."""

    cursor: int

    def send(self, frame: Frame) -> bool:
        """Send a frame; return False when some of it still waits for the reader. Raises OSError when the connection is gone."""
        ...

    async def flushed(self) -> None:
        """Return once everything queued has left, or the connection is gone."""
        ...

    async def beat(self) -> None:
        """Find out whether the other side still lives and is still signed in; close if not. Called every HEARTBEAT_S."""
        ...

    def cut(self) -> None:
        """Close at once."""
        ...

    def go_away(self) -> None:
        """Close politely: this process stops, another one serves the client when it comes back with its cursor."""
        ...


class TooManyConnections(Exception):
    """This person has as many connections open as one may have."""


class _Group:
    """All connections of one person."""

    __slots__ = ("is_stale", "members", "pump")

    def __init__(self) -> None:
        self.members: set[Connection] = set()
        self.is_stale = False
        self.pump: asyncio.Task[None] | None = None


class Stream:
    """One per web process. Starts by itself at the first connection; `close()` at the end."""

    def __init__(self, store: Store, redis: Redis, *, poll_s: float = POLL_S, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._store = store
        self._redis = redis
        self._poll_s = poll_s
        self._heartbeat_s = heartbeat_s
        self._broadcasting = asyncio.Lock()
        self._groups: dict[str, _Group] = {}
        self._open: set[Connection] = set()  # signed in or not
        self._tasks: list[asyncio.Task[None]] = []
        self._watch: asyncio.Task[None] | None = None

    async def head(self, owner_id: str) -> int:
        """Return the cursor of somebody who wants only what comes from now on."""
        return await self._store.head(owner_id)

    async def cursor_after(self, owner_id: str, after: str) -> int:
        """Read what a client gives as `after`: a stream id, or the id of a message in its inbox.

        Raises:
            ValueError: neither.
        """
        if after.startswith("msg_"):
            seq = await self._store.seq_of(owner_id, after)
            if seq is None:
                raise ValueError("no such message")
            return seq
        if not (after.isascii() and after.isdigit() and len(after) <= 18):
            raise ValueError("not a stream id")
        # A cursor from before the inbox was moved can be ahead of it; then nothing was missed.
        return min(int(after), await self._store.head(owner_id))

    def opened(self, connection: Connection, stopping: asyncio.Event) -> None:
        """Note a connection, so that it is sent away when the process stops: a server waits for what is still open."""
        self._open.add(connection)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._close_when(stopping))

    def closed(self, owner_id: str, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self.leave(owner_id, connection)

    def join(self, owner_id: str, connection: Connection) -> None:
        """Serve a connection from its cursor on. Raises TooManyConnections."""
        group = self._groups.setdefault(owner_id, _Group())
        if connection in group.members:
            return self.wake(owner_id)
        if len(group.members) >= MAX_CONNECTIONS_PER_PERSON:
            raise TooManyConnections
        group.members.add(connection)
        connections.inc()
        self._start()
        return self.wake(owner_id)

    async def read(self, owner_id: str, after: int) -> list[tuple[int, Frame]]:
        """Return what came after a cursor, at most a batch, each with the cursor that stands behind it."""
        batch = await self._store.after(owner_id, after, _BATCH)
        return [(message["seq"], encode(stream_id(message["seq"]), message["event"], view_message(message))) for message in batch]

    def leave(self, owner_id: str, connection: Connection) -> None:
        group = self._groups.get(owner_id)
        if group is None or connection not in group.members:
            return
        group.members.discard(connection)
        connections.dec()
        if not group.members:
            del self._groups[owner_id]

    def wake(self, owner_id: str) -> None:
        """Look into the inbox of a person, when somebody here listens."""
        group = self._groups.get(owner_id)
        if group is None:
            return
        group.is_stale = True
        if group.pump is None:
            group.pump = asyncio.create_task(self._pump(owner_id, group))

    async def broadcast(self, kind: str, data: dict[str, Any]) -> None:
        """Send a frame without a cursor to everybody who is connected to this process, one broadcast after the other.

        Whoever connects while it runs may miss it: it was readable before it was broadcast. A slow reader delays nobody and is cut off.
        """
        frame = encode(None, kind, data)
        slow: list[tuple[str, Connection]] = []
        async with self._broadcasting:
            began = time.perf_counter()
            for owner_id in tuple(self._groups):
                group = self._groups.get(owner_id)
                for connection in tuple(group.members) if group is not None else ():
                    if not self._sent(owner_id, connection, frame):
                        slow.append((owner_id, connection))
                if time.perf_counter() - began > _SLICE_S:
                    await asyncio.sleep(0)
                    began = time.perf_counter()
        await asyncio.gather(*(self._flush(owner_id, connection) for owner_id, connection in slow))

    async def close(self) -> None:
        """Send every connection away, and stop listening."""
        self._send_away()
        await end(task for task in (*self._tasks, self._watch) if task is not None)
        self._tasks, self._watch = [], None

    # --- inside ---

    async def _close_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        while True:  # one that was being opened in this moment comes a little later
            self._send_away()
            await asyncio.sleep(0.1)

    def _send_away(self) -> None:
        for connection in tuple(self._open):
            connection.go_away()

    def _start(self) -> None:
        if not self._tasks or any(task.done() for task in self._tasks):
            for task in self._tasks:
                task.cancel()
            self._tasks = [asyncio.create_task(work()) for work in (self._listen, self._poll, self._beat)]

    async def _pump(self, owner_id: str, group: _Group) -> None:
        """Bring every connection of one person up to date. One pump per person runs, so frames never overtake each other."""
        try:
            await self._bring_up(owner_id, group)
        finally:
            group.pump = None  # ten thousand tasks that are done need not be kept

    async def _bring_up(self, owner_id: str, group: _Group) -> None:
        while group.is_stale and group.members:
            group.is_stale = False
            lowest = min(connection.cursor for connection in group.members)
            try:
                batch = await self.read(owner_id, lowest)
            except PyMongoError as error:
                log.warning("stream.database_away", error=type(error).__name__)
                return  # the poll wakes this person again
            if len(batch) == _BATCH:
                group.is_stale = True
            slow: set[Connection] = set()
            for seq, frame in batch:
                for connection in tuple(group.members):
                    # One that went back below `lowest` while we read gets its turn in the next round, from there.
                    if lowest <= connection.cursor < seq:
                        connection.cursor = seq
                        if not self._sent(owner_id, connection, frame):
                            slow.add(connection)
            await asyncio.gather(*(self._flush(owner_id, connection) for connection in slow))

    def _sent(self, owner_id: str, connection: Connection, frame: Frame) -> bool:
        """Send; return False when the reader has to be waited for."""
        try:
            return connection.send(frame)
        except OSError:
            self._cut(owner_id, connection)
            return True

    async def _flush(self, owner_id: str, connection: Connection) -> None:
        try:
            async with asyncio.timeout(_FLUSH_S):
                await connection.flushed()
        except TimeoutError:
            log.info("stream.slow_reader_cut")
            self._cut(owner_id, connection)

    def _cut(self, owner_id: str, connection: Connection) -> None:
        connection.cut()
        self.leave(owner_id, connection)

    async def _listen(self) -> None:
        """Follow the Redis channel; one subscription for the whole process, made again whenever it breaks."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(STREAM_CHANNEL)
                    self._wake_all()  # what was told before the subscription stood
                    while True:
                        message = await subscription.get_message(timeout=10)
                        if message is not None and message["type"] == "message":
                            self.wake(str(message["data"]))
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("stream.redis_away", error=type(error).__name__)
                await asyncio.sleep(1)

    def _wake_all(self) -> None:
        for owner_id in tuple(self._groups):
            self.wake(owner_id)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._wake_behind()
            except PyMongoError as error:
                log.warning("stream.database_away", error=type(error).__name__)

    async def _beat(self) -> None:
        """Look after every connection once per heartbeat, a share of them at a time. A new one has its first turn in the next round."""
        while True:
            everybody = tuple(self._open)
            for turn in range(_BEATS_PER_ROUND):
                await asyncio.sleep(self._heartbeat_s / _BEATS_PER_ROUND)
                share = everybody[turn::_BEATS_PER_ROUND]
                for start in range(0, len(share), _BEATS_AT_ONCE):
                    await asyncio.gather(*(connection.beat() for connection in share[start : start + _BEATS_AT_ONCE]))

    async def _wake_behind(self) -> None:
        owners = tuple(self._groups)
        for start in range(0, len(owners), _OWNERS_PER_QUERY):
            heads = await self._store.heads(owners[start : start + _OWNERS_PER_QUERY])
            for owner_id, head in heads.items():
                group = self._groups.get(owner_id)
                if group is not None and any(connection.cursor < head for connection in group.members):
                    self.wake(owner_id)


def encode(message_id: str | None, kind: str, data: dict[str, Any]) -> Frame:
    """Return one frame of the stream."""
    text = orjson.dumps({"id": message_id, "type": kind, "data": data})
    return Frame(text, _text_frame(text))


def _text_frame(payload: bytes) -> bytes:
    """Return a whole text message as the server sends it: final, not masked (RFC 6455 section 5.2)."""
    length = len(payload)
    if length < 126:
        return bytes((0x81, length)) + payload
    if length < 1 << 16:
        return b"\x81\x7e" + length.to_bytes(2) + payload
    return b"\x81\x7f" + length.to_bytes(8) + payload
