"""Campaigns from a terminal: `./hall campaign <id>` watches one; list, show, pause and resume by name.

Looking needs no account: whoever may read the server's settings may read this. Pausing and resuming are steps of the table, taken as the
staff account that is named, and audited as such.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.identity.model import StaffSession
from app.kernel.errors import HallError
from commands.environment import load_settings, start_logging
from push.campaigns import machine

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True)
_EVERY_S = 0.5
_COUNTS = ("told", "muted", "sent", "inbox", "merged", "unclear", "failed", "waiting", "opened")
_OVER = (machine.FINISHED, machine.STOPPED)


class _Group(click.Group):
    """`campaign <id>` is `campaign watch <id>`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0].startswith("cpn_"):
            args = ["watch", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Group)
def command() -> None:
    """Campaigns: list, show, watch (or just the id), pause, resume."""


@command.command("list")
@click.option("--state", type=click.Choice(machine.STATES), default=None, help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
def list_command(state: str | None, limit: int) -> None:
    """Show the newest campaigns of all agencies."""

    async def work(hall: Any) -> list[dict[str, Any]]:
        rows, _cursor = await hall.campaigns.page(_reader(hall), state=state or "", everybody=True, limit=limit)
        return list(rows)

    table = Table("id", "agency", "title", "state", "told", "sent", "opened", "%", box=None, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap, table.columns[0].min_width = True, 30  # it is copied from here
    for row in _run(work):
        progress = row["progress"]
        figures = [str(progress[name]) for name in ("told", "sent", "opened", "percent")]
        table.add_row(row["id"], row["agency"]["id"], row["title"], row["state"], *figures)
    console.print(table)


@command.command("show")
@click.argument("campaign_id")
def show_command(campaign_id: str) -> None:
    """Show a campaign: what it says, to whom, how far it is, and its history."""
    row = _run(lambda hall: hall.campaigns.get(campaign_id, _reader(hall)))
    segment = {name: value for name, value in row["segment"].items() if value}
    for name, value in (
        ("id", row["id"]), ("agency", f"{row['agency']['id']} {row['agency']['name']}"), ("state", row["state"]), ("title", row["title"]),
        ("text", row["text"]), ("link", row["link"]), ("channels", ", ".join(row["channels"]) or "inbox alone"), ("segment", segment),
        ("rate", f"{row['rate']} a second"), ("start", row["start_at"] or "once approved"), ("authors", ", ".join(row["authors"])),
        ("approved by", row["approved_by"] or "-"), ("progress", _figures(row)),
    ):  # fmt: skip
        console.print(f"{name:<12} {value}")
    for line in row["history"]:
        console.print(f"{line['at']}  {line['step']:<10} {line['by']}  {line['note']}")


@command.command("watch")
@click.argument("campaign_id")
def watch_command(campaign_id: str) -> None:
    """Follow a campaign until it is over; Ctrl-C stops watching, not the campaign."""

    async def work(hall: Any) -> None:
        row = await hall.campaigns.get(campaign_id, _reader(hall))
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[figures]}"))
        with Progress(*columns, TimeElapsedColumn(), console=console, disable=not sys.stdout.isatty()) as progress:
            task = progress.add_task(row["state"], total=100, figures="")
            said = ""
            while True:
                progress.update(task, description=row["state"], completed=row["progress"]["percent"], figures=_figures(row))
                line = f"{row['state']} {row['progress']['percent']}% {_figures(row)}"
                if not sys.stdout.isatty() and line != said:
                    console.print(line)
                    said = line
                if row["state"] in _OVER:
                    return
                await asyncio.sleep(_EVERY_S)
                row = await hall.campaigns.get(campaign_id, _reader(hall))

    try:
        _run(work)
    except KeyboardInterrupt:
        console.print("the campaign goes on")


_by = click.option("--by", required=True, help="Staff account of who does it.")
_note = click.option("--note", default="", help="Why; stands in the history.")


@command.command("pause")
@click.argument("campaign_id")
@_by
@_note
def pause_command(campaign_id: str, by: str, note: str) -> None:
    """Hold a running campaign: within seconds nothing more leaves."""
    _step(campaign_id, "pause", by, note)


@command.command("resume")
@click.argument("campaign_id")
@_by
@_note
def resume_command(campaign_id: str, by: str, note: str) -> None:
    """Let a paused campaign go on where it was."""
    _step(campaign_id, "resume", by, note)


def _step(campaign_id: str, name: str, by: str, note: str) -> None:
    async def work(hall: Any) -> dict[str, Any]:
        staff = await hall.staff.person(by)
        if staff is None:
            raise click.ClickException(f"{by} is no staff account")
        found: dict[str, Any] = await hall.campaigns.act(campaign_id, staff, name, note=note)
        return found

    console.print(f"{campaign_id} is {_run(work)['state']}")


def _reader(hall: Any) -> StaffSession:
    # Of the agency that runs the hall, whose clerks read every campaign and take no step of another agency's.
    return StaffSession("terminal", "terminal", "clerk", hall.campaigns.operator)


def _figures(row: Mapping[str, Any]) -> str:
    progress = row["progress"]
    size = f"{progress['size']}{'+' if progress['size_is_more'] else ''}"
    return f"of {size}: " + ", ".join(f"{name} {progress[name]}" for name in _COUNTS if progress[name] or name in ("told", "sent"))


def _run(work: Callable[[Any], Awaitable[T]]) -> T:
    settings = load_settings()
    start_logging(settings, "campaign")

    async def run() -> T:
        from commands.assembly import assemble

        hall = await assemble(settings)
        try:
            return await work(hall)
        finally:
            await hall.close()

    try:
        return asyncio.run(run())
    except HallError as error:
        raise click.ClickException(f"{error.detail_en} ({error.code})") from error
