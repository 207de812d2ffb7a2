"""Answers of departments, kept for a minute per resident, so that turning a page does not ask again.

Sealed, for Redis is no place for data of persons. Answers with bills are not kept at all: a bill that was just paid must not be shown
as owed.
"""

import hashlib
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.kernel.crypto import KeyRing, SealBroken

log = structlog.get_logger(__name__)

KEPT_S = 60


class AnswerCache:
    """One Redis hash per resident. Without Redis every question is asked."""

    def __init__(self, redis: Redis | None, keys: KeyRing) -> None:
        self._redis = redis
        self._keys = keys

    async def get(self, owner_id: str, question: Any) -> dict[str, Any] | None:
        """Return the kept answer to a question, or None."""
        if self._redis is None:
            return None
        field = _digest(question)
        try:
            sealed = await self._redis.hget(_key(owner_id), field)  # type: ignore[misc]
            if sealed is None:
                return None
            answer: dict[str, Any] = orjson.loads(self._keys.open_sealed(sealed, context=f"{owner_id}.{field}"))
            return answer
        except (RedisError, OSError, SealBroken) as error:
            log.info("checks.cache_away", error=type(error).__name__)
            return None

    async def put(self, owner_id: str, question: Any, answer: dict[str, Any]) -> None:
        """Keep an answer. The clock of the whole hash is set once, so nothing is kept longer than KEPT_S."""
        if self._redis is None:
            return
        field = _digest(question)
        sealed = self._keys.seal(orjson.dumps(answer).decode(), context=f"{owner_id}.{field}")
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(_key(owner_id), field, sealed)
                pipe.ttl(_key(owner_id))
                _set, left_s = await pipe.execute()
            if left_s < 0:
                await self._redis.expire(_key(owner_id), KEPT_S)
        except (RedisError, OSError) as error:
            log.info("checks.cache_away", error=type(error).__name__)

    async def forget(self, owner_id: str) -> None:
        """Forget what is kept for a resident."""
        if self._redis is None:
            return
        try:
            await self._redis.delete(_key(owner_id))
        except (RedisError, OSError) as error:
            log.info("checks.cache_away", error=type(error).__name__)


def _key(owner_id: str) -> str:
    return f"checks:{{{owner_id}}}"  # the braces keep one resident on one node of a cluster


def _digest(question: Any) -> str:
    return hashlib.sha256(orjson.dumps(question, option=orjson.OPT_SORT_KEYS)).hexdigest()
