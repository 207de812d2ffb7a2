"""The model check: every path through the table up to twelve steps, taken with the real steps. And that it can fail."""

import itertools
from dataclasses import replace

import pytest

from app.cases import guards, machine, steps
from app.cases.model import RENEWABLE, Fee, State
from tests.app.cases.walking import BEGIN, MOVES, STEPS, draft, item, walk


def fee(when_paid):
    return Fee("f", "工本费", 100, when_paid, "依据")


VARIANTS = [
    draft(item()),
    draft(item(delivers=False), (fee("on_application"),)),
    draft(item(tolerate_missing=False, commitment=False), (fee("on_acceptance"),)),
    draft(item(supplement_expiry="keep", notice_limit={"days": 0, "unit": "working"}), (fee("before_issue"),)),
    draft(
        item(deferral_until="delivery", item_type={"code": "20"}),
        tuple(map(fee, ("on_application", "on_acceptance", "before_issue"))),
    ),
]
# Departments side by side and in turn, stages, a second person; and what rules decide. Without promises, so that the walk stays small.
ROUTING = frozenset(
    "submit withdraw accept claim suspend resume decide propose finish_stage transfer give_opinion audit_sample auto_accept auto_approve"
    " deliver".split()
)
_PLAIN = {"commitment": False, "tolerate_missing": False}
JOINT = [
    draft(
        item(
            joint_review=[
                {"agency": "d", "task": "核验", "days": 1, "mode": "parallel"},
                {"agency": "e", "task": "审查", "days": 3, "mode": "parallel"},
            ],
            refusal_rule=rule,
            four_eyes=["denied"],
            steps=[{"stage": "survey", "name": "现场查验", "days": 2}, {"stage": "review", "name": "审查", "days": 1}],
            **_PLAIN,
        )
    )
    for rule in ("all_of", "lead_decides")
]
BY_RULES = [draft(item(auto_decide=True, auto_rules={"name": "r", "version": 1, "checks": [], "sample_percent": 100}, **_PLAIN))]
BY_RULES[0] = replace(
    BY_RULES[0], case=replace(BY_RULES[0].case, auto={"at": BEGIN, "rule_set": "r", "version": 1, "facts": [], "doubts": []})
)

# A licence stands in for a material, and is lost and good again at any time.
LICENSED = [draft(item(**_PLAIN), (fee("before_issue"),))]
LICENSED[0] = replace(LICENSED[0], case=replace(LICENSED[0].case, materials={"plan": {"files": [], "licence_id": "l"}}))
LICENCES = frozenset(
    "submit withdraw accept claim suspend resume decide replace_material lose_licence regain_licence deliver fee_paid".split()
)
# A hearing before a denial, or before any decision.
HEARD = [draft(item(hearing=kind, **_PLAIN)) for kind in ("on_application", "required")]
HEARINGS = frozenset("submit withdraw accept claim tell_hearing ask_hearing waive_hearing suspend resume decide deliver".split())
# A licence is renewed: noted at any time after submission, and granted by law when the old term ends.
RENEWED = [
    draft(item(renewal={"licence": "L", "before": {"days": 30, "unit": "calendar"}, "law": "许可法 50"}, hearing="on_application", **_PLAIN),
          fees)
    for fees in ((), (fee("on_acceptance"),), (fee("before_issue"),))
]  # fmt: skip
RENEWALS = frozenset(
    "submit withdraw accept request_supplement supplement claim suspend resume extend decide deliver fee_paid note_renewal".split()
)


def few(names):
    return tuple(move for move in MOVES if move[0] in names)


def walks_of(most):
    # Each kind of item by itself: worlds of different rules are different though they look alike. What has nothing to do with a kind is
    # walked with the other items.
    return [
        walk(VARIANTS, most=most),
        *(walk([start], few(ROUTING), most=most) for start in JOINT),
        walk(BY_RULES, few(ROUTING), most=most),
        walk(LICENSED, few(LICENCES), most=most),
        *(walk([start], few(HEARINGS), most=most) for start in HEARD),
        *(walk([start], few(RENEWALS), most=most) for start in RENEWED),
    ]


def short(found):
    return sorted(set(found.problems))[:10]


@pytest.mark.long
def test_every_path_of_twelve_steps_ends_somewhere_and_no_clock_runs_while_it_is_stopped():
    walks = walks_of(STEPS)
    assert [short(found) for found in walks] == [[]] * len(walks)
    assert walks[0].depth == STEPS
    taken = set().union(*(found.taken for found in walks))
    never = [row for row in machine.TABLE if row not in taken and row.name != "recompute"]
    assert [(row.name, row.actor, row.target) for row in never] == [], "every row was walked"
    assert walks[0].worlds > 10_000


def test_every_path_of_eight_steps_of_every_kind_of_item():
    walks = walks_of(8)
    assert [short(found) for found in walks] == [[]] * len(walks)
    assert walks[0].worlds > 200


def planted(monkeypatch, rows, removed=()):
    table = tuple(
        row for row in machine.TABLE if not any(row.name == name and state in row.sources for name, state in removed)
    )
    monkeypatch.setattr(machine, "_rows", machine._rows.__wrapped__)  # not what was kept of the true table
    monkeypatch.setattr(machine, "TABLE", (*table, *rows))


def test_it_finds_a_way_out_of_a_suspension_that_forgets_to_end_it(monkeypatch):
    bad = replace(next(row for row in machine.TABLE if row.name == "resume"), name="skip", target=State.ACCEPTED)
    planted(monkeypatch, [bad])
    skip = ("skip", machine.CLERK, None, lambda w: steps.advance(w.case, "skip", machine.CLERK, w.now, by="x"))
    assert any("the clock runs while it is stopped" in problem for problem in walk(VARIANTS[:1], (*MOVES, skip), 6).problems)


def test_it_finds_a_second_suspension(monkeypatch):
    suspend = next(row for row in machine.TABLE if row.name == "suspend")
    planted(monkeypatch, [replace(suspend, sources=frozenset({State.SUSPENDED}))])
    assert any("two stops at once" in problem for problem in walk(VARIANTS[:1], most=6).problems)


def test_it_finds_a_dead_end(monkeypatch):
    rows = [(name, State.SUSPENDED) for name in ("resume", "withdraw")]
    rest = [
        replace(row, sources=row.sources - {State.SUSPENDED})
        for row in machine.TABLE
        if (row.name, State.SUSPENDED) in rows and len(row.sources) > 1
    ]
    planted(monkeypatch, rest, rows)
    assert "dead end: suspended" in walk(VARIANTS[:1], most=7).problems


def test_it_finds_a_step_that_the_table_does_not_know(monkeypatch):
    planted(monkeypatch, [], [("hand_in", State.ACCEPTED)])
    smuggled = (
        "hand_in",
        machine.RESIDENT,
        None,
        lambda w: steps.Moved(replace(w.case, pre_review={"at": w.now, "note": ""})),
    )
    assert any("not in the table" in problem for problem in walk(VARIANTS[:1], (*MOVES, smuggled), 3).problems)


def test_it_finds_silence(monkeypatch):
    monkeypatch.setattr(machine, "_rows", machine._rows.__wrapped__)  # not what was kept of the true table
    monkeypatch.setattr(machine, "TABLE", tuple(row for row in machine.TABLE if row.name != "deem_accepted"))
    assert any("passed in silence" in problem for problem in walk(VARIANTS[:1], most=4).problems)


def test_a_renewal_is_granted_by_law_from_every_state_in_which_the_office_could_decide(monkeypatch):
    taken = set().union(*(walk([start], few(RENEWALS), most=6).taken for start in RENEWED))
    assert {"deem_renewed", "note_renewal"} <= {row.name for row in taken}
    assert next(row for row in machine.TABLE if row.name == "deem_renewed").sources == RENEWABLE
    without = tuple(row for row in machine.TABLE if row.name != "deem_renewed")
    monkeypatch.setattr(machine, "_rows", machine._rows.__wrapped__)  # not what was kept of the true table
    monkeypatch.setattr(machine, "TABLE", without)
    assert any("ended in silence" in problem for problem in walk(RENEWED[:1], few(RENEWALS), most=6).problems)


@pytest.mark.parametrize("row", machine.TABLE, ids=lambda row: f"{row.name}-{row.actor}")
def test_a_guard_is_a_pure_function(row):
    start = VARIANTS[0]
    for state in row.sources:
        if state is State.SUSPENDED and row.guard is guards.suspension_too_long:
            continue
        case = replace(start.case, state=state)
        assert len({row.guard(case, start.today) for _ in range(3)}) == 1


def test_the_walk_is_the_same_every_time():
    one, other = (walk(VARIANTS[:1], most=5) for _ in range(2))
    assert (one.worlds, one.problems) == (other.worlds, other.problems)
    assert not list(itertools.filterfalse(lambda row: row in machine.TABLE, one.taken))
