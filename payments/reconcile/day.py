"""One run over one day of one provider: both directions of matching, step by step, each step written down when it is done."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from app.kernel.clock import shanghai_day
from payments.bill import BillKind
from payments.providers.bill_downloads import BillSource
from payments.reconcile import matching, metrics
from payments.reconcile.matching import FindingState, Ours
from payments.reconcile.store import Progress
from payments.reconcile.workbook import Entry, Workbook

if TYPE_CHECKING:
    from payments.reconcile.service import Reconcile

BATCH = 2000
SAVE_EVERY = 10  # batches
WINDOWS = 24
# Differences that are settled by asking in one run; what is beyond means that something larger is wrong, and is kept as it is.
MAX_QUESTIONS = 1000
LOOK_BACK = timedelta(days=7)

# (stage, how much of it is done, of how much; 0 when not known)
Watch = Callable[[str, int, int], None]


class Waits(Exception):
    """The bill cannot be had, or not be believed, for now; `args[0]` says why."""


class DayRun:
    """One run over one day."""

    def __init__(
        self, parent: "Reconcile", source: BillSource, day: date, holder: str, run_id: str, progress: Progress, watch: Watch
    ) -> None:
        self._parent = parent
        self._store = parent.store
        self._source = source
        self._provider = source.provider
        self._day = day
        self.holder = holder
        self.run_id = run_id
        self.progress = progress
        self._watch = watch
        self._neighbours: dict[date, Workbook | None] = {}

    async def work(self) -> None:
        book = await self._parent.workbook(self._source, self._day, self._watch)
        try:
            progress = self.progress
            sums = book.sums.to_document()
            if progress.stage == "fetch" or progress.theirs != sums:  # new, or the bill has been made anew: from its beginning
                generation = progress.generation + (progress.stage != "fetch")
                self.progress = progress = Progress(stage="theirs", theirs=sums, generation=generation)
                await self._save(state="matching", problem="")
            if progress.stage == "theirs":
                await self._compare_theirs(book)
            if progress.stage == "ours":
                await self._compare_ours(book)
            await self._withdraw()
            await self._look_again(book)
            await self._parent.book_fee(self._provider, self._day, book.sums.fee_millifen, self._parent.now())
            progress.stage = "done"
            counts = await self._store.counts(self._provider, self._day)
            await self._save(findings=counts)
            metrics.open_findings.labels(self._provider).set(counts.get("open", 0))
        finally:
            book.close()
            for other in self._neighbours.values():
                if other is not None:
                    other.close()

    async def _save(self, **changes: Any) -> None:
        await self._store.save(self.run_id, self.holder, self.progress, self._parent.now(), **changes)

    async def _take(self, finding: matching.Finding) -> None:
        if not finding.agency_id:
            agency_id = await self._store.agency_of(finding.order_id) if finding.order_id else ""
            finding = replace(finding, agency_id=agency_id or self._parent.own_agency)
        may_ask = self.progress.asked < MAX_QUESTIONS
        self.progress.asked += may_ask
        await self._parent.clearing.take(finding, self._parent.now(), may_ask=may_ask, generation=self.progress.generation)

    # --- theirs -> ours ---

    async def _compare_theirs(self, book: Workbook) -> None:
        progress = self.progress
        seen = await asyncio.to_thread(book.count_before, progress.position)
        batch = await asyncio.to_thread(book.after, progress.position, BATCH)
        batches = 0
        while batch:
            # The next rows are read while the database looks up these.
            following = asyncio.create_task(asyncio.to_thread(book.after, batch[-1].position, BATCH))
            try:
                matched = await self._compare_batch(batch)
            finally:
                upcoming = await following
            seen += len(batch)
            batches += 1
            # Together, with nothing awaited between: the lease is renewed with whatever stands here.
            progress.position, progress.matched = list(batch[-1].position), progress.matched + matched
            if batches % SAVE_EVERY == 0:
                await self._save()
            metrics.rows.labels(self._provider).inc(len(batch))
            self._watch("theirs", seen, book.entries)
            batch = upcoming
        progress.stage = "ours"
        await self._save()

    async def _compare_batch(self, batch: Sequence[Entry]) -> int:
        """Compare some numbers of the bill; return how many agree."""
        payments = [entry.number for entry in batch if entry.kind == BillKind.PAYMENT]
        refunds = [entry.number for entry in batch if entry.kind == BillKind.REFUND]
        half = len(payments) // 2
        found = await asyncio.gather(
            self._lookup(self._store.payments, payments[:half]),
            self._lookup(self._store.payments, payments[half:]),
            self._lookup(self._store.refunds, refunds),
        )
        own_payments, own_refunds = found[0] | found[1], found[2]
        matched = 0
        for entry in batch:
            ours = (own_payments if entry.kind == BillKind.PAYMENT else own_refunds).get(entry.number)
            finding = matching.compare(self._provider, self._day, entry, ours)
            if finding is None:
                matched += 1
            else:
                await self._take(finding)
        return matched

    async def _lookup(self, find: Any, numbers: Sequence[str]) -> dict[str, Ours]:
        return await find(numbers) if numbers else {}

    # --- ours -> theirs ---

    async def _compare_ours(self, book: Workbook) -> None:
        progress = self.progress
        begin, end = matching.day_bounds(self._day)
        width = (end - begin) / WINDOWS
        while progress.window < WINDOWS:
            ours_sums = dict(progress.ours)
            waiting: list[tuple[Ours, str]] = []
            window_begin = begin + progress.window * width
            async for moved in self._store.moved(self._provider, window_begin, window_begin + width):
                name = "payments" if moved[0].kind is BillKind.PAYMENT else "refunds"
                ours_sums[name] += 1
                ours_sums[f"{name}_fen"] += moved[0].amount_fen
                waiting.append(moved)
                if len(waiting) >= BATCH:
                    await self._look_up_ours(book, waiting)
                    waiting = []
            await self._look_up_ours(book, waiting)
            progress.ours = ours_sums
            progress.window += 1
            await self._save()
            self._watch("ours", progress.window, WINDOWS)

    async def _look_up_ours(self, book: Workbook, waiting: Sequence[tuple[Ours, str]]) -> None:
        for kind in BillKind:
            some = [moved for moved in waiting if moved[0].kind is kind]
            found = await asyncio.to_thread(book.find, kind, [moved[0].number for moved in some]) if some else {}
            for ours, out_trade_no in some:
                if ours.number in found or await self._is_in_neighbour(ours):
                    continue
                await self._take(matching.ours_only(self._day, ours, out_trade_no))

    async def _is_in_neighbour(self, ours: Ours) -> bool:
        """Say whether the bill of the day before, or after if there is one yet, has this number (or that of the refund's own day)."""
        days = {self._day - timedelta(days=1), self._day + timedelta(days=1)}
        if ours.moved_at is not None:
            days.add(shanghai_day(ours.moved_at))
        today = shanghai_day(self._parent.now())
        for day in sorted(day for day in days - {self._day} if day < today):
            if day not in self._neighbours:
                try:
                    self._neighbours[day] = await self._parent.workbook(self._source, day, lambda *_: None)
                except Waits:
                    self._neighbours[day] = None
            book = self._neighbours[day]
            if book is not None and ours.number in await asyncio.to_thread(book.find, ours.kind, [ours.number]):
                return True
        return False

    # --- what was left of earlier runs and earlier days ---

    async def _withdraw(self) -> None:
        """Settle what an earlier run over this day has found and this one, over the whole bill as it is now, has not."""
        if not self.progress.generation:
            return
        async for row in self._store.of_day(self._provider, self._day, FindingState.WAITING, FindingState.OPEN):
            if row.get("seen_in", 0) != self.progress.generation:
                await self._parent.clearing.withdraw(row, self._parent.now())

    async def _look_again(self, book: Workbook) -> None:
        rows = await self._store.unsettled(self._provider, self._day - LOOK_BACK, self._day, MAX_QUESTIONS)
        for done, row in enumerate(rows):
            found = await asyncio.to_thread(book.find, row["subject"], [row["number"]])
            await self._parent.clearing.look_again(row, found.get(row["number"]), self._parent.now())
            self._watch("again", done + 1, len(rows))
