"""The plan of a run: what residents, providers, staff and bad luck do, drawn from a seed before anything is executed. Pure.

A plan is a list of actions, plain data. Actions of one bundle happen at the same time; between two bundles the clock goes on. An action
keeps its number when others are left out, so `--seed 7 --orders 60 --keep 3,17,40` is a plan too.
"""

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

WEB, WORKER, SECOND_WORKER = "web", "worker-1", "worker-2"
OUTSIDE = ""  # what happens at a provider, in the network, at the servers
RESIDENTS = 12
AGENCIES = ("sg-gaj", "sg-rsj", "sg-zjj", "sg-sw")
PROVIDERS = ("wechatpay", "alipay")

_OUTCOMES = {
    "success": 38,
    "success_without_notice": 18,
    "success_notice_twice": 14,
    "success_notice_late": 12,
    "fail": 12,
    "success_wrong_amount": 4,
}
_SCENES = {"mini_program": 7, "native": 1, "h5": 1, "app": 1}
_STORIES = {"plain": 46, "fails_first": 8, "changes_provider": 12, "closes": 9, "late": 8, "leaves": 5, "hurried": 12}
_FAULTS = ("down", "lost", "slow", "error500", "bad_signature", "garbage", "unsigned", "rate_limited")
_NOTICE_FAULTS = ("down", "lost", "bad_signature", "unsigned", "garbage")


@dataclass(frozen=True)
class Action:
    """One thing that somebody does.

    Attributes:
        process: which process of the hall does it; "" for what happens outside.
        order: number of the order it is about, within this plan.
        dies_after: the process dies after so many commands to the database and calls out, counted from here, each before it is sent
            and once more when its answer comes; 0 for never.
        dies_at: `before` or `after`: then it is commits that `dies_after` counts, and it dies right before or right after that one.
    """

    id: int
    bundle: int
    kind: str
    process: str
    order: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    dies_after: int = 0
    dies_at: str = ""

    def __str__(self) -> str:
        about = f" order {self.order}" if self.order is not None else ""
        told = " ".join(f"{name}={value}" for name, value in self.args.items())
        dies = f" dies {self.dies_at or 'after'} {'commit ' if self.dies_at else ''}{self.dies_after}" if self.dies_after else ""
        return f"{self.id:5} bundle {self.bundle:4} {self.process or 'outside':8} {self.kind}{about} {told}{dies}"


@dataclass(frozen=True)
class Plan:
    seed: int
    orders: int
    actions: tuple[Action, ...]
    is_whole: bool = True

    def keep(self, ids: Collection[int]) -> "Plan":
        """Return the plan with these actions alone."""
        wanted = set(ids)
        return replace(self, actions=tuple(action for action in self.actions if action.id in wanted), is_whole=False)

    @property
    def command(self) -> str:
        """The command that runs exactly this plan."""
        kept = "" if self.is_whole else f" --keep {','.join(str(action.id) for action in self.actions)}"
        return f"./hall simulate --seed {self.seed} --orders {self.orders}{kept}"

    def bundles(self) -> Iterator[list[Action]]:
        """Yield the actions bundle by bundle."""
        bundle: list[Action] = []
        for action in self.actions:
            if bundle and action.bundle != bundle[0].bundle:
                yield bundle
                bundle = []
            bundle.append(action)
        if bundle:
            yield bundle


def make_plan(seed: int, orders: int) -> Plan:
    """Return the plan of a seed; the same one each time, on every machine."""
    return Plan(seed, orders, _Planner(seed, orders).actions())


class _Planner:
    def __init__(self, seed: int, orders: int) -> None:
        self._chance = random.Random(seed)
        self._orders = orders
        self._bundles = max(16, orders // 6)
        self._rows: list[tuple[int, int, dict[str, Any]]] = []  # (bundle, place within it, the action without its number)
        self._payables: list[list[list[Any]]] = []
        self._odd: set[int] = set()  # orders whose payment will be of another amount, or be told so
        self._cases = 0

    def actions(self) -> tuple[Action, ...]:
        starts = sorted(self._chance.randrange(self._bundles) for _ in range(self._orders))
        for order, start in enumerate(starts):
            self._story(order, start)
        last = max(bundle for bundle, _, _ in self._rows)
        self._days_left = 9
        for bundle in range(last + 1):
            self._hall_at_work(bundle)
            self._bad_luck(bundle)
            self._time(bundle)
        rows = sorted(self._rows, key=lambda row: row[:2])
        return tuple(Action(id=number, **row) for number, (_, _, row) in enumerate(rows))

    def _add(self, bundle: int, kind: str, process: str = WEB, order: int | None = None, dies: float = 0.03, **args: Any) -> None:
        dies_after, dies_at = 0, ""
        if process and self._chance.random() < dies:
            # Most often early, where an action has its writes; now and then late, in the middle of what others do meanwhile.
            dies_after = self._chance.randint(1, 30) if self._chance.random() < 0.8 else self._chance.randint(31, 200)
            if self._chance.random() < 0.4:  # the two moments that matter most
                dies_after, dies_at = self._chance.randint(1, 3), self._chance.choice(("before", "after"))
        row = {"bundle": bundle, "kind": kind, "process": process, "order": order, "args": args}
        row |= {"dies_after": dies_after, "dies_at": dies_at}
        self._rows.append((bundle, 0 if kind != "clock" else 1, row))

    def _pick(self, weights: Mapping[str, int]) -> str:
        return self._chance.choices(list(weights), list(weights.values()))[0]

    # --- residents ---

    def _story(self, order: int, at: int) -> None:
        chance = self._chance
        rival = order > 0 and chance.random() < 0.15
        payables = self._payables[order - 1] if rival else self._new_payables()
        self._payables.append(payables)
        self._add(at, "open", order=order, resident=chance.randrange(RESIDENTS), payables=payables)
        paid_at = getattr(self, f"_{self._pick(_STORIES)}")(order, at)
        for kind, how_often in (("refresh", 0.3), ("receipt", 0.1), ("counter", 0.06), ("open_again", 0.08)):
            if chance.random() < how_often:
                self._add(paid_at + chance.randint(0, 2), kind, OUTSIDE if kind == "counter" else WEB, order)
        for kind, how_often in (("forged", 0.05), ("foreign", 0.03), ("other_amount", 0.05), ("repeated", 0.04)):
            if chance.random() < how_often:
                self._add(paid_at + chance.randint(0, 1), kind, OUTSIDE, order, attempt=chance.choice((0, 0, 1)))
                self._odd |= {order} if kind == "other_amount" else set()
        if order in self._odd and chance.random() < 0.7:
            self._decision(order, paid_at + chance.randint(0, 3))
        if chance.random() < 0.25:
            self._refunds(order, paid_at + chance.randint(1, 3))

    def _new_payables(self) -> list[list[Any]]:
        """Return [kind, number, fen, agency] of each payable; of a bill its department says the amount."""
        chance, rows = self._chance, []
        for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
            self._cases += 1
            is_bill = chance.random() < 0.5
            fen = chance.choice((1, 100, 999, 4000, 52_000, chance.randint(1, 90_000)))
            rows.append(["bill", self._cases] if is_bill else ["case", self._cases, fen, chance.choice(AGENCIES)])
        return rows

    def _pay(self, order: int, at: int, attempt: int = 0, provider: str = "") -> str:
        provider = provider or self._chance.choice(PROVIDERS)
        self._add(at, "pay", order=order, attempt=attempt, provider=provider, scene=self._pick(_SCENES))
        return provider

    def _cashier(self, order: int, at: int, attempt: int = 0, outcome: str = "") -> None:
        outcome = outcome or self._pick(_OUTCOMES)
        self._odd |= {order} if outcome == "success_wrong_amount" else set()
        self._add(at, "cashier", OUTSIDE, order, attempt=attempt, outcome=outcome)

    def _plain(self, order: int, at: int) -> int:
        provider = self._pay(order, at + 1)
        if self._chance.random() < 0.3:  # pressed twice, or once more because nothing seemed to happen
            self._pay(order, at + self._chance.randint(1, 2), provider=provider)
        self._cashier(order, at + 3)
        return at + 3

    def _fails_first(self, order: int, at: int) -> int:
        self._pay(order, at + 1)
        self._cashier(order, at + 2, outcome="fail")
        self._cashier(order, at + 3)
        return at + 3

    def _changes_provider(self, order: int, at: int) -> int:
        first = self._pay(order, at + 1)
        self._pay(order, at + self._chance.randint(1, 2), 1, next(name for name in PROVIDERS if name != first))
        for attempt in (0, 1):
            if self._chance.random() < 0.75:
                self._cashier(order, at + self._chance.randint(2, 4), attempt)
        return at + 4

    def _closes(self, order: int, at: int) -> int:
        self._pay(order, at + 1)
        self._add(at + 2, "close", order=order)
        self._cashier(order, at + self._chance.randint(2, 3))
        return at + 3

    def _late(self, order: int, at: int) -> int:
        self._pay(order, at + 1)
        paid_at = at + self._chance.randint(4, 6 + self._bundles // 2)
        if self._chance.random() < 0.3:  # the last minute of its half hour, or just past it
            self._add(paid_at - 1, "clock", OUTSIDE, seconds=self._chance.choice((1650, 1780)))
        self._cashier(order, paid_at)
        return paid_at

    def _leaves(self, order: int, at: int) -> int:
        if self._chance.random() < 0.6:
            self._pay(order, at + 1)
        return at + 1

    def _hurried(self, order: int, at: int) -> int:
        """Everything at the same time."""
        self._pay(order, at + 1)
        self._cashier(order, at + 2)
        for kind in self._chance.sample(("close", "refresh", "pay"), 2):
            self._pay(order, at + 2) if kind == "pay" else self._add(at + 2, kind, order=order)
        return at + 2

    def _refunds(self, order: int, at: int) -> None:
        chance = self._chance
        for number in range(chance.choice((1, 1, 2, 3))):
            asked_at = at + chance.randint(0, 3)
            share = chance.choice(("all", "all", "half", "fen", "too_much"))
            self._add(asked_at, "refund", order=order, number=number, share=share, agency=chance.randrange(3))
            if chance.random() < 0.7:
                decision = chance.choice(("approve", "approve", "approve", "reject"))
                for _ in range(chance.choice((1, 1, 2))):
                    self._add(asked_at + chance.randint(0, 2), decision, order=order, number=number)

    def _decision(self, order: int, at: int) -> None:
        """Staff decide about a payment that does not fit: it goes back through the hall, or went back at the provider's own pages."""
        if self._chance.random() < 0.2:
            self._add(at, "returned_outside", order=order)
            return
        for _ in range(self._chance.choice((1, 1, 2))):
            self._add(at + self._chance.randint(0, 1), "give_back", order=order)
        if self._chance.random() < 0.8:
            self._add(at + self._chance.randint(1, 3), self._chance.choice(("approve", "approve", "reject")), order=order, number="held")

    # --- the hall's own work, and what goes wrong ---

    def _hall_at_work(self, bundle: int) -> None:
        for process, often in ((WORKER, 0.9), (SECOND_WORKER, 0.4)):
            for kind, share in (
                ("sweep", 0.9),
                ("relay", 0.9),
                ("tell", 0.5),
                ("number_receipts", 0.5),
                ("seal", 0.4),
                ("reconcile", 0.12),
            ):
                if self._chance.random() < often * share:
                    self._add(bundle, kind, process, dies=0.08)

    def _bad_luck(self, bundle: int) -> None:
        chance = self._chance
        if chance.random() < 0.14:
            provider = chance.choice((*PROVIDERS, *PROVIDERS, "departments"))
            self._add(bundle, "fault", OUTSIDE, provider=provider, mode=chance.choice(_FAULTS), count=chance.choice((None, 1, 3, 12)))
            self._add(bundle + chance.randint(1, 3), "fault", OUTSIDE, provider=provider, mode="none", count=None)
        if chance.random() < 0.08:
            provider = f"{chance.choice(PROVIDERS)}_notice"
            self._add(bundle, "fault", OUTSIDE, provider=provider, mode=chance.choice(_NOTICE_FAULTS), count=chance.randint(1, 6))
        if chance.random() < 0.06:
            storm = {"repeat": chance.choice((2, 20)), "reorder": True, "delay_s": chance.choice((0, 60)), "drop": chance.choice((0, 0.4))}
            self._add(bundle, "storm", OUTSIDE, **storm, seed=chance.randrange(1000))
            self._add(bundle + 1, "storm", OUTSIDE)
        if chance.random() < 0.1:
            mode = chance.choice(("success", "processing", "abnormal", "closed", "not_enough"))
            self._add(bundle, "refund_mode", OUTSIDE, mode=mode, seconds=chance.choice((0, 5, 3600, 3 * 86400)))
            self._add(bundle + chance.randint(1, 4), "refund_mode", OUTSIDE, mode="success", seconds=None)
        if chance.random() < 0.15:
            self._add(
                bundle, "bank", OUTSIDE, pick=chance.randrange(1000), status=chance.choice(("SUCCESS", "SUCCESS", "ABNORMAL", "CLOSED"))
            )
        if chance.random() < 0.015:
            self._add(bundle, "rotate", OUTSIDE, provider=chance.choice(PROVIDERS))
        for kind, how_often in (("foreign_money", 0.01), ("step_down", 0.008), ("flush_redis", 0.02), ("kill", 0.02)):
            if chance.random() < how_often:
                at_whom = {"process": chance.choice((WEB, WORKER, SECOND_WORKER)), "dies": 0} if kind == "kill" else {"process": OUTSIDE}
                self._add(bundle, kind, **at_whom)

    def _time(self, bundle: int) -> None:
        chance = self._chance
        seconds: float = chance.choice((1, 2, 5, 10, 20, 31, 62))
        if chance.random() < 0.03:
            seconds = chance.choice((300, 1200, 1741, 1860, 4000))
        if chance.random() < 0.012 and self._days_left > 0:
            days = chance.choice((0.4, 1, 2))
            seconds, self._days_left = days * 86400, self._days_left - days
        self._add(bundle, "clock", OUTSIDE, seconds=seconds)
        if bundle % 30 == 29:
            self._add(bundle, "watch", OUTSIDE)
