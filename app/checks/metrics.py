"""What is counted about bills, and the alarm for a bill that cannot be right."""

from datetime import datetime

import structlog
from prometheus_client import Counter, Gauge

from app.checks import bill_rules
from app.checks.bill_rules import Judgement
from app.exchange.departments import Bill, Office
from app.kernel.clock import shanghai_day

log = structlog.get_logger(__name__)

told = Counter("hall_bill_payments_told", "Payments told to departments", ["outcome"])
refunds_told = Counter("hall_bill_refunds_told", "Refunds told to departments", ["outcome"])
oldest_untold = Gauge(
    "hall_bill_reports_oldest_seconds",
    "Age of a payment or refund that its department has not acknowledged",
    multiprocess_mode="mostrecent",
)
surcharges = Counter("hall_bill_surcharges_odd", "Surcharges of departments that are not what the law gives", ["office", "judgement"])


def watch_surcharge(bill: Bill, office: Office, now: datetime) -> None:
    """Raise the alarm about a surcharge above its cap, and count one that differs; for bills that are still owed."""
    if bill.state != "unpaid":
        return
    judgement = bill_rules.judge_surcharge(bill, shanghai_day(now))
    if judgement is Judgement.FINE:
        return
    surcharges.labels(office.id, str(judgement)).inc()
    tell = log.error if judgement is Judgement.UNLAWFUL else log.warning
    tell(
        "bill.surcharge_odd",
        office=office.id,
        bill_id=bill.id,
        judgement=str(judgement),
        amount_fen=bill.amount_fen,
        late_fee_fen=bill.late_fee_fen,
        due_on=bill.due_on,
    )
