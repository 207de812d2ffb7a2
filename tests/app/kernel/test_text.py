"""What nobody sees is taken out of what people type; what a font cannot draw is named on paper."""

import pytest

from app.kernel.pdf import drawn
from app.kernel.text import without_unseen


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("张\u200b示例\ufeff", "张示例"),  # copied from a page
        ("100\u202e000\u202c元", "100000元"),  # would read 000 backwards
        ("a\x00b\x07c\x0bd\x7f\x85", "abcd"),
        ("第一行\n第二行\t表", "第一行\n第二行\t表"),
        ("买买提·吐尔逊 𠮷 \U0001f469\u200d\U0001f467", "买买提·吐尔逊 𠮷 \U0001f469\u200d\U0001f467"),
    ],
)
def test_what_nobody_sees_is_left_out_and_nothing_else(typed, kept):
    assert without_unseen(typed) == kept


@pytest.mark.parametrize(
    ("text", "on_paper"),
    [
        ("𠮷示例", "［U+20BB7］示例"),
        ("𬭎䶮㛃·喆", "𬭎䶮㛃·喆"),  # rare characters of names that the font has
        ("好\U0001f600", "好［U+1F600］"),
        ("a\u202eb\u200d\ufe0f\ufffe", "ab"),
        ("行\r\n\t列", "行\n    列"),
        ("［U+20BB7］", "［U+20BB7］"),  # drawn twice is drawn once
    ],
)
def test_a_character_without_a_shape_is_named_and_does_not_vanish(text, on_paper):
    assert drawn(text) == on_paper
    assert drawn(on_paper) == on_paper
