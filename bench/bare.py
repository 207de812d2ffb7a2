"""The measure: a stock Tornado handler that answers given bytes, in a process of its own. `python -m bench.bare PORT FILE`."""

import asyncio
import sys
from pathlib import Path

from tornado.web import Application, RequestHandler


class Bare(RequestHandler):
    body = b""

    def get(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(self.body)


async def serve(port: int, body: bytes) -> None:
    Bare.body = body
    Application([(r"/.*", Bare)], log_function=lambda _handler: None).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
