"""Redis: cache and pub/sub only. It may lose everything or be away at any time; nothing here may fail a request for that."""

import time
from weakref import WeakKeyDictionary

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

_AWAY_S = 2.0
_away_until: WeakKeyDictionary[Redis, float] = WeakKeyDictionary()  # a monotonic second


def connect(url: str) -> Redis:
    """Return a client with short time-outs, RESP2 and text answers. Make it inside the running loop."""
    pool = BlockingConnectionPool.from_url(
        url,
        protocol=2,
        decode_responses=True,
        socket_timeout=1,
        socket_connect_timeout=1,
        max_connections=50,
        timeout=1,
        # A connection that was just closed is opened anew; who does not answer is not asked twice.
        retry=Retry(ConstantBackoff(0.05), 1, supported_errors=(NotConnected,)),
        health_check_interval=15,
    )
    return Redis(connection_pool=pool)


async def publish(redis: Redis, channel: str, message: str) -> None:
    """Wake whoever listens. Losing it is harmless: every listener also looks into MongoDB by itself.

    A Redis that did not answer is left alone for a moment: nobody else has to wait for it.
    """
    if time.monotonic() < _away_until.get(redis, 0.0):
        return
    try:
        await redis.publish(channel, message)
    except (RedisError, OSError) as error:
        _away_until[redis] = time.monotonic() + _AWAY_S
        log.warning("redis.publish_failed", channel=channel, error=type(error).__name__)
