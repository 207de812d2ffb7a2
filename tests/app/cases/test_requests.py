"""Materials that come later, answers put right, extension, refusal and remedies, applying again: on a real database."""

import asyncio
from datetime import UTC, date, datetime

import pytest

from app.cases.drafts import Save
from app.cases.errors import ActionNotAllowed, CaseNotFound, Incomplete
from app.cases.model import State
from app.kernel.errors import ValidationFailed
from app.kernel.ids import new_id
from commands.story import picture
from tests.app.cases.handled import a_person, events_of, opened, set_clock, staff_of, submitted, with_materials

MARKET, MARKET_HEAD = staff_of("sg-scjg"), staff_of("sg-scjg", "head")
POLICE = staff_of("sg-gaj")
LABOUR = staff_of("sg-rsj")


def at(month, day, hour=10):
    return datetime(2026, month, day, hour - 8, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _today(hall):
    set_clock(hall, at(3, 2))


async def promised(hall, alias="food_licence", keys=("rules",), answers=None):
    case = await opened(hall, alias, await a_person(hall), answers)
    case = await hall.requests.promise(case.id, case.owner_id, keys)
    case = await with_materials(hall, case)
    return await hall.cases.submit(case.id, case.owner_id)


# --- tolerated and promised ---


async def test_a_tolerated_material_comes_later_and_until_then_nothing_is_approved(hall):
    case = await promised(hall)
    accepted = await hall.review.act(
        case.id, "accept", MARKET, {"tolerated": [{"key": "rules", "due_on": date(2026, 3, 5)}]}
    )
    [promise] = accepted.promises
    assert (promise.kind, promise.due_on) == ("deferral", date(2026, 3, 5))
    view = await hall.cases.view(accepted)
    [row] = [row for row in view["materials"] if row["key"] == "rules"]
    assert (row["status"], row["due_on"]) == ("promised", "2026-03-05")
    assert "食品安全管理制度目录（2026年3月5日前）" in view["next"]["text"]
    with pytest.raises(ActionNotAllowed, match="容缺"):
        await hall.review.act(case.id, "decide", MARKET, {"outcome": "approved", "opinion": ""})
    set_clock(hall, at(3, 6))
    await asyncio.gather(*(hall.sweeps.run() for _ in range(3)))
    assert (await events_of(hall, case)).count("case.promise_overdue") == 1
    handed_in = await hall.cases.put_material(case.id, case.owner_id, "rules", "a.png", picture())
    assert (handed_in.open_promises, handed_in.state) == ((), State.ACCEPTED)
    with pytest.raises(ActionNotAllowed):
        await hall.cases.put_material(case.id, case.owner_id, "layout", "b.png", picture(10))
    decided = await hall.review.act(case.id, "decide", MARKET, {"outcome": "approved", "opinion": ""})
    assert decided.state is State.APPROVED


async def test_a_promised_material_may_have_several_pages_until_the_decision(hall):
    case = await promised(hall)
    await hall.review.act(case.id, "accept", MARKET, {})
    for page in (1, 2):
        case = await hall.cases.put_material(case.id, case.owner_id, "rules", f"{page}.png", picture(page))
    assert len(case.materials["rules"]["files"]) == 2 and case.open_promises == ()
    await hall.review.act(case.id, "decide", MARKET, {"outcome": "approved", "opinion": ""})
    with pytest.raises(ActionNotAllowed):
        await hall.cases.put_material(case.id, case.owner_id, "rules", "3.png", picture(3))


async def test_what_was_not_named_is_due_by_the_day_of_the_decision(hall):
    case = await promised(hall, keys=("rules", "manager"))
    accepted = await hall.review.act(case.id, "accept", MARKET, {})
    assert {promise.due_on for promise in accepted.promises} == {accepted.deadline_on}


async def test_an_office_may_refuse_though_a_material_is_still_to_come(hall):
    case = await promised(hall)
    await hall.review.act(case.id, "accept", MARKET, {})
    denied = await hall.review.act(case.id, "decide", MARKET, {"outcome": "denied", "opinion": "场所不符合"})
    assert denied.state is State.DENIED


@pytest.mark.parametrize(
    "row", [{"key": "layout", "due_on": date(2026, 3, 9)}, {"key": "rules", "due_on": date(2026, 3, 2)}, {"key": "rules", "due_on": date.max}]
)
async def test_only_what_was_promised_is_tolerated_and_only_until_a_later_day(hall, row):
    case = await promised(hall)
    with pytest.raises(ValidationFailed):
        await hall.review.act(case.id, "accept", MARKET, {"tolerated": [row]})


async def test_only_what_the_item_marks_may_come_later(hall):
    case = await opened(hall, "food_licence", await a_person(hall))
    with pytest.raises(ValidationFailed) as caught:
        await hall.requests.promise(case.id, case.owner_id, ["layout", "rules"])
    assert [row["pointer"] for row in caught.value.errors] == ["/keys/0"]
    plain = await opened(hall, "injury_identify", await a_person(hall))
    with pytest.raises(ActionNotAllowed, match="承诺"):
        await hall.requests.promise(plain.id, plain.owner_id, ["anything"])


async def test_a_promise_taken_back_makes_the_material_missing_again(hall):
    case = await opened(hall, "food_licence", await a_person(hall))
    case = await hall.requests.promise(case.id, case.owner_id, ["rules"])
    await hall.requests.promise(case.id, case.owner_id, [])
    await with_materials(hall, case, leave_out=("rules",))
    with pytest.raises(Incomplete) as caught:
        await hall.cases.submit(case.id, case.owner_id)
    assert [row["pointer"] for row in caught.value.errors] == ["/materials/rules"]


@pytest.mark.parametrize("turn", ["it came", "it is not asked for"])
async def test_a_promise_that_nobody_could_keep_holds_up_no_approval(hall, turn):
    case = await opened(hall, "food_licence", await a_person(hall), {"form": "catering"})
    case = await hall.requests.promise(case.id, case.owner_id, ["health"])
    if turn == "it came":
        case = await hall.cases.put_material(case.id, case.owner_id, "health", "a.png", picture())
    else:
        case = await hall.cases.drafts.save(case.id, case.owner_id, Save({}, {"form": "sale"}, case.version))
    case = await with_materials(hall, case)
    case = await hall.cases.submit(case.id, case.owner_id)
    assert case.open_promises == ()
    await hall.review.act(case.id, "accept", MARKET, {})
    assert (await hall.review.act(case.id, "decide", MARKET, {"outcome": "approved", "opinion": ""})).state is State.APPROVED


async def test_what_a_notice_wants_anew_may_be_promised(hall):
    case = await with_materials(hall, await opened(hall, "food_licence", await a_person(hall)))
    case = await hall.cases.submit(case.id, case.owner_id)
    await hall.review.act(case.id, "request_supplement", MARKET, {"missing": [{"key": "rules", "reason": "看不清"}]})
    await hall.requests.promise(case.id, case.owner_id, ["rules"])
    case = await hall.cases.supplement(case.id, case.owner_id)
    assert [promise.key for promise in case.open_promises] == ["rules"]


async def test_what_is_promised_instead_of_proven_holds_up_no_decision(hall):
    case = await promised(hall, "hukou_move", ("kin",), {"reason": "parent_child"})
    accepted = await hall.review.act(case.id, "accept", POLICE, {})
    assert accepted.promises[0].due_on == date(2026, 3, 30)  # twenty working days
    assert (await hall.review.act(case.id, "decide", POLICE, {"outcome": "approved", "opinion": ""})).decision
    posted = await hall.review.act(case.id, "deliver", POLICE, {"method": "express", "tracking": " \u3000"})
    assert (posted.state, posted.delivery["tracking"]) == (State.DELIVERING, None), "blanks are no number"
    done = await hall.review.act(case.id, "deliver", POLICE, {"method": "window", "tracking": None})
    assert done.state is State.COMPLETED
    set_clock(hall, at(3, 31))
    await hall.sweeps.run()
    assert "case.promise_overdue" in await events_of(hall, case)
    handed_in = await hall.cases.put_material(case.id, case.owner_id, "kin", "a.png", picture())
    assert (handed_in.state, handed_in.open_promises) == (State.COMPLETED, ())


# --- corrections ---


async def test_a_correction_is_judged_when_asked_and_taken_over_when_allowed_and_the_old_answer_is_kept(hall):
    case = await submitted(hall, "injury_identify")
    with pytest.raises(ValidationFailed) as caught:
        await hall.requests.correct(case.id, case.owner_id, {"mobile": "123"}, "打错了")
    assert [row["pointer"] for row in caught.value.errors] == ["/fields/mobile"]
    for fields in ({"mobile": case.form["mobile"]}, {}, {"no_such": "1"}):
        with pytest.raises(ValidationFailed):
            await hall.requests.correct(case.id, case.owner_id, fields, "打错了")
    asked = await hall.requests.correct(case.id, case.owner_id, {"mobile": "138 0000 7777"}, "打错了")
    assert asked.form["mobile"] == case.form["mobile"], "until the answer the old one stands"
    with pytest.raises(ActionNotAllowed):
        await hall.requests.correct(case.id, case.owner_id, {"mobile": "13800008888"}, "又错了")
    await hall.review.act(case.id, "accept", LABOUR, {})
    with pytest.raises(ActionNotAllowed, match="更正"):
        await hall.review.act(case.id, "decide", LABOUR, {"outcome": "approved", "opinion": ""})
    done = await hall.review.act(case.id, "correct", LABOUR, {"approve": True, "reason": ""})
    assert done.form["mobile"] == "13800007777"
    [kept] = done.corrections
    assert (kept.old, kept.outcome) == ({"mobile": case.form["mobile"]}, "approved")
    stored = str(await hall.database["cases"].find_one({"_id": case.id}))
    assert "13800007777" not in stored
    assert "13800007777" not in str(await hall.database["events"].find({}).to_list())


@pytest.mark.parametrize("typed", ["13800009999", "13800007777"])
async def test_what_is_answered_anew_in_a_supplement_is_not_undone_by_an_older_correction(hall, typed):
    case = await submitted(hall, "injury_identify")
    await hall.requests.correct(case.id, case.owner_id, {"mobile": "13800007777"}, "打错了")
    case = await hall.review.act(case.id, "request_supplement", LABOUR, {"missing": [{"key": "mobile", "reason": "空号"}]})
    case = await hall.cases.drafts.save(case.id, case.owner_id, Save({"mobile": typed}, {}, case.version))
    await hall.cases.supplement(case.id, case.owner_id)
    done = await hall.review.act(case.id, "correct", LABOUR, {"approve": True, "reason": ""})
    assert (done.form["mobile"], done.open_correction) == (typed, None)


async def test_a_refused_correction_changes_nothing_and_another_may_be_asked_for(hall):
    case = await submitted(hall, "injury_identify")
    await hall.requests.correct(case.id, case.owner_id, {"mobile": "13800007777"}, "打错了")
    refused = await hall.review.act(case.id, "correct", LABOUR, {"approve": False, "reason": "请先核验号码"})
    assert refused.form == case.form
    again = await hall.requests.correct(case.id, case.owner_id, {"mobile": "13800008888"}, "核验过了")
    assert [asked.outcome for asked in again.corrections] == ["refused", ""]


async def test_a_stranger_corrects_and_promises_nothing(hall):
    case = await submitted(hall, "injury_identify")
    for work in (
        hall.requests.correct(case.id, "res_other", {"mobile": "13800007777"}, "x"),
        hall.requests.promise(case.id, "res_other", []),
        hall.requests.apply_again(case.id, "res_other", "injury_identify", "440203", {}, case_id=new_id("case")),
    ):
        with pytest.raises(CaseNotFound):
            await work


# --- extension, refusal, remedies ---


async def test_the_head_extends_once_before_the_old_day_within_the_law(hall):
    case = await promised(hall, keys=())
    accepted = await hall.review.act(case.id, "accept", MARKET, {})
    assert accepted.deadline_on == date(2026, 3, 10)
    body = {"days": 5, "reason": "需要现场核查"}
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(case.id, "extend", MARKET, body)
    with pytest.raises(ValidationFailed, match="1 处"):
        await hall.review.act(case.id, "extend", MARKET_HEAD, body | {"days": 6})
    extended = await hall.review.act(case.id, "extend", MARKET_HEAD, body)
    assert extended.deadline_on == date(2026, 3, 17)
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(case.id, "extend", MARKET_HEAD, body)
    assert (await events_of(hall, case)).count("case.extended") == 1


async def test_after_the_old_day_nothing_is_extended(hall):
    case = await promised(hall, keys=())
    await hall.review.act(case.id, "accept", MARKET, {})
    set_clock(hall, at(3, 11))
    with pytest.raises(ActionNotAllowed, match="不能延长"):
        await hall.review.act(case.id, "extend", MARKET_HEAD, {"days": 5, "reason": "晚了"})


async def test_an_item_without_a_law_for_it_is_never_extended(hall):
    case = await submitted(hall, "injury_identify")
    await hall.review.act(case.id, "accept", LABOUR, {})
    with pytest.raises(ActionNotAllowed, match="不能延长"):
        await hall.review.act(case.id, "extend", staff_of("sg-rsj", "head"), {"days": 5, "reason": "x"})


async def test_who_is_not_accepted_hears_the_reason_the_rule_the_right_body_and_the_remedy(hall):
    case = await submitted(hall, "injury_identify")
    body = {"reason": "不属于本机关职权", "rule": "工伤保险条例第十七条", "right_body": "乳源县人社局"}
    refused = await hall.review.act(case.id, "reject", LABOUR, body)
    view = await hall.cases.view(refused)
    assert body.items() <= view["refusal"].items()
    assert (view["refusal"]["review_body"], view["refusal"]["review_days"], view["refusal"]["suit_months"]) == (
        "韶关市人民政府",
        60,
        6,
    )
    told = await hall.database["events"].find_one({"name": "case.not_accepted"})
    assert (told["data"]["review_body"], told["data"]["right_body"]) == ("韶关市人民政府", "乳源县人社局")


async def test_a_denial_names_the_bodies_and_customs_is_reviewed_by_its_own_superior(hall):
    case = await submitted(hall, "injury_identify")
    await hall.review.act(case.id, "accept", LABOUR, {})
    denied = await hall.review.act(case.id, "decide", LABOUR, {"outcome": "denied", "opinion": "不符合条件"})
    assert (denied.decision["review_body"], denied.decision["court"]) == ("韶关市人民政府", "有管辖权的基层人民法院")
    other = await submitted(hall, "customs_origin")
    other = await hall.review.act(other.id, "reject", staff_of("sg-hg"), {"reason": "x"})
    assert "上一级主管部门" in other.refusal["review_body"]


async def test_a_pre_review_says_it_is_in_order_and_one_that_finds_gaps_is_the_one_notice(hall):
    case = await submitted(hall, "injury_identify")
    reviewed = await hall.review.act(case.id, "pre_review", LABOUR, {"missing": [], "note": "齐全", "reason": ""})
    assert (reviewed.state, reviewed.pre_review["note"]) == (State.SUBMITTED, "齐全")
    other = await submitted(hall, "injury_identify")
    gaps = {"missing": [{"key": "name", "reason": "请填全名"}], "note": "", "reason": ""}
    noticed = await hall.review.act(other.id, "pre_review", LABOUR, gaps)
    assert (noticed.state, len(noticed.supplements)) == (State.SUPPLEMENT_REQUIRED, 1)


# --- again ---


async def test_applying_again_brings_the_answers_and_materials_of_the_old_case_and_a_retry_makes_one_draft(hall):
    case = await submitted(hall, "injury_identify")
    with pytest.raises(ValidationFailed, match="1 处"):
        await hall.requests.apply_again(case.id, case.owner_id, "injury_identify", "440203", {}, case_id=new_id("case"))
    await hall.review.act(case.id, "reject", LABOUR, {"reason": "x"})
    case_id = new_id("case")
    again = [
        await hall.requests.apply_again(case.id, case.owner_id, "injury_identify", "440203", {}, case_id=case_id)
        for _ in range(3)
    ]
    assert {each.id for each in again} == {case_id}
    assert {each.version for each in again} == {2}
    new, old = again[-1], await hall.cases.get(case.id, case.owner_id)
    assert (new.state, new.from_case) == (State.DRAFT, old.id)
    assert {key: new.form[key] for key in old.form if key not in ("name", "mobile")} == {
        key: old.form[key] for key in old.form if key not in ("name", "mobile")
    }
    assert set(new.materials) == {key for key, held in old.materials.items() if held.get("files")}
    # Taking a file out of the new draft takes nothing away from the old case.
    key = next(iter(new.materials))
    file_id = new.materials[key]["files"][0]["id"]
    await hall.cases.remove_material(new.id, new.owner_id, key, file_id)
    assert (await hall.cases.read_material(old.id, old.owner_id, file_id))[2]


async def test_files_that_are_too_old_are_asked_for_anew_and_another_item_takes_nothing(hall):
    case = await submitted(hall, "injury_identify")
    await hall.cases.withdraw(case.id, case.owner_id)
    with pytest.raises(ValidationFailed):
        await hall.requests.apply_again(case.id, case.owner_id, "driver_renew", "440203", {}, case_id=new_id("case"))
    set_clock(hall, at(10, 2))
    again = await hall.requests.apply_again(case.id, case.owner_id, "injury_identify", "440203", {}, case_id=new_id("case"))
    assert not any(held.get("files") for held in again.materials.values())
    assert again.form["id_number"] == case.form["id_number"]
