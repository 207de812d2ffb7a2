"""回访和投诉 on the staff console: the list by lamp, one work order with its steps, and the statistics of ratings."""

import re

from app.feedback import machine
from app.feedback.model import LEVELS, DeskNeeded
from app.feedback.work_order import LAMPS, view
from app.kernel.errors import HallError
from handlers.feedback import phone_of, row
from handlers.pages_feedback import WORK_ORDER
from handlers.pages_staff import PAGE, StaffPage

_CURSOR = r"\d{4}-\d\d-\d\d~\w{1,40}"


class WorkOrders(StaffPage):
    async def get(self) -> None:
        kind, lamp, state = self.text("kind", limit=20), self.text("lamp", limit=10), self.text("state", limit=20)
        asked = {"kind": kind if kind in machine.TABLES else "", "lamp": lamp if lamp in LAMPS else "", "state": "closed" if state == "closed" else ""}
        cursor = self.text("cursor", limit=60)
        page = await self.hall.work_orders.page(self.staff, **asked, limit=PAGE, cursor=cursor if re.fullmatch(_CURSOR, cursor) else None)
        rank = self.hall.work_orders.rank(self.staff)
        await self.show(
            "staff_work_orders.html",
            rows=[row(order, self.hall, rank) for order in page["orders"]],
            counts=page["counts"],
            next_cursor=page["next_cursor"],
            asked=asked,
        )


class OneWorkOrder(StaffPage):
    async def get(self, order_id: str) -> None:
        await self.show_order(order_id)

    async def show_order(self, order_id: str, *, action: str = "", error: HallError | None = None) -> None:
        order = await self.hall.work_orders.read(order_id, self.staff)
        await self.show(
            "staff_work_order.html",
            error.status if error else 200,
            order=view(order, self.hall.work_orders.today(), self.hall.work_orders.rank(self.staff)),
            phone=await phone_of(self.hall, order.owner_id),
            names=machine.STEP_NAMES,
            reasons=machine.SET_ASIDE_FOR,
            needs={step.name: step.needs for step in machine.TABLES[order.kind]},
            action=action,
            text=self.text("text", limit=2000),
            error=error,
        )


class Step(OneWorkOrder):
    async def get(self, order_id: str, _action: str) -> None:
        self.redirect(f"/staff/feedback/{order_id}", status=303)

    async def post(self, order_id: str, action: str) -> None:
        body = {"text": self.text("text", limit=2000), "reason": self.text("reason", limit=20)}
        try:
            order = await self.hall.work_orders.by_staff(order_id, self.staff, action, body)
        except HallError as error:
            if error.status not in (409, 422):
                raise
            return await self.show_order(order_id, action=action, error=error)
        # What was passed on is another agency's now.
        is_away = action == "refer" and self.staff.agency_id != order.desk_agency
        self.redirect("/staff/feedback" if is_away else f"/staff/feedback/{order_id}", status=303)


class Ratings(StaffPage):
    """The statistics (the head), and what people wrote, except of cases in which the reader took part."""

    async def get(self) -> None:
        cursor = self.text("cursor", limit=40)
        rows, next_cursor = await self.hall.staff_ratings.page(self.staff, limit=PAGE, cursor=cursor if re.fullmatch(r"evl_\w{26}", cursor) else None)
        try:
            found = await self.hall.staff_ratings.statistics(self.staff, None, None, None)
        except DeskNeeded:  # the call-back desk reads ratings, the head the statistics too
            found = None
        await self.show("staff_ratings.html", rows=rows, next_cursor=next_cursor, found=found, levels=LEVELS)


routes = [
    (r"/staff/feedback", WorkOrders),
    (r"/staff/feedback/ratings", Ratings),
    (rf"/staff/feedback/{WORK_ORDER}", OneWorkOrder),
    (rf"/staff/feedback/{WORK_ORDER}/(\w+)", Step),
]
