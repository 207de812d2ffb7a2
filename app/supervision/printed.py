"""The rules of the cards as a table, for docs/cases.md: `python -m app.supervision.printed docs/cases.md` writes it there."""

import sys
from pathlib import Path

from app.supervision.cards import RULES

BEGIN, END = "<!-- cards: begin, printed by python -m app.supervision.printed docs/cases.md -->", "<!-- cards: end -->"


def table() -> str:
    """Return every rule as a line of a Markdown table, between the two marks."""
    lines = ["| rule | card | made of | to | settled by the end of | says |", "| --- | --- | --- | --- | --- | --- |"]
    for rule in RULES:
        when = ", ".join(f"{name}: {str(value).lower()}" for name, value in rule.when.items())
        made_of = f"`{rule.event}`" + (f" ({when})" if when else "")
        lines.append(f"| `{rule.key}` | {rule.card} | {made_of} | {rule.to} | {rule.clock} | {rule.name} |")
    return "\n".join([BEGIN, "", *lines, "", END])


def with_table(text: str) -> str:
    """Return a document with the printed table between its marks. Raises ValueError when a mark is missing."""
    before, rest = text.split(BEGIN)
    _old, after = rest.split(END)
    return before + table() + after


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
