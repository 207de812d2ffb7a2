"""Writing a frame that is encoded already to a WebSocket of Tornado: one system call, and nothing allocated, while its reader keeps up.

Tornado's `write_message` builds the frame, a future and a task for every connection. This hands the bytes of a whole frame to the
connection's own stream by public methods of IOStream alone. What it leans on: that a WebSocket connection has its IOStream as `stream`, and
that Tornado, too, puts whole frames into the stream's buffer, so that between two frames is a place for a third.
"""

import asyncio
from typing import TYPE_CHECKING

from tornado.iostream import IOStream
from tornado.websocket import WebSocketProtocol13

if TYPE_CHECKING:
    from tornado.websocket import WebSocketProtocol

if WebSocketProtocol13.__annotations__.get("stream") is not IOStream:
    raise ImportError("this Tornado keeps the stream of a WebSocket elsewhere: handlers/raw_frames.py must be looked at")


def write_frame(connection: "WebSocketProtocol | None", wire: bytes) -> "asyncio.Future[None] | None":
    """Write a whole frame; return None when all of it has left, else a future of that.

    Raises:
        OSError: the connection is gone or closing.
    """
    if connection is None or connection.is_closing():
        raise ConnectionResetError
    stream = connection.stream
    assert stream is not None  # it has one from the handshake on, and nobody writes before
    rest = memoryview(wire)
    if not stream.writing():  # else something waits before us
        try:
            rest = rest[stream.write_to_fd(rest) :]
        except BlockingIOError:
            pass
        if not rest:
            return None
    return stream.write(rest)


def drop(connection: "WebSocketProtocol | None") -> None:
    """Close the socket at once, whatever still waits to be read."""
    if connection is not None and connection.stream is not None:
        connection.stream.close()
