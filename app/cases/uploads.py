"""Uploaded files: judged by content, never by name; images are turned upright and re-encoded, PDFs are looked through."""

import asyncio
import hashlib
import io
from dataclasses import dataclass

import filetype
import pikepdf
from PIL import Image, ImageOps, UnidentifiedImageError

from app.cases.errors import FileBroken, FileRefused, FileTooLarge

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_FILES = 9
MAX_PAGES = 50
MAX_PIXELS = 25_000_000
MAX_SIDE = 4096

ACCEPTED = "JPG、PNG、WEBP 图片或 PDF"

_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
# Places in a PDF from which a viewer runs or opens something by itself.
_ACTIVE = ("/OpenAction", "/AA", "/JavaScript", "/JS", "/Launch", "/EmbeddedFiles", "/RichMedia", "/XFA")

_ACTIVE_ACTIONS = (pikepdf.Name.JavaScript, pikepdf.Name.Launch, pikepdf.Name.SubmitForm, pikepdf.Name.ImportData)

Image.MAX_IMAGE_PIXELS = MAX_PIXELS


@dataclass(frozen=True)
class Upload:
    """A file that may be kept."""

    name: str
    content_type: str
    content: bytes
    sha256: str


# A picture of 25 megapixels takes some hundred megabytes while it is judged.
_AT_ONCE = asyncio.Semaphore(2)


async def judge_upload(name: str, content: bytes) -> Upload:
    """Judge a file off the loop, two at a time. Raises like check_upload."""
    async with _AT_ONCE:
        return await asyncio.to_thread(check_upload, name, content)


def check_upload(name: str, content: bytes) -> Upload:
    """Judge a file and return what is to be stored. CPU work (up to about a second): call it in a thread.

    Raises:
        FileTooLarge, FileRefused (kind not accepted), FileBroken (cannot be opened, active PDF, too many pages or pixels).
    """
    if len(content) > MAX_FILE_BYTES:
        raise FileTooLarge("文件超过10MB，请压缩后再传。", en="The file is larger than 10 MB.")
    if not content:
        raise FileBroken("文件是空的，请重新选择。", en="The file is empty.")
    kind = filetype.guess(content)
    mime = kind.mime if kind else ""
    if mime in _FORMATS:
        content = _clean_image(content, _FORMATS[mime])
    elif mime == "application/pdf":
        _check_pdf(content)
    else:
        raise FileRefused(f"只能上传{ACCEPTED}。", en="Only JPG, PNG, WEBP or PDF is accepted.")
    return Upload(_clean_name(name), mime, content, hashlib.sha256(content).hexdigest())


def _clean_name(name: str) -> str:
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(character for character in name if character.isprintable() and character not in '"<>|:*?')
    return name.strip(". ")[-80:] or "未命名"


def _clean_image(content: bytes, form: str) -> bytes:
    try:
        with Image.open(io.BytesIO(content), formats=[form]) as image:
            if image.width * image.height > MAX_PIXELS:  # a small file can claim any size: ask before decoding
                raise FileBroken("图片尺寸太大，请用手机相机重拍或压缩后再传。", en="The image has too many pixels.")
            image.draft(None, (MAX_SIDE, MAX_SIDE))  # a JPEG is decoded at the size that is kept
            image.thumbnail((MAX_SIDE, MAX_SIDE))
            upright = ImageOps.exif_transpose(image)
            if form == "JPEG" and upright.mode not in ("RGB", "L"):
                upright = upright.convert("RGB")
            out = io.BytesIO()
            # Re-encoding leaves behind metadata (place, device) and whatever was hidden after the picture.
            upright.save(out, form, **({"quality": 88} if form != "PNG" else {"optimize": False}))
            return out.getvalue()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileBroken("图片打不开，请重新拍照或换一张。", en="The image cannot be opened.") from error


def _check_pdf(content: bytes) -> None:
    try:
        with pikepdf.open(io.BytesIO(content)) as pdf:
            if pdf.is_encrypted:
                raise FileBroken("PDF 有密码，请去掉密码后再传。", en="The PDF is encrypted.")
            if len(pdf.pages) > MAX_PAGES:
                raise FileBroken(f"PDF 超过{MAX_PAGES}页，请分开上传。", en=f"The PDF has more than {MAX_PAGES} pages.")
            places = [pdf.Root, pdf.Root.get("/Names", {}), pdf.Root.get("/AcroForm", {})]
            for page in pdf.pages:
                places.append(page.obj)
                for note in page.obj.get("/Annots", []):
                    places += [note, note.get("/A", {})]
            if any(key in place or place.get("/S") in _ACTIVE_ACTIONS for key in _ACTIVE for place in places):
                raise FileBroken("PDF 里有脚本或附件，请打印成普通 PDF 后再传。", en="The PDF holds scripts or attachments.")
    except pikepdf.PasswordError as error:
        raise FileBroken("PDF 有密码，请去掉密码后再传。", en="The PDF is encrypted.") from error
    except (pikepdf.PdfError, ValueError, TypeError) as error:
        raise FileBroken("PDF 打不开，请换一个文件。", en="The PDF cannot be opened.") from error
