"""Ids sort by time, within a millisecond too."""

import re

from app.kernel.ids import new_id, random_code, ulid


def test_ids_are_increasing_and_well_formed():
    ids = [new_id("case") for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"case_[0-9A-HJKMNP-TV-Z]{26}", one) for one in ids)


def test_a_payment_number_fits_both_providers():
    assert len(f"pay_{ulid()}") == 30


def test_codes_that_people_type_hold_no_look_alikes():
    assert not set("".join(random_code(8) for _ in range(500))) & set("0O1IL2Z5S8B")
