"""/callbacks/sms and /callbacks/voice: what the city's gateway says became of text messages and calls. Protocol: push/gateway_reports.py."""

import structlog
from marshmallow import Schema, fields
from prometheus_client import Counter
from pymongo.errors import DuplicateKeyError

from app.kernel.clock import utc_now
from app.kernel.errors import Forbidden, TooLarge
from handlers.base import HallHandler, operation
from push import gateway_reports
from push.gateway_reports import LOST, PENDING, ReportRejected

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 256 * 1024

rejected = Counter("hall_gateway_reports_rejected", "Requests to /callbacks/sms and /callbacks/voice that were refused", ["reason"])


class ReportsRefused(Forbidden):
    code = "callback.refused"
    title = "拒绝"


class ReportsTaken(Schema):
    taken = fields.Int(metadata={"description": "how many reports were read; a row that cannot be read is left out and logged"})


class _GatewayReports(HallHandler):
    channel = ""

    async def receive(self) -> None:
        if len(self.request.body) > MAX_BODY_BYTES:
            raise TooLarge("一次报告太多。", en="Too many reports at once.")
        now = utc_now()
        try:
            nonce = gateway_reports.check(self.hall.settings.gateway_key, self.request.headers, self.request.body, now.timestamp())
            found, unreadable = gateway_reports.read(self.channel, self.request.body)
            await self.hall.database["gateway_nonces"].insert_one({"_id": nonce, "at": now})
        except (ReportRejected, DuplicateKeyError) as error:
            # The sender learns only that it was refused. Nothing is lost by it: the gateway signs anew when it repeats, and should a
            # process die behind the nonce, it was not answered 200.
            reason = str(error) if isinstance(error, ReportRejected) else "replayed"
            rejected.labels(reason).inc()
            log.warning("gateway.report_refused", channel=self.channel, reason=reason)
            raise ReportsRefused("拒绝。", en="Refused.") from error
        if unreadable:
            rejected.labels("row").inc(unreadable)
            log.error("gateway.reports_unreadable", channel=self.channel, count=unreadable)
        # Sign-in codes go out by the same gateway; they are no deliveries, and who got none asks for another.
        ours = [report for report in found if report.fate != PENDING and report.request_id.startswith("dlv_")]
        fates = ((report.message_id, f"failed:{report.word}" if report.fate == LOST else report.fate) for report in ours)
        await self.hall.push.reports.take_all(self.channel, fates)
        await self.answer({"taken": len(found)})


class SmsReports(_GatewayReports):
    channel = "sms"

    @operation("The gateway tells what became of text messages", answers={200: ReportsTaken})
    async def post(self) -> None:
        await self.receive()


class VoiceReports(_GatewayReports):
    channel = "voice"

    @operation("The gateway tells what became of calls", answers={200: ReportsTaken})
    async def post(self) -> None:
        await self.receive()


routes = [(r"/callbacks/sms", SmsReports), (r"/callbacks/voice", VoiceReports)]
