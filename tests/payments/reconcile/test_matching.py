"""What counts as a difference, and what a difference means for the books. Pure."""

from datetime import UTC, date, datetime, timedelta

import pytest

from payments.bill import BillKind, Reading
from payments.reconcile import workbook
from payments.reconcile.matching import Finding, Kind, Ours, compare, day_bounds, is_near_midnight, ours_only
from payments.reconcile.workbook import Entry, Workbook
from tests.payments.reconcile.writers import a_row

DAY = date(2026, 11, 23)
NOON = datetime(2026, 11, 23, 4, tzinfo=UTC)


def entry(**changes):
    made = Entry("payment", "pay_01", "pay_01", "4200", 4000, int(NOON.timestamp()), "paid", "补领", 1)
    return made._replace(**changes)


def ours(**changes):
    values = {
        "number": "pay_01", "provider": "wechatpay", "kind": BillKind.PAYMENT, "order_id": "ord_01", "agency_id": "sg-gaj",
        "amount_fen": 4000, "state": "paid", "moved_at": NOON,
    }  # fmt: skip
    return Ours(**values | changes)


@pytest.mark.parametrize(
    ("theirs", "own", "kind", "suspense"),
    [
        (entry(), ours(), None, 0),
        (entry(), None, Kind.THEIRS_ONLY, 4000),
        (entry(), ours(provider="alipay"), Kind.THEIRS_ONLY, 4000),
        (entry(amount_fen=4001), ours(), Kind.AMOUNT, 1),
        (entry(amount_fen=3999), ours(state="held"), Kind.AMOUNT, 3999),
        (entry(amount_fen=8000, times=2), ours(), Kind.AMOUNT, 4000),  # twice in one bill
        (entry(), ours(state="waiting", moved_at=None), Kind.STATE, 4000),
        (entry(), ours(state="closed", moved_at=None), Kind.STATE, 4000),
        (entry(state="unknown"), ours(), Kind.STATE, -4000),
        # 23:59 there, 00:01 here, and the reverse: one day of tolerance.
        (entry(), ours(moved_at=NOON + timedelta(days=1)), None, 0),
        (entry(), ours(moved_at=NOON - timedelta(hours=30)), None, 0),
        (entry(), ours(moved_at=NOON + timedelta(days=2)), Kind.STATE, 0),
    ],
)
def test_payments(theirs, own, kind, suspense):
    found = compare("wechatpay", DAY, theirs, own)
    assert (found.kind if found else None) == kind
    assert (found.suspense_fen if found else 0) == suspense


@pytest.mark.parametrize(
    ("theirs", "own", "kind", "suspense"),
    [
        ("succeeded", "succeeded", None, 0),
        ("processing", "processing", None, 0),
        ("processing", "succeeded", None, 0),  # the bill is hours old
        ("succeeded", "processing", Kind.STATE, -4000),
        ("succeeded", "closed", Kind.STATE, -4000),
        ("abnormal", "processing", Kind.STATE, 0),
        ("closed", "succeeded", None, 0),
        ("processing", "requested", Kind.STATE, 0),  # nobody has sent it
    ],
)
def test_refunds(theirs, own, kind, suspense):
    found = compare(
        "wechatpay",
        DAY,
        entry(kind="refund", number="rfd_01", state=theirs),
        ours(kind=BillKind.REFUND, number="rfd_01", state=own, moved_at=NOON + timedelta(days=9)),
    )
    assert (found.kind if found else None) == kind
    assert (found.suspense_fen if found else 0) == suspense


def test_what_only_we_have_is_less_at_the_provider_than_booked():
    assert ours_only(DAY, ours(), "pay_01").suspense_fen == -4000
    assert ours_only(DAY, ours(kind=BillKind.REFUND, state="succeeded"), "pay_01").suspense_fen == 4000


def test_a_finding_survives_its_document():
    found = compare("wechatpay", DAY, entry(amount_fen=1), ours())
    assert Finding.from_document(found.to_document() | {"state": "open", "found_at": NOON}) == found


def test_a_day_is_a_shanghai_day():
    begin, end = day_bounds(DAY)
    assert (begin, end) == (datetime(2026, 11, 22, 16, tzinfo=UTC), datetime(2026, 11, 23, 16, tzinfo=UTC))
    assert [is_near_midnight(at) for at in (end - timedelta(minutes=1), end + timedelta(minutes=59), NOON, None)] == [
        True, True, False, False,
    ]  # fmt: skip


def test_a_workbook_is_walked_in_order_from_any_position(tmp_path):
    rows = [a_row(f"pay_{number:04}") for number in (3, 1, 2)] + [a_row("pay_0002", amount_fen=1), a_row("x", kind=BillKind.REFUND)]
    reading = Reading()
    for row in rows:
        reading.sums.add(row)
    workbook.write(tmp_path / "book.db", iter(rows), reading)
    book = Workbook(tmp_path / "book.db")
    assert (book.entries, book.sums.payments, book.sums.refunds) == (4, 4, 1)
    seen, position = [], ()
    while batch := book.after(position, 2):
        seen += batch
        position = batch[-1].position
    assert [(row.number, row.amount_fen, row.times) for row in seen] == [
        ("pay_0001", 4000, 1), ("pay_0002", 4001, 2), ("pay_0003", 4000, 1), ("rfd_01", 4000, 1),
    ]  # fmt: skip
    assert book.count_before(seen[1].position) == 2
    assert set(book.find("payment", ["pay_0003", "pay_0009"])) == {"pay_0003"}


def test_a_workbook_of_a_refused_bill_is_not_there(tmp_path):
    def broken():
        yield a_row()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        workbook.write(tmp_path / "book.db", broken(), Reading())
    assert list(tmp_path.iterdir()) == []
