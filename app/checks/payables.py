"""Bills as something to pay for: their price, asked of the department each time, and telling the department what was paid."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from app.checks import metrics, store
from app.checks.model import Quote, quote_of
from app.exchange.departments import BillNotFound, DepartmentSystems, Office, PaymentRefused
from app.kernel.clock import format_utc, parse_utc, utc_now
from app.kernel.events import Event, new_event
from app.storage import outbox
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

PAYABLE_KIND = "bill"
_LONGEST_PAYMENT_ID = 64


class BillPayables:
    """The payable source for bills, and the subscriber of `order.paid`."""

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

    async def report_paid(self, event: Event) -> None:
        """Tell the departments of the bills of a paid order; at least once, idempotent on the payment id.

        Raises whatever kept a department from hearing it, so that the relay comes again. What a department refuses for good
        (paid elsewhere, another amount) is kept and told as `bill.payment_refused`: then money has to go back.
        """
        payables = [row for row in event.data.get("payables", ()) if row["kind"] == PAYABLE_KIND]
        failures: list[Exception] = []
        for row in payables:
            try:
                await self._tell(event, row)
            except Exception as error:
                # One department that is away must not keep the next from hearing.
                failures.append(error)
        if failures:
            raise failures[0]

    async def _tell(self, event: Event, row: Mapping[str, Any]) -> None:
        bill_id = row["id"]
        payment_id = payment_id_of(event.subject_id, bill_id)
        before = await store.payment_told(self._database, payment_id)
        if before is not None and before["state"] in ("accepted", "refused"):
            return
        note = await store.remembered(self._database, event.owner_id, bill_id)
        if note is None:
            # The payer may have been joined into another account since; whose system it is in does not depend on that.
            other = await store.any_note(self._database, bill_id)
            if other is None:
                raise BillNotFound("没有这张账单的查询记录，缴款无法告知部门。")
            note = {"office": other["office"]}
        office = Office(**note["office"])
        amount_fen, late_fee_fen = await self._parts(event, row, note, office)
        facts = {
            "owner_id": event.owner_id,
            "order_id": event.subject_id,
            "bill_id": bill_id,
            "office_id": office.id,
            "amount_fen": amount_fen,
            "late_fee_fen": late_fee_fen,
        }
        try:
            receipt_no = await self._departments.report_payment(
                office,
                bill_id,
                payment_id=payment_id,
                amount_fen=amount_fen,
                late_fee_fen=late_fee_fen,
                # When the provider says it was paid: the news may have come a day later, and the surcharge counts days.
                paid_at=parse_utc(event.data["paid_at"]) if event.data.get("paid_at") else event.at,
                provider_trade_no=str(
                    event.data.get("provider_trade_no") or event.data.get("attempt_id") or event.subject_id
                ),
            )
        except (PaymentRefused, BillNotFound) as error:
            metrics.told.labels("refused").inc()
            log.error("bill.payment_refused", order_id=event.subject_id, bill_id=bill_id, **error.context)
            await self._keep_refusal(event, payment_id, facts, str(error.context.get("word", "not_found")))
            return
        metrics.told.labels("accepted").inc()
        await store.note_payment(
            self._database, payment_id, {**facts, "state": "accepted", "receipt_no": receipt_no, "at": self._clock()}
        )

    async def _parts(
        self, event: Event, row: Mapping[str, Any], note: Mapping[str, Any], office: Office
    ) -> tuple[int, int]:
        """Return (bill, surcharge) of what was paid. The order knows the sum; the department knows the bill without surcharge."""
        payables = event.data["payables"]
        paid_fen = row.get("amount_fen") or (event.data["amount_fen"] if len(payables) == 1 else None)
        quoted = note.get("quoted")
        if quoted and paid_fen in (None, quoted["amount_fen"] + quoted["late_fee_fen"]):
            return quoted["amount_fen"], quoted["late_fee_fen"]
        bill = await self._departments.bill(office, row["id"])
        late_fee_fen = bill.late_fee_fen if paid_fen is None else max(0, paid_fen - bill.amount_fen)
        return bill.amount_fen, late_fee_fen

    async def _keep_refusal(self, event: Event, payment_id: str, facts: dict[str, Any], word: str) -> None:
        async def work(session: Any) -> None:
            fields = {**facts, "state": "refused", "word": word, "at": self._clock()}
            await store.note_payment(self._database, payment_id, fields, session)
            refused = new_event(
                "bill.payment_refused",
                subject=("bill", facts["bill_id"]),
                owner_id=event.owner_id,
                data={
                    "order_id": event.subject_id,
                    "office_id": facts["office_id"],
                    "amount_fen": facts["amount_fen"] + facts["late_fee_fen"],
                    "word": word,
                    "paid_at": format_utc(event.at),
                },
                at=self._clock(),
            )
            await outbox.append(self._database, session, [refused])

        await self._database.transaction(work)

def payment_id_of(order_id: str, bill_id: str) -> str:
    """Return the id under which a department knows this payment: the same each time it is told, at most 64 characters."""
    plain = f"{order_id}.{bill_id}"
    return plain if len(plain) <= _LONGEST_PAYMENT_ID else f"{order_id}.{hashlib.sha256(bill_id.encode()).hexdigest()[:24]}"
