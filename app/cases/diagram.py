"""The table of machine.py as a diagram and as text, for docs/cases.md: `python -m app.cases.diagram docs/cases.md` writes both there."""

from collections import defaultdict
from collections.abc import Iterable

from app.cases import machine
from app.cases.model import FINAL, State
from app.kernel.printed import print_into_named

BEGIN, END = "<!-- table: begin, printed by python -m app.cases.diagram docs/cases.md -->", "<!-- table: end -->"


def diagram(table: Iterable[machine.Transition]) -> str:
    """Return the rows that change a state as a mermaid state diagram."""
    names: dict[tuple[State, State], list[str]] = defaultdict(list)
    for row in table:
        for source in sorted(row.sources, key=list(State).index):
            if row.target is not None and row.name not in names[source, row.target]:
                names[source, row.target].append(row.name)
    lines = ["stateDiagram-v2", "    [*] --> draft"]
    lines += [f"    {source.value} --> {target.value}: {', '.join(found)}" for (source, target), found in names.items()]
    lines += [f"    {state.value} --> [*]" for state in State if state in FINAL]
    return "\n".join(lines)


def rows(table: Iterable[machine.Transition]) -> str:
    """Return every row as a line of a Markdown table."""
    lines = [
        "| step | who | from | to | must hold | clock | event | law |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in table:
        sources = ", ".join(state.value for state in State if state in row.sources)
        cells = (
            f"`{row.name}`", row.actor, sources, row.target.value if row.target else "stays", (row.guard.__doc__ or "").strip(),
            row.clock.value, f"`{row.event}`" if row.event else "-", row.law or "-",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def printed() -> str:
    """Return what stands between the two marks of docs/cases.md."""
    return f"{BEGIN}\n\n```mermaid\n{diagram(machine.TABLE)}\n```\n\n{rows(machine.TABLE)}\n\n{END}"


if __name__ == "__main__":
    print_into_named(printed())
