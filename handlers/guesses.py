"""What is found by a number and a code without sign-in: whoever tries wrong pairs again and again is stopped for a while."""

from collections.abc import Awaitable, Callable
from typing import Any

from app.kernel.errors import NotFound
from app.storage.limits import Limit
from handlers.base import HallHandler

# Wrong codes from one address. A code has 40 bits: this keeps guessing from being worth a try, and a typing hand from being stopped.
WRONG_AT_MOST, IN_S = 30, 600


async def found(handler: HallHandler, kind: str, code_name: str, look: Callable[[], Awaitable[Any]]) -> Any:
    """Return what `look` finds; when it finds nothing that is counted against the address.

    Args:
        kind: what is counted together, `receipt-codes`.
        code_name: what the code is called, 核验码.

    Raises:
        NotFound of `look`, RateLimited.
    """
    wrong = Limit(handler.hall.redis, kind, most=WRONG_AT_MOST, per_s=IN_S)
    await wrong.require(handler.client_address, f"{code_name}错误次数太多，请十分钟后再试，或拨打12345核对。")
    try:
        return await look()
    except NotFound:
        await wrong.count(handler.client_address)
        raise
