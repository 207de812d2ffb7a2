"""The tables of machine.py and what a contact is, for docs/feedback.md: `python -m app.feedback.printed docs/feedback.md` writes them there."""

from app.feedback import machine
from app.feedback.model import CONTACTS, KIND_NAMES, MATTERS
from app.kernel.printed import print_into_named

BEGIN, END = "<!-- tables: begin, printed by python -m app.feedback.printed docs/feedback.md -->", "<!-- tables: end -->"


def table(kind: str) -> str:
    """Return every row of a kind's table as a line of a Markdown table."""
    lines = ["| step | 步骤 | who | from | to | must hold | must say | event |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in machine.TABLES[kind]:
        cells = (
            f"`{row.name}`", machine.STEP_NAMES[row.name], row.actor, ", ".join(row.sources), row.target or "stays",
            (row.guard.__doc__ or "").strip(), ", ".join(row.needs) or "-", f"`{row.event}`" if row.event else "-",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def clocks(kind: str) -> str:
    """Return the clock of each state that has one, as a line."""
    return "; ".join(f"in `{state}` runs `{clock}`" for (of, state), clock in machine.CLOCK_OF.items() if of == kind)


def contacts() -> str:
    """Return what a service contact is, as a Markdown table."""
    lines = ["| event of a case | contact | name |", "| --- | --- | --- |"]
    lines += [f"| `{event}` | `{kind}` | {KIND_NAMES[kind]} |" for event, kind in CONTACTS.items()]
    lines.append(f"| {', '.join(f'`{event}`' for event in MATTERS)} | `matter` | {KIND_NAMES['matter']} |")
    return "\n".join(lines)


def printed() -> str:
    """Return what stands between the two marks of docs/feedback.md."""
    parts = [BEGIN, "### Contacts", contacts()]
    for kind, title in ((machine.CALL_BACK, "### Call-back (回访)"), (machine.COMPLAINT, "### Complaint (投诉)")):
        parts += [title, table(kind), f"Clocks: {clocks(kind)}."]
    return "\n\n".join([*parts, END])


if __name__ == "__main__":
    print_into_named(printed())
