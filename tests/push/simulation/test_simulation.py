"""Short runs of the simulation, and the proof that it can fail: planted faults are found."""

import random
from datetime import timedelta

import pytest

from push import in_hand
from push.channels.wechat import WechatSubscribe
from push.deliveries import Deliveries
from push.in_hand import InHand
from tests.push.simulation.plan import make_plan
from tests.push.simulation.run import run_plan


@pytest.mark.parametrize("seed", [8, pytest.param(None, marks=pytest.mark.long)])
async def test_everybody_is_told_or_somebody_knows_whatever_happens(servers, sandbox_keys, seed):
    seed = random.randrange(10**6) if seed is None else seed
    print("seed", seed)
    result = await run_plan(make_plan(seed, 240), servers, sandbox_keys.parent)
    assert result.is_sound, (result.plan.command, *result.problems)
    assert result.counts["delivery sent"] > 120 and result.counts["deaths"] > 0 and result.counts["Redis emptied"] == 2


@pytest.mark.long
async def test_everybody_is_told_at_more_length(servers, sandbox_keys):
    seed = random.randrange(10**6)
    print("seed", seed)
    result = await run_plan(make_plan(seed, 6000), servers, sandbox_keys.parent)
    assert result.is_sound, (result.plan.command, *result.problems)


def test_a_seed_is_a_plan():
    assert make_plan(7, 300) == make_plan(7, 300) != make_plan(8, 300)
    plan = make_plan(7, 300)
    assert {intent.lane for intent in plan.intents} == {"urgent", "ordinary", "campaign"}
    assert {mishap.kind for mishap in plan.mishaps} == {"kill", "flush"}
    assert plan.command == "./hall simulate messages --seed 7 --intents 300"


# --- that it can fail: planted faults ---


async def _run(servers, sandbox_keys, *, luck=False):
    return await run_plan(make_plan(5, 120, deaths=0, luck=luck), servers, sandbox_keys.parent)


async def test_without_a_fault_the_quiet_run_is_sound(servers, sandbox_keys):
    result = await _run(servers, sandbox_keys)
    assert result.is_sound, result.problems


async def test_a_lane_that_does_not_lease_is_found(servers, sandbox_keys, monkeypatch):
    monkeypatch.setattr(in_hand, "LEASES", dict.fromkeys(in_hand.LEASES, timedelta(0)))
    monkeypatch.setattr(in_hand, "_MARGIN_S", -20)
    result = await _run(servers, sandbox_keys)
    assert any("were cut off, and 0 processes died" in problem or "reached the person" in problem for problem in result.problems)


async def test_an_intent_that_was_not_written_is_found(servers, sandbox_keys, monkeypatch):
    really_add, count = Deliveries.add, iter(range(10**6))

    async def forgetful(self, delivery, more, session):  # planted: one of twenty
        if next(count) % 20:
            await really_add(self, delivery, more, session)

    monkeypatch.setattr(Deliveries, "add", forgetful)
    result = await _run(servers, sandbox_keys)
    assert any("events without a delivery" in problem for problem in result.problems), result.problems


async def test_a_note_that_was_lost_is_found(servers, sandbox_keys, monkeypatch):
    really_change, count = InHand.change, iter(range(10**6))

    async def forgetful(self, delivery, changes, *more, **named):  # planted: one of twenty sends leaves no trace
        if changes.get("state") == "sent" and next(count) % 20 == 0:
            changes = {**changes, "state": "inbox"}
            return await really_change(self, delivery, changes)
        return await really_change(self, delivery, changes, *more, **named)

    monkeypatch.setattr(InHand, "change", forgetful)
    result = await _run(servers, sandbox_keys)
    assert any("the hall does not know" in problem for problem in result.problems), result.problems


async def test_a_message_that_wechat_is_asked_for_twice_is_found(servers, sandbox_keys, monkeypatch):
    monkeypatch.setattr(WechatSubscribe, "repeatable", True)  # planted: WeChat does not know our ids
    plan = make_plan(5, 120, deaths=0)
    plan.shares["a"]["wechat"] = {"lost": 0.3}
    result = await run_plan(plan, servers, sandbox_keys.parent)
    assert any("times on wechat" in problem for problem in result.problems), result.problems


async def test_a_failure_without_a_task_is_found(servers, sandbox_keys, monkeypatch):
    really_change = InHand.change

    async def silent(self, delivery, changes, *more, **named):  # planted: what failed is nobody's task
        return await really_change(self, delivery, {k: v for k, v in changes.items() if k != "is_undelivered"}, *more, **named)

    monkeypatch.setattr(InHand, "change", silent)
    plan = make_plan(5, 200, deaths=0)
    plan.shares["a"].clear()
    plan.shares["d"].update(plan.shares["r"])
    result = await run_plan(plan, servers, sandbox_keys.parent)
    assert any("no task for staff" in problem for problem in result.problems), result.problems
