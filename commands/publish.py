"""Validate config/catalogue and publish it as a version. Publishing what is published already changes nothing."""

import asyncio

import click

from app.catalogue.load import COUNTY_BODY, Catalogue
from app.kernel.clock import utc_now
from app.storage.mongo import Database
from app.storage.redis import connect
from commands.environment import load_catalogue, load_settings, start_logging


@click.command()
def command() -> None:
    """Validate config/catalogue and publish it as a version."""
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
            for name in await without_accounts(database, catalogue):
                click.echo(f"nobody works at {name}: its cases wait until `main.py staff add` makes an account", err=True)
        finally:
            await redis.aclose()
            await database.close()

    asyncio.run(run())


async def without_accounts(database: Database, catalogue: Catalogue) -> list[str]:
    """Return the bodies to which applications go and at which nobody has an account, by name, in the order of the catalogue."""
    handled = [item for item in catalogue.items if item["status"] == "published" and item["service_kind"] == "handle"]
    wanted = {item["agency"] for item in handled}
    for item in handled:
        counties = item.get("by_counties", ())
        wanted |= {
            row["id"]
            for row in catalogue.agencies
            if row["level"] == COUNTY_BODY and row["parent"] == item["agency"] and row["division"] in counties
        }
    known = set(await database["staff"].distinct("agency_id", {"disabled": {"$ne": True}}))
    return [f"{row['name']} ({row['id']})" for row in catalogue.agencies if row["id"] in wanted - known]
