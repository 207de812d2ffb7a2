"""What a publication changes for those who follow an item: opened, changed, closed. Pure: two lists of items in, rows out."""

from collections.abc import Iterable, Mapping
from typing import Any

OPENED, CHANGED, CLOSED = EVENTS = ("item.opened", "item.changed", "item.closed")

# What a person cares about, and the fields of an item that it is. Search words, ranks, rules of the office and the like are no news.
PARTS: Mapping[str, tuple[str, ...]] = {
    "materials": ("materials",),
    "fees": ("fees",),
    "form": ("form", "rules", "situations"),
    "conditions": ("conditions",),
    "limits": ("promised_limit", "legal_limit"),
    "channels": ("channels", "accept_levels", "visits"),
    "periods": ("periods",),
    "steps": ("steps", "special_procedures"),
    "summary": ("name", "summary"),
}

Item = Mapping[str, Any]


def changes(before: Iterable[Item], after: Iterable[Item]) -> list[dict[str, Any]]:
    """Return what became of each item that is another now: {event, code, alias, item_name, themes, parts}, in the order of the items.

    An item that only its office sees as changed is left out; one that is withdrawn, or gone from the files, is closed.
    """
    old = {item["code"]: item for item in before if item["status"] == "published"}
    new = {item["code"]: item for item in after if item["status"] == "published"}
    found = [_row(CLOSED, item) for code, item in old.items() if code not in new]
    for code, item in new.items():
        if code not in old:
            found.append(_row(OPENED, item))
        elif parts := [part for part, names in PARTS.items() if any(item.get(name) != old[code].get(name) for name in names)]:
            found.append(_row(CHANGED, item, parts))
    return found


def _row(event: str, item: Item, parts: Iterable[str] = ()) -> dict[str, Any]:
    return {
        "event": event,
        "code": item["code"],
        "alias": item["alias"],
        "item_name": item["name"],
        "themes": list(item["themes"]),
        "parts": list(parts),
    }
