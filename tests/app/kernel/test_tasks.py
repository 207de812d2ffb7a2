"""Ending tasks that lose a cancellation, as a database call on Python 3.11 can."""

import asyncio

from app.kernel.tasks import end


async def test_a_task_that_loses_a_cancellation_is_asked_again():
    lost = []

    async def loses_two():
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if len(lost) == 2:
                    raise
                lost.append("cancellation")

    task = asyncio.create_task(loses_two())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end([task], again_after_s=0.01)
    assert task.cancelled() and len(lost) == 2


async def test_tasks_that_have_ended_and_ones_that_fail_are_ended():
    async def fails():
        raise ValueError

    over = asyncio.create_task(fails())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end([over, asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(3600))])
        await end([])
