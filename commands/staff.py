"""Clerks' accounts in production: add, new password, disable. A password is read from the terminal or standard input, never from the
command line, where others could see it."""

import asyncio
from collections.abc import Awaitable, Callable

import click

from app.identity.staff import StaffAccounts
from app.kernel.crypto import KeyRing
from app.storage.mongo import Database
from commands.environment import load_catalogue, load_settings
from commands.servers import CannotStart

_password = click.option("--password", prompt=True, hide_input=True, confirmation_prompt=True, help="asked for when left out")


@click.group()
def command() -> None:
    """Clerks' accounts: add, password, disable."""


def _run(work: Callable[[StaffAccounts], Awaitable[bool]], missing: str) -> None:
    settings = load_settings()

    async def run() -> bool:
        database = Database(settings.mongodb_uri, settings.mongodb_database)
        try:
            return await work(StaffAccounts(database, KeyRing.from_text(settings.secret_keys, settings.field_cipher)))
        finally:
            await database.close()

    if not asyncio.run(run()):
        raise CannotStart(missing)
    click.echo("done")


@command.command()
@click.argument("account")
@click.option("--name", required=True, help="shown to colleagues")
@click.option("--role", type=click.Choice(["clerk", "head"]), required=True)
@click.option("--agency", required=True, help="id in config/catalogue/agencies.json")
@_password
def add(account: str, name: str, role: str, agency: str, password: str) -> None:
    """Add an account."""

    if agency not in {row["id"] for row in load_catalogue().agencies}:
        raise CannotStart(f"no agency {agency!r} in config/catalogue/agencies.json")
    _run(lambda staff: staff.add(account, name, role, agency, password), f"the account {account!r} exists already")


@command.command()
@click.argument("account")
@_password
def password(account: str, password: str) -> None:
    """Set a new password; sessions of the account end."""
    _run(lambda staff: staff.set_password(account, password), f"no account {account!r}")


@command.command()
@click.argument("account")
def disable(account: str) -> None:
    """Disable an account; its sessions end."""
    _run(lambda staff: staff.disable(account), f"no account {account!r}")
