"""Conditions, fees and answers of an item."""

import pytest

from app.catalogue import model

ITEM = {
    "service_kind": "handle",
    "situations": [
        {"key": "what", "question": "补什么？", "type": "multi", "options": [{"value": "plate"}, {"value": "cert"}]},
        {"key": "who", "question": "谁办？", "type": "single", "options": [{"value": "self"}, {"value": "other"}]},
    ],
    "materials": [
        {"key": "id", "when": None},
        {"key": "letter", "when": {"who": ["other"]}},
        {"key": "both", "when": {"who": ["other"], "what": ["plate", "cert"]}},
    ],
    "fees": [
        {"key": "plate", "amount_fen": 10000, "when": {"what": ["plate"]}, "when_paid": "on_application"},
        {"key": "cert", "amount_fen": 1000, "when": {"what": ["cert"]}, "when_paid": "before_issue"},
        {"key": "paper", "amount_fen": 50, "when": None, "when_paid": "on_application"},
    ],
    "form": [{"key": "name"}, {"key": "spouse", "when": {"who": ["other"]}}],
}


def keys(rows):
    return [row["key"] for row in rows]


@pytest.mark.parametrize(
    ("condition", "answers", "holds"),
    [
        (None, {}, True),
        ({}, {}, True),
        ({"a": ["1"]}, {}, False),
        ({"a": ["1", "2"]}, {"a": "2"}, True),
        ({"a": ["1"]}, {"a": ["2", "1"]}, True),  # of several chosen, one suffices
        ({"a": ["1"], "b": ["1"]}, {"a": "1"}, False),  # every key must match
        ({"a": ["1"], "b": ["1"]}, {"a": "1", "b": "1"}, True),
        ({"a": ["1"]}, {"a": ""}, False),
        ({"a": ["true"]}, {"a": True}, True),  # a yes-or-no field, for show_when
        ({"a": ["1"]}, {"a": {}}, False),
    ],
)
def test_every_key_must_match_and_any_value_suffices(condition, answers, holds):
    assert model.applies(condition, answers) is holds


def test_materials_fees_and_fields_follow_the_answers():
    assert keys(model.visible_materials(ITEM, {})) == ["id"]
    assert keys(model.visible_materials(ITEM, {"who": "other", "what": ["cert"]})) == ["id", "letter", "both"]
    assert keys(model.visible_fees(ITEM, {"what": ["plate", "cert"]})) == ["plate", "cert", "paper"]
    assert keys(model.visible_fields(ITEM, {"who": "self"})) == ["name"]


def test_totals_are_kept_apart_by_when_they_are_paid():
    assert model.fee_totals(ITEM, {"what": ["plate", "cert"]}) == {
        "on_application": {"amount_fen": 10050, "complete": True},
        "before_issue": {"amount_fen": 1000, "complete": True},
    }


def test_only_open_questions_on_which_a_fee_depends_hold_up_the_price():
    assert keys(model.unanswered_situations(ITEM, {})) == ["what", "who"]
    assert keys(model.unanswered_fee_situations(ITEM, {})) == ["what"]
    assert model.unanswered_fee_situations(ITEM, {"what": ["cert"]}) == []


def test_a_question_that_can_no_longer_matter_is_not_asked():
    item = ITEM | {"fees": [{"key": "x", "amount_fen": 1, "when": {"who": ["other"], "what": ["plate"]}, "when_paid": "offline"}]}
    assert keys(model.unanswered_fee_situations(item, {"who": "other"})) == ["what"]
    assert model.unanswered_fee_situations(item, {"who": "self"}) == []


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ({"what": ["plate", "cert"], "who": "self"}, set()),
        ({"colour": "red"}, {"colour"}),
        ({"who": "dog"}, {"who"}),
        ({"who": ["self", "other"]}, {"who"}),
        ({"who": 5, "what": [1]}, {"who", "what"}),
        ({"who": None}, {"who"}),
    ],
)
def test_answers_that_do_not_fit_are_named(answers, wrong):
    assert set(model.wrong_answers(ITEM, answers)) == wrong


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("", {}),
        ("a:1", {"a": "1"}),
        ("a:1,b:2|3", {"a": "1", "b": ["2", "3"]}),
        (" a : 1 , ", {"a": "1"}),
        ("a:1|", {"a": "1"}),
    ],
)
def test_answers_in_a_query(text, answers):
    assert model.parse_answers(text) == answers


@pytest.mark.parametrize("text", ["a", "a:", ":1", "a:1,a:2"])
def test_malformed_answers_are_refused(text):
    with pytest.raises(ValueError, match="“"):
        model.parse_answers(text)


@pytest.mark.parametrize(
    ("alias", "fee"),
    [
        ("id_card_lost", 4000),
        ("marriage", 0),
        ("biz_individual_open", 0),
        ("hkm_endorse", 1500),  # the cheapest endorsement
        ("vehicle_purchase_tax", None),  # computed by the tax office
        ("inspection_mark", 0),
        ("water_bill", None),  # a bill of the water company
    ],
)
def test_the_fee_of_a_list_is_the_lowest_known_total(catalogue, alias, fee):
    item = next(item for item in catalogue.items if item["alias"] == alias)
    assert model.fee_from_fen(item) == fee
