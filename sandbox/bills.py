"""The bills of the department systems: sample data, late fees, and what was paid. No HTTP in here."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from sandbox.base import Sandbox

_FILE = Path(__file__).parent / "data" / "bills.json"
_PLATE = re.compile(r"粤F[A-HJ-NP-Z0-9]{5,6}")
_VIN_LAST6 = re.compile(r"[A-HJ-NPR-Z0-9]{6}")
_FILE_NO = re.compile(r"\d{12}")

_SAMPLES = json.loads(_FILE.read_text(encoding="utf-8"))
KINDS = {row["kind"]: row for row in _SAMPLES["kinds"]}
# A vehicle is also known by plate and the last six of its VIN; the sample file has file numbers only.
KEY_SETS: dict[str, list[list[str]]] = {
    kind: [entry["keys"] for entry in row["lookup"]] + ([["plate", "vin_last6"]] if kind == "traffic_fine" else [])
    for kind, row in KINDS.items()
}
# What is written down about bills beside the sample file.
FACTS = ("bill_payment", "payment_bill", "made_bill", "refused_payment", "bill_refund", "changed_bill")
SAMPLE_PLATES = {bill["keys"]["plate"] for bill in _SAMPLES["bills"] if "plate" in bill["keys"]}


def vin_last6(plate: str) -> str:
    """Return the last six of the VIN that a sample plate has: its digits, filled up with zeros (粤F00001 -> 000001)."""
    return plate[2:].rjust(6, "0")[-6:]


def find(sandbox: Sandbox, kind: str, keys: dict[str, str]) -> list[dict[str, Any]]:
    """Return the bills that match every key of one documented key set of the kind, oldest due day first.

    Raises:
        ValueError: the keys do not hold a complete set.
    """
    sets = [names for names in KEY_SETS[kind] if all(keys.get(name) for name in names)]
    if not sets:
        raise ValueError("keys")
    found = [
        bill
        for bill in _samples(kind)
        if any(all(bill["keys"].get(name) == keys[name] for name in names) for names in sets)
    ]
    if kind == "traffic_fine" and keys.get("plate") not in SAMPLE_PLATES:
        found += _made_fine(sandbox, keys)
    return sorted((with_state(sandbox, bill) for bill in found), key=lambda bill: (bill["due_on"], bill["id"]))


def of_person(sandbox: Sandbox, kind: str, name: str, id_number: str) -> list[dict[str, Any]]:
    """Return the sample bills whose payer is this person."""
    payer = {"name": name, "id_number": id_number}
    return [with_state(sandbox, bill) for bill in _samples(kind) if bill.get("payer") == payer]


def one(sandbox: Sandbox, bill_id: str) -> dict[str, Any] | None:
    for bill in _SAMPLES["bills"]:
        if bill["id"] == bill_id:
            return with_state(sandbox, _sample(bill))
    made = sandbox.store.get("made_bill", bill_id)
    return with_state(sandbox, made) if made else None


def late_fee_fen(bill: dict[str, Any], on: str) -> int:
    """Return the surcharge on the day `on`: 3 % of the fine per calendar day after due_on, at most the fine itself.

    Source: 道路交通安全法 art. 109, 行政处罚法 art. 72; art. 73: no surcharge while a review or suit runs.
    """
    rule = bill.get("late_fee_rule")
    if not rule or bill["state"] not in ("unpaid", "paid"):
        return 0
    days = (date.fromisoformat(on) - date.fromisoformat(bill["due_on"])).days
    if days <= 0:
        return 0
    fine_fen = sum(line["amount_fen"] for line in bill["lines"] if line.get("late_fee"))
    return min(fine_fen, fine_fen * int(rule["rate_percent_per_day"]) * days // 100)


def with_state(sandbox: Sandbox, bill: dict[str, Any]) -> dict[str, Any]:
    """Lay over a bill what was changed, paid and given back here since, and today's late fee."""
    changed = sandbox.store.get("changed_bill", bill["id"]) or {}
    bill = bill | changed
    payment = sandbox.store.get("bill_payment", bill["id"])
    if payment:
        paid = {"state": "paid", "paid_on": payment["paid_on"], "receipt_no": payment["receipt_no"]}
        if refunded_fen(sandbox, bill["id"], payment["payment_id"]) >= bill["amount_fen"] + payment["late_fee_fen"]:
            paid["state"] = "refunded"
        return bill | paid | {"late_fee_fen": payment["late_fee_fen"]}
    deadline = bill.get("hard_deadline")
    if bill["state"] == "unpaid" and deadline and sandbox.clock() > datetime.fromisoformat(deadline).timestamp():
        bill = bill | {"state": "closed", "closed_by": "deadline"}
    fee = late_fee_fen(bill, sandbox.today()) if bill["state"] == "unpaid" else 0
    return bill | {"late_fee_fen": changed.get("late_fee_fen", fee)}


def refunded_fen(sandbox: Sandbox, bill_id: str, payment_id: str) -> int:
    """Return how much of a payment was told as given back."""
    refunds = sandbox.store.all("bill_refund").values()
    return sum(row["amount_fen"] for row in refunds if (row["bill_id"], row["payment_id"]) == (bill_id, payment_id))


def shown(bill: dict[str, Any]) -> dict[str, Any]:
    """Return a bill as it goes out: without the payer's number and without the keys it was found by."""
    names = (
        "id", "kind", "title", "period", "amount_fen", "late_fee_fen", "due_on", "issued_on", "payee", "state", "lines",
        "points", "receipt_kind", "item_alias", "hard_deadline", "overdue_note", "notes", "insurance", "paid_on",
        "refunded_on", "receipt_no",
    )  # fmt: skip
    answer = {name: bill[name] for name in names if bill.get(name) is not None}
    payer = (bill.get("payer") or {}).get("name")
    if payer:
        answer["payer_name_masked"] = payer[0] + "*" * (len(payer) - 1)
    return answer


def _samples(kind: str) -> list[dict[str, Any]]:
    return [_sample(bill) for bill in _SAMPLES["bills"] if bill["kind"] == kind]


def _sample(bill: dict[str, Any]) -> dict[str, Any]:
    if bill["kind"] != "traffic_fine":
        return bill
    return bill | {"keys": bill["keys"] | {"vin_last6": vin_last6(bill["keys"]["plate"])}}


def _made_fine(sandbox: Sandbox, keys: dict[str, str]) -> list[dict[str, Any]]:
    """Return the one fine that every other plate of 粤F has, so that each test can have a bill of its own.

    It is written down when it is first seen: from then on its due day stays.
    """
    plate = keys.get("plate", "")
    proof = _FILE_NO.fullmatch(keys.get("driver_file_no", "")) or _VIN_LAST6.fullmatch(keys.get("vin_last6", ""))
    if not _PLATE.fullmatch(plate) or not proof:
        return []
    digest = hashlib.sha256(plate.encode()).hexdigest()
    bill_id = f"bill-tf-{digest[:12]}"
    made = sandbox.store.get("made_bill", bill_id)
    if made is None:
        today = date.fromisoformat(sandbox.today())
        made = _fine(bill_id, plate, issued=today - timedelta(days=5), serial=int(digest[:9], 16) % 10**9)
        sandbox.store.put("made_bill", bill_id, made)
    return [made]


def _fine(bill_id: str, plate: str, *, issued: date, serial: int) -> dict[str, Any]:
    return {
        "id": bill_id,
        "kind": "traffic_fine",
        "title": f"{plate} 违反禁止停车标线指示（示例）",
        "payer": None,
        "payee": {"agency": "sg-jj", "name": "韶关市公安局交通警察支队（示例）"},
        "keys": {"plate": plate, "decision_no": f"4402031{serial:09d}"},
        "period": None,
        "lines": [{"code": "FINE", "name": "交通违法罚款", "amount_fen": 20000, "late_fee": True}],
        "amount_fen": 20000,
        "issued_on": issued.isoformat(),
        # 15 calendar days after the decision was received (道路交通安全法 art. 108).
        "due_on": (issued + timedelta(days=15)).isoformat(),
        "state": "unpaid",
        "late_fee_rule": KINDS["traffic_fine"]["late_fee"],
        "receipt_kind": "fiscal",
        "item_alias": "traffic_violation",
        "points": 3,
    }
