"""What a refund gives back of each payable: all of it, of nothing more than was paid, the same however it is asked."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from payments.model import Attempt, AttemptState, Line, Order, OrderState, Payable
from payments.refund import Refund, RefundKind, RefundState
from payments.refund_parts import parts_of, returned_fen, wholly_returned

NOW = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
AGENCIES = ("sg-jj", "sg-water")


def order_of(amounts):
    """An order that is paid: for amounts (agency, fen), each a bill."""
    payables = tuple(Payable("bill", f"b{n}", 1, agency, "账单", fen) for n, (agency, fen) in enumerate(amounts))
    total = sum(fen for _agency, fen in amounts)
    attempt = Attempt("pay_1", "wechatpay", "h5", AttemptState.PAID, total, "m", "a", {}, "{}", NOW, NOW)
    lines = tuple(Line("账单", fen, agency, agency) for agency, fen in amounts)
    return Order("ord_1", "res_1", OrderState.PAID, "账单", total, lines, payables, NOW, NOW, attempts=(attempt,))


def refund_of(number, agency, fen, **more):
    return Refund(
        **{
            "id": f"rfd_{number}", "attempt_id": "pay_1", "provider": "wechatpay", "kind": RefundKind.STAFF,
            "state": RefundState.SUCCEEDED, "amount_fen": fen, "reason": "", "agency_id": agency,
            "requested_by": "x", "created_at": NOW, **more,
        }
    )


@given(
    amounts=st.lists(st.tuples(st.sampled_from(AGENCIES), st.integers(1, 300)), min_size=1, max_size=6),
    asked=st.lists(st.tuples(st.sampled_from(AGENCIES), st.integers(1, 300)), max_size=8),
)
def test_every_fen_has_its_payable_and_no_payable_gets_more_than_was_paid(amounts, asked):
    order = order_of(amounts)
    left = {agency: sum(fen for owner, fen in amounts if owner == agency) for agency in AGENCIES}
    for number, (agency, fen) in enumerate(asked):
        fen = min(fen, left[agency])  # what the desk allows
        if fen < 1:
            continue
        left[agency] -= fen
        refund = refund_of(number, agency, fen)
        parts = parts_of(order, refund)
        assert sum(part for _key, part in parts) == fen
        owners = {payable.key: payable.agency_id for payable in order.payables}
        assert all(owners[key] == agency and part > 0 for key, part in parts)
        done = replace(refund, parts=parts)
        order = order.with_refund(done)
        assert parts_of(order, done) == parts  # asked once more, with itself in the order
        stored = Order.from_document(order.to_document())
        assert stored.refunds == order.refunds and returned_fen(stored) == returned_fen(order)
    back = returned_fen(order)
    assert all(back.get(payable.key, 0) <= payable.amount_fen for payable in order.payables)
    assert set(wholly_returned(order)) == {p.key for p in order.payables if back.get(p.key) == p.amount_fen}


def test_the_one_it_fits_comes_before_the_first():
    order = order_of([("sg-jj", 200), ("sg-jj", 150), ("sg-water", 150)])
    assert parts_of(order, refund_of(1, "sg-jj", 150)) == (("bill:b1", 150),)
    assert parts_of(order, refund_of(1, "sg-jj", 210)) == (("bill:b0", 200), ("bill:b1", 10))
    assert parts_of(order, refund_of(1, "sg-jj", 150, payable_key="bill:b0")) == (("bill:b0", 150),)
    assert parts_of(order, refund_of(1, "sg-jj", 500, attempt_id="pay_2")) == ()  # of a payment that was too much
