"""Who is signed in, and what a resident is."""

from dataclasses import dataclass
from datetime import datetime

# How surely we know who it is; an item says which level it needs (design.md, "Identity and security").
LEVEL_SIGNED_IN, LEVEL_PHONE, LEVEL_REAL_NAME, LEVEL_FACE = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class ResidentSession:
    """The resident of a request. `level` is at most a few seconds old; rules that need it read the resident itself."""

    resident_id: str
    session_id: str
    level: int
    channel: str  # wechat | alipay | sms


@dataclass(frozen=True)
class StaffSession:
    """The staff member of a request: one account, one role, one agency."""

    account: str
    name: str
    role: str  # clerk | head
    agency_id: str
    covers: frozenset[str] = frozenset()  # colleagues on leave today whose cases this person may act on


@dataclass(frozen=True)
class Resident:
    """A person, opened. Names and numbers are in clear here: never log or send one.

    `waits_to_join`: the person's number is that of another account too, which a face check has proven; one here joins the two.
    """

    id: str
    level: int
    name: str
    id_number: str
    phone: str
    address: str
    created_at: datetime
    version: int
    waits_to_join: bool = False
