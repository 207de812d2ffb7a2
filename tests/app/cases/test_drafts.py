"""Drafts: what two devices save at once, what a newer version of the item does to what was typed, and one case per intent."""

import asyncio
import copy
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient

from app.cases import drafts
from app.cases.carry_over import carried_over
from app.cases.documents import from_document, to_document
from app.cases.drafts import Save, beginning, keep
from app.cases.errors import ActionNotAllowed, DraftConflict, ItemWithdrawn
from app.cases.model import Case, State
from app.catalogue.load import load_catalogue
from app.catalogue.publish import publish
from app.identity.model import StaffSession
from app.kernel.clock import utc_now
from app.kernel.errors import ValidationFailed
from app.kernel.ids import new_id
from commands.story import picture, sample_form
from config.settings import ROOT
from tests.app.cases import handled
from tests.app.cases.handled import a_person, a_resident, with_materials

FOLDER = ROOT / "config" / "catalogue"
ITEMS = {item["alias"]: item for item in load_catalogue(FOLDER).items}
LOST = ITEMS["id_card_lost"]
NOW = utc_now()


def a_case(item=LOST, **changes):
    values = {
        "id": "case_1", "number": "1", "query_code": "1", "owner_id": "res_1", "item_code": item["code"], "item_version": item["version"],
        "item_name": item["name"], "agency_id": item["agency"], "agency_name": "局", "division_code": "440203", "state": State.DRAFT,
        "version": 1, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    return Case(**values | changes)


# --- keeping and merging ---


async def opened(hall, alias="id_card_lost"):
    resident_id = await a_resident(hall)
    return await hall.cases.drafts.open(resident_id, alias, "440203", {}, case_id=new_id("case"))


async def save(hall, case, form, version, *, merge=False, answers=None):
    return await hall.cases.drafts.save(case.id, case.owner_id, Save(form, answers or {}, version, merge))


async def test_a_stale_save_is_refused_whole_and_told_field_by_field(hall):
    case = await opened(hall)
    await save(hall, case, {"name": "甲", "lost_date": "2026-11-01"}, 1)
    with pytest.raises(DraftConflict) as caught:
        await save(hall, case, {"name": "乙", "address": "武江区"}, 1)
    told = caught.value.answer_only
    [row] = told["conflicts"]
    assert (row["key"], row["yours"], row["theirs"], row["label"]) == ("name", "乙", "甲", "姓名")
    assert (told["version"], told["merged"], told["mergeable"]) == (2, [], ["/form/address"])
    assert told["values"]["lost_date"] == "2026-11-01"
    stored = await hall.cases.get(case.id, case.owner_id)
    assert (stored.version, stored.form["name"]) == (2, "甲")
    assert "address" not in stored.form, "without `merge` nothing of a stale save is kept"
    assert not caught.value.context, "answers are for the caller, never for the log"


async def test_with_merge_all_but_the_true_conflicts_is_kept(hall):
    case = await opened(hall)
    await save(hall, case, {"name": "甲", "lost_date": "2026-11-01"}, 1)
    merged = await save(hall, case, {"lost_date": "2026-11-01", "address": "武江区"}, 1, merge=True)
    assert (merged.version, merged.form["name"], merged.form["address"]) == (3, "甲", "武江区")
    with pytest.raises(DraftConflict) as caught:
        await save(hall, case, {"name": "乙", "mobile": "138"}, 1, merge=True)
    told = caught.value.answer_only
    assert ([row["key"] for row in told["conflicts"]], told["merged"], told["version"]) == (["name"], ["/form/mobile"], 4)
    # The person has seen both and chooses: the same answer again, as of the version told.
    chosen = await save(hall, case, {"name": "乙"}, told["version"])
    assert (chosen.form["name"], chosen.form["mobile"]) == ("乙", "138")


async def test_a_merge_that_is_sent_twice_changes_nothing_the_second_time(hall):
    case = await opened(hall)
    first = await save(hall, case, {"address": "武江区"}, 1, merge=True)
    again = await save(hall, case, {"address": "武江区"}, 1, merge=True)
    assert again.version == first.version == 2


async def test_taking_an_answer_back_is_a_change_like_any_other(hall):
    case = await opened(hall)
    await save(hall, case, {"address": "武江区"}, 1)
    await save(hall, case, {"address": None}, 2)
    with pytest.raises(DraftConflict) as caught:
        await save(hall, case, {"address": "浈江区"}, 2, merge=True)
    assert caught.value.answer_only["conflicts"][0]["theirs"] is None
    stored = await hall.cases.get(case.id, case.owner_id)
    assert "address" not in stored.form


async def test_answers_to_the_questions_are_merged_like_those_of_the_form(hall):
    case = await opened(hall)
    await save(hall, case, {}, 1, answers={"age": "adult"})
    with pytest.raises(DraftConflict) as caught:
        await save(hall, case, {"address": "武江区"}, 1, merge=True, answers={"age": "minor"})
    assert caught.value.answer_only["conflicts"][0]["pointer"] == "/answers/age"
    assert caught.value.answer_only["merged"] == ["/form/address"]


async def test_of_64_merging_writers_none_loses_an_answer(hall):
    case = await opened(hall, "school_enrol")
    keys = ["child_name", "home", "guardian_name", "mobile"]
    saves = [save(hall, case, {keys[number % 4]: f"{number // 4}"}, 1, merge=True) for number in range(64)]
    results = await asyncio.gather(*saves, return_exceptions=True)
    kept = [result for result in results if isinstance(result, Case)]
    assert {type(result) for result in results} == {Case, DraftConflict}
    stored = await hall.cases.get(case.id, case.owner_id)
    # One answer per field was acknowledged, it is the one that is stored, and every other writer was shown it.
    assert (len(kept), stored.version) == (4, 5)
    for result in results:
        if isinstance(result, DraftConflict):
            [row] = result.answer_only["conflicts"]
            assert row["theirs"] == stored.form[row["key"]] != row["yours"]


async def test_a_wrong_kind_of_value_refuses_the_whole_save_and_a_wrong_value_does_not(hall):
    case = await opened(hall)
    with pytest.raises(ValidationFailed) as caught:
        await save(hall, case, {"name": "甲", "lost_date": {"day": 1}, "nowhere": 1}, 1)
    assert [row["pointer"] for row in caught.value.errors] == ["/form/lost_date", "/form/nowhere"]
    assert (await hall.cases.get(case.id, case.owner_id)).version == 1
    assert (await save(hall, case, {"name": "甲", "lost_date": "明天", "mobile": "138"}, 1)).form["lost_date"] == "明天"


async def test_what_was_handed_in_is_not_saved_over(hall):
    case = await opened(hall)
    case = await save(hall, case, sample_form(LOST["form"]), 1, answers={"age": "adult"})
    for row in (await hall.cases.view(case))["materials"]:
        if row["status"] == "missing":
            case = await hall.cases.put_material(case.id, case.owner_id, row["key"], "a.png", picture())
    submits = [hall.cases.submit(case.id, case.owner_id, command=f"cmd_{number % 2}") for number in range(16)]
    results = await asyncio.gather(*submits, return_exceptions=True)
    assert {type(result) for result in results} == {Case, ActionNotAllowed}, "the retry of the winning tap gets the case, the other tab is told"
    assert await hall.database["events"].count_documents({"name": "case.submitted", "subject_id": case.id}) == 1
    with pytest.raises(ActionNotAllowed):
        await save(hall, case, {"name": "乙"}, case.version + 1, merge=True)


saves = st.tuples(
    st.integers(0, 3),  # device
    st.dictionaries(st.sampled_from(["name", "mobile", "address", "lost_date"]), st.sampled_from(["甲", "乙", "", None]), min_size=1),
    st.booleans(),  # merge
    st.booleans(),  # does the answer reach the device
)


@given(st.lists(saves, max_size=25))
def test_no_order_of_saves_undoes_what_a_device_has_not_seen(script):
    case = a_case()
    seen = dict.fromkeys(range(4), 1)  # device -> the version it knows
    changed_at: dict[str, int] = {}  # field -> version that last changed it
    for device, form, merge, arrives in script:
        before, known = case, seen[device]
        kept = keep(case, LOST, Save(form, {}, known, merge), NOW)
        if kept.case is not case:
            case = replace(kept.case, version=case.version + 1)
        for key in {*before.form, *form}:
            if before.form.get(key) != case.form.get(key):
                assert key in form and (merge or known == before.version), "only what was sent, and only by whoever may"
                assert changed_at.get(key, 1) <= known, "an answer the device had not seen was overwritten"
                changed_at[key] = case.version
            elif key in form and (form[key] or None) != (case.form.get(key) or None):
                assert kept.is_refused or f"form/{key}" in kept.conflicts, "an answer was dropped in silence"
        if arrives:
            seen[device] = case.version
    assert case.version == 1 or set(case.field_versions) <= {f"form/{key}" for key in ("name", "mobile", "address", "lost_date")}


# --- one case per intent ---


async def test_a_retried_request_opens_one_draft_and_other_open_cases_are_shown(hall):
    resident_id, case_id = await a_resident(hall), new_id("case")
    opens = [hall.cases.drafts.open(resident_id, "id_card_lost", "440203", {}, case_id=case_id) for _ in range(8)]
    assert {case.id for case in await asyncio.gather(*opens)} == {case_id}
    assert await hall.database["events"].count_documents({"name": "case.created"}) == 1
    other = await hall.cases.drafts.open(resident_id, "id_card_lost", "440203", {}, case_id=new_id("case"))
    await hall.cases.drafts.open(resident_id, "passport", "440203", {}, case_id=new_id("case"))
    view = await hall.cases.view(other)
    assert [(row["id"], row["state"]) for row in view["possible_duplicates"]] == [(case_id, "draft")]
    await hall.cases.withdraw(case_id, resident_id)
    assert (await hall.cases.view(other))["possible_duplicates"] == []


async def test_pages_opened_on_the_same_cases_begin_one_draft_and_joined_residents_never_meet_under_one_name(hall):
    resident_id, other_id = await a_person(hall), await a_person(hall)

    def begun(owner, after):
        name = beginning(owner, LOST["code"], after)
        return hall.cases.drafts.open(owner, "id_card_lost", "440203", {}, case_id=new_id("case"), begun_as=name)

    one, *more = await asyncio.gather(*(begun(resident_id, "") for _ in range(8)))
    assert {case.id for case in more} == {one.id}
    assert await hall.database["events"].count_documents({"name": "case.created", "subject_id": one.id}) == 1
    assert (await hall.cases.drafts.newest(resident_id, LOST["code"])).id == one.id
    assert (await begun(resident_id, one.id)).id != one.id, "whoever has seen it can begin another"
    theirs = await begun(other_id, "")
    await hall.cases.store.reassign_owner(other_id, resident_id)
    assert (await hall.cases.store.load({"_id": theirs.id})).owner_id == resident_id


async def test_what_only_looks_wrong_is_handed_in_and_the_clerk_is_told_too(hall):
    def told(view):
        return [row["pointer"] for row in view["form"]["advice"]]

    draft = await with_materials(hall, await handled.opened(hall, "elder_allowance", await a_person(hall)))
    assert told(await hall.cases.view(draft)) == ["/form/age"]
    case = await hall.cases.submit(draft.id, draft.owner_id)
    assert case.form["age"] < 80, "computed by the hall, whatever the client had sent"
    clerk = StaffSession(f"clerk.{case.agency_id}", "经办员", "clerk", case.agency_id)
    assert told(await hall.review.view(case, clerk)) == ["/form/age"]
    assert told(await hall.cases.view(case)) == [], "the applicant can change nothing now"


# --- a newer version of the item ---


def edited(item, edit):
    newer = copy.deepcopy(dict(item)) | {"version": item["version"] + 1}
    edit({field["key"]: field for field in newer["form"]}, newer)
    return newer


def test_what_changed_is_told_and_nothing_typed_is_lost():
    def edit(fields, newer):
        newer["form"] = [field for field in newer["form"] if field["key"] != "use_old_photo"]
        newer["form"].append({"key": "reason", "label": "丢失经过", "type": "textarea", "required": True, "personal": False})
        fields["address"] |= {"type": "select", "options": [{"value": "a", "label": "甲"}]}
        fields["lost_date"]["type"] = "table"
        fields["lost_date"]["columns"] = ["日期"]
        newer["fees"][0]["amount_fen"] += 1000
        newer["situations"] = []

    form = {"name": "甲", "use_old_photo": True, "address": "武江区", "lost_date": "2026-11-01"}
    case = a_case(form=form, answers={"age": "adult"})
    newer = edited(LOST, edit)
    moved = carried_over(case, LOST, newer, {"id": "sg-gaj", "name": "局"})
    assert moved.form == {"name": "甲", "address": "武江区"}
    assert {key: kept["value"] for key, kept in moved.form_dropped.items()} == {"use_old_photo": True, "lost_date": "2026-11-01"}
    assert (moved.carried_over["from"], moved.carried_over["to"], moved.item_version) == (1, 2, 2)
    changes = {(row["key"], row["change"]) for row in moved.carried_over["changes"]}
    assert changes >= {
        ("use_old_photo", "removed"), ("reason", "added"), ("address", "changed"), ("lost_date", "changed"),
        ("age", "question_removed"), ("fee", "fee"),
    }  # fmt: skip
    assert moved.answers == {}
    # An older page that still has the field: what it sends is kept beside the form, and nothing else of its save is refused.
    kept = keep(moved, newer, Save({"use_old_photo": False, "name": "乙"}, {}, 1), NOW)
    assert (kept.case.form["name"], kept.case.form_dropped["use_old_photo"]["value"]) == ("乙", False)
    # The field comes back with a later version, and so does the answer.
    back = carried_over(moved, newer, LOST | {"version": 3}, {"id": "sg-gaj", "name": "局"})
    assert back.form["use_old_photo"] is True
    assert (back.form["lost_date"], back.form_dropped, back.carried_over["from"]) == ("2026-11-01", {}, 1)


@pytest.mark.parametrize("alias", [alias for alias, item in ITEMS.items() if item["service_kind"] == "handle"])
def test_every_form_is_carried_over_unchanged_when_nothing_of_it_changes(alias):
    item = ITEMS[alias]
    case = a_case(item, form={key: value for key, value in sample_form(item["form"]).items()})
    newer = edited(item, lambda _fields, newer: newer.update(summary="新的说明"))
    moved = carried_over(case, item, newer, {"id": "sg-gaj", "name": "局"})
    computed = {field["key"] for field in item["form"] if "computed" in field}
    assert (moved.form, moved.carried_over, moved.item_version) == ({k: v for k, v in case.form.items() if k not in computed}, None, 2)


def test_dropped_answers_are_sealed_at_rest(keys):
    case = a_case(form_dropped={"old": {"label": "旧", "value": "机密内容"}})
    document = to_document(case, keys, frozenset())
    assert "机密内容" not in str(document)
    assert from_document(document, keys).form_dropped == case.form_dropped


async def test_an_open_draft_follows_a_publication_and_a_submitted_case_does_not(hall, tmp_path):
    case = await opened(hall)
    case = await save(hall, case, {"use_old_photo": True, "name": "甲"}, 1)
    other = await hall.cases.drafts.open(case.owner_id, "id_card_lost", "440203", {}, case_id=new_id("case"))
    folder = tmp_path / "catalogue"
    folder.mkdir()
    for path in FOLDER.glob("*.json"):
        data = orjson.loads(path.read_bytes())
        if path.name == "items.json":
            item = next(item for item in data["items"] if item["alias"] == "id_card_lost")
            item["form"] = [field for field in item["form"] if field["key"] != "use_old_photo"]
        (folder / path.name).write_bytes(orjson.dumps(data))
    await publish(hall.database, load_catalogue(folder))
    await hall.catalogue.load()
    read = await hall.cases.get(case.id, case.owner_id)
    assert (read.version, read.item_version) == (2, 2), "reading writes nothing"
    view = await hall.cases.view(read)
    assert [row["key"] for row in view["carried_over"]["changes"]] == ["use_old_photo"]
    assert view["form_dropped"]["use_old_photo"]["value"] is True
    assert all(field["key"] != "use_old_photo" for field in view["form"]["fields"])
    # A page that was open before saves what it has: the field that is gone is no reason to refuse the others.
    saved = await save(hall, case, {"use_old_photo": False, "mobile": "13800000001"}, 2)
    assert (saved.version, saved.form["mobile"], saved.form_dropped["use_old_photo"]["value"]) == (3, "13800000001", False)
    stored = await hall.database["cases"].find_one({"_id": case.id})
    assert (stored["item_version"], stored["carried_over"]["from"]) == (2, 1)
    assert (await hall.database["cases"].find_one({"_id": other.id}))["item_version"] == 1


async def test_a_draft_of_an_item_that_is_offered_no_more_stays_readable_and_is_not_handed_in(hall):
    case = await opened(hall)
    await save(hall, case, {"name": "甲"}, 1)
    catalogue = load_catalogue(FOLDER)
    left = [item for item in catalogue.items if item["alias"] != "id_card_lost"]
    await publish(hall.database, replace(catalogue, items=tuple(left)))
    await hall.catalogue.load()
    with pytest.raises(ItemWithdrawn):
        await hall.cases.submit(case.id, case.owner_id)
    kept = await hall.cases.get(case.id, case.owner_id)
    assert (kept.state, kept.form["name"]) == (State.DRAFT, "甲")


def test_a_page_of_the_version_before_keeps_all_that_still_has_a_place():
    """One question is gone, another has lost an option, a field is filled in otherwise: the page that is open sends them all the same."""
    new = copy.deepcopy(LOST) | {"version": LOST["version"] + 1}
    gone, age = {**new["situations"][0], "key": "gone"}, new["situations"][0]
    old = copy.deepcopy(LOST) | {"situations": [*LOST["situations"], gone]}
    lost_option = age["options"].pop()["value"]
    address = next(field for field in new["form"] if field["key"] == "address")
    address["type"] = "boolean"
    case = carried_over(a_case(old, answers={"gone": gone["options"][0]["value"]}), old, new, {"id": "a", "name": "局"})
    sent = Save({"name": "张三", "address": "武江区"}, {"gone": gone["options"][0]["value"], age["key"]: lost_option}, 1, merge=True)

    kept = keep(case, new, sent, NOW)

    assert kept.case.form["name"] == "张三"
    assert kept.case.form_dropped["address"]["value"] == "武江区", "kept beside, for the person to see"
    assert not {"gone", age["key"]} & kept.case.answers.keys(), "asked for anew"
    for wrong in (Save({"nonsense": "x"}, {}, 1, merge=True), Save({}, {"nonsense": "x"}, 1, merge=True)):
        with pytest.raises(ValidationFailed):
            keep(case, new, wrong, NOW)


async def test_what_a_dead_process_holds_delays_a_save_and_never_fails_it(hall):
    """A process that dies inside a hand-in leaves its transaction open; MongoDB gives it up before the save has waited too long."""
    case = await handled.opened(hall, "id_card_lost", await a_person(hall))
    async with hall.database.client.start_session() as dead:
        await dead.start_transaction()
        await hall.database["cases"].update_one({"_id": case.id}, {"$set": {"held_by": "dead"}}, session=dead)
        saved = await hall.cases.drafts.save(case.id, case.owner_id, Save({"address": "武江区1号"}, {}, case.version))
    assert saved.form["address"] == "武江区1号"
    assert "held_by" not in await hall.database["cases"].find_one({"_id": case.id})


async def test_who_loses_every_race_is_told_what_stands_there_now(hall, servers, monkeypatch):
    monkeypatch.setattr(drafts, "_MERGE_FOR_S", 0.0)
    case = await handled.opened(hall, "id_card_lost", await a_person(hall))
    with MongoClient(servers["mongodb"]) as client:
        rows = client[hall.database.db.name]["cases"]

        def somebody_saves():
            rows.update_one({"_id": case.id}, {"$inc": {"version": 1}})
            return utc_now()

        monkeypatch.setattr(hall.cases.drafts, "_clock", somebody_saves)
        with pytest.raises(DraftConflict) as told:
            await hall.cases.drafts.save(case.id, case.owner_id, Save({"address": "武江区1号"}, {}, case.version, merge=True))
    answer = told.value.answer_only
    assert answer["version"] > case.version and answer["values"]["name"] == case.form["name"]
    assert (answer["mergeable"], answer["conflicts"]) == (["/form/address"], []), "all of it can be kept, with the version that stands there"
