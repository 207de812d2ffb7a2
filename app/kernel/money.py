"""Money is an int of fen. Yuan text is for providers and people only; a float never holds money."""

import re

_YUAN = re.compile(r"(0|[1-9]\d{0,11})(?:\.(\d{1,2}))?")


def yuan_text(fen: int) -> str:
    """Return fen as yuan with two decimals: 4000 -> `40.00`. Negative amounts keep their sign."""
    sign, rest = ("-", -fen) if fen < 0 else ("", fen)
    return f"{sign}{rest // 100}.{rest % 100:02d}"


def fen_from_yuan(text: str) -> int:
    """Read yuan text exactly: `40`, `40.0`, `40.00` -> 4000.

    Raises:
        ValueError: more than two decimals, a sign, an exponent, blanks, or anything else that is not plain yuan.
    """
    match = _YUAN.fullmatch(text)
    if match is None:
        raise ValueError(f"not an amount in yuan: {text!r}")
    yuan, decimals = match.groups()
    return int(yuan) * 100 + int((decimals or "").ljust(2, "0"))
