"""Making a failing plan small: actions are left out, most at a time first, as long as what is left fails in the same way (delta debugging)."""

import math
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from tests.payments.simulation.plan import Action, Plan

T = TypeVar("T")
Fails = Callable[[Plan], Awaitable[bool]]
# What differs from run to run in a sentence: ids, numbers, what stands in brackets.
_OWN = re.compile(r"\b[a-z]+_[0-9A-Za-z]{20,}\b|bill-tf-\w+|\([^)]*\)|-?\d+|\{.*|\[.*")


def shape_of(problem: str) -> str:
    """Return a problem without what differs from run to run: two runs that fail alike have this in common."""
    return _OWN.sub("*", problem).split(":")[0][:60]


async def shrink(plan: Plan, fails: Fails, suspects: Collection[int] = ()) -> Plan:
    """Return a smaller plan that still fails: first whole orders and whole kinds of action are left out, then single actions.

    Args:
        fails: runs a plan; it decides when enough has been tried by saying False from then on.
        suspects: orders to begin with: when these alone (and whoever wants the same) fail, the others are not tried at all.
    """
    plan = await _suspects_alone(plan, fails, suspects)
    groups: dict[tuple[int | None, str], list[Action]] = {}
    for action in plan.actions:
        groups.setdefault((action.order, "" if action.order is not None else action.kind), []).append(action)

    async def groups_fail(kept: Sequence[list[Action]]) -> bool:
        return await fails(plan.keep([action.id for group in kept for action in group]))

    rest = await minimized(list(groups.values()), groups_fail)

    async def actions_fail(kept: Sequence[Action]) -> bool:
        return await fails(plan.keep([action.id for action in kept]))

    single = sorted((action for group in rest for action in group), key=lambda action: action.id)
    return plan.keep([action.id for action in await minimized(single, actions_fail)])


async def _suspects_alone(plan: Plan, fails: Fails, suspects: Collection[int]) -> Plan:
    opened = {action.order: action.args["payables"] for action in plan.actions if action.kind == "open"}
    wanted = [payables for order, payables in opened.items() if order in suspects]
    orders = {order for order, payables in opened.items() if payables in wanted}
    own = [action for action in plan.actions if action.order in orders]
    if not own:
        return plan
    # First with what the hall does in their time alone, then with everything that is about no order.
    for last in (max(action.bundle for action in own) + 3, plan.actions[-1].bundle):
        around = [a for a in plan.actions if a.order is None and own[0].bundle <= a.bundle <= last]
        smaller = plan.keep([action.id for action in (*own, *around)])
        if len(smaller.actions) < len(plan.actions) and await fails(smaller):
            return smaller
    return plan


async def minimized(parts: list[T], fails: Callable[[Sequence[T]], Awaitable[bool]]) -> list[T]:
    """Return parts, in their order, of which none (or few, when `fails` gave up) can be left out without `fails` turning false.

    Zeller's ddmin: halves first, then ever smaller pieces; a piece is left out for good when the rest still fails.
    """
    pieces = 2
    while len(parts) >= 2:
        size = math.ceil(len(parts) / pieces)
        for start in range(0, len(parts), size):
            rest = [*parts[:start], *parts[start + size :]]
            if rest and await fails(rest):
                parts, pieces = rest, max(pieces - 1, 2)
                break
        else:
            if size == 1:
                break
            pieces = min(len(parts), pieces * 2)
    return parts
