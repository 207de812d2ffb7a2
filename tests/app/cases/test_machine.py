"""The state table: no dead end, no unknown name, one row per question, and exactly the states of the API contract."""

import itertools

from app.cases import diagram, guards, machine
from app.cases.model import CLOCK_OF, FINAL, STATE_NAMES, State
from app.kernel.printed import with_printed
from config.settings import ROOT

C = machine.Clock


def test_every_state_but_the_last_ones_leads_somewhere():
    for state in State:
        leads = {step.target for step in machine.TABLE if state in step.sources and step.target}
        assert bool(leads) != (state in FINAL), state


def test_every_state_is_reached_from_a_draft():
    reached, waiting = {State.DRAFT}, [State.DRAFT]
    while waiting:
        state = waiting.pop()
        for step in machine.TABLE:
            if state in step.sources and step.target and step.target not in reached:
                reached.add(step.target)
                waiting.append(step.target)
    assert reached == set(State)


def test_two_rows_of_one_name_differ_in_actor_source_or_target():
    for one, other in itertools.combinations(machine.TABLE, 2):
        if one.name == other.name and one.actor == other.actor and one.sources & other.sources:
            assert one.target != other.target, one.name


def test_the_clock_a_step_leaves_running_is_the_one_of_its_target_state():
    starts = {
        C.STARTS_ACCEPTANCE: "acceptance", C.STARTS_DECISION: "decision", C.RESUMES_DECISION: "decision",
        C.STARTS_DELIVERY: "delivery", C.RESUMES_DELIVERY: "delivery",
    }  # fmt: skip
    stops = {C.STOPS_ACCEPTANCE, C.STOPS_DECISION, C.STOPS_DELIVERY, C.ENDS}
    for step in machine.TABLE:
        if step.clock in starts:
            assert CLOCK_OF.get(step.target) == starts[step.clock], step.name
        elif step.clock in stops:
            assert step.target not in CLOCK_OF, step.name
        else:
            for source in step.sources if step.target else ():
                assert CLOCK_OF.get(source) == CLOCK_OF.get(step.target), step.name


def test_every_guard_has_a_name_for_the_docs_and_those_people_meet_have_a_sentence():
    for step in machine.TABLE:
        assert step.guard.__doc__, step.name
        if step.actor != machine.SYSTEM and step.guard is not guards.always:
            assert step.guard in guards.REASONS, step.name


def test_states_have_names_for_residents():
    assert set(STATE_NAMES) == set(State)


def test_the_docs_show_the_table_as_it_is():
    page = (ROOT / "docs" / "cases.md").read_text(encoding="utf-8")
    assert with_printed(page, diagram.printed()) == page, "run: python -m app.cases.diagram docs/cases.md"
    assert all(f"`{row.name}`" in page for row in machine.TABLE)
