"""Cases that can be rated, at any moment of a clock that the test holds."""

from datetime import UTC, datetime

from app.feedback.model import EVENTS
from app.kernel.events import Event
from app.supervision import cards
from tests.app.cases.handled import set_clock, staff_of, submitted

CLERK, HEAD = staff_of("sg-rsj"), staff_of("sg-rsj", "head")
DESK, SUPERIOR = staff_of("sg-zsj"), staff_of("sg-zsj", "head")


def at(month, day, hour=10):
    return datetime(2026, month, day, hour - 8, tzinfo=UTC)


def now_is(hall, moment):
    set_clock(hall, moment)
    for part in (hall.feedback, hall.staff_ratings, hall.work_orders, hall.complaints, hall.cards, hall.supervision):
        part._clock = lambda: moment


async def noted(hall, times=1):
    """Hand every event to feedback and supervision, as the relay does."""
    for _ in range(times):
        async for document in hall.database["events"].find({}).sort("_id", 1):
            event = Event.from_document(document)
            if event.name in EVENTS:
                await hall.feedback.note(event)
            if event.name in cards.EVENTS:
                await hall.cards.note(event)


async def handed_in(hall):
    """A case that a clerk has accepted, with its contact `submission`."""
    case = await submitted(hall, "injury_identify")
    await hall.review.act(case.id, "accept", CLERK, {})
    await noted(hall)
    [contact] = (await hall.feedback.contacts(case.owner_id))[0]
    return case, contact["id"]


async def bad_rating(hall, level=5):
    """A bad rating of a contact; returns (resident, its call-back)."""
    case, contact = await handed_in(hall)
    await hall.feedback.rate(contact, case.owner_id, level, [], "等了两个小时")
    [order] = (await hall.work_orders.list_of_resident("call_back", case.owner_id))[0]
    return case.owner_id, order


async def events_about(hall, subject_id):
    rows = await hall.database["events"].find({"subject_id": subject_id}).sort("_id", 1).to_list()
    return [row["name"] for row in rows]


async def totals(hall, staff=HEAD):
    return (await hall.staff_ratings.statistics(staff, at(1, 1).date(), at(12, 31).date(), None))["totals"]
