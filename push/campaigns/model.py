"""What a campaign says: what must hold of it, the event it becomes for each person, and how it is shown."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Protocol

from pymongo import ASCENDING, DESCENDING, IndexModel

from app.kernel import context
from app.kernel.clock import format_utc
from app.kernel.errors import Conflict, ErrorRow, Forbidden, NotFound, error_row
from app.kernel.events import Event
from app.kernel.text import without_unseen
from push.campaigns import machine
from push.campaigns.segments import ALL, NEEDS, Segment, to_document
from push.model import SWITCH_OF, Preferences
from push.templates import EventSpec

EVENT = "campaign.sent"
KIND = "notice"
# How a message that is counted ended; `muted` was never written. docs/push.md says what each means.
OUTCOMES = ("sent", "inbox", "failed", "unclear", "merged")
COUNTS = (*OUTCOMES, "opened")
COUNT_AT_MOST = 100_000
MOST_TESTS = 20
LONGEST_WAIT = timedelta(days=90)
SHORTEST_TITLE, SHORTEST_TEXT = 2, 5
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2099, 12, 31)  # of a segment's days
RATES = (1, 500)  # persons per second
_LINK = re.compile(r"/(?![/\\])[^\x00-\x20\x7f\\{}]+")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
# What a text message gateway charges: one part of 70 characters, or parts of 67.
_SMS_ALONE, _SMS_PART = 70, 67

INDEXES = {
    "campaigns": [
        IndexModel([("agency_id", ASCENDING), ("_id", DESCENDING)], name="of_agency"),
        # What waits for a second person.
        IndexModel([("state", ASCENDING)], name="to_approve", partialFilterExpression={"state": machine.SUBMITTED}),
        # What the worker looks at: few, however many campaigns there have been.
        IndexModel([("is_active", ASCENDING), ("next_at", ASCENDING)], name="active", partialFilterExpression={"is_active": True}),
    ],
    "campaign_tallies": [],  # by _id, the event of the campaign (counting.py)
}
# What is not counted yet leaves these when it is: both stay as small as the campaigns that run (messages: and what nobody opened).
COUNTING_INDEXES = {
    "deliveries": [
        IndexModel(
            [("is_open", ASCENDING), ("event_id", ASCENDING), ("lane", ASCENDING)],
            name="to_count",
            partialFilterExpression={"is_counted": False},
        )
    ],
    "messages": [
        IndexModel([("unread", ASCENDING), ("event_id", ASCENDING)], name="to_count", partialFilterExpression={"is_counted": False})
    ],
}


class CampaignNotFound(NotFound):
    code = "campaign.not_found"


class CampaignConflict(Conflict):
    """Somebody else changed it first: reload, then decide again."""

    code = "campaign.conflict"


class StepNotAllowed(Conflict):
    """Not in this state."""

    code = "campaign.action_not_allowed"


class StepForbidden(Forbidden):
    """Not for this person: the head, a second person, or the agency that runs the hall must do it."""

    code = "campaign.not_yours_to_do"


class Catalogue(Protocol):
    """What is asked of the published catalogue."""

    @property
    def snapshot(self) -> Any: ...  # .by_name .divisions .themes

    def agency(self, agency_id: str) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Content:
    """What an agency writes. English may be empty: then everybody reads Chinese.

    Attributes:
        link: a path inside the hall.
        channels: which may carry it outside the hall; none: the inbox alone.
        rate: persons per second.
        start_at: not before this moment; None: as soon as it is approved.
    """

    title: str
    text: str
    title_en: str
    text_en: str
    link: str
    channels: tuple[str, ...]
    rate: int
    start_at: datetime | None
    segment: Segment

    def to_document(self) -> dict[str, Any]:
        return vars(self) | {"channels": list(self.channels), "segment": to_document(self.segment)}


def mistakes(content: Content, catalogue: Catalogue, carriers: Collection[str], now: datetime) -> list[ErrorRow]:
    """Return what must be mended, one row per field.

    Args:
        carriers: the channels that may carry a campaign at all (config/messages/notice.json).
    """
    rows: list[ErrorRow] = []

    def wrong(pointer: str, detail: str) -> None:
        rows.append(error_row(pointer, "invalid", detail))

    for name, text in (("title", content.title), ("title_en", content.title_en)):
        if len(text.splitlines()) > 1 or _CONTROL.search(text):
            wrong(f"/{name}", "标题写在一行里，不要有特殊字符")
    for name, text in (("text", content.text), ("text_en", content.text_en)):
        if _CONTROL.search(text):
            wrong(f"/{name}", "正文里有不能显示的字符")
    # What nobody sees says nothing: blanks, and what is left out of every text.
    for name, text, least in (("title", content.title, SHORTEST_TITLE), ("text", content.text, SHORTEST_TEXT)):
        if len(without_unseen(text).strip()) < least:
            wrong(f"/{name}", f"至少写{least}个看得见的字")
    if bool(content.title_en) != bool(content.text_en):
        wrong("/title_en" if content.text_en else "/text_en", "英文标题和英文正文要么都写，要么都不写")
    if not _LINK.fullmatch(content.link):
        wrong("/link", "应为本大厅里的地址，以 / 开头，例如 /items/id_card_lost")
    for channel in content.channels:
        if channel not in carriers:
            wrong("/channels", f"群发通知不能用 {channel} 发送")
    if content.start_at is not None and content.start_at > now + LONGEST_WAIT:
        wrong("/start_at", f"最多提前{LONGEST_WAIT.days}天安排")
    elif content.start_at is not None and content.start_at < now - LONGEST_WAIT:  # one that has just passed means "at once"
        wrong("/start_at", "这个时刻早就过了，请重新填写；马上发送的，这一项留空")
    return rows + _segment_mistakes(content.segment, catalogue)


def _segment_mistakes(segment: Segment, catalogue: Catalogue) -> list[ErrorRow]:
    rows: list[ErrorRow] = []
    given = {name for name in ("divisions", "items", "themes", "from_on", "until_on") if getattr(segment, name)}
    for name in sorted(given - NEEDS[segment.kind]):
        rows.append(error_row(f"/segment/{name}", "invalid", "这类收件人不用填这一项"))
    if segment.kind != ALL and not given & {"divisions", "items", "themes"}:
        name = "items" if "items" in NEEDS[segment.kind] else "divisions"
        rows.append(error_row(f"/segment/{name}", "required", "请至少选一个"))
    snapshot = catalogue.snapshot
    themes = {row["name"] for row in snapshot.themes}
    known: Mapping[str, Callable[[str], bool]] = {
        "divisions": lambda code: code in snapshot.divisions,
        "items": lambda code: code in snapshot.by_name,
        "themes": lambda code: code in themes,
    }
    for name, is_known in known.items():
        for code in getattr(segment, name):
            if not is_known(code):
                rows.append(error_row(f"/segment/{name}", "unknown", f"没有找到：{code}"))
    for name in ("from_on", "until_on"):
        day = getattr(segment, name)
        if day is not None and not FIRST_DAY <= day <= LAST_DAY:
            rows.append(error_row(f"/segment/{name}", "invalid", f"日期应在{FIRST_DAY.year}年到{LAST_DAY.year}年之间"))
    if segment.from_on and segment.until_on and segment.from_on > segment.until_on:
        rows.append(error_row("/segment/until_on", "invalid", "结束日期不能早于开始日期"))
    return rows


def chain(channels: Collection[str], spec: EventSpec, wishes: Preferences) -> EventSpec:
    """Return how one person is told: on the channels that the agency chose and the person wants, in the order of all.

    Most want none outside the hall: their delivery is final at once (`inbox`), and the channels' workers have nothing to do with it.
    """
    wanted = (name for name in spec.channels if SWITCH_OF.get(name, name) in channels and wishes.allows(KIND, name))
    return replace(spec, channels=tuple(wanted))


def event_of(campaign: Mapping[str, Any], owner_id: str, now: datetime, *, event_id: str = "", mark: str = "") -> Event:
    """Return what happens to one person. Its id is the campaign's: with the person's it is unique, so each is told once.

    Args:
        event_id, mark: of a test, an id of its own, and what stands before the title.
    """
    data = {
        "item_name": mark + campaign["title"],
        "item_name_en": mark + campaign["title_en"] if campaign["title_en"] else "",
        "text": campaign["text"],
        "text_en": campaign["text_en"],
        "path": campaign["link"][1:],
        "agency_id": campaign["agency_id"],
        "agency_name": campaign["agency_name"],
    }
    subject_id = event_id or campaign["_id"]
    return Event(subject_id, EVENT, now, "campaign", subject_id, owner_id, data, context.request_id.get())


def sms_parts(text: str) -> int:
    units = len(text.encode("utf-16-le")) // 2  # as the carriers count: a picture or a rare character is two
    return 1 if units <= _SMS_ALONE else -(-units // _SMS_PART)


def progress(campaign: Mapping[str, Any], tally: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts as they stand: each was added up when it happened, none is counted over all rows.

    `size` is what the segment had when it was handed in; `percent` of it was written to or wants none. `waiting`: written to the inbox, not
    yet sent.
    """
    counts = {name: int(tally.get(name, 0)) for name in COUNTS}
    told, muted, size = int(campaign["told"]), int(campaign["muted"]), campaign["size"] or {"count": 0, "is_more": False}
    is_over = campaign["state"] == machine.FINISHED
    reached = 100 if is_over else min(99, 100 * (told + muted) // max(1, size["count"]))
    return {
        "size": size["count"],
        "size_is_more": size["is_more"],
        "percent": reached,
        "told": told,
        "muted": muted,
        **counts,
        "waiting": max(0, told - sum(counts[name] for name in OUTCOMES)),
    }


def view(campaign: Mapping[str, Any], tally: Mapping[str, Any], actor: machine.Actor, now: datetime) -> dict[str, Any]:
    """Return a campaign as staff see it, with what this person can do now."""
    return {
        "id": campaign["_id"],
        "version": campaign["version"],
        "state": campaign["state"],
        "state_name": machine.STATE_NAMES[campaign["state"]],
        "agency": {"id": campaign["agency_id"], "name": campaign["agency_name"]},
        **{name: campaign[name] for name in ("title", "text", "title_en", "text_en", "link", "channels", "rate")},
        "start_at": format_utc(campaign["start_at"]),
        "segment": {name: value for name, value in campaign["segment"].items() if name != "agency_id"},
        "needs_operator": campaign["needs_operator"],
        "authors": campaign["authors"],
        "created_at": format_utc(campaign["created_at"]),
        "approved_by": campaign["approved_by"],
        "progress": progress(campaign, tally),
        "allowed_actions": machine.allowed(campaign, actor, now),
        "history": [
            {"at": format_utc(row["at"]), "by": row["by"], "step": row["step"], "name": machine.STEP_NAMES[row["step"]], "note": row["note"]}
            for row in campaign["history"]
        ],
    }
