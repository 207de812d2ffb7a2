"""The table of machine.py for docs/push.md: `python -m push.campaigns.printed docs/push.md` writes it there."""

from app.kernel.printed import print_into_named
from push.campaigns import machine

BEGIN, END = "<!-- campaigns: begin, printed by python -m push.campaigns.printed docs/push.md -->", "<!-- campaigns: end -->"


def printed() -> str:
    """Return what stands between the two marks of docs/push.md."""
    lines = ["| step | 步骤 | who | from | to | must hold | must say why |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for step in machine.TABLE:
        cells = (
            f"`{step.name}`", machine.STEP_NAMES[step.name], ", ".join(step.actors), ", ".join(step.sources), step.target or "stays",
            (step.guard.__doc__ or "").strip(), "yes" if step.needs_note else "-",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join([BEGIN, "\n".join(lines), END])


if __name__ == "__main__":
    print_into_named(printed())
