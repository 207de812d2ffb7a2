"""What is particular to each kind of bill: pure rules, and that the catalogue says the same."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from app.checks import bill_rules, errors, metrics
from app.checks.bill_rules import RULES, Identity, Judgement
from app.checks.model import bill_view, quote_of
from app.exchange.departments import Bill, Office

OFFICE = Office("sg-jj", "交警支队", "12345")
FINE = Bill(
    id="bill-1",
    kind="traffic_fine",
    title="违停",
    amount_fen=20000,
    late_fee_fen=0,
    due_on="2026-02-13",
    issued_on="2026-01-29",
    payee_id="sg-jj",
    payee_name="交警支队",
    state="unpaid",
    notes="",
    points=0,
    receipt_no=None,
    payer_masked="张**",
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("on", "fen"),
    [
        ("2026-02-12", 0),
        ("2026-02-13", 0),  # the last day itself is in time
        ("2026-02-14", 600),  # a Saturday before the Spring Festival: calendar days, not working days
        ("2026-02-23", 6000),
        ("2026-03-18", 19800),
        ("2026-03-19", 20000),  # the 34th day would be 20400
        ("2030-01-01", 20000),
    ],
)
def test_three_percent_per_calendar_day_and_never_more_than_the_fine(on, fen):
    surcharge = RULES["traffic_fine"].surcharge
    assert surcharge is not None
    assert bill_rules.surcharge_fen(surcharge, 20000, date(2026, 2, 13), date.fromisoformat(on)) == fen


def test_the_day_is_the_day_in_shanghai():
    """16:00 UTC is midnight in Shanghai: a minute decides about 6 yuan."""
    for moment, fee in (("2026-02-13T15:59:59", 0), ("2026-02-13T16:00:00", 600)):
        bill = replace(FINE, late_fee_fen=fee)
        assert bill_view(bill, OFFICE, at(moment))["warning"] == ""
        assert sum(line.amount_fen for line in quote_of(bill, OFFICE, at(moment)).lines) == 20000 + fee


def test_another_surcharge_of_the_department_holds_and_is_told():
    for fee in (0, 600, 9000):  # paused, put off, or received earlier: facts that only the department knows
        bill = replace(FINE, late_fee_fen=fee)
        shown = bill_view(bill, OFFICE, at("2026-02-23T04:00"))
        assert shown["payable"] and shown["total_fen"] == 20000 + fee
        assert "60.00元" in shown["warning"] and "以部门系统的数额为准" in shown["warning"]
        assert sum(line.amount_fen for line in quote_of(bill, OFFICE, at("2026-02-23T04:00")).lines) == 20000 + fee


def test_a_surcharge_above_the_fine_is_not_taken_and_rings():
    bill = replace(FINE, late_fee_fen=20001)
    now = at("2026-11-23T04:00")
    assert bill_rules.judge_surcharge(bill, date(2026, 11, 23)) is Judgement.UNLAWFUL
    with pytest.raises(errors.BillDoubtful) as caught:
        quote_of(bill, OFFICE, now)
    assert "12345" in caught.value.detail
    shown = bill_view(bill, OFFICE, now)
    assert not shown["payable"] and "超过了罚款本身" in shown["warning"]
    counted = metrics.surcharges.labels("sg-jj", "unlawful")
    before = counted._value.get()
    metrics.watch_surcharge(bill, OFFICE, now)
    metrics.watch_surcharge(replace(bill, state="paid"), OFFICE, now)
    assert counted._value.get() == before + 1
    assert quote_of(replace(bill, late_fee_fen=20000), OFFICE, now)


def test_a_surcharge_of_the_tax_system_is_never_computed_here():
    bill = replace(FINE, kind="tax", late_fee_fen=50000)
    quote = quote_of(bill, OFFICE, at("2026-11-23T04:00"))
    assert [(line.title, line.amount_fen) for line in quote.lines] == [("违停", 20000), ("滞纳金", 50000)]


def test_an_exam_cannot_be_paid_after_its_deadline():
    exam = replace(FINE, kind="exam_fee", hard_deadline="2026-11-28T16:00:00Z")
    in_time = quote_of(exam, OFFICE, at("2026-11-28T15:57"))
    assert in_time.pay_by == at("2026-11-28T16:00")
    for moment in ("2026-11-28T15:59", "2026-11-28T16:00:01"):  # with a minute left nobody gets through a cashier
        with pytest.raises(errors.BillClosed):
            quote_of(exam, OFFICE, at(moment))
        assert not bill_view(exam, OFFICE, at(moment))["payable"]


def test_a_deadline_without_a_moment_is_the_end_of_the_day_in_shanghai():
    exam = replace(FINE, kind="exam_fee", due_on="2026-11-28")
    assert bill_rules.pay_by(exam) == at("2026-11-28T16:00")
    assert bill_rules.pay_by(FINE) is None  # a fine can be paid late, with its surcharge


def test_every_kind_of_the_catalogue_has_its_rule_and_says_the_same(snapshot):
    assert set(snapshot.bill_kinds) == set(RULES)
    for kind, row in snapshot.bill_kinds.items():
        rule = RULES[kind]
        asks_identity = any("id_number" in key_set["keys"] for key_set in row["lookup"])
        assert row["own_identity_only"] == (rule.identity is Identity.OWN and asks_identity), kind
        assert row["hard_deadline"] == rule.has_deadline, kind
        assert (row["order"] == "oldest_first") == rule.oldest_first, kind
        assert row["part_payment"] is False, kind
        percent = (row["late_fee"] or {}).get("rate_percent_per_day")
        assert percent == (rule.surcharge.percent_per_day if rule.surcharge else None), kind
        assert rule.source and rule.holder, kind


def test_a_kind_without_a_rule_is_as_narrow_as_any():
    assert bill_rules.rule_of("new_kind").identity is Identity.OWN
    assert timedelta(minutes=1) < bill_rules.SHORTEST_TO_PAY
