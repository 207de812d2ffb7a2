"""The base of the H5 pages and the staff console: cookie sessions, forgery protection, security headers, friendly errors.

Pages hold no rules: they call the same domain functions as the API and draw what those answer. Everything works by plain links and
forms; the ES modules in web/static only make it nicer.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlencode, urlsplit

import structlog
from pymongo.errors import PyMongoError
from tornado.httputil import url_concat
from tornado.web import Finish, HTTPError, RequestHandler, StaticFileHandler

from app.identity.model import ResidentSession
from app.kernel import context
from app.kernel.errors import BadRequest, Forbidden, HallError, NotFound, Unauthorized, ValidationFailed
from app.kernel.ids import ulid
from handlers import pages_text
from handlers.base import HallHandler, allowed_methods
from handlers.pages_assets import STATIC, TEMPLATES, asset, icon
from handlers.problems import as_hall_error

if TYPE_CHECKING:
    from app.identity.model import StaffSession

log = structlog.get_logger(__name__)

RESIDENT_COOKIE = "hall_page"
STAFF_COOKIE = "hall_staff"
ELDER_COOKIE = "hall_elder"
DIVISION_COOKIE = "hall_division"
TOLD_COOKIE = "hall_told"  # what the next page says once, by a name of pages_text.TOLD
CITY = "440200"
YEAR_S = 365 * 24 * 3600
ULID = r"[0-9A-HJKMNP-TV-Z]{26}"

# A path of our own, with query: one slash first, and nothing a browser would read as a host (`//`, `/\`) or a control character.
_LOCAL_PATH = re.compile(r"/(?![/\\])[^\x00-\x20\x7f\\]*")


_LEAST = (
    "<!doctype html><html lang=zh-CN><meta charset=utf-8><title>出了点问题</title>"
    "<p>系统出了点问题，请稍后再试，或拨打12345。"
)


class PageExpired(Forbidden):
    """The form's token does not fit the browser's cookie: forged, or the page stood open for too long."""

    code = "page.expired"
    title = "这个页面放得太久了"


def local_path(text: str | None, default: str = "/") -> str:
    """Return `text` when it is a path on this site, else `default`: a link in an address must never lead elsewhere."""
    return text if text and len(text) <= 1000 and _LOCAL_PATH.fullmatch(text) else default


class PageHandler(HallHandler):
    """A page for residents. `needs` says who must be signed in: nobody, a `resident`, or `staff`."""

    needs: ClassVar[str | None] = None
    tab: ClassVar[str] = ""  # which entry of the bottom bar is lit

    signed_in: ResidentSession | None = None
    clerk: "StaffSession | None" = None
    unread = 0

    async def prepare(self) -> None:
        await super().prepare()
        self._set_security_headers()
        if self.request.method not in ("GET", "HEAD", "OPTIONS"):
            self.check_xsrf_cookie()
        if self.needs == "staff":
            await self._require_clerk()
        else:
            await self._know_resident()

    # --- who ---

    async def _know_resident(self) -> None:
        token = self.get_cookie(RESIDENT_COOKIE, "")
        if token:
            try:
                self.signed_in = await self.hall.identity.sessions.authenticate(token, page=True)
            except Unauthorized:
                self.clear_cookie(RESIDENT_COOKIE, path="/")
            except PyMongoError:
                if self.needs == "resident":
                    raise
                # The catalogue is served from memory: it stays readable while the database is away.
        if self.signed_in is not None:
            self.resident = self.signed_in
        elif self.needs == "resident":
            self.ask_to_sign_in()

    async def _require_clerk(self) -> None:
        try:
            self.clerk = self.staff = await self.hall.staff.authenticate(self.get_cookie(STAFF_COOKIE, "") or "")
        except Unauthorized:
            self.clear_cookie(STAFF_COOKIE, path="/staff")
            self.leave_for("/staff/sign-in?" + urlencode({"next": self._way_back()}))

    def ask_to_sign_in(self) -> None:
        """Lead to the sign-in page and back to where the person was. Ends the request."""
        self.leave_for("/sign-in?" + urlencode({"next": self._way_back()}))

    def _way_back(self) -> str:
        if self.request.method in ("GET", "HEAD"):
            return local_path(self.request.uri)
        came_from = urlsplit(self.request.headers.get("Referer", ""))
        here = came_from.netloc == self.request.host
        return local_path(came_from.path + (f"?{came_from.query}" if came_from.query else "")) if here else "/"

    def leave_for(self, path: str) -> None:
        """Answer 303 to `path` and end the request."""
        self.redirect(path, status=303)
        raise Finish

    # --- protection ---

    def check_xsrf_cookie(self) -> None:
        """Demand the double-submitted token of the form (Tornado's, masked per page against BREACH)."""
        try:
            RequestHandler.check_xsrf_cookie(self)
        except HTTPError as error:
            raise PageExpired("为了安全，请返回上一页，刷新后再试一次；您填写的内容仍在原来的页面上。") from error

    def set_cookie(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("httponly", True)
        kwargs.setdefault("samesite", "Lax")
        kwargs.setdefault("secure", self.hall.settings.public_url.startswith("https://"))
        super().set_cookie(name, value, *args, **kwargs)

    def _set_security_headers(self) -> None:
        host = self.request.host
        if not re.fullmatch(r"[A-Za-z0-9.\-:\[\]]{1,255}", host):
            raise BadRequest("请求格式不对。")
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'self'; connect-src 'self' ws://{host} wss://{host}; img-src 'self' blob:; object-src 'none'; "
            "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        )
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Permissions-Policy", "geolocation=(), microphone=(), camera=(self)")

    # --- what came ---

    def text(self, name: str, default: str = "", limit: int = 2000) -> str:
        """Return one field of the form or the query, cut to `limit` characters."""
        return self.get_argument(name, default).replace("\x00", "")[:limit]

    @property
    def form_fields(self) -> dict[str, list[str]]:
        """Return everything the form sent, by name."""
        try:
            return {
                name: [value.decode().replace("\x00", "").replace("\r\n", "\n") for value in values]
                for name, values in self.request.body_arguments.items()
            }
        except UnicodeDecodeError as error:
            raise BadRequest("提交的内容不是有效的 UTF-8 文字。") from error

    def once(self, prefix: str) -> str:
        """Return the id that the form carries for what it creates, so that a double tap creates one thing only."""
        given = self.text("once", limit=40)
        if not re.fullmatch(ULID, given):
            raise BadRequest("请返回上一页，刷新后再试一次。")
        return f"{prefix}_{given}"

    # --- what goes ---

    def tell_next(self, *names: str) -> None:
        """Let the next page say these once: names of pages_text.TOLD."""
        if names:
            self.set_cookie(TOLD_COOKIE, ".".join(names), max_age=600, path="/")

    @property
    def is_elder(self) -> bool:
        return self.get_cookie(ELDER_COOKIE) == "1"

    def keep_elder(self, is_on: bool) -> None:
        """Remember in this browser whether the version with large letters is wanted."""
        if is_on:
            self.set_cookie(ELDER_COOKIE, "1", max_age=YEAR_S, path="/")
        else:
            self.clear_cookie(ELDER_COOKIE, path="/")

    @property
    def division(self) -> str:
        """Return the division the person chose, the whole city when none."""
        chosen = self.get_cookie(DIVISION_COOKIE, CITY) or CITY
        return chosen if self.hall.catalogue.division(chosen) else CITY

    @property
    def divisions(self) -> dict[str, str]:
        """Return the names of the divisions that receive cases, by code."""
        return {row["code"]: row["name"] for row in self.hall.catalogue.choosable_divisions()}

    @property
    def division_groups(self) -> list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
        """Return the city and its counties, each with its towns, for lists that people choose from."""
        rows = self.hall.catalogue.choosable_divisions()
        return [
            (row, [town for town in rows if town["level"] == "town" and town["parent"] == row["code"]])
            for row in rows
            if row["level"] != "town"
        ]

    def get_template_path(self) -> str:
        return str(TEMPLATES)

    def get_template_namespace(self) -> dict[str, Any]:
        return super().get_template_namespace() | {
            "asset": asset,
            "icon": icon,
            "t": pages_text,
            "url": url_concat,
            "quote": quote,
            "elder": self.is_elder,
            "signed_in": self.signed_in,
            "clerk": self.clerk,
            "tab": self.tab,
            "unread_count": self.unread,
            "here": local_path(self.request.uri if self.request.method == "GET" else self._way_back()),
            "once": ulid(),
            "errors": {},
            "error": None,
            "told": [],
            "sandbox_url": self.hall.settings.sandbox_url,
            "back": None,
            "request_id": context.request_id.get(),
            "is_sandbox": bool(self.hall.settings.sandbox_url),
        }

    async def show(self, template: str, status: int = 200, **values: Any) -> None:
        """Answer a page."""
        self.unread = await self._count_unread()
        told = (self.get_cookie(TOLD_COOKIE) or "").split(".")
        if told != [""]:
            self.clear_cookie(TOLD_COOKIE, path="/")
            values["told"] = [pages_text.TOLD[name] for name in told if name in pages_text.TOLD]
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(self.render_string(template, **values))

    async def _count_unread(self) -> int:
        if self.signed_in is None:
            return 0
        try:
            count: int = await self.hall.push.unread_count(self.signed_in.resident_id)
        except PyMongoError:
            return 0  # the number on the bar is not worth failing a page for
        return count

    async def head(self, *args: str) -> None:
        await self.get(*args)  # the same headers; Tornado leaves the body out

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = as_hall_error(status_code, kwargs.get("exc_info", (None, None, None))[1])
        if error.status == 401 and self.needs is not None:
            where = "/staff/sign-in?" if self.needs == "staff" else "/sign-in?"
            return self.redirect(where + urlencode({"next": self._way_back()}), status=303)
        self.set_status(error.status)
        self._set_security_headers_quietly()
        if error.status == 405:
            self.set_header("Allow", ", ".join(allowed_methods(type(self))))
        if getattr(error, "retry_after_s", None) is not None:
            self.set_header("Retry-After", str(error.retry_after_s))  # type: ignore[attr-defined]
        self.set_header("Content-Type", "text/html; charset=utf-8")
        try:
            page = self.render_string("error.html", problem=error, step=pages_text.step_after(error))
        except Exception:  # the error page itself must never fail: say the least there is to say
            log.exception("page.error_page_failed")
            page = _LEAST
        self.finish(page)

    def _set_security_headers_quietly(self) -> None:
        try:
            self._set_security_headers()
        except BadRequest:
            self.set_header("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")


def errors_by_field(error: HallError, prefix: str = "/") -> dict[str, str]:
    """Return the rows of a ValidationFailed by the last part of their pointer, for the fields of a page."""
    rows = error.errors if isinstance(error, ValidationFailed) else []
    found: dict[str, str] = {}
    for row in rows:
        if row["pointer"].startswith(prefix):
            found.setdefault(row["pointer"].rsplit("/", 1)[-1].replace("~1", "/").replace("~0", "~"), row["detail"])
    return found


class StaticFiles(StaticFileHandler):
    """Our own style, modules and icons. Names carry a content hash, so a copy may be kept for good."""

    def set_default_headers(self) -> None:
        self.set_header("Server", "hall")
        self.set_header("X-Content-Type-Options", "nosniff")

    def get_cache_time(self, path: str, modified: Any, mime_type: str) -> int:
        return YEAR_S if self.get_argument("v", "") else 300

    def write_error(self, status_code: int, **_kwargs: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}\n")


class PageNotFound(PageHandler):
    """What no route takes: a page for a browser, problem+json for everything else."""

    route = "none"

    async def prepare(self) -> None:
        await super().prepare()
        raise NotFound("没有这个页面，可能是链接旧了或抄错了。可以回首页搜一搜要办的事。", en="No such address.")

    def check_xsrf_cookie(self) -> None:
        """Nothing is done here, so nothing can be forged."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if "text/html" in self.request.headers.get("Accept", ""):
            super().write_error(status_code, **kwargs)
        else:
            HallHandler.write_error(self, status_code, **kwargs)


routes = [(r"/static/(.*)", StaticFiles, {"path": str(STATIC)})]
