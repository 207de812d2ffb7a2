"""Group commit: what comes at the same time is written together, and each caller gets its own answer.

While one batch is being written the next one gathers, so batches are as large as the load makes them. An item that comes alone is written at
once, alone. Where items come together, the next batch waits a moment for as many as the last one had: without that the first to come
would go alone, and each batch costs the same whatever is in it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

LINGER_S = 0.002

T = TypeVar("T")
R = TypeVar("R")


class Gather(Generic[T, R]):
    """Guarantees: each item is in exactly one batch; a caller that is cancelled leaves the others and its own item alone (it is written
    all the same, as if the cancellation had come a moment later); an answer that is an exception is raised to its caller alone, an
    exception of `flush` to all of its batch and nobody else; when the loop is closed nobody is left waiting.

    Args:
        flush: writes a batch and returns one answer (or exception) per item, in their order. It runs in an empty context: what an item
            must know of its caller (the request id) has to be part of it.
        at_most: items of one batch.
        in_flight: batches that may be written at the same time; they must not depend on their order.
        linger_s: how long a batch waits at most for as many items as the last one had; never for more than one.
    """

    def __init__(
        self, flush: Callable[[list[T]], Awaitable[Sequence[R | Exception]]], *, at_most: int = 64, in_flight: int = 1, linger_s: float = LINGER_S
    ) -> None:
        self._flush = flush
        self._linger_s = linger_s
        self._last = 0  # items of the last batch
        self._at_most = at_most
        self._in_flight = in_flight
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._writers: set[asyncio.Task[None]] = set()

    async def add(self, item: T) -> R:
        """Have an item written with whatever else is there, and return its answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, answer))
        if len(self._writers) < self._in_flight:
            # A task begins in the next turn of the loop, so what this turn still brings comes along.
            writer = loop.create_task(self._write(), name="gather", context=Context())
            self._writers.add(writer)
            writer.add_done_callback(self._ended)
        return await answer

    async def _write(self) -> None:
        while self._waiting:
            if self._linger_s and len(self._waiting) < min(self._last, self._at_most):
                await asyncio.sleep(self._linger_s)
            batch = [self._waiting.popleft() for _ in range(min(self._at_most, len(self._waiting)))]
            if not batch:  # another writer was faster
                break
            self._last = len(batch)
            try:
                answers = await self._flush([item for item, _ in batch])
                if len(answers) != len(batch):
                    raise RuntimeError(f"{len(answers)} answers to {len(batch)} items")
            except Exception as error:
                answers = [error] * len(batch)
            except BaseException:  # cancelled: the loop ends
                for _, waiting in batch:
                    waiting.cancel()
                raise
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if waiting.done():  # its caller was cancelled
                    continue
                if isinstance(answer, Exception):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)
        # In the same step as the last look at the queue: what is added from now on starts a writer of its own.
        self._writers.discard(asyncio.current_task())  # type: ignore[arg-type]

    def _ended(self, writer: asyncio.Task[None]) -> None:
        self._writers.discard(writer)
        # Cancelled, or ended by what no batch may swallow (SystemExit and its like): nobody would come for those who still wait.
        if (writer.cancelled() or writer.exception() is not None) and not self._writers:
            for _, waiting in self._waiting:
                waiting.cancel()
            self._waiting.clear()
