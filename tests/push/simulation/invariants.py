"""What must hold when a run has come to rest: what the hall says of each intent, laid beside what the vendors have really done."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from typing import Any

from app.identity.model import StaffSession
from push.channels.wechat_refusals import QUOTA
from push.in_hand import LEASES
from push.lanes import PLACES, URGENT
from push.sending import GIVE_UP_AFTER
from tests.push.simulation.plan import WEB, Intent
from tests.push.simulation.world import World

URGENT_WITHIN = timedelta(seconds=10)
# Channel as a stand-in records it -> as the hall calls it.
_CHANNELS = {"wechat_subscribe": "wechat", "alipay_message": "alipay", "jpush": "app", "sms": "sms"}
_MOST_SHOWN = 40


async def broken(world: World, events: Mapping[str, Intent], figures: dict[str, float]) -> list[str]:
    """Return a sentence for each thing that does not hold, at most so many that one can read them."""
    problems: list[str] = []
    checks = _all(world, events, figures)
    async for problem in checks:
        problems.append(problem)
        if len(problems) >= _MOST_SHOWN:
            break
    await checks.aclose()  # type: ignore[attr-defined]
    return problems


async def _all(world: World, events: Mapping[str, Intent], figures: dict[str, float]) -> AsyncIterator[str]:
    taken = await _taken(world)
    for problem in taken.problems:
        yield problem
    mishaps = await world.mishaps()
    world.counts.update({f"call {name}": count for name, count in mishaps["counts"].items()})
    unseen, crashed, late = set(events), 0, []
    waits: list[float] = []
    undelivered = await _tasks(world)
    wanted = {name: 1 for name in _FIELDS}
    async for row in world.database["deliveries"].find({}, wanted):
        intent = events.get(row["event_id"])
        if intent is None:
            yield f"a delivery of an event that never happened: {row}"
            continue
        unseen.discard(row["event_id"])
        world.counts[f"delivery {row['state']}"] += 1
        crashed += sum(attempt.get("code") == "crashed" for attempt in row["attempts"])
        for problem in _wrong(row, taken.by_marker.get(intent.marker, Counter()), undelivered):
            yield f"{intent.marker} ({intent.event}): {problem}: {_shown(row)}"
        first = mishaps["first"].get(f"{intent.number:07d}")
        # What waits for the morning is due later: in quiet hours not all of the urgent lane passes, and nobody is rung up at night.
        waits_for_morning = world.plan.people[intent.person].quiet or (row["attempts"] and row["attempts"][0]["channel"] == "voice")
        if intent.lane == URGENT and first is not None and not waits_for_morning and not _waits_for_quota(row, first):
            due_at = row["made_at"].timestamp()
            waited = first - due_at
            waits.append(waited)
            # One death is borne within the time; each further one may have had the same message in hand, for one more lease.
            deaths = sum(due_at <= died_at <= first for died_at in world.deaths_at)
            if waited > URGENT_WITHIN.total_seconds() + max(0, deaths - 1) * LEASES[URGENT].total_seconds():
                late.append((round(waited, 1), intent.marker, _shown(row)))
    for event_id in sorted(unseen)[:5]:
        state = await world.database["events"].find_one({"_id": event_id}, {"state": 1, "errors": 1})
        yield f"{len(unseen)} events without a delivery, for example {events[event_id].marker}: {state}"
    for marker in taken.by_marker.keys() - {intent.marker for intent in events.values()}:
        yield f"something went out that nobody was to be told: {marker}"
    messages = await world.database["messages"].count_documents({})
    if messages != len(events):
        yield f"{messages} messages in the inboxes, {len(events)} events"
    if late:
        some = sorted(late)[:: -(-len(late) // 8)]  # from the least late to the latest
        yield f"{len(late)} of {len(waits)} urgent ones later than {URGENT_WITHIN.total_seconds():.0f} s: {some}"
    if waits:
        waits.sort()
        figures |= {"urgent, half": waits[len(waits) // 2], "urgent, 99 of 100": waits[int(len(waits) * 0.99)], "urgent, longest": waits[-1]}
    # A dead worker leaves at most what it had in hand.
    if crashed > world.counts["deaths"] * sum(PLACES.values()):
        yield f"{crashed} sends were cut off, and {world.counts['deaths']} processes died"
    made, killed = mishaps["counts"].get("tokens made", 0), mishaps["counts"].get("tokens killed", 0)
    if made > killed + 1:
        yield f"WeChat's token was made {made} times, and only {killed} were killed"


_FIELDS = (
    "event_id owner_id state channel attempts closed must_arrive made_at next_at merged_into is_open is_undelivered fate message_id".split()
)


def _waits_for_quota(row: Mapping[str, Any], first: float) -> bool:
    """Say whether WeChat alone reaches the person, and its quota of the day was used up before it was first asked: the inbox has it until tomorrow."""
    before = [attempt for attempt in row["attempts"] if attempt["at"].timestamp() < first]
    return bool(before) and all(attempt["channel"] == "wechat" and attempt.get("code") == QUOTA for attempt in before)


def _wrong(row: Mapping[str, Any], taken: Counter[str], undelivered: Mapping[str, str]) -> Iterator[str]:
    """Say what does not hold for one delivery.

    Args:
        taken: channel -> how often a vendor really took this message.
    """
    tried = [(attempt["channel"], attempt["outcome"]) for attempt in row["attempts"]]
    told = {channel for channel, outcome in tried if outcome == "sent"}
    unsure = {channel for channel, outcome in tried if outcome == "unclear"}
    lost = {channel for channel, outcome in tried if outcome == "undelivered"}
    again = {channel for channel, outcome in tried if outcome == "try_later"}
    for channel, count in taken.items():
        if count > 1:
            yield f"reached the person {count} times on {channel}"
        if channel not in told | unsure | lost | again:
            yield f"went out on {channel}, and the hall does not know"
    if len(taken) > 1 and not (unsure | lost | again) & taken.keys():
        yield f"reached the person on {sorted(taken)}"
    for channel in told - taken.keys():
        yield f"was never sent on {channel}"
    state = row["state"]
    if row["is_open"]:
        yield "is not final"
    if state == "sent" and row["channel"] not in told:
        yield "says sent without a send"
    if state == "inbox" and taken.keys() - lost - unsure - again:
        yield "says that the inbox alone has it"
    if state == "unclear" and (not unsure or row["must_arrive"]):
        yield "says unclear without reason"
    if state == "merged" and (taken or not row.get("merged_into")):
        yield "is merged and went out, or into nothing"
    if state == "failed":
        tried_for = row["attempts"][-1]["at"] - row["made_at"] if row["attempts"] else timedelta()
        if tried_for < GIVE_UP_AFTER and not (row["must_arrive"] and row["closed"]):
            yield "was given up too early"
        if row["_id"] not in undelivered:
            yield "failed, and no task for staff tells of it"
        elif undelivered[row["_id"]] != "failed":
            yield "failed, and the inbox does not say so"
    elif row["_id"] in undelivered:
        yield "is a task for staff and has not failed"
    if state not in ("sent", "inbox", "unclear", "merged", "failed"):
        yield f"ends as {state}"


class _Taken:
    def __init__(self) -> None:
        self.by_marker: dict[str, Counter[str]] = {}
        self.problems: list[str] = []


async def _taken(world: World) -> _Taken:
    """Count what the vendors have taken, and look to whom it went."""
    result = _Taken()
    people = {intent.marker: intent.person for intent in world.plan.intents}
    for row in await world.sent():
        channel, content = _CHANNELS.get(row["channel"], row["channel"]), str(row["content"])
        at = content.find("M")
        marker = content[at : at + 9]
        while at >= 0 and marker not in people:
            at = content.find("M", at + 1)
            marker = content[at : at + 9]
        if at < 0:
            result.problems.append(f"a message about nothing known went out: {content[:60]}")
            continue
        result.by_marker.setdefault(marker, Counter())[channel] += 1
        if row["to"] not in world.addresses[people[marker]]:
            result.problems.append(f"{marker} went to somebody else: {row['to']}")
    return result


async def _tasks(world: World) -> dict[str, str]:
    """Return delivery id -> what the person reads about it, for everything that is a task of staff; by the pages that staff and people use."""
    undelivered, found, cursor = world.processes[WEB].push.undelivered, {}, None
    staff = StaffSession("sim", "sim", "clerk", "sg-gaj")
    while True:
        rows, cursor = await undelivered.page(staff, is_superior=False, limit=100, cursor=cursor)
        deliveries = {
            row["_id"]: row
            async for row in world.database["deliveries"].find({"_id": {"$in": [row["id"] for row in rows]}}, {"owner_id": 1, "message_id": 1})
        }
        for row in rows:
            delivery = deliveries[row["id"]]
            message = await world.database["messages"].find_one({"_id": delivery["message_id"]})
            told = await undelivered.told(delivery["owner_id"], [message]) if message else {}
            found[row["id"]] = told.get(delivery["message_id"], {}).get("state", "")
        if cursor is None:
            return found


def _shown(row: Mapping[str, Any]) -> str:
    tried = " ".join(
        f"{one['channel']}:{one['outcome']}{':' + one['code'] if one.get('code') else ''}@{(one['at'] - row['made_at']).total_seconds():.1f}"
        for one in row["attempts"]
    )
    return f"{row['_id']} {row['state']} [{tried}] fate={row.get('fate', '')}"
