"""Looking through a PDF: whether it opens, how many pages, and whether anything in it acts by itself. Runs in a process of its own.

A PDF is kept byte by byte: many carry a seal or a signature, which any rewriting would break. So what may not be in it is refused.
"""

import io
from collections.abc import Iterator
from typing import Any

import pikepdf

# Keys that hold something that runs or another file, wherever they stand; and what an action may not be.
_ACTIVE_KEYS = frozenset({"/JavaScript", "/JS", "/EmbeddedFiles", "/EmbeddedFile", "/EF", "/RichMedia", "/RichMediaContent", "/XFA"})
_ACTIVE_ACTIONS = frozenset({"/JavaScript", "/Launch", "/SubmitForm", "/ImportData", "/Rendition", "/Movie", "/Sound", "/GoToE", "/GoTo3DView"})
_DEEPEST = 60
_TRAILING_BYTES = 1024  # after the last %%EOF a producer may leave a little; another file is more


def check_pdf(content: bytes, max_pages: int) -> tuple[dict[str, Any], bytes]:
    """Return ({"pages"}, b""), or ({"problem"}, b""): encrypted, pages, active, trailing, broken."""
    if b"%PDF-" not in content[:1024] or content.find(b"%PDF-") > 0:
        return {"problem": "trailing"}, b""  # something else stands before it
    end = content.rfind(b"%%EOF")
    if end >= 0 and len(content) - end > _TRAILING_BYTES:
        return {"problem": "trailing"}, b""
    try:
        with pikepdf.open(io.BytesIO(content)) as pdf:
            if pdf.is_encrypted:
                return {"problem": "encrypted"}, b""
            pages = len(pdf.pages)
            if pages > max_pages:
                return {"problem": "pages"}, b""
            if pages == 0:
                return {"problem": "broken"}, b""
            if any(_is_active(each) for each in pdf.objects):
                return {"problem": "active"}, b""
            return {"pages": pages}, b""
    except pikepdf.PasswordError:
        return {"problem": "encrypted"}, b""
    except (pikepdf.PdfError, ValueError, TypeError, RuntimeError):
        return {"problem": "broken"}, b""


def _is_active(thing: Any) -> bool:
    # Every object of the file is looked at on its own, so what one points to need not be followed.
    for dictionary in _dictionaries(thing, 0):
        keys = set(dictionary.keys())
        if keys & _ACTIVE_KEYS:
            return True
        kind = dictionary.get("/S")
        if isinstance(kind, pikepdf.Name) and str(kind) in _ACTIVE_ACTIONS:
            return True
        subtype = dictionary.get("/Subtype")
        if isinstance(subtype, pikepdf.Name) and str(subtype) in ("/RichMedia", "/FileAttachment", "/Screen", "/3D"):
            return True
    return False


def _dictionaries(thing: Any, depth: int) -> Iterator[Any]:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if depth and getattr(thing, "is_indirect", False):
        return
    if isinstance(thing, (pikepdf.Dictionary, pikepdf.Stream)):
        yield thing
        values = [value for _key, value in thing.items()]
    elif isinstance(thing, pikepdf.Array):
        values = list(thing)
    else:
        return
    for value in values:
        if isinstance(value, (pikepdf.Dictionary, pikepdf.Array)):
            yield from _dictionaries(value, depth + 1)
