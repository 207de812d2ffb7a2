"""One published catalogue in memory: immutable, indexed, and encoded once per answer with its entity tag."""

import gzip
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import orjson

from app.catalogue import model, views
from app.catalogue.errors import item_not_found
from app.catalogue.load import COUNTY_BODY, Catalogue
from app.catalogue.search import Entry, SearchIndex
from app.kernel.errors import NotFound, ValidationFailed, error_row

Row = Mapping[str, Any]

CITY = "440200"
_GZIP_FROM_BYTES = 1024
_KEPT_ANSWERS = 1000
HOME_ITEMS = 12


@dataclass(frozen=True)
class Answer:
    """An encoded answer. `etag` is strong and quoted; the gzip form is another representation with a tag of its own."""

    body: bytes
    etag: str
    gzipped: bytes | None
    gzip_etag: str


def encode(value: Any) -> Answer:
    """Encode an answer once."""
    body = orjson.dumps(value)
    digest = hashlib.sha256(body).hexdigest()[:24]
    gzipped = gzip.compress(body, 6, mtime=0) if len(body) >= _GZIP_FROM_BYTES else None
    return Answer(body, f'"{digest}"', gzipped, f'"{digest}-gz"')


@dataclass(frozen=True)
class ItemFilter:
    """What a list of items is narrowed by; empty text = not narrowed."""

    theme: str = ""
    life_event: str = ""
    audience: str = ""
    division: str = ""
    agency: str = ""
    kind: str = ""
    q: str = ""


class Snapshot:
    """Everything the hall reads of one published catalogue. Safe to share: nothing in it changes but its memory of answers."""

    def __init__(self, catalogue: Catalogue, *, version_id: str, number: int) -> None:
        self.catalogue = catalogue
        self.version_id = version_id
        self.number = number
        self.agencies = {row["id"]: row for row in catalogue.agencies}
        self._county_bodies = {(row["parent"], row["division"]): row for row in catalogue.agencies if row["level"] == COUNTY_BODY}
        self.licences = {row["code"]: row for row in catalogue.licences}
        self.divisions = {row["code"]: row for row in catalogue.divisions if not row.get("statistical_only")}
        # Hot ones first, in their order; the rest as in the file.
        self.items = tuple(
            sorted(
                (item for item in catalogue.items if item["status"] == "published"),
                key=lambda item: item["hot_rank"] or 10_000,
            )
        )
        self.by_alias = {item["alias"]: item for item in self.items}
        self.by_name = {item["code"]: item for item in self.items} | self.by_alias
        self.knowledge = {row["id"]: row for row in catalogue.knowledge if row["status"] == "published"}
        self.check_kinds = {row["kind"]: row for row in catalogue.check_kinds}
        self.bill_kinds = {row["kind"]: row for row in catalogue.bill_kinds}
        self.bill_fields = {row["key"]: row for row in catalogue.bill_fields}
        self.division_codes = frozenset(self.divisions)
        self.rows = {item["alias"]: views.item_row(item, self.agencies) for item in self.items}
        self.search_index = SearchIndex(catalogue)
        self._answers: OrderedDict[Any, Answer] = OrderedDict()
        self._guides: dict[str, Answer] = {}
        for item in self.items:
            answer = encode(views.guide(item, catalogue, self.agencies, self.licences))
            self._guides[item["code"]] = self._guides[item["alias"]] = answer

    # --- rows, for our own code ---

    def item(self, name: str) -> Row:
        """Return a published item by code or alias. Raises ItemNotFound."""
        try:
            return self.by_name[name]
        except KeyError:
            raise item_not_found() from None

    def agency(self, agency_id: str) -> Row:
        """Return an agency. Raises NotFound."""
        try:
            return self.agencies[agency_id]
        except KeyError:
            raise NotFound("没有找到这个部门。", en="No such agency.") from None

    def handling_agency(self, item: Row, division_code: str) -> Row:
        """Return who handles an item applied for in a division: the county's body of the line where the item says so, else `agency`."""
        county = self._county_of(division_code)
        body = self._county_bodies.get((item["agency"], county)) if county in item.get("by_counties", ()) else None
        return body or self.agencies[item["agency"]]

    def handled_by(self, agency_id: str) -> list[Row]:
        """Return the items whose applications come to a body, somewhere or everywhere."""
        body = self.agency(agency_id)
        is_county = body["level"] == COUNTY_BODY
        return [
            item
            for item in self.items
            if item["service_kind"] == "handle"
            and (item["agency"] == agency_id or (is_county and item["agency"] == body["parent"] and body["division"] in item.get("by_counties", ())))
        ]

    def _county_of(self, division_code: str) -> str:
        row = self.divisions.get(division_code)
        while row is not None and row["level"] not in ("county", "city"):
            row = self.divisions.get(row["parent"])
        return row["code"] if row else ""

    def division(self, code: str) -> Row | None:
        """Return a division that receives cases, or None."""
        return self.divisions.get(code)

    def choosable_divisions(self) -> list[Row]:
        """Return the divisions a resident may choose: the city, its counties, then the towns."""
        return list(self.divisions.values())

    # --- answers, for the API ---

    def guide(self, name: str) -> Answer:
        """Return the encoded guide of an item by code or alias. Raises ItemNotFound."""
        answer = self._guides.get(name)
        if answer is None:
            raise item_not_found()
        return answer

    def checklist(self, name: str, text: str) -> Answer:
        """Return what remains of an item under `key:value,...`.

        Raises:
            ItemNotFound; ValidationFailed naming each unknown question or option.
        """
        item = self.item(name)
        return self._kept(("checklist", item["alias"], text), lambda: self.checklist_of(item, read_answers(item, text)))

    def checklist_of(self, item: Row, answers: Mapping[str, Any]) -> dict[str, Any]:
        return views.checklist(item, answers, self.licences)

    def list_answer(self, wanted: ItemFilter, limit: int, cursor: str) -> Answer:
        """Return one page of a list of items. Raises ValidationFailed (unknown division or cursor)."""
        return self._kept(("items", wanted, limit, cursor), lambda: self._page(wanted, limit, cursor))

    def search_answer(self, q: str, division: str, limit: int) -> Answer:
        return self._kept(("search", q, division, limit), lambda: self.search(q, division=division, limit=limit))

    def suggest_answer(self, q: str) -> Answer:
        return self._kept(("suggest", q), lambda: {"items": self.suggest(q)})

    def home_answer(self, division: str, on: date) -> Answer:
        return self._kept(("home", division, on), lambda: self.home(division, on))

    def notices_answer(self, on: date) -> Answer:
        return self._kept(("notices", on), lambda: _list(self.notices(on)))

    def divisions_answer(self, parent: str, level: str) -> Answer:
        def make() -> dict[str, Any]:
            return _list(
                [
                    views.division(row)
                    for row in self.divisions.values()
                    if (not parent or row["parent"] == parent) and (not level or row["level"] == level)
                ]
            )

        return self._kept(("divisions", parent, level), make)

    @cached_property
    def agencies_answer(self) -> Answer:
        return encode(_list([views.agency(row, self.catalogue.halls) for row in self.catalogue.agencies]))

    @cached_property
    def themes_answer(self) -> Answer:
        return encode(_list(self.themes))

    @cached_property
    def life_events_answer(self) -> Answer:
        return encode(_list(self.life_events))

    # --- what the answers are made of ---

    @cached_property
    def themes(self) -> list[dict[str, Any]]:
        return views.themes(self.items)

    @cached_property
    def life_events(self) -> list[dict[str, Any]]:
        return views.life_events(self.items, self.catalogue.bundles)

    def notices(self, on: date) -> list[dict[str, Any]]:
        return views.notices(self.catalogue.notices, on, self.by_alias)

    def home(self, division: str, on: date) -> dict[str, Any]:
        """Return the first screen. Raises ValidationFailed (unknown division)."""
        place = self._place(division or CITY)
        hot = [item for item in self.items if item["hot_rank"] and model.is_offered_in(item, place["level"])]
        return {
            "division": views.division(place),
            "hot_items": [self.rows[item["alias"]] for item in hot[:HOME_ITEMS]],
            "themes": self.themes,
            "life_events": [
                {"name": row["name"], "count": row["count"], "bundles": [b["key"] for b in row["bundles"]]}
                for row in self.life_events
            ],
            "notices": self.notices(on),
        }

    def find_items(self, wanted: ItemFilter) -> list[Row]:
        """Return the items that pass a filter: hot ones first, or best first when there are words to search for.

        An unknown theme, life event or agency finds nothing (an old link must not break).

        Raises:
            ValidationFailed: an unknown division.
        """
        level = self._place(wanted.division)["level"] if wanted.division else ""
        items: list[Row] = list(self.items)
        if wanted.q:
            hits = self.search_index.search(wanted.q, limit=100, accept=lambda entry: entry.kind == "item")
            items = [self.by_alias[hit.entry.ref] for hit in hits]
        return [
            item
            for item in items
            if (not wanted.theme or wanted.theme in item["themes"])
            and (not wanted.life_event or wanted.life_event in item["life_events"])
            and (not wanted.audience or wanted.audience in item["audience"])
            and (not wanted.kind or wanted.kind == item["service_kind"])
            and (not wanted.agency or wanted.agency in (item["agency"], *item["co_agencies"]))
            and (not level or model.is_offered_in(item, level))
        ]

    def _page(self, wanted: ItemFilter, limit: int, cursor: str) -> dict[str, Any]:
        aliases = [item["alias"] for item in self.find_items(wanted)]
        start = 0
        if cursor:
            if cursor not in aliases:
                raise ValidationFailed([error_row("/query/cursor", "unknown", "翻页标记已失效，请从第一页重新开始")])
            start = aliases.index(cursor) + 1
        page = aliases[start : start + limit]
        more = start + limit < len(aliases)
        return {"items": [self.rows[alias] for alias in page], "next_cursor": page[-1] if more else None}

    def search(self, q: str, *, division: str = "", limit: int = 20) -> dict[str, Any]:
        """Return what a resident's words find: items, knowledge entries and agencies, each best first, with `highlight`.

        `highlight` holds HTML-escaped texts with <em> around what was asked for.

        Raises:
            ValidationFailed: an unknown division.
        """
        level = self._place(division)["level"] if division else ""
        county = self._county_of(division)

        def accept(entry: Entry) -> bool:
            if not level or entry.kind == "knowledge":
                return True
            if entry.kind == "agency":  # the city's, and the own county's
                body = self.agencies[entry.ref]
                return body["level"] != COUNTY_BODY or body["division"] == county
            return model.is_offered_in(self.by_alias[entry.ref], level)

        found: dict[str, list[dict[str, Any]]] = {"item": [], "knowledge": [], "agency": []}
        for hit in self.search_index.search(q, limit=100, accept=accept):
            if len(found[hit.entry.kind]) < limit:
                found[hit.entry.kind].append(self._found(hit.entry, q) | {"score": round(hit.score, 2)})
        return {
            "query": q,
            "items": found["item"],
            "knowledge": found["knowledge"],
            "agencies": found["agency"],
            "next_cursor": None,
        }

    def _found(self, entry: Entry, q: str) -> dict[str, Any]:
        mark = self.search_index.highlight
        if entry.kind == "item":
            row = self.rows[entry.ref]
            marked = {name: mark(q, row[name]) for name in ("name", "short_name", "summary")}
            return {"type": "item", **row, "highlight": marked}
        if entry.kind == "knowledge":
            row = views.knowledge(self.knowledge[entry.ref], self.by_alias, self.agencies)
            return {"type": "knowledge", **row, "highlight": {name: mark(q, row[name]) for name in ("question", "answer")}}
        agency = self.agencies[entry.ref]
        row = views.agency_brief(agency) | {"short_name": agency["short_name"], "hotline": agency["hotline"]}
        return {"type": "agency", **row, "highlight": {"name": mark(q, row["name"])}}

    def suggest(self, q: str) -> list[dict[str, Any]]:
        """Return up to ten completions of what was typed: characters, pinyin or initials."""
        found = []
        for text, entry in self.search_index.suggest(q, limit=10):
            code = self.by_alias[entry.ref]["code"] if entry.kind == "item" else None
            found.append({"text": text, "type": entry.kind, "code": code})
        return found

    def _place(self, code: str) -> Row:
        place = self.divisions.get(code)
        if place is None:
            raise ValidationFailed([error_row("/query/division", "unknown", "没有这个办理地区，请从列表中选择")])
        return place

    def _kept(self, key: Any, make: Callable[[], Any]) -> Answer:
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = encode(make())
            if len(self._answers) > _KEPT_ANSWERS:
                self._answers.popitem(last=False)
        else:
            self._answers.move_to_end(key)
        return answer


def read_answers(item: Row, text: str) -> dict[str, Any]:
    """Read `key:value,key2:value|value` for an item. Raises ValidationFailed naming each wrong part."""
    try:
        answers = model.parse_answers(text)
    except ValueError as error:
        raise ValidationFailed([error_row("/query/answers", "malformed", str(error))]) from error
    if wrong := model.wrong_answers(item, answers):
        raise ValidationFailed([error_row(f"/query/answers/{key}", "unknown", said) for key, said in wrong.items()])
    return answers


def _list(items: list[Any]) -> dict[str, Any]:
    return {"items": items, "next_cursor": None}
