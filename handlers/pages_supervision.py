"""Supervision (督办): yellow and red cards with the form to settle one, and the measures of an agency (监察统计) by day and in all."""

import re
from collections.abc import Mapping
from typing import Any

from app.kernel.errors import HallError
from handlers.pages_base import ULID, errors_by_field
from handlers.pages_staff import StaffPage
from handlers.problems import judged
from handlers.supervision import HandleCardRequest, SupervisionQuery

PAGE = 50
TABS = {"open": "没处理的", "escalated": "已报上级的", "handled": "处理过的"}
# Measure -> what a head reads.
NAMES = {
    "early": "提前办结",
    "on_time": "按时办结",
    "late": "超期办结",
    "noticed": "告知补正",
    "noticed_again": "再次告知补正",
    "deemed_accepted": "逾期视为受理",
    "yellow": "黄牌",
    "red": "红牌",
    "escalated": "报上级",
}
RATES = {"early_rate": "提前办结率", "on_time_rate": "按期办结率", "late_rate": "超期率", "noticed_once_rate": "一次告知达标率"}


class Cards(StaffPage):
    async def get(self) -> None:
        await self.show_cards()

    async def show_cards(self, card_id: str = "", error: HallError | None = None) -> None:
        asked = {name: self.get_query_argument(name, "")[:40] for name in ("tab", "card", "cursor")}
        tab = asked["tab"] if asked["tab"] in TABS else "open"
        card = asked["card"] if asked["card"] in ("yellow", "red") else None
        rows, following = await self.hall.supervision.page(
            self.staff,
            card=card,
            is_open=tab != "handled",
            is_escalated=tab == "escalated",
            limit=PAGE,
            cursor=asked["cursor"] if re.fullmatch(rf"card_{ULID}", asked["cursor"]) else None,
        )
        counts = await self.hall.supervision.counts(self.staff)
        await self.show(
            "staff_cards.html",
            error.status if error else 200,
            rows=rows,
            next_cursor=following,
            tab=tab,
            tabs=TABS,
            card=card or "",
            counts=counts,
            own_agency=self.staff.agency_id,
            # What was typed is kept after a refusal, at the card that it is about.
            wrong=card_id,
            note=self.text("note"),
            error=error,
            errors=errors_by_field(error) if error else {},
        )


class HandleCard(Cards):
    async def get(self, _card_id: str) -> None:
        self.redirect("/staff/supervision", status=303)

    async def post(self, card_id: str) -> None:
        try:
            note = judged(HandleCardRequest, {"note": self.text("note", limit=501).strip()}, "")["note"]
            await self.hall.supervision.handle(card_id, self.staff, note)
        except HallError as error:
            if error.status not in (403, 409, 422):
                raise
            return await self.show_cards(card_id, error)
        self.redirect("/staff/supervision", status=303)


class Measures(StaffPage):
    """GET: the last 30 days, or those between two; another agency's for the one that runs the hall. Heads alone."""

    async def get(self) -> None:
        asked = {name: self.text(name, limit=40).strip() for name in ("from", "to", "agency")}
        error, found = None, None
        try:
            found = await self._measures(asked)
        except HallError as refused:
            if refused.status != 422:
                raise
            # A period that cannot be: the form stays as it was typed, above the last 30 days.
            error, found = refused, await self._measures({"agency": asked["agency"]})
        await self.show(
            "staff_measures.html",
            error.status if error else 200,
            found=found,
            asked={"from": found["from"], "to": found["to"]} if error is None else asked,
            agencies=self._agencies(),
            names=NAMES,
            rates=RATES,
            most=max((row["early"] + row["on_time"] + row["late"] for row in found["days"]), default=0),
            error=error,
            errors=errors_by_field(error) if error else {},
        )

    async def _measures(self, asked: Mapping[str, str]) -> dict[str, Any]:
        query = judged(SupervisionQuery, {name: value for name, value in asked.items() if value}, "/query")
        measures: dict[str, Any] = await self.hall.supervision.measures(
            self.staff, query["begin"], query["end"], query["agency"]
        )
        return measures

    def _agencies(self) -> dict[str, str]:
        """Return the agencies to choose from by id: all for the one that runs the hall, else none but the own."""
        rows = self.hall.catalogue.snapshot.catalogue.agencies if self.hall.supervision.is_superior(self.staff) else []
        return {row["id"]: row["name"] for row in rows}


routes = [
    (r"/staff/supervision", Cards),
    (r"/staff/supervision/measures", Measures),
    (r"/staff/supervision/(card_[0-9A-Z]{26})/handle", HandleCard),
]
