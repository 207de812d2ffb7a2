"""The plan of a run: who lives in the town, what is told to whom, and what goes wrong, drawn from a seed before anything happens. Pure."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from push.lanes import CAMPAIGN, ORDINARY, URGENT

WORKERS = ("worker-1", "worker-2", "worker-3")
WEB = "web"
# What a call to a vendor meets, by the kind of the message: `a` as it comes, `d` nobody there for good, `r` refused by everybody.
MARKER = r"M([adr])(\d{7})"
_LUCK: Mapping[str, Mapping[str, float]] = {
    "wechat": {
        "down": 0.01, "lost": 0.015, "slow": 0.002, "late": 0.03, "error500": 0.01, "rate_limited": 0.01, "garbage": 0.004, "token": 0.002,
        "43101": 0.03, "47003": 0.01, "40003": 0.005, "41030": 0.005, "43107": 0.002,
    },
    "alipay": {
        "down": 0.01, "lost": 0.015, "slow": 0.002, "late": 0.03, "error500": 0.01, "rate_limited": 0.01, "garbage": 0.004,
        "USER_NOT_SUBSCRIBE": 0.03, "DATA_INVALID": 0.005,
    },
    "jpush": {
        "down": 0.01, "lost": 0.02, "slow": 0.002, "late": 0.03, "error500": 0.01, "rate_limited": 0.01, "garbage": 0.004, "1030": 0.01,
        "1011": 0.01,
    },
    "sms": {"down": 0.01, "lost": 0.02, "slow": 0.002, "late": 0.03, "error500": 0.01, "rate_limited": 0.01, "garbage": 0.004, "400": 0.01},
}  # fmt: skip
_NOBODY_THERE = {"error500": 0.5, "down": 0.5}
_REFUSALS = {"wechat": "43101", "alipay": "USER_NOT_SUBSCRIBE", "jpush": "1011", "sms": "400"}
# The quota of the day: a few calls meet it, and then WeChat is not asked any more. Only in a part of the runs, or WeChat would hardly take part.
_QUOTA = 0.0004

URGENT_EVENTS = ("case.fee_due", "case.supplement_requested", "case.supplement_reminder", "case.fee_reminder")
ORDINARY_EVENTS = ("case.accepted", "case.approved", "case.delivering", "case.suspended", "case.denied")
MERGING_EVENTS = ("case.resumed", "case.deadline_changed", "case.escalated", "case.correction_answered")
CAMPAIGN_EVENT = "case.transferred"  # in a run it goes by the lane of campaigns


@dataclass(frozen=True)
class Person:
    """Who can be reached how. `grants`: messages of each WeChat template that the hall believes are allowed; WeChat may know of fewer."""

    number: int
    channels: frozenset[str]
    grants: int
    grants_at_wechat: int | None
    reports: tuple[str, ...] | None  # what the gateway reports of each text message; None: nothing ever
    report_delay_s: float
    report_repeat: int
    muted: tuple[str, ...] = ()
    elder: bool = False
    quiet: bool = False
    language: str = "zh"


@dataclass(frozen=True)
class Intent:
    """One event that a person is to be told of. `subject`: intents of one person with the same subject may be merged."""

    number: int
    person: int
    event: str
    lane: str
    kind: str  # of bad luck
    subject: int

    @property
    def marker(self) -> str:
        return f"M{self.kind}{self.number:07d}"


@dataclass(frozen=True)
class Mishap:
    """At this part of the way (0 to 1): `kill` a process after so many points (mortal.py) or at a commit, `flush` Redis."""

    at: float
    kind: str
    process: str = ""
    dies_after: int = 0
    dies_at: str = ""


@dataclass(frozen=True)
class Plan:
    seed: int
    people: tuple[Person, ...]
    intents: tuple[Intent, ...]
    mishaps: tuple[Mishap, ...]
    shares: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def command(self) -> str:
        return f"./hall simulate messages --seed {self.seed} --intents {len(self.intents)}"


def make_plan(seed: int, intents: int, *, deaths: int | None = None, luck: bool = True) -> Plan:
    """Return the plan of a seed; the same one each time.

    Args:
        deaths: of processes; by default as many as fit the size.
        luck: whether vendors have bad luck at all.
    """
    chance = random.Random(seed)
    people = tuple(_person(chance, number, luck) for number in range(max(40, intents // 2)))
    rows = tuple(_intents(chance, people, intents, luck))
    deaths = max(4, min(120, intents // 500)) if deaths is None else deaths
    return Plan(seed, people, rows, tuple(_mishaps(chance, deaths)), _shares(chance) if luck else {})


def _person(chance: random.Random, number: int, luck: bool) -> Person:
    reach = frozenset(name for name, share in (("wechat", 0.5), ("alipay", 0.3), ("app", 0.3), ("sms", 0.85)) if chance.random() < share)
    grants = chance.choice((0, 2, 5, 9, 30))
    told = chance.random()
    reports: tuple[str, ...] | None = ("DELIVRD",)
    if luck:
        reports = None if told < 0.03 else ("UNDELIV",) if told < 0.06 else ("DELIVRD", "UNDELIV") if told < 0.07 else ("DELIVRD",)
    return Person(
        number,
        reach,
        grants,
        max(0, grants - 2) if luck and chance.random() < 0.1 else None,
        reports,
        chance.choice((0.0, 0.2, 1.0, 5.0)),
        3 if luck and chance.random() < 0.03 else 1,
        muted=chance.choice(((), (), (), (), (), (), (), ("wechat",), ("sms",), ("alipay",))),
        elder=chance.random() < 0.05,
        quiet=chance.random() < 0.02,
        language="en" if chance.random() < 0.03 else "zh",
    )


def _intents(chance: random.Random, people: tuple[Person, ...], count: int, luck: bool) -> list[Intent]:
    """Half of them a campaign, which comes at once and first; then an eighth urgent, the rest as the day brings them, well mixed."""
    rows: list[Intent] = []
    last_merging: dict[int, int] = {}
    for number in range(count):
        drawn = chance.random()
        kind = "a" if not luck or drawn < 0.985 else "d" if drawn < 0.99 else "r"
        person = chance.randrange(len(people))
        if number < count // 2:  # a campaign reaches everybody once
            rows.append(Intent(number, number, CAMPAIGN_EVENT, CAMPAIGN, kind, number))
        elif chance.random() < 0.25:
            rows.append(Intent(number, person, chance.choice(URGENT_EVENTS), URGENT, kind, number))
        elif chance.random() < 0.3:
            subject = last_merging.get(person, number) if chance.random() < 0.7 else number
            last_merging[person] = subject
            rows.append(Intent(number, person, chance.choice(MERGING_EVENTS), ORDINARY, kind, subject))
        else:
            rows.append(Intent(number, person, chance.choice(ORDINARY_EVENTS), ORDINARY, kind, number))
    return rows


def _mishaps(chance: random.Random, deaths: int) -> list[Mishap]:
    rows = [Mishap((0.05 + 0.9 * (turn + chance.random())) / max(deaths, 1) * 0.95, *_death(chance)) for turn in range(deaths)]
    rows += [Mishap(chance.uniform(0.1, 0.9), "flush") for _ in range(2 if deaths else 0)]
    return sorted(rows, key=lambda row: row.at)


def _death(chance: random.Random) -> tuple[Any, ...]:
    process = chance.choice((*WORKERS, *WORKERS, WEB))
    if chance.random() < 0.4:
        return "kill", process, chance.randint(1, 5), chance.choice(("before", "after"))
    return "kill", process, chance.randint(1, 60)


def _shares(chance: random.Random) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    usual = {vendor: dict(luck) for vendor, luck in _LUCK.items()}
    if chance.random() < 0.25:
        usual["wechat"]["45009"] = _QUOTA
    return {
        "a": usual,
        "d": {vendor: _NOBODY_THERE for vendor in _LUCK},
        "r": {vendor: {code: 1.0} for vendor, code in _REFUSALS.items()},
    }
