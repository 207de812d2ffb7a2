"""Uploaded files: judged by content, never by name; images are turned upright and re-encoded, PDFs are looked through."""

import asyncio
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import filetype
from PIL import Image, ImageOps, UnidentifiedImageError

from app.cases import isolation
from app.cases.errors import FileBroken, FileRefused, FileTooLarge

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_FILES = 9
MAX_PAGES = 50
MAX_PIXELS = 25_000_000
MAX_SIDE = 4096

ACCEPTED = "JPG、PNG、WEBP 图片或 PDF"

_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
_PDF = "application/pdf"

# What every material is told to take, before anything is sent (the API's `limits`).
LIMITS: Mapping[str, Any] = {
    "accept": [*_FORMATS, _PDF],
    "max_bytes": MAX_FILE_BYTES,
    "max_files": MAX_FILES,
    "max_pages": MAX_PAGES,
    "max_pixels": MAX_PIXELS,
}
SPOKEN_LIMITS = (
    f"可以拍照，也可以选文件：{ACCEPTED}；每个不超过{MAX_FILE_BYTES // 2**20}MB，每项最多{MAX_FILES}个；"
    f"PDF 不超过{MAX_PAGES}页，图片不超过{MAX_PIXELS // 10_000}万像素。"
)

Image.MAX_IMAGE_PIXELS = MAX_PIXELS


@dataclass(frozen=True)
class Upload:
    """A file that may be kept. `pages` is None for a picture."""

    name: str
    content_type: str
    content: bytes
    sha256: str
    pages: int | None = None


# A picture of 25 megapixels takes some hundred megabytes while it is judged.
_AT_ONCE = asyncio.Semaphore(2)


async def judge_upload(name: str, content: bytes) -> Upload:
    """Judge a file off the loop and return what is to be stored: pictures in a thread, PDFs in a process of their own, two at a time.

    Raises:
        FileTooLarge, FileRefused (kind not accepted), FileBroken (cannot be opened, active PDF, too many pages or pixels).
    """
    mime = _kind_of(content)
    if mime == _PDF:
        pages = await _pages_of(content)
        return Upload(_clean_name(name), mime, content, hashlib.sha256(content).hexdigest(), pages)
    async with _AT_ONCE:
        content, mime = await asyncio.to_thread(_clean_image, content, mime)
    return Upload(_clean_name(name), mime, content, hashlib.sha256(content).hexdigest())


def require_size(size: int) -> None:
    """Raise FileTooLarge or FileBroken for a size that cannot be kept, however it was told."""
    if size > MAX_FILE_BYTES:
        raise FileTooLarge("文件超过10MB，请压缩后再传。", en="The file is larger than 10 MB.")
    if size < 1:
        raise FileBroken("文件是空的，请重新选择。", en="The file is empty.")


def _kind_of(content: bytes) -> str:
    require_size(len(content))
    kind = filetype.guess(content)
    mime = kind.mime if kind else ""
    if mime not in LIMITS["accept"]:
        raise FileRefused(f"只能上传{ACCEPTED}。", en="Only JPG, PNG, WEBP or PDF is accepted.")
    return mime


def _clean_name(name: str) -> str:
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(character for character in name if character.isprintable() and character not in '"<>|:*?')
    return name.strip(". ")[-80:] or "未命名"


def _clean_image(content: bytes, mime: str) -> tuple[bytes, str]:
    form = _FORMATS[mime]
    try:
        with Image.open(io.BytesIO(content), formats=[form]) as image:
            if image.width * image.height > MAX_PIXELS:  # a small file can claim any size: ask before decoding
                raise FileBroken(
                    f"图片超过{MAX_PIXELS // 10_000}万像素，请用手机相机重拍或压缩后再传。", en="The image has too many pixels."
                )
            image.draft(None, (MAX_SIDE, MAX_SIDE))  # a JPEG is decoded at the size that is kept
            image.thumbnail((MAX_SIDE, MAX_SIDE))
            upright = ImageOps.exif_transpose(image)
            # Re-encoding leaves behind metadata (place, device) and whatever was hidden after the picture.
            clean = _encoded(upright, form)
            if len(clean) > MAX_FILE_BYTES:  # a photo kept as PNG grows: what is stored obeys the limit too
                return _encoded(upright, "JPEG"), "image/jpeg"
            return clean, mime
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileBroken("图片打不开，请重新拍照或换一张。", en="The image cannot be opened.") from error


def _encoded(image: Image.Image, form: str) -> bytes:
    if form == "JPEG" and image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    image.info = {}  # PNG and WEBP would write text, profiles and EXIF back
    out = io.BytesIO()
    image.save(out, form, **({"quality": 88} if form != "PNG" else {"optimize": False}))
    return out.getvalue()


_PDF_PROBLEMS = {
    "encrypted": ("PDF 有密码，请去掉密码后再传。", "The PDF is encrypted."),
    "pages": (f"PDF 超过{MAX_PAGES}页，请分开上传。", f"The PDF has more than {MAX_PAGES} pages."),
    "active": ("PDF 里有脚本或附件，请打印成普通 PDF 后再传。", "The PDF holds scripts or attachments."),
    "trailing": ("PDF 里夹带了别的文件，请打印成普通 PDF 后再传。", "Another file hides before or behind the PDF."),
    "broken": ("PDF 打不开，请换一个文件。", "The PDF cannot be opened."),
}


async def _pages_of(content: bytes) -> int:
    try:
        found, _ = await isolation.run("check_pdf", content, {"max_pages": MAX_PAGES})
    except isolation.Failed:
        found = {"problem": "broken"}
    if "problem" in found:
        detail, english = _PDF_PROBLEMS[found["problem"]]
        raise FileBroken(detail, en=english)
    return int(found["pages"])
