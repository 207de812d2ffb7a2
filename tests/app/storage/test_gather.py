"""Gathering: batches as large as the load makes them, each caller its own answer, nobody left waiting."""

import asyncio
from contextvars import ContextVar

import pytest

from app.storage.gather import Gather


class Writer:
    """Writes batches one after the other as they are let through; a batch with "bad" in it fails as a whole."""

    def __init__(self, **options):
        self.batches, self.gate = [], asyncio.Event()
        self.gather = Gather(self._flush, **options)

    async def _flush(self, items):
        self.batches.append(items)
        await self.gate.wait()
        if "bad" in items:
            raise OSError("batch")
        return [ValueError(item) if item == "odd" else f"{item}!" for item in items]


async def add_all(gather, *items):
    return await asyncio.gather(*(gather.add(item) for item in items), return_exceptions=True)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_by_itself_goes_at_once_and_what_comes_meanwhile_goes_together():
    writer = Writer(at_most=3)
    tasks = [asyncio.create_task(writer.gather.add("a"))]
    await turns()
    assert writer.batches == [["a"]]
    tasks += [asyncio.create_task(writer.gather.add(item)) for item in "bcdef"]
    await turns()
    writer.gate.set()
    assert await asyncio.gather(*tasks) == ["a!", "b!", "c!", "d!", "e!", "f!"]
    assert writer.batches == [["a"], ["b", "c", "d"], ["e", "f"]]


async def test_an_exception_goes_to_whom_it_belongs():
    writer = Writer()
    writer.gate.set()
    one, odd, two = await add_all(writer.gather, "one", "odd", "two")
    assert (one, str(odd), two) == ("one!", "odd", "two!")
    assert [type(answer) for answer in await add_all(writer.gather, "one", "bad")] == [OSError, OSError]
    assert await writer.gather.add("next") == "next!"


async def test_too_few_answers_are_an_error_and_no_silence():
    async def forgetful(items):
        return items[1:]

    with pytest.raises(RuntimeError):
        await Gather(forgetful).add("one")


async def test_a_cancelled_caller_leaves_the_others_and_its_own_item_alone():
    writer = Writer()
    tasks = [asyncio.create_task(writer.gather.add(item)) for item in ("first", "leaves", "stays")]
    await turns()
    tasks[1].cancel()
    await turns()
    writer.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[0] == "first!" and isinstance(answers[1], asyncio.CancelledError) and answers[2] == "stays!"
    assert writer.batches == [["first", "leaves", "stays"]]


async def test_what_is_added_in_the_very_turn_in_which_a_writer_ends_is_written():
    writer = Writer()
    writer.gate.set()

    async def again_and_again():
        for _ in range(50):
            await writer.gather.add("x")

    async with asyncio.timeout(5):
        await asyncio.gather(*(again_and_again() for _ in range(7)))
    assert sum(map(len, writer.batches)) == 350


async def test_the_end_of_the_loop_leaves_nobody_waiting():
    writer = Writer(at_most=1)
    callers = [asyncio.create_task(writer.gather.add(item)) for item in ("written", "waits")]
    await turns()
    for task in asyncio.all_tasks():
        if task.get_name() == "gather":
            task.cancel()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 2


async def test_what_ends_a_writer_for_good_leaves_nobody_waiting():
    class Ends(BaseException):
        """Like SystemExit: no batch may swallow it."""

    async def flush(items):
        raise Ends

    gather = Gather(flush, at_most=1)
    callers = [asyncio.create_task(gather.add(item)) for item in ("written", "waits")]
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 2


async def test_a_batch_belongs_to_none_of_its_callers():
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")
    seen = []

    async def flush(items):
        seen.append(whose.get())
        return items

    whose.set("the first caller's")
    await Gather(flush).add("one")
    assert seen == ["nobody's"]


async def test_where_items_come_together_the_next_batch_waits_for_as_many():
    writer = Writer(linger_s=0.05)
    writer.gate.set()
    assert await add_all(writer.gather, "a", "b") == ["a!", "b!"]
    first = asyncio.create_task(writer.gather.add("c"))
    await turns()
    assert writer.batches == [["a", "b"]], "the first to come does not go alone"
    assert await writer.gather.add("d") == "d!"
    await first
    assert writer.batches == [["a", "b"], ["c", "d"]]


async def test_who_waits_in_vain_goes_alone_and_after_that_nobody_waits():
    writer = Writer(linger_s=0.05)
    writer.gate.set()
    await add_all(writer.gather, "a", "b")
    assert await writer.gather.add("c") == "c!"
    task = asyncio.create_task(writer.gather.add("d"))
    await turns()
    assert task.done() and writer.batches == [["a", "b"], ["c"], ["d"]]


async def test_what_another_writer_has_taken_meanwhile_is_written_once():
    writer = Writer(in_flight=2, at_most=2, linger_s=0.02)
    writer.gate.set()
    await add_all(writer.gather, "a", "b")
    answers = await asyncio.gather(*(writer.gather.add(item) for item in "cde"))
    assert answers == ["c!", "d!", "e!"]
    assert sorted(item for batch in writer.batches for item in batch) == list("abcde")
    assert all(writer.batches)
