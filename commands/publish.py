"""Validate config/catalogue and publish it as a version. Publishing what is published already changes nothing."""

import asyncio

import click

from app.storage.mongo import Database
from commands.environment import load_settings, start_logging


@click.command()
def command() -> None:
    """Validate config/catalogue and publish it as a version."""
    from commands.assembly import load_catalogue

    settings = load_settings()
    start_logging(settings, "publish")
    catalogue = load_catalogue()

    async def run() -> None:
        from app.catalogue.publish import publish

        database = Database(settings.mongodb_uri, settings.mongodb_database)
        try:
            click.echo(await publish(database, catalogue))
        finally:
            await database.close()

    asyncio.run(run())
