"""Lanes, and the rate at which a channel may be used by all workers together.

A lane says how long a delivery may wait behind others. Each has its own look-up, its own loop in the worker and its own places, so an
urgent one never stands behind a campaign, however long that is or however slow its channel answers. What they share is the channel's rate:
one bucket of tokens per channel in Redis, whose lower part is kept for the lanes above.

Redis away: each process goes on with a bucket of its own at a quarter of the rate. That is within the limit for four workers, and a vendor
who is asked too often says so (TryLater): the bucket is a courtesy and saves refusals, it is no guarantee.
"""

import random
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import orjson
import structlog
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.storage.gather import Gather

log = structlog.get_logger(__name__)

URGENT, ORDINARY, CAMPAIGN = LANES = ("urgent", "ordinary", "campaign")
# How many calls one worker makes at once. Together fewer than app.platforms.http.CALLS_IN_FLIGHT of one vendor: a lane that fills
# its places with slow calls leaves places there for the others.
PLACES: Mapping[str, int] = {URGENT: 8, ORDINARY: 16, CAMPAIGN: 6}
# The part of a channel's bucket that a lane leaves to those above it.
KEPT: Mapping[str, float] = {URGENT: 0.0, ORDINARY: 0.2, CAMPAIGN: 0.5}
_ALONE = 0.25
_AWAY_S = 2.0
_SMALLEST_BUCKET = 4

postponed = Counter("hall_deliveries_postponed", "Deliveries that waited for the rate of a channel", ["channel", "lane"])

# Redis' own clock: workers whose clocks differ still share one rate. Takes up to so many tokens; returns how many, and the seconds to wait for
# the next one ("0" when all were there).
_TAKE = """
local rate, size, kept, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local was = redis.call('HMGET', KEYS[1], 'left', 'at')
local at = tonumber(was[2]) or now
local left = math.min(size, (tonumber(was[1]) or size) + math.max(0, now - at) * rate)
local taken = math.max(0, math.min(wanted, math.floor(left - kept)))
left = left - taken
local wait = 0
if taken < wanted then wait = (1 + kept - left) / rate end
redis.call('HSET', KEYS[1], 'left', string.format('%.6f', left), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 60)
return {taken, string.format('%.6f', wait)}
"""


def load_rates(folder: Path) -> dict[str, float]:
    """Read rates.json: channel -> messages per second of all workers together. A channel that is not named has no limit.

    Raises:
        ValueError: a rate that is no number above zero; it names the channel.
    """
    rates = orjson.loads((folder / "rates.json").read_bytes())
    for channel, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0:
            raise ValueError(f"rates.json: {channel}: want messages per second, a number above 0")
    return {channel: float(rate) for channel, rate in rates.items()}


class Rates:
    """One per process. `per_s`: channel -> messages per second of all processes together."""

    def __init__(self, redis: Redis | None, per_s: Mapping[str, float]) -> None:
        self._redis = redis
        self._per_s = per_s
        self._away_until = 0.0  # a monotonic second
        self._alone: dict[str, tuple[float, float]] = {}  # channel -> tokens left, at which monotonic second
        # What is asked for at the same moment is one call.
        self._asked: dict[tuple[str, str], Gather[None, float]] = {}

    async def take(self, channel: str, lane: str) -> float:
        """Take one token; return 0, or the seconds after which it is worth asking again."""
        if channel not in self._per_s:
            return 0.0
        asked = self._asked.get((channel, lane))
        if asked is None:
            asked = self._asked[channel, lane] = Gather(partial(self._take_all, channel, lane))
        return await asked.add(None)

    async def _take_all(self, channel: str, lane: str, wanted: list[None]) -> list[float]:
        rate, count = self._per_s[channel], len(wanted)
        size = max(rate, _SMALLEST_BUCKET)
        if self._redis is not None and time.monotonic() >= self._away_until:
            try:
                key = f"hall:push:rate:{{{channel}}}"
                taken, wait_s = await self._redis.eval(_TAKE, 1, key, str(rate), str(size), str(size * KEPT[lane]), str(count))
                return [0.0] * int(taken) + [self._noted(channel, lane, float(wait_s)) for _ in range(count - int(taken))]
            except (RedisError, OSError) as error:
                self._away_until = time.monotonic() + _AWAY_S  # or every message would wait for the connection's time-out
                log.info("push.rate_alone", channel=channel, error=type(error).__name__)
        return [self._noted(channel, lane, self._take_alone(channel, lane, rate * _ALONE)) for _ in wanted]

    def _take_alone(self, channel: str, lane: str, rate: float) -> float:
        now, size = time.monotonic(), max(rate, _SMALLEST_BUCKET)
        left, at = self._alone.get(channel, (size, now))
        left, kept, wait_s = min(size, left + (now - at) * rate), size * KEPT[lane], 0.0
        if left - kept < 1:
            wait_s = (1 + kept - left) / rate
        else:
            left -= 1
        self._alone[channel] = (left, now)
        return wait_s

    def _noted(self, channel: str, lane: str, wait_s: float) -> float:
        if wait_s <= 0:
            return 0.0
        postponed.labels(channel, lane).inc()
        return wait_s * random.uniform(1, 1.5)  # noqa: S311 (those who wait must not all come back in one moment)
