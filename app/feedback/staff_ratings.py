"""What heads and the call-back desk read of ratings: the ratings themselves, without those of what they took part in, and the statistics."""

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from app.feedback import people, statistics
from app.feedback.contacts import subject_of
from app.feedback.model import DeskNeeded, Rules
from app.feedback.sealing import opened
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import format_utc, shanghai_day, utc_now
from app.kernel.crypto import KeyRing
from app.kernel.errors import ValidationFailed, error_row
from app.storage.mongo import Database


class StaffRatings:
    def __init__(
        self, database: Database, keys: KeyRing, rules: Rules, superior: str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._keys = keys
        self._rules = rules
        self._superior = superior
        self._clock = clock

    async def page(
        self, staff: StaffSession, *, level: int | None = None, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return ratings, newest first, with text and tags except of cases in which this person took part. Audited.

        Raises:
            DeskNeeded: a clerk of another agency than the one that runs the hall.
        """
        query: dict[str, Any] = {} if staff.agency_id == self._superior else {"agency_id": staff.agency_id}
        if staff.role != "head" and staff.agency_id != self._superior:
            raise DeskNeeded("评价内容只对单位负责人和回访专员开放。", en="For the head of the agency and the call-back desk.")
        if level is not None:
            query["level"] = level
        if cursor:
            query["_id"] = {"$lt": cursor}
        rows = await self._database["evaluations"].find(query).sort("_id", -1).limit(limit + 1).to_list()
        shown = rows[:limit]
        hidden = await people.took_part(self._database, [subject_of(row) for row in shown], staff.account)
        await record(
            self._database["audit"], actor=staff.account, action="evaluation.list", subject=staff.agency_id, owner_id="",
            subjects=[row["_id"] for row in shown if subject_of(row) not in hidden],
        )  # fmt: skip
        return [self._staff_row(row, is_hidden=subject_of(row) in hidden) for row in shown], rows[limit - 1]["_id"] if len(rows) > limit else None

    def _staff_row(self, row: Mapping[str, Any], *, is_hidden: bool) -> dict[str, Any]:
        what = {"tags": [], "text": "", "follow_up": None} if is_hidden else opened(row, self._keys)
        return {
            "id": row["_id"],
            "kind": row.get("kind", "matter"),
            "agency_id": row["agency_id"],
            "item": {"code": row["item_code"], "name": row.get("item_name", "")},
            "number": row.get("number", ""),
            "level": row["level"],
            "channel": row.get("channel", "h5"),
            "at": format_utc(row["at"]),
            "is_hidden": is_hidden,
            "tags": what["tags"],
            "text": what["text"],
            "follow_up": what["follow_up"],
        }

    async def statistics(self, staff: StaffSession, begin: date | None, end: date | None, agency: str | None) -> dict[str, Any]:
        """Return the statistics of an agency over a period, in all and by day, item and channel. The last 30 days by default.

        Raises:
            DeskNeeded: a clerk, or another agency than the own. ValidationFailed: a period that ends before it begins, or is too long.
        """
        if staff.role != "head" or (agency not in (None, staff.agency_id) and staff.agency_id != self._superior):
            raise DeskNeeded("评价统计只对单位负责人开放。", en="For the head of the agency.")
        today = shanghai_day(self._clock())
        end = end or today
        begin = begin or end - timedelta(days=29)
        if not timedelta(0) <= end - begin < timedelta(days=statistics.MAX_DAYS):
            raise ValidationFailed([error_row("/query/from", "period", f"起止日期要依次，最长{statistics.MAX_DAYS}天")])
        rows = await statistics.read(self._database, agency or staff.agency_id, begin, end)
        counted = self._rules.unrated_counts_after_days
        return {
            "agency": agency or staff.agency_id,
            "from": begin.isoformat(),
            "to": end.isoformat(),
            "rule_version": statistics.RULE_VERSION,
            "unrated_counts_after_days": counted,
            "totals": statistics.totals(rows, today, counted),
            "days": statistics.grouped(rows, "on"),
            "items": statistics.grouped(rows, "item_code"),
            "channels": [row for row in statistics.grouped(rows, "channel") if row["channel"] != statistics.ALL],
        }
