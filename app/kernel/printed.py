"""Tables that documents show as the code has them: printed between two marks, so that a test can compare them."""

import sys
from pathlib import Path


def with_printed(document: str, printed: str) -> str:
    """Return a document with `printed` in the place of what stands between its first and its last line, the two marks.

    Raises:
        ValueError: the document lacks a mark.
    """
    lines = printed.splitlines()
    before, rest = document.split(lines[0])
    _old, after = rest.split(lines[-1])
    return before + printed + after


def print_into_named(printed: str) -> None:
    """Write `printed` into the document that the command line names."""
    page = Path(sys.argv[1])
    page.write_text(with_printed(page.read_text(encoding="utf-8"), printed), encoding="utf-8")
