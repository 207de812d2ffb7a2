"""What reaches nobody is a task for a human, and the person can see it in the inbox; a vendor's report of a loss moves it on."""

import asyncio
from datetime import timedelta

import pytest

from app.identity.model import StaffSession
from app.kernel.clock import utc_now
from push.undelivered import UndeliveredHandled, UndeliveredNotFound
from tests.push.desk import Desk

CLERK = StaffSession("clerk.police", "经办", "clerk", "police")
OTHER = StaffSession("clerk.tax", "经办", "clerk", "tax")
HALL = StaffSession("head.hall", "负责人", "head", "hall")


async def _page(desk: Desk, staff: StaffSession, *, is_superior: bool = False) -> list[dict]:
    return (await desk.push.undelivered.page(staff, is_superior=is_superior, limit=100, cursor=None))[0]


async def _inbox(desk: Desk, owner_id: str) -> dict:
    (message,) = (await desk.push.inbox(owner_id, unread=False, limit=5, cursor=None))["items"]
    return message["delivery"]


async def _refused_everywhere(desk: Desk, name: str = "case.accepted") -> str:
    owner_id = await desk.resident(alipay=True)
    await desk.sim("alipay/refuse", {"name": f"r{owner_id[-10:].lower()}"})
    await desk.push.tell(desk.event(owner_id, name))
    await desk.push.deliver_due()
    return owner_id


async def _tried_for_three_days(desk: Desk) -> str:
    owner_id = await desk.resident(phone=True)
    await desk.push.tell(desk.event(owner_id))
    await desk.sim("faults", {"provider": "sms", "mode": "error500"})
    for hours in (0, 71, 73):
        assert (await _inbox(desk, owner_id))["state"] == "waiting"
        await desk.push.deliver_due(utc_now() + timedelta(hours=hours))
    await desk.sim("faults", {"provider": "sms", "mode": "none"})
    return owner_id


async def _reported_lost(desk: Desk) -> str:
    owner_id = await desk.resident(wechat=True)
    await desk.grant(owner_id, "case.accepted")
    await desk.push.tell(desk.event(owner_id))
    await desk.push.deliver_due()
    assert (await _inbox(desk, owner_id))["told_by"] == "wechat"
    await desk.push.reports.take("wechat", (await desk.deliveries(owner_id))[0]["vendor_id"], "failed:user block")
    await desk.push.deliver_due()
    return owner_id


@pytest.mark.parametrize("make", [_refused_everywhere, _tried_for_three_days, _reported_lost])
async def test_what_reached_nobody_is_a_task_until_somebody_says_what_was_done(desk: Desk, make):
    owner_id = await make(desk)
    (delivery,) = await desk.deliveries(owner_id)

    assert delivery["state"] == "failed"
    told = await _inbox(desk, owner_id)
    assert told["state"] == "failed" and told["told_by"] is None and "未能送达" in told["text"] and "保持电话畅通" in told["text"]
    (task,) = [row for row in await _page(desk, CLERK) if row["id"] == delivery["_id"]]
    assert "居民身份证丢失补领" in task["title"]
    assert task["case_id"] == delivery["subject"]["id"] and task["attempts"]
    assert delivery["_id"] not in [row["id"] for row in await _page(desk, OTHER)]
    assert delivery["_id"] in [row["id"] for row in await _page(desk, HALL, is_superior=True)]
    with pytest.raises(UndeliveredNotFound):
        await desk.push.undelivered.handle(delivery["_id"], OTHER, "不是我们的", is_superior=False)

    both = await asyncio.gather(
        *(desk.push.undelivered.handle(delivery["_id"], CLERK, f"已电话告知{n}", is_superior=False) for n in range(2)),
        return_exceptions=True,
    )

    assert sorted(type(one) for one in both if isinstance(one, Exception)) == [UndeliveredHandled]
    (done,) = [one for one in both if isinstance(one, dict)]
    assert done["handled_by"] == CLERK.account and done["note"].startswith("已电话告知")
    assert delivery["_id"] not in [row["id"] for row in await _page(desk, CLERK)]
    assert (await _inbox(desk, owner_id))["state"] == "handled"
    assert await desk.database["audit"].count_documents({"action": "undelivered.handled", "subject": delivery["_id"]}) == 1


async def test_a_message_that_wechat_lost_goes_on_to_the_next_channel_once(desk: Desk):
    owner_id = await desk.resident(wechat=True, phone=True)
    await desk.grant(owner_id, "case.accepted")
    await desk.push.tell(desk.event(owner_id))
    await desk.push.deliver_due()
    vendor_id = (await desk.deliveries(owner_id))[0]["vendor_id"]

    await asyncio.gather(*(desk.push.reports.take("wechat", vendor_id, "user block") for _ in range(3)))
    await desk.push.deliver_due()
    await desk.push.reports.take("wechat", vendor_id, "user block")
    await desk.push.deliver_due()

    assert [item["channel"] for item in await desk.sent(owner_id)] == ["wechat_subscribe", "sms"]
    (delivery,) = await desk.deliveries(owner_id)
    assert [(one["channel"], one["outcome"]) for one in delivery["attempts"]] == [
        ("wechat", "sent"), ("wechat", "undelivered"), ("sms", "sent"),
    ]  # fmt: skip
    assert (await _inbox(desk, owner_id))["told_by"] == "sms"


async def test_staff_see_what_became_of_each_notice_of_a_case(desk: Desk):
    owner_id = await _reported_lost(desk)
    (delivery,) = await desk.deliveries(owner_id)

    (notice,) = await desk.push.undelivered.of_subject(delivery["subject"]["id"])

    assert (notice["event"], notice["state"], notice["fate"]) == ("case.accepted", "failed", "failed:user block")
    assert [one["outcome"] for one in notice["attempts"]] == ["sent", "undelivered"]


async def test_the_count_and_both_lists_read_only_tasks(desk: Desk):
    owner_id = await _refused_everywhere(desk)
    (delivery,) = await desk.deliveries(owner_id)
    undelivered = desk.push.undelivered
    before = {staff: await undelivered.count(staff, is_superior=staff is HALL) for staff in (CLERK, HALL, OTHER)}
    assert before[CLERK] >= 1 and before[HALL] >= before[CLERK]
    assert before[CLERK] == len(await _page(desk, CLERK)) and before[OTHER] == len(await _page(desk, OTHER))
    read = await undelivered.one(delivery["_id"], CLERK, is_superior=False)
    assert read["body"] and read["owner_id"] == owner_id
    assert (await undelivered.one(delivery["_id"], HALL, is_superior=True))["body"] == "", "another agency's words"
    with pytest.raises(UndeliveredNotFound):
        await undelivered.one(delivery["_id"], OTHER, is_superior=False)
    assert await desk.database["audit"].count_documents({"action": "undelivered.read", "owner_id": owner_id}) == 2

    await undelivered.handle(delivery["_id"], CLERK, "已电话告知", is_superior=False)

    assert await undelivered.count(CLERK, is_superior=False) == before[CLERK] - 1
    done, _next = await undelivered.page(CLERK, is_superior=False, limit=100, cursor=None, is_open=False)
    assert done[0]["id"] == delivery["_id"] and done[0]["note"] == "已电话告知"
    for query in (
        {"agency_id": "police", "is_undelivered": True},
        {"_id": {"$gt": ""}, "is_undelivered": True},
        {"agency_id": "police", "is_undelivered": False},
        {"_id": {"$gt": ""}, "is_undelivered": False},
    ):
        plan = await desk.database["deliveries"].find(query).sort("_id", 1).limit(21).explain()
        assert plan["queryPlanner"]["winningPlan"]["stage"] != "COLLSCAN"
        assert "handled" in str(plan["queryPlanner"]["winningPlan"]) or "undelivered" in str(plan["queryPlanner"]["winningPlan"]), query


async def test_staff_read_what_was_to_be_told_but_not_the_query_code(desk: Desk):
    owner_id = await _refused_everywhere(desk, "case.submitted")
    (delivery,) = await desk.deliveries(owner_id)
    (inbox,) = (await desk.push.inbox(owner_id, unread=False, limit=5, cursor=None))["items"]

    shown = (await desk.push.undelivered.one(delivery["_id"], CLERK, is_superior=False))["body"]

    assert "A7K9PM" in inbox["body"] and "A7K9PM" not in shown and "办件编号" in shown
