"""Bad luck by script, for every single call to a message vendor: `POST /_sim/mishaps` {seed, marker, slow_s, shares}, `GET` what has come of it.

`marker` is a pattern with two groups that is looked for in the body of each call: the kind of the message and its name. `shares` says, per
kind and vendor, which mishap happens how often: {"a": {"wechat": {"lost": 0.02, "43101": 0.03}}}. What happens to a call is drawn from
the seed, the vendor, the name and how many calls there were of it: the same message has the same luck in every run. Mishaps are the modes
of base.FAULT_MODES, `late` (an answer after a moment), `token` (WeChat's access token dies first), and the codes of the vendor itself.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandbox.base import FAULT_MODES, StandIn

if TYPE_CHECKING:
    from sandbox.base import Sandbox

_LATEST_S = 1.5


@dataclass
class Mishaps:
    """One per process of stand-ins; in memory. `first`: name -> epoch second of the first call about it, whatever came of it."""

    sandbox: Sandbox
    seed: int = 0
    marker: re.Pattern[bytes] | None = None
    slow_s: float = 6.0
    shares: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _calls: Counter[tuple[str, str]] = field(default_factory=Counter)

    def draw(self, provider: str, body: bytes) -> tuple[str, float]:
        """Return what happens to this call, and how many seconds it takes to happen."""
        found = self.marker.search(body) if self.marker else None
        if found is None:
            return "none", 0.0
        kind, name = found[1].decode(), found[2].decode()
        self.first.setdefault(name, self.sandbox.clock())
        self._calls[provider, name] += 1
        drawn = hashlib.blake2b(f"{self.seed}/{provider}/{name}/{self._calls[provider, name]}".encode(), digest_size=16).digest()
        left, mode = int.from_bytes(drawn[:8], "big") / 2**64, "none"
        for one, share in self.shares.get(kind, {}).get(provider, {}).items():
            left -= share
            if left < 0:
                mode = one
                break
        self.counts[f"{provider} {mode}"] += 1
        if mode == "token":
            kept = self.sandbox.store.get("wechat_current", "stable_token")
            if kept:
                self.sandbox.store.drop("wechat_token", kept["token"])
                self.sandbox.store.drop("wechat_current", "stable_token")
                self.counts["tokens killed"] += 1
        wait_s = {"slow": self.slow_s, "late": int.from_bytes(drawn[8:], "big") / 2**64 * _LATEST_S}.get(mode, 0.0)
        return mode, wait_s


def is_code(mode: str) -> bool:
    """Say whether a mishap is an answer in the vendor's own words."""
    return mode not in FAULT_MODES and mode not in ("late", "token")


class Script(StandIn):
    """POST /_sim/mishaps sets the script; GET shows {first, counts}."""

    def get(self) -> None:
        mishaps = self.sandbox.mishaps
        assert mishaps is not None
        self.send({"first": mishaps.first, "counts": dict(mishaps.counts)})

    def post(self) -> None:
        body: dict[str, Any] = self.json_object() or {}
        mishaps = self.sandbox.mishaps
        assert mishaps is not None
        try:
            mishaps.marker = re.compile(str(body["marker"]).encode())
        except (KeyError, re.error):
            return self.refuse(422, "invalid_marker", "marker 应为带两个组的正则表达式")
        mishaps.seed, mishaps.slow_s = int(body.get("seed", 0)), float(body.get("slow_s", 6.0))
        mishaps.shares = body.get("shares") or {}
        return self.send({"ok": True})


routes = [(r"/_sim/mishaps", Script)]
