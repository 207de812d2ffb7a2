"""评价和投诉 for residents: what may be rated, rating by the link on a receipt, call-backs, complaints. All of it works without script."""

import re
from collections.abc import Mapping
from typing import Any

from app.feedback import machine
from app.feedback.model import BAD_FROM, LEVELS, AlreadyRated
from app.feedback.work_order import view
from app.kernel.errors import HallError, ValidationFailed
from handlers.feedback import limit_conversations, row
from handlers.pages_base import ULID, PageHandler

CONTACT = rf"(con_{ULID})"
WORK_ORDER = r"((?:cmp|cbk)_[0-9A-Z]{26})"
_REFUSED = (409, 422, 429)


class FeedbackPage(PageHandler):
    needs = "resident"
    tab = "me"

    @property
    def owner(self) -> str:
        return self.resident.resident_id

    def chosen_level(self) -> int:
        """Return the level that was tapped, 0 while none was."""
        level = self.text("level", limit=1)
        return int(level) if level in {str(known) for known in LEVELS} else 0

    def said(self) -> dict[str, Any]:
        """Return the rating of the form. Raises ValidationFailed when no level was chosen."""
        level = self.chosen_level()
        if not level:
            raise ValidationFailed([], "请先选一个满意度。")
        tags = [tag[:30] for tag in self.form_fields.get("tag", [])][:10]
        return {"level": level, "tags": tags, "text": self.text("text", limit=1000).strip()}

    async def show_rating(self, contact: dict[str, Any], path: str, error: HallError | None = None, *, by_code: bool = False) -> None:
        level = self.chosen_level()
        await self.show(
            "rate.html",
            error.status if error else 200,
            contact=contact,
            level=level,
            tags=contact["tags"].get(str(level), []),
            ticked=set(self.form_fields.get("tag", [])),
            text=self.text("text", limit=1000),
            path=path,
            by_code=by_code,
            via="tablet" if by_code and self.text("via", limit=10) == "tablet" else "",
            levels=LEVELS,
            bad_from=BAD_FROM,
            error=error,
            back=None if by_code else "/ratings",
        )


class Ratings(FeedbackPage):
    async def get(self) -> None:
        cursor = self.text("cursor", limit=40)
        rows, next_cursor = await self.hall.feedback.contacts(self.owner, cursor=cursor if re.fullmatch(CONTACT, cursor) else None)
        await self.show("ratings.html", rows=rows, next_cursor=next_cursor, levels=LEVELS, back="/me")


class Rating(FeedbackPage):
    """GET: five buttons, then what can be ticked; POST: the rating, once."""

    async def get(self, contact_id: str) -> None:
        await self.show_rating(await self.hall.feedback.contact(contact_id, self.owner), f"/ratings/{contact_id}")

    async def post(self, contact_id: str) -> None:
        try:
            await self.hall.feedback.rate(contact_id, self.owner, **self.said())
        except HallError as error:
            if error.status not in _REFUSED or isinstance(error, AlreadyRated):
                if not isinstance(error, AlreadyRated):
                    raise
                return self.redirect(f"/ratings/{contact_id}", status=303)  # a second tap
            return await self.show_rating(await self.hall.feedback.contact(contact_id, self.owner), f"/ratings/{contact_id}", error)
        self.redirect(f"/ratings/{contact_id}", status=303)


class FollowUp(FeedbackPage):
    async def get(self, contact_id: str) -> None:
        self.redirect(f"/ratings/{contact_id}", status=303)

    async def post(self, contact_id: str) -> None:
        text = self.text("follow_up", limit=1000).strip()
        try:
            if not text:
                raise ValidationFailed([], "请写下想补充的话。")
            await self.hall.feedback.follow_up(contact_id, self.owner, text)
        except HallError as error:
            if error.status not in _REFUSED:
                raise
            return await self.show_rating(await self.hall.feedback.contact(contact_id, self.owner), f"/ratings/{contact_id}", error)
        self.redirect(f"/ratings/{contact_id}", status=303)


class RateByCode(FeedbackPage):
    """/rate/<code>: from the receipt, on a phone or on the tablet of the window, without sign-in."""

    needs = None
    tab = ""

    async def get(self, code: str) -> None:
        await self.show_rating(await self.hall.feedback.by_code(code), self.request.path, by_code=True)

    async def post(self, code: str) -> None:
        channel = "tablet" if self.text("via", limit=10) == "tablet" else "qr"
        try:
            said = self.said()
            await limit_conversations(self, code)
            contact = await self.hall.feedback.rate_by_code(code, **said, channel=channel)
        except AlreadyRated:
            contact = await self.hall.feedback.by_code(code)
        except HallError as error:
            if error.status not in _REFUSED:
                raise
            return await self.show_rating(await self.hall.feedback.by_code(code), self.request.path, error, by_code=True)
        await self.show_rating(contact, self.request.path, by_code=True)


class Complaints(FeedbackPage):
    """GET: mine, with the call-backs of my bad ratings; POST: a new one. Two taps make one."""

    async def get(self) -> None:
        cursor = self.text("cursor", limit=40)
        orders = self.hall.work_orders
        mine, next_cursor = await orders.list_of_resident(
            machine.COMPLAINT, self.owner, cursor=cursor if re.fullmatch(WORK_ORDER, cursor) else None
        )
        called, _more = await orders.list_of_resident(machine.CALL_BACK, self.owner)
        rows, call_backs = ([row(order, self.hall, machine.RESIDENT) for order in found] for found in (mine, called))
        await self.show("complaints.html", rows=rows, call_backs=call_backs, next_cursor=next_cursor, back="/me")

    async def post(self) -> None:
        target, text = self.text("target", limit=80), self.text("text", limit=2000)
        about, _, ident = target.partition(":")
        asked = {"about": about, "text": text, "case_id": ident, "agency_id": ident}
        try:
            if about not in ("case", "agency", "hall"):
                raise ValidationFailed([], "请选择要投诉什么。")
            order = await self.hall.complaints.submit(self.owner, asked, complaint_id=self.once("cmp"))
        except HallError as error:
            if error.status not in _REFUSED:
                raise
            return await self.show_new(target, text, error)
        self.redirect(f"/complaints/{order.id}", status=303)

    async def show_new(self, target: str, text: str, error: HallError | None = None) -> None:
        cases, _cursor = await self.hall.cases.list(self.owner, limit=20, cursor=None)
        await self.show(
            "complaint_new.html",
            error.status if error else 200,
            target=target,
            text=text,
            cases=[case for case in cases if case.submitted_at],
            agencies=self._agencies(),
            limits=self.hall.feedback.rules.working_days[machine.COMPLAINT],
            error=error,
            back="/complaints",
        )


    def _agencies(self) -> list[tuple[str, list[Mapping[str, Any]]]]:
        """Return the bodies to choose from by the name of their place: the city's, then each county's."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for agency in self.hall.catalogue.snapshot.agencies.values():
            found.setdefault(self.divisions.get(agency["division"], agency["division"]), []).append(agency)
        return list(found.items())


class NewComplaint(Complaints):
    async def get(self) -> None:
        await self.show_new(self.text("target", limit=80), "")

    async def post(self) -> None:
        self.redirect("/complaints/new", status=303)


class OneWorkOrder(FeedbackPage):
    """One complaint or call-back, with what was done and what the resident can say to it."""

    kind = machine.COMPLAINT

    async def get(self, order_id: str) -> None:
        await self.show_order(order_id)

    async def show_order(self, order_id: str, error: HallError | None = None) -> None:
        order = await self.hall.work_orders.of_resident(order_id, self.kind, self.owner)
        shown = view(order, self.hall.work_orders.today(), machine.RESIDENT)
        root = "/complaints" if self.kind == machine.COMPLAINT else "/call-backs"
        await self.show(
            "work_order.html",
            error.status if error else 200,
            order=shown,
            lines=list(reversed(shown["log"])),
            path=f"{root}/{order_id}",
            text=self.text("text", limit=2000),
            error=error,
            back="/complaints",
        )


class CallBack(OneWorkOrder):
    kind = machine.CALL_BACK


class Step(OneWorkOrder):
    async def get(self, order_id: str, _action: str) -> None:
        self.redirect(self.request.path.rpartition("/")[0], status=303)

    async def post(self, order_id: str, action: str) -> None:
        try:
            await self.hall.work_orders.by_resident(order_id, self.kind, self.owner, action, self.text("text", limit=2000))
        except HallError as error:
            if error.status not in _REFUSED:
                raise
            return await self.show_order(order_id, error)
        self.redirect(self.request.path.rpartition("/")[0], status=303)


class CallBackStep(Step):
    kind = machine.CALL_BACK


routes = [
    (r"/ratings", Ratings),
    (rf"/ratings/{CONTACT}", Rating),
    (rf"/ratings/{CONTACT}/follow-up", FollowUp),
    (r"/rate/([0-9A-Z]{26}[0-9a-f]{20})", RateByCode),
    (r"/complaints", Complaints),
    (r"/complaints/new", NewComplaint),
    (rf"/complaints/{WORK_ORDER}", OneWorkOrder),
    (rf"/complaints/{WORK_ORDER}/(\w+)", Step),
    (rf"/call-backs/{WORK_ORDER}", CallBack),
    (rf"/call-backs/{WORK_ORDER}/(\w+)", CallBackStep),
]
