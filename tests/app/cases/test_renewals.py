"""Renewals: noted by the relay, granted by law when the old term ends in silence, once, and only for who applied in time."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest

from app.cases.errors import ActionNotAllowed
from app.cases.model import State
from app.cases.sweeps import Sweeps
from app.kernel.events import Event
from app.kernel.ids import new_id
from app.licences.service import LicenceNotUsable
from app.reminders.model import Dated
from tests.app.cases.dying import mortal
from tests.app.cases.handled import a_person, events_of, opened, set_clock, staff_of, with_materials

ITEM = "nurse_register"


def at(month: int, day: int, hour: int = 10) -> datetime:
    return datetime(2026, month, day, hour - 8, tzinfo=UTC)


async def wallet_licence(hall, owner: str, valid_to: date, kind: str = "LIC-NURSE") -> str:
    """A licence that somebody holds since five years."""
    licence = {
        "_id": new_id("lic"), "event_id": new_id("evt"), "holder_id": owner, "type": kind, "name": "护士执业证书", "number": "N1",
        "issuer_id": "a", "issuer": "局", "issued_on": "2021-01-01", "valid_from": "2021-01-01", "valid_to": valid_to.isoformat(),
        "basis": "dated", "years": 5, "state": "valid", "case_id": "case_0",
    }  # fmt: skip
    await hall.database["licences"].insert_one(licence)
    return licence["_id"]


async def applied(hall, valid_to: date, kind: str = "renew", on: datetime = at(3, 2)):
    """A renewal handed in on a day, and noted by the relay. Returns the case and the old licence's id."""
    set_clock(hall, on)
    owner = await a_person(hall)
    licence_id = await wallet_licence(hall, owner, valid_to)
    case = await with_materials(hall, await opened(hall, ITEM, owner, {"kind": kind}))
    await hall.cases.submit(case.id, owner)
    await hall.relay.drain()
    return await hall.cases.get(case.id, owner), licence_id


@pytest.fixture
def clerk(hall):
    return staff_of(hall.catalogue.item(ITEM)["agency"])


@pytest.fixture
def head(hall):
    return staff_of(hall.catalogue.item(ITEM)["agency"], "head")


async def test_silence_past_the_old_term_renews_with_the_red_card_and_the_new_term_follows_the_old(hall, clerk):
    case, licence_id = await applied(hall, date(2026, 4, 1))
    assert case.renewal["apply_by_on"] == "2026-03-02" and case.renewal["in_time"]
    assert (await hall.cases.view(case))["renewal"]["expires_on"] == "2026-04-01"
    await hall.review.act(case.id, "accept", clerk, {})
    await hall.review.act(case.id, "suspend", clerk, {"kind": "inspection", "days": 40, "reason": "核查"})
    set_clock(hall, at(4, 1, 23))
    await hall.sweeps.run()
    assert (await hall.cases.get(case.id, case.owner_id)).state is State.SUSPENDED, "on its last day the office may still decide"
    set_clock(hall, at(4, 2, 8))
    assert await hall.sweeps.run() == 1 and await hall.sweeps.run() == 0
    renewed = await hall.cases.get(case.id, case.owner_id)
    assert (renewed.state, renewed.decision["is_deemed"], renewed.clock) == (State.APPROVED, True, "delivery")
    assert renewed.suspensions[-1].until_on == date(2026, 4, 2)
    assert (await events_of(hall, case)).count("case.deemed_renewed") == 1
    await hall.relay.drain()
    [card] = await hall.database["cards"].find({"case_id": case.id, "card": "red", "rule": "renewal_silent"}).to_list()
    assert card["is_open"]
    [paper] = [row for row in await hall.cases.papers.of(renewed) if row["kind"] == "decision"]
    assert paper["title"] == "视为准予延续证明"
    [message] = await hall.database["messages"].find({"owner_id": case.owner_id, "event": "case.deemed_renewed"}).to_list()
    assert "2026年4月1日" in message["body"]
    set_clock(hall, at(4, 13))
    # The certificate: its term begins where the old one ends, and the old one is reminded of no more.
    await hall.review.act(case.id, "deliver", clerk, {"method": "electronic", "tracking": None})
    await hall.relay.drain()
    [licence] = [row for row in await hall.licences.wallet(case.owner_id) if row["case_id"] == case.id]
    assert (licence["valid_from"], licence["valid_to"]) == ("2026-04-02", "2031-04-01")
    old = await hall.database["licences"].find_one({"_id": licence_id})
    assert old["renewed_by"] == licence["id"]
    [row] = await hall.reminders.of(case.owner_id)
    assert (row["subject"], row["due_on"]) == (f"licence:{licence['id']}", "2031-04-01")
    assert not (await hall.database["cards"].find_one({"_id": card["_id"]}))["is_open"], "the certificate settles it"


async def test_who_applies_too_late_is_told_so_and_waits_for_the_decision(hall, clerk):
    case, _licence = await applied(hall, date(2026, 3, 31))
    assert not case.renewal["in_time"]
    assert "2026年3月1日" in case.timeline[-1].detail
    await hall.review.act(case.id, "accept", clerk, {})
    set_clock(hall, at(4, 20))
    await hall.sweeps.run()
    assert "case.deemed_renewed" not in await events_of(hall, case)
    assert (await hall.review.act(case.id, "decide", staff_of(clerk.agency_id, "head"), {"outcome": "approved", "opinion": ""})).state is State.APPROVED


@pytest.mark.parametrize("kind", ["first", "change"])
async def test_only_what_the_data_call_a_renewal_is_one(hall, kind):
    case, _licence = await applied(hall, date(2026, 4, 1), kind)
    assert case.renewal is None


async def test_a_decision_in_time_stands(hall, clerk, head):
    case, _licence = await applied(hall, date(2026, 4, 10))
    await hall.review.act(case.id, "accept", clerk, {})
    set_clock(hall, at(4, 10))
    denied = await hall.review.act(case.id, "decide", head, {"outcome": "denied", "opinion": "不符合条件"})
    assert denied.state is State.DENIED
    set_clock(hall, at(4, 12))
    await hall.sweeps.run()
    assert (await hall.cases.get(case.id, case.owner_id)).state is State.DENIED


async def test_too_late_the_office_can_neither_deny_nor_approve_what_the_law_has_granted(hall, clerk, head):
    case, _licence = await applied(hall, date(2026, 4, 1))
    await hall.review.act(case.id, "accept", clerk, {})
    set_clock(hall, at(4, 2, 8))
    for outcome in ("denied", "approved"):
        with pytest.raises(ActionNotAllowed, match="视为准予延续"):
            await hall.review.act(case.id, "decide", head, {"outcome": outcome, "opinion": "不符合条件"})
    assert await hall.sweeps.run() == 1


@pytest.mark.parametrize("day", [1, 2])
async def test_a_head_and_many_workers_at_the_same_second_decide_once(hall, clerk, head, day):
    case, _licence = await applied(hall, date(2026, 4, 1))
    await hall.review.act(case.id, "accept", clerk, {})
    set_clock(hall, at(4, day))
    workers = [Sweeps(hall.cases, lambda: at(4, 2)) for _ in range(4)]
    results = await asyncio.gather(
        hall.review.act(case.id, "decide", head, {"outcome": "denied", "opinion": "不符合"}), *(worker.run() for worker in workers),
        return_exceptions=True,
    )  # fmt: skip
    assert not [one for one in results if isinstance(one, Exception) and not isinstance(one, ActionNotAllowed)]
    names = await events_of(hall, case)
    assert names.count("case.denied") + names.count("case.deemed_renewed") == 1


async def test_silence_does_not_count_while_the_applicant_owes_an_answer(hall, clerk):
    case, _licence = await applied(hall, date(2026, 4, 1))
    missing = {"missing": [{"key": "workplace", "reason": "请写全称"}]}
    set_clock(hall, at(3, 6))
    await hall.review.act(case.id, "request_supplement", clerk, missing)
    set_clock(hall, at(3, 27))  # the notice has run out: closed, and never renewed
    await hall.sweeps.run()
    set_clock(hall, at(4, 5))
    await hall.sweeps.run()
    assert (await hall.cases.get(case.id, case.owner_id)).state is State.NOT_ACCEPTED
    assert "case.deemed_renewed" not in await events_of(hall, case)


async def test_what_came_back_after_the_end_was_not_the_offices_silence(hall, clerk):
    case, _licence = await applied(hall, date(2026, 4, 1))
    set_clock(hall, at(3, 6))
    await hall.database["cases"].update_one({"_id": case.id}, {"$set": {"rules.supplement_expiry": "keep"}})
    await hall.review.act(case.id, "request_supplement", clerk, {"missing": [{"key": "workplace", "reason": "请写全称"}]})
    set_clock(hall, at(4, 3))
    await hall.cases.supplement(case.id, case.owner_id)
    await hall.review.act(case.id, "accept", clerk, {})
    await hall.sweeps.run()
    assert (await hall.cases.get(case.id, case.owner_id)).state is State.ACCEPTED


@pytest.mark.parametrize("after", [False, True])
async def test_the_law_renews_once_however_often_worker_and_relay_die(hall, clerk, monkeypatch, after):
    set_clock(hall, at(3, 2))
    owner = await a_person(hall)
    await wallet_licence(hall, owner, date(2026, 4, 1))
    case = await with_materials(hall, await opened(hall, ITEM, owner, {"kind": "renew"}))
    await hall.cases.submit(case.id, owner)
    [event] = await hall.database["events"].find({"name": "case.submitted", "subject_id": case.id}).to_list()
    note = next(handle for name, handle in hall.relay._subscribers["case.submitted"] if name == "renewals")
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(lambda: note(Event.from_document(event)), number, after):
            number += 1
        assert number > 3
        noted = await hall.cases.get(case.id, owner)
        assert [entry.title for entry in noted.timeline].count("延续申请") == 1
        await hall.review.act(case.id, "accept", clerk, {})
        set_clock(hall, at(4, 2))
        number = 1
        while await attempt(hall.sweeps.run, number, after):
            stored = await hall.cases.get(case.id, owner)
            assert (stored.state is State.APPROVED) == ("case.deemed_renewed" in await events_of(hall, case))
            number += 1
    assert number > 3
    assert (await events_of(hall, case)).count("case.deemed_renewed") == 1


async def test_an_expired_licence_replaces_nothing_and_shows_its_days(hall):
    owner = await a_person(hall)
    today = datetime.now(UTC) + timedelta(hours=8)
    good = await wallet_licence(hall, owner, (today + timedelta(days=12)).date())
    over = await wallet_licence(hall, owner, (today - timedelta(days=1)).date())
    last = await wallet_licence(hall, owner, today.date())
    rows = {row["id"]: row for row in await hall.licences.wallet(owner)}
    assert (rows[good]["days_left"], rows[good]["state"]) == (12, "valid")
    assert (rows[last]["days_left"], rows[last]["state"]) == (0, "valid"), "its last day is still good"
    assert (rows[over]["days_left"], rows[over]["state"]) == (None, "expired")
    assert set(await hall.licences.valid([good, over, last])) == {(owner, good), (owner, last)}
    assert (await hall.licences.usable(last, owner, "LIC-NURSE"))["id"] == last
    with pytest.raises(LicenceNotUsable):
        await hall.licences.usable(over, owner, "LIC-NURSE")


@pytest.mark.parametrize(("valid_to", "in_time"), [(date(2026, 3, 23), True), (date(2026, 3, 20), False)])
async def test_a_law_of_its_own_counts_working_days(hall, valid_to, in_time):
    """食品经营许可: fifteen working days before the end, make-up workdays counted."""
    set_clock(hall, at(3, 2))
    owner = await a_person(hall)
    await wallet_licence(hall, owner, valid_to, "LIC-FOOD")
    case = await with_materials(hall, await opened(hall, "food_licence", owner, {"apply": "renew"}))
    await hall.cases.submit(case.id, owner)
    await hall.relay.drain()
    assert (await hall.cases.get(case.id, owner)).renewal["in_time"] is in_time


async def test_no_limit_reaches_beyond_the_end_of_the_term(hall, clerk, head):
    case, _licence = await applied(hall, date(2026, 4, 1))
    set_clock(hall, at(3, 9))
    accepted = await hall.review.act(case.id, "accept", clerk, {})
    assert accepted.deadline_on == date(2026, 3, 16)
    set_clock(hall, at(3, 16))
    longer = await hall.review.act(case.id, "extend", head, {"days": 10, "reason": "复杂"})
    assert longer.deadline_on == date(2026, 3, 30)
    late, _licence = await applied(hall, date(2026, 4, 22), on=at(3, 23))
    set_clock(hall, at(3, 30))
    late = await hall.review.act(late.id, "accept", clerk, {})
    assert late.deadline_on == date(2026, 4, 7) and late.renewal["in_time"]
    await hall.database["cases"].update_one({"_id": late.id}, {"$set": {"rules.extension.days": 20}})
    assert (await hall.review.act(late.id, "extend", head, {"days": 20, "reason": "复杂"})).deadline_on == date(2026, 4, 22)


@pytest.mark.parametrize("after", [False, True])
async def test_one_licence_and_one_reminder_however_often_the_relay_dies(hall, clerk, head, monkeypatch, after):
    case, licence_id = await applied(hall, date(2026, 4, 1))
    await hall.reminders.put(case.owner_id, Dated(f"licence:{licence_id}", "licence", "护士执业证书", date(2099, 4, 1)))
    await hall.review.act(case.id, "accept", clerk, {})
    await hall.review.act(case.id, "decide", head, {"outcome": "approved", "opinion": ""})
    await hall.review.act(case.id, "deliver", clerk, {"method": "electronic", "tracking": None})
    event = Event.from_document(await hall.database["events"].find_one({"name": "case.completed", "subject_id": case.id}))
    issue = next(handle for name, handle in hall.relay._subscribers["case.completed"] if name == "licences")
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(lambda: issue(event), number, after):
            number += 1
    assert number > 5
    await issue(event)
    [issued] = await hall.database["licences"].find({"case_id": case.id}).to_list()
    assert (issued["valid_from"], issued["valid_to"]) == ("2026-04-02", "2031-04-01")
    assert (await hall.database["licences"].find_one({"_id": licence_id}))["renewed_by"] == issued["_id"]
    assert [row["subject"] for row in await hall.reminders.of(case.owner_id)] == [f"licence:{issued['_id']}"]


async def test_one_licence_is_renewed_by_one_application(hall):
    set_clock(hall, at(3, 2))
    owner = await a_person(hall)
    await wallet_licence(hall, owner, date(2026, 4, 1))
    cases = [await with_materials(hall, await opened(hall, ITEM, owner, {"kind": "renew"})) for _ in range(3)]
    for case in cases[:2]:
        await hall.cases.submit(case.id, owner)
    note = next(handle for name, handle in hall.relay._subscribers["case.submitted"] if name == "renewals")
    events = {
        row["subject_id"]: Event.from_document(row)
        async for row in hall.database["events"].find({"name": "case.submitted", "owner_id": owner})
    }
    await asyncio.gather(*(note(events[case.id]) for case in cases[:2] for _ in range(2)))
    noted = [case for case in cases[:2] if (await hall.cases.get(case.id, owner)).renewal]
    assert len(noted) == 1
    await hall.cases.withdraw(noted[0].id, owner)
    await hall.cases.submit(cases[2].id, owner)
    await hall.relay.drain()
    others = [await hall.cases.get(case.id, owner) for case in cases if case.id != noted[0].id]
    assert sum(bool(case.renewal) for case in others) == 1, "the first one has ended without a decision"
