"""The tables and the local rules: what stands in the docs and the messages is what the code does; wrong rules stop the start."""

import orjson
import pytest

from app.feedback import machine, printed
from app.feedback.model import read_rules
from app.kernel.printed import with_printed
from config.settings import ROOT
from push.model import EVENTS
from push.templates import load_templates


def test_the_docs_show_the_tables_as_they_are():
    page = (ROOT / "docs" / "feedback.md").read_text(encoding="utf-8")
    assert with_printed(page, printed.printed()) == page, "run: python -m app.feedback.printed docs/feedback.md"


def test_every_state_and_step_has_a_name_and_every_guard_a_sentence():
    for kind, table in machine.TABLES.items():
        assert {row.name for row in table} <= set(machine.STEP_NAMES)
        assert {state for row in table for state in (*row.sources, row.target) if state} == set(machine.STATE_NAMES[kind])
        assert all(row.guard.__doc__ for row in table)
        # A clock that runs can be told of when it has passed.
        clocks = {state for of, state in machine.CLOCK_OF if of == kind}
        assert clocks == set(next(row.sources for row in table if row.name == "warn"))


def test_what_residents_are_told_of_is_what_the_tables_and_the_cards_tell():
    told = {row.event for table in machine.TABLES.values() for row in table}
    told |= {"call_back.opened", "complaint.submitted", "call_back.escalated", "complaint.escalated"}
    assert set(EVENTS["feedback"]) <= told
    assert set(EVENTS["feedback"]) <= set(load_templates().specs)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("working_days", "call_back", "contact"), 0), (("working_days", "complaint", "answer"), "15"), (("link_days",), None),
        (("tags", "online", "6"), ["好"]), (("tags", "elsewhere"), {}), (("complaints_per_day",), 0), (("surprise",), 1),
    ],
)  # fmt: skip
def test_wrong_rules_stop_the_start(tmp_path, path, value):
    rules = orjson.loads((ROOT / "config" / "feedback.json").read_bytes())
    place = rules
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "feedback.json"
    file.write_bytes(orjson.dumps(rules))
    with pytest.raises(ValueError, match="feedback.json"):
        read_rules(file)
