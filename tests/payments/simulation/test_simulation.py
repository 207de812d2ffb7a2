"""Short runs of the simulation, and the proof that it can fail: planted bugs are found, made small and played again."""

import random
from dataclasses import replace

import pytest

from app.storage import outbox
from payments.ledger import store as ledger_store
from payments.store import OrderStore
from tests.payments.simulation.plan import WEB, Action, Plan, make_plan
from tests.payments.simulation.run import run_plan
from tests.payments.simulation.shrink import minimized, shape_of, shrink


@pytest.mark.parametrize("seed", [None, 8])
async def test_every_fen_is_explained_whatever_happens(servers, sandbox_keys, seed):
    seed = random.randrange(10**6) if seed is None else seed
    print("seed", seed)
    result = await run_plan(make_plan(seed, 24), servers, sandbox_keys.parent)
    assert result.is_sound, (result.plan.command, *result.problems)
    assert result.counts["orders"] > 12 and result.counts["order paid"] > 2


def test_a_seed_is_a_plan():
    assert make_plan(7, 80) == make_plan(7, 80) != make_plan(8, 80)
    kept = make_plan(7, 80).keep([3, 17])
    assert [action.id for action in kept.actions] == [3, 17]
    assert kept.command == "./hall simulate --seed 7 --orders 80 --keep 3,17"


def test_plans_have_everything_in_them():
    kinds = {
        (action.kind, action.args.get("mode") or action.args.get("outcome")) for seed in range(8) for action in make_plan(seed, 300).actions
    }
    assert {kind for kind, _ in kinds} >= {
        "forged", "foreign", "other_amount", "repeated", "storm", "step_down", "flush_redis", "rotate", "foreign_money", "counter",
        "kill", "bank", "approve", "reject", "close", "refresh", "reconcile", "watch",
    }  # fmt: skip
    assert {("fault", "lost"), ("fault", "garbage"), ("cashier", "success_wrong_amount"), ("refund_mode", "not_enough")} <= kinds
    assert any(action.dies_after for action in make_plan(1, 300).actions)


# --- that it can fail: planted bugs ---


async def test_an_entry_that_is_not_booked_is_found_and_the_plan_made_small(servers, sandbox_keys, monkeypatch):
    append = ledger_store.append

    async def forgetful(database, session, entries):  # planted: what settles an order is not booked
        await append(database, session, [entry for entry in entries if not entry.fact.startswith("settled:")])

    monkeypatch.setattr(ledger_store, "append", forgetful)
    plan = make_plan(11, 4)
    result = await run_plan(plan, servers, sandbox_keys.parent)
    wanted = shape_of(result.problems[0])
    assert wanted == "ledger", result.problems
    tries = 0

    async def fails(smaller):
        nonlocal tries
        tries += 1
        return tries <= 4 and any(
            shape_of(problem) == wanted for problem in (await run_plan(smaller, servers, sandbox_keys.parent)).problems
        )

    small = await shrink(plan, fails)
    assert len(small.actions) <= len(plan.actions) / 3, small.command
    again = make_plan(small.seed, small.orders).keep([action.id for action in small.actions])  # what the printed command does
    assert again == small and {shape_of(p) for p in (await run_plan(again, servers, sandbox_keys.parent)).problems} >= {wanted}


async def test_an_event_outside_its_transaction_is_found(servers, sandbox_keys, monkeypatch):
    append = outbox.append

    async def early(database, session, events, **more):  # planted: told whether the change is committed or not
        await append(database, None, events, **more)

    # The process dies right before it commits, the request is made again: one order, told of twice.
    plan = _plan(_open(0, resident=1, dies_after=1, dies_at="before"))
    assert (await run_plan(plan, servers, sandbox_keys.parent)).is_sound
    monkeypatch.setattr(outbox, "append", early)
    result = await run_plan(plan, servers, sandbox_keys.parent)
    assert any("2 times order.created" in problem for problem in result.problems), result.problems


async def test_a_fee_that_two_can_pay_is_found(servers, sandbox_keys, monkeypatch):
    async def nothing(_store, _order, _session):  # planted: no lock is taken
        pass

    def paid(order, bundle):
        pay = Action(0, bundle, "pay", WEB, order, {"attempt": 0, "provider": "wechatpay", "scene": "native"})
        return [pay, replace(pay, bundle=bundle + 1, kind="cashier", process="", args={"attempt": 0, "outcome": "success"})]

    plan = _plan(_open(0, resident=1), _open(1, resident=2), *paid(0, 1), *paid(1, 1))
    assert (await run_plan(plan, servers, sandbox_keys.parent)).is_sound
    monkeypatch.setattr(OrderStore, "_take_locks", nothing)
    result = await run_plan(plan, servers, sandbox_keys.parent)
    assert any("was paid by" in problem for problem in result.problems), result.problems


def _open(order, *, resident, **dies):
    return Action(0, 0, "open", WEB, order, {"resident": resident, "payables": [["case", 1, 500, "sg-gaj"]]}, **dies)


def _plan(*actions):
    """Return a plan of these actions, each with a number of its own, bundle by bundle."""
    rows = sorted(actions, key=lambda action: action.bundle)
    return Plan(1, 1, tuple(replace(action, id=number) for number, action in enumerate(rows)))


async def test_what_is_not_needed_is_left_out():
    tried = []

    async def fails(parts):
        tried.append(parts)
        return {3, 17, 40} <= set(parts)

    assert await minimized(list(range(64)), fails) == [3, 17, 40]
    assert len(tried) < 80
