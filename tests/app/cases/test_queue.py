"""The work list: counts that equal it under every filter and while everything moves, far pages, and finding people by what is sealed."""

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from types import SimpleNamespace

import pytest

from app.cases import listed
from app.cases.model import STATE_NAMES, Case, State
from app.cases.queue import _ORDER, LAMPS, MOST, SCOPES, Queue, Wanted, _after
from app.cases.search import Search
from app.cases.store import INDEXES, CaseStore
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import shanghai_day, today, utc_now
from app.kernel.errors import RateLimited, ValidationFailed
from app.kernel.ids import new_id
from app.storage.limits import Limit
from app.storage.mongo import ensure_indexes
from app.supervision.lamps import lamp
from commands.story import id_number
from config.settings import ROOT
from tests.app.cases.handled import staff_of

AGENCY, OTHER = "sg-gaj", "sg-jj"
DIVISIONS = ("440203", "440203001", "440204", "440200")
ITEMS = ("item-a", "item-b")
PEOPLE = (None, f"clerk.{AGENCY}", f"head.{AGENCY}")
CLERK = staff_of(AGENCY)
CALENDAR = WorkingCalendar.load(ROOT / "config" / "calendars")


@pytest.fixture
async def hall(database, redis, keys):
    """Lists and searches on a database of their own."""
    await ensure_indexes(database, INDEXES)
    store = CaseStore(database, keys)
    limit = Limit(redis, new_id("search"), most=60, per_s=600)
    return SimpleNamespace(
        database=database, cases=SimpleNamespace(store=store), queue=Queue(database, store, lambda: CALENDAR), search=Search(database, store, keys, limit)
    )


def a_case(rng: random.Random, place: int, **changes) -> Case:
    state = rng.choice([state for state in State if state is not State.SUSPENDED])
    on = today()
    due_on = on + timedelta(days=rng.randint(-8, 12))
    now = utc_now() - timedelta(days=rng.randint(0, 30))
    values = {
        "id": new_id("case"), "number": f"{place:039d}", "query_code": "x", "owner_id": new_id("res"), "item_code": rng.choice(ITEMS),
        "item_version": 1, "item_name": "事项", "agency_id": rng.choice((AGENCY, AGENCY, AGENCY, OTHER)), "agency_name": "单位",
        "division_code": rng.choice(DIVISIONS), "state": state, "version": 1, "created_at": now, "updated_at": now,
        "submitted_at": now, "received_at": now, "assignee": rng.choice(PEOPLE), "accept_by_on": due_on, "deadline_on": due_on,
        "deliver_by_on": due_on,
    }  # fmt: skip
    return Case(**{**values, **changes})


def fits(case: Case, wanted: Wanted) -> bool:
    """The filters said once more, in plain words, on the opened case."""
    if case.agency_id != AGENCY or case.state is State.DRAFT:
        return False
    if wanted.state:
        if case.state.value != wanted.state:
            return False
    elif not case.is_open:
        return False
    if wanted.assignee:
        if case.assignee != wanted.assignee:
            return False
    elif {"mine": case.assignee != CLERK.account, "unclaimed": case.assignee is not None}.get(wanted.scope, False):
        return False
    return (
        (not wanted.lamp or lamp(case.due_on, today(), CALENDAR) == wanted.lamp)
        and (not wanted.division or case.division_code.startswith(wanted.division))
        and (not wanted.item or case.item_code == wanted.item)
        and (wanted.submitted_before is None or shanghai_day(case.submitted_at) < wanted.submitted_before)
    )


def any_wanted(rng: random.Random) -> Wanted:
    return Wanted(
        scope=rng.choice(SCOPES),
        assignee=rng.choice(("", "", f"head.{AGENCY}")),
        state=rng.choice(("", "", *STATE_NAMES)),
        lamp=rng.choice(("", *LAMPS)),
        division=rng.choice(("", "440203", "440203001")),
        item=rng.choice(("", ITEMS[0])),
        submitted_before=rng.choice((None, today() - timedelta(days=7))),
    )


async def whole_list(hall, wanted: Wanted, limit: int = 7) -> list[Case]:
    rows, cursor = [], None
    while True:
        page = await hall.queue.page(CLERK, wanted, limit=limit, cursor=cursor)
        rows += page.cases
        cursor = page.next_cursor
        if cursor is None:
            return rows


async def insert(hall, cases) -> None:
    await hall.database["cases"].insert_many([hall.cases.store._document(case, frozenset()) for case in cases])


@pytest.mark.parametrize("seed", range(2))
async def test_list_and_counts_are_what_a_plain_reading_of_the_filters_says(hall, seed):
    rng = random.Random(seed)
    cases = [a_case(rng, number) for number in range(180)]
    await insert(hall, cases)
    for _ in range(40):
        wanted = any_wanted(rng)
        expected = {case.id for case in cases if fits(case, wanted)}
        rows = await whole_list(hall, wanted)
        assert [case.id for case in rows] == list(dict.fromkeys(case.id for case in rows)), "nothing twice"
        assert {case.id for case in rows} == expected, wanted
        days = [case.due_on or date.max for case in rows]
        assert days == sorted(days)
        counts = (await hall.queue.page(CLERK, wanted)).counts
        assert counts["total"] == min(len(expected), MOST + 1)
        for scope in SCOPES:
            same = replace(wanted, scope=scope, assignee="")
            assert counts["scopes"][scope] == min(sum(fits(case, same) for case in cases), MOST + 1), (wanted, scope)
        for colour in LAMPS:
            same = replace(wanted, lamp=colour)
            assert counts["lamps"][colour] == min(sum(fits(case, same) for case in cases), MOST + 1), (wanted, colour)


async def test_while_everything_moves_list_and_counts_are_of_one_moment(hall):
    rng = random.Random(7)
    # As many as the list holds in one page, so that it can be counted by hand; they move between all states, clerks and days.
    cases = [a_case(rng, number, agency_id=AGENCY) for number in range(60)]
    await insert(hall, cases)
    done = asyncio.Event()

    async def move(mine: list[Case], seed: int) -> None:
        own = random.Random(seed)
        while not done.is_set():
            place = own.randrange(len(mine))
            other = a_case(own, 0)
            moved = replace(mine[place], state=other.state, assignee=other.assignee, deadline_on=other.deadline_on)
            mine[place] = await hall.cases.store.save(moved, (), frozenset())

    async def look(wanted: Wanted) -> int:
        page = await hall.queue.page(CLERK, wanted, limit=100)
        assert page.next_cursor is None
        assert page.counts["total"] == len(page.cases)
        if not wanted.lamp:
            shown = Counter(lamp(case.due_on, today(), CALENDAR) for case in page.cases)
            assert page.counts["lamps"] == {colour: shown[colour] for colour in LAMPS}
        if wanted == Wanted():
            by = Counter(case.assignee for case in page.cases)
            assert page.counts["scopes"] == {"all": len(page.cases), "mine": by[CLERK.account], "unclaimed": by[None]}
        return len(page.cases)

    movers = [asyncio.create_task(move(cases[start::3], start)) for start in range(3)]
    sizes = set()
    try:
        for _ in range(60):
            sizes.add(await look(Wanted()))
            await look(any_wanted(rng))
    finally:
        done.set()
        await asyncio.gather(*movers)
    assert len(sizes) > 3, "it did move"


async def test_every_part_of_a_page_is_a_range_of_the_one_index(hall):
    rng = random.Random(3)
    await insert(hall, [a_case(rng, number) for number in range(300)])
    for lamp_name, cursor in itertools.product(("", *LAMPS), (None, f"{today()}~{new_id('case')}")):
        wanted = Wanted(lamp=lamp_name, submitted_before=today())
        query = _after(hall.queue._query(CLERK, wanted, today()), cursor)
        plan = await hall.database["cases"].find(query).sort([(name, 1) for name in _ORDER]).limit(20).explain()
        stages = str(plan["queryPlanner"]["winningPlan"])
        assert "'SORT'" not in stages and "COLLSCAN" not in stages, (lamp_name, cursor, stages)
        assert set(_index_names(plan["queryPlanner"]["winningPlan"])) == {"queue"}


def _index_names(plan) -> list[str]:
    inner = [plan["inputStage"]] if "inputStage" in plan else plan.get("inputStages", [])
    return ([plan["indexName"]] if "indexName" in plan else []) + [name for one in inner for name in _index_names(one)]


async def test_people_are_found_by_what_is_sealed_and_by_their_agency_alone(hall):
    rng = random.Random(1)
    form = {"name": "欧阳 · 示例", "mobile": "13800001234", "id_number": id_number(7), "uscc": "91440200999009018L"}
    number = "11440200999000056R4440131901000202611240007"
    mine = a_case(rng, 1, agency_id=AGENCY, state=State.COMPLETED, form=form, number=number)
    draft = a_case(rng, 2, agency_id=AGENCY, state=State.DRAFT, form=form)
    theirs = a_case(rng, 3, agency_id=OTHER, state=State.SUBMITTED, form=form)
    await insert(hall, [mine, draft, theirs])
    stored = await hall.database["cases"].find_one({"_id": mine.id})
    other = await hall.database["cases"].find_one({"_id": theirs.id})
    assert not set(stored["find_by"]) & set(other["find_by"]), "one person leaves no common mark in two agencies"
    for text in ("欧阳示例", " 欧阳·示例 ", "138 0000 1234", "+86 13800001234", id_number(7), "91440200999009018l", number, number[-6:]):
        found = await hall.search.find(CLERK, text, "handling")
        assert [case.id for case in found] == [mine.id], text
    for text in ("欧阳", "13800001235", "999999", "示例欧阳"):
        assert await hall.search.find(CLERK, text, "inquiry") == [], text
    for text in ("", "王", "12345", "$ne"):
        try:
            assert await hall.search.find(CLERK, text, "handling") == []
        except ValidationFailed as refused:
            assert refused.errors[0]["pointer"] == "/q"
    rows = await hall.database["audit"].find({"action": "case.search"}).to_list()
    assert {row["purpose"] for row in rows} == {"办理业务", "群众来问"}
    assert not any("欧阳" in str(row) or "1380000" in str(row) for row in rows), "who was looked for is not written down"
    assert [mine.id] in [row.get("subjects") for row in rows]


async def test_who_searches_without_end_is_stopped(hall):
    with pytest.raises(RateLimited):
        for _ in range(70):
            await hall.search.find(staff_of(AGENCY, "head"), "某某某", "handling")


async def test_cases_from_before_are_listed_anew_and_nothing_newer_is_overwritten(hall):
    rng = random.Random(5)
    cases = [a_case(rng, number, agency_id=AGENCY, state=State.SUBMITTED, assignee=None) for number in range(30)]
    await insert(hall, cases)
    plain = dict.fromkeys(("queue_keys", "find_by", "worklist_agencies", "number_reversed", "listed_version"), "")
    await hall.database["cases"].update_many({}, {"$unset": plain})
    assert (await hall.queue.page(CLERK, Wanted())).cases == []
    await hall.cases.store.save(replace(cases[0], assignee=CLERK.account), (), frozenset())
    assert await hall.cases.store.list_anew() == 29
    assert await hall.cases.store.list_anew() == 0
    assert (await hall.queue.page(CLERK, Wanted())).counts["scopes"] == {"all": 30, "mine": 1, "unclaimed": 29}


async def test_that_a_list_was_read_is_recorded_with_its_rows(hall):
    rng = random.Random(9)
    await insert(hall, [a_case(rng, number, agency_id=AGENCY, state=State.SUBMITTED) for number in range(3)])
    page = await hall.queue.page(CLERK, Wanted(), limit=2)
    [row] = await hall.database["audit"].find({"action": "task.list"}).to_list()
    assert (row["actor"], row["subject"], row["subjects"]) == (CLERK.account, AGENCY, [case.id for case in page.cases])
    assert listed.VERSION == 1
