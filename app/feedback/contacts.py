"""What can be rated once: a contact of a case (一次一评), a finished matter (一事一评), a consultation (咨询); as documents, shown, and by code. Pure.

A contact's id is made of what it was: the event of the case, the case itself for a matter, the conversation for a consultation with the
assistant. So what comes twice makes one.
"""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.feedback.model import KIND_NAMES, UNRATED, Rules
from app.kernel.clock import format_utc, shanghai_day
from app.kernel.crypto import KeyRing
from app.kernel.events import Event
from app.kernel.ids import moment_of

_SIGNATURE = 20  # hex characters: 80 bits, and the id before it is unguessable too
STORED, CONVERSATION = "rating", "conversation"  # purposes of a signature: a contact that is stored, a conversation that may become one
CONSULTATION = "consultation"
_LAST = 4e9  # a ULID can name the year 10000


def of_event(event: Event, owner_id: str, kind: str, *, is_online: bool) -> dict[str, Any]:
    """Return the document of a contact of a case; that of a matter has its case's id, any other its event's."""
    source = event.subject_id if kind == "matter" else event.id
    return {
        "_id": f"con_{source.rpartition('_')[2]}",
        "kind": kind,
        "case_id": event.subject_id,
        "owner_id": owner_id,
        "number": event.data["number"],
        "item_code": event.data["item_code"],
        "item_name": event.data["item_name"],
        "agency_id": event.data["agency_id"],
        "agency_name": event.data["agency_name"],
        "is_online": is_online,
        "at": event.at,
        "on": shanghai_day(event.at).isoformat(),
        "state": UNRATED,
    }


def of_consultation(
    contact_id: str, at: datetime, agency: Mapping[str, Any], *, is_online: bool, item: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the document of a consultation: with the assistant (and whoever it was handed over to), or at a window. Nobody's: it has no owner."""
    return {
        "_id": contact_id,
        "kind": CONSULTATION,
        "case_id": "",
        "owner_id": "",
        "number": "",
        "item_code": item["code"] if item else CONSULTATION,
        "item_name": item["name"] if item else KIND_NAMES[CONSULTATION],
        "agency_id": agency["id"],
        "agency_name": agency["name"],
        "is_online": is_online,
        "at": at,
        "on": shanghai_day(at).isoformat(),
        "state": UNRATED,
    }


def subject_of(contact: Mapping[str, Any]) -> str:
    """Return under which id the audit says who took part: the case's, or a consultation's own."""
    return str(contact["case_id"] or contact.get("contact_id") or contact["_id"])


def view(row: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Return a contact as the API gives it: what it was, what can be ticked, and whether it is rated."""
    mode = "online" if row["is_online"] else "offline"
    return {
        "id": row["_id"],
        "kind": row["kind"],
        "kind_name": KIND_NAMES[row["kind"]],
        "at": format_utc(row["at"]),
        "item": {"code": row["item_code"], "name": row["item_name"]},
        "agency": {"id": row["agency_id"], "name": row["agency_name"]},
        "state": row["state"],
        "level": row.get("level"),
        "followed_up": bool(row.get("followed_up")),
        "tags": {str(level): list(tags) for level, tags in rules.tags[mode].items()},
    }


# --- one-time codes, for a link or a QR code ---


def code(keys: KeyRing, source: str, purpose: str = STORED) -> str:
    """Return the signed code of a contact or a conversation: its ULID and a signature."""
    ulid = source.rpartition("_")[2]
    return ulid + keys.blind_index(ulid, purpose=purpose)[:_SIGNATURE]


def read_code(keys: KeyRing, text: str) -> tuple[str, str] | None:
    """Return (ULID, purpose) of a code of ours, or None."""
    ulid, signature = text[:26], text[26:]
    if not text.isascii():
        return None
    for purpose in (STORED, CONVERSATION):
        if any(hmac.compare_digest(signature, index[:_SIGNATURE]) for index in keys.blind_indexes(ulid, purpose=purpose)):
            return ulid, purpose
    return None


def of_conversation(conversation_id: str, keys: KeyRing, agency: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a conversation with the assistant, which nobody stored.

    The client names its conversation, so the contact's id is made with a key: nobody can aim it at another contact. Its beginning stays the
    ULID's time, by which lists are sorted.
    """
    ulid = conversation_id.rpartition("_")[2]
    own = ulid[:10] + keys.blind_index(ulid, purpose=CONVERSATION + ".id")[:16].upper()
    return of_consultation(f"con_{own}", began_at(conversation_id), agency, is_online=True)


def began_at(conversation_id: str) -> datetime:
    """Return when a conversation began. Raises ValueError for an id that is none of ours."""
    prefix, _, ulid = conversation_id.rpartition("_")
    moment = moment_of(ulid)
    if prefix != "conv" or moment > _LAST:
        raise ValueError("not a conversation")
    return datetime.fromtimestamp(moment, UTC)
