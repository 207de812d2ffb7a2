"""Put dead events (those that kept failing) back in line."""

import asyncio

import click

from app.storage import relay
from app.storage.mongo import Database
from commands.environment import load_settings


@click.command()
@click.argument("event_id", required=False)
def command(event_id: str | None) -> None:
    """Put dead events (or the one named) back in line."""
    settings = load_settings()

    async def run() -> int:
        database = Database(settings.mongodb_uri, settings.mongodb_database)
        try:
            return await relay.replay(database, event_id)
        finally:
            await database.close()

    click.echo(f"{asyncio.run(run())} event(s) put back in line")
