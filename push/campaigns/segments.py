"""Whom a campaign is for: kinds of segments, and the Protocol behind which each kind's people are found.

A segment is walked by key set: ids of residents in order, after a cursor. Whoever dies in the middle is followed by somebody who goes on at
the cursor. Who belongs to it is looked up when the walk comes to them; accounts made after the campaign began are never part of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Protocol

from app.kernel.errors import NotFound
from push.subscriptions import ITEM, NOTICE, THEME

# Kind -> what staff read, and what it must say.
ALL, DIVISION, APPLICANTS, SUBSCRIBERS = "all", "division", "applicants", "subscribers"
KIND_NAMES = {ALL: "全体用户", DIVISION: "在某地办过事的人", APPLICANTS: "办过某些事项的人", SUBSCRIBERS: "订阅了某些事项、主题或地区通知的人"}
NEEDS: Mapping[str, frozenset[str]] = {
    ALL: frozenset(),
    DIVISION: frozenset({"divisions"}),
    APPLICANTS: frozenset({"items", "from_on", "until_on"}),
    SUBSCRIBERS: frozenset({"items", "themes", "divisions"}),
}


@dataclass(frozen=True)
class Segment:
    """Whom a campaign is for.

    Attributes:
        agency_id: only what people have with this agency is looked at; empty: of every agency (the one that runs the hall).
        divisions: codes; a division means all that lies in it.
        items, themes: codes and names of the catalogue.
        from_on, until_on: Shanghai days between which a case was handed in, both included.
    """

    kind: str
    agency_id: str = ""
    divisions: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    themes: tuple[str, ...] = ()
    from_on: date | None = None
    until_on: date | None = None


# One stretch of a walk: ids of residents in order, each once, and where to go on; None: this was the end.
Stretch = tuple[Sequence[str], str | None]


class People(Protocol):
    """The residents of one kind of segment; connected by assembly."""

    async def stretch(self, segment: Any, after: str, before: str, limit: int, only: str = "") -> Stretch:
        """Return residents of a segment whose ids lie between `after` and `before` (both outside), looking at about `limit` rows.

        Args:
            only: this resident alone.
        """
        ...


class Residents(Protocol):
    """What is asked of app.identity."""

    async def stretch(self, after: str, before: str, limit: int, only: str = "") -> Stretch: ...


class Everybody:
    """Kind `all`."""

    def __init__(self, residents: Residents) -> None:
        self._residents = residents

    async def stretch(self, _segment: Segment, after: str, before: str, limit: int, only: str = "") -> Stretch:
        return await self._residents.stretch(after, before, limit, only)


class Within:
    """Kind `division`: a division means all that lies in it."""

    def __init__(self, people: People, divisions: Callable[[], Mapping[str, Mapping[str, Any]]]) -> None:
        self._people = people
        self._divisions = divisions

    async def stretch(self, segment: Segment, after: str, before: str, limit: int, only: str = "") -> Stretch:
        wider = replace(segment, divisions=within(segment.divisions, self._divisions()))
        return await self._people.stretch(wider, after, before, limit, only)


class Followers(Protocol):
    """What is asked of push/subscriptions.py."""

    def resolve(self, kind: str, key: str) -> tuple[str, str]: ...

    async def subscribers(self, kind: str, key: str, after: str = "", limit: int = 500) -> list[str]: ...


class Following:
    """Kind `subscribers`: whoever follows one of the items, themes, or the notices of one of the divisions."""

    def __init__(self, followers: Followers) -> None:
        self._followers = followers

    async def stretch(self, segment: Segment, after: str, before: str, limit: int, only: str = "") -> Stretch:
        if only:  # from just before this one
            after, limit = only[:-1] + chr(ord(only[-1]) - 1) + LAST, 1
        keys = [*((ITEM, code) for code in segment.items), *((THEME, name) for name in segment.themes)]
        keys += [(NOTICE, code) for code in segment.divisions]
        parts = [await self._followers.subscribers(kind, self._key(kind, key), after, limit) for kind, key in keys]
        if only:
            return ([only] if [only] in parts else []), None
        # What was read of each key in full goes as far as the first that has more to give.
        end = min((part[-1] for part in parts if len(part) == limit), default=LAST)
        ids = sorted({each for part in parts for each in part if each <= end and each < before})
        return ids, end if end < before and end != LAST else None

    def _key(self, kind: str, key: str) -> str:
        try:
            return self._followers.resolve(kind, key)[0]
        except NotFound:  # withdrawn since the campaign was approved; its followers keep the key they had
            return key


def within(codes: Sequence[str], divisions: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return divisions and all that lie in them.

    Args:
        divisions: code -> {parent, ...}.
    """
    found = set(codes)
    while more := {code for code, row in divisions.items() if row["parent"] in found} - found:
        found |= more
    return tuple(sorted(found))


def to_document(segment: Segment) -> dict[str, Any]:
    return {
        "kind": segment.kind,
        "agency_id": segment.agency_id,
        "divisions": list(segment.divisions),
        "items": list(segment.items),
        "themes": list(segment.themes),
        "from_on": segment.from_on.isoformat() if segment.from_on else None,
        "until_on": segment.until_on.isoformat() if segment.until_on else None,
    }


def from_document(document: Mapping[str, Any]) -> Segment:
    return Segment(
        kind=document["kind"],
        agency_id=document["agency_id"],
        divisions=tuple(document["divisions"]),
        items=tuple(document["items"]),
        themes=tuple(document["themes"]),
        from_on=date.fromisoformat(document["from_on"]) if document["from_on"] else None,
        until_on=date.fromisoformat(document["until_on"]) if document["until_on"] else None,
    )


LAST = "\x7f"  # after every id


async def count(people: People, segment: Segment, most: int) -> tuple[int, bool]:
    """Return how many residents a segment has, counting no further than `most`, and whether there are more."""
    found, after = 0, ""
    while found <= most:
        ids, following = await people.stretch(segment, after, LAST, 5000)
        found += len(ids)
        if following is None:
            return min(found, most), found > most
        after = following
    return most, True
