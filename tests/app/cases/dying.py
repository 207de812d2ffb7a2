"""A process that dies at the nth database command: before it is sent, or after it was done and before the answer came."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from pymongo.asynchronous import command_runner

# What a server does by itself for a client that is gone: open transactions end, sessions run out.
_AFTERWARDS = frozenset({"abortTransaction", "endSessions", "hello", "ping"})


class Died(BaseException):
    """The process is gone: nothing may catch this and go on."""


@dataclass
class Life:
    """Counts the commands of one attempt."""

    ends_at: int
    after: bool
    commands: int = 0
    is_over: bool = False

    async def live(self, send: Callable[[], Awaitable[Any]]) -> Any:
        if self.is_over:
            raise Died
        self.commands += 1
        ends = self.commands == self.ends_at
        if ends and not self.after:
            self.is_over = True
            raise Died
        try:
            return await send()
        finally:
            if ends:  # also when the command failed: else whoever tries again would live for ever
                self.is_over = True
                raise Died


_life: ContextVar[Life | None] = ContextVar("life", default=None)
# What is gathered is written by tasks without a context (app/storage/gather.py), which live and die with whoever they write for.
_gathering: list[Life] = []


def _life_now() -> Life | None:
    task = asyncio.current_task()
    return _gathering[-1] if _gathering and task is not None and task.get_name() == "gather" else _life.get()


@contextmanager
def mortal(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[Callable[[], Awaitable[Any]], int, bool], Awaitable[bool]]]:
    """Give a function `attempt(work, n, after)` that runs `work` in a process that dies at its nth command; False when it outlived it."""
    run = command_runner._run_command  # every command goes through here: reads, writes, commits

    async def dying_run(conn: Any, spec: Any, *args: Any, **kwargs: Any) -> Any:
        life = _life_now()
        if life is None or next(iter(spec)) in _AFTERWARDS:
            return await run(conn, spec, *args, **kwargs)
        return await life.live(lambda: run(conn, spec, *args, **kwargs))

    async def attempt(work: Callable[[], Awaitable[Any]], ends_at: int, after: bool) -> bool:
        life = Life(ends_at, after)
        token = _life.set(life)
        _gathering.append(life)
        try:
            await work()
        except Died:
            return True
        except BaseExceptionGroup as ended:  # of a task group, which ends its tasks with the one that died
            if ended.split(Died)[1] is not None:
                raise
            return True
        except asyncio.CancelledError:  # its writer died
            if not life.is_over:
                raise
            return True
        finally:
            _gathering.remove(life)
            _life.reset(token)
        return False

    with monkeypatch.context() as patched:
        patched.setattr(command_runner, "_run_command", dying_run)
        yield attempt
