"""Receipts: who sees what, the PDF, and the check by strangers."""

import asyncio
import io

import pikepdf
import pytest

from app.kernel.clock import utc_now
from payments import errors, receipts


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
        "provider_name": "支付宝",
        "provider_trade_no": "2026",
        "state_name": "已缴清",
    }
    with pikepdf.open(io.BytesIO(receipts.render_pdf(receipt, utc_now()))) as document:
        assert len(document.pages) >= 2


async def test_numbers_are_unique(hall):
    orders = [await hall.order(await hall.resident()) for _ in range(50)]
    numbers = {receipts.new_receipt(order, utc_now())["_id"] for order in orders}
    assert len(numbers) == 50
    assert all(number.isalnum() and len(number) <= 40 for number in numbers)
