"""Moves of a state machine as a table: what orders, attempts and refunds have in common."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Move:
    """One named move of a state machine: from which states, to which, with which event."""

    sources: frozenset[str]
    target: str
    event: str | None = None


class MoveNotAllowed(Exception):
    """A bug: a move was asked for from a state that does not have it."""


def moved(moves: Mapping[str, Move], name: str, state: str) -> Move:
    """Return the named move. Raises MoveNotAllowed when it does not start from `state`."""
    move = moves[name]
    if state not in move.sources:
        raise MoveNotAllowed(f"{name} from {state}")
    return move
