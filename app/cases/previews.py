"""What clerks look at: pages of an uploaded file as pictures with a watermark that says who looks, when, and what for.

A picture that leaks names its leak; the original is given only when somebody asks for it. Runs in a process of its own (isolation.py).
"""

import io
from typing import Any

import pypdfium2
from PIL import Image, ImageDraw, ImageFont

from app.kernel.pdf import font_path

LONGEST_SIDE = 1600  # enough to read an identity card on; more only takes time
_QUALITY = 80
_OPACITY = 60  # of 255: read through, and not to be cut away
_LETTER = 1 / 42  # of the longest side


def draw(content: bytes, content_type: str, page: int, mark: str) -> tuple[dict[str, Any], bytes]:
    """Return ({"pages"}, JPEG) of a page, counted from 1, or ({"problem": "page" | "broken", "pages"}, b"")."""
    if content_type == "application/pdf":
        try:
            with pypdfium2.PdfDocument(content) as document:
                pages = len(document)
                if not 1 <= page <= pages:
                    return {"problem": "page", "pages": pages}, b""
                one = document[page - 1]
                scale = min(LONGEST_SIDE / max(one.get_width(), one.get_height(), 1), 4.0)
                picture = one.render(scale=scale, may_draw_forms=False).to_pil().convert("RGB")
        except pypdfium2.PdfiumError:
            return {"problem": "broken", "pages": 0}, b""
    else:
        pages = 1
        if page != 1:
            return {"problem": "page", "pages": 1}, b""
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
                picture = _on_white(image)
        except (OSError, SyntaxError, ValueError):
            return {"problem": "broken", "pages": 0}, b""
    out = io.BytesIO()
    _marked(picture, mark).save(out, "JPEG", quality=_QUALITY)
    return {"pages": pages}, out.getvalue()


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        paper = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(paper, clear).convert("RGB")
    return image.convert("RGB")


def _marked(picture: Image.Image, mark: str) -> Image.Image:
    # Small pictures are enlarged first: words of a readable size must fit on them.
    least = 600
    if max(picture.size) < least:
        factor = least / max(picture.size)
        picture = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))))
    letter = max(14, round(max(picture.size) * _LETTER))
    font = ImageFont.truetype(font_path(), letter)
    left, top, right, bottom = font.getbbox(mark)
    width, height = int(right - left), int(bottom - top)
    side = int((picture.width**2 + picture.height**2) ** 0.5) + width
    layer = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(layer)
    for row, y in enumerate(range(0, side, height * 6)):
        for x in range(-(row % 2) * width // 2, side, width + letter * 3):
            pen.text((x, y), mark, fill=_OPACITY * 2, font=font)
    turned = layer.rotate(30, resample=Image.Resampling.BILINEAR)
    begin_x, begin_y = (side - picture.width) // 2, (side - picture.height) // 2
    mask = turned.crop((begin_x, begin_y, begin_x + picture.width, begin_y + picture.height))
    # Red on light, and still seen on dark: half way between.
    picture.paste(Image.new("RGB", picture.size, (200, 40, 40)), mask=mask)
    return picture
