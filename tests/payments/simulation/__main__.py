"""./hall simulate: runs of fresh seeds, or of one; what fails is made small and printed with the command that runs it again."""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from commands.servers import start_embedded
from tests.payments.simulation.plan import Plan, make_plan
from tests.payments.simulation.run import Result, run_plan
from tests.payments.simulation.shrink import shape_of, shrink

console = Console(highlight=False, soft_wrap=True)
_SHOWN = ("orders", "deaths", "transactions left open", "ledger entries", "notices refused", "virtual hours")
_GROUPS = ("order ", "attempt ", "refund ", "notice ", "finding ")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./hall simulate", description="Orders, providers, crashes: every fen must be explained.")
    parser.add_argument("--seed", type=int, help="of the first run; the next one is one more (default: at random)")
    parser.add_argument("--orders", type=int, default=400, help="per run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--minutes", type=float, help="begin no further run after this; instead of --runs")
    parser.add_argument("--keep", help="of the plan's actions these alone, numbers split by commas; one run")
    parser.add_argument("--no-shrink", action="store_true", help="print a failing plan as it is")
    parser.add_argument("--shrink-minutes", type=float, default=10)
    return parser.parse_args()


def main() -> int:
    options = _options()
    first = options.seed if options.seed is not None else random.randrange(10**6)
    total: Counter[str] = Counter()
    began, done = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="hall-simulate-") as folder:
        started = start_embedded(Path(folder), mongod=True, redis=True)
        servers = {"mongodb": started["mongod"].address, "redis": started["redis-server"].address}
        try:
            while _goes_on(options, done, time.monotonic() - began):
                plan = make_plan(first + done, options.orders)
                if options.keep:
                    plan = plan.keep([int(number) for number in options.keep.split(",")])
                result = _run(plan, servers, Path(folder) / "keys", f"seed {plan.seed}")
                done += 1
                total.update(result.counts)
                if not result.is_sound:
                    _report(result)
                    if not options.no_shrink and len(plan.actions) > 1:
                        _report(_shrunk(result, servers, Path(folder) / "keys", options.shrink_minutes))
                    return 1
                console.print(
                    f"seed {plan.seed}: {result.counts['orders']} orders, {result.counts['deaths']} deaths, "
                    f"{result.seconds:.0f} s: every fen explained"
                )
        finally:
            for server in started.values():
                server.stop()
    _summary(total, done, time.monotonic() - began)
    return 0


def _goes_on(options: argparse.Namespace, done: int, seconds: float) -> bool:
    if options.keep:
        return done < 1
    return seconds < options.minutes * 60 if options.minutes else done < options.runs


def _run(plan: Plan, servers: dict[str, str], keys: Path, title: str) -> Result:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        return asyncio.run(run_plan(plan, servers, keys, lambda done, of: progress.update(task, completed=done, total=of)))


def _shrunk(result: Result, servers: dict[str, str], keys: Path, minutes: float) -> Result:
    wanted, until, smallest = shape_of(result.problems[0]), time.monotonic() + minutes * 60, result

    async def fails(plan: Plan) -> bool:
        nonlocal smallest
        if time.monotonic() > until:
            return False
        tried = await run_plan(plan, servers, keys)
        failed = any(shape_of(problem) == wanted for problem in tried.problems)
        if failed:
            smallest = tried
        console.print(f"  {len(plan.actions)} actions: {'fails' if failed else 'holds'}")
        return failed

    console.print(f"leaving out what is not needed for: {wanted}")
    asyncio.run(shrink(result.plan, fails, result.suspects))
    return smallest


def _report(result: Result) -> None:
    console.print(f"[bold]seed {result.plan.seed}: {len(result.problems)} problems[/bold] ({len(result.plan.actions)} actions)")
    for problem in result.problems[:20]:
        console.print(f"  {problem}", markup=False)
    if len(result.plan.actions) <= 60:
        for action in result.plan.actions:
            console.print(f"  {action}", markup=False)
    console.print(f"again: {result.plan.command}", markup=False)


def _summary(total: Counter[str], runs: int, seconds: float) -> None:
    table = Table("what", "how many", title=f"{runs} runs in {seconds / 60:.1f} min, nothing unexplained")
    for name, count in sorted(total.items()):
        if name in _SHOWN or name.startswith(_GROUPS):
            table.add_row(name, f"{count:,}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
