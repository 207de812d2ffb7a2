"""What a resident can meet when checking and when paying a bill.

NotFound  check.kind_not_found, bill.not_found
Conflict  bill.already_paid, bill.closed, bill.disputed, bill.refunded, bill.doubtful
422       validation.failed with one row per input; 403 identity.level_required; 503 provider.unavailable
"""

from app.exchange.departments import BillNotFound
from app.kernel.errors import Conflict, NotFound


class CheckKindNotFound(NotFound):
    code = "check.kind_not_found"
    title = "没有这种查询"


class BillAlreadyPaid(Conflict):
    code = "bill.already_paid"
    title = "这张账单已缴清"


class BillClosed(Conflict):
    code = "bill.closed"
    title = "这张账单已不能缴"


class BillDisputed(Conflict):
    code = "bill.disputed"
    title = "这张账单正在复议或诉讼"


class BillRefunded(Conflict):
    code = "bill.refunded"
    title = "这张账单已退款"


class BillDoubtful(Conflict):
    """What the department asks for cannot be right; a person has to look at it."""

    code = "bill.doubtful"
    title = "这张账单的金额要核对"


__all__ = [
    "BillAlreadyPaid",
    "BillClosed",
    "BillDisputed",
    "BillDoubtful",
    "BillNotFound",
    "BillRefunded",
    "CheckKindNotFound",
]
