"""Stored files: sealed, once per owner and content, and gone when nothing points to them; killed and raced at every write."""

import asyncio
from datetime import timedelta

import pytest
from bson import ObjectId
from gridfs.asynchronous import AsyncGridFSBucket

from app.kernel.clock import utc_now
from app.storage.files import CLEAN, GRACE, INDEXES, INFECTED, OFF, UNCHECKED, Files
from app.storage.mongo import ensure_indexes
from tests.app.cases.dying import mortal

PAPER = b"identity card " * 40_000


class World:
    """Cases in the place of app/cases: which file each of them names."""

    def __init__(self, database, keys):
        self.now = utc_now()
        self.database = database
        self.files = Files(database, keys, clock=lambda: self.now)
        self.named = {}

    async def put(self, case="case_1", owner="res_1", content=PAPER, scan=CLEAN):
        return await self.files.put(content, owner_id=owner, case_id=case, scan=scan)

    async def is_named(self, file_id, cases):
        return any(file_id in self.named.get(case, ()) for case in cases)

    async def sweep(self):
        self.now += GRACE
        return await self.files.sweep(self.is_named)

    async def left(self):
        counts = [await self.database[name].count_documents({}) for name in ("stored_files", "materials.files", "materials.chunks")]
        return tuple(counts)


@pytest.fixture
async def world(database, keys):
    await ensure_indexes(database, INDEXES)
    return World(database, keys)


async def test_bytes_are_sealed_and_old_ones_in_clear_stay_readable(world):
    file_id = await world.put()
    raw = b"".join([bytes(chunk["data"]) async for chunk in world.database["materials.chunks"].find()])
    assert b"identity" not in raw and len(raw) < len(PAPER) + 100
    assert (await world.files.get(file_id)).content == PAPER
    await world.database["materials.chunks"].update_one({}, [{"$set": {"data": {"$literal": b"x" * 100}}}])
    with pytest.raises(Exception):  # noqa: B017 - changed bytes are never served, whatever notices first
        await world.files.get(file_id)
    old = await AsyncGridFSBucket(world.database.db, bucket_name="materials").upload_from_stream("a", PAPER)
    assert (await world.files.get(str(old))).content == PAPER
    assert await world.files.hold([str(old)], "case_2") == {str(old)}
    await world.sweep()
    assert (await world.files.get(str(old))).content == PAPER


async def test_the_same_file_of_one_person_is_one_and_of_two_people_two(world):
    one, again = await world.put("case_1"), await world.put("case_2")
    other = await world.put("case_3", owner="res_2")
    assert one == again != other
    tags = [row["tag"] async for row in world.database["stored_files"].find()]
    assert len(set(tags)) == 2 and all("res_1" not in tag for tag in tags)


async def test_it_goes_with_the_last_case_that_names_it(world):
    file_id = await world.put("case_1")
    await world.put("case_2")
    world.named = {"case_1": {file_id}, "case_2": {file_id}}
    assert await world.sweep() == 0
    await world.files.look_again([file_id])
    world.named["case_1"].clear()
    assert await world.sweep() == 0
    await world.files.look_again([file_id])
    world.named["case_2"].clear()
    world.now += GRACE / 2
    assert await world.files.sweep(world.is_named) == 0, "not before its time"
    assert await world.sweep() == 1
    assert await world.left() == (0, 0, 0)


async def test_both_devices_send_the_same_file_at_once(world):
    ids = await asyncio.gather(*(world.put(f"case_{number}") for number in range(8)))
    assert len(set(ids)) <= 8
    world.named = {f"case_{number}": {file_id} for number, file_id in enumerate(ids)}
    await world.sweep()
    for file_id in ids:
        assert (await world.files.get(file_id)).content == PAPER
    kept = await world.put("case_9")
    assert kept in ids
    assert await world.database["stored_files"].count_documents({}) == len(set(ids))


@pytest.mark.parametrize("attempt", range(6))
async def test_a_file_that_is_being_given_is_not_deleted(world, attempt):
    """The sweep runs while another case gets the same file: it has it afterwards, whoever was first."""
    await world.put("case_1")
    world.now += GRACE

    async def give():
        await asyncio.sleep(attempt * 0.002)
        file_id = await world.put("case_2")
        await asyncio.sleep(0.005)  # the case is written a moment later
        world.named["case_2"] = {file_id}
        return file_id

    file_id, *_ = await asyncio.gather(give(), *(world.files.sweep(world.is_named) for _ in range(3)))
    assert (await world.files.get(file_id)).content == PAPER
    await world.sweep()
    assert (await world.files.get(file_id)).content == PAPER
    assert (await world.left())[0] == 1


@pytest.mark.parametrize("after", [False, True])
async def test_a_death_at_any_write_leaves_nothing_for_ever(world, monkeypatch, after):
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(world.put, number, after):
            await world.sweep()
            assert await world.left() == (0, 0, 0), number
            number += 1
        assert number >= 4
        file_id = await world.put()
        assert (await world.files.get(file_id)).content == PAPER
        number = 1
        while await attempt(world.sweep, number, after):
            number += 1
    await world.sweep()
    assert await world.left() == (0, 0, 0)


async def test_what_no_scanner_has_seen_is_asked_about_until_one_has(world):
    file_id = await world.put(scan=UNCHECKED)
    assert [each async for each in world.files.unchecked()] == [file_id]
    await world.files.tell_scan(file_id, UNCHECKED)
    assert [each async for each in world.files.unchecked()] == [file_id]
    assert await world.files.tell_scan(file_id, CLEAN) == ["case_1"]
    assert [each async for each in world.files.unchecked()] == []
    assert (await world.files.get(file_id)).scan == CLEAN


@pytest.mark.parametrize("after", [False, True])
async def test_an_infected_file_loses_its_bytes_whoever_dies(world, monkeypatch, after):
    file_id = await world.put(scan=UNCHECKED)
    world.named = {"case_1": {file_id}}
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(lambda: world.files.tell_scan(file_id, INFECTED), number, after):
            number += 1
    assert number > 1
    await world.sweep()
    assert await world.files.get(file_id) is None
    assert (await world.left())[1:] == (0, 0)
    assert await world.files.scans([file_id]) == {file_id: INFECTED}
    assert await world.files.hold([file_id], "case_2") == set()
    assert await world.put("case_1") != file_id, "the same bytes again are a new file, and are scanned again"


async def test_an_id_of_nothing(world):
    assert await world.files.get("not-an-id") is None
    assert await world.files.get(str(ObjectId())) is None
    assert await world.files.scans([str(ObjectId())]) == {}
    assert (OFF, timedelta(hours=1)) == ("off", GRACE)
