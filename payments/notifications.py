"""Notifications of the providers: stored raw first, then applied, then answered.

A notice whose signature holds goes into `payment_notifications`. Everything else goes into a small capped collection: a flood of
forgeries pushes out older forgeries and fills nothing. A notice that was stored but not applied (the process died in between) is
applied by the sweep, besides coming again by itself.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import bson
import structlog
from bson.raw_bson import RawBSONDocument
from pymongo import WriteConcern
from pymongo.errors import CollectionInvalid, OperationFailure

from app.kernel.ids import new_id
from app.storage.gather import Gather
from app.storage.mongo import Database
from payments import metrics
from payments.model import AttemptState
from payments.provider import NotificationRejected, PaymentProvider, PaymentReport, RefundReport
from payments.settling import Settling, UnknownNumber

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 64 * 1024
_REJECTED = "payment_notifications_rejected"
_REJECTED_BYTES = 32 * 1024 * 1024
_REJECTED_ROWS = 5000
# Only what belongs to the message is kept: no cookies, no addresses.
_KEPT_HEADERS = ("wechatpay-", "content-type", "request-id", "user-agent")
_APPLY_AGAIN_AFTER = timedelta(seconds=10)
_NAMESPACE_EXISTS = 48


@dataclass(frozen=True)
class Outcome:
    """What to answer a provider: taken, or refused with a reason of ours (never with contents)."""

    taken: bool
    reason: str = ""


class Notifications:
    def __init__(
        self,
        database: Database,
        providers: Mapping[str, PaymentProvider],
        settling: Settling,
        apply_refund: Callable[[RefundReport, datetime], Awaitable[object]],
    ) -> None:
        self._database = database
        self._stored = database["payment_notifications"]
        self._providers = providers
        self._settling = settling
        self._apply_refund = apply_refund
        self._inserts: Gather[RawBSONDocument, None] = Gather(self._insert, at_most=32, in_flight=3)

    async def prepare(self) -> None:
        """Make the capped collection; an existing one stays."""
        try:
            await self._database.db.create_collection(
                _REJECTED, capped=True, size=_REJECTED_BYTES, max=_REJECTED_ROWS
            )
        except CollectionInvalid:
            pass
        except OperationFailure as error:
            if error.code != _NAMESPACE_EXISTS:
                raise

    async def receive(self, provider_name: str, headers: Mapping[str, str], body: bytes, now: datetime) -> Outcome:
        """Take one notification. Raises PyMongoError when it could not be stored or applied: it will come again."""
        provider = self._providers[provider_name]
        try:
            notice = provider.read_notification(headers, body, now)
        except NotificationRejected as rejected:
            if rejected.key_unknown:
                # Perhaps a key that is being introduced. Nobody waits for it here: the notice comes again, and is checked then.
                provider.learn_keys_soon()
            return await self._reject(provider_name, headers, body, now, rejected)
        record = _record(provider_name, headers, body, now) | {
            "kind": notice.kind,
            "notice_id": notice.notice_id,
            "state": "stored" if notice.report or notice.refund else "kept",
        }
        if notice.report is not None:
            record |= {"out_trade_no": notice.report.out_trade_no, "report": notice.report.to_document()}
        if notice.refund is not None:
            record |= {"out_trade_no": notice.refund.out_trade_no, "refund": notice.refund.to_document()}
        # As bytes already, so that one that cannot be written fails here, alone.
        await self._inserts.add(RawBSONDocument(bson.encode(record)))
        if notice.report is None and notice.refund is None:
            metrics.notices.labels(provider_name, notice.kind).inc()
            return Outcome(taken=True)
        return await self._apply(record["_id"], provider_name, notice.report, notice.refund, now)

    async def apply_forgotten(self, now: datetime, limit: int = 20) -> int:
        """Apply what was stored but not applied; return how many."""
        rows = (
            await self._stored.find({"state": "stored", "received_at": {"$lte": now - _APPLY_AGAIN_AFTER}})
            .sort("received_at", 1)
            .limit(limit)
            .to_list()
        )
        for row in rows:
            try:
                report = PaymentReport.from_document(row["report"]) if "report" in row else None
                refund = RefundReport.from_document(row["refund"]) if "refund" in row else None
                await self._apply(row["_id"], row["provider"], report, refund, now)
            except Exception as error:  # one that cannot be applied must not keep the others, nor the sweep, from going on
                log.error("payment.notice_not_applied", notification_id=row["_id"], exc_info=error)
        return len(rows)

    async def _insert(self, records: list[RawBSONDocument]) -> list[None]:
        await self._stored.insert_many(records, ordered=False)
        return [None] * len(records)

    async def _apply(
        self, record_id: str, provider: str, report: PaymentReport | None, refund: RefundReport | None, now: datetime
    ) -> Outcome:
        if report is not None and refund is None and await self._settling.apply_stored(record_id, report, now):
            metrics.notices.labels(provider, "applied").inc()
            return Outcome(taken=True)
        try:
            if report is not None:  # first the payment, then what went back of it
                order = await self._settling.apply_report(report, "notice", now)
                attempt = order.attempt(report.out_trade_no)
                if attempt is not None and attempt.state is AttemptState.HELD:
                    # Nothing was booked, so nothing is acknowledged: it comes again while people look into it.
                    metrics.notices.labels(provider, "held").inc()
                    await self._mark(record_id, "held")
                    return Outcome(taken=False, reason="does not match the order")
            if refund is not None:
                await self._apply_refund(refund, now)
        except UnknownNumber as error:
            if report is not None and refund is not None and str(error) == refund.out_refund_no:
                # Given back at the provider's console, not by us: the payment is applied, the refund is for reconciliation to find.
                await self._mark(record_id, "unknown_refund")
                return Outcome(taken=True)
            # Refused so that it comes again: after a restore, or in the wrong environment, a person must see it.
            metrics.notices.labels(provider, "unknown_number").inc()
            await self._mark(record_id, "unknown_number")
            return Outcome(taken=False, reason="unknown out_trade_no" if report else "unknown out_refund_no")
        metrics.notices.labels(provider, "applied").inc()
        await self._mark(record_id, "applied")
        return Outcome(taken=True)

    async def _mark(self, record_id: str, state: str) -> None:
        await self._stored.update_one({"_id": record_id}, {"$set": {"state": state}})

    async def _reject(
        self, provider: str, headers: Mapping[str, str], body: bytes, now: datetime, rejected: NotificationRejected
    ) -> Outcome:
        metrics.notices.labels(provider, "rejected").inc()
        record = _record(provider, headers, body, now) | {"reason": rejected.reason}
        if rejected.is_signed:
            # Truly theirs, but not understood: that is our bug or their news, and worth keeping.
            log.error("payment.notice_not_understood", provider=provider, reason=rejected.reason)
            await self._stored.insert_one(record | {"kind": "payment", "state": "not_understood"})
            return Outcome(taken=False, reason="content not understood")
        metrics.signatures_refused.labels(provider, rejected.reason).inc()
        tell = log.info if rejected.is_probe else log.warning
        tell("payment.notice_refused", provider=provider, reason=rejected.reason)
        # Not worth waiting for the journal: a flood of forgeries should cost the database little.
        await self._database[_REJECTED].with_options(write_concern=WriteConcern(w=1)).insert_one(record)
        return Outcome(taken=False, reason="signature refused")


def _record(provider: str, headers: Mapping[str, str], body: bytes, now: datetime) -> dict[str, Any]:
    kept = {name.lower(): value for name, value in headers.items() if name.lower().startswith(_KEPT_HEADERS)}
    return {"_id": new_id("ntf"), "provider": provider, "received_at": now, "headers": kept, "body": body}
