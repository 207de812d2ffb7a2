"""The department systems behind one address: bills (lookup, one bill, payment, refund) and checks (查).

Three plates stand for a department having a bad day: 粤F0DOWN answers 503, 粤F0SLOW keeps one waiting, 粤F0JUNK
answers something that is no JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime, timedelta
from typing import Any

from sandbox import bills, department_checks
from sandbox.base import CHINA, StandIn, rfc3339_utc

SOURCE = "韶关市政务数据共享平台（示例数据）"


class DepartmentHandler(StandIn):
    provider = "departments"

    def dated(self, value: dict[str, Any]) -> dict[str, Any]:
        return {"as_of": rfc3339_utc(self.now()), "source": SOURCE} | value

    async def has_bad_day(self, values: dict[str, Any]) -> bool:
        """Behave as the special plates ask; True when the answer is already given."""
        plate = values.get("plate")
        if plate == "粤F0DOWN":
            self.set_header("Retry-After", "60")
            self.refuse(503, "maintenance", "交警支队系统维护中")
        elif plate == "粤F0JUNK":
            self.send_bytes("<xml>系统忙{{".encode("gb18030"), status=200, content_type="application/json")
        elif plate == "粤F0SLOW":
            await asyncio.sleep(self.sandbox.pace.department_slow_s)
            return False
        else:
            return False
        return True


class Lookup(DepartmentHandler):
    """POST /departments/bills/lookup {kind, keys} -> {as_of, source, bills}."""

    async def post(self) -> None:
        body = self.json_object() or {}
        kind, keys = body.get("kind"), body.get("keys")
        if not isinstance(kind, str) or kind not in bills.KINDS:
            return self.refuse(404, "unknown_kind", "没有这种账单", kinds=sorted(bills.KINDS))
        if not isinstance(keys, dict) or not all(isinstance(value, str) for value in keys.values()):
            return self.refuse(422, "invalid_keys", "keys 应为文本")
        if await self.has_bad_day(keys):
            return None
        try:
            found = bills.find(self.sandbox, kind, keys)
        except ValueError:
            return self.refuse(422, "keys_incomplete", "查询条件不完整", key_sets=bills.KEY_SETS[kind])
        return self.send(self.dated({"bills": [bills.shown(bill) for bill in found]}))


class Bill(DepartmentHandler):
    """GET /departments/bills/{id}: one bill with today's late fee."""

    def get(self, bill_id: str) -> None:
        bill = bills.one(self.sandbox, bill_id)
        if bill is None:
            return self.refuse(404, "not_found", "没有这张账单")
        return self.send(self.dated(bills.shown(bill)))


class Payments(DepartmentHandler):
    """POST /departments/bills/{id}/payments: what the hall collected. Idempotent on payment_id.

    `amount_fen` is the bill without its surcharge, `late_fee_fen` the surcharge: the same two figures the bill shows.
    """

    def post(self, bill_id: str) -> None:
        body = self.json_object()
        bill = bills.one(self.sandbox, bill_id)
        if body is None:
            return self.refuse(400, "malformed", "请求体不是JSON对象")
        if bill is None:
            return self.refuse(404, "not_found", "没有这张账单")
        payment_id, paid_at = body.get("payment_id"), _time(body.get("paid_at"))
        if not isinstance(payment_id, str) or not 1 <= len(payment_id) <= 64:
            return self.refuse(422, "invalid_payment_id", "payment_id 不正确", field="payment_id")
        if paid_at is None:
            return self.refuse(422, "invalid_paid_at", "paid_at 应为带时区的时间", field="paid_at")
        if not isinstance(body.get("provider_trade_no"), str) or not body["provider_trade_no"]:
            return self.refuse(422, "invalid_provider_trade_no", "缺少支付平台交易号", field="provider_trade_no")
        known = self.store.get("bill_payment", bill_id)
        if known and known["payment_id"] == payment_id:
            return self.send({"accepted": True, "receipt_no": known["receipt_no"]})
        if self.store.get("payment_bill", payment_id) not in (None, bill_id):
            return self.refuse(409, "payment_id_used", "payment_id 已用于另一张账单")
        # Not taken, but known: that its money went back can be told later.
        self.store.put("refused_payment", payment_id, bill_id)
        if known or bill["state"] == "paid":
            return self.refuse(409, "already_paid", "该账单已缴清", receipt_no=(known or {}).get("receipt_no"))
        if not _is_payable(bill, paid_at):
            return self.refuse(409, "not_payable", "该账单当前不可缴费", state=bill["state"])
        return self._book(bill, body, payment_id, paid_at)

    def _book(self, bill: dict[str, Any], body: dict[str, Any], payment_id: str, paid_at: datetime) -> None:
        # Whoever ordered before midnight and paid after it owes the surcharge of the day of the order.
        days = {paid_at.astimezone(CHINA).date() - timedelta(days=back) for back in (0, 1)}
        fees = {bills.late_fee_fen(bill, day.isoformat()) for day in days}
        if (self.store.get("changed_bill", bill["id"]) or {}).get("late_fee_fen") is not None:
            fees = {bill["late_fee_fen"]}
        if body.get("amount_fen") != bill["amount_fen"] or body.get("late_fee_fen") not in fees:
            wanted = {"amount_fen": bill["amount_fen"], "late_fee_fen": max(fees)}
            return self.refuse(422, "wrong_amount", "金额与账单不符", **wanted)
        digest = hashlib.sha256(f"{bill['id']}/{payment_id}".encode()).hexdigest()
        receipt_no = f"4402{paid_at.astimezone(CHINA):%y}{int(digest[:12], 16) % 10**8:08d}"
        payment = {
            "payment_id": payment_id,
            "receipt_no": receipt_no,
            "late_fee_fen": body["late_fee_fen"],
            "paid_on": paid_at.astimezone(CHINA).date().isoformat(),
            "provider_trade_no": body["provider_trade_no"],
        }
        self.store.put("bill_payment", bill["id"], payment)
        self.store.put("payment_bill", payment_id, bill["id"])
        self.store.drop("refused_payment", payment_id)
        return self.send({"accepted": True, "receipt_no": receipt_no})


class Refunds(DepartmentHandler):
    """POST /departments/bills/{id}/refunds: what the hall gave back of a payment. Idempotent on refund_id.

    A payment that was not taken can be told as given back too; one that was never told is not known.
    """

    def post(self, bill_id: str) -> None:
        body = self.json_object()
        if body is None:
            return self.refuse(400, "malformed", "请求体不是JSON对象")
        bill = bills.one(self.sandbox, bill_id)
        if bill is None:
            return self.refuse(404, "not_found", "没有这张账单")
        refund_id, payment_id, amount_fen = body.get("refund_id"), body.get("payment_id"), body.get("amount_fen")
        if not isinstance(refund_id, str) or not 1 <= len(refund_id) <= 64:
            return self.refuse(422, "invalid_refund_id", "refund_id 不正确", field="refund_id")
        if not isinstance(amount_fen, int) or isinstance(amount_fen, bool) or amount_fen < 1:
            return self.refuse(422, "invalid_amount", "amount_fen 应为正整数", field="amount_fen")
        if _time(body.get("refunded_at")) is None:
            return self.refuse(422, "invalid_refunded_at", "refunded_at 应为带时区的时间", field="refunded_at")
        known = self.store.get("bill_refund", refund_id)
        told = {"bill_id": bill_id, "payment_id": payment_id, "amount_fen": amount_fen}
        if known is not None:
            if known != told:
                return self.refuse(409, "refund_id_used", "refund_id 已用于另一笔退款")
            return self.send({"accepted": True})
        payment = self.store.get("bill_payment", bill_id)
        if payment is None or payment["payment_id"] != payment_id:
            if self.store.get("refused_payment", str(payment_id)) != bill_id:
                return self.refuse(409, "unknown_payment", "没有这笔缴款")
        else:
            paid_fen = bill["amount_fen"] + payment["late_fee_fen"]
            if amount_fen > paid_fen - bills.refunded_fen(self.sandbox, bill_id, payment_id):
                return self.refuse(422, "wrong_amount", "退款超过缴款")
        self.store.put("bill_refund", refund_id, told)
        return self.send({"accepted": True})


class ChangeBill(DepartmentHandler):
    """POST /_sim/department_bills {id, state?, late_fee_fen?, hard_deadline?}: the department changes its bill.

    {state: "unpaid"} of a bill that was paid: it is owed again, whatever came before.
    """

    def post(self) -> None:
        body = self.json_object() or {}
        bill_id = str(body.pop("id", ""))
        if bills.one(self.sandbox, bill_id) is None:
            return self.refuse(404, "not_found", "没有这张账单")
        if body.get("state") == "unpaid":
            self.store.drop("bill_payment", bill_id)
        self.store.put("changed_bill", bill_id, (self.store.get("changed_bill", bill_id) or {}) | body)
        return self.send({"ok": True, "bill": bills.shown(bills.one(self.sandbox, bill_id) or {})})


def _is_payable(bill: dict[str, Any], paid_at: datetime) -> bool:
    """Say whether a payment of that moment counts: one that was made in time is taken also when it is told after the deadline."""
    if bill["state"] == "closed" and bill.get("closed_by") == "deadline":
        return paid_at <= datetime.fromisoformat(bill["hard_deadline"])
    return bool(bill["state"] == "unpaid")


class Checks(DepartmentHandler):
    """POST /departments/checks/{kind} {inputs, person} -> {as_of, source, records, bills}."""

    async def post(self, kind: str) -> None:
        body = self.json_object() or {}
        inputs, who = body.get("inputs") or {}, body.get("person") or {}
        if kind not in department_checks.KINDS:
            return self.refuse(404, "unknown_kind", "没有这种查询", kinds=sorted(department_checks.KINDS))
        if not isinstance(inputs, dict) or not isinstance(who, dict):
            return self.refuse(422, "invalid_inputs", "inputs 与 person 应为对象")
        if await self.has_bad_day(inputs):
            return None
        try:
            records, found = department_checks.KINDS[kind](self.sandbox, inputs, who)
        except department_checks.Missing as missing:
            return self.refuse(422, "inputs_incomplete", "查询条件不完整", fields=missing.args[0])
        return self.send(self.dated({"kind": kind, "records": records, "bills": [bills.shown(bill) for bill in found]}))


def _time(text: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return at if at.tzinfo else None


routes = [
    (r"/departments/bills/lookup", Lookup),
    (r"/departments/bills/([\w-]+)", Bill),
    (r"/departments/bills/([\w-]+)/payments", Payments),
    (r"/departments/bills/([\w-]+)/refunds", Refunds),
    (r"/departments/checks/(\w+)", Checks),
    (r"/_sim/department_bills", ChangeBill),
]
