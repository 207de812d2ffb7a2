"""Reconciling one day of one provider, step by step; `Reconcile` is put together in commands/assembly.py.

fetch    the bill is downloaded and read into a workbook; when its hash or sums are wrong, or it is not ready, this ends and comes again
theirs   every number of the bill is looked up in our orders
ours     everything we booked that day is looked up in the bill (and in those of the days before and after, before it counts as missing)
done     fees booked, unsettled differences of earlier days looked at again, sums written down

Killed at any point, the next run goes on where the last step ended. Memory holds one batch, whatever the day's size.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import structlog

from app.kernel.clock import SHANGHAI, shanghai_day, utc_now
from app.kernel.tasks import end
from app.storage.mongo import Database
from payments.asking import Asking
from payments.bill import BillRefused, Reading
from payments.ledger import store as ledger
from payments.ledger.entries import Entry as LedgerEntry
from payments.ledger.entries import entry_lines, fee_account, provider_account
from payments.provider import PaymentProvider, ProviderError, ProviderRefused
from payments.providers.bill_downloads import BillMissing, BillNotReady, BillSource
from payments.reconcile import matching, metrics, report, workbook
from payments.reconcile.clearing import Clearing
from payments.reconcile.day import LOOK_BACK, DayRun, Waits, Watch
from payments.reconcile.desk import FindingsDesk
from payments.reconcile.store import Busy, Progress, ReconcileStore
from payments.reconcile.workbook import Workbook
from payments.refund_following import RefundFollowing
from payments.settling import Settling
from payments.sources import PayableSource
from payments.store import OrderStore

log = structlog.get_logger(__name__)

FIRST_TRY, NOON = time(10), time(12)
TRY_EVERY, TRY_LATE_EVERY = timedelta(minutes=30), timedelta(hours=1)


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `state`: done, or waiting with the `problem` that keeps it from going on."""

    state: str
    problem: str = ""
    document: Mapping[str, Any] | None = None
    html: Path | None = None
    csv: Path | None = None


class Reconcile:
    """The daily reconciliation.

    Args:
        providers, sources: as those of Payments; findings are settled through the same functions.
        bills: where the bills come from, one per provider.
        folder: for bills, workbooks and reports.
        own_agency: whose task a difference is that belongs to no order of ours.
    """

    def __init__(
        self,
        database: Database,
        *,
        providers: Mapping[str, PaymentProvider],
        sources: Mapping[str, PayableSource],
        bills: Sequence[BillSource],
        folder: Path,
        public_url: str,
        own_agency: str = "",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.own_agency = own_agency
        self.bills = {source.provider: source for source in bills}
        self.store = ReconcileStore(database)
        self._database = database
        self._folder = folder
        self._clock = clock
        orders = OrderStore(database)
        asking = Asking(providers, Settling(orders, sources))
        self._clearing = Clearing(
            database, self.store, orders, providers, asking, RefundFollowing(orders, providers, public_url)
        )
        self.desk = FindingsDesk(self.store, self._clearing, clock)

    # --- when ---

    async def run_due(self, now: datetime | None = None) -> int:
        """Reconcile what is due: yesterday, and days before it that are not done; return how many runs were made.

        From 10:00 Shanghai, every 30 minutes until noon; from then on it counts as overdue and is tried every hour.
        """
        now = now or self._clock()
        local = now.astimezone(SHANGHAI)
        if local.time() < FIRST_TRY:
            return 0
        yesterday = local.date() - timedelta(days=1)
        first = max(await self.store.first_day() or yesterday, yesterday - LOOK_BACK)
        runs = 0
        for provider in self.bills:
            late = 0
            for offset in range((yesterday - first).days, -1, -1):
                day = yesterday - timedelta(days=offset)
                known = await self.store.load(provider, day)
                if known is not None and known["state"] == "done":
                    continue
                if known is None or not known.get("next_try_at") or known["next_try_at"] <= now:
                    with suppress(Busy):
                        runs += 1
                        outcome = await self.run(provider, day)
                        if outcome.state == "done":
                            continue
                if offset or local.time() >= NOON:
                    late += 1
                    log.error("reconcile.overdue", provider=provider, day=day.isoformat())
            metrics.overdue.labels(provider).set(late)
        return runs

    async def run(self, provider: str, day: date, *, watch: Watch | None = None, again: bool = False) -> Outcome:
        """Reconcile one day, or go on with it.

        Args:
            again: also when it is done: from the beginning, with the bill as it is now. What it no longer shows is withdrawn.

        Raises:
            Busy: another process is at it. LookupError: no such provider.
        """
        source = self.bills[provider]
        known = await self.store.load(provider, day)
        if known is not None and known["state"] == "done" and not again:
            return await self._finished(known)
        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        run = await self.store.claim(provider, day, holder, self._clock(), again=again)
        if again:
            self._path(provider, day, ".db").unlink(missing_ok=True)
        step = DayRun(self, source, day, holder, run["_id"], Progress(**run["progress"]), watch or (lambda *_: None))
        keeper = asyncio.create_task(self._keep(step), name="reconcile-lease")
        try:
            await step.work()
        except Waits as waits:
            pause = TRY_EVERY if self._clock().astimezone(SHANGHAI).time() < NOON else TRY_LATE_EVERY
            problem = str(waits.args[0])
            await self.store.release(run["_id"], holder, state="waiting", problem=problem, next_try_at=self._clock() + pause)
            log.warning("reconcile.waits", provider=provider, day=day.isoformat(), problem=problem)
            return Outcome("waiting", problem, await self.store.load(provider, day))
        except BaseException:
            with suppress(Exception):
                await self.store.release(run["_id"], holder)
            raise
        finally:
            await end([keeper])
        await self.store.release(run["_id"], holder, state="done", problem="", done_at=self._clock())
        await asyncio.to_thread(self._tidy)
        done = await self.store.load(provider, day)
        assert done is not None
        log.info("reconcile.done", provider=provider, day=day.isoformat(), findings=done.get("findings"))
        return await self._finished(done)

    async def _keep(self, step: DayRun) -> None:
        """Renew the lease while a long step runs."""
        while True:
            await asyncio.sleep(20)
            await self.store.save(step.run_id, step.holder, step.progress, self._clock())

    async def _finished(self, run: Mapping[str, Any]) -> Outcome:
        day = date.fromisoformat(run["day"])
        rows = [row async for row in _first(self.store.of_day(run["provider"], day), report.MOST_ROWS)]
        html = self.report_path(run["provider"], day, "html")
        csv = self.report_path(run["provider"], day, "csv")
        await asyncio.to_thread(html.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(html.write_text, report.html_report(run, rows, self._clock()), "utf-8")
        with await asyncio.to_thread(csv.open, "w", encoding="utf-8-sig", newline="") as file:
            writer = report.CsvReport(file)
            async for row in self.store.of_day(run["provider"], day):
                writer.add(row)
        return Outcome("done", "", run, html, csv)

    def report_path(self, provider: str, day: date, kind: str) -> Path:
        return self._folder / "reports" / f"reconcile-{provider}-{day}.{kind}"

    def _path(self, provider: str, day: date, suffix: str) -> Path:
        return self._folder / "bills" / f"{provider}-{day}{suffix}"

    def _tidy(self) -> None:
        """Remove bills and workbooks that are older than anything that is looked at again; providers keep them three months."""
        oldest = (shanghai_day(self._clock()) - LOOK_BACK - timedelta(days=2)).isoformat()
        for path in (self._folder / "bills").iterdir():
            if path.name.partition("-")[2] < oldest and path.suffix in (".db", ".bill", ".part", ".refused"):
                path.unlink(missing_ok=True)

    # --- the bill ---

    async def workbook(self, source: BillSource, day: date, watch: Watch) -> Workbook:
        """Return the workbook of a day, made from a bill that is fetched now unless it is there. Raises Waits."""
        path = self._path(source.provider, day, ".db")
        if not path.exists():
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            bill_path = self._path(source.provider, day, f".{secrets.token_hex(4)}.bill")
            reading = Reading()
            try:
                watch("fetch", 0, 0)
                bill = await source.fetch(day, bill_path)
                rows = source.read(bill, reading)
                if not source.has_refund_numbers:
                    rows = matching.with_numbers(rows, await self.store.own_refunds(source.provider, *matching.day_bounds(day)))
                await asyncio.to_thread(workbook.write, path, rows, reading, lambda count: watch("read", count, 0))
                bill_path.replace(self._path(source.provider, day, ".bill"))
            except BillNotReady as error:
                raise Waits("creating") from error
            except BillMissing as missing:
                # Only one provider says "no trade that day" in so many words. Of the other it is believed once its bills are out, and
                # when we had none either.
                if not missing.is_final and (self._is_early(day) or await self._had_business(source.provider, day)):
                    raise Waits("missing") from missing
                await asyncio.to_thread(workbook.write, path, iter(()), reading)
            except BillRefused as refused:
                kept = bill_path.replace(self._path(source.provider, day, ".refused"))  # to look at; nothing of it is used
                log.error("reconcile.bill_refused", provider=source.provider, day=day.isoformat(), cause=str(refused), file=str(kept))
                raise Waits(f"refused: {refused}") from refused
            except ProviderRefused as refused:
                raise Waits(f"not_given: {refused.code}") from refused
            except ProviderError as error:
                raise Waits(f"unreachable: {error}") from error
            finally:
                bill_path.unlink(missing_ok=True)
        return await asyncio.to_thread(Workbook, path)

    def _is_early(self, day: date) -> bool:
        """Say whether the bill of a day may not be out yet."""
        return self._clock().astimezone(SHANGHAI) < datetime.combine(day + timedelta(days=1), FIRST_TRY, SHANGHAI)

    async def _had_business(self, provider: str, day: date) -> bool:
        begin, end = matching.day_bounds(day)
        async for _ in self.store.moved(provider, begin, end):
            return True
        return False

    # --- the books ---

    async def book_fee(self, provider: str, day: date, fee_millifen: int, now: datetime) -> None:
        """Book what the provider keeps for a day, rounded half up to fen; of a corrected bill what it differs by.

        One run at a time does this for a day, and each writes a fact of its own: done twice, the second finds nothing to book.
        """
        fact = f"fee:{provider}:{day}"
        booked = await self._database["ledger_entries"].find({"fact": {"$regex": f"^{fact}(#|$)"}}).to_list()
        before = sum(line["amount_fen"] for row in booked for line in row["lines"] if line["account"] == fee_account(provider))
        fen = (fee_millifen + 500) // 1000 - before
        if fen == 0:
            return
        entry = LedgerEntry(
            fact=f"{fact}#{len(booked)}" if booked else fact,
            at=now,
            lines=entry_lines((fee_account(provider), fen), (provider_account(provider), -fen)),
            provider=provider,
            memo=f"fees by the bill of {day}",
        )
        try:
            await ledger.post(self._database, entry)
        except ledger.FactBookedDifferently:
            log.error("reconcile.booked_differently", fact=entry.fact)

    @property
    def clearing(self) -> Clearing:
        return self._clearing

    def now(self) -> datetime:
        return self._clock()


async def _first(rows: Any, most: int) -> Any:
    count = 0
    async for row in rows:
        if count >= most:
            return
        count += 1
        yield row
