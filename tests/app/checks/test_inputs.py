"""Inputs: what is taken, what is refused, which set of keys was meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.checks.inputs import judge, missing_of
from app.kernel.errors import ValidationFailed

FIELDS = [
    {"key": "plate", "label": "号牌", "type": "plate", "hint": "", "required": True},
    {"key": "id_number", "label": "号码", "type": "id_number", "hint": ""},
    {"key": "no", "label": "编号", "type": "text", "hint": "15或16位", "pattern": r"^\d{15,16}$"},
    {"key": "name", "label": "姓名", "type": "text", "hint": ""},
]


def codes(given_) -> dict[str, str]:
    with pytest.raises(ValidationFailed) as caught:
        judge(FIELDS, given_)
    return {row["pointer"]: row["code"] for row in caught.value.errors}


def test_values_are_normalised():
    given_ = {"plate": " 粤f·12345 ", "id_number": "44020019000101001x", "no": "4402 0319 0000 0015", "name": " 张三 "}
    assert judge(FIELDS, given_) == {
        "plate": "粤F12345",
        "id_number": "44020019000101001X",
        "no": "4402031900000015",
        "name": "张三",
    }


def test_blank_and_null_count_as_not_given():
    assert judge(FIELDS, {"plate": "粤F12345", "no": "", "name": None, "id_number": "  "}) == {"plate": "粤F12345"}
    assert codes({"plate": " "}) == {"/inputs/plate": "required"}


@pytest.mark.parametrize(
    ("given_", "pointer"),
    [
        ({"no": "12345678901234"}, "/inputs/no"),
        ({"no": "１２３４５６７８９０１２３４５６x"}, "/inputs/no"),
        ({"no": "٤٤٠٢٠٣١٩٠٠٠٠٠٠١٥"}, "/inputs/no"),  # digits, but not ours
        ({"id_number": "440200190001010011"}, "/inputs/id_number"),
        ({"name": "x" * 65}, "/inputs/name"),
        ({"name": ["张三"]}, "/inputs/name"),
        ({"name": True}, "/inputs/name"),
        ({"name": {"$gt": ""}}, "/inputs/name"),
    ],
)
def test_wrong_values_are_named(given_, pointer):
    assert codes({"plate": "粤F12345", **given_}) == {pointer: "invalid"}


def test_an_unknown_input_is_named_by_an_escaped_pointer():
    assert codes({"plate": "粤F12345", "a/b~c": 1}) == {"/inputs/a~1b~0c": "unknown"}


@given(st.dictionaries(st.text(max_size=10), st.none() | st.booleans() | st.integers() | st.text(max_size=80) | st.lists(st.text())))
def test_nothing_breaks_it(given_):
    try:
        judged = judge(FIELDS, given_)
    except ValidationFailed as error:
        assert error.errors
    else:
        assert all(isinstance(value, str) and value for value in judged.values())


@pytest.mark.parametrize(
    ("given_", "missing"),
    [
        ({}, ["no"]),
        ({"no"}, None),
        ({"plate"}, ["file"]),
        ({"plate", "file"}, None),
        ({"name"}, ["id"]),
    ],
)
def test_the_nearest_set_of_keys_is_completed(given_, missing):
    sets = [["no"], ["id", "name"], ["plate", "file"]]
    assert missing_of(sets, dict.fromkeys(given_, "x")) == missing
