"""What an agency's people see of supervision: their cards, settling one by hand (the head, saying why), and their measures.

The agency that runs the hall also sees what was passed on to it, and every agency's measures.
"""

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import format_utc, shanghai_day, utc_now
from app.kernel.errors import Conflict, Forbidden, NotFound, ValidationFailed, error_row
from app.storage.mongo import Database
from app.supervision import measures
from app.supervision.cards import RULES

AT_MOST = 99  # counts stop there: "99+"
MAX_DAYS = 366
_NAMES = {rule.key: rule.name for rule in RULES}


class CardNotFound(NotFound):
    code = "card.not_found"


class CardHandled(Conflict):
    code = "card.handled"


class HeadNeeded(Forbidden):
    code = "card.head_needed"


class Desk:
    def __init__(self, database: Database, superior: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._superior = superior
        self._clock = clock

    def is_superior(self, staff: StaffSession) -> bool:
        """Say whether somebody is of the agency that runs the hall, whose head sees every agency's measures."""
        return staff.agency_id == self._superior

    async def page(
        self,
        staff: StaffSession,
        *,
        card: str | None = None,
        is_open: bool = True,
        is_escalated: bool = False,
        limit: int = 20,
        cursor: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return cards that concern this person, newest first, and the cursor of the next page.

        A head sees all of the agency's, a clerk what goes to clerks: of the own cases and of those nobody has.

        Args:
            is_escalated: what was passed on instead; for the superior agency of all agencies, for others of their own.
        """
        query = self._seen_by(staff, is_escalated) | {"is_open": is_open}
        if card:
            query["card"] = card
        if cursor:
            query["_id"] = {"$lt": cursor}
        rows = await self._database["cards"].find(query).sort("_id", -1).limit(limit + 1).to_list()
        return [view(row) for row in rows[:limit]], rows[limit - 1]["_id"] if len(rows) > limit else None

    async def counts(self, staff: StaffSession) -> dict[str, int]:
        """Return how many open cards of each colour this person sees, up to AT_MOST + 1."""
        found = {}
        for name, query in (
            ("yellow", self._seen_by(staff, False) | {"card": "yellow"}),
            ("red", self._seen_by(staff, False) | {"card": "red"}),
            ("escalated", self._seen_by(staff, True)),
        ):
            found[name] = await self._database["cards"].count_documents(query | {"is_open": True}, limit=AT_MOST + 1)
        return found

    async def handle(self, card_id: str, staff: StaffSession, note: str) -> dict[str, Any]:
        """Settle a card by hand: what was done about it. Audited.

        Raises:
            CardNotFound: none, or another agency's. HeadNeeded: a clerk. CardHandled: it is settled.
        """
        mine = {"_id": card_id} if staff.agency_id == self._superior else {"_id": card_id, "agency_id": staff.agency_id}
        card = await self._database["cards"].find_one(mine)
        if card is None or not (card["agency_id"] == staff.agency_id or card["is_escalated"]):
            raise CardNotFound("没有找到这张监察卡。", en="No such card.")
        if staff.role != "head":
            raise HeadNeeded("监察卡要由单位负责人处理。", en="The head of the agency settles cards.")

        async def work(session: Any) -> bool:
            done = {"is_open": False, "is_waiting": False, "handled_at": self._clock(), "handled_by": staff.account, "note": note}
            changed = await self._database["cards"].update_one({"_id": card_id, "is_open": True}, {"$set": done}, session=session)
            if changed.modified_count:
                await record(
                    self._database["audit"], actor=staff.account, action="card.handled", subject=card_id,
                    owner_id=card["owner_id"], session=session,
                )  # fmt: skip
            return bool(changed.modified_count)

        if not await self._database.transaction(work):
            raise CardHandled("这张监察卡已经处理过了，请刷新后查看。", en="Settled already.")
        settled = await self._database["cards"].find_one({"_id": card_id})
        assert settled is not None
        return view(settled)

    async def measures(self, staff: StaffSession, begin: date | None, end: date | None, agency: str | None) -> dict[str, Any]:
        """Return the measures of an agency over a period, by day and in all.

        Args:
            begin, end: Shanghai days, both included; by default the last 30.
            agency: another one than the own; for the superior agency alone.

        Raises:
            HeadNeeded: a clerk, or another agency than the own. ValidationFailed: a period that ends before it begins, or is too long.
        """
        if staff.role != "head" or (agency not in (None, staff.agency_id) and staff.agency_id != self._superior):
            raise HeadNeeded("监察统计只对单位负责人开放。", en="For the head of the agency.")
        end = end or shanghai_day(self._clock())
        begin = begin or end - timedelta(days=29)
        if not timedelta(0) <= end - begin < timedelta(days=MAX_DAYS):
            raise ValidationFailed([error_row("/query/from", "period", f"起止日期要依次，最长{MAX_DAYS}天")])
        agency_id = agency or staff.agency_id
        days = await measures.days(self._database, agency_id, begin, end)
        return {
            "agency": agency_id,
            "from": begin.isoformat(),
            "to": end.isoformat(),
            "rule_version": measures.RULE_VERSION,
            "totals": measures.totals(days),
            "days": days,
        }

    def _seen_by(self, staff: StaffSession, is_escalated: bool) -> dict[str, Any]:
        if is_escalated:
            return {"is_escalated": True} | ({} if staff.agency_id == self._superior else {"agency_id": staff.agency_id})
        query: dict[str, Any] = {"agency_id": staff.agency_id}
        if staff.role != "head":
            query |= {"to": "clerk", "assignee": {"$in": [None, staff.account]}}
        return query


def view(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card as the API gives it."""
    return {
        "id": card["_id"],
        "card": card["card"],
        "rule": card["rule"],
        "what": _NAMES.get(card["rule"], card["rule"]),
        "case": {"id": card["case_id"], "number": card["number"]},
        "kind": card.get("kind", "case"),
        "item": {"code": card["item_code"], "name": card["item_name"]},
        "agency": {"id": card["agency_id"], "name": card["agency_name"]},
        "clock": card["clock"],
        "due_on": card["due_on"],
        "at": format_utc(card["at"]),
        "to": card["to"],
        "assignee": card["assignee"],
        "is_open": card["is_open"],
        "escalate_on": card["escalate_on"],
        "escalated_at": format_utc(card.get("escalated_at")),
        "handled_at": format_utc(card.get("handled_at")),
        "handled_by": card.get("handled_by"),
        "note": card.get("note", ""),
    }
