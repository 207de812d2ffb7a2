"""Validate config/catalogue and publish it as a version. Publishing what is published already changes nothing."""

import asyncio

import click

from app.kernel.clock import utc_now
from app.storage.mongo import Database
from app.storage.redis import connect
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
        redis = connect(settings.redis_url)
        try:
            published = await publish(database, catalogue, now=utc_now(), redis=redis)
            click.echo(f"version {published.number}: {'published' if published.changed else 'unchanged'}")
        finally:
            await redis.aclose()
            await database.close()

    asyncio.run(run())
