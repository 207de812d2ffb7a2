"""How long a licence is valid, by the rules of the catalogue as they are."""

from datetime import date

import orjson
import pytest

from app.licences.terms import DATED, ON_DOCUMENT, OPEN, Term, born_on, own_term, term_of
from config.settings import ROOT

RULES = {row["code"]: row["validity"] for row in orjson.loads((ROOT / "config/catalogue/licences.json").read_bytes())["licences"]}
ITEMS = {row["alias"]: row for row in orjson.loads((ROOT / "config/catalogue/items.json").read_bytes())["items"]}
ISSUED = date(2026, 11, 30)


@pytest.mark.parametrize(
    ("code", "born", "until"),
    [
        ("LIC-IDCARD", date(2010, 12, 1), date(2031, 11, 30)),  # still 15: five years
        ("LIC-IDCARD", date(2010, 11, 30), date(2036, 11, 30)),  # 16 today
        ("LIC-IDCARD", date(1990, 1, 1), date(2046, 11, 30)),
        ("LIC-IDCARD", date(1980, 11, 30), None),  # 46 today: for good
        ("LIC-PASSPORT", date(2012, 1, 1), date(2031, 11, 29)),
        ("LIC-HKM", date(1990, 1, 1), date(2036, 11, 29)),
    ],
)
def test_by_age(code, born, until):
    term = term_of(RULES[code], ISSUED, born_on=born)
    assert (term.valid_from, term.valid_to, term.basis) == (ISSUED, until, DATED if until else OPEN)


def test_what_goes_by_an_unknown_age_or_stands_on_the_document_is_not_guessed():
    assert term_of(RULES["LIC-PASSPORT"], ISSUED).basis == ON_DOCUMENT
    assert term_of(RULES["LIC-LOGGING"], ISSUED).basis == ON_DOCUMENT
    assert term_of(RULES["LIC-DRIVER"], ISSUED).basis == ON_DOCUMENT


@pytest.mark.parametrize(
    ("code", "until"),
    [
        ("LIC-FOOD", date(2031, 11, 29)), ("LIC-HYGIENE", date(2030, 11, 29)), ("LIC-NURSE", date(2031, 11, 29)),
        ("LIC-RESIDENCE", date(2027, 11, 29)), ("LIC-NOCRIME", date(2027, 2, 28)), ("LIC-BIZ", None), ("LIC-VEHICLE", None),
    ],
)  # fmt: skip
def test_by_years_and_months(code, until):
    assert term_of(RULES[code], ISSUED).valid_to == until


def test_a_term_that_begins_on_a_day_its_last_month_lacks_ends_with_that_month():
    assert term_of({"kind": "fixed_years", "years": 1}, date(2028, 2, 29)).valid_to == date(2029, 2, 28)
    assert term_of({"kind": "usage", "months": 1}, date(2027, 1, 31)).valid_to == date(2027, 2, 28)


def test_a_driving_licence_goes_from_six_years_to_ten_to_no_end():
    first = Term(date(2021, 1, 5), date(2027, 1, 5), DATED, 6)
    second = term_of(RULES["LIC-DRIVER"], ISSUED, earlier=first)
    assert (second.years, second.valid_to) == (10, date(2036, 11, 30))
    third = term_of(RULES["LIC-DRIVER"], ISSUED, earlier=second)
    assert (third.basis, third.valid_to) == (OPEN, None)
    assert term_of(RULES["LIC-DRIVER"], ISSUED, earlier=third).basis == OPEN
    # One that was lost is replaced, and ends when it would have ended.
    lost = term_of(RULES["LIC-DRIVER"], ISSUED, own=own_term(ITEMS["driver_lost"]["result"]["terms"], {}), earlier=first)
    assert (lost.valid_to, lost.years) == (date(2027, 1, 5), 6)
    assert term_of(RULES["LIC-DRIVER"], ISSUED, own={"as_before": True}).basis == ON_DOCUMENT


def test_a_renewed_term_follows_the_old_one_without_a_gap():
    old = Term(date(2022, 2, 1), date(2027, 1, 31), DATED, 5)
    assert term_of(RULES["LIC-NURSE"], ISSUED, earlier=old, is_renewal=True) == Term(date(2027, 2, 1), date(2032, 1, 31), DATED, 5)
    late = Term(date(2021, 2, 1), date(2026, 1, 31), DATED, 5)
    assert term_of(RULES["LIC-NURSE"], ISSUED, earlier=late, is_renewal=True).valid_from == ISSUED
    # The office was late and not the holder: still no gap.
    assert term_of(RULES["LIC-NURSE"], ISSUED, earlier=late, is_renewal=True, in_time=True).valid_from == date(2026, 2, 1)


def test_an_endorsement_has_its_own_length():
    terms = ITEMS["hkm_endorse"]["result"]["terms"]
    assert term_of(RULES["LIC-HKM"], ISSUED, own=own_term(terms, {"entries": "1"})).valid_to == date(2027, 2, 28)
    assert term_of(RULES["LIC-HKM"], ISSUED, own=own_term(terms, {"entries": "m"})).valid_to == date(2027, 11, 29)


def test_every_kind_of_the_catalogue_has_a_rule_that_is_understood():
    for code, rule in RULES.items():
        term = term_of(rule, ISSUED, born_on=date(1990, 1, 1), earlier=Term(ISSUED, ISSUED, DATED, 6))
        assert term.basis in (DATED, OPEN, ON_DOCUMENT), code
        assert (term.valid_to is not None) == (term.basis == DATED), code


def test_the_day_of_birth_in_a_citizen_number():
    assert born_on("440203199001010018") == date(1990, 1, 1)
    assert born_on("440203199013010018") is None
    assert born_on("") is None
