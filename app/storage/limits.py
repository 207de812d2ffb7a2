"""How often something may be done by one person or one address.

`Limit` counts in Redis; without Redis nothing is limited by it: it is only a brake. `take_turn` is exact, in MongoDB.
"""

from datetime import datetime
from typing import Any

import structlog
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.kernel.errors import RateLimited

log = structlog.get_logger(__name__)


class Limit:
    """At most `most` times in `per_s` seconds, counted from the first."""

    def __init__(self, redis: Redis | None, name: str, *, most: int, per_s: int) -> None:
        self._redis = redis
        self._name = name
        self._most = most
        self._per_s = per_s

    async def require(self, who: str, detail: str) -> None:
        """Raise RateLimited with `detail` when `who` has done it often enough."""
        if self._redis is None:
            return
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.get(self._key(who))
                pipe.ttl(self._key(who))
                count, left_s = await pipe.execute()
        except (RedisError, OSError) as error:
            log.info("limit.away", name=self._name, error=type(error).__name__)
            return
        if int(count or 0) >= self._most:
            raise RateLimited(detail, retry_after_s=max(1, int(left_s)))

    async def count(self, who: str) -> None:
        """Note that `who` has done it once more."""
        if self._redis is None:
            return
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                # The clock is set once, by the first: going on trying does not keep anybody out for longer.
                pipe.set(self._key(who), 0, ex=self._per_s, nx=True)
                pipe.incr(self._key(who))
                await pipe.execute()
        except (RedisError, OSError) as error:
            log.info("limit.away", name=self._name, error=type(error).__name__)

    def _key(self, who: str) -> str:
        return f"limit:{self._name}:{{{who}}}"  # the braces keep one who on one node of a cluster


async def noted_within(rows: AsyncCollection[Any], row: dict[str, Any], who: dict[str, Any], since: datetime, most: int) -> bool:
    """Note a row and say whether it is one of the first `most` of `who` since then; one that is not is taken out again.

    Noted first, looked at after it: of a hundred at once each sees those before it, but for one or two that are being written in that moment.
    """
    noted = await rows.insert_one(row)
    before = {**who, "at": {"$gt": since}, "_id": {"$type": "objectId", "$lte": noted.inserted_id}}
    if await rows.count_documents(before, limit=most + 1) <= most:
        return True
    await rows.delete_one({"_id": noted.inserted_id})
    return False


async def take_turn(turns: AsyncCollection[Any], who: str, interval_s: int, now: datetime) -> None:
    """Of all who ask for `who` at the same moment let one through, exactly. Raises RateLimited.

    Looking and noting are two steps: a hundred at once would all look before the first has noted. `turns` gets one row a turn, `{_id, at}`,
    and has to forget old ones by itself.
    """
    if interval_s <= 0:
        return
    number = int(now.timestamp() // interval_s)
    try:
        await turns.insert_one({"_id": f"turn:{who}:{number}", "at": now})
    except DuplicateKeyError:
        raise RateLimited(f"刚刚操作过，请 {interval_s} 秒后再试。", retry_after_s=interval_s, en=f"Try again in {interval_s} seconds.") from None
