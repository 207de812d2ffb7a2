"""Forms: every item's own definition can be filled; drafts keep anything typed; judging tells every gap at once."""

from datetime import date
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cases import forms
from app.catalogue.load import load_catalogue
from commands.story import sample_form

CATALOGUE = Path(__file__).resolve().parents[3] / "config" / "catalogue"
ITEMS = {item["alias"]: item for item in load_catalogue(CATALOGUE).items}
FACTS = forms.Facts(today=date(2026, 11, 24), division_codes={"440203"})
HANDLED = [alias for alias, item in ITEMS.items() if item["service_kind"] == "handle"]


@pytest.mark.parametrize("alias", HANDLED)
def test_every_form_can_be_filled_from_its_own_definition(alias):
    item = ITEMS[alias]
    values = sample_form(item["form"])
    kept, wrong = forms.draft_values(item, values)
    assert wrong == []
    judged, rows = forms.judge(item, {}, kept, FACTS)
    assert rows == []
    assert set(judged) <= set(values)


@pytest.mark.parametrize("alias", HANDLED)
def test_an_empty_form_names_every_required_field_at_once(alias):
    item = ITEMS[alias]
    _judged, rows = forms.judge(item, {}, {}, FACTS)
    asked = [field for field in forms.visible_fields(item, {}, {}) if "computed" not in field]
    wanted = {f"/form/{field['key']}" for field in asked if field["required"]}
    assert {row["pointer"] for row in rows} == wanted


def test_the_address_is_asked_only_when_the_result_is_posted():
    item = ITEMS["id_card_lost"]
    values = sample_form(item["form"]) | {"delivery": "express", "address": ""}
    assert [row["pointer"] for row in forms.judge(item, {}, values, FACTS)[1]] == ["/form/address"]
    values["delivery"] = "self"
    assert forms.judge(item, {}, values, FACTS)[1] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id_number", "440200190001010011"),
        ("mobile", "12345"),
        ("lost_date", "2026-11-25"),
        ("lost_date", "2026-02-30"),
        ("delivery", "pigeon"),
        ("name", "名" * 51),
    ],
)
def test_a_wrong_answer_is_named_and_kept(key, value):
    item = ITEMS["id_card_lost"]
    kept, wrong = forms.draft_values(item, {key: value})
    assert (kept, wrong) == ({key: value}, []), "a draft keeps what was typed"
    rows = forms.judge(item, {}, sample_form(item["form"]) | kept, FACTS)[1]
    assert [row["pointer"] for row in rows] == [f"/form/{key}"]


def test_a_photo_field_is_met_by_a_file_or_by_a_receipt_number():
    item = ITEMS["id_card_lost"]
    values = sample_form(item["form"]) | {"photo_code": None}
    assert [row["pointer"] for row in forms.judge(item, {}, values, FACTS)[1]] == ["/form/photo_code"]
    with_file = forms.Facts(FACTS.today, FACTS.division_codes, {"photo_code"})
    assert forms.judge(item, {}, values, with_file)[1] == []


@pytest.mark.parametrize("text", ["1E-300000000", "1e9", "NaN", "Infinity", "9" * 16, "0.1234567", "１２", "--1", "1_000"])
def test_a_number_is_plain_digits(text):
    item = next(item for item in ITEMS.values() if any(field["type"] == "number" for field in item["form"]))
    field = next(field for field in item["form"] if field["type"] == "number")
    rows = forms.judge(item, {}, {field["key"]: text}, FACTS)[1]
    assert f"/form/{field['key']}" in [row["pointer"] for row in rows]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@given(alias=st.sampled_from(HANDLED), data=st.data())
def test_garbage_in_any_field_is_refused_or_judged_never_a_crash(alias, data):
    item = ITEMS[alias]
    given_values = {field["key"]: data.draw(json_values) for field in item["form"]}
    kept, _wrong = forms.draft_values(item, given_values | {"no_such_field": 1})
    forms.judge(item, {}, {key: value for key, value in kept.items() if value is not None}, FACTS)
    orjson.dumps(kept)
