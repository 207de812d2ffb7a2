"""What push knows: the events it tells of, the channels, a person's preferences."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from typing import Any

from app.kernel.clock import SHANGHAI, format_utc

# Every event that a person is told of, by kind. The texts are in config/messages/<kind>.json: one for each, no other.
EVENTS: Mapping[str, tuple[str, ...]] = {
    "case": (
        "case.submitted",
        "case.fee_due",
        "case.fee_paid",
        "case.supplement_requested",
        "case.supplemented",
        "case.accepted",
        "case.not_accepted",
        "case.review_started",
        "case.suspended",
        "case.resumed",
        "case.deadline_changed",
        "case.payment_refused",
        "case.approved",
        "case.denied",
        "case.delivering",
        "case.completed",
        "case.withdrawn",
        "case.pre_reviewed",
        "case.deemed_accepted",
        "case.deemed_renewed",
        "case.escalated",
        "case.supplement_reminder",
        "case.supplement_expired",
        "case.fee_reminder",
        "case.suspension_overdue",
        "case.extended",
        "case.material_handed_in",
        "case.promise_overdue",
        "case.hearing_told",
        "case.hearing_asked",
        "case.hearing_waived",
        "case.licence_lost",
        "case.licence_regained",
        "case.material_replaced",
        "case.stage_finished",
        "case.transferred",
        "case.correction_asked",
        "case.correction_answered",
        "case.evaluated",
    ),
    "order": (
        "order.created",
        "order.paying",
        "order.paid",
        "order.closed",
        "order.payment_held",
        "order.payment_returned",
        "order.overpaid",
        "order.refunding",
        "refund.succeeded",
        "refund.abnormal",
        "refund.closed",
        "bill.payment_refused",
    ),
    "identity": ("identity.joined",),
    "feedback": (
        "call_back.opened",
        "call_back.answered",
        "call_back.corrected",
        "call_back.set_aside",
        "call_back.escalated",
        "complaint.submitted",
        "complaint.accepted",
        "complaint.refused",
        "complaint.extended",
        "complaint.referred",
        "complaint.appealed",
        "complaint.answered",
        "complaint.escalated",
    ),
    # What an agency tells many people at once (push/campaigns).
    "notice": ("campaign.sent",),
    "reminder": ("reminder.expiring", "reminder.points_cycle", "reminder.appointment"),
    # What somebody follows (push/subscriptions.py).
    "news": ("news.item_opened", "news.item_changed", "news.item_closed", "news.period_opened", "news.notice_published"),
}

# In the order in which they are tried: what costs the person and the city least comes first. `official` is the
# city's official account on WeChat, `app` the native app through JPush, `apns` the same through Apple, `voice` a call.
CHANNELS = ("wechat", "official", "alipay", "apns", "app", "email", "sms", "voice")
# Follow from others, so no message file names them (push/templates.py, chain_of).
DERIVED = frozenset({"apns", "voice"})
# One switch for both ways to the native app: a person does not know which of them it is.
SWITCH_OF: Mapping[str, str] = {"apns": "app"}
# In elder mode first, in this order: they need no app and nobody has to read.
ELDER_FIRST = ("sms", "voice")
LANGUAGES = ("zh", "en")
# Kinds whose messages one may refuse altogether: `inbox` is a switch of its own there. What is decided about a person never is.
REFUSABLE = frozenset({"notice", "reminder", "news"})
# Channels that carry a kind only to those who asked for it: a text message nobody waits for is a nuisance, and so is a call.
# A reminder is of one's own days, and may come by text message when nothing else reaches.
ASKED_ONLY: Mapping[str, frozenset[str]] = {
    kind: frozenset({"sms"}) if kind in REFUSABLE - {"reminder"} else frozenset({"voice"}) for kind in EVENTS
}
MAX_QUIET = 200  # cases and items of one person that are kept quiet
STREAM_CHANNEL = "stream"  # of Redis: a message is the id of the person who has something new


@dataclass(frozen=True)
class Preferences:
    """What a person wants. The inbox and the live stream cannot be turned off: a legal notice is always there. Only REFUSABLE kinds can be.

    Attributes:
        muted: per kind the channels that are off.
        asked: per kind the channels of ASKED_ONLY that are on.
        quiet_from, quiet_to: Shanghai times between which nothing goes out that can wait (may pass midnight), or None.
        elder_mode: ELDER_FIRST, and calls without having asked for them.
        quiet_cases, quiet_items: cases (or orders, ...) by id and items by code of which only what must arrive leaves the hall.
        language: of titles and texts.
    """

    muted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    quiet_from: time | None = None
    quiet_to: time | None = None
    elder_mode: bool = False
    language: str = "zh"
    asked: Mapping[str, frozenset[str]] = field(default_factory=dict)
    quiet_cases: frozenset[str] = frozenset()
    quiet_items: frozenset[str] = frozenset()

    def allows(self, kind: str, channel: str) -> bool:
        channel = SWITCH_OF.get(channel, channel)
        if channel in ASKED_ONLY.get(kind, frozenset()) and not (channel == "voice" and self.elder_mode):
            return channel in self.asked.get(kind, frozenset())
        return channel not in self.muted.get(kind, frozenset())

    def refuses(self, kind: str) -> bool:
        """Say whether this person wants no message of a kind at all."""
        return kind in REFUSABLE and not self.allows(kind, "inbox")

    def silences(self, subject_id: str, item_code: str) -> bool:
        """Say whether of this matter only what must arrive may leave the hall."""
        return subject_id in self.quiet_cases or item_code in self.quiet_items

    def quiet_until(self, now: datetime) -> datetime | None:
        """Return the end of the quiet hours in which `now` falls, or None."""
        if self.quiet_from is None or self.quiet_to is None or self.quiet_from == self.quiet_to:
            return None
        local = now.astimezone(SHANGHAI)
        clock = local.time()
        over_midnight = self.quiet_from > self.quiet_to
        if over_midnight:
            is_quiet = clock >= self.quiet_from or clock < self.quiet_to
        else:
            is_quiet = self.quiet_from <= clock < self.quiet_to
        if not is_quiet:
            return None
        day = local.date() + timedelta(days=1 if over_midnight and clock >= self.quiet_from else 0)
        return datetime.combine(day, self.quiet_to, SHANGHAI)

    def view(self) -> dict[str, Any]:
        """Return them as the API shows them: every kind and channel with true or false."""
        quiet = None
        if self.quiet_from is not None and self.quiet_to is not None:
            quiet = {"from": f"{self.quiet_from:%H:%M}", "to": f"{self.quiet_to:%H:%M}"}
        return {
            "kinds": {kind: {channel: self.allows(kind, channel) for channel in switches(kind)} for kind in EVENTS},
            "quiet_hours": quiet,
            "elder_mode": self.elder_mode,
            "quiet_cases": sorted(self.quiet_cases),
            "quiet_items": sorted(self.quiet_items),
            "language": "zh-CN" if self.language == "zh" else self.language,
        }

    def to_document(self) -> dict[str, Any]:
        return {
            "muted": {kind: sorted(channels) for kind, channels in self.muted.items() if channels},
            "quiet_from": self.quiet_from.isoformat("minutes") if self.quiet_from else None,
            "quiet_to": self.quiet_to.isoformat("minutes") if self.quiet_to else None,
            "elder_mode": self.elder_mode,
            "language": self.language,
            "quiet_cases": sorted(self.quiet_cases),
            "quiet_items": sorted(self.quiet_items),
            "asked": {kind: sorted(channels) for kind, channels in self.asked.items() if channels},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None) -> "Preferences":
        if document is None:
            return cls()
        return cls(
            muted={kind: frozenset(channels) for kind, channels in document["muted"].items()},
            quiet_from=time.fromisoformat(document["quiet_from"]) if document["quiet_from"] else None,
            quiet_to=time.fromisoformat(document["quiet_to"]) if document["quiet_to"] else None,
            elder_mode=document["elder_mode"],
            language=document["language"],
            asked={kind: frozenset(channels) for kind, channels in document.get("asked", {}).items()},
            quiet_cases=frozenset(document.get("quiet_cases", ())),
            quiet_items=frozenset(document.get("quiet_items", ())),
        )


def with_wishes(now: Preferences, wanted: Mapping[str, Any]) -> Preferences:
    """Return preferences with what `wanted` names changed (Push.set_preferences), the rest as it is."""
    muted, asked = ({kind: set(channels) for kind, channels in given.items()} for given in (now.muted, now.asked))
    for kind, switches in wanted.get("kinds", {}).items():
        for channel, is_on in switches.items():
            if is_on == now.allows(kind, channel):  # a client that sends all it was shown has decided nothing
                continue
            (muted.setdefault(kind, set()).discard if is_on else muted.setdefault(kind, set()).add)(channel)
            (asked.setdefault(kind, set()).add if is_on else asked.setdefault(kind, set()).discard)(channel)
    quiet = (now.quiet_from, now.quiet_to)
    if "quiet_hours" in wanted:
        hours = wanted["quiet_hours"]
        quiet = (hours["from"], hours["to"]) if hours else (None, None)
    return Preferences(
        muted={kind: frozenset(channels) for kind, channels in muted.items()},
        quiet_from=quiet[0],
        quiet_to=quiet[1],
        elder_mode=wanted.get("elder_mode", now.elder_mode),
        language=wanted.get("language", now.language).partition("-")[0],
        quiet_cases=frozenset(wanted.get("quiet_cases", now.quiet_cases)),
        quiet_items=frozenset(wanted.get("quiet_items", now.quiet_items)),
        asked={kind: frozenset(asked.get(kind, ())) & ASKED_ONLY[kind] for kind in ASKED_ONLY},
    )


def joined(own: Preferences, other: Preferences) -> Preferences:
    """Return the preferences of a person whose two accounts are one now: their own, and the quiet that they asked for on the other."""
    hours = own if own.quiet_from is not None else other
    return replace(
        own,
        quiet_from=hours.quiet_from,
        quiet_to=hours.quiet_to,
        quiet_cases=_both(own.quiet_cases, other.quiet_cases),
        quiet_items=_both(own.quiet_items, other.quiet_items),
    )


def _both(own: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    return frozenset([*sorted(own), *sorted(other - own, reverse=True)][:MAX_QUIET])  # of the other's the newest cases


def switches(kind: str) -> tuple[str, ...]:
    """Return what a person can turn on and off for a kind."""
    own = tuple(channel for channel in CHANNELS if channel not in SWITCH_OF)
    return ("inbox", *(channel for channel in own if channel != "voice")) if kind in REFUSABLE else own


def stream_id(seq: int) -> str:
    """Return a sequence number as the stream's id: text that sorts as the number does."""
    return f"{seq:012d}"


def view_message(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored message as the inbox and the stream show it."""
    subject = document["subject"]
    return {
        "id": document["_id"],
        "at": format_utc(document["at"]),
        "kind": document["kind"],
        "title": document["title"],
        "body": document["body"],
        "link": document["link"],
        "read_at": format_utc(document["read_at"]),
        "event": document["event"],
        "subject": subject,
        "case_id": subject["id"] if subject["kind"] == "case" else None,
        "order_id": subject["id"] if subject["kind"] == "order" else document.get("order_id"),
        "state": document["state"],
    }
