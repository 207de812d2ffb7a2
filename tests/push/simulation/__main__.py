"""./hall simulate messages: a run of a seed; what fails is printed with the command that runs it again."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from commands.servers import start_embedded
from tests.push.simulation.plan import make_plan
from tests.push.simulation.run import Result, run_plan

_MEMORY = Path("/dev/shm")  # noqa: S108
_MEMORY_BYTES = 6 * 2**30

console = Console(highlight=False, soft_wrap=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./hall simulate messages", description="Intents, vendors, crashes: nobody is left untold.")
    parser.add_argument("--seed", type=int, help="default: at random")
    parser.add_argument("--intents", type=int, default=3000)
    parser.add_argument("--deaths", type=int, help="of processes; default: as many as fit the size")
    return parser.parse_args()


def main() -> int:
    options = _options()
    plan = make_plan(options.seed if options.seed is not None else random.randrange(10**6), options.intents, deaths=options.deaths)
    is_roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES
    with tempfile.TemporaryDirectory(prefix="hall-simulate-", dir=_MEMORY if is_roomy else None) as folder:
        started = start_embedded(Path(folder), mongod=True, redis=True, journal_every_ms=5)
        servers = {"mongodb": started["mongod"].address, "redis": started["redis-server"].address}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        try:
            with Progress(*columns, console=console, transient=True) as progress:
                task = progress.add_task(f"seed {plan.seed}: told", total=len(plan.intents))
                result = asyncio.run(
                    run_plan(plan, servers, Path(folder) / "keys", lambda done, of: progress.update(task, completed=done, total=of))
                )
        finally:
            for server in started.values():
                server.stop()
    _report(result)
    return 0 if result.is_sound else 1


def _report(result: Result) -> None:
    for problem in result.problems:
        console.print(f"  {problem}", markup=False)
    table = Table("what", "how many", title=f"seed {result.plan.seed}: {len(result.plan.intents):,} intents")
    for name, count in sorted(result.counts.items()):
        table.add_row(name, f"{count:,}")
    for name, seconds in result.figures.items():
        table.add_row(name, f"{seconds:,.2f} s")
    console.print(table)
    console.print("every intent is explained" if result.is_sound else f"{len(result.problems)} problems; again: {result.plan.command}")


if __name__ == "__main__":
    sys.exit(main())
