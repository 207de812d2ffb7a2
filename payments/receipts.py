"""Receipts: the check code made with the settlement, what the page shows, and the PDF. The number follows: receipt_numbers.py.

The check code lets anybody who holds the paper check it; the public answer names nobody.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.kernel.clock import chinese_moment, format_utc, parse_utc
from app.kernel.ids import new_id, random_code
from app.kernel.money import yuan_text
from app.kernel.numbers import mask_plate
from app.kernel.pdf import QR_MM, draw_check, new_pdf
from payments.model import Line, Order, OrderState, Receipt, total_fen
from payments.receipt_numbers import series_of
from payments.refund import ON_ITS_WAY, RefundState

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


def new_receipts(order: Order, now: datetime) -> tuple[dict[str, Any], ...]:
    """Return the documents of the receipts of an order that is being settled: one per agency that gets money from it."""
    return tuple(
        {
            "_id": new_id("rct"),
            "number": "",
            "series": series_of(agency_id, now),
            "order_id": order.id,
            "owner_id": order.owner_id,
            "code": random_code(CODE_LENGTH),
            "agency_id": agency_id,
            "issued_at": now,
        }
        for agency_id in dict.fromkeys(payable.agency_id for payable in order.payables)
    )


def known_receipt(document: Mapping[str, Any]) -> Receipt:
    """Return what the order keeps of a new receipt."""
    return Receipt(id=document["_id"], agency_id=document["agency_id"], code=document["code"])


def lines_of(order: Order, receipt: Receipt) -> tuple[Line, ...]:
    """Return the lines that a receipt is for: those of its agency."""
    if len(order.receipts) == 1:
        return order.lines
    return tuple(line for line in order.lines if line.agency_id == receipt.agency_id)


def _state_of(order: Order, receipt: Receipt) -> tuple[OrderState, int]:
    """Return how things stand with the money of one receipt, and how much of it went back, in fen."""
    attempt = order.paid_attempt
    own = [r for r in order.refunds if attempt and r.attempt_id == attempt.id]
    if len(order.receipts) > 1:
        own = [refund for refund in own if refund.agency_id == receipt.agency_id]
    returned_fen = sum(refund.amount_fen for refund in own if refund.state is RefundState.SUCCEEDED)
    if len(order.receipts) == 1:
        return order.state, returned_fen
    if returned_fen >= total_fen(lines_of(order, receipt)):
        return OrderState.REFUNDED, returned_fen
    if any(refund.state in ON_ITS_WAY for refund in own):
        return OrderState.REFUNDING, returned_fen
    return (OrderState.PARTLY_REFUNDED if returned_fen else OrderState.PAID), returned_fen


def _title(order: Order, receipt: Receipt) -> str:
    if len(order.receipts) == 1:
        return order.title
    titles = [payable.title for payable in order.payables if payable.agency_id == receipt.agency_id]
    return titles[0] if len(titles) == 1 else f"{titles[0]}等{len(titles)}项"


def line_view(line: Line) -> dict[str, Any]:
    """Return a line as the API gives it; `paid_for` is there when the money is for somebody who was named."""
    shown: dict[str, Any] = {"title": line.title, "amount_fen": line.amount_fen, "payee": line.payee}
    return shown | ({"paid_for": line.paid_for} if line.paid_for else {})


def view(order: Order, receipt: Receipt, public_url: str) -> dict[str, Any]:
    """Return a receipt of a settled order as its owner sees it."""
    attempt = order.paid_attempt
    lines = lines_of(order, receipt)
    state, returned_fen = _state_of(order, receipt)
    return {
        "number": receipt.number,
        "code": receipt.code,
        "check_url": f"{public_url}/receipts/{receipt.number}?code={receipt.code}",
        "order_id": order.id,
        "title": _title(order, receipt),
        "lines": [line_view(line) for line in lines],
        "amount_fen": total_fen(lines),
        "refunded_fen": returned_fen,
        "paid_at": format_utc(order.paid_at),
        "provider": attempt.provider if attempt else "",
        "provider_name": _PROVIDER_NAMES.get(attempt.provider, attempt.provider) if attempt else "",
        "provider_trade_no": attempt.provider_trade_no if attempt else "",
        "out_trade_no": attempt.out_trade_no if attempt else "",
        "state": str(state),
        "state_name": _STATE_NAMES.get(state, str(state)),
    }


def public_view(order: Order, receipt: Receipt) -> dict[str, Any]:
    """Return what anybody with number and code may know: that it is real, for what, how much, when. Nobody's name, no order id."""
    lines = lines_of(order, receipt)
    state, returned_fen = _state_of(order, receipt)
    return {
        "number": receipt.number,
        "valid": True,
        "title": _masked(_title(order, receipt)),
        "lines": [{"title": _masked(line.title), "amount_fen": line.amount_fen, "payee": line.payee} for line in lines],
        "amount_fen": total_fen(lines),
        "refunded_fen": returned_fen,
        "paid_at": format_utc(order.paid_at),
        "state": str(state),
        "state_name": _STATE_NAMES.get(state, str(state)),
    }


def _masked(title: str) -> str:
    """Return a title as strangers may read it: a department may have put a plate or an account number into it."""
    title = _PLATE.sub(lambda match: mask_plate(match[0]), title)
    return _LONG_NUMBER.sub(lambda match: f"{match[0][:2]}***{match[0][-2:]}", title)


def render_pdf(shown: Sequence[Mapping[str, Any]]) -> bytes:
    """Return receipts (of `view`) as A5 pages, each with a QR that leads to its public check.

    Takes a quarter of a second of CPU (the font is cut down to the characters used): run it in an executor.
    """
    title = f"缴费收据 {'、'.join(receipt['number'] for receipt in shown)}"
    pdf = new_pdf(title, parse_utc(shown[0]["paid_at"]), size_mm=(148, 210), orientation="landscape")  # A5
    for receipt in shown:
        pdf.add_page()  # which ends the page before, with the number of that receipt
        pdf.number = receipt["number"]
        _draw(pdf, receipt)
    return bytes(pdf.output())


def _draw(pdf: Any, receipt: Mapping[str, Any]) -> None:
    """Draw one receipt; a long one goes on over further pages."""
    from fpdf.enums import WrapMode, XPos, YPos
    from fpdf.fonts import FontFace

    below = {"new_x": XPos.LMARGIN, "new_y": YPos.NEXT}
    pdf.set_font("noto", size=18)
    pdf.cell(0, 12, "韶关掌上办事大厅 缴费收据", align="C", **below)
    pdf.set_font("noto", size=10)
    pdf.cell(0, 7, f"收据号：{receipt['number']}    核验码：{receipt['code']}", align="C", **below)
    pdf.ln(3)
    # The heading is repeated where a long list goes on.
    with pdf.table(
        col_widths=(5, 4, 2),
        text_align=("LEFT", "LEFT", "RIGHT"),
        headings_style=FontFace(emphasis=None),
        repeat_headings=1,
        wrapmode=WrapMode.CHAR,  # Chinese breaks anywhere
    ) as table:
        for cells in [
            ("缴费项目", "收款单位", "金额（元）"),
            *((_line_title(line), line["payee"], yuan_text(line["amount_fen"])) for line in receipt["lines"]),
            ("合计", "", yuan_text(receipt["amount_fen"])),
        ]:
            row = table.row()
            for cell in cells:
                row.cell(cell)
    pdf.ln(3)
    if pdf.get_y() + 3 * 6 + 1 + QR_MM > pdf.h - pdf.b_margin:  # what follows stays together
        pdf.add_page()
    returned = f"（已退 {yuan_text(receipt['refunded_fen'])} 元）" if receipt["refunded_fen"] else ""
    for text in (
        f"缴费时间：{chinese_moment(parse_utc(receipt['paid_at']))}",
        f"支付方式：{receipt['provider_name']}    交易号：{receipt['provider_trade_no']}",
        f"状态：{receipt['state_name']}{returned}",
    ):
        pdf.cell(0, 6, text, **below)
    draw_check(pdf, receipt["check_url"], "扫描左侧二维码可核验本收据真伪。\n本收据由系统自动出具；如需财政票据，请向收款单位索取。")


def _line_title(line: Mapping[str, Any]) -> str:
    return f"{line['title']}（为{line['paid_for']}缴）" if line.get("paid_for") else str(line["title"])
