"""Refunds on a real database: never more than was paid, one number per refund, the second person, and the truth whenever it comes."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace

import pytest

from app.identity.model import StaffSession
from app.kernel.errors import HallError
from app.kernel.ids import new_id
from app.storage import outbox
from payments import errors, metrics
from payments.ledger import store as ledger
from payments.ledger.verify import verify
from payments.model import OrderState
from payments.refund import RefundState
from payments.service import Payments
from payments.settling import UnknownNumber
from tests.payments.conftest import OneLine, OneQuote
from tests.payments.refund_desk import RefundDesk
from tests.payments.test_late import closed_order, settling

CLERK = StaffSession("clerk.sg-gaj", "经办员", "clerk", "sg-gaj")
HEAD = StaffSession("head.sg-gaj", "负责人", "head", "sg-gaj")
STRANGER = StaffSession("head.sg-rsj", "负责人", "head", "sg-rsj")


@dataclass
class Desk:
    """Payments whose refunds a test holds in its hand."""

    hall: object
    payments: Payments
    provider: RefundDesk

    async def paid(self, *cases, amount_fen=4000):
        hall = self.hall
        resident = await hall.resident()
        owed = [hall.cases.owe(resident, amount_fen=amount_fen)] if not cases else list(cases)
        for case in cases:
            hall.cases.owed[case][0].add(resident)
        order = await hall.order(resident, *owed)
        attempt, _ = await hall.pay(order)
        await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success")
        return await hall.until(order, "paid")

    async def ask(self, order, amount_fen=4000, staff=CLERK, refund_id="", **more):
        return await self.payments.refunds.request(
            order.id, staff, amount_fen=amount_fen, reason="重复缴费", refund_id=refund_id or new_id("rfd"), **more
        )

    async def sweep(self, later=timedelta()):
        self.hall.offset += later
        return await self.payments.sweep(self.hall.now())

    async def order(self, order):
        return await self.payments.get_order(order.id, order.owner_id)

    async def state(self, order):
        return str((await self.order(order)).state)

    async def refund(self, refund):
        found = await self.payments._store.load_of_refund(refund.id)
        return found.refund(refund.id)

    async def apply(self, refund, state, **changes):
        return await self.payments._following.apply_report(self.provider.told(refund, state, **changes), "notice", self.hall.now())

    async def is_proven(self):
        report = await verify(self.hall.database)
        assert report.problems == []
        return True

    async def balances(self):
        return await ledger.balances(self.hall.database)


@pytest.fixture
async def desk(hall):
    built = hall.build()
    provider = RefundDesk(built.providers["wechatpay"])
    payments = Payments(
        hall.database,
        providers=[provider, built.providers["alipay"]],
        sources={"case": hall.cases, "bill": hall.cases},
        payer_of=hall.payer_of,
        public_url=hall.url,
        refund_approval_fen=50_000,
        clock=hall.now,
    )
    return Desk(hall, payments, provider)


async def test_all_of_it_goes_back(desk):
    order = await desk.paid()
    order, refund = await desk.ask(order)
    assert (order.state, refund.state) == (OrderState.REFUNDING, RefundState.APPROVED)
    assert await desk.balances() == {"provider:wechatpay": 4000, "refund_out": -4000}
    await desk.sweep()
    assert await desk.state(order) == "refunded"
    assert desk.provider.calls == [refund.id] and desk.provider.returned_fen(refund.attempt_id) == 4000
    assert await desk.balances() == {} and await desk.is_proven()
    names = await desk.hall.events(order)
    assert names[names.index("refund.approved") :] == ["refund.approved", "order.refunding", "refund.succeeded", "order.refunded"]
    assert await desk.hall.database["payable_locks"].count_documents({"order_id": order.id}) == 0


async def test_in_parts_until_nothing_is_left(desk):
    order = await desk.paid()
    for amount_fen, state in [(1000, "partly_refunded"), (2500, "partly_refunded"), (500, "refunded")]:
        await desk.ask(order, amount_fen)
        await desk.sweep(timedelta(seconds=62))
        assert await desk.state(order) == state
    with pytest.raises(errors.RefundTooMuch):
        await desk.ask(order, 1)
    assert await desk.balances() == {} and await desk.is_proven()


async def test_many_at_once_never_exceed_the_payment(desk):
    order = await desk.paid()
    results = await asyncio.gather(*(desk.ask(order, 1500) for _ in range(8)), return_exceptions=True)
    made = [result for result in results if not isinstance(result, Exception)]
    assert len(made) == 2 and all(isinstance(r, errors.RefundTooMuch) for r in results if isinstance(r, Exception))
    for _ in range(4):
        await asyncio.gather(desk.sweep(timedelta(seconds=40)), desk.payments.sweep(desk.hall.now()))
    assert desk.provider.returned_fen(made[0][1].attempt_id) == 3000
    assert len(set(desk.provider.calls)) == 2 and await desk.is_proven()


async def test_the_same_request_twice_is_one_refund(desk):
    order = await desk.paid()
    number = new_id("rfd")
    results = await asyncio.gather(*(desk.ask(order, 1000, refund_id=number) for _ in range(3)))
    assert len({refund.id for _, refund in results}) == 1
    assert len((await desk.order(order)).refunds) == 1


async def test_two_refunds_of_one_payment_keep_a_minute_apart(desk):
    order = await desk.paid()
    await desk.ask(order, 1000)
    await desk.ask(order, 1000)
    await desk.sweep()
    assert len(desk.provider.calls) == 1
    await desk.sweep(timedelta(seconds=30))
    assert len(desk.provider.calls) == 1
    await desk.sweep(timedelta(seconds=40))
    assert len(desk.provider.calls) == 2 and await desk.state(order) == "partly_refunded"


async def test_who_may_ask(desk):
    order = await desk.paid()
    with pytest.raises(errors.OrderNotFound):
        await desk.ask(order, staff=STRANGER)
    with pytest.raises(errors.OrderNotFound):
        await desk.ask(SimpleNamespace(id="ord_none"))
    unpaid = await desk.hall.order(order.owner_id)
    with pytest.raises(errors.NotRefundable):
        await desk.ask(unpaid)


async def test_above_the_threshold_a_second_person_agrees(desk):
    order = await desk.paid(amount_fen=60_000)
    order, refund = await desk.ask(order, 60_000)
    assert (order.state, refund.state) == (OrderState.PAID, RefundState.REQUESTED)
    await desk.sweep()
    assert desk.provider.calls == []
    with pytest.raises(errors.RefundTooMuch):  # reserved while it waits
        await desk.ask(order, 1)
    other_clerk = StaffSession("clerk2.sg-gaj", "经办员", "clerk", "sg-gaj")
    for person in (CLERK, other_clerk):
        with pytest.raises(errors.SecondPersonNeeded):
            await desk.payments.refunds.approve(refund.id, person)
    with pytest.raises(errors.RefundNotFound):
        await desk.payments.refunds.approve(refund.id, STRANGER)
    results = await asyncio.gather(*(desk.payments.refunds.approve(refund.id, HEAD) for _ in range(3)))
    assert {r.state for _, r in results} == {RefundState.APPROVED}
    await desk.sweep()
    assert await desk.state(order) == "refunded" and await desk.is_proven()


async def test_nobody_agrees_to_their_own_request(desk):
    order = await desk.paid(amount_fen=60_000)
    _, refund = await desk.ask(order, 60_000, staff=HEAD)
    with pytest.raises(errors.SecondPersonNeeded):
        await desk.payments.refunds.approve(refund.id, HEAD)


async def test_slices_count_together(desk):
    order = await desk.paid(amount_fen=60_000)
    assert (await desk.ask(order, 50_000))[1].state is RefundState.APPROVED
    assert (await desk.ask(order, 1))[1].state is RefundState.REQUESTED


async def test_a_refused_request_frees_its_amount(desk):
    order = await desk.paid(amount_fen=60_000)
    _, refund = await desk.ask(order, 60_000)
    order, refund = await desk.payments.refunds.reject(refund.id, HEAD, "金额不对")
    assert (order.state, refund.state, refund.failure) == (OrderState.PAID, RefundState.REJECTED, "金额不对")
    with pytest.raises(errors.RefundDecided):
        await desk.payments.refunds.approve(refund.id, StaffSession("head2.sg-gaj", "", "head", "sg-gaj"))
    await desk.ask(order, 60_000)
    assert await desk.is_proven()


@pytest.mark.parametrize("mode", ["lose", "drop", "not_sent"])
async def test_an_unclear_outcome_is_asked_for_under_the_same_number(desk, mode):
    order = await desk.paid()
    _, refund = await desk.ask(order)
    desk.provider.mode = mode
    await desk.sweep()
    assert (await desk.refund(refund)).state is RefundState.SENDING
    desk.provider.silent = True
    await desk.sweep(timedelta(seconds=11))
    assert (await desk.refund(refund)).state is RefundState.SENDING and await desk.state(order) == "refunding"
    await desk.payments._watching.look(desk.hall.now() + timedelta(seconds=100))
    assert 100 <= metrics.oldest_unknown._value.get() < 130
    desk.provider.silent, desk.provider.mode = False, "succeed"
    await desk.sweep(timedelta(seconds=21))
    assert await desk.state(order) == "refunded"
    assert set(desk.provider.calls) == {refund.id} and len(desk.provider.calls) == (1 if mode == "lose" else 2)
    assert await desk.balances() == {} and await desk.is_proven()


async def test_killed_between_commit_and_call_and_between_call_and_commit(desk, monkeypatch):
    order = await desk.paid()
    _, refund = await desk.ask(order)

    async def killed(*_args, **_more):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(desk.provider, "refund", killed)
        await desk.sweep()
    assert (await desk.refund(refund)).state is RefundState.SENDING and desk.provider.calls == []
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "append", killed)  # the provider has done it, and the news cannot be committed
        await desk.sweep(timedelta(seconds=61))
    assert (await desk.refund(refund)).state is RefundState.SENDING and desk.provider.calls == [refund.id]
    assert await desk.is_proven()
    await desk.sweep(timedelta(seconds=61))
    assert await desk.state(order) == "refunded" and desk.provider.calls == [refund.id] and await desk.is_proven()


async def test_processing_is_followed_for_weeks_with_growing_pauses(desk):
    order = await desk.paid()
    _, refund = await desk.ask(order)
    desk.provider.mode = "process"
    await desk.sweep()
    assert (await desk.refund(refund)).state is RefundState.PROCESSING
    for _ in range(21 * 24):
        await desk.sweep(timedelta(hours=1))
    assert 21 * 6 <= len(desk.provider.queries) <= 21 * 6 + 12
    rows, _ = await desk.payments.refunds.page("sg-gaj", state="processing")
    assert rows[0]["is_overdue"] is True
    assert metrics.refunds_overdue._value.get() == 1
    desk.provider.becomes(refund.id, "succeeded")
    await desk.sweep(timedelta(hours=4))
    assert await desk.state(order) == "refunded" and desk.provider.calls == [refund.id] and await desk.is_proven()


async def test_closed_frees_the_amount_and_a_new_try_has_a_new_number(desk):
    order = await desk.paid()
    _, refund = await desk.ask(order)
    desk.provider.mode = "process"
    await desk.sweep()
    desk.provider.becomes(refund.id, "closed")
    await desk.sweep(timedelta(seconds=61))
    assert (await desk.refund(refund)).state is RefundState.CLOSED and await desk.state(order) == "paid"
    assert await desk.balances() == {"provider:wechatpay": 4000, "agency:sg-gaj": -4000} and await desk.is_proven()
    rows, _ = await desk.payments.refunds.page("sg-gaj", state="closed")
    assert [row["failure"] for row in rows] == ["closed"]
    _, again = await desk.ask(order)
    assert again.id != refund.id


async def test_late_truth_overrules_closed_and_abnormal(desk):
    for failed in ("closed", "abnormal"):
        order = await desk.paid()
        _, refund = await desk.ask(order)
        desk.provider.mode = "process"
        await desk.sweep()
        await desk.apply(refund, failed)
        assert str((await desk.refund(refund)).state) == failed
        for _ in range(2):
            await desk.apply(refund, "succeeded")
        assert await desk.state(order) == "refunded"
        await desk.apply(refund, failed)  # and back again it never goes
        assert (await desk.refund(refund)).state is RefundState.SUCCEEDED and await desk.is_proven()


async def test_late_truth_stops_the_second_try_that_was_not_sent(desk):
    order = await desk.paid()
    _, refund = await desk.ask(order)
    desk.provider.mode = "process"
    await desk.sweep()
    await desk.apply(refund, "closed")
    _, again = await desk.ask(order)
    await desk.apply(refund, "succeeded")
    await desk.sweep(timedelta(minutes=2))
    assert desk.provider.calls == [refund.id]
    assert ((await desk.refund(again)).state, (await desk.refund(again)).failure) == (RefundState.CLOSED, "already_returned")
    assert await desk.state(order) == "refunded" and await desk.balances() == {} and await desk.is_proven()


async def test_a_definite_refusal_ends_it_for_staff(desk):
    order = await desk.paid()
    _, refund = await desk.ask(order)
    desk.provider.mode = "refuse"
    await desk.sweep()
    found = await desk.refund(refund)
    assert (found.state, found.failure) == (RefundState.CLOSED, "TRADE_OVERDUE") and desk.provider.queries == [refund.id]
    assert await desk.state(order) == "paid" and await desk.is_proven()


async def test_another_amount_is_not_booked(desk):
    order = await desk.paid()
    _, refund = await desk.ask(order, 1000)
    desk.provider.mode = "misname"
    await desk.sweep()
    found = await desk.refund(refund)
    assert (found.state, found.failure) == (RefundState.ABNORMAL, "amount_differs")
    assert await desk.state(order) == "refunding" and await desk.is_proven()


async def test_news_of_others_changes_nothing(desk):
    order = await desk.paid()
    _, refund = await desk.ask(order)
    desk.provider.mode = "drop"
    await desk.sweep()
    for wrong in ({"merchant_id": "1999999999"}, {"app_id": "wxother"}):
        with pytest.raises(UnknownNumber):  # a notice is refused, so that it comes again while somebody looks
            await desk.apply(refund, "succeeded", **wrong)
    assert (await desk.refund(refund)).state is RefundState.SENDING
    with pytest.raises(UnknownNumber):
        await desk.apply(SimpleNamespace(out_trade_no="pay_1", out_refund_no="rfd_1", amount_fen=1), "succeeded")


async def test_notice_and_query_at_once_have_one_effect(desk):
    order = await desk.paid()
    _, refund = await desk.ask(order)
    desk.provider.mode = "process"
    await desk.sweep()
    desk.provider.becomes(refund.id, "succeeded")
    desk.hall.offset += timedelta(seconds=61)
    await asyncio.gather(*(desk.apply(refund, "succeeded") for _ in range(5)), desk.sweep(), desk.sweep())
    assert (await desk.hall.events(order)).count("refund.succeeded") == 1 and await desk.is_proven()


# --- by itself ---


async def test_what_comes_after_closing_goes_back_by_itself(desk):
    resident = await desk.hall.resident()
    case = desk.hall.cases.owe(resident)
    order, attempt, paid = await closed_order(desk.hall, resident, case)
    other = await desk.hall.order(resident, case)
    await asyncio.gather(*(settling(desk.hall).apply_report(paid, "notice", desk.hall.now()) for _ in range(3)))
    await desk.sweep()
    found = await desk.order(order)
    assert found.state is OrderState.CLOSED and [(r.kind, r.state, r.amount_fen) for r in found.refunds] == [
        ("overpaid", "succeeded", 4000)
    ]
    assert desk.provider.returned_fen(attempt.id) == 4000 and len(desk.provider.calls) == 1
    assert (await desk.hall.events(order))[-3:] == ["order.overpaid", "refund.approved", "refund.succeeded"]
    assert await desk.state(other) == "open"
    assert await desk.balances() == {} and await desk.is_proven()
    rows, _ = await desk.payments.held.page("sg-gaj")
    assert [(row["kind"], row["order_id"], row["refunds"][0]["state"]) for row in rows] == [("overpaid", order.id, "succeeded")]


async def test_an_overpayment_that_could_not_go_back_can_be_tried_again(desk):
    resident = await desk.hall.resident()
    case = desk.hall.cases.owe(resident)
    order, attempt, paid = await closed_order(desk.hall, resident, case)
    del desk.hall.cases.owed[case]
    await settling(desk.hall).apply_report(paid, "notice", desk.hall.now())
    desk.provider.mode = "refuse"
    await desk.sweep()
    assert await desk.balances() == {"provider:wechatpay": 4000, "overpaid": -4000}
    desk.provider.mode = "succeed"
    await desk.ask(order, attempt_id=attempt.id)
    await desk.sweep(timedelta(minutes=2))
    assert await desk.balances() == {} and await desk.is_proven()


async def test_what_a_department_refuses_goes_back_though_staff_have_asked_for_it_and_nobody_has_agreed(desk):
    resident = await desk.hall.resident()
    bill = desk.hall.cases.owe(resident, amount_fen=60_000, title="机动车违法罚款")
    order = await desk.payments.create_order(resident, [{"kind": "bill", "id": bill}], order_id=new_id("ord"))
    attempt, _ = await desk.hall.pay(order)
    await desk.hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success")
    await desk.hall.until(order, "paid")
    asked = new_id("rfd")
    await desk.payments.refunds.request(order.id, CLERK, amount_fen=60_000, reason="多收", refund_id=asked)
    event = SimpleNamespace(subject_kind="bill", subject_id=bill, data={"order_id": order.id})
    await asyncio.gather(*(desk.payments.refunds.refund_refused_bill(event) for _ in range(3)))
    found = await desk.payments.get_order(order.id, resident)
    assert [(refund.kind, refund.state, refund.amount_fen) for refund in found.refunds] == [
        ("staff", "rejected", 60_000), ("bill_refused", "approved", 60_000),
    ]  # fmt: skip
    assert found.refunds[0].failure == "bill_refused"
    assert (await desk.hall.events(order)).count("refund.rejected") == 1


async def test_what_a_department_refuses_goes_back_alone(desk):
    resident = await desk.hall.resident()
    case = desk.hall.cases.owe(resident)
    bill = desk.hall.cases.owe(resident, amount_fen=20_000, title="机动车违法罚款")
    order = await desk.payments.create_order(
        resident, [{"kind": "case", "id": case}, {"kind": "bill", "id": bill}], order_id=new_id("ord")
    )
    attempt, _ = await desk.hall.pay(order)
    await desk.hall.sim("pay", provider="wechatpay", out_trade_no=attempt.id, outcome="success")
    await desk.hall.until(order, "paid")
    event = SimpleNamespace(subject_kind="bill", subject_id=bill, data={"order_id": order.id})
    await asyncio.gather(*(desk.payments.refunds.refund_refused_bill(event) for _ in range(3)))
    await desk.sweep()
    found = await desk.order(order)
    assert found.state is OrderState.PARTLY_REFUNDED and [r.amount_fen for r in found.refunds] == [20_000]
    locks = await desk.hall.database["payable_locks"].find({"order_id": order.id}).to_list()
    assert [lock["_id"] for lock in locks] == [f"case:{case}"]  # the bill may be paid again, the case not
    await desk.payments.create_order(resident, [{"kind": "bill", "id": bill}], order_id=new_id("ord"))
    assert await desk.is_proven()


async def test_each_agency_gives_back_its_own_part(desk):
    resident = await desk.hall.resident()
    own = desk.hall.cases.owe(resident, amount_fen=4000)
    other = new_id("case")
    desk.hall.cases.owed[other] = ({resident}, OneQuote("社保卡补领", "sg-rsj", (OneLine("工本费", 1600, "人社局"),)))
    order = await desk.paid(own, other)
    with pytest.raises(errors.RefundTooMuch):
        await desk.ask(order, 1601, staff=STRANGER)
    await desk.ask(order, 1600, staff=STRANGER)
    with pytest.raises(errors.RefundTooMuch):
        await desk.ask(order, 4001)
    await desk.ask(order, 4000)
    await desk.sweep()
    await desk.sweep(timedelta(seconds=62))
    assert await desk.state(order) == "refunded" and await desk.balances() == {} and await desk.is_proven()
    mine, _ = await desk.payments.refunds.page("sg-rsj")
    assert [row["amount_fen"] for row in mine] == [1600]


async def test_pages_of_refunds(desk):
    orders = [await desk.paid() for _ in range(3)]
    for order in orders:
        await desk.ask(order, 1000)
    seen, cursor = [], None
    while True:
        rows, cursor = await desk.payments.refunds.page("sg-gaj", limit=2, cursor=cursor)
        seen += [row["order_id"] for row in rows]
        if cursor is None:
            break
    assert seen == [order.id for order in reversed(orders)]
    assert (await desk.payments.refunds.page("sg-gaj", state="rejected"))[0] == []
    assert (await desk.payments.refunds.page("sg-rsj"))[0] == []


async def test_a_storm_of_everything_keeps_the_books(desk):
    """Staff, sweeps in several workers, notices and a moody provider at once: every fen is at the provider, an order's, or back."""
    orders = [await desk.paid() for _ in range(5)]
    moods = ["succeed", "process", "lose", "drop", "not_sent"]

    async def staff(order):
        for amount_fen in (1500, 1500, 1500, 1000):
            try:
                await desk.ask(order, amount_fen)
            except HallError:
                pass

    async def worker(index):
        for turn in range(6):
            desk.provider.mode = moods[(index + turn) % len(moods)]
            await desk.sweep(timedelta(seconds=30))

    await asyncio.gather(*(staff(order) for order in orders), *(worker(index) for index in range(3)))
    desk.provider.mode = "succeed"
    for _ in range(8):
        await desk.sweep(timedelta(minutes=11))
        for number in desk.provider.made:
            desk.provider.becomes(number, "succeeded")
    back_fen = 0
    for order in orders:
        found = await desk.order(order)
        attempt = found.paid_attempt
        assert all(refund.state is RefundState.SUCCEEDED for refund in found.refunds), found.refunds
        own_fen = sum(refund.amount_fen for refund in found.refunds)
        assert own_fen == desk.provider.returned_fen(attempt.id) <= 4000
        assert found.state == ("refunded" if own_fen == 4000 else "partly_refunded")
        back_fen += own_fen
    total_fen = 4000 * len(orders) - back_fen
    assert (await desk.balances()).get("provider:wechatpay", 0) == total_fen and await desk.is_proven()
