"""The rules of the cards as a table, for docs/cases.md: `python -m app.supervision.printed docs/cases.md` writes it there."""

from app.kernel.printed import print_into_named
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


if __name__ == "__main__":
    print_into_named(table())
