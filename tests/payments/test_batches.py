"""Notices that come at once are settled in one transaction, and none depends on what the others are."""

import asyncio
import importlib.util
import pickle
import sys
from datetime import timedelta
from pathlib import Path

from app.kernel.ids import new_id
from payments.ledger.verify import verify
from payments.model import AttemptState

_spec = importlib.util.spec_from_file_location("notices_of_the_tests", Path(__file__).with_name("test_notifications.py"))
notices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(notices)


async def paying(hall, count, *, resident=None):
    """Make orders that wait for their payment: (order, attempt)."""
    resident = resident or await hall.resident()
    orders = [await hall.order(resident) for _ in range(count)]
    attempts = await asyncio.gather(*(hall.pay(order) for order in orders))
    return [(order, attempt) for order, (attempt, _) in zip(orders, attempts, strict=True)]


def notice(hall, attempt, **changes):
    return notices.wechat_notice(hall, notices.transaction(hall, attempt.id, **changes))


async def send(hall, *messages):
    """Send notices at once; return the statuses."""
    answers = await asyncio.gather(*(notices.post(hall, "/callbacks/wechatpay", *message) for message in messages))
    return [status for status, _ in answers]


async def assert_settled_once(hall, pairs):
    for order, attempt in pairs:
        assert await hall.state(order) == "paid"
        assert (await hall.events(order)).count("order.paid") == 1
        assert await hall.database["receipts"].count_documents({"order_id": order.id}) == 1
        assert await hall.database["ledger_entries"].count_documents({"fact": f"settled:{attempt.id}"}) == 1
    report = await verify(hall.database)
    assert not report.problems, report.problems


async def states_of_notices(hall, attempt):
    return sorted([row["state"] async for row in hall.database["payment_notifications"].find({"out_trade_no": attempt.id})])


async def transactions(hall):
    return (await hall.database.client.admin.command("serverStatus"))["transactions"]["totalCommitted"]


async def test_sixty_four_at_once(hall):
    pairs = await paying(hall, 64)
    before = await transactions(hall)
    messages = [(body, headers | {"X-Request-ID": f"notice-of-{attempt.id}"}) for _, attempt in pairs for body, headers in [notice(hall, attempt)]]
    assert await send(hall, *messages) == [204] * 64
    assert await transactions(hall) - before < 32, "they were gathered"
    await assert_settled_once(hall, pairs)
    for order, attempt in pairs:
        assert await states_of_notices(hall, attempt) == ["applied"]
        event = await hall.database["events"].find_one({"subject_id": order.id, "name": "order.paid"})
        assert event["request_id"] == f"notice-of-{attempt.id}", "of its own request, whoever else is in the batch"


async def test_the_same_notices_many_times_at_once(hall):
    pairs = await paying(hall, 4)
    other = hall.build()  # another process would be no different: the database decides
    taken = await asyncio.gather(
        *(
            payments.receive("wechatpay", headers, body)
            for _ in range(20)
            for _, attempt in pairs
            for payments in (hall.payments, other)
            for body, headers in [notice(hall, attempt)]
        )
    )
    assert all(outcome.taken for outcome in taken)
    await assert_settled_once(hall, pairs)
    assert await hall.database["payment_notifications"].distinct("state") == ["applied"]


async def test_two_payments_of_one_order_in_one_batch(hall):
    resident = await hall.resident()
    order = await hall.order(resident)
    first, _ = await hall.pay(order)
    second, _ = await hall.pay(order, "alipay")
    await hall.database["orders"].update_one({"_id": order.id}, {"$set": {"attempts.$[].state": "waiting"}})
    form, headers = notices.alipay_notice(hall, second.id)
    taken = await asyncio.gather(
        hall.payments.receive("wechatpay", *reversed(notice(hall, first))), hall.payments.receive("alipay", headers, form)
    )
    assert all(outcome.taken for outcome in taken)
    found = await hall.payments.get_order(order.id, resident)
    assert [attempt.state for attempt in found.attempts] == [AttemptState.PAID] * 2
    assert sorted(attempt.is_overpaid for attempt in found.attempts) == [False, True]
    names = await hall.events(order)
    assert (names.count("order.paid"), names.count("order.overpaid")) == (1, 1)
    assert not (await verify(hall.database)).problems


async def test_each_member_gets_its_own_answer(hall):
    """Plain ones beside every odd one there is: what is odd about one is nobody else's business."""
    resident = await hall.resident()
    plain = await paying(hall, 5, resident=resident)
    held, foreign, late, unreadable, unbalanced, booked, closed_there = await paying(hall, 7, resident=resident)
    await hall.payments.close_order(late[0].id, resident)
    orders, entries = hall.database["orders"], hall.database["ledger_entries"]
    await orders.update_one({"_id": unreadable[0].id}, {"$set": {"state": "nonsense"}})
    await orders.update_one({"_id": unbalanced[0].id}, {"$set": {"payables.0.amount_fen": 3999}})
    # Fails in the middle of the transaction, so that the whole batch falls apart.
    await entries.insert_one({"_id": new_id("led"), "fact": f"settled:{booked[1].id}", "sealed": True})
    messages = [
        notice(hall, plain[0][1]),
        notice(hall, held[1], amount={"total": 1, "currency": "CNY"}),
        notice(hall, plain[1][1]),
        notice(hall, foreign[1], mchid="1900000000"),
        notice(hall, late[1]),
        notices.wechat_notice(hall, notices.transaction(hall, new_id("pay"))),
        notice(hall, plain[2][1]),
        notice(hall, unreadable[1]),
        notice(hall, unbalanced[1]),
        notice(hall, plain[3][1]),
        notice(hall, booked[1]),
        notice(hall, closed_there[1], trade_state="CLOSED"),
        notice(hall, plain[4][1]),
    ]
    expected = [204, 400, 204, 400, 204, 400, 204, 500, 500, 204, 503, 204, 204]
    assert await send(hall, *messages) == expected
    # The impossible ones go on being refused, and are no obstacle to the sweep; nothing of them is half done.
    for order, attempt in (unbalanced, booked):
        assert await hall.state(order) == "paying"
        assert "order.paid" not in await hall.events(order)
        assert await hall.database["receipts"].count_documents({"order_id": order.id}) == 0
        assert await states_of_notices(hall, attempt) == ["stored"]
    assert await states_of_notices(hall, unreadable[1]) == ["stored"]
    found = await hall.payments.get_order(held[0].id, resident)
    assert found.attempts[0].state is AttemptState.HELD and await states_of_notices(hall, held[1]) == ["held"]
    found = await hall.payments.get_order(foreign[0].id, resident)
    assert found.attempts[0].state is AttemptState.WAITING and await states_of_notices(hall, foreign[1]) == ["unknown_number"]
    found = await hall.payments.get_order(closed_there[0].id, resident)
    assert found.attempts[0].state is AttemptState.CLOSED and await states_of_notices(hall, closed_there[1]) == ["applied"]
    await orders.delete_one({"_id": unreadable[0].id})
    await orders.update_one({"_id": unbalanced[0].id}, {"$set": {"payables.0.amount_fen": 4000}})
    await entries.delete_one({"fact": f"settled:{booked[1].id}"})
    assert await send(hall, notice(hall, unbalanced[1]), notice(hall, booked[1])) == [204, 204]
    await assert_settled_once(hall, [*plain, late, unbalanced, booked])


async def test_an_order_somebody_else_is_changing_holds_up_nobody_but_itself(hall):
    """A process that died in a transaction leaves its documents locked for seconds; the notices beside do not wait for that."""
    pairs = await paying(hall, 8)
    locked, _ = pairs[3]
    async with hall.database.client.start_session() as session:
        await session.start_transaction()
        await hall.database["orders"].update_one({"_id": locked.id}, {"$inc": {"version": 1}}, session=session)
        tasks = [asyncio.create_task(send(hall, notice(hall, each))) for _, each in pairs]
        async with asyncio.timeout(8):
            for place, task in enumerate(tasks):
                if place != 3:
                    assert await task == [204]
        assert not tasks[3].done()
        await session.commit_transaction()
    assert await tasks[3] == [204], "decided anew, on what the other one wrote"
    await assert_settled_once(hall, pairs)
    found = await hall.payments.get_order(locked.id, locked.owner_id)
    assert found.version == locked.version + 4, "paying, prepay, the other one's change, settled"


async def test_whoever_goes_away_takes_nobody_along(hall):
    pairs = await paying(hall, 6)
    tasks = [asyncio.create_task(hall.payments.receive("wechatpay", *reversed(notice(hall, attempt)))) for _, attempt in pairs]
    while await hall.database["payment_notifications"].count_documents({}) < 6:
        await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[4].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(outcome, "taken", None) for outcome in outcomes] == [None, True, True, True, None, True]
    # Settled whether or not anybody waits for the answer: what was given to a batch by the batch, what was only stored by the sweep.
    await hall.payments.sweep(hall.now() + timedelta(seconds=11))
    for order, _ in pairs:
        await hall.until(order, "paid")
    await assert_settled_once(hall, pairs)


async def test_killed_at_any_command_of_a_batch(hall, servers, tmp_path):
    """One process per command of the batch, killed when it would send that command: all of the batch is there or nothing."""
    batches = [await paying(hall, 3) for _ in range(10)]
    file = tmp_path / "batches"
    file.write_bytes(pickle.dumps((hall.credentials, [[notice(hall, attempt) for _, attempt in pairs] for pairs in batches])))
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("dying.py")), servers["mongodb"], hall.database.db.name, str(file),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await child.communicate()
    statuses = [int(line) for line in output.splitlines() if line.isdigit()]  # log lines are there too
    came_through = statuses.index(0)
    assert statuses == [9] * came_through + [0] * (10 - came_through)
    assert came_through >= 8, "insert, find, orders, receipts, entries, events, marks, commit"
    for place, pairs in enumerate(batches):
        states = {await hall.state(order) for order, _ in pairs}
        assert len(states) == 1, "all or nothing"
        is_paid = states == {"paid"}
        assert is_paid or place < came_through
        stored = [state for _, attempt in pairs for state in await states_of_notices(hall, attempt)]
        assert set(stored) <= ({"applied"} if is_paid else {"stored"}), "marked if and only if applied"
        if not is_paid:
            for order, _ in pairs:
                assert await hall.events(order) == ["order.created", "order.paying"]
                assert await hall.database["receipts"].count_documents({"order_id": order.id}) == 0
    # What the dead had locked is let go within the lifetime of a transaction; they come again, all of them, and settle once.
    every = [pair for pairs in batches for pair in pairs]
    assert await send(hall, *(notice(hall, attempt) for _, attempt in every)) == [204] * 30
    await assert_settled_once(hall, every)
