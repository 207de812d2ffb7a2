"""The key ring: sealed fields cannot be moved, changed or opened without the ring; keys rotate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.crypto import KeyRing, SealBroken, make_key_ring


@pytest.fixture(params=["sm4-gcm", "aes-256-gcm"])
def ring(request):
    return KeyRing.from_text(make_key_ring(), request.param)


@given(text=st.text(max_size=200))
def test_what_is_sealed_opens_again(text):
    ring = KeyRing.from_text("k1:" + "A" * 43)
    assert ring.open_sealed(ring.seal(text, context="c"), context="c") == text


def test_sealed_text_is_bound_to_its_record(ring):
    sealed = ring.seal("张三", context="res_1.name")
    with pytest.raises(SealBroken):
        ring.open_sealed(sealed, context="res_2.name")


def test_one_changed_character_is_noticed(ring):
    sealed = ring.seal("张三", context="c")
    swapped = sealed[:-3] + ("A" if sealed[-3] != "A" else "B") + sealed[-2:]
    with pytest.raises(SealBroken):
        ring.open_sealed(swapped, context="c")


def test_a_rotated_ring_opens_old_fields_and_seals_with_the_new_key(ring):
    old = KeyRing.from_text("k1:" + "A" * 43, ring.cipher)
    new = KeyRing.from_text("k2:" + "B" * 42 + "A,k1:" + "A" * 43, ring.cipher)
    assert new.open_sealed(old.seal("张三", context="c"), context="c") == "张三"
    assert new.seal("张三", context="c").startswith("k2.")
    assert old.blind_index("138", purpose="phone") in new.blind_indexes("138", purpose="phone")
    with pytest.raises(SealBroken):
        old.open_sealed(new.seal("张三", context="c"), context="c")


def test_blind_indexes_differ_by_purpose_and_key(ring):
    assert ring.blind_index("138", purpose="phone") == ring.blind_index("138", purpose="phone")
    assert ring.blind_index("138", purpose="phone") != ring.blind_index("138", purpose="id")


def test_a_ring_never_shows_its_secrets(ring):
    assert repr(ring) == f"KeyRing(k1; {ring.cipher})"


@pytest.mark.parametrize("text", ["", "k1:short", "k1:" + "A" * 43 + ",k1:" + "B" * 43, "k 1:" + "A" * 43])
def test_a_broken_ring_is_refused(text):
    with pytest.raises(ValueError):
        KeyRing.from_text(text)
