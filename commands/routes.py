"""The Tornado application: every route of the hall, and how many requests are in flight."""

import asyncio
from typing import TYPE_CHECKING, Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, stream_request_body

from app.kernel.errors import TooLarge
from handlers import (
    auth,
    callbacks,
    campaigns,
    customer_messages,
    emails,
    feedback,
    findings,
    gateway_reports,
    hooks,
    message_templates,
    notifications,
    openapi,
    operations,
    orders,
    pages_account,
    pages_base,
    pages_campaigns,
    pages_cases,
    pages_checks,
    pages_consultations,
    pages_customer_messages,
    pages_drafts,
    pages_email,
    pages_feedback,
    pages_feedback_staff,
    pages_home,
    pages_hook,
    pages_inbox,
    pages_intake,
    pages_leave,
    pages_messages,
    pages_money,
    pages_pay,
    pages_requests,
    pages_samples,
    pages_staff,
    pages_subscriptions,
    pages_supervision,
    pages_undelivered,
    pages_wishes,
    papers,
    previews,
    receipts,
    refunds,
    requests,
    stream,
    subscriptions,
    supervision,
    undelivered,
    uploads,
)
from handlers import (
    cases as case_routes,
)
from handlers import (
    catalogue as catalogue_routes,
)
from handlers import (
    checks as check_routes,
)
from handlers import (
    intake as intake_routes,
)
from handlers import (
    routing as routing_routes,
)
from handlers import (
    staff as staff_routes,
)
from handlers import (
    staff_desk as staff_desk_routes,
)
from handlers.base import HallHandler
from handlers.pages_base import PageNotFound
from miniprogram_api import alipay as alipay_routes
from miniprogram_api import message_push, official_account, templates
from miniprogram_api import wechat as wechat_routes

if TYPE_CHECKING:
    from commands.assembly import Hall

# The hot reads first: Tornado tries the routes in order.
ROUTE_MODULES = (
    catalogue_routes,
    case_routes,
    uploads,
    requests,
    auth,
    orders,
    callbacks,
    gateway_reports,
    notifications,
    subscriptions,
    emails,
    stream,
    check_routes,
    papers,
    receipts,
    refunds,
    findings,
    supervision,
    feedback,
    undelivered,
    campaigns,
    hooks,
    customer_messages,
    message_templates,
    wechat_routes,
    alipay_routes,
    templates,
    message_push,
    official_account,
    staff_desk_routes,
    intake_routes,
    routing_routes,
    staff_routes,
    previews,
    operations,
    openapi,
    pages_home,
    pages_account,
    pages_drafts,
    pages_cases,
    pages_requests,
    pages_pay,
    pages_checks,
    pages_inbox,
    pages_subscriptions,
    pages_email,
    pages_feedback,
    pages_feedback_staff,
    pages_intake,
    pages_consultations,
    pages_customer_messages,
    pages_leave,
    pages_samples,
    pages_supervision,
    pages_undelivered,
    pages_wishes,
    pages_campaigns,
    pages_messages,
    pages_hook,
    pages_money,
    pages_staff,
    pages_base,
)


MAX_BODY_BYTES = 12 * 1024 * 1024  # a material of 10 MB and its multipart wrapping


@stream_request_body
class BodyTooLarge(HallHandler):
    """Answers 413 while the body is still on its way."""

    route = "none"

    async def prepare(self) -> None:
        await super().prepare()
        self.set_header("Connection", "close")
        raise TooLarge("提交的内容太大，一次最多12MB，请压缩后再传。", en="The body is larger than 12 MB.")

    def data_received(self, chunk: bytes) -> None:
        """Nothing of it is kept."""


class HallApplication(Application):
    """The Tornado application; counts the requests in flight, so that stopping can wait for them."""

    def __init__(self, hall: "Hall", routes: list[tuple[Any, ...]]) -> None:
        self.hall = hall
        self.hall_routes = routes
        self.in_flight = 0
        self._ended = asyncio.Event()
        super().__init__(routes, default_handler_class=PageNotFound, log_function=lambda _handler: None, xsrf_cookies=False)

    def begin(self) -> None:
        self.in_flight += 1

    def end(self) -> None:
        self.in_flight -= 1
        if self.in_flight == 0:
            self._ended.set()

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Return the handler of a request; one that announces a body over the limit is refused before a byte of it is read."""
        length = request.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            return self.get_handler_delegate(request, BodyTooLarge)
        return super().find_handler(request, **kwargs)

    async def all_ended(self) -> None:
        """Return when no request is in flight."""
        while self.in_flight:
            self._ended.clear()
            await self._ended.wait()


def make_application(hall: "Hall") -> HallApplication:
    """Return the application with every route of the hall."""
    routes: list[tuple[Any, ...]] = [route for module in ROUTE_MODULES for route in module.routes]
    for pattern, handler, *_rest in routes:
        if issubclass(handler, HallHandler):
            handler.route = handler.route or pattern
    return HallApplication(hall, routes)
