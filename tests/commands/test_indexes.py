"""Every collection is there before the first transaction writes to it."""

import re
from pathlib import Path

from app.storage.mongo import ensure_indexes
from commands.indexes import INDEXES

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("app", "payments", "push", "handlers", "miniprogram_api", "commands")


def named() -> set[str]:
    """The collections that the code names."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return {name for path in files for name in re.findall(r'atabase\["(\w+)"\]', path.read_text())}


async def test_every_collection_that_the_code_names_is_made_at_the_start(database):
    names = named()
    assert {"renewals", "ledger_locks", "cases", "orders"} <= names
    for _ in range(2):  # the second start finds them
        await ensure_indexes(database, INDEXES)
        assert names <= set(await database.db.list_collection_names())
