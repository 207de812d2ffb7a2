"""The state table: no dead end, no unknown name, and exactly the states of the API contract."""

from app.cases import machine
from app.cases.model import FINAL, STATE_NAMES, State


def test_every_state_but_the_last_ones_leads_somewhere():
    for state in State:
        leads = {target for step in machine.TABLE if state in step.sources for target in step.targets}
        assert bool(leads) != (state in FINAL), state


def test_every_state_is_reached_from_a_draft():
    reached, waiting = {State.DRAFT}, [State.DRAFT]
    while waiting:
        state = waiting.pop()
        for step in machine.TABLE:
            for target in step.targets if state in step.sources else ():
                if target not in reached:
                    reached.add(target)
                    waiting.append(target)
    assert reached == set(State)


def test_from_each_state_one_can_still_reach_an_end():
    def ends(state, seen):
        if state in FINAL:
            return True
        nexts = {target for step in machine.TABLE if state in step.sources for target in step.targets} - seen
        return any(ends(target, seen | {target}) for target in nexts)

    assert all(ends(state, {state}) for state in State)


def test_a_name_is_taken_at_most_once_from_a_state():
    for state in State:
        names = [step.name for step in machine.TABLE if state in step.sources]
        assert len(names) == len(set(names)), state


def test_states_have_names_for_residents():
    assert set(STATE_NAMES) == set(State)
