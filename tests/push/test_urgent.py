"""What is urgent has little time for a vendor. That it ran out says nothing new of what was sent: a call that was not made is made later."""

import asyncio
from typing import Any

import pytest

from app.platforms.smtp import Smtp
from push.channels.email import Email
from push.in_hand import longest_call_s
from push.lanes import URGENT
from sandbox.base import Pace
from tests.push.desk import Desk

ENTRY = {"name": "婚姻登记", "kind": "appointment", "due_on": "2026-12-02", "days_left": 1, "item": "", "case_id": ""}


async def _told(desk: Desk, owner_id: str, event: str, **data: Any) -> dict[str, Any]:
    await desk.push.tell(desk.event(owner_id, event, **data))
    async with asyncio.timeout(longest_call_s(URGENT) + 1):
        await desk.push.deliver_due()
    return (await desk.deliveries(owner_id))[-1]


@pytest.mark.parametrize(("slow", "outcome", "state"), [("token", "try_later", "waiting"), ("message", "unclear", "unclear")])
async def test_without_a_token_nothing_was_sent_and_after_the_call_nobody_knows(desk: Desk, slow: str, outcome: str, state: str):
    owner_id = await desk.resident(wechat=True)
    await desk.grant(owner_id, "reminder.appointment")
    client = desk.push.deliveries._channels["wechat"]._client
    if slow == "message":
        await client.access_token()
    desk.running.sandbox.pace = Pace(slow_s=8)
    await desk.sim("faults", {"provider": "wechat", "mode": "slow", "count": 1})

    delivery = await _told(desk, owner_id, "reminder.appointment", entries=[ENTRY], page="me")

    assert [(one["channel"], one["outcome"]) for one in delivery["attempts"]] == [("wechat", outcome)]
    assert (delivery["lane"], delivery["state"]) == (URGENT, state)


async def test_a_mail_server_that_does_not_greet_is_tried_again(desk: Desk):
    class Addresses:
        async def email_of(self, _resident_id: str) -> str:
            return "a@example.org"

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(8)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    smtp = Smtp(f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    addresses: Any = Addresses()
    desk.push.deliveries._channels["email"] = Email(
        smtp, addresses, desk.push.templates.specs, sender="h@example.org", public_url="https://hall.example", stop_link=lambda _owner: "/stop"
    )
    delivery = await _told(desk, await desk.resident(), "order.paid")
    server.close()
    assert [(one["channel"], one["outcome"]) for one in delivery["attempts"]] == [("email", "try_later")]
    assert (delivery["lane"], delivery["is_open"]) == (URGENT, True)
