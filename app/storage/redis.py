"""Redis: cache and pub/sub only. It may lose everything or be away at any time; nothing here may fail a request for that."""

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


def connect(url: str) -> Redis:
    """Return a client with short time-outs, RESP2 and text answers. Make it inside the running loop."""
    pool = BlockingConnectionPool.from_url(
        url,
        protocol=2,
        decode_responses=True,
        socket_timeout=2,
        socket_connect_timeout=1,
        max_connections=50,
        timeout=2,
        retry=Retry(ConstantBackoff(0.05), 1),
        health_check_interval=15,
    )
    return Redis(connection_pool=pool)


async def publish(redis: Redis, channel: str, message: str) -> None:
    """Wake whoever listens. Losing it is harmless: every listener also looks into MongoDB by itself."""
    try:
        await redis.publish(channel, message)
    except (RedisError, OSError) as error:
        log.warning("redis.publish_failed", channel=channel, error=type(error).__name__)
