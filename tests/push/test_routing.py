"""Which channel carries what to whom, and when: switches, matters kept quiet, quiet hours, elder mode, calls, language."""

import asyncio
from datetime import datetime, time, timedelta

import pytest

from app.kernel.clock import SHANGHAI, utc_now
from app.kernel.ids import new_id
from push.channels.voice import first_allowed, spoken
from push.model import CHANNELS, EVENTS, MAX_QUIET, Preferences, switches
from push.templates import load_templates
from tests.push.desk import Desk

DAY, NIGHT = datetime(2026, 12, 1, 10, 30, tzinfo=SHANGHAI), datetime(2026, 12, 1, 22, 15, tzinfo=SHANGHAI)


def at(desk: Desk, moment: datetime) -> None:
    """Let the hall's callers think it is `moment`; deliveries keep the present."""
    desk.push.deliveries._channels["voice"]._clock = lambda: moment


async def _told(desk: Desk, owner_id: str, name: str = "case.accepted", **data) -> dict:
    await desk.push.tell(desk.event(owner_id, name, **data))
    await desk.push.deliver_due()
    return (await desk.deliveries(owner_id))[-1]


async def _lost(desk: Desk, delivery: dict) -> dict:
    """Let the gateway report that a message did not arrive, and deliver on."""
    await desk.push.reports.take(delivery["channel"], delivery["vendor_id"], "failed:UNDELIV")
    await desk.push.deliver_due()
    return await desk.database["deliveries"].find_one({"_id": delivery["_id"]})


async def test_elder_mode_is_text_then_call_then_the_rest(desk: Desk):
    at(desk, DAY)
    owner_id = await desk.resident(wechat=True, phone=True)
    await desk.grant(owner_id, "case.accepted", 3)
    await desk.push.set_preferences(owner_id, {"elder_mode": True})

    first = await _told(desk, owner_id)
    second = await _lost(desk, first)
    third = await _lost(desk, second)

    assert [row["channel"] for row in (first, second, third)] == ["sms", "voice", "wechat"]
    call = next(item for item in await desk.sent(owner_id) if item["channel"] == "voice")
    assert call["language"] == "zh-CN" and call["request_id"] == first["_id"]
    assert "【" not in call["text"] and call["text"].count("居民身份证丢失补领") == 2 and call["text"].startswith("您好，这里是韶关办事大厅")


async def test_who_did_not_ask_is_not_called_and_who_asked_is_called_last(desk: Desk):
    at(desk, DAY)
    plain, asked = await desk.resident(phone=True), await desk.resident(phone=True)
    await desk.push.set_preferences(asked, {"kinds": {"case": {"voice": True}}})

    ends = [await _lost(desk, await _told(desk, one)) for one in (plain, asked)]

    assert [(end["state"], end["channel"]) for end in ends] == [("failed", "sms"), ("sent", "voice")]
    await desk.push.set_preferences(asked, {"elder_mode": True, "kinds": {"case": {"voice": False}}})
    assert not (await desk.push.preferences(asked)).allows("case", "voice"), "and who is old may refuse calls"


async def test_nobody_is_called_at_night_or_in_quiet_hours_however_urgent(desk: Desk):
    at(desk, NIGHT)
    owner_id = await desk.resident(phone=True)
    quiet = {"from": time(8), "to": time(9, 30)}
    await desk.push.set_preferences(owner_id, {"elder_mode": True, "quiet_hours": quiet})

    told = await _told(desk, owner_id, "case.fee_due")
    delivery = await _lost(desk, told)

    assert [one["outcome"] for one in delivery["attempts"]] == ["sent", "undelivered", "try_later"]
    assert delivery["is_open"] and delivery["next_at"] == datetime(2026, 12, 2, 9, 30, tzinfo=SHANGHAI)
    at(desk, datetime(2026, 12, 2, 9, 31, tzinfo=SHANGHAI))
    await desk.push.deliver_due(delivery["next_at"] if delivery["next_at"] > utc_now() else utc_now())
    assert (await desk.deliveries(owner_id))[-1]["state"] == "sent"


@pytest.mark.parametrize(
    ("now", "quiet", "allowed"),
    [
        ("2026-12-01T10:00", None, "2026-12-01T10:00"),
        ("2026-12-01T20:59", None, "2026-12-01T20:59"),
        ("2026-12-01T21:00", None, "2026-12-02T08:00"),
        ("2026-12-01T07:59", None, "2026-12-01T08:00"),
        ("2026-12-01T12:30", (time(12), time(14)), "2026-12-01T14:00"),
        ("2026-12-01T23:00", (time(7), time(10)), "2026-12-02T10:00"),
        ("2026-12-01T20:30", (time(20), time(9)), "2026-12-02T09:00"),
        ("2026-12-01T12:00", (time(8), time(21)), None),
    ],
)
def test_the_first_moment_at_which_somebody_may_be_called(now, quiet, allowed):
    preferences = Preferences(quiet_from=quiet[0], quiet_to=quiet[1]) if quiet else Preferences()

    found = first_allowed(datetime.fromisoformat(now).replace(tzinfo=SHANGHAI), preferences)

    assert found == (datetime.fromisoformat(allowed).replace(tzinfo=SHANGHAI) if allowed else None)


def test_calls_are_only_for_what_is_urgent_or_must_arrive_and_for_all_that_a_text_message_carries():
    for spec in load_templates().specs.values():
        matters = spec.urgent or spec.must_arrive
        assert ("voice" in spec.channels) == (matters and "sms" in spec.channels), spec.event
        assert ("apns" in spec.channels) == ("app" in spec.channels), spec.event
        order = [channel for channel in CHANNELS if channel in spec.channels]
        assert list(spec.channels) == (sorted(order, key=lambda channel: channel == "email") if matters else order)
        for texts in spec.texts.values():
            assert len(spoken(texts.short)[0]) <= 500, spec.event


async def test_the_call_speaks_the_language_of_the_person(desk: Desk):
    at(desk, DAY)
    owner_id = await desk.resident(phone=True)
    await desk.push.set_preferences(owner_id, {"elder_mode": True, "language": "en"})

    await _lost(desk, await _told(desk, owner_id))

    call = (await desk.sent(owner_id))[-1]
    assert call["channel"] == "voice" and call["language"] == "en" and call["text"].startswith("Hello") and "[" not in call["text"]


@pytest.mark.parametrize("word", ["NOANSWER", "BUSY"])
async def test_a_call_nobody_took_goes_on_and_ends_as_a_task(desk: Desk, word: str):
    at(desk, DAY)
    owner_id = await desk.resident(phone=True)
    await desk.push.set_preferences(owner_id, {"elder_mode": True})
    called = await _lost(desk, await _told(desk, owner_id))
    assert called["channel"] == "voice"

    await desk.push.reports.take("voice", called["vendor_id"], f"failed:{word}")
    await desk.push.deliver_due()

    delivery = (await desk.deliveries(owner_id))[-1]
    assert delivery["state"] == "failed" and delivery["attempts"][-1]["code"] == f"failed:{word}"
    (message,) = (await desk.push.inbox(owner_id, unread=False, limit=5, cursor=None))["items"]
    assert "电话未能送达" in message["delivery"]["text"]


@pytest.mark.parametrize("key", ["quiet_cases", "quiet_items"])
async def test_of_a_matter_kept_quiet_only_what_must_arrive_leaves_the_hall(desk: Desk, key: str):
    owner_id = await desk.resident(alipay=True)
    event = desk.event(owner_id, "case.resumed")
    await desk.push.set_preferences(owner_id, {key: [event.subject_id if key == "quiet_cases" else "id_card_lost"]})

    await desk.push.tell(event)
    await desk.push.deliver_due()
    assert (await desk.deliveries(owner_id))[-1]["state"] == "inbox" and await desk.sent(owner_id) == []
    assert (await desk.push.inbox(owner_id, unread=False, limit=5, cursor=None))["items"], "the inbox has it all the same"

    must = desk.event(owner_id, "case.approved")
    must = type(must)(**{**must.__dict__, "subject_id": event.subject_id}) if key == "quiet_cases" else must
    await desk.push.tell(must)
    await desk.push.deliver_due()
    assert [item["channel"] for item in await desk.sent(owner_id)] == ["alipay_message"]

    await desk.push.set_preferences(owner_id, {key: []})
    await desk.push.tell(desk.event(owner_id, "case.resumed"))
    await desk.push.deliver_due(utc_now() + timedelta(minutes=2))
    assert len(await desk.sent(owner_id)) == 2


async def test_a_client_that_sends_back_what_it_was_shown_has_decided_nothing(desk: Desk):
    owner_id = await desk.resident(phone=True)
    shown = (await desk.push.preferences(owner_id)).view()["kinds"]
    assert shown["case"]["voice"] is False and set(shown) == set(EVENTS)
    assert all(set(shown[kind]) == set(switches(kind)) for kind in EVENTS)

    changed = await desk.push.set_preferences(owner_id, {"kinds": shown, "elder_mode": True})

    assert changed.allows("case", "voice"), "old people are called although the form said nobody is"
    assert changed.allows("case", "apns") == changed.allows("case", "app")


async def test_of_many_wishes_at_once_none_is_lost(desk: Desk):
    owner_id = new_id("res")
    quiet = {"from": time(22), "to": time(7)}
    wishes = [
        desk.push.set_preferences(owner_id, {"quiet_hours": quiet}),
        desk.push.set_preferences(owner_id, {"elder_mode": True}),
        desk.push.stop_emails(owner_id),
        desk.push.set_preferences(owner_id, {"kinds": {"notice": {"inbox": False}}}),
        *(desk.push.keep_quiet(owner_id, "quiet_cases", f"case_{number}", True) for number in range(12)),
    ]
    await asyncio.gather(*wishes)
    kept = await desk.push.preferences(owner_id)
    assert (kept.quiet_from, kept.quiet_to, kept.elder_mode) == (time(22), time(7), True)
    assert not kept.allows("case", "email") and kept.refuses("notice")
    assert kept.quiet_cases == {f"case_{number}" for number in range(12)}
    full = {"quiet_items": [f"item_{number}" for number in range(MAX_QUIET)]}
    await desk.push.set_preferences(owner_id, full)
    assert not await desk.push.keep_quiet(owner_id, "quiet_items", "one_more", True)
    assert await desk.push.keep_quiet(owner_id, "quiet_items", "item_1", False)


async def test_who_is_joined_to_another_account_keeps_the_quiet_that_was_asked_for_on_either(desk: Desk):
    older, younger = await desk.resident(phone=True), await desk.resident(phone=True)
    event = desk.event(younger, "case.transferred")
    await desk.push.set_preferences(older, {"language": "en", "quiet_items": ["a"]})
    await desk.push.set_preferences(younger, {"quiet_hours": {"from": time(22), "to": time(7)}, "quiet_items": ["b"], "elder_mode": True})
    await desk.push.keep_quiet(younger, "quiet_cases", event.subject_id, True)
    for _ in range(2):  # the event of a join comes at least once
        await desk.push.reassign(younger, older)
    await desk.push.tell(event)
    await desk.push.deliver_due()
    assert [one["state"] for one in await desk.deliveries(older)] == ["inbox"]
    kept = await desk.push.preferences(older)
    assert (kept.language, kept.elder_mode, kept.quiet_items) == ("en", False, {"a", "b"})
    assert (kept.quiet_from, kept.quiet_to) == (time(22), time(7))

    # Together no more than one person may have, so that they can be taken away one by one.
    third = await desk.resident()
    await desk.push.set_preferences(third, {"quiet_items": [f"i{number}" for number in range(MAX_QUIET)]})
    await desk.push.reassign(third, older)
    assert len((await desk.push.preferences(older)).quiet_items) == MAX_QUIET
    assert await desk.push.keep_quiet(older, "quiet_items", "a", False)
    # One who had none takes over all.
    fourth = await desk.resident()
    await desk.push.reassign(older, fourth)
    assert (await desk.push.preferences(fourth)).language == "en"
