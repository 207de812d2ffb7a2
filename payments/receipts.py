"""Receipts: the check code made with the settlement, what the page shows, and the PDF. The number follows: receipt_numbers.py.

The check code lets anybody who holds the paper check it; the public answer names nobody.
"""

import functools
import importlib.metadata
import io
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.kernel.clock import chinese_moment, format_utc
from app.kernel.ids import new_id, random_code
from app.kernel.money import yuan_text
from app.kernel.numbers import mask_plate
from payments.model import Order, OrderState
from payments.receipt_numbers import series_of

CODE_LENGTH = 8
_PLATE = re.compile(r"[\u4e00-\u9fff][A-HJ-NP-Z][A-HJ-NP-Z0-9]{5,6}(?![A-Z0-9])")
_LONG_NUMBER = re.compile(r"\d[\dXx]{6,}")
_PROVIDER_NAMES = {"wechatpay": "微信支付", "alipay": "支付宝"}
_STATE_NAMES = {
    OrderState.PAID: "已缴清",
    OrderState.REFUNDING: "退款中",
    OrderState.REFUNDED: "已全额退款",
    OrderState.PARTLY_REFUNDED: "已部分退款",
}


def new_receipt(order: Order, now: datetime) -> dict[str, Any]:
    """Return the document of a new receipt for an order that is being settled."""
    return {
        "_id": new_id("rct"),
        "number": "",
        "series": series_of(order.agency_id, now),
        "order_id": order.id,
        "owner_id": order.owner_id,
        "code": random_code(CODE_LENGTH),
        "agency_id": order.agency_id,
        "issued_at": now,
    }


def view(order: Order, public_url: str) -> dict[str, Any]:
    """Return the receipt of a settled order as its owner sees it."""
    attempt = order.paid_attempt
    return {
        "number": order.receipt_number,
        "code": order.receipt_code,
        "check_url": check_url(order, public_url),
        "order_id": order.id,
        "title": order.title,
        "lines": [dict(line.__dict__) for line in order.lines],
        "amount_fen": order.amount_fen,
        "paid_at": format_utc(order.paid_at),
        "provider": attempt.provider if attempt else "",
        "provider_name": _PROVIDER_NAMES.get(attempt.provider, attempt.provider) if attempt else "",
        "provider_trade_no": attempt.provider_trade_no if attempt else "",
        "out_trade_no": attempt.out_trade_no if attempt else "",
        "state": str(order.state),
        "state_name": _STATE_NAMES.get(order.state, str(order.state)),
    }


def public_view(order: Order) -> dict[str, Any]:
    """Return what anybody with number and code may know: that it is real, for what, how much, when. Nobody's name, no order id."""
    return {
        "number": order.receipt_number,
        "valid": True,
        "title": _masked(order.title),
        "lines": [{**line.__dict__, "title": _masked(line.title)} for line in order.lines],
        "amount_fen": order.amount_fen,
        "paid_at": format_utc(order.paid_at),
        "state": str(order.state),
        "state_name": _STATE_NAMES.get(order.state, str(order.state)),
    }


def _masked(title: str) -> str:
    """Return a title as strangers may read it: a department may have put a plate or an account number into it."""
    title = _PLATE.sub(lambda match: mask_plate(match[0]), title)
    return _LONG_NUMBER.sub(lambda match: f"{match[0][:2]}***{match[0][-2:]}", title)


def check_url(order: Order, public_url: str) -> str:
    return f"{public_url}/receipts/{order.receipt_number}?code={order.receipt_code}"


@functools.cache
def font_path() -> str:
    """Return where the Chinese font of the package pylopdf-fonts-zh-cn lies (Noto Sans SC, OFL)."""
    for file in importlib.metadata.files("pylopdf-fonts-zh-cn") or ():
        if file.name == "NotoSansSC-Regular.otf":
            return str(file.locate())
    raise RuntimeError("package pylopdf-fonts-zh-cn has no NotoSansSC-Regular.otf")


def render_pdf(receipt: Mapping[str, Any], paid_at: datetime) -> bytes:
    """Return the receipt as an A5 PDF with a QR that leads to the public check.

    Takes a quarter of a second of CPU (the font is cut down to the characters used): run it in an executor.
    """
    import segno
    from fpdf import FPDF
    from fpdf.enums import XPos, YPos

    pdf = FPDF(format=(148, 210), orientation="landscape", unit="mm")  # A5
    pdf.set_title(f"缴费收据 {receipt['number']}")
    pdf.set_lang("zh-CN")
    pdf.set_creation_date(paid_at)
    pdf.set_auto_page_break(True, margin=12)
    pdf.add_font("noto", fname=font_path())
    pdf.add_page()
    below = {"new_x": XPos.LMARGIN, "new_y": YPos.NEXT}
    pdf.set_font("noto", size=18)
    pdf.cell(0, 12, "韶关掌上办事大厅 缴费收据", align="C", **below)
    pdf.set_font("noto", size=10)
    pdf.cell(0, 7, f"收据号：{receipt['number']}    核验码：{receipt['code']}", align="C", **below)
    pdf.ln(3)
    with pdf.table(col_widths=(5, 4, 2), text_align=("LEFT", "LEFT", "RIGHT"), first_row_as_headings=False) as table:
        for cells in [
            ("缴费项目", "收款单位", "金额（元）"),
            *((line["title"], line["payee"], yuan_text(line["amount_fen"])) for line in receipt["lines"]),
            ("合计", "", yuan_text(receipt["amount_fen"])),
        ]:
            row = table.row()
            for cell in cells:
                row.cell(cell)
    pdf.ln(3)
    for text in (
        f"缴费时间：{chinese_moment(paid_at)}",
        f"支付方式：{receipt['provider_name']}    交易号：{receipt['provider_trade_no']}",
        f"状态：{receipt['state_name']}",
    ):
        pdf.cell(0, 6, text, **below)
    image = io.BytesIO()
    segno.make(receipt["check_url"], error="m", micro=False).save(image, kind="png", scale=8, border=2)
    image.seek(0)
    size_mm = 30
    if pdf.get_y() + size_mm > pdf.eph + pdf.t_margin:
        pdf.add_page()
    top = pdf.get_y() + 1
    pdf.image(image, x=pdf.l_margin, y=top, w=size_mm, alt_text="核验二维码")
    pdf.set_xy(pdf.l_margin + size_mm + 4, top + 8)
    pdf.multi_cell(0, 6, "扫描左侧二维码可核验本收据真伪。\n本收据由系统自动出具；如需财政票据，请向收款单位索取。")
    return bytes(pdf.output())
