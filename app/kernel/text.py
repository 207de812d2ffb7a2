"""What people type or paste, without what nobody sees."""

import re

# Control characters but line ends and tabs; marks that turn the direction of what follows (a name or an amount would read otherwise than it
# is stored); spaces without width, which come along when a name is copied from a page and make it another name.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\uffff]")


def without_unseen(text: str) -> str:
    """Return a text without control characters, marks of direction and spaces of no width."""
    return _UNSEEN.sub("", text)
