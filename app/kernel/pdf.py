"""What every paper of the hall shares as PDF: the Chinese font, its number on each page, and the code that leads to its public check.

fpdf2 and segno are loaded by whoever draws: drawing takes a quarter of a second of CPU (the font is cut down to the characters used) and
belongs in an executor.
"""

import functools
import importlib.metadata
import io
import unicodedata
from datetime import datetime
from typing import Any

from app.kernel.text import without_unseen

QR_MM = 30


@functools.cache
def font_path() -> str:
    """Return where the Chinese font of the package pylopdf-fonts-zh-cn lies (Noto Sans SC, OFL)."""
    for file in importlib.metadata.files("pylopdf-fonts-zh-cn") or ():
        if file.name == "NotoSansSC-Regular.otf":
            return str(file.locate())
    raise RuntimeError("package pylopdf-fonts-zh-cn has no NotoSansSC-Regular.otf")


@functools.cache
def _drawable() -> frozenset[int]:
    """Return the code points for which the font has a shape."""
    from fontTools.ttLib import TTFont

    with TTFont(font_path(), lazy=True) as font:
        return frozenset(font.getBestCmap())


def drawn(text: str) -> str:
    """Return a text as the font can draw it: what nobody sees is left out, a character without a shape stands as its code, ［U+20BB7］.

    A rare character of a name must not vanish from a paper: by its code it can be looked up and written by hand.
    """
    known = _drawable()
    plain = without_unseen(text).replace("\t", "    ").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        one if ord(one) in known or one == "\n" else "" if unicodedata.category(one) in ("Cf", "Cn", "Cs", "Mn") else f"［U+{ord(one):04X}］"
        for one in plain
    )


def new_pdf(title: str, at: datetime, *, size_mm: tuple[float, float], orientation: str) -> Any:
    """Return an empty FPDF in the hall's font; what its attribute `number` says when a page ends stands at that page's foot."""
    from fpdf import FPDF

    class Paper(FPDF):
        number = ""  # of the paper that is being drawn: it stands on every page, also where a long one goes on

        def normalize_text(self, text: str) -> str:
            return str(super().normalize_text(drawn(text)))

        def footer(self) -> None:
            self.set_y(-10)
            self.set_font("noto", size=8)
            self.cell(0, 5, self.number, align="R")

    pdf = Paper(format=size_mm, orientation=orientation, unit="mm")
    pdf.set_title(title)
    pdf.set_lang("zh-CN")
    pdf.set_creation_date(at)
    pdf.set_auto_page_break(True, margin=12)
    pdf.add_font("noto", fname=font_path())
    return pdf


def draw_check(pdf: Any, url: str, text: str) -> None:
    """Draw the QR of a public check (also a link, for whoever reads on a screen) with a few words beside it."""
    import segno

    image = io.BytesIO()
    segno.make(url, error="m", micro=False).save(image, kind="png", scale=8, border=2)
    image.seek(0)
    top = pdf.get_y() + 1
    pdf.image(image, x=pdf.l_margin, y=top, w=QR_MM, alt_text="核验二维码", link=url)
    pdf.set_xy(pdf.l_margin + QR_MM + 4, top + 8)
    pdf.multi_cell(0, 6, text)
