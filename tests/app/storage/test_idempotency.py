"""One key, one effect: repeated, at the same time, with another body, after a crash."""

import asyncio

import pytest

from app.kernel.clock import utc_now
from app.storage import idempotency


async def reserve(database, body=b"{}", key="k"):
    return await idempotency.reserve(database, owner_id="res_1", route="POST /v1/cases", key=key, body=body)


async def test_the_same_key_gives_the_first_answer_again(database):
    first = await reserve(database)
    await idempotency.keep(database, first, 201, b'{"id":"case_1"}')
    again = await reserve(database)
    assert (again.status, again.body) == (201, b'{"id":"case_1"}')


async def test_another_body_is_refused(database):
    await idempotency.keep(database, await reserve(database), 201, b"{}")
    with pytest.raises(idempotency.KeyReused):
        await reserve(database, body=b'{"other":1}')


async def test_of_many_at_once_one_runs_and_the_others_are_told(database):
    results = await asyncio.gather(*(reserve(database) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, idempotency.Reservation) for result in results) == 1
    assert sum(isinstance(result, idempotency.StillRunning) for result in results) == 19


async def test_after_a_crash_the_next_try_gets_the_same_seed(database):
    died = await reserve(database)
    await database["idempotency"].update_one({"_id": died.id}, {"$set": {"lease_until": utc_now()}})
    assert (await reserve(database)).seed == died.seed


async def test_a_refusal_frees_the_key_and_a_failure_keeps_the_seed(database):
    refused = await reserve(database)
    await idempotency.release(database, refused, nothing_done=True)
    other = await reserve(database, body=b'{"mended":1}')
    assert other.seed != refused.seed
    await idempotency.release(database, other, nothing_done=False)
    assert (await reserve(database, body=b'{"mended":1}')).seed == other.seed


async def test_a_lease_that_is_renewed_holds_and_whoever_was_overtaken_changes_nothing(database):
    slow = await reserve(database)
    for _ in range(2):
        await database["idempotency"].update_one({"_id": slow.id}, {"$set": {"lease_until": utc_now()}})
        await idempotency.renew(database, slow)
        with pytest.raises(idempotency.StillRunning):
            await reserve(database)
    await database["idempotency"].update_one({"_id": slow.id}, {"$set": {"lease_until": utc_now()}})
    overtaking = await reserve(database)
    assert (overtaking.seed, overtaking.claim != slow.claim) == (slow.seed, True)
    for end in (idempotency.renew(database, slow), idempotency.release(database, slow, nothing_done=True)):
        before = await database["idempotency"].find_one({"_id": slow.id})
        await end
        assert await database["idempotency"].find_one({"_id": slow.id}) == before
