"""Processes that die: between any two commands to the database or calls out, from the inside, as `kill -9` does.

Every command and every call has two points: before it is sent, and when its answer comes. A process that is to die does so at one of
them; from then on nothing of it reaches anybody: each further point raises `Died`, which is no Exception, so that no code of ours can
catch it and tidy up. What the server has of it stays as it is, open transactions with their locks too, until the process is buried.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from purgatory import AsyncCircuitBreakerFactory
from pymongo.monitoring import CommandListener

from app.platforms.http import BREAKER_FAILURES, HttpClient, Response

# Not counted and not kept from passing: the driver says good-bye when a buried process's client is closed.
_BURIAL = "endSessions"


class Died(BaseException):
    """The process that was at it is no more."""


class Life(CommandListener):
    """One process's life. Hears of every command of its database client."""

    def __init__(self, on_death: Callable[[], None]) -> None:
        self.is_dead = False
        self.died = asyncio.Event()
        self.points = 0
        self._left: int | None = None
        self._commits: tuple[str, int] | None = None
        self._on_death = on_death
        self._transactions: dict[bytes, dict[str, Any]] = {}

    def doom(self, points: int) -> None:
        """Let it die at the last of so many points from now; a death that comes sooner stays."""
        self._left = points if self._left is None else min(self._left, points)

    def doom_at_commit(self, moment: str, commits: int) -> None:
        """Let it die `before` that many commits from now is sent, or `after` it was done and before anybody here knows."""
        self._commits = self._commits or (moment, commits)

    def _commit(self, moment: str) -> None:
        if self._commits is None or self._commits[0] != moment:
            return
        left = self._commits[1] - 1
        self._commits = (moment, left)
        if left <= 0:
            self.die()

    def die(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            self.died.set()
            self._on_death()

    def point(self) -> None:
        """Raises Died."""
        if not self.is_dead:
            self.points += 1
            if self._left is not None:
                self._left -= 1
                if self._left <= 0:
                    self.die()
        if self.is_dead:
            raise Died

    @property
    def open_transactions(self) -> list[dict[str, Any]]:
        """The sessions whose transactions the server still holds open."""
        return list(self._transactions.values())

    def started(self, event: Any) -> None:
        if event.command_name == _BURIAL:
            return
        if event.command_name == "commitTransaction":
            self._commit("before")
        self.point()
        if event.command.get("startTransaction"):
            session = event.command["lsid"]
            self._transactions[bytes(session["id"])] = session
        elif event.command_name in ("commitTransaction", "abortTransaction"):
            # Sent is done: it reaches the server whatever becomes of us, unless it died right here, above.
            self._transactions.pop(bytes(event.command["lsid"]["id"]), None)

    def succeeded(self, event: Any) -> None:
        if event.command_name == "commitTransaction":
            self._commit("after")
        if event.command_name != _BURIAL:
            self.point()

    def failed(self, event: Any) -> None:
        if event.command_name != _BURIAL:
            self.point()


class MortalHttp(HttpClient):
    """The way out of a process that may die before a call is sent, or before its answer is read."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self._life = life
        # Its rest is real time, and here an hour passes in milliseconds.
        self._breakers = AsyncCircuitBreakerFactory(default_threshold=BREAKER_FAILURES, default_ttl=0.02)

    async def _send(self, *arguments: Any, **named: Any) -> Response:
        self._life.point()
        response = await super()._send(*arguments, **named)
        self._life.point()
        return response

    async def download(self, *arguments: Any, **named: Any) -> Response:
        self._life.point()
        response = await super().download(*arguments, **named)
        self._life.point()
        return response
