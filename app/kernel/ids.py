"""Time-sortable ids with a prefix, and short codes that people read and type."""

import os
import secrets
import threading
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]  # ten bits at a time
_SHIFTS = range(120, -1, -10)
# No 0/O, 1/I/L, 2/Z, 5/S, 8/B: people read these codes from a text message or from paper.
_READABLE = "34679ACDEFGHJKMNPQRTUVWXY"

_lock = threading.Lock()
_last_ms = 0
_last_random = 0


def ulid() -> str:
    """Return a 26-character ULID, strictly increasing within this process (ulid/spec: monotonic)."""
    global _last_ms, _last_random
    with _lock:
        now_ms = time.time_ns() // 1_000_000
        if now_ms <= _last_ms:  # same millisecond, or the clock went back: count on, so order never turns
            _last_random += 1
        else:
            _last_ms = now_ms
            # The top bit stays clear so that counting on cannot overflow within a millisecond.
            _last_random = int.from_bytes(os.urandom(10)) >> 1
        value = (_last_ms << 80) | _last_random
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS])


def moment_of(ulid_text: str) -> float:
    """Return the moment in a ULID, in seconds since 1970. Raises ValueError for what is none."""
    if len(ulid_text) != 26 or any(character not in _CROCKFORD for character in ulid_text):
        raise ValueError("not a ULID")
    milliseconds = 0
    for character in ulid_text[:10]:
        milliseconds = milliseconds * 32 + _CROCKFORD.index(character)
    return milliseconds / 1000


def new_id(prefix: str) -> str:
    """Return a new id such as `case_01KB2M3N4P5Q6R7S8T9V0W1X2Y` (prefix, `_`, 26 characters of `[0-9A-Z]`)."""
    return f"{prefix}_{ulid()}"


def random_code(length: int) -> str:
    """Return an unguessable code of characters that cannot be mistaken for one another."""
    number = secrets.randbelow(len(_READABLE) ** length)  # one draw; a draw per character costs as many times as much
    text = ""
    for _ in range(length):
        number, place = divmod(number, len(_READABLE))
        text += _READABLE[place]
    return text


def random_digits(length: int) -> str:
    """Return an unguessable string of digits, leading zeros kept."""
    return f"{secrets.randbelow(10**length):0{length}d}"
