"""Materials beside the files themselves: licences asked again, what was accepted before, the scanner, and who may see what."""

import asyncio
import io
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pikepdf
import pytest
from PIL import Image

from app.cases import errors
from app.cases.model import State
from app.cases.upkeep import Scanning
from app.kernel.clock import utc_now
from app.kernel.errors import ValidationFailed
from app.kernel.ids import new_id
from app.licences.service import LicenceNotFound, LicenceNotUsable
from app.platforms.clamav import ClamAV
from commands.story import picture
from sandbox import clamd
from sandbox.base import Faults
from tests.app.cases.dying import mortal
from tests.app.cases.handled import a_person, events_of, opened, paid, staff_of, with_materials

CLERK = staff_of("sg-scjg")


def rows_of(view):
    return {row["key"]: row for row in view["materials"]}


def pdf(pages=3, content=b""):
    document = pikepdf.new()
    for _ in range(pages):
        document.add_blank_page(page_size=(300, 400))
    if content:
        document.Root["/Note"] = document.make_stream(content)
    out = io.BytesIO()
    document.save(out, compress_streams=False, deterministic_id=True)
    return out.getvalue()


async def a_licence(hall, owner, kind="LIC-IDCARD", **more):
    licence_id = new_id("lic")
    row = {
        "_id": licence_id, "event_id": new_id("evt"), "holder_id": owner, "type": kind, "name": "居民身份证", "number": "N1",
        "issuer_id": "sg-gaj", "issuer": "韶关市公安局", "issued_on": "2020-01-01", "valid_to": None, "state": "valid", "case_id": None,
    }  # fmt: skip
    await hall.database["licences"].insert_one(row | more)
    return licence_id


def with_licence(hall):
    """An item and the key of a material that a licence may replace and that must be there."""
    for item in hall.catalogue.snapshot.items:
        if item["service_kind"] != "handle" or item["identity_level"] > "L4" or item["fees"]:
            continue
        for material in item["materials"]:
            if material["licence"] and material["required"] == "required" and material["form"] in ("electronic", "both"):
                return item, material
    raise AssertionError("no such item")


async def test_limits_are_told_for_every_material(hall):
    case = await opened(hall, "food_licence", await a_person(hall))
    for row in (await hall.cases.view(case))["materials"]:
        assert set(row["limits"]) == {"accept", "max_bytes", "max_files", "max_pages", "max_pixels"}


@pytest.mark.parametrize("spoil", [{"state": "annulled"}, {"valid_to": "2020-01-01"}, {"holder_id": "res_other"}])
async def test_a_licence_is_asked_again_at_submission_acceptance_and_decision(hall, spoil):
    item, material = with_licence(hall)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, item["alias"], owner), leave_out=(material["key"],))
    licence = await a_licence(hall, owner, material["licence"])
    await hall.cases.put_licence(case.id, owner, material["key"], licence)
    good = {"state": "valid", "valid_to": None, "holder_id": owner}
    licences = hall.database["licences"]
    pointer = f"/materials/{material['key']}"

    await licences.update_one({"_id": licence}, {"$set": spoil})
    with pytest.raises(errors.Incomplete) as refused:
        await hall.cases.submit(case.id, owner)
    assert [(row["pointer"], row["code"]) for row in refused.value.errors] == [(pointer, "licence_not_valid")]
    with pytest.raises((LicenceNotUsable, LicenceNotFound)):
        await hall.cases.put_licence(case.id, owner, material["key"], licence)

    await licences.update_one({"_id": licence}, {"$set": good})
    case = await paid(hall, await hall.cases.submit(case.id, owner))
    clerk = staff_of(case.agency_id)
    for action, body in (("accept", {}), ("decide", {"outcome": "approved", "opinion": ""})):
        await licences.update_one({"_id": licence}, {"$set": spoil})
        with pytest.raises(ValidationFailed) as refused:
            await hall.review.act(case.id, action, clerk, body)
        assert refused.value.errors[0]["pointer"] == pointer
        await licences.update_one({"_id": licence}, {"$set": good})
        await hall.review.act(case.id, action, clerk, body)


async def test_everything_wrong_is_told_at_once_also_a_spoiled_licence(hall):
    item, material = with_licence(hall)
    owner = await a_person(hall)
    case = await opened(hall, item["alias"], owner)
    licence = await a_licence(hall, owner, material["licence"])
    await hall.cases.put_licence(case.id, owner, material["key"], licence)
    await hall.database["licences"].update_one({"_id": licence}, {"$set": {"state": "annulled"}})
    await hall.database["cases"].update_one({"_id": case.id}, {"$set": {"form": {}}})
    with pytest.raises(errors.Incomplete) as refused:
        await hall.cases.submit(case.id, owner)
    assert len(refused.value.errors) > 1
    assert f"/materials/{material['key']}" in {row["pointer"] for row in refused.value.errors}


# --- what was accepted before ---


async def accepted(hall, owner, alias="food_licence"):
    case = await paid(hall, await hall.cases.submit((await with_materials(hall, await opened(hall, alias, owner))).id, owner))
    await hall.review.act(case.id, "accept", staff_of(case.agency_id), {})
    return await hall.cases.get(case.id, owner)


async def test_what_an_office_accepted_is_offered_again_with_age_and_trust(hall):
    owner = await a_person(hall)
    old = await accepted(hall, owner)
    new = await opened(hall, "food_licence", owner)
    hall.reuse._clock = lambda: utc_now() + timedelta(days=40)
    offer = (await hall.reuse.offers(new))["rules"][0]
    assert (offer["from_case"], offer["age_days"], offer["trust"]) == (old.id, 40, "accepted_by_agency")
    case = await hall.reuse.take_over(new.id, owner, "rules", old.id, "rules")
    again = await hall.reuse.take_over(new.id, owner, "rules", old.id, "rules")
    assert len(again.materials["rules"]["files"]) == 1
    assert case.materials["rules"]["files"][0]["id"] == old.materials["rules"]["files"][0]["id"], "stored once"
    case = await hall.cases.submit((await with_materials(hall, case)).id, owner)
    file = rows_of(await hall.review.view(case, CLERK))["rules"]["files"][0]
    assert (file["trust"], file["from_case"], file["accepted_on"]) == ("accepted_by_agency", old.id, offer["accepted_on"])
    assert rows_of(await hall.review.view(old, CLERK))["rules"]["files"][0]["trust"] == "uploaded"


async def test_what_is_not_offered(hall):
    owner = await a_person(hall)
    old = await accepted(hall, owner)
    stranger = await opened(hall, "food_licence", await a_person(hall))
    assert await hall.reuse.offers(stranger) == {}
    with pytest.raises(errors.MaterialNotFound):
        await hall.reuse.take_over(stranger.id, stranger.owner_id, "rules", old.id, "rules")
    only_submitted = await hall.cases.submit((await with_materials(hall, await opened(hall, "food_licence", owner))).id, owner)
    new = await opened(hall, "food_licence", owner)
    offers = await hall.reuse.offers(new)
    assert {offer["from_case"] for found in offers.values() for offer in found} == {old.id}
    assert await hall.reuse.offers(only_submitted) == {}, "a case that takes nothing now"
    hall.reuse._clock = lambda: utc_now() + timedelta(days=181)
    assert await hall.reuse.offers(new) == {}


async def test_a_removed_file_stays_with_the_other_case(hall):
    owner = await a_person(hall)
    old = await accepted(hall, owner)
    new = await opened(hall, "food_licence", owner)
    case = await hall.reuse.take_over(new.id, owner, "rules", old.id, "rules")
    file_id = case.materials["rules"]["files"][0]["id"]
    await hall.cases.remove_material(new.id, owner, "rules", file_id)
    hall.upkeep._files._clock = lambda: utc_now() + timedelta(hours=3)
    await hall.upkeep.run()
    assert (await hall.cases.read_material(old.id, owner, file_id))[2]


async def test_a_removed_file_that_nobody_names_goes(hall):
    owner = await a_person(hall)
    case = await opened(hall, "food_licence", owner)
    case = await hall.cases.put_material(case.id, owner, "rules", "a.png", picture(33))
    file_id = case.materials["rules"]["files"][0]["id"]
    await hall.cases.remove_material(case.id, owner, "rules", file_id)
    hall.upkeep._files._clock = lambda: utc_now() + timedelta(hours=3)
    await asyncio.gather(hall.upkeep.run(), hall.upkeep.run())
    assert await hall.database["materials.files"].count_documents({}) == 0


# --- the scanner ---


@pytest.fixture
async def scanner(hall):
    """A scanner that hears; `away()` hangs it up."""
    faults = Faults()
    server = await clamd.start("127.0.0.1", 0, faults)
    scan = Scanning(ClamAV(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    hall.cases.holdings._scan = hall.upkeep._scan = scan
    yield SimpleNamespace(away=lambda: faults.set("clamd", "down", None), back=lambda: faults.set("clamd", "none", None))
    server.close()


async def test_an_infected_file_is_refused_recorded_and_not_kept(hall, scanner):
    owner = await a_person(hall)
    case = await opened(hall, "food_licence", owner)
    with pytest.raises(errors.FileInfected):
        await hall.cases.put_material(case.id, owner, "rules", "a.pdf", pdf(content=clamd.EICAR))
    with pytest.raises(errors.FileInfected):
        await hall.cases.put_material(case.id, owner, "rules", "a.png", picture() + clamd.EICAR)
    assert await hall.database["stored_files"].count_documents({}) == 0
    rows = await hall.database["audit"].find({"action": "material.infected"}).to_list()
    assert [(row["subject"], row["purpose"]) for row in rows] == [(case.id, "Eicar-Test-Signature")] * 2


async def test_while_the_scanner_is_away_nothing_is_lost_and_no_clerk_sees_it(hall, scanner):
    owner = await a_person(hall)
    scanner.away()
    case = await opened(hall, "food_licence", owner)
    case = await hall.cases.put_material(case.id, owner, "rules", "a.pdf", pdf())
    file_id = case.materials["rules"]["files"][0]["id"]
    assert rows_of(await hall.cases.view(case))["rules"]["files"][0]["scan"] == "unchecked"
    case = await hall.cases.submit((await with_materials(hall, case)).id, owner)
    assert (await hall.cases.read_material(case.id, owner, file_id))[2] == pdf()
    for look in (lambda: hall.showing.page(case.id, CLERK, file_id, 1), lambda: hall.showing.original(case.id, CLERK, file_id)):
        with pytest.raises(errors.FileUnchecked):
            await look()
    assert await hall.upkeep.check() == 0
    scanner.back()
    assert await hall.upkeep.check() > 0
    assert (await hall.showing.original(case.id, CLERK, file_id))[2] == pdf()
    assert rows_of(await hall.review.view(case, CLERK))["rules"]["files"][0]["scan"] == "clean"


async def test_what_is_found_later_is_gone_and_must_be_replaced(hall, scanner):
    owner = await a_person(hall)
    scanner.away()
    case = await with_materials(hall, await opened(hall, "food_licence", owner), leave_out=("rules",))
    case = await hall.cases.put_material(case.id, owner, "rules", "a.pdf", pdf(content=clamd.EICAR))
    file_id = case.materials["rules"]["files"][0]["id"]
    scanner.back()
    await hall.upkeep.run()
    found = await hall.database["audit"].find_one({"action": "material.infected"})
    assert (found["actor"], found["subject"], found["owner_id"]) == ("worker", case.id, owner)
    row = rows_of(await hall.cases.view(case))["rules"]
    assert (row["status"], row["files"][0]["scan"]) == ("missing", "infected")
    with pytest.raises(errors.MaterialNotFound):
        await hall.cases.read_material(case.id, owner, file_id)
    with pytest.raises(errors.Incomplete) as refused:
        await hall.cases.submit(case.id, owner)
    assert [(each["pointer"], each["code"]) for each in refused.value.errors] == [("/materials/rules", "file_infected")]
    await hall.cases.remove_material(case.id, owner, "rules", file_id)
    case = await hall.cases.put_material(case.id, owner, "rules", "b.pdf", pdf())
    assert (await hall.cases.submit(case.id, owner)).submitted_at


# --- who sees what ---


async def test_clerks_see_pages_with_a_watermark_and_every_look_is_recorded(hall, scanner):
    owner = await a_person(hall)
    case = await opened(hall, "food_licence", owner)
    case = await hall.cases.put_material(case.id, owner, "rules", "制度.pdf", pdf(3))
    file_id = case.materials["rules"]["files"][0]["id"]
    with pytest.raises(errors.CaseNotFound):  # a draft is nobody's business
        await hall.showing.page(case.id, CLERK, file_id, 1)
    case = await hall.cases.submit((await with_materials(hall, case)).id, owner)
    picture_of, pages = await hall.showing.page(case.id, CLERK, file_id, 2)
    assert pages == 3
    with Image.open(io.BytesIO(picture_of)) as shown:
        shown.load()
        assert shown.format == "JPEG" and not shown.getexif()
        colours = {colour for _count, colour in shown.convert("RGB").getcolors(2**24)}
    assert any(red > green + 30 for red, green, _blue in colours), "a blank page shows the watermark"
    with pytest.raises(errors.MaterialNotFound):
        await hall.showing.page(case.id, CLERK, file_id, 4)
    with pytest.raises(errors.CaseNotFound):
        await hall.showing.page(case.id, staff_of("sg-gaj"), file_id, 1)
    with pytest.raises(errors.CaseNotFound):
        await hall.showing.original(case.id, staff_of("sg-gaj"), file_id)
    other = await hall.cases.submit((await with_materials(hall, await opened(hall, "food_licence", owner))).id, owner)
    with pytest.raises(errors.MaterialNotFound):
        await hall.showing.original(other.id, CLERK, file_id)
    assert (await hall.showing.original(case.id, CLERK, file_id))[0] == "制度.pdf"
    rows = await hall.database["audit"].find({"subject": case.id, "action": {"$regex": "^material"}}).sort("_id", 1).to_list()
    assert [(row["action"], row["purpose"]) for row in rows] == [
        ("material.previewed", f"{file_id} p2"), ("material.previewed", f"{file_id} p4"), ("material.original_read", file_id),
    ]  # fmt: skip
    assert {row["actor"] for row in rows} == {CLERK.account}


async def test_every_kind_of_picture_is_shown(hall, scanner):
    owner = await a_person(hall)
    case = await opened(hall, "food_licence", owner)
    for form, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("WEBP", "RGBA")):
        out = io.BytesIO()
        Image.new(mode, (50, 30)).save(out, form)
        case = await hall.cases.put_material(case.id, owner, "rules", f"{mode}.x", out.getvalue())
    case = await hall.cases.submit((await with_materials(hall, case)).id, owner)
    for entry in case.materials["rules"]["files"]:
        shown, pages = await hall.showing.page(case.id, CLERK, entry["id"], 1)
        assert pages == 1 and shown[:3] == b"\xff\xd8\xff"


def test_the_watermark_says_who_when_and_what_for():
    from app.cases.showing import watermark

    case = SimpleNamespace(item_name="食品经营许可")
    assert watermark(case, CLERK, "韶关市市场监督管理局", datetime(2026, 11, 24, 2, tzinfo=UTC)) == (
        "韶关市市场监督管理局 clerk.sg-scjg 2026-11-24 10:00 仅供办理食品经营许可使用"
    )


# --- a licence lost after acceptance ---


async def with_lost_licence(hall):
    """A case in review whose licence was annulled after acceptance; returns it, its material and its licence."""
    item, material = with_licence(hall)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, item["alias"], owner), leave_out=(material["key"],))
    licence = await a_licence(hall, owner, material["licence"])
    await hall.cases.put_licence(case.id, owner, material["key"], licence)
    case = await paid(hall, await hall.cases.submit(case.id, owner))
    await hall.review.act(case.id, "accept", staff_of(case.agency_id), {})
    await hall.database["licences"].update_one({"_id": licence}, {"$set": {"state": "annulled"}})
    return await hall.cases.get(case.id, owner), material, licence


async def test_a_lost_licence_is_told_once_and_replaced_without_losing_the_place(hall):
    case, material, licence = await with_lost_licence(hall)
    key, clerk, owner = material["key"], staff_of(case.agency_id), case.owner_id
    promised, place = case.deadline_on, case.number
    approve = {"outcome": "approved", "opinion": ""}

    await hall.review.act(case.id, "claim", clerk, {})  # whatever the office does first
    for _ in range(2):
        with pytest.raises(ValidationFailed) as refused:
            await hall.review.act(case.id, "decide", clerk, approve)
        assert refused.value.errors[0]["pointer"] == f"/materials/{key}"
    assert (await events_of(hall, case)).count("case.licence_lost") == 1
    view = await hall.cases.view(await hall.cases.get(case.id, owner))
    assert "replace_material" in view["allowed_actions"] and material["name"] in view["next"]["text"]
    assert (rows_of(view)[key]["status"], rows_of(view)[key]["is_lost"]) == ("missing", True)

    with pytest.raises(LicenceNotUsable):
        await hall.cases.put_licence(case.id, owner, key, licence)
    with pytest.raises(errors.ActionNotAllowed):  # only what was lost
        other = next(row for row in view["materials"] if row["key"] != key and row["status"] == "uploaded")
        await hall.cases.put_material(case.id, owner, other["key"], "x.png", picture(3))
    replaced = await hall.cases.put_material(case.id, owner, key, "x.png", picture(4))
    assert (replaced.deadline_on, replaced.number) == (promised, place)
    assert "replace_material" not in (await hall.cases.view(replaced))["allowed_actions"]
    await hall.review.act(case.id, "decide", clerk, approve)
    assert "case.approved" in await events_of(hall, case)


async def test_a_lost_licence_that_is_good_again_needs_no_replacing_and_one_that_is_not_may_be_the_reason_of_a_denial(hall):
    case, material, licence = await with_lost_licence(hall)
    clerk = staff_of(case.agency_id)
    await hall.review.act(case.id, "claim", clerk, {})
    await hall.database["licences"].update_one({"_id": licence}, {"$set": {"state": "valid"}})
    await hall.review.act(case.id, "suspend", clerk, {"kind": "inspection", "days": 1})
    told = await events_of(hall, case)
    assert [name for name in told if "licence" in name] == ["case.licence_lost", "case.licence_regained"]
    assert (await hall.cases.get(case.id, case.owner_id)).lost_materials == ()

    await hall.database["licences"].update_one({"_id": licence}, {"$set": {"valid_to": "2020-01-01"}})
    await hall.review.act(case.id, "resume", clerk, {})
    body = {"outcome": "denied", "opinion": f"{material['name']}所用证照已失效，没有更换"}
    denied = await hall.review.act(case.id, "decide", clerk, body)
    assert (denied.state, denied.decision["opinion"]) == (State.DENIED, body["opinion"])


async def test_a_replacement_that_races_with_the_finding_is_never_marked(hall):
    case, material, _licence = await with_lost_licence(hall)
    other = await a_licence(hall, case.owner_id, material["licence"])
    clerk, key = staff_of(case.agency_id), material["key"]
    await hall.review.act(case.id, "claim", clerk, {})
    stale = await hall.cases.get(case.id, case.owner_id)
    await asyncio.gather(
        hall.cases.holdings.ask_again(stale),
        hall.cases.put_licence(case.id, case.owner_id, key, other),
        hall.cases.holdings.ask_again(stale),
        return_exceptions=True,
    )
    after = await hall.cases.holdings.ask_again(await hall.cases.get(case.id, case.owner_id))
    assert (after.materials[key]["licence_id"], after.lost_materials) == (other, ())
    assert (await events_of(hall, case)).count("case.licence_lost") == 1


@pytest.mark.parametrize("after", [False, True], ids=["before_the_command", "before_its_answer"])
async def test_a_process_that_dies_while_it_finds_a_lost_licence_tells_it_once_or_not_at_all(hall, monkeypatch, after):
    case, _material, _licence = await with_lost_licence(hall)
    with mortal(monkeypatch) as attempt:
        for number in range(1, 30):
            died = await attempt(lambda: hall.cases.holdings.ask_again(case), number, after)
            stored, told = await hall.cases.get(case.id, case.owner_id), await events_of(hall, case)
            assert told.count("case.licence_lost") == len(stored.lost_materials), number
            if not died:
                break
    assert not died and stored.lost_materials
