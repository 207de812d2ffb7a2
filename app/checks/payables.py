"""Bills as something to pay for: their price, asked of the department each time. Telling it what was paid is reports.py."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from app.checks import metrics, store
from app.checks.model import Quote, quote_of
from app.exchange.departments import BillNotFound, DepartmentSystems, Office
from app.kernel.clock import utc_now
from app.storage.mongo import Database


class BillPayables:
    """The payable source for bills."""

    def __init__(
        self,
        database: Database,
        departments: DepartmentSystems,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._departments = departments
        self._clock = clock

    async def quote(self, payable_id: str, resident_id: str) -> Quote:
        """Return what a bill costs now, by its department; never by what the client says.

        Raises:
            BillNotFound: this resident has not looked it up (any more).
            Conflict: it is paid, closed, disputed, refunded or doubtful.
            ProviderUnavailable: the department does not answer.
        """
        note = await store.remembered(self._database, resident_id, payable_id)
        if note is None:
            raise BillNotFound("没有找到这张账单，请重新查询后再缴。", en="No such bill: look it up first.")
        office = Office(**note["office"])
        bill = await self._departments.bill(office, payable_id)
        now = self._clock()
        metrics.watch_surcharge(bill, office, now)
        quote = quote_of(bill, office, now, note.get("paid_for", ""))
        older = await asyncio.gather(*(self._still_owed(office, bill_id) for bill_id in note.get("older", ())))
        await store.note_quote(
            self._database,
            resident_id,
            payable_id,
            amount_fen=bill.amount_fen,
            late_fee_fen=bill.late_fee_fen,
            now=now,
        )
        return replace(quote, after=tuple(filter(None, older)))

    async def _still_owed(self, office: Office, bill_id: str) -> str:
        """Return the id of an older bill when it is still to be paid, else an empty text."""
        try:
            bill = await self._departments.bill(office, bill_id)
        except BillNotFound:
            return ""
        return bill_id if bill.state == "unpaid" else ""
