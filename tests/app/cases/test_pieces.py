"""Uploads in pieces: in any order, twice, from two devices, through two processes, with a death at any write."""

import asyncio
import hashlib
import io
import itertools
import random
from datetime import timedelta

import pytest
from PIL import Image

from app.cases import errors
from app.cases.pieces import KEPT_FOR, MOST_WAITING, PIECE_BYTES, Pieces
from app.kernel.clock import utc_now
from app.kernel.errors import ValidationFailed
from commands.story import picture
from tests.app.cases.dying import mortal
from tests.app.cases.handled import a_person, opened, staff_of, with_materials

KEY = "rules"


def photo(seed=1, size=900):
    """A picture of several pieces."""
    noise = Image.frombytes("RGB", (size, size), random.Random(seed).randbytes(size * size * 3))
    out = io.BytesIO()
    noise.save(out, "JPEG", quality=85)
    return out.getvalue()


PHOTO = photo()
SUM = hashlib.sha256(PHOTO).hexdigest()


def pieces_of(content):
    return [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]


class Sender:
    """One device of a person."""

    def __init__(self, pieces, case):
        self.pieces, self.case, self.owner = pieces, case, case.owner_id

    async def announce(self, content=PHOTO, name="规章制度.jpg", key=KEY, sha256=SUM):
        upload, self.is_new = await self.pieces.announce(self.case.id, self.owner, key, name, len(content), sha256)
        return upload

    async def put(self, upload, number, content=PHOTO):
        return await self.pieces.put(self.case.id, self.owner, KEY, upload["id"], number, pieces_of(content)[number])

    async def get(self, upload):
        return await self.pieces.get(self.case.id, self.owner, KEY, upload["id"])

    async def complete(self, upload):
        return await self.pieces.complete(self.case.id, self.owner, KEY, upload["id"])

    async def send(self, content=PHOTO, **more):
        """What a client does, from whatever has arrived before."""
        upload = await self.announce(content, **more)
        for number in range(upload["pieces"]):
            if number not in upload["received"]:
                await self.put(upload, number, content)
        return await self.complete(upload)


@pytest.fixture
async def sender(hall):
    return Sender(hall.pieces, await opened(hall, "food_licence", await a_person(hall)))


def held(case):
    return case.materials.get(KEY, {}).get("files", [])


async def test_in_any_order_and_twice(hall, sender):
    assert len(pieces_of(PHOTO)) > 2
    upload = await sender.announce()
    order = [*reversed(range(upload["pieces"]))]
    with pytest.raises(errors.UploadIncomplete) as missing:
        await sender.complete(upload)
    assert missing.value.context["missing"] == sorted(order)
    for number in [*order, 0]:
        upload = await sender.put(upload, number)
    assert upload["received"] == sorted(order)
    case = await sender.complete(upload)
    again = await sender.complete(upload)
    assert (case.version, [entry["name"] for entry in held(case)]) == (again.version, ["规章制度.jpg"])
    assert await hall.database["upload_pieces"].count_documents({}) == 0
    direct = await hall.cases.put_material(case.id, case.owner_id, "layout", "b.jpg", PHOTO)
    assert direct.materials["layout"]["files"][0]["sha256"] == held(case)[0]["sha256"], "judged and kept like a direct upload"
    assert direct.materials["layout"]["files"][0]["id"] == held(case)[0]["id"], "and stored once"


async def test_after_a_break_another_device_and_another_process_go_on(hall, sender):
    upload = await sender.announce()
    await sender.put(upload, 1)
    other = Sender(Pieces(hall.database, hall.keys, hall.cases.holdings, utc_now), sender.case)
    found = await other.announce(name="same file, other name.jpg")
    assert (found["id"], found["received"], other.is_new) == (upload["id"], [1], False)
    assert (await other.get(upload))["received"] == [1]
    both = [Sender(hall.pieces, sender.case), other]
    await asyncio.gather(*(device.put(upload, number) for device in both for number in range(upload["pieces"])))
    cases = await asyncio.gather(*(device.complete(upload) for device in both), return_exceptions=True)
    done = [case for case in cases if not isinstance(case, Exception)]
    assert done and all(isinstance(case, errors.CaseConflict) for case in cases if isinstance(case, Exception)), cases
    assert len(held(await hall.cases.get(sender.case.id, sender.owner))) == 1
    raw = await hall.database["uploads"].find_one({"_id": upload["id"]})
    assert "规章" not in str(raw), "names are sealed"


async def test_pieces_are_sealed(hall, sender):
    upload = await sender.announce()
    await sender.put(upload, 0)
    piece = await hall.database["upload_pieces"].find_one()
    assert pieces_of(PHOTO)[0][:50] not in bytes(piece["data"])


@pytest.mark.parametrize("after", [False, True])
async def test_a_death_at_any_write_loses_nothing_and_doubles_nothing(hall, sender, monkeypatch, after):
    with mortal(monkeypatch) as attempt:
        number = 1
        while await attempt(sender.send, number, after):
            assert len(held(await hall.cases.get(sender.case.id, sender.owner))) <= 1
            number += 1
    assert number > 10
    case = await sender.send()
    assert len(held(case)) == 1 and case.version <= 3 + 1
    for part in (hall.upkeep._files, hall.pieces):
        part._clock = lambda: utc_now() + KEPT_FOR + timedelta(hours=2)
    await hall.upkeep.run()
    assert await hall.database["uploads"].count_documents({}) == await hall.database["upload_pieces"].count_documents({}) == 0
    assert await hall.database["stored_files"].count_documents({}) == 1
    assert await hall.database["materials.files"].count_documents({}) == 1
    assert (await hall.cases.read_material(case.id, sender.owner, held(case)[0]["id"]))[2]


async def test_in_a_supplement_too_a_file_is_handed_in_once_whoever_dies(hall, sender, monkeypatch):
    """There the same file counts anew, so only the upload's id tells that it has been put there."""
    case = await with_materials(hall, sender.case)
    await hall.cases.submit(case.id, case.owner_id)
    await hall.review.act(case.id, "request_supplement", staff_of("sg-scjg"), {"missing": [{"key": KEY, "reason": "看不清"}]})
    upload = await sender.announce()
    for number in range(upload["pieces"]):
        await sender.put(upload, number)
    before, seen = (await hall.cases.get(case.id, case.owner_id)), []
    with mortal(monkeypatch) as attempt:
        for number in itertools.count(1):
            died = await attempt(lambda: sender.complete(upload), number, True)
            seen.append((await hall.cases.get(case.id, case.owner_id)).version)
            if not died:
                break
    assert set(seen) == {before.version, before.version + 1} and seen == sorted(seen)
    assert len(held(await hall.cases.get(case.id, case.owner_id))) == len(held(before)) + 1
    assert (await hall.cases.supplement(case.id, case.owner_id)).state == "submitted"


async def test_a_wrong_checksum_drops_the_pieces_and_the_same_upload_goes_on(sender):
    upload = await sender.announce()
    for number in range(upload["pieces"]):
        await sender.put(upload, number, photo(2)[: len(PHOTO)].ljust(len(PHOTO), b"x"))
    with pytest.raises(errors.UploadBroken):
        await sender.complete(upload)
    assert (await sender.get(upload))["received"] == []
    assert len(held(await sender.send())) == 1


async def test_a_refusal_is_said_again_in_the_same_words(hall, sender):
    page = b"<html>" * 60_000
    wanted = {"content": page, "sha256": hashlib.sha256(page).hexdigest()}
    with pytest.raises(errors.FileRefused) as first:
        await sender.send(**wanted)
    upload = await hall.database["uploads"].find_one({"state": "refused"})
    with pytest.raises(errors.FileRefused) as second:
        await sender.pieces.complete(sender.case.id, sender.owner, KEY, upload["_id"])
    assert first.value.detail == second.value.detail
    assert await hall.database["upload_pieces"].count_documents({}) == 0
    assert held(await hall.cases.get(sender.case.id, sender.owner)) == []


async def test_refused_before_a_byte_is_sent(sender):
    for size, refusal in ((10 * 2**20 + 1, errors.FileTooLarge), (0, errors.FileBroken), (-5, errors.FileBroken)):
        with pytest.raises(refusal):
            await sender.pieces.announce(sender.case.id, sender.owner, KEY, "a.jpg", size)
    with pytest.raises(errors.MaterialNotFound):
        await sender.announce(key="no_such")
    with pytest.raises(ValidationFailed):
        await sender.announce(sha256="z" * 64)
    upload = await sender.announce()
    for number, data in ((99, b"x"), (0, b"x"), (upload["pieces"] - 1, b"x" * PIECE_BYTES)):
        with pytest.raises(ValidationFailed):
            await sender.pieces.put(sender.case.id, sender.owner, KEY, upload["id"], number, data)


async def test_nobody_else_and_under_no_other_name(hall, sender):
    upload = await sender.announce()
    stranger = await a_person(hall)
    for call in (
        lambda: hall.pieces.announce(sender.case.id, stranger, KEY, "a", 10),
        lambda: hall.pieces.get(sender.case.id, stranger, KEY, upload["id"]),
        lambda: hall.pieces.put(sender.case.id, stranger, KEY, upload["id"], 0, b"x"),
        lambda: hall.pieces.complete(sender.case.id, stranger, KEY, upload["id"]),
        lambda: hall.pieces.drop(sender.case.id, stranger, KEY, upload["id"]),
    ):
        with pytest.raises(errors.CaseNotFound):
            await call()
    own = await opened(hall, "food_licence", stranger)
    with pytest.raises(errors.UploadNotFound):
        await hall.pieces.get(own.id, stranger, KEY, upload["id"])
    with pytest.raises(errors.UploadNotFound):
        await hall.pieces.get(sender.case.id, sender.owner, "layout", upload["id"])


async def test_what_waits_is_bounded_also_for_many_at_once(hall, sender):
    async def begin(size):
        try:
            await hall.pieces.announce(sender.case.id, sender.owner, KEY, "a.jpg", size)
        except errors.TooMuchWaiting:
            return False
        return True

    began = await asyncio.gather(*(begin(9 * 2**20) for _ in range(20)))
    waiting = await hall.database["uploads"].find({"owner_id": sender.owner}).to_list()
    assert sum(began) == len(waiting) and sum(row["size"] for row in waiting) <= 100 * 2**20
    assert len(waiting) <= MOST_WAITING
    for row in waiting:
        await hall.pieces.drop(sender.case.id, sender.owner, KEY, row["_id"])
        await hall.pieces.drop(sender.case.id, sender.owner, KEY, row["_id"])
    assert await begin(9 * 2**20)


async def test_abandoned_ones_end_after_a_day(hall, sender):
    upload = await sender.announce()
    await sender.put(upload, 0)
    assert await hall.pieces.expire() == 0
    hall.pieces._clock = lambda: utc_now() + KEPT_FOR
    with pytest.raises(errors.UploadNotFound):
        await sender.get(upload)
    assert await hall.pieces.expire() == 1
    assert await hall.database["upload_pieces"].count_documents({}) == 0
    assert len(held(await sender.send())) == 1


async def test_handed_in_meanwhile(hall, sender):
    case = await with_materials(hall, sender.case)
    upload = await sender.announce()
    await hall.cases.submit(case.id, case.owner_id)
    for number in range(upload["pieces"]):
        await sender.put(upload, number)
    with pytest.raises(errors.ActionNotAllowed):
        await sender.complete(upload)
    with pytest.raises(errors.ActionNotAllowed):
        await sender.announce(picture(), sha256=None)
