"""Bills as something to pay for: only those looked up, at the department's price, told to the department once."""

import asyncio
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from app.checks import errors
from app.checks.reports import LEASE, report_id_of
from app.exchange.departments import Office
from app.kernel.clock import utc_now
from app.kernel.errors import ProviderUnavailable
from sandbox.base import Pace
from sandbox.server import start
from tests.app.checks.conftest import LI, WANG, ZHANG, Desk


async def fine(desk: Desk, resident: str, plate: str) -> dict:
    """A fine of its own for a test: every other plate has one."""
    answer = await desk.checks.lookup_bills("traffic_fine", {"plate": plate, "vin_last6": "000001"}, resident)
    [bill] = answer["bills"]
    return bill


async def department_says(desk: Desk, bill_id: str) -> str:
    office = (await desk.database["bills"].find_one({"bill_id": bill_id}))["office"]
    return (await desk.departments.bill(Office(**office), bill_id)).state


async def test_the_price_is_the_departments_with_the_surcharge_as_its_own_line(desk: Desk):
    resident = await desk.resident(ZHANG)
    await desk.checks.lookup_bills("traffic_fine", {"decision_no": "4402031900000023"}, resident)
    quote = await desk.bills.quote("bill-tf-2", resident)
    assert [line.amount_fen for line in quote.lines][0] == 10000
    assert quote.lines[1].title.startswith("加处罚款")
    assert 0 < quote.lines[1].amount_fen <= 10000
    assert (quote.agency_id, quote.title) == ("sg-jj", "机动车违停（示例）")
    assert all(line.payee for line in quote.lines)


async def test_only_who_looked_a_bill_up_can_order_it(desk: Desk):
    resident, other = await desk.resident(ZHANG), await desk.resident(LI)
    bill = await fine(desk, resident, "粤F10001")
    with pytest.raises(errors.BillNotFound):
        await desk.bills.quote(bill["id"], other)
    with pytest.raises(errors.BillNotFound):
        await desk.bills.quote("bill-tf-1", resident)
    assert await desk.bills.quote(bill["id"], resident)


@pytest.mark.parametrize(
    ("who", "kind", "inputs", "bill_id", "error"),
    [
        (LI, "traffic_fine", {"decision_no": "4402041900000042"}, "bill-tf-4", errors.BillAlreadyPaid),
        (WANG, "traffic_fine", {"decision_no": "4402221900000057"}, "bill-tf-5", errors.BillDisputed),
        (WANG, "exam_fee", {"pay_code": "44020026000000001020"}, "bill-ex-2", errors.BillClosed),
        (WANG, "nontax", {"pay_code": "44022226000000002030"}, "bill-nt-3", errors.BillRefunded),
    ],
)
async def test_what_is_not_owed_is_a_clear_conflict(desk: Desk, who, kind, inputs, bill_id, error):
    resident = await desk.resident(who)
    await desk.checks.lookup_bills(kind, inputs, resident)
    with pytest.raises(error):
        await desk.bills.quote(bill_id, resident)


async def test_the_price_is_asked_afresh_and_away_is_away(desk: Desk):
    resident = await desk.resident()
    bill = await fine(desk, resident, "粤F10002")
    await desk.running.stop()
    with pytest.raises(ProviderUnavailable):
        await desk.bills.quote(bill["id"], resident)


async def test_a_payment_is_told_once_however_often_the_event_comes(desk: Desk):
    resident = await desk.resident()
    bill = await fine(desk, resident, "粤F10003")
    await desk.bills.quote(bill["id"], resident)
    event = desk.paid(resident, bill["id"], bill["total_fen"])
    await asyncio.gather(*(desk.reports.report_paid(event) for _ in range(3)))
    await desk.reports.report_paid(event)
    assert await department_says(desk, bill["id"]) == "paid"
    [told] = await desk.database["bill_reports"].find({"bill_id": bill["id"]}).to_list()
    assert (told["state"], told["amount_fen"], told["late_fee_fen"]) == ("accepted", 20000, 0)
    assert told["receipt_no"]
    with pytest.raises(errors.BillAlreadyPaid):
        await desk.bills.quote(bill["id"], resident)


async def test_the_surcharge_that_was_paid_is_told_apart(desk: Desk):
    resident = await desk.resident(ZHANG)
    await desk.checks.lookup_bills("traffic_fine", {"decision_no": "4402031900000023"}, resident)
    quote = await desk.bills.quote("bill-tf-2", resident)
    # The note of the price may be of another day than the order: the sum that was paid decides.
    await desk.database["bills"].update_many({}, {"$set": {"quoted.late_fee_fen": 1}})
    await desk.reports.report_paid(desk.paid(resident, "bill-tf-2", sum(line.amount_fen for line in quote.lines)))
    assert await department_says(desk, "bill-tf-2") == "paid"


async def test_two_bills_of_one_order_are_each_told(desk: Desk):
    resident = await desk.resident(ZHANG)
    bills = [await fine(desk, resident, plate) for plate in ("粤F10004", "粤F10005")]
    for bill in bills:
        await desk.bills.quote(bill["id"], resident)
    rows = [{"kind": "case", "id": "case_1"}, *({"kind": "bill", "id": bill["id"]} for bill in bills)]
    await desk.reports.report_paid(desk.paid(resident, "", 44000, payables=rows))
    assert [await department_says(desk, bill["id"]) for bill in bills] == ["paid", "paid"]


async def test_a_bill_paid_elsewhere_is_kept_as_refused_and_told_as_event(desk: Desk):
    first, second = await desk.resident(ZHANG), await desk.resident(LI)
    bill = await fine(desk, first, "粤F10006")
    await fine(desk, second, "粤F10006")
    for resident in (first, second):
        await desk.bills.quote(bill["id"], resident)
    await desk.reports.report_paid(desk.paid(first, bill["id"], bill["total_fen"]))
    late = desk.paid(second, bill["id"], bill["total_fen"])
    await desk.reports.report_paid(late)
    await desk.reports.report_paid(late)
    kept = await desk.database["bill_reports"].find_one({"_id": report_id_of(late.subject_id, bill["id"])})
    assert (kept["state"], kept["word"]) == ("refused", "already_paid")
    [event] = await desk.database["events"].find({"name": "bill.payment_refused"}).to_list()
    assert event["owner_id"] == second
    assert event["data"]["amount_fen"] == bill["total_fen"]


async def test_a_department_that_is_away_is_told_later_for_as_long_as_it_takes(desk: Desk, tmp_path):
    resident = await desk.resident()
    bill = await fine(desk, resident, "粤F10007")
    await desk.bills.quote(bill["id"], resident)
    event = desk.paid(resident, bill["id"], bill["total_fen"])
    port = urlsplit(desk.running.url).port
    await desk.running.stop()
    await desk.reports.report_paid(event)  # handled: from here on the row remembers, not the event
    rows = desk.database["bill_reports"]
    for days in range(1, 4):  # a long weekend
        await rows.update_many({}, {"$set": {"next_at": utc_now()}})
        assert await desk.reports.sweep() == 1, days
    row = await rows.find_one({})
    assert (row["state"], row["tries"]) == ("waiting", 4)
    assert row["next_at"] - utc_now() > timedelta(seconds=50)  # with growing pauses
    assert await desk.reports.sweep() == 0  # not before its time
    desk.running = await start(port, tmp_path, pace=Pace())
    await desk.reports.sweep(utc_now() + timedelta(minutes=20))
    assert (await rows.find_one({}))["state"] == "accepted"
    assert await department_says(desk, bill["id"]) == "paid"


async def test_killed_between_the_answer_of_the_department_and_our_note_it_is_told_again_and_counts_once(desk, monkeypatch):
    resident = await desk.resident()
    bill = await fine(desk, resident, "粤F10017")
    await desk.bills.quote(bill["id"], resident)

    async def killed(*_args, **_more):
        raise asyncio.CancelledError  # as a process that ends: nothing after this line happens

    with monkeypatch.context() as patch, pytest.raises(asyncio.CancelledError):
        patch.setattr(desk.reports, "_ended", killed)
        await desk.reports.report_paid(desk.paid(resident, bill["id"], bill["total_fen"]))
    assert await department_says(desk, bill["id"]) == "paid"
    assert (await desk.database["bill_reports"].find_one({}))["state"] == "waiting"
    assert await desk.reports.sweep() == 0  # still in the dead one's hand
    assert await desk.reports.sweep(utc_now() + LEASE) == 1
    assert (await desk.database["bill_reports"].find_one({}))["state"] == "accepted"


async def test_notes_follow_when_two_accounts_are_joined(desk: Desk):
    first, second = await desk.resident(ZHANG), await desk.resident(LI)
    bill = await fine(desk, first, "粤F10008")
    await desk.checks.reassign(first, second)
    assert await desk.bills.quote(bill["id"], second)
    with pytest.raises(errors.BillNotFound):
        await desk.bills.quote(bill["id"], first)


async def test_a_payment_is_told_though_its_payer_was_joined_into_another_account(desk: Desk):
    first, second = await desk.resident(ZHANG), await desk.resident(LI)
    bill = await fine(desk, first, "粤F10009")
    await desk.bills.quote(bill["id"], first)
    await desk.checks.reassign(first, second)
    await desk.reports.report_paid(desk.paid(first, bill["id"], bill["total_fen"]))
    assert await department_says(desk, bill["id"]) == "paid"


def test_payment_ids_are_stable_and_fit():
    assert report_id_of("ord_01", "bill-1") == "ord_01.bill-1"
    long = report_id_of("ord_" + "0" * 26, "b" * 64)
    assert len(long) <= 64
    assert long == report_id_of("ord_" + "0" * 26, "b" * 64)
