"""States, moves and the judgement of reports, as pure rules."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from config.settings import ROOT
from payments.model import (
    ATTEMPT_MOVES,
    ORDER_MOVES,
    Attempt,
    AttemptState,
    Line,
    MoveNotAllowed,
    Order,
    OrderState,
    Payable,
    Receipt,
    Verdict,
    judge,
    mismatches,
    next_ask,
)
from payments.provider import PaymentReport, PaymentState
from payments.refund import REFUND_MOVES, RefundState
from payments.settling import _CHANGES

NOW = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=30)


def attempt(number="pay_1", state=AttemptState.WAITING, **changes):
    return Attempt(
        **{
            "id": number,
            "provider": "wechatpay",
            "scene": "mini_program",
            "state": state,
            "amount_fen": 4000,
            "merchant_id": "1900000001",
            "app_id": "wx1",
            "payer": {"openid": "o1"},
            "request": "{}",
            "expires_at": LATER,
            "created_at": NOW,
        }
        | changes
    )


def order(*attempts, state=OrderState.PAYING, **changes):
    return Order(
        **{
            "id": "ord_1",
            "owner_id": "res_1",
            "state": state,
            "title": "身份证补领",
            "amount_fen": 4000,
            "lines": (Line("工本费", 4000, "公安局"),),
            "payables": (Payable("case", "case_1", 1, "sg-gaj", "身份证补领", 4000),),
            "expires_at": LATER,
            "created_at": NOW,
            "attempts": attempts,
        }
        | changes
    )


def report(state=PaymentState.PAID, number="pay_1", **changes):
    paid = {"amount_fen": 4000, "currency": "CNY", "merchant_id": "1900000001", "app_id": "wx1"}
    return PaymentReport(
        **{"provider": "wechatpay", "out_trade_no": number, "state": state}
        | (paid if state is PaymentState.PAID else {})
        | changes
    )


def test_documents_keep_everything():
    full = order(attempt(held_for=("amount",), paid_at=NOW), paid_at=NOW, receipts=(Receipt("rct_1", "sg-gaj", "CODE", "R1"),), next_ask_at=LATER)
    assert Order.from_document(full.to_document() | {"asked_at": NOW}) == full
    paid = report(paid_at=NOW, notice_id="n")
    assert PaymentReport.from_document(paid.to_document()) == paid
    waiting = report(PaymentState.PENDING)
    assert PaymentReport.from_document(waiting.to_document()) == waiting


@pytest.mark.parametrize("name", ORDER_MOVES)
def test_order_moves_only_from_their_states(name):
    for state in OrderState:
        if state in ORDER_MOVES[name].sources:
            assert order(state=state).move(name).state == ORDER_MOVES[name].target
        else:
            with pytest.raises(MoveNotAllowed):
                order(state=state).move(name)


def test_the_tables_in_the_docs_are_the_tables_in_the_code():
    rows = [
        [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
        for line in (ROOT / "docs" / "payments.md").read_text().splitlines()
        if line.startswith("|")
    ]
    written = {(row[0], row[1], row[2]) for row in rows if len(row) == 4}
    for name, move in ORDER_MOVES.items():
        sources = ", ".join(state for state in OrderState if state in move.sources) or "–"
        assert (sources, name, str(move.target)) in written, name
        assert any(row[1] == name and row[3] == move.event for row in rows if len(row) == 4)
    for name, move in REFUND_MOVES.items():
        sources = ", ".join(state for state in RefundState if state in move.sources) or "–"
        assert [sources, name, str(move.target), move.event or "–"] in rows, name
    told = {row[1].split(" (")[0]: row[2] for row in rows if len(row) == 3}
    for name, move in ATTEMPT_MOVES.items():
        assert told[name] == str(move.target), name


def test_final_attempt_states_never_go_back():
    for name, move in ATTEMPT_MOVES.items():
        assert AttemptState.PAID not in move.sources, name
        assert AttemptState.RETURNED not in move.sources, name
        assert AttemptState.HELD not in move.sources or name in ("pay", "give_back", "give_back_outside"), name


@pytest.mark.parametrize(
    ("order_state", "attempt_state", "told", "verdict"),
    [
        (OrderState.PAYING, AttemptState.WAITING, PaymentState.PAID, Verdict.SETTLE),
        (OrderState.PAYING, AttemptState.CREATED, PaymentState.PAID, Verdict.SETTLE),
        (OrderState.PAYING, AttemptState.CLOSED, PaymentState.PAID, Verdict.SETTLE),
        (OrderState.PAYING, AttemptState.FAILED, PaymentState.PAID, Verdict.SETTLE),
        (OrderState.PAYING, AttemptState.PAID, PaymentState.PAID, Verdict.NOTHING),
        (OrderState.PAYING, AttemptState.HELD, PaymentState.PAID, Verdict.SETTLE),
        (OrderState.PAID, AttemptState.WAITING, PaymentState.PAID, Verdict.OVERPAID),
        (OrderState.PAID, AttemptState.PAID, PaymentState.PAID, Verdict.NOTHING),
        (OrderState.PAID, AttemptState.PAID, PaymentState.CLOSED, Verdict.NOTHING),
        (OrderState.REFUNDED, AttemptState.WAITING, PaymentState.PAID, Verdict.OVERPAID),
        (OrderState.CLOSED, AttemptState.CLOSED, PaymentState.PAID, Verdict.SETTLE_LATE),
        (OrderState.CLOSED, AttemptState.CLOSED, PaymentState.PENDING, Verdict.NOTHING),
        (OrderState.PAYING, AttemptState.WAITING, PaymentState.CLOSED, Verdict.CLOSE_ATTEMPT),
        (OrderState.PAYING, AttemptState.WAITING, PaymentState.PENDING, Verdict.NOTHING),
        (OrderState.PAYING, AttemptState.UNKNOWN, PaymentState.PENDING, Verdict.SEEN),
        (OrderState.PAYING, AttemptState.UNKNOWN, PaymentState.NOT_FOUND, Verdict.NOTHING),
    ],
)
def test_judgement(order_state, attempt_state, told, verdict):
    one = attempt(state=attempt_state)
    assert judge(order(one, state=order_state), one, report(told), NOW) is verdict


def test_news_of_somebody_elses_trade_ends_nothing_of_ours():
    one = attempt()
    for change in ({"provider": "alipay"}, {"merchant_id": "1900000002"}, {"app_id": "wx2"}):
        told = report(PaymentState.CLOSED, **change)
        assert judge(order(one), one, told, NOW) is Verdict.FOREIGN
    assert judge(order(one), one, report(PaymentState.CLOSED, merchant_id="1900000001"), NOW) is Verdict.CLOSE_ATTEMPT


def test_not_found_ends_an_attempt_only_when_it_cannot_come_into_being_any_more():
    told = report(PaymentState.NOT_FOUND)
    for state in (AttemptState.CREATED, AttemptState.UNKNOWN, AttemptState.WAITING):
        one = attempt(state=state)
        assert judge(order(one), one, told, LATER + timedelta(seconds=59)) is Verdict.NOTHING
        assert judge(order(one), one, told, LATER + timedelta(seconds=60)) is Verdict.CLOSE_ATTEMPT
        handed_out = state is AttemptState.WAITING
        expected = Verdict.NOTHING if handed_out else Verdict.CLOSE_ATTEMPT
        assert judge(order(one), one, told, NOW, winding_up=True) is expected


@given(
    amount=st.one_of(st.none(), st.integers(-(10**6), 10**10)),
    currency=st.sampled_from(["CNY", "", "USD", "cny"]),
    merchant=st.sampled_from(["1900000001", "", "1900000002"]),
    app=st.sampled_from(["wx1", "", "wx2"]),
    provider=st.sampled_from(["wechatpay", "alipay"]),
)
def test_only_what_matches_in_everything_settles(amount, currency, merchant, app, provider):
    one = attempt()
    told = report(amount_fen=amount, currency=currency, merchant_id=merchant, app_id=app, provider=provider)
    matches = amount == 4000 and currency == "CNY" and merchant in ("1900000001", "") and app in ("wx1", "")
    verdict = judge(order(one), one, told, NOW)
    assert (verdict is Verdict.SETTLE) == (matches and provider == "wechatpay")
    assert (verdict in (Verdict.HOLD, Verdict.FOREIGN)) == bool(mismatches(one, told))


class Order1(RuleBasedStateMachine):
    """Any news in any order about two attempts: money is never lost, never counted twice, and nothing goes back."""

    def __init__(self):
        super().__init__()
        self.order = order(attempt("pay_1"), attempt("pay_2", provider="alipay", merchant_id="2088", app_id="2021"))
        self.events = []
        self.told_paid = set()

    @rule(
        number=st.sampled_from(["pay_1", "pay_2"]),
        state=st.sampled_from(list(PaymentState)),
        amount=st.sampled_from([4000, 4000, 4000, 3999]),
        minutes=st.integers(0, 60),
    )
    def hear(self, number, state, amount, minutes):
        one = self.order.attempt(number)
        told = report(state, number, provider=one.provider)
        if state is PaymentState.PAID:
            told = replace(told, merchant_id=one.merchant_id, app_id=one.app_id, amount_fen=amount)
            if amount == 4000:
                self.told_paid.add(number)
        verdict = judge(self.order, one, told, NOW + timedelta(minutes=minutes))
        if verdict in (Verdict.NOTHING, Verdict.FOREIGN):
            return
        change = _CHANGES[verdict](self.order, one, told, NOW)
        self.order = change.order
        self.events += [event.name for event in change.events]

    @rule()
    def expire(self):
        if not self.order.is_final and not self.order.open_attempts and not self.order.is_held:
            self.order = self.order.move("close")
            self.events.append("order.closed")

    @invariant()
    def every_payment_is_booked_once(self):
        booked = {a.id for a in self.order.attempts if a.state is AttemptState.PAID}
        assert booked == self.told_paid
        settling = [a for a in self.order.attempts if a.state is AttemptState.PAID and not a.is_overpaid]
        assert len(settling) == (1 if self.order.state is OrderState.PAID else 0)
        assert self.events.count("order.paid") == len(settling)
        assert self.events.count("order.overpaid") == len(booked) - len(settling)
        assert self.events.count("order.closed") <= 1


TestOrder1 = Order1.TestCase


def test_asking_ends_with_the_order():
    assert next_ask(order(state=OrderState.PAID), NOW) is None
    assert next_ask(order(attempt(state=AttemptState.PAID), state=OrderState.PAID), NOW) is None
    assert next_ask(order(attempt(), state=OrderState.PAID), NOW) is not None  # another attempt is still payable
    assert next_ask(order(state=OrderState.OPEN), NOW) == LATER
    assert next_ask(order(attempt(state=AttemptState.HELD)), LATER) is not None  # the true news may still come


def test_late_pauses_grow_up_to_ten_minutes():
    one = order(attempt())
    pauses = [
        (next_ask(one, LATER + timedelta(seconds=s)) - LATER).total_seconds() - s for s in (0, 60, 600, 3600, 10**6)
    ]
    assert pauses == [10, 30, 300, 600, 600]
