"""Every item that can be handled, carried from a draft to its end by its own agency, by the straight way and by the longest one."""

from datetime import UTC, datetime, timedelta

from app.cases.completeness import has_delivery
from app.cases.model import State
from app.kernel.clock import shanghai_day
from commands.story import picture
from tests.app.cases.counting import last_day
from tests.app.cases.handled import a_person, events_of, opened, paid, set_clock, staff_of, with_materials

BEGIN = datetime(
    2026, 11, 10, 2, tzinfo=UTC
)  # after the sample answers; many deadlines reach into 2027, whose notice is not there


def handled(hall):
    return [item for item in hall.catalogue.snapshot.items if item["service_kind"] == "handle"]


def counted(hall, item, accepted_at, stops=(), extension=None):
    limits = [item["promised_limit"]] + ([item["legal_limit"]] if item["legal_limit"]["days"] is not None else [])
    return min(
        last_day(
            shanghai_day(accepted_at),
            [(limit["days"], limit["unit"]), *([extension] if extension else [])],
            stops,
            lambda day: hall.calendar.is_workday(day)[0],
        )
        for limit in limits
    )


async def test_the_straight_way_to_the_result(hall):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    items = handled(hall)
    assert len(items) >= 85
    for item in items:
        clerk = staff_of(item["agency"])
        case = await with_materials(hall, await opened(hall, item["alias"], owner))
        case = await paid(hall, await hall.cases.submit(case.id, owner))
        assert case.state is State.SUBMITTED, item["alias"]
        case = await hall.review.act(case.id, "accept", clerk, {})
        assert case.deadline_on == counted(hall, item, case.accepted_at), item["alias"]
        case = await paid(hall, case)
        assert case.state is State.ACCEPTED, item["alias"]
        case = await paid(hall, await hall.review.act(case.id, "decide", clerk, {"outcome": "approved", "opinion": ""}))
        if has_delivery(item):
            assert case.state is State.APPROVED, item["alias"]
            method = {"electronic": "electronic", "self": "window", "express": "express"}[item["result"]["delivery"][0]]
            case = await hall.review.act(case.id, "deliver", clerk, {"method": method, "tracking": "EMS1"})
        assert case.state is State.COMPLETED, item["alias"]
        assert case.clock is None and case.due_on is None
        names = await events_of(hall, case)
        assert len([name for name in names if name in ("case.accepted", "case.approved", "case.completed")]) == 3, item[
            "alias"
        ]


async def test_the_longest_way_to_a_denial(hall):
    """Promised materials, a notice, a special procedure of the item's own, an extension where the law allows one."""
    for item in handled(hall):
        set_clock(hall, BEGIN)
        owner = await a_person(hall)
        clerk, head = staff_of(item["agency"]), staff_of(item["agency"], "head")
        case = await opened(hall, item["alias"], owner)
        missing = {row["key"] for row in (await hall.cases.view(case))["materials"] if row["status"] == "missing"}
        later = sorted(missing & set(case.rules["promisable"]))
        if later:
            case = await hall.requests.promise(case.id, owner, later)
        case = await with_materials(hall, case)
        case = await paid(hall, await hall.cases.submit(case.id, owner))
        field = next(
            field for field in item["form"] if field["required"] and "computed" not in field and field["type"] != "photo"
        )
        gaps = {"missing": [{"key": field["key"], "reason": "请核对"}]}
        await hall.review.act(case.id, "request_supplement", clerk, gaps)
        case = await hall.cases.supplement(case.id, owner)
        case = await paid(hall, await hall.review.act(case.id, "accept", clerk, {}))
        assert {promise.key for promise in case.open_promises} == set(later)
        assert all(promise.due_on for promise in case.promises), item["alias"]
        own = item["special_procedures"]
        kind = own[0]["name"] if own else "expert_review"
        case = await hall.review.act(case.id, "suspend", clerk, {"kind": kind, "days": 3, "reason": "按规定"})
        set_clock(hall, BEGIN + timedelta(days=4))
        case = await hall.review.act(case.id, "resume", clerk, {})
        day = timedelta(days=1)
        stops = [(stop.from_on + day, stop.until_on) for stop in case.suspensions]
        assert case.deadline_on == counted(hall, item, case.accepted_at, stops), item["alias"]
        extension = case.rules["extension"]
        if extension and case.deadline_on >= shanghai_day(BEGIN + timedelta(days=4)):
            before = case.deadline_on
            case = await hall.review.act(case.id, "extend", head, {"days": extension["days"], "reason": "情形复杂"})
            assert case.deadline_on > before, item["alias"]
        for key in later:
            case = await hall.cases.put_material(case.id, owner, key, "a.png", picture())
        assert case.open_promises == ()
        case = await hall.review.act(case.id, "decide", head, {"outcome": "denied", "opinion": "不符合条件"})
        assert case.state is State.DENIED
        assert case.decision["complain_to"] == "12345"
        assert "extend" not in (await hall.review.view(case, head))["allowed_actions"]
