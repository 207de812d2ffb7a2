"""Answers of the catalogue: encoded once, tagged, filtered, paged."""

from datetime import date

import orjson
import pytest

from app.catalogue.assistant import answer_question
from app.catalogue.errors import ItemNotFound
from app.catalogue.snapshot import ItemFilter, encode
from app.kernel.errors import NotFound, ValidationFailed

TODAY = date(2026, 11, 24)


def page(snapshot, limit=100, cursor="", **wanted):
    return orjson.loads(snapshot.list_answer(ItemFilter(**wanted), limit, cursor).body)


def test_a_guide_is_found_by_code_and_alias_and_is_the_same_bytes(snapshot):
    item = snapshot.item("id_card_lost")
    assert snapshot.guide(item["code"]) is snapshot.guide("id_card_lost")
    guide = orjson.loads(snapshot.guide("id_card_lost").body)
    for part in ("conditions", "materials", "fees", "steps", "situations", "faq", "legal_basis", "form", "legal_limit"):
        assert guide[part], part
    assert (guide["version"], guide["kind"], guide["fee_from_fen"], guide["hot"]) == (1, "handle", 4000, True)
    assert guide["agency"]["name"] == "韶关市公安局"
    assert guide["materials"][1]["licence_name"] == "居民户口簿"


def test_unknown_items_and_agencies(snapshot):
    with pytest.raises(ItemNotFound):
        snapshot.guide("nothing")
    with pytest.raises(NotFound):
        snapshot.agency("sg-nobody")


def test_entity_tags_are_strong_and_follow_the_content():
    assert encode({"a": 1}).etag == encode({"a": 1}).etag != encode({"a": 2}).etag
    assert encode({}).etag.startswith('"')
    assert encode({}).gzipped is None  # not worth it


def test_lists_begin_with_the_hot_ones_and_page_by_key(snapshot):
    first = page(snapshot, limit=7)
    assert [row["alias"] for row in first["items"][:2]] == ["id_card_lost", "hukou_birth"]
    seen, cursor = [row["alias"] for row in first["items"]], first["next_cursor"]
    while cursor:
        more = page(snapshot, limit=7, cursor=cursor)
        seen += [row["alias"] for row in more["items"]]
        cursor = more["next_cursor"]
    assert len(seen) == len(set(seen)) == 100


def test_a_row_has_what_the_contract_names(snapshot):
    row = page(snapshot)["items"][0]
    assert set(row) >= {
        *("code", "name", "summary", "agency", "kind", "online_depth", "promised_working_days", "fee_from_fen", "hot")
    }
    assert row["agency"] == {"id": "sg-gaj", "name": "韶关市公安局"}


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ({"theme": "户籍办理"}, lambda item: "户籍办理" in item["themes"]),
        ({"life_event": "退休"}, lambda item: "退休" in item["life_events"]),
        ({"audience": "legal"}, lambda item: "legal" in item["audience"]),
        ({"agency": "sg-gaj"}, lambda item: item["agency"] == "sg-gaj" or "sg-gaj" in item["co_agencies"]),
        ({"kind": "pay"}, lambda item: item["service_kind"] == "pay"),
        (
            {"division": "440203100"},
            lambda item: "town" in item["accept_levels"] or (item["channels"]["online"] and item["visits"] == 0),
        ),
        ({"theme": "户籍办理", "kind": "handle", "audience": "natural"}, lambda item: "户籍办理" in item["themes"]),
    ],
)
def test_filters_narrow_together(snapshot, wanted, holds):
    if "division" in wanted:
        wanted = {"division": next(code for code in snapshot.divisions if len(code) == 9)}
    rows = page(snapshot, **wanted)["items"]
    assert rows
    assert all(holds(snapshot.by_alias[row["alias"]]) for row in rows)
    if len(wanted) == 1:
        assert len(rows) == sum(holds(item) for item in snapshot.items)


def test_words_order_a_list_by_fit(snapshot):
    assert page(snapshot, q="驾照到期")["items"][0]["alias"] == "driver_renew"


def test_an_old_theme_finds_nothing_an_unknown_place_is_named(snapshot):
    assert page(snapshot, theme="养恐龙")["items"] == []
    for wanted in ({"division": "999999"}, {"division": "440200400"}):
        with pytest.raises(ValidationFailed) as caught:
            page(snapshot, **wanted)
        assert caught.value.errors[0]["pointer"] == "/query/division"
    with pytest.raises(ValidationFailed):
        page(snapshot, cursor="nothing")


def test_places_that_never_receive_cases_cannot_be_chosen(snapshot, catalogue):
    assert sum(bool(row.get("statistical_only")) for row in catalogue.divisions) == 7
    assert len(snapshot.choosable_divisions()) == len(snapshot.division_codes) == 116
    assert len(orjson.loads(snapshot.divisions_answer("440203", "").body)["items"]) == 7
    assert [row["code"] for row in orjson.loads(snapshot.divisions_answer("", "city").body)["items"]] == ["440200"]


def test_the_first_screen(snapshot):
    home = snapshot.home("", TODAY)
    assert [row["alias"] for row in home["hot_items"][:3]] == ["id_card_lost", "hukou_birth", "traffic_violation"]
    assert {"证件办理", "社会保障"} <= {row["name"] for row in home["themes"]}
    assert home["life_events"]
    assert [notice["id"] for notice in home["notices"]] == ["calendar-2027", "medins-2027", "no-fee-no-agent"]


def test_notices_show_on_their_days_only(snapshot):
    assert [notice["id"] for notice in snapshot.notices(date(2027, 1, 1))] == ["no-fee-no-agent"]
    assert "medins-2027" in [notice["id"] for notice in snapshot.notices(date(2026, 12, 31))]


def test_bundles_hang_on_their_life_event(snapshot):
    born = next(row for row in snapshot.life_events if row["name"] == "生育")
    assert [part["alias"] for part in born["bundles"][0]["items"]][:2] == ["birth_cert", "hukou_birth"]


def test_a_checklist_follows_the_answers(snapshot):
    def keys(text, part):
        return [row["key"] for row in orjson.loads(snapshot.checklist("plate_lost", text).body)[part]]

    assert keys("what:plate", "fees") == ["plate"]
    assert keys("what:licence", "materials") == ["id_card"]
    answer = orjson.loads(snapshot.checklist("id_card_lost", "age:minor").body)
    assert [row["key"] for row in answer["materials"]] == ["form", "hukou", "guardian"]
    assert (answer["amount_fen"], answer["fee_complete"], answer["unanswered"]) == (4000, True, [])
    open_answer = orjson.loads(snapshot.checklist("plate_lost", "").body)
    assert (open_answer["fee_complete"], open_answer["unanswered_for_fee"]) == (False, ["what"])


@pytest.mark.parametrize(
    ("text", "pointer"),
    [("colour:red", "/query/answers/colour"), ("age:dog", "/query/answers/age"), ("nonsense", "/query/answers")],
)
def test_wrong_answers_are_named(snapshot, text, pointer):
    with pytest.raises(ValidationFailed) as caught:
        snapshot.checklist("id_card_lost", text)
    assert caught.value.errors[0]["pointer"] == pointer


def test_search_gives_items_knowledge_and_agencies_with_highlight(snapshot):
    found = snapshot.search("公积金")
    assert found["items"][0]["highlight"]["name"].count("<em>") == 1
    assert found["knowledge"][0]["owner"]["id"]
    assert all(row["type"] == "knowledge" for row in found["knowledge"])
    assert any(row["id"] == "sg-gjj" for row in found["agencies"])


def test_memory_of_answers_is_bounded(snapshot):
    for number in range(1200):
        snapshot.suggest_answer(f"q{number}")
    assert len(snapshot._answers) <= 1000


def test_the_assistant_names_items_cites_knowledge_and_offers_a_person(snapshot):
    answer = answer_question(snapshot, "身份证丢了怎么办", None)
    assert answer["items"][0]["alias"] == "id_card_lost"
    assert answer["options"][0]["item"] == answer["items"][0]["code"]
    assert answer["handover"] is None
    cited = answer_question(snapshot, "工作日怎么算？周末算不算", answer["conversation_id"])
    assert "来源" in cited["reply"]
    assert cited["conversation_id"] == answer["conversation_id"]
    assert answer_question(snapshot, "转人工", None)["handover"]["phone"] == "12345"
    assert answer_question(snapshot, "xyzzy", None)["handover"]
