"""The clerks' console: sign-in, work list, one case with its materials and the actions that this person may take now."""

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema
from pymongo.errors import PyMongoError

from app.cases import claiming, handling, hearings, opinions, review, routing
from app.cases.model import STATE_NAMES, Case, State
from app.cases.queue import CURSOR, LAMPS, SCOPES, Wanted, days_before
from app.cases.search import PURPOSES
from app.identity.tokens import STAFF_FOR
from app.kernel.clock import today
from app.kernel.errors import HallError, NotFound, RateLimited, Unauthorized, ValidationFailed, error_row
from handlers import pages_text
from handlers.pages_base import STAFF_COOKIE, PageHandler, errors_by_field, local_path
from handlers.problems import judged
from handlers.staff import BODIES, staff_view, task_row

ID = r"(case_[0-9A-Z]{26})"
PAGE = 50
# Nobody's time runs any more.
CLOSED = frozenset({State.COMPLETED.value, State.DENIED.value, State.NOT_ACCEPTED.value, State.WITHDRAWN.value})
_WAYS = {"electronic": "电子证照", "window": "窗口领取", "express": "邮寄"}
_METHOD_OF = {"self": "window", "window": "window", "express": "express", "post": "express", "electronic": "electronic"}


BLANK = "（写明"  # what a template leaves to be written
# Days since it was handed in.
AGES = {"3": "3天前或更早", "7": "7天前或更早", "15": "15天前或更早", "30": "30天前或更早"}


def items_of(hall: Any, agency_id: str) -> dict[str, str]:
    """Return the names of the items that an agency handles, by code."""
    return {item["code"]: item["name"] for item in hall.catalogue.snapshot.handled_by(agency_id)}


class StaffPage(PageHandler):
    needs = "staff"

    # For the navigation: the open cards that concern this person, the notices that reached nobody, the campaigns to approve.
    cards: Mapping[str, int] | None = None
    undelivered: int | None = None
    to_approve: int | None = None

    async def show(self, template: str, status: int = 200, **values: Any) -> None:
        try:
            self.cards = await self.hall.supervision.counts(self.staff)
            is_superior = self.hall.supervision.is_superior(self.staff)
            self.undelivered = await self.hall.push.undelivered.count(self.staff, is_superior=is_superior)
            self.to_approve = await self.hall.campaigns.to_approve(self.staff)
        except PyMongoError:
            pass  # a number in the navigation is not worth failing a page for
        await super().show(template, status, **values)

    def get_template_namespace(self) -> dict[str, Any]:
        counts = {"cards": self.cards, "undelivered": self.undelivered, "to_approve": self.to_approve}
        return super().get_template_namespace() | counts


class SignIn(PageHandler):
    async def get(self) -> None:
        await self.show("staff_sign_in.html", account="", next=self._next)

    async def post(self) -> None:
        account = self.text("account", limit=80).strip()
        try:
            token, _expires_in, _clerk = await self.hall.staff.login(account, self.get_body_argument("password", "")[:200])
        except (Unauthorized, RateLimited) as error:
            return await self.show("staff_sign_in.html", error.status, account=account, next=self._next, error=error)
        self.set_cookie(STAFF_COOKIE, token, max_age=int(STAFF_FOR.total_seconds()), path="/staff")
        self.redirect(self._next, status=303)

    @property
    def _next(self) -> str:
        path = local_path(self.get_argument("next", "/staff/tasks"), "/staff/tasks")
        return path if path.startswith("/staff/") else "/staff/tasks"


class SignOut(StaffPage):
    async def post(self) -> None:
        await self.hall.staff.logout(self.get_cookie(STAFF_COOKIE, "") or "")
        self.clear_cookie(STAFF_COOKIE, path="/staff")
        self.redirect("/staff/sign-in", status=303)


class Start(StaffPage):
    async def get(self) -> None:
        self.redirect("/staff/tasks", status=303)


class Tasks(StaffPage):
    """The agency's open cases, most urgent first; what is filtered stays in the address, so that a terminal can keep it as a bookmark."""

    async def get(self) -> None:
        await self.show_tasks()

    async def show_tasks(self, claimed: list[dict[str, Any]] | None = None) -> None:
        wanted, days = self._wanted()
        page = await self.hall.queue.page(self.staff, wanted, limit=PAGE, cursor=self._cursor)
        asked = {"scope": "" if wanted.scope == "all" else wanted.scope, "state": wanted.state, "lamp": wanted.lamp}
        asked |= {"division": wanted.division, "item": wanted.item, "assignee": wanted.assignee, "days": str(days or "")}
        await self.show(
            "staff_tasks.html",
            rows=[task_row(self.hall, case, self.staff) for case in page.cases],
            next_cursor=page.next_cursor,
            counts=page.counts,
            asked=asked,
            claimed=claimed,
            ages=AGES,
            closed=CLOSED,
            states={known.value: STATE_NAMES[known] for known in State if known is not State.DRAFT},
            divisions=self.divisions,
            items=items_of(self.hall, self.staff.agency_id),
            agency=self.hall.catalogue.agency(self.staff.agency_id)["name"],
        )

    def _wanted(self) -> tuple[Wanted, int]:
        """Return what the address asks for; what it cannot mean is left out. `days`: handed in at least so many days ago."""
        known = {
            "scope": SCOPES,
            "state": {state.value for state in State},
            "lamp": LAMPS,
            "division": self.divisions,
        }
        asked = {name: self.text(name, limit=60) for name in known}
        asked = {name: value for name, value in asked.items() if value in known[name]}
        if self.text("mine") == "1":
            asked["scope"] = "mine"
        days = self.text("days", limit=4)
        since = int(days) if days.isascii() and days.isdigit() else 0
        before = days_before(today(), since) if since else None
        item, assignee = self.text("item", limit=50), self.text("assignee", limit=80)
        return Wanted(**asked, item=item, assignee=assignee, submitted_before=before), since

    @property
    def _cursor(self) -> str | None:
        cursor = self.text("cursor", limit=60)
        return cursor if re.fullmatch(CURSOR, cursor) else None


class Claim(Tasks):
    """POST /staff/tasks/claim: what is ticked in the list."""

    async def get(self) -> None:
        self.redirect("/staff/tasks", status=303)

    async def post(self) -> None:
        ticked = [case_id for case_id in self.get_body_arguments("id") if re.fullmatch(ID, case_id)][: claiming.MOST]
        await self.show_tasks(await claiming.claim_all(self.hall.review, self.staff, ticked))


class Find(StaffPage):
    """The words stay out of the address: they say who somebody is, and addresses are logged."""

    async def get(self) -> None:
        await self._show(None)

    async def post(self) -> None:
        purpose = self.text("purpose", limit=20)
        try:
            cases = await self.hall.search.find(self.staff, self.text("q", limit=100), purpose if purpose in PURPOSES else "handling")
        except (ValidationFailed, RateLimited) as error:
            return await self._show(None, error)
        await self._show([task_row(self.hall, case, self.staff) for case in cases])

    async def _show(self, rows: list[dict[str, Any]] | None, error: HallError | None = None) -> None:
        await self.show(
            "staff_search.html",
            error.status if error else 200,
            rows=rows,
            q=self.get_body_argument("q", "")[:100],
            purpose=self.get_body_argument("purpose", "handling"),
            purposes=PURPOSES,
            closed=CLOSED,
            divisions=self.divisions,
            error=error,
            errors=errors_by_field(error) if error else {},
        )


class OneCase(StaffPage):
    async def get(self, case_id: str) -> None:
        await self.show_case(case_id)

    async def show_case(
        self, case_id: str, *, action: str = "", typed: Mapping[str, Any] | None = None, error: HallError | None = None
    ) -> None:
        case = await self.hall.review.get(case_id, self.staff)
        view = await staff_view(self.hall, case, self.staff)
        marks = {mark["key"]: mark for mark in view["marks"]}
        if not action and marks:  # the notice stands ready with everything that is marked
            typed = {"missing": view["marks"]}
        templates = await self.hall.opinions.of(self.staff, item_code=case.item_code, alias=view["item"]["alias"])
        await self.show(
            "staff_case.html",
            error.status if error else 200,
            case=view,
            lamp=view["lamp"],
            marks=marks,
            notices=await self.hall.push.undelivered.of_subject(case.id),
            can_mark=view["state"] not in CLOSED and review.is_theirs(case, self.staff),
            file=self._shown_file(view),
            templates=templates,
            divisions=self.divisions,
            special=handling.SPECIAL_PROCEDURES,
            methods={way: _WAYS[way] for way in dict.fromkeys(_METHOD_OF[offered] for offered in view["delivery_methods"])},
            actions=[name for name in pages_text.ACTIONS if name in view["allowed_actions"]],
            # What the resident asked for on the form, when it is a way the desk has.
            wanted=_METHOD_OF.get(str(view["form"]["values"].get("delivery") or ""), ""),
            transfer_to=self._transfer_to(case) if "transfer" in view["allowed_actions"] else [],
            is_closed=view["state"] in CLOSED,
            needs_record=hearings.is_under_way(case),
            askable=[(row["key"], row["name"]) for row in view["materials"] if row["status"] != "generated"]
            + [(field["key"], "表格：" + field["label"]) for field in view["form"]["fields"] if field["type"] != "photo"],
            # What was typed is kept after a refusal, in the form of the action that was refused.
            action=action,
            typed=typed or {},
            error=error,
            errors=errors_by_field(error) if error else {},
        )

    def _transfer_to(self, case: Case) -> list[tuple[str, str]]:
        """Return the bodies a case may be transferred to, by id and name: that of its own place first."""
        agency = self.hall.catalogue.agency
        rows = [
            row
            for row in self.hall.catalogue.snapshot.catalogue.agencies
            if not routing.transfer_rows(case, row["id"], routing.same_line(case.agency_id, row["id"], agency))
        ]
        return [(row["id"], row["name"]) for row in sorted(rows, key=lambda row: not case.division_code.startswith(row["division"]))]

    def _shown_file(self, view: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the file that stands beside the form: the one that was asked for, else the first."""
        files = [{**file, "material": row["name"], "key": row["key"]} for row in view["materials"] for file in row["files"]]
        asked = self.get_query_argument("file", "")
        return next((file for file in files if file["id"] == asked), files[0] if files else None)


class Mark(StaffPage):
    """POST /staff/cases/<id>/marks: a reason marks, none takes the mark back."""

    async def get(self, case_id: str) -> None:
        self.redirect(f"/staff/cases/{case_id}", status=303)

    async def post(self, case_id: str) -> None:
        case = await self.hall.review.get(case_id, self.staff)
        key, reason = self.text("on", limit=60), self.text("reason", limit=1000).strip()
        if reason:
            await self.hall.marks.put(case, self.staff, key, reason)
        else:
            await self.hall.marks.take_back(case, self.staff, key)
        shown = f"?file={self.text('file', limit=40)}" if re.fullmatch(r"\w+", self.text("file", limit=40)) else ""
        self.redirect(f"/staff/cases/{case_id}{shown}#f-{key if re.fullmatch(r'[a-z0-9_]+', key) else ''}", status=303)


class Act(OneCase):
    """POST /staff/cases/<id>/<action>: the fields of the form as the body of the API's action."""

    async def get(self, case_id: str, _action: str) -> None:
        self.redirect(f"/staff/cases/{case_id}", status=303)

    async def post(self, case_id: str, action: str) -> None:
        if action not in BODIES:
            raise NotFound("没有这个操作。")
        typed = self._typed(action)
        try:
            if BLANK in str(typed.get(opinions.FIELDS.get(action, ""), "")):
                raise ValidationFailed([error_row("/" + opinions.FIELDS[action], "unfinished", f"请把“{BLANK}…）”改成实际内容")])
            body = judged(BODIES[action], typed, "")
            await self.hall.review.act(case_id, action, self.staff, body)
            await self._keep_opinion(action, typed)
        except HallError as error:
            if error.status not in (403, 409, 422):
                raise
            return await self.show_case(case_id, action=action, typed=typed, error=error)
        # What was transferred is another body's now.
        self.redirect("/staff/tasks" if action == "transfer" else f"/staff/cases/{case_id}", status=303)

    def _typed(self, action: str) -> dict[str, Any]:
        """Return the body that the API would be sent, from the form's fields."""
        if action == "request_supplement":
            keys = [key for key in self.get_body_arguments("key") if key]
            missing = [{"key": key, "reason": self.text(f"reason.{key}", limit=1000)} for key in keys]
            return {"missing": missing, "reason": self.text("reason", limit=1000)}
        schema: Schema = BODIES[action]()
        field = opinions.FIELDS.get(action, "")
        typed: dict[str, Any] = {}
        for name in schema.load_fields:
            value = self.text(name, limit=4000).strip()
            if value:
                typed[name] = int(value) if name == "days" and value.isascii() and value.isdigit() else value
        if field and not typed.get(field) and (chosen := self.text("template").strip()):
            typed[field] = chosen  # without script: the template is taken as it is
        return typed

    async def _keep_opinion(self, action: str, typed: Mapping[str, Any]) -> None:
        field = opinions.FIELDS.get(action, "")
        if self.text("keep") != "1" or not typed.get(field):
            return
        row = {"action": action, "outcome": typed.get("outcome", ""), "item": "", "text": typed[field][:1000]}
        try:
            await self.hall.opinions.add(self.staff, row, for_agency=False)
        except opinions.TooManyOpinions:
            return  # the action has been taken, which is what counts


routes = [
    (r"/staff/?", Start),
    (r"/staff/sign-in", SignIn),
    (r"/staff/sign-out", SignOut),
    (r"/staff/tasks", Tasks),
    (r"/staff/tasks/claim", Claim),
    (r"/staff/search", Find),
    (rf"/staff/cases/{ID}", OneCase),
    (rf"/staff/cases/{ID}/marks", Mark),
    (rf"/staff/cases/{ID}/(\w+)", Act),
]
