"""The catalogue over HTTP: entity tags, 304, HEAD, paging, and 4xx for everything senseless."""

import gzip
from collections.abc import AsyncIterator
from types import SimpleNamespace

import orjson
import pytest

from app.feedback.evaluations import Evaluations
from app.feedback.model import read_rules
from config.settings import ROOT
from handlers import catalogue
from tests.app.catalogue.conftest import catalogue as files  # noqa: F401
from tests.app.catalogue.conftest import snapshot  # noqa: F401
from tests.handlers.serving import Site, serving


@pytest.fixture(scope="session", name="catalogue")
def _catalogue(files):  # noqa: F811
    return files


@pytest.fixture
async def site(snapshot, keys) -> AsyncIterator[Site]:  # noqa: F811
    # Of feedback nothing but the code of a conversation, which needs keys alone.
    feedback = Evaluations(None, None, keys, None, read_rules(ROOT / "config" / "feedback.json"), "sg-zsj")
    async with serving(catalogue.routes, catalogue=SimpleNamespace(snapshot=snapshot), feedback=feedback) as site:
        yield site


READS = [
    "/v1/home",
    "/v1/home?division=440203",
    "/v1/items",
    "/v1/items/id_card_lost",
    "/v1/items/1144020099900002174440709904000",
    "/v1/items/id_card_lost/checklist",
    "/v1/items/id_card_lost/checklist?answers=age:minor",
    "/v1/search?q=%E8%BA%AB%E4%BB%BD%E8%AF%81",
    "/v1/suggest?q=sfz",
    "/v1/divisions",
    "/v1/agencies",
    "/v1/themes",
    "/v1/life-events",
    "/v1/notices",
]


@pytest.mark.parametrize("path", READS)
async def test_reads_are_tagged_cached_and_not_sent_twice(site: Site, path):
    first = await site.get(path)
    assert first.status == 200
    assert first.headers["Content-Type"] == "application/json; charset=utf-8"
    assert "public" in first.headers["Cache-Control"]
    assert "stale-while-revalidate" in first.headers["Cache-Control"]
    tag = first.headers["ETag"]
    assert tag.startswith('"')
    for held in (tag, f"W/{tag}", f'"other", {tag}', f'W/"a",W/{tag}', "*"):
        again = await site.get(path, headers={"If-None-Match": held})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        assert "Cache-Control" in again.headers
    assert (await site.get(path, headers={"If-None-Match": '"other"'})).status == 200
    head = await site.call("HEAD", path)
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", tag)
    assert int(head.headers["Content-Length"]) == len(first.body)


async def test_gzip_is_another_representation_with_its_own_tag(site: Site):
    plain = await site.get("/v1/items/id_card_lost")
    zipped = await site.get("/v1/items/id_card_lost", headers={"Accept-Encoding": "gzip, br"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert zipped.headers["Vary"] == "Accept-Encoding"
    assert zipped.headers["ETag"] != plain.headers["ETag"]
    assert gzip.decompress(zipped.body) == plain.body
    held = {"If-None-Match": zipped.headers["ETag"], "Accept-Encoding": "gzip"}
    assert (await site.get("/v1/items/id_card_lost", headers=held)).status == 304


async def test_the_guide_has_every_part_of_the_contract(site: Site):
    guide = (await site.get("/v1/items/driver_renew")).json
    for part in ("conditions", "materials", "fees", "steps", "situations", "faq", "legal_basis", "form", "version"):
        assert guide[part], part
    by_code = (await site.get(f"/v1/items/{guide['code']}")).json
    assert by_code == guide


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/v1/home", catalogue.Home),
        ("/v1/items", catalogue.ItemList),
        ("/v1/items/plate_lost/checklist", catalogue.Checklist),
        ("/v1/search?q=公积金", catalogue.SearchResult),
        ("/v1/suggest?q=sfz", catalogue.Suggestions),
        ("/v1/agencies", catalogue.Rows),
    ],
)
async def test_answers_are_what_the_published_schemas_say(site: Site, path, schema):
    assert schema().validate((await site.get(path)).json) == {}


async def test_lists_page_with_limit_and_cursor(site: Site):
    first = (await site.get("/v1/items?limit=3")).json
    second = (await site.get(f"/v1/items?limit=3&cursor={first['next_cursor']}")).json
    assert len(first["items"]) == len(second["items"]) == 3
    assert first["items"][0]["code"] != second["items"][0]["code"]
    everything = (await site.get("/v1/items")).json
    assert (len(everything["items"]), everything["next_cursor"]) == (100, None)


async def test_searching_finds_what_a_resident_means(site: Site):
    found = (await site.get("/v1/search?q=身份证丢了怎么办")).json
    assert found["items"][0]["name"] == "居民身份证丢失补领"
    assert "<em>" in found["items"][0]["highlight"]["name"]
    listed = (await site.get("/v1/items?q=身份证丢了怎么办")).json
    assert listed["items"][0]["code"] == found["items"][0]["code"]
    assert (await site.get("/v1/search?q=")).json["items"] == []


async def test_the_checklist_answers_by_situation(site: Site):
    answer = (await site.get("/v1/items/plate_lost/checklist?answers=what:plate")).json
    assert answer["amount_fen"] == 10000
    assert [fee["key"] for fee in answer["fees"]] == ["plate"]


@pytest.mark.parametrize(
    ("path", "status", "code", "pointer"),
    [
        ("/v1/items/nothing", 404, "item.not_found", None),
        ("/v1/items/nothing/checklist", 404, "item.not_found", None),
        ("/v1/items/id_card_lost/checklist?answers=dog:1", 422, "validation.failed", "/query/answers/dog"),
        ("/v1/items/id_card_lost/checklist?answers=age:dog", 422, "validation.failed", "/query/answers/age"),
        ("/v1/items/id_card_lost/checklist?answers=age", 422, "validation.failed", "/query/answers"),
        ("/v1/items?division=999999", 422, "validation.failed", "/query/division"),
        ("/v1/home?division=999999", 422, "validation.failed", "/query/division"),
        ("/v1/search?q=a&division=x", 422, "validation.failed", "/query/division"),
        ("/v1/items?audience=dogs", 422, "validation.failed", "/query/audience"),
        ("/v1/items?limit=0", 422, "validation.failed", "/query/limit"),
        ("/v1/items?limit=many", 422, "validation.failed", "/query/limit"),
        ("/v1/items?cursor=nothing", 422, "validation.failed", "/query/cursor"),
        ("/v1/items?dog=1", 422, "validation.failed", "/query/dog"),
        ("/v1/search", 422, "validation.failed", "/query/q"),
        ("/v1/search?q=" + "a" * 300, 422, "validation.failed", "/query/q"),
        ("/v1/suggest", 422, "validation.failed", "/query/q"),
        ("/v1/search?q=%ff%fe", 400, "request.malformed", None),
        ("/v1/items/a/b/c", 404, "resource.not_found", None),
    ],
)
async def test_senseless_questions_are_4xx_and_say_what_is_wrong(site: Site, path, status, code, pointer):
    answer = await site.get(path)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert "ETag" not in answer.headers
    if pointer:
        assert pointer in [row["pointer"] for row in answer.json["errors"]]


async def test_an_unknown_theme_finds_nothing(site: Site):
    assert (await site.get("/v1/items?theme=dinosaurs")).json == {"items": [], "next_cursor": None}


async def test_other_methods_are_not_allowed(site: Site):
    answer = await site.call("POST", "/v1/items")
    assert answer.status == 405
    assert {"GET", "HEAD"} <= set(answer.headers["Allow"].split(", "))


async def test_the_assistant(site: Site):
    async def ask(body):
        return await site.call("POST", "/v1/assistant", data=orjson.dumps(body), headers={"Content-Type": "application/json"})

    answer = (await ask({"text": "身份证丢了怎么办"})).json
    assert set(answer) == {"conversation_id", "reply", "options", "items", "handover", "rating_code"}
    assert len(answer["rating_code"]) == 46
    assert answer["items"][0]["alias"] == "id_card_lost"
    again = (await ask({"text": "转人工", "conversation_id": answer["conversation_id"]})).json
    assert again["handover"]
    assert (again["conversation_id"], again["rating_code"]) == (answer["conversation_id"], answer["rating_code"]), "once for the whole"
    for strange in ("c1", "conv_x", "case_01KB2M3N4P5Q6R7S8T9V0W1X2Y", "conv_7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "conv_00000000000000000000000000"):
        assert (await ask({"text": "转人工", "conversation_id": strange})).json["rating_code"] is None, strange
    for wrong in ({}, {"text": ""}, {"text": 5}, {"text": "x" * 501}, {"text": "x", "conversation_id": "c" * 65}):
        assert (await ask(wrong)).status == 422
