"""Yuan text and fen are one amount, exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.money import fen_from_yuan, yuan_text


@given(st.integers(0, 10**13))
def test_there_and_back(fen):
    assert fen_from_yuan(yuan_text(fen)) == fen


@pytest.mark.parametrize(("text", "fen"), [("0.01", 1), ("0.10", 10), ("1", 100), ("1.5", 150), ("99999999.99", 9999999999)])
def test_known_amounts(text, fen):
    assert fen_from_yuan(text) == fen


@pytest.mark.parametrize("text", ["0.001", "1e2", "-1", "+1", " 1", "1 ", "01", ".5", "1.", "", "1,000", "１", "NaN"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="not an amount"):
        fen_from_yuan(text)


def test_negative_amounts_are_written_with_their_sign():
    assert yuan_text(-5) == "-0.05"
