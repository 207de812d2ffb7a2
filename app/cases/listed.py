"""What is written beside a case so that its agencies find it: in their work lists, by number, and by what its applicant says of themselves.

Lists: one short key for each combination of agency, assignee, state, division and item that the case belongs to, so that any combination of
filters is one range of one index (queue.py). People: names, phones and numbers are sealed at rest; equal ones are found by blind index
(search.py). A hash is bound to the agency, so that nobody who reads the database can follow a person from one agency to the next.

All of it follows from the case and the key ring; `VERSION` says by which rules, and `./hall migrate` writes what is older anew.
"""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

from app.cases.model import CONSULTED, Case, State
from app.kernel.crypto import KeyRing

VERSION = 1
ANY = "*"
NOBODY = "-"
NO_DAY = "9999-12-31"  # `due_on` while nothing of the agency's is due

INDEXES = [
    IndexModel(
        [("queue_keys", ASCENDING), ("due_on", ASCENDING), ("_id", ASCENDING), ("submitted_at", ASCENDING)],
        name="queue",
        partialFilterExpression={"queue_keys": {"$exists": True}},
    ),
    IndexModel(
        [("find_by", ASCENDING), ("_id", DESCENDING)], name="find_by", partialFilterExpression={"find_by": {"$exists": True}}
    ),
    # What a clerk has at the window just now.
    IndexModel(
        [("taken_in_by", ASCENDING), ("state", ASCENDING), ("_id", DESCENDING)],
        name="taken_in",
        partialFilterExpression={"taken_in_by": {"$type": "string"}},
    ),
    # What a clerk has taken in at the window and handed in, newest first.
    IndexModel(
        [("taken_in_by", ASCENDING), ("_id", DESCENDING)],
        name="handed_in_by",
        partialFilterExpression={"taken_in_by": {"$type": "string"}},
    ),
    # The number from its end: people read out the last digits.
    IndexModel(
        [("worklist_agencies", ASCENDING), ("number_reversed", ASCENDING)],
        name="number_tail",
        partialFilterExpression={"number_reversed": {"$exists": True}},
    ),
]

# What of a form is whose: kind -> keys. The applicant and whoever comes in their place, not everybody who is named.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "org_name"),
    "phone": ("mobile", "agent_mobile"),
    "id": ("id_number",),
    "credit": ("uscc",),
}


def listed(case: Case, keys: KeyRing) -> dict[str, Any]:
    """Return the fields to write beside a case. A draft is the resident's own: no agency finds it."""
    if case.state is State.DRAFT:
        return {"listed_version": VERSION}
    agencies = agencies_of(case)
    return {
        "listed_version": VERSION,
        "worklist_agencies": agencies,
        "queue_keys": queue_keys(agencies, case),
        "find_by": find_by(agencies, case, keys),
        "number_reversed": case.number[::-1],
    }


def agencies_of(case: Case) -> list[str]:
    """Return the agencies that have to act on a case: its own, and the departments that are asked and have not answered."""
    asked = [each.agency_id for each in case.open_departments if case.state in CONSULTED and case.decision is None]
    return list(dict.fromkeys([case.agency_id, *asked]))


def queue_keys(agencies: list[str], case: Case) -> list[bytes]:
    """Return the keys under which a case stands in the lists of its agencies.

    An ended case is found when its state is asked for, not among what is open.
    """
    states = [case.state.value, ANY] if case.is_open else [case.state.value]
    # A town's case is its county's too: codes of towns begin with the county's six digits.
    places = sorted({ANY, case.division_code, case.division_code[:6]})
    combinations = itertools.product(agencies, (ANY, case.assignee or NOBODY), states, places, (ANY, case.item_code))
    return [queue_key(*parts) for parts in combinations]


def queue_key(agency: str, assignee: str, state: str, division: str, item: str) -> bytes:
    """Return the key of one combination. 96 bits: no two of them ever meet by chance, and the index stays small."""
    return hashlib.blake2b(f"{agency}/{assignee}/{state}/{division}/{item}".encode(), digest_size=12).digest()


def find_by(agencies: list[str], case: Case, keys: KeyRing) -> list[str]:
    """Return the blind indexes of a case, for each agency that may find it."""
    told = {
        (kind, value)
        for kind, names in _FIELDS.items()
        for key in names
        if (value := normalised(kind, str(case.form.get(key) or "")))
    }
    return [blind_indexes(keys, agency, kind, value)[0] for agency in agencies for kind, value in sorted(told)]


def blind_indexes(keys: KeyRing, agency: str, kind: str, value: str) -> list[str]:
    """Return the hashes under which a normalised value may be stored, the current key's first."""
    return keys.blind_indexes(f"{agency}|{value}", purpose=f"case.{kind}")


def normalised(kind: str, text: str) -> str:
    """Return what is compared: full and half width, blanks and the dots in names make no difference."""
    plain = "".join(unicodedata.normalize("NFKC", text).split())
    if kind == "name":
        return re.sub(r"[·•‧・.]", "", plain).casefold()
    if kind == "phone":
        return plain.replace("-", "").removeprefix("+86")
    return plain.upper()
