"""The pages' pure parts: ways back, form fields between HTML and the API's values, words for residents."""

from datetime import timedelta

import pytest

from app.kernel.clock import today, utc_now
from handlers import pages_forms, pages_text
from handlers.pages_account import next_proof
from handlers.pages_assets import ICONS, TEMPLATES, asset, icon
from handlers.pages_base import local_path


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/cases/case_1?x=1#part", True),
        ("/", True),
        ("", False),
        (None, False),
        ("cases", False),
        ("//evil.example/a", False),
        ("/\\evil.example", False),
        ("/a\\b", False),
        ("https://evil.example", False),
        ("/a\nSet-Cookie: x=1", False),
        ("/a b", False),
        ("/" + "a" * 1001, False),
    ],
)
def test_a_way_back_never_leads_elsewhere(given: str | None, kept: bool) -> None:
    assert local_path(given, "/me") == (given if kept else "/me")


FIELDS = [
    {"key": "name", "type": "text", "label": "姓名", "required": True},
    {"key": "age", "type": "number", "label": "年龄", "required": True},
    {"key": "base", "type": "money", "label": "基数", "required": True},
    {"key": "old", "type": "boolean", "label": "沿用", "required": True},
    {"key": "scope", "type": "multiselect", "label": "范围", "required": False, "options": [{"value": "a", "label": "甲"}]},
    {"key": "names", "type": "list", "label": "名称", "required": True, "max_items": 3},
    {"key": "people", "type": "table", "label": "人员", "required": False, "columns": ["姓名", "关系"]},
    {"key": "born", "type": "datetime", "label": "出生", "required": False},
]


def test_a_form_becomes_the_values_of_the_api() -> None:
    sent = {
        "f.name": [" 张三 "], "f.age": ["80"], "f.base": ["4588.5"], "f.old": ["false"], "f.scope": ["a", "b"],
        "f.names": ["甲", " ", "乙"], "f.people.0.0": ["李四"], "f.people.0.1": ["子"], "f.people.1.0": [""], "f.people.1.1": [""],
        "f.born": ["2026-11-23T09:30"],
    }  # fmt: skip
    assert pages_forms.read_values(FIELDS, sent) == {
        "name": "张三",
        "age": 80,
        "base": "4588.5",
        "old": False,
        "scope": ["a", "b"],
        "names": ["甲", "乙"],
        "people": [{"姓名": "李四", "关系": "子"}],
        "born": "2026-11-23T09:30",
    }


def test_what_is_left_open_takes_an_answer_back() -> None:
    assert set(pages_forms.read_values(FIELDS, {"f.name": [""], "f.old": ["perhaps"]}).values()) == {None}
    assert pages_forms.read_values(FIELDS[1:2], {"f.age": ["八十"]}) == {"age": "八十"}  # judged later, kept as typed


def test_lists_and_tables_offer_room_for_more() -> None:
    assert pages_forms.entries(FIELDS[5], {"names": ["甲"]}) == ["甲", "", ""]
    assert pages_forms.entries({**FIELDS[5], "max_items": None}, {"names": list("甲乙丙丁")}) == [*"甲乙丙丁", ""]
    assert len(pages_forms.table_rows(FIELDS[6], {})) == 3
    assert pages_forms.table_rows(FIELDS[6], {"people": [{"姓名": "李四"}]}) == [{"姓名": "李四"}, {}]


def test_answers_to_questions_are_one_value_or_several() -> None:
    situations = [{"key": "age", "type": "single"}, {"key": "ways", "type": "multi"}, {"key": "open", "type": "single"}]
    sent = {"q.age": ["adult"], "q.ways": ["a", "b"], "q.open": [""]}
    assert pages_forms.read_answers(situations, sent) == {"age": "adult", "ways": ["a", "b"]}


@pytest.mark.parametrize(
    ("level", "wanted", "page"),
    [(1, 4, "/me/phone"), (2, 4, "/me/real-name"), (3, 4, "/me/face"), (4, 4, None), (2, 2, None), (1, 3, "/me/phone")],
)
def test_one_is_led_to_the_next_missing_proof(level: int, wanted: int, page: str | None) -> None:
    assert next_proof(level, wanted) == page


def test_words() -> None:
    assert pages_text.yuan(4000) == "40" and pages_text.yuan(4050) == "40.50" and pages_text.yuan_exact(4000) == "40.00"
    assert pages_text.days_left(today()) == "今天"
    assert pages_text.days_left(today() + timedelta(days=9)) == "还有9天"
    assert pages_text.days_left(today() - timedelta(days=2)) == "已过2天"
    assert pages_text.minutes_left(utc_now() + timedelta(minutes=29, seconds=30)) == "还有29分钟"
    assert pages_text.limit({"days": 10, "unit": "working"}) == "10个工作日"
    assert pages_text.limit({"days": 15, "unit": "calendar"}) == "15天"
    assert pages_text.limit({"days": 0, "unit": "working"}) == "当场办结"
    assert pages_text.when_text(
        {"show_when": {"delivery": ["express"]}},
        [{"key": "delivery", "options": [{"value": "express", "label": "邮寄到付"}]}],
    ) == "选“邮寄到付”时填写"
    hours = [{"days": [1, 2, 3, 4, 5], "periods": [["09:00", "12:00"], ["14:30", "17:30"]]}]
    assert pages_text.opening(hours) == "周一至周五 09:00-12:00、14:30-17:30"


def test_where_a_case_stands_is_seen_while_it_waits_for_a_fee() -> None:
    timeline = [{"event": "case.created"}, {"event": "case.submitted"}]
    assert dict(pages_text.stages({"state": "awaiting_payment", "timeline": timeline}))["受理"] == "now"
    timeline += [{"event": "case.accepted"}, {"event": "case.approved"}]
    assert dict(pages_text.stages({"state": "awaiting_payment", "timeline": timeline}))["送达"] == "now"
    assert [place for _name, place in pages_text.stages({"state": "completed", "timeline": []})] == ["past"] * 5


def test_assets_carry_their_content_and_icons_are_ours() -> None:
    assert asset("hall.css").startswith("/static/hall.css?v=")
    for drawing in ICONS.glob("*.svg"):
        text = icon(drawing.stem)
        assert text.startswith('<svg class="icon" aria-hidden="true"') and "http" not in text and "script" not in text


def test_no_page_asks_another_host_for_anything() -> None:
    for file in (*TEMPLATES.glob("*.html"), *TEMPLATES.parent.glob("static/*")):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text, file
        assert "<script>" not in text and "style=" not in text, file
