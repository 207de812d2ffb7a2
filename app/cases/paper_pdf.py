"""A paper of a case as PDF (A4): title, number, to whom, rows, paragraphs, whose it is and the day, and the code of the public check."""

from collections.abc import Mapping
from typing import Any

from app.kernel.clock import chinese_day, shanghai_day
from app.kernel.pdf import QR_MM, draw_check, new_pdf

_LABEL_MM, _LINE_MM = 46, 7
_LABEL_ROOM_MM = 30  # the longest label, on one page


def render(shown: Mapping[str, Any]) -> bytes:
    """Return the PDF of a stored paper with its words opened and its `check_url`. Some 0.3 s of CPU: run it in an executor."""
    from fpdf.enums import WrapMode, XPos, YPos

    pdf = new_pdf(f"{shown['title']} {shown['_id']}", shown["issued_at"], size_mm=(210, 297), orientation="portrait")
    pdf.set_margins(22, 20)
    pdf.set_auto_page_break(True, margin=18)
    pdf.add_page()
    pdf.number = shown["_id"]
    below = {"new_x": XPos.LMARGIN, "new_y": YPos.NEXT}

    def write(text: str, size: int = 11, align: str = "L", height: float = _LINE_MM) -> None:
        pdf.set_font("noto", size=size)
        pdf.multi_cell(0, height, text, align=align, wrapmode=WrapMode.CHAR, **below)

    write("韶关掌上办事大厅", 13, "C", 9)
    write(shown["title"], 22, "C", 14)
    write(f"编号：{shown['_id']}", 9, "R", 6)
    pdf.ln(3)
    if shown["to"]:
        write(f"{shown['to']}：", 12)
        pdf.ln(1)
    for label, value in shown["rows"]:
        _draw_row(pdf, label, value)
    pdf.ln(4)
    for paragraph in filter(None, shown["paragraphs"]):
        write(paragraph)
        pdf.ln(1)
    if pdf.get_y() + 2 * _LINE_MM + QR_MM + 8 > pdf.h - pdf.b_margin:  # who, when and the code stay together
        pdf.add_page()
    pdf.ln(3)
    write(shown["signed"], 12, "R")
    write(chinese_day(shanghai_day(shown["issued_at"])), 12, "R")
    draw_check(pdf, shown["check_url"], f"扫描左侧二维码可核验本文书真伪和是否有效。\n核验码：{shown['code']}")
    return bytes(pdf.output())


def _draw_row(pdf: Any, label: str, value: str) -> None:
    """Draw label and value side by side above a thin line; a value as long as the form allows goes on over further pages."""
    from fpdf.enums import WrapMode, XPos, YPos

    if pdf.get_y() + _LABEL_ROOM_MM > pdf.h - pdf.b_margin:
        pdf.add_page()
    page, top = pdf.page, pdf.get_y() + 1
    words = {"h": 6, "align": "L", "wrapmode": WrapMode.CHAR, "new_x": XPos.LMARGIN, "new_y": YPos.NEXT}
    pdf.set_font("noto", size=10.5)
    pdf.set_text_color(90)
    pdf.set_xy(pdf.l_margin, top)
    pdf.multi_cell(_LABEL_MM, text=label, **words)
    label_end = pdf.get_y()
    pdf.set_text_color(0)
    pdf.set_xy(pdf.l_margin + _LABEL_MM, top)
    pdf.multi_cell(0, text=value, **words)
    end = max(label_end, pdf.get_y()) if pdf.page == page else pdf.get_y()
    pdf.set_draw_color(200)
    pdf.line(pdf.l_margin, end + 1, pdf.w - pdf.r_margin, end + 1)
    pdf.set_y(end + 1)
