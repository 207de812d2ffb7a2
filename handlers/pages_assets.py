"""Style, modules and icons of the pages, with a content hash in each address, so that a browser keeps them for good."""

import functools
import hashlib
from pathlib import Path

WEB = Path(__file__).resolve().parent.parent / "web"
TEMPLATES = WEB / "templates"
STATIC = WEB / "static"
ICONS = WEB / "icons"


def asset(name: str) -> str:
    """Return the address of a static file: `/static/hall.css?v=1f9a20c3`."""
    path = STATIC / name
    return f"/static/{name}?v={_digest(path, path.stat().st_mtime_ns)}"


@functools.cache
def _digest(path: Path, _modified_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


@functools.cache
def icon(name: str) -> str:
    """Return one of our icons as inline SVG: decoration, hidden from screen readers. Trusted: templates write it raw."""
    drawing = (ICONS / f"{name}.svg").read_text().strip()
    return drawing.replace("<svg ", '<svg class="icon" aria-hidden="true" focusable="false" ', 1)
