"""The books: prove them, show them, and take in what was paid before there was a ledger."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from app.kernel.money import yuan_text
from app.storage.mongo import Database
from commands.environment import load_settings
from payments.ledger import store
from payments.ledger.verify import Report, adopt, verify

T = TypeVar("T")


@click.group()
def command() -> None:
    """Prove the ledger; show its balances."""


@command.command("verify")
def verify_command() -> None:
    """Prove that every entry balances, every payment and refund is booked, and the chain is unbroken. Ends with 1 when not."""
    done = 0

    def show(count: int) -> None:
        nonlocal done
        done += count
        if sys.stderr.isatty():
            click.echo(f"\r{done:,} entries and orders", nl=False, err=True)

    report = _run(lambda database: verify(database, show))
    if sys.stderr.isatty():
        click.echo(err=True)
    _print(report)
    sys.exit(0 if report.is_clean else 1)


@command.command("balances")
def balances_command() -> None:
    """Show the balance of every account, in yuan. They sum to zero."""
    found = _run(store.balances)
    width = max((len(account) for account in found), default=10)
    for account in sorted(found):
        click.echo(f"{account:<{width}}  {_signed(found[account]):>18}")
    click.echo(f"{'sum':<{width}}  {_signed(sum(found.values())):>18}")


@command.command("adopt")
def adopt_command() -> None:
    """Book payments and refunds that are older than the ledger. Books nothing twice."""
    click.echo(f"{_run(adopt)} entries booked")


def _print(report: Report) -> None:
    for problem in report.problems:
        click.echo(f"WRONG  {problem}")
    click.echo(
        f"{report.entries} entries ({report.unsealed} not sealed yet), {report.blocks} blocks, {report.orders} paid orders; "
        f"head {report.head[:16]}"
    )
    click.echo("the ledger is in order" if report.is_clean else f"{len(report.problems)} problems: the ledger is NOT in order")


def _signed(fen: int) -> str:
    return f"-{yuan_text(-fen)}" if fen < 0 else yuan_text(fen)


def _run(work: Callable[[Database], Awaitable[T]]) -> T:
    settings = load_settings()

    async def run() -> T:
        database = Database(settings.mongodb_uri, settings.mongodb_database)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())
