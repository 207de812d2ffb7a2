"""The people of the sandbox: everything the platforms know of a person is made from the name, always the same."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode, urlsafe_b64encode
from dataclasses import dataclass

_CODE = re.compile(r"sim-(?P<name>\S(?:.{0,62}\S)?)", re.DOTALL)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_NUMBER = re.compile(r"\d{17}[\dX]")


@dataclass(frozen=True)
class Person:
    """One person as the platforms see it. The phone is one for all of them: a person has one phone."""

    name: str
    openid: str
    unionid: str
    phone: str
    alipay_user_id: str
    alipay_open_id: str
    alipay_union_id: str

    @property
    def official_openid(self) -> str:
        """At the city's official account; the unionid is the same there."""
        return "o" + _text("official", self.name, 27)

    @property
    def session_key(self) -> str:
        return b64encode(_hash("session_key", self.name)[:16]).decode()


def person(name: str) -> Person:
    """Make the person called `name`; equal names give equal people, on every machine."""
    return Person(
        name=name,
        openid="o" + _text("openid", name, 27),
        unionid="o" + _text("unionid", name, 27),
        phone="1" + str(3 + _number("phone-kind", name, 7)) + f"{_number('phone', name, 10**9):09d}",
        alipay_user_id=f"2088{_number('user_id', name, 10**12):012d}",
        alipay_open_id="0" + _text("open_id", name, 43),
        alipay_union_id="u" + _text("union_id", name, 43),
    )


def person_of_code(code: str) -> Person | None:
    """Read a login, phone or auth code `sim-<name>`; None for any other code."""
    match = _CODE.fullmatch(code)
    return person(match["name"]) if match else None


def is_id_number(text: str) -> bool:
    """Check form and check character of a citizen number (GB 11643-1999, ISO 7064 MOD 11-2)."""
    if not _ID_NUMBER.fullmatch(text):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(text, _ID_WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == text[17]


def pick(purpose: str, name: str, size: int) -> int:
    """Return a stable number below `size` for this purpose and person: plausible data without a random generator."""
    return _number(purpose, name, size)


def _hash(purpose: str, name: str) -> bytes:
    return hashlib.sha256(f"{purpose}:{name}".encode()).digest()


def _text(purpose: str, name: str, length: int) -> str:
    raw = _hash(purpose, name) + _hash(purpose + "+", name)
    return urlsafe_b64encode(raw).decode()[:length]


def _number(purpose: str, name: str, size: int) -> int:
    return int.from_bytes(_hash(purpose, name)[:12], "big") % size
