"""Ending background tasks."""

import asyncio
from collections.abc import Iterable
from typing import Any


async def end(tasks: Iterable[asyncio.Task[Any]], *, again_after_s: float = 0.5) -> None:
    """Cancel tasks and return when all have ended, whatever they end with.

    Once is not enough: on Python 3.11 `asyncio.wait_for`, with which PyMongo sends, loses a cancellation that comes in the moment in which
    what it waits for is done; a loop then goes on as if nobody had asked it to end.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=again_after_s)
        for task in done:
            if not task.cancelled():
                task.exception()  # looked at, so that nobody complains of one that was never retrieved
