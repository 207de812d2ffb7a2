"""Telling departments what was paid for their bills, and what of it went back: at least once, until they acknowledge it.

A report is written down before anybody is called, in the handling of the event that caused it, and is tried at once; what is not acknowledged
is tried again by the worker for as long as it takes, so that a department may be away for days. Reports have ids that follow from the order,
the bill and the refund: told twice is told once, at the department too. A refund is told after its payment has been.

What a department refuses for good is kept with its word. A refused payment is told as `bill.payment_refused`, and goes back by that.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo import ASCENDING, IndexModel, ReturnDocument

from app.checks import metrics, store
from app.exchange.departments import BillNotFound, DepartmentSystems, Office, PaymentRefused
from app.kernel.clock import format_utc, parse_utc, utc_now
from app.kernel.events import Event, new_event
from app.storage import outbox
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

PAYABLE_KIND = "bill"
_LONGEST_ID = 64
# More than a call with its time-out, so that a report is in one hand; two hands would be harmless.
LEASE = timedelta(seconds=30)
_AGAIN_S = (2, 5, 15, 60, 300, 900)
_AT_ONCE = 8
_ROUND_S = 20

INDEXES: dict[str, list[IndexModel]] = {
    "bill_reports": [
        # Only what is not acknowledged yet has a next_at, so the index stays small.
        IndexModel([("next_at", ASCENDING)], name="due", partialFilterExpression={"next_at": {"$type": "date"}}),
        IndexModel([("bill_id", ASCENDING)], name="bill"),
        IndexModel([("order_id", ASCENDING)], name="order"),
    ]
}


class BillReports:
    """The subscriber of `order.paid` and `refund.succeeded`, and the worker's part.

    A row of `bill_reports`: {_id, kind: payment | refund, state: waiting | accepted | refused, next_at, tries, bill_id, order_id, owner_id,
    office, ...what is told}.
    """

    def __init__(
        self, database: Database, departments: DepartmentSystems, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._rows = database["bill_reports"]
        self._departments = departments
        self._clock = clock

    # --- what is to be told ---

    async def report_paid(self, event: Event) -> None:
        """Tell the departments of the bills of a paid order.

        Raises:
            BillNotFound: nobody knows any more which department a bill is of.
        """
        rows = [await self._payment_row(event, row) for row in event.data["payables"] if row["kind"] == PAYABLE_KIND]
        await self._write_and_tell(rows)

    async def report_refunded(self, event: Event) -> None:
        """Tell the departments of the bills of which a refund gave something back; a refund of too much is not theirs."""
        rows = []
        for part in event.data.get("refund_parts", ()):
            if part["kind"] != PAYABLE_KIND:
                continue
            payment_id = report_id_of(event.subject_id, part["id"])
            rows.append(
                {
                    "_id": report_id_of(event.data["refund_id"], part["id"]),
                    "kind": "refund",
                    "payment_id": payment_id,
                    "amount_fen": part["amount_fen"],
                    "refunded_at": parse_utc(event.data["refunded_at"]) if event.data.get("refunded_at") else event.at,
                    **self._common(event, part["id"]),
                }
            )
        await self._write_and_tell(rows)

    async def _payment_row(self, event: Event, row: Mapping[str, Any]) -> dict[str, Any]:
        # The payer may have been joined into another account since; whose system it is in does not depend on that.
        note = await store.remembered(self._database, event.owner_id, row["id"])
        note = note or await store.any_note(self._database, row["id"])
        if note is None:
            raise BillNotFound("没有这张账单的查询记录，缴款无法告知部门。", bill_id=row["id"])
        payables = event.data["payables"]
        paid_fen = row.get("amount_fen") or (event.data["amount_fen"] if len(payables) == 1 else None)
        return {
            "_id": report_id_of(event.subject_id, row["id"]),
            "kind": "payment",
            "office": note["office"],
            "paid_fen": paid_fen,
            "quoted": note.get("quoted"),
            # When the provider says it was paid: the news may have come a day later, and a surcharge counts days.
            "paid_at": parse_utc(event.data["paid_at"]) if event.data.get("paid_at") else event.at,
            "provider_trade_no": str(
                event.data.get("provider_trade_no") or event.data.get("attempt_id") or event.subject_id
            ),
            **self._common(event, row["id"]),
        }

    def _common(self, event: Event, bill_id: str) -> dict[str, Any]:
        now = self._clock()
        return {
            "bill_id": bill_id,
            "order_id": event.subject_id,
            "owner_id": event.owner_id,
            "state": "waiting",
            "next_at": now,
            "tries": 0,
            "created_at": now,
        }

    async def _write_and_tell(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            # Written once: the same event again finds its row, whatever has become of it.
            values = {name: value for name, value in row.items() if name != "_id"}
            await self._rows.update_one({"_id": row["_id"]}, {"$setOnInsert": values}, upsert=True)
        # One department that is away must not keep the next from hearing: each is tried, what fails waits.
        await asyncio.gather(*(self._tell_claimed({"_id": row["_id"]}) for row in rows))

    # --- telling ---

    async def sweep(self, now: datetime | None = None) -> int:
        """Tell what is due; return how much was tried. Any number of workers may sweep."""
        stop_at = asyncio.get_running_loop().time() + _ROUND_S

        async def work() -> int:
            tried = 0
            while asyncio.get_running_loop().time() < stop_at and await self._tell_claimed({}, now):
                tried += 1
            return tried

        tried = sum(await asyncio.gather(*(work() for _ in range(_AT_ONCE))))
        await self._watch(now or self._clock())
        return tried

    async def _watch(self, now: datetime) -> None:
        waiting = await self._rows.find_one({"next_at": {"$type": "date"}}, {"created_at": 1}, sort=[("next_at", ASCENDING)])
        metrics.oldest_untold.set((now - waiting["created_at"]).total_seconds() if waiting else 0)

    async def _tell_claimed(self, which: Mapping[str, Any], now: datetime | None = None) -> bool:
        """Take one report that is due and tell it. False: there was none."""
        now = now or self._clock()
        row = await self._rows.find_one_and_update(
            {**which, "next_at": {"$lte": now}},
            {"$set": {"next_at": now + LEASE}, "$inc": {"tries": 1}},
            sort=[("next_at", ASCENDING)],
            return_document=ReturnDocument.AFTER,
        )
        if row is None:
            return False
        try:
            if row["kind"] == "payment":
                await self._tell_payment(row)
            elif not await self._tell_refund(row):
                await self._again(row, now)
        except Exception as error:  # whatever it was: not acknowledged is not told
            log.warning("bill.report_failed", report=row["kind"], bill_id=row["bill_id"], tries=row["tries"], exc_info=error)
            await self._again(row, now)
        return True

    async def _again(self, row: Mapping[str, Any], now: datetime) -> None:
        pause_s = _AGAIN_S[min(row["tries"], len(_AGAIN_S)) - 1]
        await self._rows.update_one(
            {"_id": row["_id"], "state": "waiting"}, {"$set": {"next_at": now + timedelta(seconds=pause_s)}}
        )

    async def _tell_payment(self, row: dict[str, Any]) -> None:
        office = Office(**row["office"])
        try:
            amount_fen, late_fee_fen = await self._parts(row, office)
            row |= {"amount_fen": amount_fen, "late_fee_fen": late_fee_fen}
            receipt_no = await self._departments.report_payment(
                office,
                row["bill_id"],
                payment_id=row["_id"],
                amount_fen=amount_fen,
                late_fee_fen=late_fee_fen,
                paid_at=row["paid_at"],
                provider_trade_no=row["provider_trade_no"],
            )
        except (PaymentRefused, BillNotFound) as error:
            await self._refused(row, str(error.context.get("word", "not_found")))
            return
        parts = {"amount_fen": amount_fen, "late_fee_fen": late_fee_fen}
        if await self._ended(row, "accepted", receipt_no=receipt_no, **parts):
            metrics.told.labels("accepted").inc()

    async def _parts(self, row: Mapping[str, Any], office: Office) -> tuple[int, int]:
        """Return (bill, surcharge) of what was paid. The order knows the sum; the department knows the bill without surcharge."""
        paid_fen, quoted = row["paid_fen"], row["quoted"]
        if quoted and paid_fen in (None, quoted["amount_fen"] + quoted["late_fee_fen"]):
            return quoted["amount_fen"], quoted["late_fee_fen"]
        bill = await self._departments.bill(office, row["bill_id"])
        late_fee_fen = bill.late_fee_fen if paid_fen is None else max(0, paid_fen - bill.amount_fen)
        return bill.amount_fen, late_fee_fen

    async def _tell_refund(self, row: dict[str, Any]) -> bool:
        """Tell a refund, once its payment has been told. False: that has still to happen."""
        payment = await self._rows.find_one({"_id": row["payment_id"]})
        if payment is None or payment["state"] == "waiting":
            return False
        try:
            await self._departments.report_refund(
                Office(**payment["office"]),
                row["bill_id"],
                refund_id=row["_id"],
                payment_id=row["payment_id"],
                amount_fen=row["amount_fen"],
                refunded_at=row["refunded_at"],
            )
        except (PaymentRefused, BillNotFound) as error:
            word = str(error.context.get("word", "not_found"))
            if await self._ended(row, "refused", word=word):
                # The money has gone back all the same: its department has to put its own books right, by hand.
                metrics.refunds_told.labels("refused").inc()
                log.error("bill.refund_refused", order_id=row["order_id"], bill_id=row["bill_id"], word=word)
            return True
        if await self._ended(row, "accepted"):
            metrics.refunds_told.labels("accepted").inc()
        return True

    async def _ended(self, row: Mapping[str, Any], state: str, session: Any = None, **facts: Any) -> bool:
        """Note how a report ended. False: somebody else has noted that already."""
        ended = {"state": state, "next_at": None, "at": self._clock(), **facts}
        result = await self._rows.update_one({"_id": row["_id"], "state": "waiting"}, {"$set": ended}, session=session)
        return result.modified_count == 1

    async def _refused(self, row: Mapping[str, Any], word: str) -> None:
        parts = {name: row[name] for name in ("amount_fen", "late_fee_fen") if name in row}

        async def work(session: Any) -> bool:
            if not await self._ended(row, "refused", session, word=word, **parts):
                return False
            refused = new_event(
                "bill.payment_refused",
                subject=("bill", row["bill_id"]),
                owner_id=row["owner_id"],
                data={
                    "order_id": row["order_id"],
                    "office_id": row["office"]["id"],
                    "amount_fen": sum(parts.values()) or row["paid_fen"] or 0,
                    "word": word,
                    "paid_at": format_utc(row["paid_at"]),
                },
                at=self._clock(),
            )
            await outbox.append(self._database, session, [refused])
            return True

        if await self._database.transaction(work):
            metrics.told.labels("refused").inc()
            log.error("bill.payment_refused", order_id=row["order_id"], bill_id=row["bill_id"], word=word)


def report_id_of(subject_id: str, bill_id: str) -> str:
    """Return the id under which a department knows a payment (of an order) or a refund: always the same, at most 64 characters."""
    plain = f"{subject_id}.{bill_id}"
    return plain if len(plain) <= _LONGEST_ID else f"{subject_id}.{hashlib.sha256(bill_id.encode()).hexdigest()[:24]}"
