"""Numbered steps over older data: each once, in order, again after a death, by several processes at once; and the steps of the releases."""

import asyncio

import pytest

from app.feedback.sealing import opened, seal_old_texts
from app.kernel.clock import utc_now
from app.storage.migrations import Migration, migrate
from commands import migrate as command
from tests.app.cases.dying import mortal


def counting(number, calls):
    async def run(_database):
        calls.append(number)
        return 1

    return Migration(number, f"step {number}", run)


async def test_each_step_is_taken_once_in_order_and_noted(database):
    calls = []
    steps = [counting(1, calls), counting(2, calls)]
    assert await migrate(database, steps, utc_now) == [1, 2]
    assert await migrate(database, [*steps, counting(5, calls)], utc_now) == [5]
    assert calls == [1, 2, 5]
    rows = await database["migrations"].find().sort("_id", 1).to_list()
    assert [(row["_id"], row["changed"]) for row in rows] == [(1, 1), (2, 1), (5, 1)]
    with pytest.raises(ValueError, match="rise"):
        await migrate(database, [counting(7, calls), counting(6, calls)], utc_now)


async def test_a_step_that_fails_is_not_noted_and_holds_up_those_after_it(database):
    calls = []

    async def fails(_database):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await migrate(database, [Migration(1, "fails", fails), counting(2, calls)], utc_now)
    assert calls == [] and await database["migrations"].count_documents({}) == 0


async def old_ratings(database, keys, count=25):
    """Ratings as they were kept before texts were sealed, one that had none, and one of today."""
    rows = [
        {"_id": f"evl_{number:026d}", "case_id": f"case_{number}", "owner_id": "res_1", "agency_id": "sg-gaj", "item_code": "x",
         "level": 5, "tags": [], "text": f"窗口{number}没人", "at": utc_now()}
        for number in range(count)
    ]  # fmt: skip
    rows.append({**rows[0], "_id": "evl_none", "text": None})
    today = {**rows[0], "_id": "evl_today", "text_sealed": keys.seal("已封存", context="evl_today.text")}
    del today["text"]
    await database["evaluations"].insert_many([*rows, today])
    return rows


async def test_ratings_in_clear_are_sealed_whatever_dies_and_however_often_it_is_run(database, keys, monkeypatch):
    rows = await old_ratings(database, keys)
    steps = command._steps(keys)
    deaths = 0
    with mortal(monkeypatch) as attempt:
        for number in range(1, 80):
            died = await attempt(lambda: migrate(database, steps, utc_now), number, number % 2 == 0)
            deaths += died
            if not died:
                break
    assert deaths > 5
    assert await seal_old_texts(database, keys) == 0, "all of them, once"
    assert await asyncio.gather(*(migrate(database, steps, utc_now) for _ in range(4))) == [[]] * 4
    kept = {row["_id"]: row async for row in database["evaluations"].find()}
    assert "没人" not in str(kept) and not any("text" in row for row in kept.values())
    for row in rows:
        assert opened(kept[row["_id"]], keys)["text"] == (row["text"] or "")
    assert opened(kept["evl_today"], keys)["text"] == "已封存"


async def test_several_processes_that_migrate_at_once_seal_each_text_once(database, keys):
    rows = await old_ratings(database, keys)
    await asyncio.gather(*(migrate(database, command._steps(keys), utc_now) for _ in range(6)))
    kept = {row["_id"]: row async for row in database["evaluations"].find()}
    assert all(opened(kept[row["_id"]], keys)["text"] == (row["text"] or "") for row in rows)
    assert await database["migrations"].count_documents({}) == 1
