"""The clerks' console: sign-in, work list, one case with its materials and the actions that this person may take now."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema

from app.cases import handling, review, views
from app.cases.model import STATE_NAMES, State
from app.identity.tokens import STAFF_FOR
from app.kernel.errors import HallError, NotFound, RateLimited, Unauthorized
from handlers import pages_text
from handlers.cases import send_file
from handlers.pages_base import STAFF_COOKIE, PageHandler, errors_by_field, local_path
from handlers.problems import judged
from handlers.staff import BODIES, lamp_of

ID = r"(case_[0-9A-Z]{26})"
PAGE = 50
# Nobody's time runs any more.
CLOSED = frozenset({State.COMPLETED.value, State.DENIED.value, State.NOT_ACCEPTED.value, State.WITHDRAWN.value})
_METHOD_OF = {"self": "window", "window": "window", "express": "express", "post": "express", "electronic": "electronic"}


class StaffPage(PageHandler):
    needs = "staff"


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
    """The agency's open cases, most urgent first."""

    async def get(self) -> None:
        state, mine = self.text("state", limit=30), self.text("mine") == "1"
        if state not in {known.value for known in State}:
            state = ""
        cases, next_cursor = await self.hall.review.tasks(
            self.staff, state=state or None, mine=mine, limit=PAGE, cursor=self._cursor
        )
        rows = [
            views.task(case, review.allowed_actions(case, self.staff)) | {"lamp": lamp_of(self.hall, case)} for case in cases
        ]
        await self.show(
            "staff_tasks.html",
            rows=rows,
            next_cursor=next_cursor,
            state=state,
            mine=mine,
            closed=CLOSED,
            states={known.value: STATE_NAMES[known] for known in State if known is not State.DRAFT},
            divisions=self.divisions,
            agency=self.hall.catalogue.agency(self.staff.agency_id)["name"],
        )

    @property
    def _cursor(self) -> str | None:
        cursor = self.text("cursor", limit=60)
        return cursor if "~" in cursor else None


class OneCase(StaffPage):
    async def get(self, case_id: str) -> None:
        await self.show_case(case_id)

    async def show_case(
        self, case_id: str, *, action: str = "", typed: Mapping[str, Any] | None = None, error: HallError | None = None
    ) -> None:
        case = await self.hall.review.get(case_id, self.staff)
        view = await self.hall.review.view(case, self.staff)
        await self.show(
            "staff_case.html",
            error.status if error else 200,
            case=view,
            lamp=lamp_of(self.hall, case),
            divisions=self.divisions,
            special=handling.SPECIAL_PROCEDURES,
            methods={"electronic": "电子证照", "window": "窗口领取", "express": "邮寄"},
            actions=sorted(view["allowed_actions"], key=list(pages_text.ACTIONS).index),
            # What the resident asked for on the form, when it is a way the desk has.
            wanted=_METHOD_OF.get(str(view["form"]["values"].get("delivery") or ""), ""),
            is_closed=view["state"] in CLOSED,
            askable=[(row["key"], row["name"]) for row in view["materials"] if row["status"] != "generated"]
            + [(field["key"], "表格：" + field["label"]) for field in view["form"]["fields"] if field["type"] != "photo"],
            # What was typed is kept after a refusal, in the form of the action that was refused.
            action=action,
            typed=typed or {},
            error=error,
            errors=errors_by_field(error) if error else {},
        )


class Act(OneCase):
    """POST /staff/cases/<id>/<action>: the fields of the form as the body of the API's action."""

    async def get(self, case_id: str, _action: str) -> None:
        self.redirect(f"/staff/cases/{case_id}", status=303)

    async def post(self, case_id: str, action: str) -> None:
        if action not in BODIES:
            raise NotFound("没有这个操作。")
        typed = self._typed(action)
        try:
            body = judged(BODIES[action], typed, "")
            await self.hall.review.act(case_id, action, self.staff, body)
        except HallError as error:
            if error.status not in (403, 409, 422):
                raise
            return await self.show_case(case_id, action=action, typed=typed, error=error)
        self.redirect(f"/staff/cases/{case_id}", status=303)

    def _typed(self, action: str) -> dict[str, Any]:
        """Return the body that the API would be sent, from the form's fields."""
        if action == "request_supplement":
            keys = [key for key in self.get_body_arguments("key") if key]
            missing = [{"key": key, "reason": self.text(f"reason.{key}", limit=1000)} for key in keys]
            return {"missing": missing, "reason": self.text("reason", limit=1000)}
        schema: Schema = BODIES[action]()
        typed: dict[str, Any] = {}
        for name in schema.load_fields:
            value = self.text(name, limit=2000).strip()
            if value:
                typed[name] = int(value) if name == "days" and value.isascii() and value.isdigit() else value
        return typed


class File(StaffPage):
    async def get(self, case_id: str, file_id: str) -> None:
        send_file(self, *await self.hall.review.read_material(case_id, self.staff, file_id))


routes = [
    (r"/staff/?", Start),
    (r"/staff/sign-in", SignIn),
    (r"/staff/sign-out", SignOut),
    (r"/staff/tasks", Tasks),
    (rf"/staff/cases/{ID}", OneCase),
    (rf"/staff/cases/{ID}/files/(\w+)", File),
    (rf"/staff/cases/{ID}/(\w+)", Act),
]
