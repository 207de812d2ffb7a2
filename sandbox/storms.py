"""Bad weather for notices: repeated, out of order, late, lost on the way. Switched by POST /_sim/storm, ended by a restart."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Storm:
    """What happens to notices written from now on; with the defaults nothing does.

    Attributes:
        repeat: how often each one comes, each with its own ladder, same notification id.
        reorder: each waits a random part of `delay_s` (a second when that is 0), so that they come in any order.
        delay_s: how long each waits before its first delivery.
        drop: share of deliveries lost on the way, 0 to 1; they come again on the provider's ladder.
        seed: of the chances, so that a run can be had again.
    """

    repeat: int = 1
    reorder: bool = False
    delay_s: float = 0
    drop: float = 0
    seed: int = 0
    _chance: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def spread(self, notices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the notices as the storm sends them."""
        return [
            notice | {"next_at": notice["next_at"] + self._wait_s()} for notice in notices for _ in range(self.repeat)
        ]

    def loses(self) -> bool:
        """Say whether this delivery is lost."""
        return self.drop > 0 and self._chance.random() < self.drop

    def _wait_s(self) -> float:
        return self._chance.random() * (self.delay_s or 1) if self.reorder else self.delay_s

    def shown(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
