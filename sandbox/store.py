"""What the stand-ins remember: one SQLite file, so that `kill -9` loses nothing that was answered.

The writes are single rows of a few hundred bytes in WAL mode: tens of microseconds, so they stay on the loop. This
also makes every check-then-write below atomic: no other handler runs between two lines without an `await`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FILE_NAME = "sandbox.sqlite3"

_TABLES = """
create table if not exists trades (
    provider text not null, out_trade_no text not null, state text not null, trade_id text not null,
    amount_fen integer not null, reported_fen integer not null, title text not null, notify_url text not null,
    payer text not null, request text not null, extra text not null,
    created_at real not null, expires_at real, paid_at real, closed_at real,
    primary key (provider, out_trade_no)
);
create index if not exists trades_by_id on trades (provider, trade_id);
create table if not exists handles (handle text primary key, provider text not null, out_trade_no text not null);
create table if not exists notices (
    id integer primary key autoincrement, provider text not null, out_trade_no text not null, notice_id text not null,
    kind text not null, url text not null, content text not null, key_id text not null,
    attempts integer not null default 0, next_at real, last_result text not null default '', delivered_at real
);
create index if not exists notices_due on notices (next_at) where next_at is not null;
create table if not exists sent (
    seq integer primary key autoincrement, channel text not null, recipient text not null, at real not null,
    record text not null, dedupe text unique
);
create table if not exists facts (kind text not null, key text not null, value text not null, primary key (kind, key));
"""


@dataclass
class Trade:
    """One trade of a merchant at one provider.

    `state` is NOTPAY, SUCCESS or CLOSED for both providers; each speaks its own words to the outside.
    `reported_fen` is what notice and query tell as paid: it differs from `amount_fen` only for the outcome
    `success_wrong_amount`. `request` is the canonical text of the parameters, compared when a number comes again.
    Times are epoch seconds.
    """

    provider: str
    out_trade_no: str
    trade_id: str
    amount_fen: int
    title: str
    notify_url: str
    payer: str
    request: str
    created_at: float
    expires_at: float | None = None
    state: str = "NOTPAY"
    reported_fen: int = 0
    paid_at: float | None = None
    closed_at: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Notice:
    """One asynchronous notification on its way. `next_at` is None when it was delivered or given up."""

    id: int
    provider: str
    out_trade_no: str
    notice_id: str
    kind: str
    url: str
    content: dict[str, Any]
    key_id: str
    attempts: int
    next_at: float | None
    last_result: str
    delivered_at: float | None


class Store:
    """The SQLite file. Not for use from several threads or processes at once."""

    def __init__(self, data_dir: Path) -> None:
        data_dir = Path(data_dir)
        data_dir.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(data_dir / FILE_NAME, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        # NORMAL in WAL mode survives the death of the process; only a power cut may lose the last moments.
        self._db.executescript("pragma journal_mode=wal; pragma synchronous=normal;" + _TABLES)

    def close(self) -> None:
        self._db.close()

    # -- trades ------------------------------------------------------------------------------------------------

    def save_trade(self, trade: Trade) -> None:
        values = asdict(trade) | {"extra": _dump(trade.extra)}
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        self._db.execute(f"insert or replace into trades ({names}) values ({marks})", values)

    def trade(self, provider: str, out_trade_no: str) -> Trade | None:
        row = self._db.execute(
            "select * from trades where provider = ? and out_trade_no = ?", (provider, out_trade_no)
        ).fetchone()
        return _trade(row)

    def trade_by_id(self, provider: str, trade_id: str) -> Trade | None:
        row = self._db.execute(
            "select * from trades where provider = ? and trade_id = ?", (provider, trade_id)
        ).fetchone()
        return _trade(row)

    def trades(self, out_trade_no: str | None = None) -> list[Trade]:
        rows = self._db.execute(
            "select * from trades where ?1 is null or out_trade_no = ?1 order by created_at", (out_trade_no,)
        )
        return [trade for trade in map(_trade, rows) if trade]

    def save_handle(self, handle: str, trade: Trade) -> None:
        """Remember what the client gets instead of the number: a prepay_id, a trade_no, the token of a QR code."""
        self._db.execute(
            "insert or replace into handles values (?, ?, ?)", (handle, trade.provider, trade.out_trade_no)
        )

    def trade_of_handle(self, provider: str, handle: str) -> Trade | None:
        row = self._db.execute(
            "select out_trade_no from handles where handle = ? and provider = ?", (handle, provider)
        ).fetchone()
        return self.trade(provider, row["out_trade_no"]) if row else None

    # -- notices -----------------------------------------------------------------------------------------------

    def pay(self, trade: Trade, notices: Iterable[dict[str, Any]]) -> None:
        """Write a paid trade and the notices that follow from it in one transaction."""
        self._db.execute("begin immediate")
        try:
            self.save_trade(trade)
            self.add_notices(trade, notices)
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def add_notices(self, trade: Trade, notices: Iterable[dict[str, Any]]) -> None:
        """Write notices about a trade: to its own address, unless they name another."""
        for notice in notices:
            self._db.execute(
                "insert into notices (provider, out_trade_no, notice_id, kind, url, content, key_id, next_at)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    trade.provider,
                    trade.out_trade_no,
                    notice["notice_id"],
                    notice["kind"],
                    notice.get("url", trade.notify_url),
                    _dump(notice["content"]),
                    notice.get("key_id", ""),
                    notice["next_at"],
                ),
            )

    def forget_waiting_notices(self, provider: str, out_trade_no: str, kind: str) -> int:
        """Take back notices of a kind that are not delivered yet; returns how many."""
        return self._db.execute(
            "delete from notices where provider = ? and out_trade_no = ? and kind like ? and next_at is not null",
            (provider, out_trade_no, kind),
        ).rowcount

    def due_notices(self, now: float) -> list[Notice]:
        rows = self._db.execute("select * from notices where next_at <= ? order by next_at, id limit 200", (now,))
        return [_notice(row) for row in rows]

    def next_notice_at(self) -> float | None:
        return self._db.execute("select min(next_at) from notices").fetchone()[0]

    def notices(self, out_trade_no: str) -> list[Notice]:
        rows = self._db.execute("select * from notices where out_trade_no = ? order by id", (out_trade_no,))
        return [_notice(row) for row in rows]

    def note_delivery(self, notice: Notice, result: str, *, next_at: float | None, delivered_at: float | None) -> None:
        self._db.execute(
            "update notices set attempts = attempts + 1, last_result = ?, next_at = ?, delivered_at = ? where id = ?",
            (result, next_at, delivered_at, notice.id),
        )

    def hurry_notices(self, now: float, out_trade_no: str | None) -> int:
        """Make every waiting notice (of one number, or all) due now; returns how many."""
        return self._db.execute(
            "update notices set next_at = ?1 where next_at > ?1 and (?2 is null or out_trade_no = ?2)",
            (now, out_trade_no),
        ).rowcount

    # -- what was sent -----------------------------------------------------------------------------------------

    def record_sent(
        self, record: dict[str, Any], *, channel: str, to: str, at: float, dedupe: str | None = None
    ) -> dict[str, Any]:
        """Keep one sent message; with a `dedupe` key that was seen before, return the first one instead."""
        if dedupe is not None:
            row = self._db.execute("select seq, record from sent where dedupe = ?", (dedupe,)).fetchone()
            if row:
                return _sent(row)
        seq = self._db.execute(
            "insert into sent (channel, recipient, at, record, dedupe) values (?, ?, ?, ?, ?)",
            (channel, to, at, _dump(record), dedupe),
        ).lastrowid
        return {"id": f"{seq:012d}"} | record

    def was_sent(self, dedupe: str) -> bool:
        return self._db.execute("select 1 from sent where dedupe = ?", (dedupe,)).fetchone() is not None

    def sent(self, channel: str | None, to: str | None, after: str | None) -> list[dict[str, Any]]:
        """List what was sent, oldest first.

        `to` is a phone, openid, user id or registration id, or the name the person signed in with. `after` is an id
        or an RFC 3339 time in UTC.
        """
        by_time = after is not None and "T" in after
        rows = self._db.execute(
            "select seq, record from sent where (?1 is null or channel = ?1)"
            " and (?2 is null or recipient = ?2 or json_extract(record, '$.name') = ?2)"
            " and (?3 is null or seq > ?3) and (?4 is null or json_extract(record, '$.at') > ?4) order by seq",
            (channel, to, int(after) if after and not by_time else None, after if by_time else None),
        )
        return [_sent(row) for row in rows]

    def forget_sent(self) -> int:
        return self._db.execute("delete from sent").rowcount

    # -- small facts: known people, tokens, grants, templates, face checks, paid bills -------------------------------

    def put(self, kind: str, key: str, value: Any) -> None:
        self._db.execute("insert or replace into facts values (?, ?, ?)", (kind, key, _dump(value)))

    def get(self, kind: str, key: str) -> Any:
        row = self._db.execute("select value from facts where kind = ? and key = ?", (kind, key)).fetchone()
        return json.loads(row["value"]) if row else None

    def all(self, kind: str) -> dict[str, Any]:
        rows = self._db.execute("select key, value from facts where kind = ? order by key", (kind,))
        return {row["key"]: json.loads(row["value"]) for row in rows}

    def drop(self, kind: str, key: str | None = None) -> int:
        """Forget one fact, or with no key every fact of the kind; returns how many there were."""
        return self._db.execute(
            "delete from facts where kind = ?1 and (?2 is null or key = ?2)", (kind, key)
        ).rowcount


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _trade(row: sqlite3.Row | None) -> Trade | None:
    if row is None:
        return None
    values = {item.name: row[item.name] for item in fields(Trade)}
    return Trade(**values | {"extra": json.loads(row["extra"])})


def _sent(row: sqlite3.Row) -> dict[str, Any]:
    return {"id": f"{row['seq']:012d}"} | json.loads(row["record"])


def _notice(row: sqlite3.Row) -> Notice:
    return Notice(**dict(row) | {"content": json.loads(row["content"])})
