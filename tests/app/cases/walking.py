"""Walks through the life of a case: every move that anybody can try in a state, taken with the hall's own steps."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from app.cases import auto_decision, corrections, handling, hearings, machine, promises, renewals, replacements, routing, steps, sweeps
from app.cases.errors import ActionNotAllowed
from app.cases.model import FINAL, RENEWABLE, Case, Fee, State, card_of, look_on, reminder_of, renewal_ends_on
from app.cases.procedure import rules_of
from app.cases.steps import Moved
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import shanghai_day
from tests.app.cases.counting import DAY, last_day

CALENDAR = WorkingCalendar.load(Path(__file__).resolve().parents[3] / "config" / "calendars")
BEGIN = datetime(2026, 3, 2, 2, tzinfo=UTC)
STEPS = 12
FOLLOW = ("require_fee", "complete")  # change the state as a consequence of another step


def item(*, delivers: bool = True, **changes: Any) -> dict[str, Any]:
    """A small item that offers everything: a material that may come later, one that may be promised, an extension."""
    return {
        "item_type": {"code": "01"},
        "commitment": True,
        "tolerate_missing": True,
        "materials": [
            {"key": "plan", "name": "方案", "source": "applicant", "can_defer": True},
            {"key": "proof", "name": "证明", "source": "government", "can_defer": False},
        ],
        "promised_limit": {"days": 5, "unit": "working"},
        "legal_limit": {"days": 20, "unit": "calendar"},
        "steps": [{"stage": "deliver"}] if delivers else [],
        **changes,
    }


@dataclass(frozen=True)
class World:
    """A case on a day, of an item with some fees."""

    case: Case
    now: datetime
    item: Mapping[str, Any]
    fees: tuple[Fee, ...]

    @property
    def today(self) -> date:
        return shanghai_day(self.now)

    def key(self) -> tuple[Any, ...]:
        """What makes two worlds equal for the question what can come next."""
        case, today = self.case, self.today
        return (
            case.state, case.resume_state, case.clock, min(len(case.supplements), 2), case.pre_review is not None, case.decision is not None,
            tuple(fee.state for fee in case.fees), min(len(case.suspensions), 1), case.extension is not None,
            tuple((each.key, each.met_at is not None, bool(each.due_on and today > each.due_on)) for each in case.promises),
            bool(case.lost_materials), any(held.get("licence_id") and not held.get("lost") for held in case.materials.values()),
            tuple(bool((case.hearing or {}).get(mark)) for mark in ("told_at", "asked_at", "waived_at", "held_on")),
            bool(case.hearing and today > date.fromisoformat(case.hearing.get("ask_by_on", "9999-12-31"))), hearings.is_under_way(case),
            case.open_correction is not None, case.evaluation_level,
            tuple((each.answer, each.silent_on is not None, today > each.due_on) for each in case.departments),
            len(case.skipped_stages), case.proposal and case.proposal["outcome"], min(len(case.transfers), 2),
            case.accepted_by is not None, case.auto is not None, case.sample and case.sample["state"],
            tuple(mark in case.reminded for mark in (reminder_of(case), card_of(case, "yellow"), card_of(case, "red"))),
            (case.delivery or {}).get("method"), look_on(case) is not None and look_on(case) <= today,
            case.renewal and case.renewal["in_time"], renewal_ends_on(case) is not None, case.decision and case.decision.get("is_deemed"),
            bool(case.due_on and today > case.due_on), bool(case.deadline_on and today > case.deadline_on),
        )  # fmt: skip


def draft(of: Mapping[str, Any], fees: tuple[Fee, ...] = ()) -> World:
    case = Case(
        id="case_1", number="1", query_code="A", owner_id="res_1", item_code="X", item_version=1, item_name="事项",
        agency_id="a", agency_name="某局", division_code="440203", state=State.DRAFT, version=1, created_at=BEGIN, updated_at=BEGIN,
        form={"phone": "1"}, rules=rules_of(of),
    )  # fmt: skip
    return World(case, BEGIN, of, fees)


Move = Callable[[World], Moved]
NAMES = {"plan": "方案", "proof": "证明"}
R, C, H, S = machine.RESIDENT, machine.CLERK, machine.HEAD, machine.SYSTEM
MISSING = [{"key": "plan", "name": "方案", "reason": "不清楚"}]


def _simple(name: str, actor: str, **changes: Any) -> Move:
    return lambda w: steps.advance(w.case, name, actor, w.now, by="x", **changes)


def _delivers(w: World) -> bool:
    return bool(w.item["steps"])


def _resume(w: World) -> Moved:
    if w.case.state is not State.SUSPENDED:
        return steps.advance(w.case, "resume", C, w.now, by="x")
    return handling.resume(w.case, w.item, CALENDAR, w.now, "笔录")


def _hand_in(key: str) -> Move:
    # What is not owed (any more) is refused by the service before; here another owed one stands in for it.
    def move(w: World) -> Moved:
        owed = next((each.key for each in w.case.open_promises if each.key == key), None)
        if owed is None and w.case.open_promises:
            owed = w.case.open_promises[0].key
        return promises.hand_in(w.case, owed or key, {"files": [{"id": "f"}], "licence_id": None}, w.now)

    return move


def _lose(w: World) -> Moved:
    held = {key: NAMES[key] for key, row in w.case.materials.items() if row.get("licence_id") and not row.get("lost")}
    return replacements.lose(w.case, held, w.now)


def _replace_material(w: World) -> Moved:
    key = next(iter(w.case.lost_materials), "plan")
    return replacements.replace_material(w.case, key, {"files": [{"id": "f"}], "licence_id": None}, w.now)


def _fee_paid(w: World) -> Moved:
    return (
        steps.fee_paid(w.case, "ord_1", w.item, CALENDAR, w.now, _delivers(w))
        if w.case.state is State.AWAITING_PAYMENT
        else _refused(w)
    )


def _refused(w: World) -> Moved:
    raise ActionNotAllowed("no", state=w.case.state.value)


def _decide(outcome: str) -> Move:
    return lambda w: handling.decide(w.case, outcome, "", CALENDAR, w.now, _delivers(w), {})


# Applied for on the last day that is in time.
LICENCE = {"_id": "lic_1", "number": "1", "valid_to": "2026-04-01"}


def _note_renewal(w: World) -> Moved:
    moved = renewals.note(w.case, LICENCE, w.item, CALENDAR, w.now)
    return moved if moved.case is not w.case else _simple("note_renewal", S)(w)


def _auto_approve(w: World) -> Moved:
    if w.case.auto is None:
        return _simple("auto_approve", S)(w)
    return auto_decision.approve(w.case, w.item, CALENDAR, w.now, _delivers(w))


# (name of the action, who, the move). An action that leads to two states stands here twice.
MOVES: tuple[tuple[str, str, State | None, Move], ...] = (
    ("save", R, None, _simple("save", R)),
    ("promise", R, None, lambda w: promises.promise(w.case, ["plan", "proof"], NAMES, w.now)),
    ("submit", R, None, lambda w: steps.submit(w.case, w.item, w.fees, {"phone": "1"}, CALENDAR, w.now)),
    ("supplement", R, None, lambda w: steps.supplement(_received(w.case), {"phone": "1"}, CALENDAR, w.now)),
    ("pay", R, None, _simple("pay", R)),
    ("correction", R, None, lambda w: corrections.ask(w.case, {"phone": "2"}, {}, "打错了", w.now)),
    ("hand_in", R, None, _hand_in("plan")),
    ("hand_in", R, None, _hand_in("proof")),
    ("replace_material", R, None, _replace_material),
    ("lose_licence", S, None, _lose),
    ("regain_licence", S, None, lambda w: replacements.regain(w.case, list(w.case.lost_materials), w.now)),
    ("withdraw", R, None, lambda w: steps.withdraw(w.case, "", w.now)),
    ("evaluate", R, None, _simple("evaluate", R, evaluation_level=1)),
    ("claim", C, None, _simple("claim", C, assignee="c")),
    ("pre_review", C, None, lambda w: handling.pre_review(w.case, "", w.now)),
    ("request_supplement", C, None, lambda w: handling.request_supplement(w.case, MISSING, CALENDAR, w.now)),
    (
        "request_supplement",
        H,
        None,
        lambda w: handling.request_supplement(w.case, MISSING, CALENDAR, w.now, actor=H, reason="确需"),
    ),
    ("accept", C, None, lambda w: handling.accept(w.case, w.item, CALENDAR, w.now)),
    ("reject", C, None, lambda w: handling.reject(w.case, "不符合", w.now)),
    ("correct", C, None, lambda w: corrections.answer(w.case, True, "", {"phone": "2"}, w.now)),
    ("tell_hearing", C, None, lambda w: hearings.tell(w.case, "拟不予", CALENDAR, w.now)),
    ("ask_hearing", R, None, lambda w: hearings.ask(w.case, CALENDAR, w.now)),
    ("waive_hearing", R, None, lambda w: hearings.waive(w.case, w.now)),
    ("suspend", C, None, lambda w: handling.suspend(w.case, "hearing", 3, CALENDAR, w.now)),
    ("resume", C, None, _resume),
    ("extend", H, None, lambda w: handling.extend(w.case, w.item, 10, "复杂", CALENDAR, w.now)),
    ("decide", C, State.APPROVED, _decide("approved")),
    ("decide", C, State.DENIED, _decide("denied")),
    ("propose", C, None, lambda w: routing.propose(w.case, "denied", "", w.now)),
    ("propose", C, None, lambda w: routing.propose(w.case, "approved", "", w.now)),
    ("finish_stage", C, None, lambda w: routing.finish_stage(w.case, "", CALENDAR, w.now)),
    ("transfer", C, None, lambda w: routing.transfer(w.case, {"id": "b", "name": "县局"}, "属地", w.now)),
    ("give_opinion", machine.DEPARTMENT, None, lambda w: routing.give_opinion(w.case, "d", "agreed", "", w.now)),
    ("give_opinion", machine.DEPARTMENT, None, lambda w: routing.give_opinion(w.case, "e", "refused", "不符", w.now)),
    ("audit_sample", H, None, lambda w: auto_decision.audit_sample(w.case, "in_order", "", "h", w.now)),
    ("auto_accept", S, None, lambda w: auto_decision.accept(_received(w.case), w.item, CALENDAR, w.now)),
    ("auto_approve", S, None, _auto_approve),
    ("deliver", C, State.DELIVERING, lambda w: handling.deliver(w.case, "post", None, w.now)),
    ("deliver", C, State.COMPLETED, lambda w: handling.deliver(w.case, "post", "EMS1", w.now)),
    ("reassign", C, None, _simple("reassign", C, assignee="d")),
    ("fee_paid", S, None, _fee_paid),
    ("note_renewal", S, None, _note_renewal),
)


def _received(case: Case) -> Case:
    return case if case.received_at else replace(case, received_at=BEGIN)


def next_day(w: World) -> World:
    """The next day on which something can change: the office's day has passed, or the hall must look."""
    days = [day for day in (look_on(w.case), w.case.due_on and w.case.due_on + DAY) if day and day > w.today]
    days += [each.due_on + DAY for each in w.case.open_promises if each.due_on and each.due_on >= w.today]
    if w.case.hearing and w.case.hearing.get("ask_by_on"):
        asked_by = date.fromisoformat(w.case.hearing["ask_by_on"])
        days += [asked_by + DAY] if asked_by >= w.today else []
    days = [day for day in days if day.year == 2026]
    return replace(w, now=w.now + (min(days, default=w.today + DAY) - w.today))


@dataclass
class Walk:
    """What was found: `problems` in words, the rows of the table that were taken, how many worlds there are, how many steps deep."""

    problems: list[str] = field(default_factory=list)
    taken: set[machine.Transition] = field(default_factory=set)
    worlds: int = 0
    depth: int = 0


def walk(starts: list[World], moves: tuple[tuple[str, str, State | None, Move], ...] = MOVES, most: int = STEPS) -> Walk:
    """Take every move from every world, breadth first, up to `most` steps; judge every edge and whether every world can still end."""
    found = Walk()
    known: dict[tuple[Any, ...], World] = {start.key(): start for start in starts}
    leads: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    front = list(starts)
    while front and found.depth < most:
        found.depth += 1
        coming = []
        for world in front:
            key = world.key()
            leads[key] = set()
            for after in _after(world, moves, found):
                leads[key].add(after.key())
                if after.key() not in known:
                    known[after.key()] = after
                    coming.append(after)
        front = coming
    found.worlds = len(known)
    found.problems += _dead_ends(known, leads)
    return found


def _dead_ends(known: Mapping[tuple[Any, ...], World], leads: Mapping[tuple[Any, ...], set[tuple[Any, ...]]]) -> list[str]:
    # Beyond the last step nothing is known, so what lies there counts as an end.
    alive = {key for key, world in known.items() if world.case.state in FINAL or key not in leads}
    grown = True
    while grown:
        grown = False
        for key, targets in leads.items():
            if key not in alive and targets & alive:
                alive.add(key)
                grown = True
    return sorted({f"dead end: {known[key].case.state}" for key in set(known) - alive})


def _after(world: World, moves: tuple[tuple[str, str, State | None, Move], ...], found: Walk) -> Iterator[World]:
    case, today = world.case, world.today
    for name, actor, to, move in moves:
        row = machine.find(case, name, actor, today, to)
        try:
            moved = move(world)
        except ActionNotAllowed:
            if row is not None:
                found.problems.append(f"{name} is in the table from {case.state} but was refused")
            continue
        if row is None:
            found.problems.append(f"{name} from {case.state} to {moved.case.state} is not in the table")
            continue
        found.taken.add(row)
        found.problems += _judged(world, name, row, moved)
        found.taken |= _consequences(moved)
        yield replace(world, case=moved.case)
    later = next_day(world)
    moved = sweeps.swept(later.case, later.item, CALENDAR, later.now)
    for name in machine.SWEPT:
        row = machine.find(later.case, name, machine.SYSTEM, later.today)
        if row is not None and row.event in [event.name for event in moved.events]:
            found.taken.add(row)
    found.taken |= _consequences(moved)
    found.problems += _clock_problems(moved.case, "sweep")
    look = look_on(moved.case)
    if look is not None and look <= later.today:
        found.problems.append(f"the sweep left something due in {moved.case.state}")
    again = sweeps.swept(moved.case, later.item, CALENDAR, later.now)
    if again.case is not moved.case:
        found.problems.append(f"the sweep did not come to rest in {moved.case.state}")
    if case.state is State.SUBMITTED and moved.case.state is State.SUBMITTED and later.today > case.accept_by_on:
        found.problems.append("the day of acceptance passed in silence")
    ends_on = renewal_ends_on(case)
    if case.state in RENEWABLE and ends_on and later.today > ends_on and moved.case.decision is None:
        found.problems.append("the term of what is renewed ended in silence")
    yield replace(later, case=moved.case)


def _consequences(moved: Moved) -> set[machine.Transition]:
    """The rows that followed by themselves, known by their events."""
    told = [(event.name, State(event.data["state"])) for event in moved.events]
    found = set()
    for row in machine.TABLE:
        if row.actor == machine.SYSTEM and row.name in (*FOLLOW, "ask_departments"):
            before = [state for _name, state in told]
            for place, (name, state) in enumerate(told):
                source = before[place - 1] if place else None
                if name == row.event and state is (row.target or source) and source in row.sources:
                    found.add(row)
    return found


def _judged(world: World, name: str, row: machine.Transition, moved: Moved) -> Iterator[str]:
    before, after = world.case, moved.case
    events = [event.name for event in moved.events]
    if row.event and (not events or events[0] != row.event):
        yield f"{name} from {before.state} told {events}"
    if not row.event and events:
        yield f"{name} from {before.state} told {events}"
    state = row.target or before.state
    while state is not after.state:
        follow = [
            step for step in machine.TABLE
            if step.actor == machine.SYSTEM and step.name in FOLLOW and state in step.sources
        ]  # fmt: skip
        if after.state not in {step.target for step in follow}:
            yield f"{name} from {before.state} ended in {after.state}, where no row leads"
            return
        state = after.state
    yield from _clock_problems(after, name)
    if (
        before.clock == "decision"
        and after.clock is None
        and after.state not in FINAL
        and after.deadline_on != before.deadline_on
    ):
        yield f"{name} moved the deadline while it stopped the clock"
    if after.clock == "decision" and not after.is_deemed_accepted:
        yield from _count_problems(world.item, after, name)


def _clock_problems(case: Case, name: str) -> Iterator[str]:
    running = [stop for stop in case.suspensions if stop.until_on is None]
    if len(running) > 1:
        yield f"{name}: two stops at once in {case.state}"
    if running and case.clock == "decision":
        yield f"{name}: the clock runs while it is stopped in {case.state}"
    if case.state is State.SUSPENDED and not running:
        yield f"{name}: suspended, and nothing stops the clock"
    if case.clock and case.due_on and not (case.warn_on and case.warn_on <= case.due_on):
        yield f"{name}: {case.clock} warns on {case.warn_on} of {case.due_on}"
    if case.clock and case.due_on is None:
        yield f"{name}: {case.clock} runs in {case.state} without a day"
    if case.clock is None and case.due_on is not None and case.state is not State.SUSPENDED:
        yield f"{name}: a day is due in {case.state} though no clock runs"


def _count_problems(of: Mapping[str, Any], case: Case, name: str) -> Iterator[str]:
    stops = [(stop.from_on + DAY, stop.until_on) for stop in case.suspensions if stop.until_on]
    extension = [(case.extension["days"], case.extension["unit"])] if case.extension else []
    limits = [(of[limit]["days"], of[limit]["unit"]) for limit in ("promised_limit", "legal_limit")]
    start = shanghai_day(case.accepted_at)
    wanted = min(last_day(start, [limit, *extension], stops, lambda day: CALENDAR.is_workday(day)[0]) for limit in limits)
    if ends_on := renewal_ends_on(case):
        wanted = min(wanted, ends_on)
    if case.deadline_on != wanted:
        yield f"{name}: deadline {case.deadline_on} in {case.state}, counted {wanted}"
