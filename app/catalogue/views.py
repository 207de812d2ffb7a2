"""The catalogue as the API shows it. Plain functions: rows in, answers out."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from app.catalogue import model
from app.catalogue.load import COUNTY_BODY, Catalogue

Row = Mapping[str, Any]


def agency_brief(agency: Row) -> dict[str, Any]:
    return {"id": agency["id"], "name": agency["name"]}


def item_row(item: Row, agencies: Mapping[str, Row]) -> dict[str, Any]:
    """Return an item as a line of a list.

    `fee_from_fen` is the lowest total known in advance (0 = free, null = computed elsewhere); `promised_working_days` is null
    when the promise is in calendar days (see `promised_limit`).
    """
    return {
        "code": item["code"],
        "alias": item["alias"],
        "name": item["name"],
        "short_name": item["short_name"],
        "summary": item["summary"],
        "agency": agency_brief(agencies[item["agency"]]),
        "kind": item["service_kind"],
        "online_depth": item["online_depth"],
        "promised_working_days": model.promised_working_days(item),
        "promised_limit": item["promised_limit"],
        "fee_from_fen": model.fee_from_fen(item),
        "hot": item["hot_rank"] is not None,
        "identity_level": item["identity_level"],
        "visits": item["visits"],
        "themes": item["themes"],
        "life_events": item["life_events"],
        "audience": item["audience"],
        "version": item["version"],
    }


def guide(item: Row, catalogue: Catalogue, agencies: Mapping[str, Row], licences: Mapping[str, Row]) -> dict[str, Any]:
    """Return the whole guide of an item (办事指南): every field of the catalogue, agencies and licences by name."""
    agency = agencies[item["agency"]]
    return {
        **item,
        **item_row(item, agencies),
        "agency": {**agency_brief(agency), "short_name": agency["short_name"], "hotline": agency["hotline"]},
        "co_agencies": [agency_brief(agencies[name]) for name in item["co_agencies"]],
        "joint_review": [{**row, "agency": agency_brief(agencies[row["agency"]])} for row in item["joint_review"]],
        "materials": [with_licence_name(material, licences) for material in item["materials"]],
        "result": with_licence_name(item["result"], licences),
        "promised_working_days": model.promised_working_days(item),
        "halls": [
            {"id": hall["id"], "name": hall["name"], "division": hall["division"]}
            for hall in catalogue.halls
            if hall["kind"] in ("comprehensive", "special")
            and any(item["agency"] in window["agencies"] for window in hall["windows"])
        ],
    }


def with_licence_name(row: Row, licences: Mapping[str, Row]) -> dict[str, Any]:
    licence = licences.get(row["licence"]) if row["licence"] else None
    return {**row, "licence_name": licence["name"] if licence else None}


def checklist(item: Row, answers: Row, licences: Mapping[str, Row]) -> dict[str, Any]:
    """Return the materials and fees that remain under these answers.

    `fee_complete` False: a fee still depends on an open question or is computed elsewhere; `amount_fen` then is what is sure.
    """
    fees = model.visible_fees(item, answers)
    open_fees = model.unanswered_fee_situations(item, answers)
    return {
        "item": {"code": item["code"], "alias": item["alias"], "name": item["name"], "version": item["version"]},
        "answers": dict(answers),
        "materials": [with_licence_name(row, licences) for row in model.visible_materials(item, answers)],
        "fees": fees,
        "amount_fen": sum(fee["amount_fen"] or 0 for fee in fees),
        "fee_complete": not open_fees and all(fee["amount_fen"] is not None for fee in fees),
        "fee_totals": model.fee_totals(item, answers),
        "form": model.visible_fields(item, answers),
        "unanswered": model.unanswered_situations(item, answers),
        "unanswered_for_fee": [situation["key"] for situation in open_fees],
    }


def themes(items: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the themes with how many items each has, for whom; most items first."""
    return _grouped(items, "themes")


def _grouped(items: Iterable[Row], part: str) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        for name in item[part]:
            row = found.setdefault(name, {"name": name, "count": 0, "audience": []})
            row["count"] += 1
            row["audience"] = sorted({*row["audience"], *item["audience"]}, reverse=True)
    return sorted(found.values(), key=lambda row: (-row["count"], row["name"]))


def life_events(items: Iterable[Row], bundles: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the life events, each with its bundles (一件事) of items."""
    items = list(items)
    by_alias = {item["alias"]: item for item in items}
    rows = {row["name"]: {**row, "bundles": []} for row in _grouped(items, "life_events")}
    for bundle in bundles:
        row = rows.setdefault(
            bundle["life_event"], {"name": bundle["life_event"], "count": 0, "audience": [], "bundles": []}
        )
        row["bundles"].append(
            {
                "key": bundle["key"],
                "name": bundle["name"],
                "summary": bundle["summary"],
                "items": [
                    {
                        "code": by_alias[part["alias"]]["code"],
                        "alias": part["alias"],
                        "name": by_alias[part["alias"]]["name"],
                        "optional": part["optional"],
                    }
                    for part in bundle["items"]
                    if part["alias"] in by_alias
                ],
            }
        )
    return sorted(rows.values(), key=lambda row: (not row["bundles"], -row["count"], row["name"]))


def notices(rows: Iterable[Row], on: date, by_alias: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Return the notices that show on a day, newest first."""
    day = on.isoformat()
    shown = [row for row in rows if row["from_on"] <= day and (row["until_on"] is None or day <= row["until_on"])]
    return [
        {
            "id": row["id"],
            "title": row["title"],
            "body": row["body"],
            "published_on": row["from_on"],
            "item": (
                {"code": by_alias[row["item"]]["code"], "name": by_alias[row["item"]]["name"]}
                if row["item"] in by_alias
                else None
            ),
        }
        for row in sorted(shown, key=lambda row: row["from_on"], reverse=True)
    ]


def division(row: Row) -> dict[str, Any]:
    return {
        "code": row["code"],
        "name": row["name"],
        "level": row["level"],
        "parent": row["parent"],
        "kind": row.get("kind", "地级市"),
    }


def agency(row: Row, halls: Iterable[Row]) -> dict[str, Any]:
    """Return a body with its hotline and the halls where it has a window; a county's body sits at its line's window in the own county."""
    at_window = row["parent"] if row["level"] == COUNTY_BODY else row["id"]
    near = [hall for hall in halls if row["level"] != COUNTY_BODY or hall["division"].startswith(row["division"])]
    return {
        "id": row["id"],
        "name": row["name"],
        "short_name": row["short_name"],
        "kind": row["kind"],
        "division": row["division"],
        "level": row["level"],
        "hotline": row["hotline"],
        "parent": row["parent"],
        "halls": [
            {
                "id": hall["id"],
                "name": hall["name"],
                "division": hall["division"],
                "address": hall["address"],
                "open_hours": hall["open_hours"],
                "windows": [
                    {"no": window["no"], "name": window["name"]}
                    for window in hall["windows"]
                    if at_window in window["agencies"]
                ],
            }
            for hall in near
            if any(at_window in window["agencies"] for window in hall["windows"])
        ],
    }


def knowledge(row: Row, by_alias: Mapping[str, Row], agencies: Mapping[str, Row]) -> dict[str, Any]:
    """Return a knowledge entry; it names its owner and where it comes from, as every answer must."""
    return {
        "id": row["id"],
        "question": row["questions"][0],
        "answer": row["answer"],
        "basis": row["basis"],
        "owner": agency_brief(agencies[row["owner"]]),
        "review_on": row["review_on"],
        "items": [
            {"code": by_alias[alias]["code"], "alias": alias, "name": by_alias[alias]["name"]}
            for alias in row["items"]
            if alias in by_alias
        ],
    }
