"""Compare a day's bills with the books and write a report for the accountant. Can be stopped and started again: it goes on."""

import asyncio
import shutil
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.kernel.clock import today
from app.kernel.money import yuan_text
from commands.environment import load_settings, start_logging
from payments.reconcile import words
from payments.reconcile.service import Outcome, Reconcile
from payments.reconcile.store import Busy

console = Console(highlight=False, soft_wrap=True)

_STAGES = {
    "fetch": "fetching the bill",
    "read": "reading the bill",
    "theirs": "bill -> our books",
    "ours": "our books -> bill",
    "again": "earlier differences",
}


@click.command()
@click.option("--day", "text", help="Shanghai day, YYYY-MM-DD; yesterday when left out.")
@click.option("--provider", type=click.Choice(["wechatpay", "alipay"]), help="One provider; both when left out.")
@click.option("--again", is_flag=True, help="Begin anew with the bill as it is now, also when the day is done.")
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), default=Path("."), help="Folder of the reports; here when left out."
)
def command(text: str | None, provider: str | None, again: bool, to: Path) -> None:
    """Compare a day's bills with the books; write reconcile-<provider>-<day>.html and .csv.

    Ends with 0 when all is done and nothing is open, 1 when differences are open, 2 when a bill is not there yet.
    """
    try:
        day = date.fromisoformat(text) if text else today() - timedelta(days=1)
    except ValueError as error:
        raise click.BadParameter("write it as YYYY-MM-DD", param_hint="--day") from error
    settings = load_settings()
    start_logging(settings, "reconcile")
    to.mkdir(parents=True, exist_ok=True)

    async def run() -> list[tuple[str, Outcome | None]]:
        from commands.assembly import assemble

        hall = await assemble(settings)
        try:
            return [(name, await _run(hall.reconcile, name, day, again)) for name in ([provider] if provider else hall.reconcile.bills)]
        finally:
            await hall.close()

    results = asyncio.run(run())
    for name, outcome in results:
        _show(name, day, outcome, to)
    if any(outcome is None or outcome.state != "done" for _, outcome in results):
        sys.exit(2)
    if any(outcome and outcome.document and (outcome.document.get("findings") or {}).get("open") for _, outcome in results):
        sys.exit(1)


async def _run(reconcile: Reconcile, provider: str, day: date, again: bool) -> Outcome | None:
    """Run one provider's day behind a progress bar; None when another process is at it."""
    columns = (
        SpinnerColumn(),
        TextColumn(f"{provider} {day}"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        shown = [""]

        def watch(stage: str, done: int, total: int) -> None:
            if shown[0] != stage:
                shown[0] = stage
                bar.reset(task, total=total or None, description=_STAGES.get(stage, stage))
            bar.update(task, completed=done, total=total or None)

        try:
            return await reconcile.run(provider, day, watch=watch, again=again)
        except Busy:
            return None


def _show(provider: str, day: date, outcome: Outcome | None, to: Path) -> None:
    name = f"{words.PROVIDERS[provider]} {day}"
    if outcome is None:
        console.print(f"{name}: another process is reconciling this day; try again in a minute")
        return
    if outcome.state != "done" or outcome.document is None:
        next_try: datetime | None = (outcome.document or {}).get("next_try_at")
        when = f"; the worker tries again at {words.moment(next_try)} (Shanghai)" if next_try else ""
        console.print(f"{name}: not done: {words.problem(outcome.problem)} ({outcome.problem}){when}")
        return
    progress, counts = outcome.document["progress"], outcome.document.get("findings") or {}
    table = Table(name, "bill", "yuan", "ours", "yuan ")
    for what in ("payments", "refunds"):
        theirs, ours = progress["theirs"], progress["ours"]
        table.add_row(
            what, f"{theirs[what]:,}", yuan_text(theirs[f"{what}_fen"]), f"{ours[what]:,}", yuan_text(ours[f"{what}_fen"])
        )
    console.print(table)
    console.print(
        f"{progress['matched']:,} agree; differences: {counts.get('open', 0)} open, {counts.get('waiting', 0)} wait for the next bill, "
        f"{counts.get('settled', 0)} settled"
    )
    for path in (outcome.html, outcome.csv):
        if path is not None:
            console.print(f"  {shutil.copy2(path, to / path.name)}")
