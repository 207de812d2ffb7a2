"""Everything at once on the same orders: notices, impatient residents, closing, sweeps in several workers, a change of provider."""

import asyncio
import random
from datetime import timedelta

from app.kernel.errors import HallError
from payments.model import AttemptState


async def test_a_storm_ends_with_every_fen_explained(hall):
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    resident = await hall.resident()
    orders = [await hall.order(resident) for _ in range(8)]
    paid_at_provider: dict[str, int] = {}

    async def pay_and_finish(order, provider):
        try:
            attempt, _ = await hall.pay(order, provider)
        except HallError:
            return
        outcome = chance.choice(["success", "success_without_notice", "success_notice_twice", "fail"])
        told = await hall.sim("pay", provider=provider, out_trade_no=attempt.out_trade_no, outcome=outcome)
        if told["status"] == 200 and outcome != "fail":
            paid_at_provider[attempt.out_trade_no] = order.amount_fen

    async def refresh(order):
        await hall.payments.get_order(order.id, resident, refresh=True)

    async def close(order):
        try:
            await hall.payments.close_order(order.id, resident)
        except HallError:
            pass

    async def sweep():
        await hall.build().sweep(hall.now() + timedelta(seconds=chance.choice([6, 40])))

    tasks = [sweep() for _ in range(4)]
    for order in orders:
        tasks += [pay_and_finish(order, chance.choice(["wechatpay", "alipay"])) for _ in range(chance.choice([1, 2]))]
        tasks += [refresh(order), refresh(order)]
        if chance.random() < 0.4:
            tasks.append(close(order))
    chance.shuffle(tasks)
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert not isinstance(result, Exception), result
    hall.offset = timedelta(minutes=32)
    for _ in range(3):
        await hall.payments.sweep(hall.now())
        hall.offset += timedelta(minutes=11)

    booked: dict[str, int] = {}
    for order in orders:
        found = await hall.payments.get_order(order.id, resident)
        assert found.is_final, (seed, found)
        for attempt in found.attempts:
            assert attempt.state in (AttemptState.PAID, AttemptState.CLOSED, AttemptState.FAILED), (seed, attempt)
            if attempt.state is AttemptState.PAID:
                booked[attempt.out_trade_no] = attempt.amount_fen
        names = await hall.events(order)
        settled = [a for a in found.attempts if a.state is AttemptState.PAID and not a.is_overpaid]
        assert names.count("order.paid") == len(settled) == (found.state == "paid"), (seed, names)
        assert names.count("order.created") == 1 and names.count("order.closed") <= 1
    assert booked == paid_at_provider, seed
    receipts = await hall.database["receipts"].count_documents({})
    assert receipts == sum([(await hall.state(order)) == "paid" for order in orders])
