"""Receipts: who sees what, the PDF, and the check by strangers."""

import asyncio
import io
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pikepdf
import pytest

from app.kernel.clock import SHANGHAI
from app.kernel.ids import new_id
from payments import errors, receipts
from payments.service import view


async def paid_order(hall, title="居民身份证丢失补领"):
    resident = await hall.resident()
    order = await hall.order(resident, hall.cases.owe(resident, title=title))
    attempt, _ = await hall.pay(order)
    await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.out_trade_no)
    return await hall.until(order, "paid")


async def test_there_is_none_before_the_payment(hall):
    order = await hall.order(await hall.resident())
    with pytest.raises(errors.ReceiptNotIssued):
        await hall.payments.receipt(order.id, order.owner_id)


async def test_owner_and_strangers(hall):
    order = await paid_order(hall, title="违法停车 粤F12345 决定书440200123456789")
    own = await hall.payments.receipt(order.id, order.owner_id)
    assert own["amount_fen"] == 4000 and own["provider_name"] == "微信支付" and own["state"] == "paid"
    assert own["check_url"] == f"{hall.url}/receipts/{own['number']}?code={own['code']}"
    public = await hall.payments.check_receipt(own["number"], own["code"])
    assert public["valid"] and public["amount_fen"] == 4000 and public["paid_at"]
    assert public["title"] == "违法停车 粤F1**45 决定书44***89"
    told = str(public)
    for secret in (order.id, order.owner_id, own["provider_trade_no"], own["out_trade_no"], "12345 ", "张三"):
        assert secret not in told
    for number, code in ((own["number"], "XXXXXXXX"), (own["number"], ""), ("R0", own["code"])):
        with pytest.raises(errors.ReceiptNotFound):
            await hall.payments.check_receipt(number, code)


async def test_pdf(hall):
    order = await paid_order(hall)
    name, pdf = await hall.payments.receipt_pdf(order.id, order.owner_id)
    order = await hall.payments.get_order(order.id, order.owner_id)
    assert name == f"{order.receipt_number}.pdf"
    with pikepdf.open(io.BytesIO(pdf)) as document:
        (page,) = document.pages
        assert str(document.docinfo["/Title"]) == f"缴费收据 {order.receipt_number}"
        fonts = page.Resources.Font
        assert any("NotoSansSC" in str(fonts[name].BaseFont) for name in fonts)
        assert len(page.get_images()) == 1
    assert len(pdf) < 200_000


async def test_making_a_pdf_leaves_the_loop_free(hall):
    order = await paid_order(hall)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await hall.payments.receipt_pdf(order.id, order.owner_id)
    ticking.cancel()
    assert ticks >= 3


def test_many_lines_and_rare_characters():
    line = {"title": "机动车违法罚款䶮㭎" * 4, "payee": "韶关市公安局交通警察支队", "amount_fen": 20000}
    receipt = {
        "number": "R1",
        "code": "ABCD",
        "check_url": "https://hall.example.gov.cn/receipts/R1?code=ABCD",
        "lines": [line] * 20,
        "amount_fen": 400000,
        "refunded_fen": 0,
        "paid_at": "2026-11-23T06:00:00Z",
        "provider_name": "支付宝",
        "provider_trade_no": "2026",
        "state_name": "已缴清",
    }
    pdf = receipts.render_pdf([receipt])
    with pikepdf.open(io.BytesIO(pdf)) as document:
        assert len(document.pages) >= 2
        assert [len(page.get_images()) for page in document.pages][-1] == 1  # the code to check it stands at the end


async def test_an_order_for_two_agencies_gives_a_receipt_of_each(hall):
    resident = await hall.resident()
    cases = [hall.cases.owe(resident, amount_fen=fen, agency_id=who) for fen, who in ((4000, "sg-gaj"), (2500, "sg-rsj"), (1500, "sg-gaj"))]
    order = await hall.order(resident, *cases)
    attempt, _ = await hall.pay(order)
    await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.out_trade_no)
    await hall.until(order, "paid")
    own = await hall.payments.receipt(order.id, resident)
    year = datetime.now(SHANGHAI).year
    assert [(row["number"], row["amount_fen"], len(row["lines"])) for row in own["receipts"]] == [
        (f"RSGGAJ{year}00000001", 5500, 2),
        (f"RSGRSJ{year}00000001", 2500, 1),
    ]
    assert own["number"] == own["receipts"][0]["number"] and own["receipts"][0]["title"] == "居民身份证丢失补领等2项"
    shown = view(await hall.payments.get_order(order.id, resident))
    assert shown["receipt_number"] == own["number"]
    assert [row["number"] for row in shown["receipts"]] == [row["number"] for row in own["receipts"]]
    for row in own["receipts"]:  # each is checked by its own code, and by that alone
        assert (await hall.payments.check_receipt(row["number"], row["code"]))["amount_fen"] == row["amount_fen"]
    with pytest.raises(errors.ReceiptNotFound):
        await hall.payments.check_receipt(own["number"], own["receipts"][1]["code"])
    # One agency gives its part back: its receipt says so, the other's does not.
    refund_desk = SimpleNamespace(account="rsj-head", role="head", agency_id="sg-rsj")
    await hall.payments.refunds.request(order.id, refund_desk, amount_fen=2500, reason="多收", refund_id=new_id("rfd"))
    async with asyncio.timeout(10):
        while (own := await hall.payments.receipt(order.id, resident))["receipts"][1]["state"] != "refunded":
            await hall.payments.sweep()
            await asyncio.sleep(0.05)
    assert [(row["state"], row["refunded_fen"]) for row in own["receipts"]] == [("paid", 0), ("refunded", 2500)]
    _name, pdf = await hall.payments.receipt_pdf(order.id, resident)
    with pikepdf.open(io.BytesIO(pdf)) as document:
        assert [len(page.get_images()) for page in document.pages] == [1, 1]


async def test_an_order_paid_when_it_had_one_receipt_keeps_it(hall):
    order = await paid_order(hall)
    own = await hall.payments.receipt(order.id, order.owner_id)
    before = {"receipt_number": own["number"], "receipt_code": own["code"]}
    await hall.database["orders"].update_one({"_id": order.id}, {"$set": before, "$unset": {"receipts": ""}})
    assert (await hall.payments.receipt(order.id, order.owner_id))["number"] == own["number"]
    assert (await hall.payments.check_receipt(own["number"], own["code"]))["valid"]


async def settled(hall, count, agency_id="sg-gaj", year=2026):
    """Write receipts as settlements do, without the payments before them."""
    orders = []
    for _ in range(count):
        order = replace(await hall.order(await hall.resident()), payables=())
        at = datetime(year, 6, 1, tzinfo=UTC)
        payable = SimpleNamespace(agency_id=agency_id)
        (document,) = receipts.new_receipts(SimpleNamespace(id=order.id, owner_id="res_1", payables=(payable,)), at)
        await hall.database["receipts"].insert_one(document)
        orders.append(order)
    return orders


async def numbers(hall, series):
    rows = await hall.database["receipts"].find({"series": series}).sort("number", 1).to_list()
    return [row["number"] for row in rows]


async def test_numbers_have_no_gaps_whoever_gives_them_out(hall):
    await settled(hall, 12)
    await settled(hall, 3, agency_id="sg-rsj")
    await settled(hall, 2, year=2027)
    given = await asyncio.gather(*(hall.payments.number_receipts() for _ in range(5)))
    assert sum(given) == 17
    assert await numbers(hall, "SGGAJ2026") == [f"RSGGAJ2026{serial:08d}" for serial in range(1, 13)]
    assert await numbers(hall, "SGRSJ2026") == [f"RSGRSJ2026{serial:08d}" for serial in range(1, 4)]
    assert await numbers(hall, "SGGAJ2027") == ["RSGGAJ202700000001", "RSGGAJ202700000002"]


async def test_numbers_go_on_while_others_settle(hall):
    done = asyncio.Event()

    async def worker():
        while not done.is_set():
            await hall.payments.number_receipts()

    workers = [asyncio.create_task(worker()) for _ in range(2)]
    await asyncio.gather(*(settled(hall, 5) for _ in range(4)))
    done.set()
    await asyncio.gather(*workers)
    await hall.payments.number_receipts()
    assert await numbers(hall, "SGGAJ2026") == [f"RSGGAJ2026{serial:08d}" for serial in range(1, 21)]


async def test_death_in_the_middle_leaves_no_gap(hall, monkeypatch):
    await settled(hall, 3)

    async def killed(*_args, **_more):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(type(hall.database["orders"]), "bulk_write", killed)
        await hall.payments.number_receipts()
    assert await numbers(hall, "SGGAJ2026") == [""] * 3
    await hall.payments.number_receipts()
    assert await numbers(hall, "SGGAJ2026") == [f"RSGGAJ2026{serial:08d}" for serial in range(1, 4)]


async def test_receipts_of_before_are_still_found(hall):
    order = await paid_order(hall)
    own = await hall.payments.receipt(order.id, order.owner_id)
    old = await hall.database["receipts"].find_one({"order_id": order.id})
    await hall.database["receipts"].delete_one({"_id": old["_id"]})
    await hall.database["receipts"].insert_one({"_id": "RSGGAJ2026111234567890", "order_id": order.id, "code": own["code"]})
    assert (await hall.payments.check_receipt("RSGGAJ2026111234567890", own["code"]))["valid"]
