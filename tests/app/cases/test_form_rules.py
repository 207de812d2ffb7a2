"""Rules across fields and computed fields: what the items' own data says, judged by the hall and told in the item's own words."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cases import forms
from app.catalogue import rules
from app.catalogue.load import load_catalogue
from app.kernel.numbers import check_document_number
from commands.story import sample_form

CATALOGUE = Path(__file__).resolve().parents[3] / "config" / "catalogue"
ITEMS = {item["alias"]: item for item in load_catalogue(CATALOGUE).items}
RULED = [(alias, rule["key"]) for alias, item in ITEMS.items() for rule in item.get("rules", ())]
TODAY = date(2026, 11, 24)
FACTS = forms.Facts(today=TODAY, division_codes={"440203", "440204"})
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def citizen(born_on: str, sex: str = "1") -> str:
    """Return a valid sample number of somebody born on a day (YYYYMMDD); sex 1 male, 2 female."""
    first = f"440203{born_on}00{1 if sex == '1' else 2}"
    return first + "10X98765432"[sum(w * int(d) for w, d in zip(WEIGHTS, first, strict=True)) % 11]


def told(alias, answers=None, **values):
    """Return (errors, advice) by field, of a form filled from its own definition and changed as given."""
    item = ITEMS[alias]
    kept, wrong = forms.draft_values(item, sample_form(item["form"]) | values)
    assert wrong == []
    given_values = {key: value for key, value in kept.items() if value is not None}
    errors = forms.judge(item, answers or {}, given_values, FACTS)[1]
    advice = forms.advice(item, answers or {}, given_values, FACTS)
    return {row["pointer"][6:]: row["code"] for row in errors}, {row["pointer"][6:]: row["detail"] for row in advice}


@pytest.mark.parametrize(
    ("alias", "values", "field", "code"),
    [
        ("tax_paid_cert", {"from_month": "2026-05", "to_month": "2026-04"}, "to_month", "rule"),
        ("insured_cert", {"range": "period", "from": None, "to": "2026-04"}, "from", "required"),
        ("medins_reimburse", {"admit": "2026-11-02", "discharge": "2026-11-01"}, "discharge", "rule"),
        ("hukou_death", {"dead_id": citizen("19500101"), "death_date": "1949-12-31"}, "death_date", "rule"),
        ("disabled_card", {"category": "6", "guardian": " "}, "guardian", "required"),
        ("water_open", {"kind": "transfer", "account": None}, "account", "required"),
        ("medins_offsite", {"kind": "referral", "hospital": None}, "hospital", "required"),
    ],
)
def test_what_cannot_be_right_together_holds_the_application_up(alias, values, field, code):
    assert told(alias, **values)[0] == {field: code}


@pytest.mark.parametrize(
    ("alias", "values"),
    [
        ("tax_paid_cert", {"from_month": "2026-05", "to_month": "2026-05"}),
        ("insured_cert", {"range": "personal", "from": None, "to": None}),
        ("medins_reimburse", {"admit": "2026-11-02", "discharge": None}),
        ("disabled_card", {"category": "1", "guardian": None}),
        ("hukou_death", {"dead_id": "44020319500101", "death_date": "1949-12-31"}),
    ],
)
def test_a_rule_is_silent_when_it_is_kept_not_asked_or_not_readable_yet(alias, values):
    errors = told(alias, **values)[0]
    assert set(errors) <= {"dead_id"}, "a field that is wrong by itself is told once, not twice"


@pytest.mark.parametrize(
    ("alias", "values", "field"),
    [
        ("marriage", {"man_id": citizen("19900101"), "woman_id": citizen("19900101")}, "woman_id"),
        ("marriage", {"man_id": citizen("20050101"), "woman_id": citizen("19900101", "2"), "slot": "2026-12-01"}, "man_id"),
        ("elder_allowance", {"id_number": citizen("19461125")}, "age"),
        ("dibao", {"income": "100", "members": [{"姓名": "甲", "公民身份号码": "无", "关系": "本人", "月收入": "99.5"}]}, "income"),
        ("biz_company_open", {"shareholders": [{"姓名或名称": "甲", "证件号码": "E1", "认缴额": "约100", "出资方式": "货币", "出资期限": "2030-01-01"}]}, "shareholders"),
        ("id_card_first", {"id_number": citizen("20101124"), "age_group": "minor"}, "age_group"),
    ],
)  # fmt: skip
def test_what_only_looks_wrong_is_told_and_holds_nothing_up(alias, values, field):
    errors, advice = told(alias, **values)
    assert errors == {}
    assert field in advice


def test_an_advice_that_is_followed_is_gone():
    assert "age" not in told("elder_allowance", id_number=citizen("19461124"))[1], "80 today"
    rows = [{"姓名": "甲", "公民身份号码": "无", "关系": "本人", "月收入": "99.5"}, {"姓名": "乙", "公民身份号码": "无", "关系": "子", "月收入": "0.50"}]
    assert told("dibao", income="100.00", members_count=2, members=rows)[1] == {}
    pair = {"man_id": citizen("19900101"), "woman_id": citizen("19910101", "2"), "slot": "2026-11-24"}
    assert told("marriage", **pair)[1] == {}


def test_computed_fields_are_answered_by_the_hall_and_never_taken_from_a_client():
    item = ITEMS["school_enrol"]
    kept, wrong = forms.draft_values(item, {"child_id": citizen("20200229", "2"), "child_birth": "1999-01-01", "child_sex": "1"})
    assert wrong == [], "a client that sends all fields back is not refused"
    assert set(kept) == {"child_id"}
    assert forms.with_computed(item, kept, TODAY) == {"child_id": kept["child_id"], "child_birth": "2020-02-29", "child_sex": "2"}
    assert forms.with_computed(item, {"child_id": "44020320200229", "child_birth": "1999-01-01"}, TODAY) == {"child_id": "44020320200229"}
    judged, rows = forms.judge(item, {}, sample_form(item["form"]) | {"child_id": citizen("20200229")}, FACTS)
    assert (rows, judged["child_birth"]) == ([], "2020-02-29")


@pytest.mark.parametrize(("on", "age"), [(date(2026, 2, 27), 5), (date(2026, 2, 28), 5), (date(2026, 3, 1), 6)])
def test_age_in_years_also_for_those_born_on_29_february(on, age):
    assert rules.value_of({"age_of": "child"}, {"child": citizen("20200229")}, on) == age


@pytest.mark.parametrize(
    ("cell", "error"),
    [("440203198001010012", True), ("91440200MA4X1234X9", True), ("E12345678", False), ("H1234567801", False), ("无", False)],
)
def test_a_number_in_a_table_is_judged_truly_when_it_has_the_shape_of_one(cell, error):
    row = {"姓名": "甲", "公民身份号码": cell, "与申请人关系": "子"}
    assert ("members" in told("hukou_move", members=[row])[0]) == error
    if error:
        with pytest.raises(ValueError, match="不正确|校验"):
            check_document_number(cell)


def test_a_minor_is_asked_for_a_guardian_and_nobody_else_is():
    guardian = {"guardian_name", "guardian_mobile"}
    for age, asked in (("minor", guardian), ("adult", set())):
        assert guardian & {field["key"] for field in forms.visible_fields(ITEMS["passport"], {"age": age}, {})} == asked
    assert told("id_card_first", age_group="minor", guardian_name=None)[0] == {"guardian_name": "required"}
    assert told("id_card_first", age_group="adult", guardian_name=None)[0] == {}


@pytest.mark.parametrize(("alias", "key"), RULED)
def test_every_rule_of_the_catalogue_speaks_to_the_person_in_one_short_sentence(alias, key):
    rule = next(rule for rule in ITEMS[alias]["rules"] if rule["key"] == key)
    assert rule["message"].endswith("。") and len(rule["message"]) <= 60


operands = st.sampled_from(["a", "b", {"value": 16}, {"value": "x"}, {"today": True}, {"age_of": "a"}, {"birth_of": "b"}, {"sum_of": ["t", "c"]}, {"count_of": "t"}])
anything = st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.lists(st.dictionaries(st.sampled_from("cd"), st.text(max_size=5)), max_size=3)


@given(left=operands, right=operands, op=st.sampled_from(sorted(rules.COMPARISONS)), values=st.dictionaries(st.sampled_from("abt"), anything))
def test_no_answer_makes_a_check_fail_in_another_way(left, right, op, values):
    assert rules.holds({"left": left, "is": op, "right": right}, values, TODAY) in (True, False)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"left": "from_month", "is": "<=", "right": "purpose"}, "a day is compared with a text"),
        ({"left": "from_month", "is": "<=", "right": "nowhere"}, "no field 'nowhere'"),
        ({"left": {"age_of": "name"}, "is": "<", "right": {"value": 1}}, "no id_number field"),
        ({"left": {"eval": "1"}, "is": "<", "right": {"value": 1}}, "no function 'eval'"),
        ({"left": {"value": 1}, "is": "~", "right": {"value": 1}}, "want one of"),
        ({"any_of": []}, "want a list of keys"),
        ({"any_of": ["nowhere"]}, "no field 'nowhere'"),
        ({"required": "name"}, "want {left, is, right} or {any_of}"),
        ("1 == 1", "want an object"),
    ],
)
def test_a_wrong_rule_is_told_when_the_catalogue_is_loaded(check, said):
    form = {field["key"]: field for field in ITEMS["tax_paid_cert"]["form"]}
    assert any(said in line for line in rules.check_mistakes(check, form))
