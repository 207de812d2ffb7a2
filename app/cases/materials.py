"""Materials of a case: which are needed under the answers given, and what state each is in."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.cases.uploads import LIMITS
from app.catalogue.model import applies
from app.kernel.clock import format_utc
from app.kernel.errors import ErrorRow, error_row

# What the resident brings or shows at the window cannot be uploaded, so it does not hold up an online application.
_AT_WINDOW = ("paper", "onsite")


def needed(item: Mapping[str, Any], answers: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the item's materials that apply under these answers, in the item's order."""
    return [material for material in item["materials"] if applies(material.get("when"), answers)]


def must_upload(material: Mapping[str, Any]) -> bool:
    """Say whether an application is incomplete without this (applying) material."""
    return (
        material["required"] in ("required", "conditional")
        and material["source"] != "system"
        and material["form"] not in _AT_WINDOW
    )


def photo_fields(item: Mapping[str, Any]) -> dict[str, str]:
    """Return the form fields that take a file: key -> label. Their files are kept like materials, under the field's key."""
    return {field["key"]: field["label"] for field in item["form"] if field["type"] == "photo"}


def is_met(held: Mapping[str, Any] | None) -> bool:
    """Say whether something was handed in: files, or a licence in their place."""
    return bool(held and (held.get("files") or held.get("licence_id")))


def gaps(item: Mapping[str, Any], answers: Mapping[str, Any], held: Mapping[str, Any]) -> list[ErrorRow]:
    """Return one row for every material that is missing."""
    return [
        error_row(f"/materials/{material['key']}", "required", f"请上传“{material['name']}”")
        for material in needed(item, answers)
        if must_upload(material) and not is_met(held.get(material["key"]))
    ]


def view(
    item: Mapping[str, Any], answers: Mapping[str, Any], held: Mapping[str, Any], form: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the materials as the API shows them; a photo field of the form is a row too, met by a file or by its receipt number.

    `status`: missing, optional, uploaded, licence, generated (made by the hall from the form), at_window (bring the original).
    """
    rows = [
        _row(material, held.get(material["key"]), must_upload(material)) for material in needed(item, answers)
    ]
    listed = {row["key"] for row in rows}
    # A material of the same key takes the photo of the field too.
    for field in item["form"]:
        if field["type"] == "photo" and field["key"] not in listed and applies(field.get("when"), answers):
            needed_now = bool(field["required"]) and not str(form.get(field["key"]) or "").strip()
            rows.append(_photo_row(field["key"], field["label"], held.get(field["key"]), needed_now))
    return rows


def _row(material: Mapping[str, Any], held: Mapping[str, Any] | None, required: bool) -> dict[str, Any]:
    if held and held.get("licence_id"):
        status = "licence"
    elif held and held.get("files"):
        status = "uploaded"
    elif material["source"] == "system":
        status = "generated"
    elif material["form"] in _AT_WINDOW:
        status = "at_window"
    else:
        status = "missing" if required else "optional"
    return {
        "key": material["key"],
        "name": material["name"],
        "required": required,
        "status": status,
        "files": [_file(entry) for entry in (held or {}).get("files", ())],
        "licence_id": (held or {}).get("licence_id"),
        "licence_type": material.get("licence"),
        "notes": material.get("notes", ""),
        "limits": dict(LIMITS),
    }


def _photo_row(key: str, label: str, held: Mapping[str, Any] | None, needed_now: bool) -> dict[str, Any]:
    files = [_file(entry) for entry in (held or {}).get("files", ())]
    return {
        "key": key,
        "name": label,
        "required": needed_now,
        "status": "uploaded" if files else "missing" if needed_now else "optional",
        "files": files,
        "licence_id": None,
        "licence_type": None,
        "notes": "可上传照片，也可以在表单里填照片回执号",
        "limits": dict(LIMITS),
    }


def uploaded_at(entry: Mapping[str, Any]) -> datetime:
    """Return when a file was first uploaded, whichever case it has come through since."""
    moment: datetime = entry.get("uploaded_at") or entry["at"]
    return moment


def _file(entry: Mapping[str, Any]) -> dict[str, Any]:
    """`trust`: `accepted_by_agency` when it was taken over from a case that an office had accepted (on `accepted_on`), else `uploaded`."""
    return {
        "id": entry["id"],
        "name": entry["name"],
        "type": entry["type"],
        "size": entry["size"],
        "pages": entry.get("pages"),
        "uploaded_at": format_utc(uploaded_at(entry)),
        "trust": "accepted_by_agency" if entry.get("accepted_on") else "uploaded",
        "accepted_on": entry.get("accepted_on"),
        "from_case": entry.get("from_case"),
        "scan": entry.get("scan"),
    }
