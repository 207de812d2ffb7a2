"""Numbers residents type: judged by rule, never by place."""

from datetime import date

import pytest

from app.kernel import numbers


@pytest.mark.parametrize(
    "number",
    [
        "44020019000101001X",  # the sample data's
        "44020019000101001x",  # a small x is what people type
        "440202195003074514",  # 北江区: a district that is gone lives on in numbers
        "810000199408230021",  # a resident from Hong Kong (81)
        "911124198108030024",  # foreign permanent resident card (9)
    ],
)
def test_place_never_refuses_a_number_with_a_right_check_digit(number):
    assert numbers.check_id_number(number) == number.upper()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("440200190001010011", "逐位核对"),
        ("44020019001301001X", "出生日期"),
        ("440200299001010011", "出生日期"),
        ("4402001900010100", "18位"),
        ("", "18位"),
        ("４４０２００１９０００１０１００１Ｘ", "18位"),
    ],
)
def test_a_wrong_number_is_refused_with_a_reason(number, reason):
    with pytest.raises(ValueError, match=reason):
        numbers.check_id_number(number, on=date(2026, 11, 24))


def test_credit_code_needs_both_check_characters():
    assert numbers.check_credit_code("91440200999009018l") == "91440200999009018L"
    with pytest.raises(ValueError, match="统一社会信用代码"):
        numbers.check_credit_code("91440200999009018M")
    # Outer check character right, inner (GB 11714) wrong: python-stdnum alone lets this one through.
    body = "9144020099900901"
    weights = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    wrong_inner = body + "9"
    outer = alphabet[-sum(w * alphabet.index(c) for w, c in zip(weights, wrong_inner, strict=True)) % 31]
    with pytest.raises(ValueError, match="统一社会信用代码"):
        numbers.check_credit_code(wrong_inner + outer)


@pytest.mark.parametrize("plate", ["粤F12345", "粤f d12345", "粤FD12345", "粤F·12345", "粤F0DOWN"])
def test_plates(plate):
    assert numbers.check_plate(plate).startswith("粤F")


@pytest.mark.parametrize("plate", ["粤F1234", "粤O12345", "粤FI2345", "F12345", "粤F1234567"])
def test_wrong_plates(plate):
    with pytest.raises(ValueError, match="号牌"):
        numbers.check_plate(plate)


def test_masks():
    assert numbers.mask_name("张三") == "张*"
    assert numbers.mask_name("欧阳娜娜") == "欧***"
    assert numbers.mask_id_number("44020019000101001X") == "440***********001X"
    assert numbers.mask_phone("13812345678") == "138****5678"
    assert numbers.mask_plate("粤F00012") == "粤F0**12"
    assert numbers.mask_text("电话13812345678，证号44020019000101001X。") == "电话138****5678，证号440***********001X。"
