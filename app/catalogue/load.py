"""Read a catalogue folder, judge every field and every reference, and return it whole; or tell everything that is wrong at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from marshmallow import Schema, ValidationError

from app.catalogue.form_schema import form_mistakes, with_code_lists
from app.catalogue.schemas import FILES, Synonyms

Row = Mapping[str, Any]

COUNTY_BODY = "4"  # `level` of a county's body, which stands under the city's body of its line by `parent`
# The one situation key that every item understands: somebody else applies for the person.
ALWAYS_KNOWN_SITUATIONS = frozenset({"agent"})


class CatalogueBroken(ValueError):
    """The catalogue files are wrong; the text has one line per mistake: file, row, field, what is wanted."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__(f"catalogue: {len(mistakes)} mistake(s)\n" + "\n".join(f"  {line}" for line in mistakes))
        self.mistakes = list(mistakes)


@dataclass(frozen=True)
class Catalogue:
    """A judged catalogue: plain rows in the layout of the files, in their order."""

    divisions: tuple[Row, ...]
    agencies: tuple[Row, ...]
    halls: tuple[Row, ...]
    items: tuple[Row, ...]
    licences: tuple[Row, ...]
    knowledge: tuple[Row, ...]
    bundles: tuple[Row, ...]
    check_kinds: tuple[Row, ...]
    bill_kinds: tuple[Row, ...]
    bill_fields: tuple[Row, ...]
    notices: tuple[Row, ...]
    synonyms: Row

    def to_document(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_document(cls, document: Row) -> "Catalogue":
        values = {name: document[name] for name in cls.__dataclass_fields__}
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def load_catalogue(folder: Path) -> Catalogue:
    """Read a folder of catalogue files.

    Raises:
        CatalogueBroken: everything that is wrong, one line each.
    """
    mistakes: list[str] = []
    rows: dict[tuple[str, str], list[Row]] = {}
    for name, lists in FILES.items():
        data = _read(folder / name, mistakes)
        known = {"meta", "identifier", "holder_code_types", *lists}
        mistakes += [f"{name}: unknown part {part!r}" for part in data if part not in known]
        for part, (schema, named_by) in lists.items():
            rows[name, part] = _judged(name, data.get(part), part, schema, named_by, mistakes)
    synonyms = {key: value for key, value in _read(folder / "synonyms.json", mistakes).items() if key != "meta"}
    mistakes += [f"synonyms.json: {line}" for line in _schema_mistakes(Synonyms(), synonyms)]
    if mistakes:  # references into rows that do not hold their fields would only repeat it
        raise CatalogueBroken(mistakes)
    code_lists = {row["key"]: row for row in rows["code_lists.json", "lists"]}
    catalogue = Catalogue(
        divisions=tuple(rows["divisions.json", "divisions"]),
        agencies=tuple(rows["agencies.json", "agencies"]),
        halls=tuple(rows["agencies.json", "halls"]),
        items=tuple(with_code_lists(rows["items.json", "items"], code_lists, mistakes)),
        licences=tuple(rows["licences.json", "licences"]),
        knowledge=tuple(rows["kb.json", "entries"]),
        bundles=tuple(rows["bundles.json", "bundles"]),
        check_kinds=tuple(rows["check_kinds.json", "kinds"]),
        bill_kinds=tuple(rows["bill_kinds.json", "kinds"]),
        bill_fields=tuple(rows["bill_kinds.json", "fields"]),
        notices=tuple(rows["notices.json", "notices"]),
        synonyms=synonyms,
    )
    mistakes += wrong_references(catalogue)
    if mistakes:
        raise CatalogueBroken(mistakes)
    return catalogue


def _read(path: Path, mistakes: list[str]) -> dict[str, Any]:
    try:
        data = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        mistakes.append(f"{path.name}: {error}")
        return {}
    if not isinstance(data, dict):
        mistakes.append(f"{path.name}: want an object")
        return {}
    return data


def _judged(
    file: str, rows: Any, part: str, schema: type[Schema], named_by: str, mistakes: list[str]
) -> list[Row]:
    if not isinstance(rows, list):
        mistakes.append(f"{file}: want a list {part!r}")
        return []
    judge, seen = schema(), set()
    for index, row in enumerate(rows):
        name = row.get(named_by) if isinstance(row, dict) else None
        label = name if isinstance(name, str) and name else f"{part}[{index}]"
        mistakes += [f"{file}: {label}: {line}" for line in _schema_mistakes(judge, row)]
        if label in seen:
            mistakes.append(f"{file}: {label}: {named_by}: used twice")
        seen.add(label)
    return rows


def _schema_mistakes(schema: Schema, row: Any) -> Iterator[str]:
    try:
        schema.load(row)
    except ValidationError as error:
        yield from _lines(error.messages, "")


def _lines(messages: Any, path: str) -> Iterator[str]:
    if isinstance(messages, dict):
        for key, inner in messages.items():
            yield from _lines(inner, path if key == "_schema" else f"{path}.{key}" if path else str(key))
    else:
        for message in messages if isinstance(messages, list) else [messages]:
            yield f"{path}: {message}" if path else str(message)


def wrong_references(catalogue: Catalogue) -> list[str]:
    """Return one line for every name that leads nowhere, every code used twice, and every promise longer than the law."""
    agencies = {row["id"] for row in catalogue.agencies}
    divisions = {row["code"] for row in catalogue.divisions}
    licences = {row["code"]: {field["key"] for field in row["fields"]} for row in catalogue.licences}
    aliases = {row["alias"] for row in catalogue.items}
    checks = {row["kind"] for row in catalogue.check_kinds}
    bills = {row["kind"] for row in catalogue.bill_kinds}
    bill_fields = {row["key"] for row in catalogue.bill_fields}
    halls = {row["id"] for row in catalogue.halls}
    lines: list[str] = []

    def must(known: Any, values: Sequence[str | None], where: str) -> None:
        lines.extend(f"{where}: {value!r} is not known" for value in values if value is not None and value not in known)

    county_bodies = {(row["parent"], row["division"]) for row in catalogue.agencies if row["level"] == COUNTY_BODY}
    codes: dict[str, str] = {}
    for item in catalogue.items:
        where = f"items.json: {item['alias']}"
        if item["code"] in codes:
            lines.append(f"{where}: code: also used by {codes[item['code']]}")
        codes[item["code"]] = item["alias"]
        must(agencies, [item["agency"]], f"{where}: agency")
        must(agencies, item["co_agencies"], f"{where}: co_agencies")
        lines.extend(
            f"{where}: by_counties: {item['agency']} has no body in {county!r}"
            for county in item.get("by_counties", ())
            if (item["agency"], county) not in county_bodies
        )
        must(agencies, [row["agency"] for row in item["joint_review"]], f"{where}: joint_review.agency")
        must(licences, [row["licence"] for row in item["materials"]], f"{where}: materials.licence")
        must(licences, [item["result"]["licence"]], f"{where}: result.licence")
        must(licences, [item["renewal"]["licence"]] if "renewal" in item else [], f"{where}: renewal.licence")
        must(checks, item["check_kinds"], f"{where}: check_kinds")
        must(bills, item["pay_kinds"], f"{where}: pay_kinds")
        lines.extend(f"{where}: {line}" for line in _inside(item, licences))
    for agency in catalogue.agencies:
        must(agencies, [agency["parent"]], f"agencies.json: {agency['id']}: parent")
        must(divisions, [agency["division"]], f"agencies.json: {agency['id']}: division")
    for hall in catalogue.halls:
        must(halls, [hall["parent"]], f"agencies.json: {hall['id']}: parent")
        must(divisions, [hall["division"]], f"agencies.json: {hall['id']}: division")
        for window in hall["windows"]:
            must(agencies, window["agencies"], f"agencies.json: {hall['id']}: windows.{window['no']}")
    for division in catalogue.divisions:
        if division["level"] != "city":
            must(divisions, [division["parent"]], f"divisions.json: {division['code']}: parent")
    for licence in catalogue.licences:
        must(agencies, [licence["issuer"]], f"licences.json: {licence['code']}: issuer")
        must(aliases, [licence.get("renew_item")], f"licences.json: {licence['code']}: renew_item")
    for entry in catalogue.knowledge:
        must(agencies, [entry["owner"]], f"kb.json: {entry['id']}: owner")
        must(aliases, entry["items"], f"kb.json: {entry['id']}: items")
    for bundle in catalogue.bundles:
        must(aliases, [row["alias"] for row in bundle["items"]], f"bundles.json: {bundle['key']}: items")
    for kind in catalogue.check_kinds:
        must(agencies, [kind["source"]], f"check_kinds.json: {kind['kind']}: source")
        must(aliases, [kind["item"]], f"check_kinds.json: {kind['kind']}: item")
        must(aliases, [row["item"] for row in kind.get("dates", ())], f"check_kinds.json: {kind['kind']}: dates.item")
    for kind in catalogue.bill_kinds:
        must(agencies, [kind["source"]], f"bill_kinds.json: {kind['kind']}: source")
        for key_set in kind["lookup"]:
            must(bill_fields, key_set["keys"], f"bill_kinds.json: {kind['kind']}: lookup")
    themes = {theme for item in catalogue.items for theme in item["themes"]}
    for notice in catalogue.notices:
        must(aliases, [notice["item"]], f"notices.json: {notice['id']}: item")
        must(divisions, notice.get("divisions", ()), f"notices.json: {notice['id']}: divisions")
        must(themes, notice.get("themes", ()), f"notices.json: {notice['id']}: themes")
    for lead in catalogue.synonyms["leads_to"]:
        must(aliases, lead["items"], f"synonyms.json: leads_to {lead['phrase']}")
    return lines


def _inside(item: Row, licences: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield what does not fit inside one item."""
    if item["base_code"] != item["code"][-12:]:
        yield f"base_code: {item['base_code']!r} is not the end of code"
    options = {row["key"]: {option["value"] for option in row["options"]} for row in item["situations"]}
    for part in ("situations", "materials", "fees", "form"):
        keys = [row["key"] for row in item[part]]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            yield f"{part}.{key}: used twice"
    for part in ("materials", "fees", "form", "rules"):
        for row in item.get(part, ()):
            for key, values in (row.get("when") or {}).items():
                if key in options:
                    for value in values:
                        if value not in options[key]:
                            yield f"{part}.{row['key']}.when.{key}: {value!r} is no option of it"
                elif key not in ALWAYS_KNOWN_SITUATIONS:
                    yield f"{part}.{row['key']}.when.{key}: the item has no such situation"
    for row in item["fees"]:
        if row["amount_fen"] and not row["basis"]:  # 行政许可法 art. 58: no fee without a law
            yield f"fees.{row['key']}.basis: a fee needs one"
    yield from form_mistakes(item)
    for row in item["form"]:
        source = row.get("prefill", "")
        if source.startswith("licence:"):
            code, _, name = source.removeprefix("licence:").partition(".")
            if code not in licences:
                yield f"form.{row['key']}.prefill: {code!r} is not known"
            elif name != "*" and name not in licences[code]:
                yield f"form.{row['key']}.prefill: {code} has no field {name!r}"
    legal, promised = item["legal_limit"], item["promised_limit"]
    if legal["days"] is not None and legal["unit"] == promised["unit"] and promised["days"] > legal["days"]:
        yield f"promised_limit: {promised['days']} days are more than the {legal['days']} of the law"
