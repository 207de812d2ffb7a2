"""The steps that several journeys share."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import aiohttp

from app.kernel.ids import ulid
from commands.story import Person, cashier, id_number, sample_form, sent_to

_seeds = itertools.count(1)

LOST = {"photo_code": "SG20261100001", "lost_date": "2026-11-01", "use_old_photo": False, "delivery": "self"}


def a_name() -> str:
    return f"j{ulid().lower()}"


def an_id_number() -> str:
    return id_number(next(_seeds))


async def someone(anyone: Person, provider: str = "wechat", *, phone: bool = True) -> tuple[Person, str]:
    """A resident at L4, and the name by which the platform's stand-in knows them."""
    name = a_name()
    resident = await (anyone.sign_in_wechat(name) if provider == "wechat" else anyone.sign_in_alipay(name))
    if phone and provider == "wechat":
        await resident.post("/mp/v1/wechat/phone", {"code": f"sim-{name}"})
    await resident.prove("张示例", an_id_number())
    return resident, name


async def submitted(resident: Person, item: str, answers: Mapping[str, Any], form: Mapping[str, Any]) -> Any:
    """A case handed in with everything it needs."""
    case = await resident.open_case(item, answers)
    values = sample_form(case["form"]["fields"], next(_seeds)) | {
        key: value for key, value in case["form"]["values"].items() if value
    }
    case = await resident.fill(case, values | form)
    await resident.upload_missing(case)
    return await resident.post(f"/v1/cases/{case['id']}/submit", key=ulid())


async def paid_attempt(
    resident: Person, sandbox_url: str, kind: str, subject: str, outcome: str = "success", provider: str = "wechatpay"
) -> tuple[Any, Any]:
    """Order, pay and act in the cashier; return the order as it was made, and the attempt."""
    order = await resident.order(kind, subject)
    attempt = await resident.pay(order["id"], provider)
    await cashier(resident.http, sandbox_url, provider, attempt["attempt_id"], outcome)
    return order, attempt


def events_of(inbox: list[Any]) -> list[str]:
    return [message["event"] for message in inbox]


def assert_once_each(inbox: list[Any], wanted: list[str]) -> None:
    """Every wanted event has exactly one message, and nothing else came."""
    assert Counter(events_of(inbox)) == Counter(wanted)


async def wait_sent(http: aiohttp.ClientSession, sandbox_url: str, to: str, count: int) -> list[Mapping[str, Any]]:
    """Return what was sent to somebody, once there are at least `count` of them (ten seconds at most)."""
    for _ in range(100):
        sent = await sent_to(http, sandbox_url, to)
        if len(sent) >= count:
            return sent
        await asyncio.sleep(0.1)
    return await sent_to(http, sandbox_url, to)
