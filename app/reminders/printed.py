"""Which days are told of when, as a table for docs/push.md: `python -m app.reminders.printed docs/push.md` writes it there."""

from app.kernel.printed import print_into_named
from app.reminders.model import KINDS

BEGIN, END = "<!-- reminders: begin, printed by python -m app.reminders.printed docs/push.md -->", "<!-- reminders: end -->"


def table() -> str:
    """Return every kind as a line of a Markdown table, between the two marks."""
    lines = ["| kind | told before its day | event |", "| --- | --- | --- |"]
    for kind, (event, days) in KINDS.items():
        when = f"{', '.join(map(str, days))} days" if days else "the working day before"
        lines.append(f"| `{kind}` | {when} | `{event}` |")
    return "\n".join([BEGIN, "", *lines, "", END])


if __name__ == "__main__":
    print_into_named(table())
