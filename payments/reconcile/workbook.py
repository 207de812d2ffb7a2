"""A bill's rows on disk in the order of their numbers, so that both directions of matching need no more memory than one batch.

A workbook is a SQLite file beside the downloaded bill. It is written under another name and renamed when the bill has been read to its
end and its sums are right, so one that is there is whole; it can be made again from the bill at any time. Blocking: for a thread.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from payments.bill import BillRow, BillSums, Reading

_TABLES = """
create table rows (
    kind text not null, number text not null, out_trade_no text not null, provider_trade_no text not null,
    amount_fen integer not null, booked_s integer not null, state text not null, title text not null, times integer not null default 1,
    primary key (kind, number, out_trade_no)
) without rowid;
create table facts (name text primary key, value text not null);
"""
# The same number twice in one bill is one line whose amounts add up: it then differs in its amount, as it should.
_INSERT = """
insert into rows (kind, number, out_trade_no, provider_trade_no, amount_fen, booked_s, state, title) values (?, ?, ?, ?, ?, ?, ?, ?)
on conflict do update set amount_fen = amount_fen + excluded.amount_fen, times = times + 1
"""
_COLUMNS = "kind, number, out_trade_no, provider_trade_no, amount_fen, booked_s, state, title, times"
_BATCH = 2000


class Entry(NamedTuple):
    """One number of a bill. `booked_s` is epoch seconds by the provider's clock; `times` how often the number stands in the bill."""

    kind: str
    number: str
    out_trade_no: str
    provider_trade_no: str
    amount_fen: int
    booked_s: int
    state: str
    title: str
    times: int

    @property
    def position(self) -> tuple[str, str, str]:
        return (self.kind, self.number, self.out_trade_no)


class Workbook:
    """A finished workbook, opened for reading; one call at a time, from whatever thread."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("pragma cache_size = -8000")
        facts = dict(self._db.execute("select name, value from facts").fetchall())
        self.sums = BillSums(**orjson.loads(facts["sums"]))
        self.entries = int(facts["entries"])

    def after(self, position: Sequence[str], limit: int) -> list[Entry]:
        """Return the next entries after a position (empty: from the first), in the order of their positions."""
        begin = tuple(position) or ("", "", "")
        found = self._db.execute(
            f"select {_COLUMNS} from rows where (kind, number, out_trade_no) > (?, ?, ?)"
            " order by kind, number, out_trade_no limit ?",
            (*begin, limit),
        )
        return [Entry._make(row) for row in found]

    def find(self, kind: str, numbers: Iterable[str]) -> dict[str, Entry]:
        """Return which of these numbers are in the bill."""
        wanted = list(numbers)
        marks = ",".join("?" * len(wanted))
        found = self._db.execute(f"select {_COLUMNS} from rows where kind = ? and number in ({marks})", (kind, *wanted))
        return {row[1]: Entry._make(row) for row in found}

    def count_before(self, position: Sequence[str]) -> int:
        """Return how many entries stand before and at a position."""
        begin = tuple(position) or ("", "", "")
        return int(self._db.execute("select count(*) from rows where (kind, number, out_trade_no) <= (?, ?, ?)", begin).fetchone()[0])

    def close(self) -> None:
        self._db.close()


def write(path: Path, rows: Iterator[BillRow], reading: Reading, progress: Any = None) -> None:
    """Read a bill to its end into a workbook at `path`.

    Args:
        rows, reading: of a reader, which raises BillRefused at the end when the sums differ; then nothing is left.
        progress: called with the number of rows so far.
    """
    part = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.part")
    db = sqlite3.connect(part, isolation_level=None, check_same_thread=False)
    try:
        # No journal: a half-written file is thrown away, so there is nothing to protect.
        db.executescript("pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -16000;" + _TABLES)
        count = 0
        while batch := list(islice(rows, _BATCH)):
            db.execute("begin")
            db.executemany(_INSERT, map(_values, batch))
            db.execute("commit")
            count += len(batch)
            if progress is not None:
                progress(count)
        entries = db.execute("select count(*) from rows").fetchone()[0]
        facts = [("sums", orjson.dumps(reading.sums.to_document()).decode()), ("entries", str(entries))]
        db.executemany("insert into facts values (?, ?)", facts)
        db.close()
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
    finally:
        db.close()
        part.unlink(missing_ok=True)


def _values(row: BillRow) -> tuple[str, str, str, str, int, int, str, str]:
    # A refund made at the provider's own pages has no number of ours.
    number = row.number or f"({row.provider_trade_no})"
    return (
        row.kind,
        number,
        row.out_trade_no,
        row.provider_trade_no,
        row.amount_fen,
        int(row.booked_at.timestamp()),
        row.state,
        row.title,
    )
