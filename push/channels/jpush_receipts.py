"""Receipts of JPush: GET {base}/v3/received/detail?msg_ids=, a hundred messages at a time, asked by the worker.

A push of ours goes to one person's phones only, so one phone that has it is an arrival. Nothing anywhere when JPush keeps it no longer: what
must arrive goes on to the next channel. Where a maker or Apple took it and says no more, nobody knows: nothing follows, and nothing is
guessed. JPush keeps its counts for a month. Source: JPush, REST API v3, report.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog

from app.platforms.http import HttpClient, VendorUnknown, VendorUnreachable
from app.storage.claims import claim
from app.storage.mongo import Database
from push.channel import alarms
from push.channels.jpush import authorization
from push.reports import Reports

log = structlog.get_logger(__name__)

TIMEOUT_S = 10
AT_ONCE = 100  # messages per call: JPush's limit
_ROUNDS = 20
_LEASE = timedelta(seconds=60)
_SOONEST, _LATEST = timedelta(seconds=30), timedelta(hours=1)
_MARGIN = timedelta(minutes=10)  # after the last moment at which JPush may deliver, until its counts are complete

ARRIVED, TAKEN, NOWHERE = "arrived", "taken", "nowhere"


class JPushReceipts:
    """One per worker. `base_url` empty: receipts are not asked for."""

    def __init__(
        self,
        http: HttpClient,
        database: Database,
        reports: Reports,
        clock: Callable[[], datetime],
        *,
        base_url: str,
        app_key: str,
        master_secret: str,
    ) -> None:
        self._http = http
        self._receipts = database["push_receipts"]
        self._deliveries = database["deliveries"]
        self._reports = reports
        self._clock = clock
        self._url = f"{base_url.rstrip('/')}/v3/received/detail" if base_url else ""
        self._authorization = authorization(app_key, master_secret)

    async def sweep(self) -> int:
        """Ask about what is due and return how many messages were asked about. Several workers may do it at once."""
        asked = 0
        for _ in range(_ROUNDS if self._url else 0):
            now = self._clock()
            rows = await claim(
                self._receipts,
                {"next_at": {"$lte": now}},
                sort=[("next_at", 1)],
                most=AT_ONCE,
                changes={"$set": {"next_at": now + _LEASE}},
            )
            asked += len(rows)
            if rows and not await self._ask(rows, now):
                break  # JPush is away: the lease brings them back
            if len(rows) < AT_ONCE:
                break
        return asked

    async def _ask(self, rows: Sequence[Mapping[str, Any]], now: datetime) -> bool:
        wanted = {"vendor_id": 1, "channel": 1, "state": 1, "fate": 1, "must_arrive": 1}
        deliveries = {
            one["_id"]: one async for one in self._deliveries.find({"_id": {"$in": [row["_id"] for row in rows]}}, wanted)
        }
        open_rows = [row for row in rows if _is_asked_about(deliveries.get(row["_id"]))]
        counts = await self._counts([deliveries[row["_id"]]["vendor_id"] for row in open_rows]) if open_rows else {}
        if counts is None:
            return False
        done = [row["_id"] for row in rows if row not in open_rows]
        for row in open_rows:
            delivery = deliveries[row["_id"]]
            outcome = verdict(counts.get(delivery["vendor_id"], {}))
            is_over = now >= row["until"] + _MARGIN
            if outcome == ARRIVED:
                await self._reports.take("app", delivery["vendor_id"], "success")
            elif outcome == NOWHERE and is_over and delivery["must_arrive"]:
                await self._reports.take("app", delivery["vendor_id"], "failed:expired")
            elif not is_over:
                # Twice its age, but once more when it is over.
                wait = min(max(now - row["at"], _SOONEST), _LATEST, max(row["until"] + _MARGIN - now, _SOONEST))
                await self._receipts.update_one({"_id": row["_id"]}, {"$set": {"next_at": now + wait}})
                continue
            done.append(row["_id"])
        if done:  # after their reports: who dies in between asks once more, and a report counts once
            await self._receipts.delete_many({"_id": {"$in": done}})
        return True

    async def _counts(self, msg_ids: Sequence[str]) -> dict[str, Mapping[str, Any]] | None:
        """Return JPush's counts by message id; None: it did not answer, or not in its own words."""
        try:
            response = await self._http.request(
                "jpush_report",
                "GET",
                f"{self._url}?msg_ids={','.join(msg_ids)}",
                headers={"Authorization": self._authorization},
                body=None,
                timeout_s=TIMEOUT_S,
                repeatable=True,
            )
            answer = orjson.loads(response.body)
        except (VendorUnreachable, VendorUnknown, orjson.JSONDecodeError) as error:
            log.info("jpush.no_receipts", error=type(error).__name__)
            return None
        if response.status != 200 or not isinstance(answer, list):
            code = str(response.status)
            log.warning("jpush.receipts_refused", status=code)
            if response.status in (401, 403):
                alarms.labels("app", f"receipts_{code}").inc()
            return None
        return {str(row["msg_id"]): row for row in answer if isinstance(row, dict) and "msg_id" in row}


def verdict(counts: Mapping[str, Any]) -> str:
    """Say what the counts of one message come to: ARRIVED, TAKEN (by a maker or Apple; no word from a phone) or NOWHERE.

    The names are JPush's: `jpush_received`, `android_pns_received`, `ios_apns_sent`, ...; null where it knows nothing.
    """
    for ending, outcome in (("_received", ARRIVED), ("_sent", TAKEN)):
        if any(name.endswith(ending) and isinstance(count, int) and count > 0 for name, count in counts.items()):
            return outcome
    return NOWHERE


def _is_asked_about(delivery: Mapping[str, Any] | None) -> bool:
    return bool(
        delivery and delivery["state"] == "sent" and delivery["channel"] == "app" and delivery.get("vendor_id") and not delivery.get("fate")
    )
