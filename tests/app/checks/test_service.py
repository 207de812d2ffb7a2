"""查: levels, inputs, honest answers, what is recorded and what is kept."""

from types import SimpleNamespace

import pytest

from app.checks.errors import CheckKindNotFound
from app.checks.service import LOOKUPS_AT_MOST, LOOKUPS_IN_S, Checks
from app.identity.errors import LevelRequired
from app.kernel.errors import ProviderUnavailable, RateLimited, ValidationFailed
from tests.app.checks.conftest import LI, WANG, ZHANG, Desk

PLATE = {"plate": "粤F00001", "vin_last6": "000001"}


def pointers(caught) -> dict[str, str]:
    return {row["pointer"]: row["code"] for row in caught.value.errors}


async def test_every_kind_names_its_inputs_level_and_agency(desk: Desk):
    kinds = desk.checks.kinds()
    by_kind = {row["kind"]: row for row in kinds["items"]}
    assert set(by_kind) == {
        *("traffic_violation", "licence_points", "vehicle_status", "social_insurance", "housing_fund"),
        *("id_card_progress", "exit_entry_progress", "appointment", "medical_insurance"),
    }
    assert by_kind["traffic_violation"]["agency"]["name"] == "韶关市公安局交通警察支队"
    assert [field["key"] for field in by_kind["traffic_violation"]["inputs"]] == ["plate", "vin_last6", "driver_file_no"]
    assert len(kinds["bill_kinds"]) == 11


async def test_fines_are_found_by_plate_with_time_source_and_records(desk: Desk):
    answer = await desk.checks.run("traffic_violation", PLATE, await desk.resident())
    assert {bill["id"] for bill in answer["bills"]} == {"bill-tf-1", "bill-tf-2"}
    bill = answer["bills"][0]
    assert set(bill) >= {"id", "kind", "title", "amount_fen", "late_fee_fen", "due_on", "payee"}
    assert bill["payee"] == "韶关市公安局交通警察支队（示例）"
    assert answer["kind"] == "traffic_violation"
    assert answer["as_of"].endswith("Z")
    assert answer["source"]
    assert answer["records"][0]["rows"]


async def test_what_can_be_paid_stands_apart_from_what_is_settled(desk: Desk):
    answer = await desk.checks.lookup_bills("traffic_fine", {}, await desk.resident(LI))
    assert [bill["id"] for bill in answer["bills"]] == ["bill-tf-3"]
    assert [(bill["id"], bill["state"]) for bill in answer["other_bills"]] == [("bill-tf-4", "paid")]


@pytest.mark.parametrize(
    "kind", ["licence_points", "social_insurance", "housing_fund", "id_card_progress", "exit_entry_progress", "medical_insurance"]
)
async def test_ones_own_matters_need_no_typing(desk: Desk, kind):
    answer = await desk.checks.run(kind, {}, await desk.resident())
    assert answer["records"][0]["rows"]
    assert answer["bills"] == []


async def test_too_low_a_level_is_told_before_anything_is_asked(desk: Desk):
    resident = await desk.resident(level=2)
    with pytest.raises(LevelRequired):
        await desk.checks.run("social_insurance", {}, resident)
    with pytest.raises(LevelRequired):
        await desk.checks.lookup_bills("traffic_fine", {"decision_no": "4402031900000015"}, resident)
    assert await desk.database["audit"].count_documents({}) == 0
    assert (await desk.checks.lookup_bills("water", {"account": "44020000101"}, resident))["bills"]


async def test_wrong_inputs_are_told_all_at_once_with_pointers(desk: Desk):
    resident = await desk.resident()
    with pytest.raises(ValidationFailed) as caught:
        await desk.checks.run("traffic_violation", {"plate": "ABC", "vin_last6": "12", "driver_file_no": "x", "dog": 1}, resident)
    assert pointers(caught) == {
        "/inputs/plate": "invalid",
        "/inputs/vin_last6": "invalid",
        "/inputs/driver_file_no": "invalid",
        "/inputs/dog": "unknown",
    }
    with pytest.raises(ValidationFailed) as caught:
        await desk.checks.lookup_bills("traffic_fine", {"decision_no": "123"}, resident)
    assert pointers(caught) == {"/inputs/decision_no": "invalid"}
    with pytest.raises(ValidationFailed) as caught:
        await desk.checks.lookup_bills("nontax", {}, resident)
    assert pointers(caught) == {"/inputs/pay_code": "required"}
    with pytest.raises(ValidationFailed) as caught:
        await desk.checks.lookup_bills("bribe", {}, resident)
    assert pointers(caught) == {"/kind": "unknown"}
    with pytest.raises(CheckKindNotFound):
        await desk.checks.run("rumour", {}, resident)


async def test_a_department_that_wants_more_says_what(desk: Desk):
    with pytest.raises(ValidationFailed) as caught:
        await desk.checks.run("traffic_violation", {"plate": "粤F00001"}, await desk.resident())
    assert pointers(caught) == {"/inputs/vin_last6": "required"}
    with pytest.raises(ValidationFailed) as caught:
        await desk.checks.lookup_bills("traffic_fine", {"plate": "粤F00001"}, await desk.resident())
    assert pointers(caught) == {"/inputs/driver_file_no": "required"}


@pytest.mark.parametrize("plate", ["粤F0DOWN", "粤F0SLOW", "粤F0JUNK"])
@pytest.mark.parametrize("more", [{}, {"vin_last6": "000001"}])
async def test_a_department_on_a_bad_day_is_never_taken_for_nothing_found(desk: Desk, plate, more):
    resident = await desk.resident()
    for ask in (
        desk.checks.run("traffic_violation", {"plate": plate, **more}, resident),
        desk.checks.lookup_bills("traffic_fine", {"plate": plate, **more}, resident),
    ):
        with pytest.raises(ProviderUnavailable) as caught:
            await ask
        assert "不代表没有" in caught.value.detail
        assert "12345" in caught.value.detail
        assert "交通警察支队" in caught.value.detail


async def test_somebody_elses_fines_by_number_are_not_shown(desk: Desk):
    with pytest.raises(ValidationFailed) as caught:
        await desk.checks.lookup_bills("traffic_fine", {"id_number": LI[1], "name": LI[0]}, await desk.resident(ZHANG))
    assert pointers(caught) == {"/inputs/id_number": "not_own"}


async def test_a_family_members_insurance_can_be_paid(desk: Desk):
    resident = await desk.resident(ZHANG)
    inputs = {"id_number": WANG[1], "name": WANG[0], "year": 2027}
    answer = await desk.checks.lookup_bills("medins_resident", inputs, resident)
    assert [bill["id"] for bill in answer["bills"]] == ["bill-mr-1"]
    own = await desk.checks.lookup_bills("medins_resident", {"year": "2027"}, await desk.resident(WANG))
    assert [bill["id"] for bill in own["bills"]] == ["bill-mr-1"]


async def test_every_question_is_recorded_with_its_purpose_and_without_what_was_typed(desk: Desk):
    resident = await desk.resident()
    await desk.checks.run("traffic_violation", PLATE, resident)
    await desk.checks.lookup_bills("water", {"account": "44020000101"}, resident)
    entries = await desk.database["audit"].find({"actor": resident}).sort("_id").to_list()
    assert [(entry["action"], entry["subject"].partition(".")[2]) for entry in entries] == [
        ("check.asked", "traffic_violation"),
        ("bills.looked_up", "water"),
    ]
    assert all(entry["purpose"] for entry in entries)
    assert "粤F00001" not in str(entries)
    assert "44020000101" not in str(entries)


async def test_answers_are_kept_a_minute_sealed_and_per_resident(desk: Desk, redis):
    resident, other = await desk.resident(), await desk.resident(LI)
    first = await desk.checks.run("housing_fund", {}, resident)
    key = f"checks:{{{resident}}}"
    [sealed] = (await redis.hgetall(key)).values()
    assert "公积金" not in sealed
    assert 0 < await redis.ttl(key) <= 60
    await desk.running.stop()  # the department is gone: only what is kept can answer
    assert await desk.checks.run("housing_fund", {}, resident) == first
    with pytest.raises(ProviderUnavailable):
        await desk.checks.run("housing_fund", {}, other)


async def test_answers_with_bills_are_never_kept(desk: Desk, redis):
    resident = await desk.resident()
    await desk.checks.run("traffic_violation", PLATE, resident)
    assert not await redis.exists(f"checks:{{{resident}}}")


async def test_without_redis_everything_works(desk: Desk, snapshot):
    catalogue = SimpleNamespace(snapshot=snapshot)
    checks = Checks(
        desk.database, None, desk.keys, catalogue=catalogue, departments=desk.departments, people=desk.identity
    )
    assert (await checks.run("housing_fund", {}, await desk.resident()))["records"]


async def test_the_halls_own_check_answers_with_number_and_code(desk: Desk, snapshot):
    async def progress(number: str, code: str):
        assert (number, code) == ("4402-CASE-0001", "ABCD2345")
        return {
            "number": number,
            "state_name": "审查中",
            "item": {"name": "居民身份证丢失补领"},
            "agency": {"name": "韶关市公安局"},
            "next": {"text": "您不用做什么。"},
            "deadline_on": "2026-12-07",
            "deadline_estimated": False,
        }

    catalogue = SimpleNamespace(snapshot=snapshot)
    checks = Checks(
        desk.database,
        None,
        desk.keys,
        catalogue=catalogue,
        departments=desk.departments,
        people=desk.identity,
        progress=progress,
    )
    resident = await desk.resident(level=1)
    answer = await checks.run("case_progress", {"case_number": "4402-CASE-0001", "query_code": "abcd2345"}, resident)
    assert answer["records"][0]["state"] == "审查中"
    with pytest.raises(CheckKindNotFound):
        await desk.checks.run("case_progress", {}, resident)


async def test_codes_are_not_tried_one_after_the_other(desk: Desk):
    resident = await desk.resident()
    for serial in range(LOOKUPS_AT_MOST):
        await desk.checks.lookup_bills("nontax", {"pay_code": f"4402002600000{serial:07d}"}, resident)
    with pytest.raises(RateLimited) as caught:
        await desk.checks.lookup_bills("nontax", {"pay_code": "44020026000000002010"}, resident)
    assert 1 <= caught.value.retry_after_s <= LOOKUPS_IN_S
    assert await desk.checks.lookup_bills("nontax", {"pay_code": "44020026000000002010"}, await desk.resident(LI))
