"""A fee that went back is noted on its case, once per refund, and moves nothing."""

import asyncio

from app.kernel.ids import new_id
from tests.app.cases.handled import submitted


async def test_a_part_then_the_rest_each_once_however_often_told(hall):
    case = await submitted(hall, "id_card_lost")
    [order_id] = {fee.order_id for fee in case.fees if fee.state == "paid"}
    assert sum(fee.amount_fen for fee in case.fees) == 4000
    part, rest = new_id("rfd"), new_id("rfd")
    await asyncio.gather(*(hall.cases.fee_refunded(case.id, order_id, part, 1500) for _ in range(3)))
    shown = (await hall.cases.view(await hall.cases.get(case.id, case.owner_id)))["fee"]
    assert (shown["state"], shown["refunded_fen"]) == ("paid", 1500)
    for refund_id in (rest, part, rest):
        await hall.cases.fee_refunded(case.id, order_id, refund_id, 2500)
    after = await hall.cases.get(case.id, case.owner_id)
    shown = await hall.cases.view(after)
    assert (shown["fee"]["state"], shown["fee"]["refunded_fen"], shown["fee"]["due_fen"]) == ("refunded", 4000, 0)
    assert [row["detail"].split("，")[0] for row in shown["timeline"] if row["event"] == "case.fee_refunded"] == [
        "已退回 15.00 元",
        "已退回 25.00 元",
    ]
    assert after.state is case.state


async def test_money_the_case_did_not_need_is_noted_as_gone_back_and_leaves_the_fee_paid(hall):
    case = await submitted(hall, "id_card_lost")
    other = new_id("ord")
    await hall.cases.fee_paid(case.id, other)
    await hall.cases.fee_refunded(case.id, other, new_id("rfd"), 4000)
    shown = await hall.cases.view(await hall.cases.get(case.id, case.owner_id))
    assert (shown["fee"]["state"], shown["fee"]["refunded_fen"]) == ("paid", 0)
    assert [row["event"] for row in shown["timeline"]][-2:] == ["case.payment_refused", "case.fee_refunded"]
