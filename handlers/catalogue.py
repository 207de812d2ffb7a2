"""Catalogue calls, without login: answers encoded once per published version, with entity tags.

An unknown division or audience is 422 naming it; an unknown theme, life event or agency finds nothing, so that an old link does not break.
"""

import re
from typing import Any, ClassVar

from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf, Range

from app.catalogue.assistant import answer_question
from app.catalogue.snapshot import Answer, ItemFilter
from app.kernel.clock import today
from handlers.base import HallHandler, operation

CACHE = "public, max-age=60, stale-while-revalidate=600"
_TAGS = re.compile(r'(?:W/)?("[^"]*")')



class HomeQuery(Schema):
    division = fields.String(load_default="", validate=Length(max=12))


class ItemsQuery(Schema):
    theme = fields.String(load_default="", validate=Length(max=40))
    life_event = fields.String(load_default="", validate=Length(max=40))
    audience = fields.String(
        load_default="", validate=OneOf(("", "natural", "legal"), error="应为 natural（个人）或 legal（企业）")
    )
    division = fields.String(load_default="", validate=Length(max=12))
    agency = fields.String(load_default="", validate=Length(max=40))
    kind = fields.String(load_default="", validate=OneOf(("", "check", "pay", "handle"), error="应为 check、pay 或 handle"))
    q = fields.String(load_default="", validate=Length(max=200))
    limit = fields.Integer(load_default=100, validate=Range(1, 200, error="应为 1 到 200"))
    cursor = fields.String(load_default="", validate=Length(max=64))


class ChecklistQuery(Schema):
    answers = fields.String(load_default="", validate=Length(max=1000))


class SearchQuery(Schema):
    q = fields.String(required=True, validate=Length(max=200))
    division = fields.String(load_default="", validate=Length(max=12))
    limit = fields.Integer(load_default=20, validate=Range(1, 50, error="应为 1 到 50"))


class SuggestQuery(Schema):
    q = fields.String(required=True, validate=Length(max=200))


class DivisionsQuery(Schema):
    parent = fields.String(load_default="", validate=Length(max=12))
    level = fields.String(load_default="", validate=OneOf(("", "city", "county", "town"), error="应为 city、county 或 town"))


class AssistantRequest(Schema):
    text = fields.String(required=True, validate=Length(min=1, max=500, error="请用1到500字说明要办的事"))
    conversation_id = fields.String(load_default=None, allow_none=True, validate=Length(max=64))


class AgencyBrief(Schema):
    id = fields.String(required=True)
    name = fields.String(required=True)


class LimitShown(Schema):
    days = fields.Integer(required=True, allow_none=True)
    unit = fields.String(required=True, allow_none=True, metadata={"description": "working or calendar"})


class ItemRow(Schema):
    code = fields.String(required=True)
    alias = fields.String(required=True)
    name = fields.String(required=True)
    short_name = fields.String(required=True)
    summary = fields.String(required=True)
    agency = fields.Nested(AgencyBrief, required=True)
    kind = fields.String(required=True, validate=OneOf(("check", "pay", "handle")))
    online_depth = fields.Integer(required=True, metadata={"description": "1 read, 2 book, 3 at most one visit, 4 no visit"})
    promised_working_days = fields.Integer(required=True, allow_none=True)
    promised_limit = fields.Nested(LimitShown, required=True)
    fee_from_fen = fields.Integer(
        required=True, allow_none=True, metadata={"description": "lowest known total; null = computed elsewhere"}
    )
    hot = fields.Boolean(required=True)
    identity_level = fields.String(required=True)
    visits = fields.Integer(required=True)
    themes = fields.List(fields.String(), required=True)
    life_events = fields.List(fields.String(), required=True)
    audience = fields.List(fields.String(), required=True)
    version = fields.Integer(required=True)


class ItemList(Schema):
    items = fields.List(fields.Nested(ItemRow), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


def rows() -> fields.List:
    return fields.List(fields.Dict(), required=True)


class ItemGuide(ItemRow):
    """The whole guide; the parts are those of config/catalogue/items.json."""

    conditions = fields.List(fields.String(), required=True)
    situations = rows()
    materials = rows()
    fees = rows()
    form = rows()
    steps = rows()
    legal_limit = fields.Nested(LimitShown, required=True)
    special_procedures = rows()
    result = fields.Dict(required=True)
    legal_basis = rows()
    faq = rows()
    halls = rows()


class Checklist(Schema):
    item = fields.Dict(required=True)
    answers = fields.Dict(required=True)
    materials = rows()
    fees = rows()
    amount_fen = fields.Integer(required=True)
    fee_complete = fields.Boolean(required=True)
    fee_totals = fields.Dict(required=True)
    form = rows()
    unanswered = rows()
    unanswered_for_fee = fields.List(fields.String(), required=True)


class Home(Schema):
    division = fields.Dict(required=True)
    hot_items = fields.List(fields.Nested(ItemRow), required=True)
    themes = rows()
    life_events = rows()
    notices = rows()


class SearchResult(Schema):
    query = fields.String(required=True)
    items = rows()
    knowledge = rows()
    agencies = rows()
    next_cursor = fields.String(required=True, allow_none=True)


class Rows(Schema):
    items = rows()
    next_cursor = fields.String(required=True, allow_none=True)


class Suggestion(Schema):
    text = fields.String(required=True)
    type = fields.String(required=True)
    code = fields.String(required=True, allow_none=True)


class Suggestions(Schema):
    items = fields.List(fields.Nested(Suggestion), required=True)


class AssistantAnswer(Schema):
    conversation_id = fields.String(required=True)
    reply = fields.String(required=True)
    options = rows()
    items = rows()
    handover = fields.Dict(required=True, allow_none=True)
    rating_code = fields.String(
        required=True, allow_none=True, metadata={"description": "for /v1/ratings/{code}; null for a conversation the hall did not begin"}
    )


class CatalogueHandler(HallHandler):
    """Base of the reads: bytes out, 304 when the client holds them already."""

    cache: ClassVar[str] = CACHE

    def serve(self, answer: Answer) -> None:
        """Answer stored bytes, gzip where the client takes it."""
        headers = self.request.headers
        zipped = answer.gzipped is not None and "gzip" in headers.get("Accept-Encoding", "")
        self.set_header("Cache-Control", self.cache)
        self.set_header("ETag", answer.gzip_etag if zipped else answer.etag)
        self.set_header("Vary", "Accept-Encoding")
        held = headers.get("If-None-Match")
        if held is not None and _holds(held, answer):
            self.set_status(304)
            self.finish()
            return
        self.set_header("Content-Type", "application/json; charset=utf-8")
        if zipped:
            self.set_header("Content-Encoding", "gzip")
        self.finish(answer.gzipped if zipped else answer.body)

    async def head(self, *args: str) -> None:
        await self.get(*args)


def _holds(header: str, answer: Answer) -> bool:
    # Weak comparison, as RFC 9110 13.1.2 has it for If-None-Match; both forms carry the same content.
    return header.strip() == "*" or not {answer.etag, answer.gzip_etag}.isdisjoint(_TAGS.findall(header))


class HomeScreen(CatalogueHandler):
    @operation("Hot items, themes, life events and notices of the first screen", query=HomeQuery, answers={200: Home})
    async def get(self) -> None:
        self.serve(self.hall.catalogue.snapshot.home_answer(self.query["division"], today()))


class Items(CatalogueHandler):
    @operation("List items", query=ItemsQuery, answers={200: ItemList})
    async def get(self) -> None:
        query = dict(self.query)
        limit, cursor = query.pop("limit"), query.pop("cursor")
        self.serve(self.hall.catalogue.snapshot.list_answer(ItemFilter(**query), limit, cursor))


class Item(CatalogueHandler):
    @operation("The whole guide of an item, by code or alias", answers={200: ItemGuide, 404: None})
    async def get(self, code: str) -> None:
        self.serve(self.hall.catalogue.snapshot.guide(code))


class ItemChecklist(CatalogueHandler):
    @operation(
        "The materials and fees that remain after the situation questions (answers=key:value,key2:value|value)",
        query=ChecklistQuery,
        answers={200: Checklist, 404: None, 422: None},
    )
    async def get(self, code: str) -> None:
        self.serve(self.hall.catalogue.snapshot.checklist(code, self.query["answers"]))


class Search(CatalogueHandler):
    @operation("Search items, knowledge and agencies", query=SearchQuery, answers={200: SearchResult})
    async def get(self) -> None:
        query = self.query
        snapshot = self.hall.catalogue.snapshot
        self.serve(snapshot.search_answer(query["q"].strip(), query["division"], query["limit"]))


class Suggest(CatalogueHandler):
    @operation("Up to ten completions: characters, pinyin, initials", query=SuggestQuery, answers={200: Suggestions})
    async def get(self) -> None:
        self.serve(self.hall.catalogue.snapshot.suggest_answer(self.query["q"].strip()))


class Divisions(CatalogueHandler):
    @operation("The places that receive cases: city, counties, towns", query=DivisionsQuery, answers={200: Rows})
    async def get(self) -> None:
        self.serve(self.hall.catalogue.snapshot.divisions_answer(self.query["parent"], self.query["level"]))


class Agencies(CatalogueHandler):
    @operation("The bodies, their hotlines and windows", answers={200: Rows})
    async def get(self) -> None:
        self.serve(self.hall.catalogue.snapshot.agencies_answer)


class Themes(CatalogueHandler):
    @operation("Themes with their number of items", answers={200: Rows})
    async def get(self) -> None:
        self.serve(self.hall.catalogue.snapshot.themes_answer)


class LifeEvents(CatalogueHandler):
    @operation("Life events with their bundles of items (一件事)", answers={200: Rows})
    async def get(self) -> None:
        self.serve(self.hall.catalogue.snapshot.life_events_answer)


class Notices(CatalogueHandler):
    @operation("The notices that show today", answers={200: Rows})
    async def get(self) -> None:
        self.serve(self.hall.catalogue.snapshot.notices_answer(today()))


class Assistant(HallHandler):
    @operation("Guided answer from the catalogue and the knowledge base", body=AssistantRequest, answers={200: AssistantAnswer})
    async def post(self) -> None:
        found: dict[str, Any] = answer_question(
            self.hall.catalogue.snapshot, self.body["text"], self.body["conversation_id"]
        )
        # Whoever asked may rate what they were told, once for the whole conversation, also when a person took over.
        found["rating_code"] = self.hall.feedback.code_of_conversation(found["conversation_id"])
        await self.answer(found)


routes = [
    (r"/v1/home", HomeScreen),
    (r"/v1/items", Items),
    (r"/v1/items/([\w-]+)", Item),
    (r"/v1/items/([\w-]+)/checklist", ItemChecklist),
    (r"/v1/search", Search),
    (r"/v1/suggest", Suggest),
    (r"/v1/divisions", Divisions),
    (r"/v1/agencies", Agencies),
    (r"/v1/themes", Themes),
    (r"/v1/life-events", LifeEvents),
    (r"/v1/notices", Notices),
    (r"/v1/assistant", Assistant),
]
