"""How long a licence is valid: from its kind's rule in the catalogue (`licences.json`, `validity`) and what is known of its holder. Pure.

What the hall cannot know is not guessed: a kind whose day stands on the document itself has none here (`on_document`).
"""

import calendar
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from app.catalogue.model import applies

DATED, OPEN, ON_DOCUMENT = "dated", "open", "on_document"
# Which kinds of rule give a day, and which have no end while the thing itself lasts.
_OPEN_KINDS = frozenset({"permanent", "until_changed", "live", "per_child", "inspection"})
REMIND_DAYS = (90, 30, 7)


@dataclass(frozen=True)
class Term:
    """The validity of one licence.

    Attributes:
        valid_from, valid_to: Shanghai days, both included; `valid_to` None: see `basis`.
        basis: `dated`; `open`: no end; `on_document`: the day stands on the document, and the hall does not know it.
        years: of a dated term, when the rule counts in years; decides the next step of a rule in tiers.
    """

    valid_from: date
    valid_to: date | None
    basis: str
    years: int | None = None


def term_of(
    validity: Mapping[str, Any],
    issued_on: date,
    *,
    own: Mapping[str, Any] | None = None,
    born_on: date | None = None,
    earlier: Term | None = None,
    is_renewal: bool = False,
    in_time: bool = False,
) -> Term:
    """Return the term of a licence issued on a day.

    Args:
        validity: the rule of its kind.
        own: the row of the item's `result.terms` that fits the answers: another length, or `as_before`.
        born_on: the holder's day of birth, for rules by age.
        earlier: the term of the holder's present licence of this kind, when the hall knows it.
        is_renewal: `earlier` is renewed (延续): the new term follows the old one, unless that has run out meanwhile.
        in_time: applied for in time, so that it follows also then: the office's delay makes no gap.
    """
    start = issued_on
    if is_renewal and earlier is not None and earlier.valid_to is not None and (in_time or earlier.valid_to >= issued_on):
        start = earlier.valid_to + timedelta(days=1)
    last_day = validity.get("last_day", "day_before")
    if own is not None:
        if own.get("as_before"):
            return Term(issued_on, earlier.valid_to, earlier.basis, earlier.years) if earlier else Term(issued_on, None, ON_DOCUMENT)
        return Term(start, _end(start, own["months"], "day_before"), DATED)
    kind = validity["kind"]
    if kind in _OPEN_KINDS:
        return Term(issued_on, None, OPEN)
    if kind in ("fixed_years", "annual_endorse"):
        return _years(start, validity["years"], last_day)
    if kind == "usage":
        return Term(start, _end(start, validity["months"], last_day), DATED)
    if kind == "by_age" and born_on is not None:
        age = _age(born_on, issued_on)
        rule = next(rule for rule in validity["rules"] if rule["max_age"] is None or age <= rule["max_age"])
        return _years(start, rule["years"], last_day)
    if kind == "tiered_years" and earlier is not None:
        if earlier.basis == OPEN:
            return Term(issued_on, None, OPEN)
        if earlier.years in validity["years"]:
            tiers: Sequence[int | None] = validity["years"]
            return _years(start, tiers[min(tiers.index(earlier.years) + 1, len(tiers) - 1)], last_day)
    return Term(issued_on, None, ON_DOCUMENT)


def own_term(terms: Sequence[Mapping[str, Any]], answers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the first row of an item's `result.terms` that fits the answers, or None."""
    return next((row for row in terms if applies(row.get("when"), answers)), None)


def born_on(id_number: str) -> date | None:
    """Return the day of birth in a citizen number (GB 11643), or None when there is none in it."""
    try:
        return date(int(id_number[6:10]), int(id_number[10:12]), int(id_number[12:14])) if len(id_number) == 18 else None
    except ValueError:
        return None


def _years(start: date, years: int | None, last_day: str) -> Term:
    if years is None:
        return Term(start, None, OPEN)
    return Term(start, _end(start, 12 * years, last_day), DATED, years)


def _end(start: date, months: int, last_day: str) -> date:
    """Return the last day of so many months: the day before the same day of the month, or that day itself (`anniversary`)."""
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    days = calendar.monthrange(year, month + 1)[1]
    # Without such a day in the last month the term ends with that month (民法典 art. 202).
    if start.day > days:
        return date(year, month + 1, days)
    same = date(year, month + 1, start.day)
    return same if last_day == "anniversary" else same - timedelta(days=1)


def _age(born: date, on: date) -> int:
    return on.year - born.year - ((on.month, on.day) < (born.month, born.day))
