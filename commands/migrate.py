"""Create the indexes and bring older data up to date; in dev and test also publish the catalogue and make the demo accounts. Safe to run any number of times."""

import asyncio

import click
import structlog
from pymongo.errors import PyMongoError

from app.cases.store import CaseStore
from app.feedback.sealing import seal_old_texts
from app.identity.staff import StaffAccounts
from app.kernel.clock import utc_now
from app.kernel.crypto import KeyRing
from app.storage.migrations import Migration, migrate
from app.storage.mongo import Database, ensure_indexes, wait_until_up
from commands.environment import load_catalogue, load_settings, start_logging
from commands.servers import TRANSACTION_LIFETIME_S
from config.settings import Settings

log = structlog.get_logger(__name__)


@click.command()
@click.option("--with-demo", is_flag=True, help="dev and test: publish config/catalogue and make demo staff accounts.")
def command(with_demo: bool) -> None:
    """Create indexes, bring older data up to date."""
    settings = load_settings()
    start_logging(settings, "migrate")
    asyncio.run(prepare(settings, with_demo=with_demo and not settings.is_production))


async def prepare(settings: Settings, *, with_demo: bool) -> None:
    """Make the database ready for web and worker. Several may do so at once."""
    from app.catalogue.publish import publish
    from commands.indexes import INDEXES

    database = Database(settings.mongodb_uri, settings.mongodb_database)
    try:
        await wait_until_up(database, 10)
        await ensure_indexes(database, INDEXES)
        keys = KeyRing.from_text(settings.secret_keys, settings.field_cipher)
        await migrate(database, _steps(keys), utc_now)
        if count := await CaseStore(database, keys).list_anew():
            log.info("migrate.cases_listed_anew", count=count)
        await _shorten_transactions(database)
        if with_demo:
            catalogue = load_catalogue()
            await publish(database, catalogue, now=utc_now())
            await StaffAccounts(database, keys).ensure_demo_accounts(catalogue.agencies, settings.demo_password)
    finally:
        await database.close()


def _steps(keys: KeyRing) -> list[Migration]:
    """Return the steps of all releases, in order."""
    return [Migration(1, "ratings: text in clear is sealed", lambda database: seal_old_texts(database, keys))]


async def _shorten_transactions(database: Database) -> None:
    """Ask MongoDB to let go of what a dead process had locked after four seconds instead of sixty.

    Where this is not allowed (a managed cluster), the operator sets it on the servers: docs/operations.md.
    """
    try:
        await database.client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": TRANSACTION_LIFETIME_S})
    except PyMongoError as error:
        log.warning("migrate.transaction_lifetime_not_set", error=type(error).__name__)
