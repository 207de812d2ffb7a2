"""What rules decide at once, when they leave it to people, and the sample that is looked at afterwards."""

import asyncio
import itertools
from datetime import UTC, datetime

import pytest
from bson import encode

from app.cases import auto_decision
from app.cases.drafts import Save
from app.cases.errors import ActionNotAllowed, Incomplete
from app.cases.model import State
from app.identity import store
from app.kernel.errors import error_row
from app.kernel.ids import new_id
from commands.story import id_number, picture
from tests.app.cases.handled import a_person, events_of, opened, set_clock, staff_of

BEGIN = datetime(2026, 11, 10, 2, tzinfo=UTC)
_seeds = itertools.count(7)


async def verified(hall, number, name="张示例"):
    resident_id = await a_person(hall)
    sealed = store.sealed_fields(
        hall.keys, resident_id, {"name": name, "id_number": number}
    )
    await hall.database["residents"].update_one({"_id": resident_id}, {"$set": sealed})
    return resident_id


async def id_card(hall, owner, **changes):
    row = {
        "_id": new_id("lic"), "event_id": new_id("evt"), "holder_id": owner, "type": "LIC-IDCARD", "name": "居民身份证", "number": "1",
        "issuer_id": "sg-gaj", "issuer": "公安局", "issued_on": "2026-01-01", "valid_to": None, "state": "valid", "case_id": "case_0",
    }  # fmt: skip
    await hall.database["licences"].insert_one(row | changes)
    return row["_id"]


async def ready(hall, *, name="张示例", with_licence=True, **fields):
    """A draft of 失业登记 by somebody whose identity is verified, with the identity card from the wallet or as a picture."""
    set_clock(hall, BEGIN)
    number = id_number(next(_seeds))
    owner = await verified(hall, number)
    case = await opened(hall, "unemployment_register", owner)
    case = await hall.cases.drafts.save(
        case.id,
        owner,
        Save({"name": name, "id_number": number, **fields}, {}, case.version),
    )
    if with_licence:
        await hall.cases.put_licence(
            case.id, owner, "id_card", await id_card(hall, owner)
        )
    else:
        await hall.cases.put_material(case.id, owner, "id_card", "a.png", picture())
    return await hall.cases.get(case.id, owner)


async def test_what_is_sure_is_decided_at_once_with_the_reasons_written_down(hall):
    draft = await ready(hall)
    case = await hall.cases.submit(draft.id, draft.owner_id, command="c")
    assert case.state is State.COMPLETED and case.decision["is_automatic"]
    assert (await events_of(hall, case))[1:] == [
        "case.submitted",
        "case.accepted",
        "case.approved",
        "case.completed",
    ]
    assert (case.auto["rule_set"], case.auto["version"], case.auto["doubts"]) == (
        "unemployment_register",
        1,
        [],
    )
    assert len(case.auto["facts"]) == 4 and all(
        fact["holds"] for fact in case.auto["facts"]
    )
    assert (
        "失业登记" in case.decision["opinion"]
        and "unemployment_register" not in case.decision["opinion"]
        and "第1版" in case.decision["opinion"]
    )
    stored = await hall.database["cases"].find_one(
        {"_id": case.id}, {"auto": 1, "timeline": 1, "decision": 1}
    )
    kept = encode(stored)
    assert (
        draft.form["id_number"].encode() not in kept and "张示例".encode() not in kept
    ), "what the rules looked at is kept masked"
    again = await hall.cases.submit(draft.id, draft.owner_id, command="c")
    assert again.version == case.version, "sent again, nothing happens again"
    assert case.accepted_at <= case.decided_at <= case.completed_at


async def test_any_doubt_goes_to_a_person_who_sees_it(hall):
    clerk = staff_of("sg-rsj")
    for draft, why in (
        (await ready(hall, with_licence=False), "不是有效的电子证照"),
        (await ready(hall, name="李某"), "与实名信息不一致"),
    ):
        case = await hall.cases.submit(draft.id, draft.owner_id)
        assert case.state is State.SUBMITTED and case.decision is None
        seen = await hall.review.view(case, clerk)
        assert any(why in doubt for doubt in seen["auto"]["doubts"]), seen["auto"]
        assert "auto" not in await hall.cases.view(case)
        await hall.review.act(case.id, "accept", clerk, {})
        assert (
            await hall.review.act(
                case.id, "decide", clerk, {"outcome": "approved", "opinion": ""}
            )
        ).state is State.COMPLETED


async def test_what_looks_wrong_on_the_form_is_a_doubt(hall):
    draft = await ready(hall)
    item = hall.catalogue.item("unemployment_register")
    evidence = auto_decision.Evidence(
        "张示例",
        draft.form["id_number"],
        {draft.materials["id_card"]["licence_id"]: "LIC-IDCARD"},
    )
    assert auto_decision.judged(draft, item, evidence, list, BEGIN).auto["doubts"] == []
    advice = [error_row("/form/wish", "unusual", "看起来不对")]
    assert auto_decision.judged(draft, item, evidence, lambda: advice, BEGIN).auto[
        "doubts"
    ] == ["表单提示：看起来不对"]


async def test_the_applicant_may_ask_for_a_person(hall):
    draft = await ready(hall)
    case = await hall.cases.submit(draft.id, draft.owner_id, by_person=True)
    assert case.state is State.SUBMITTED and case.by_person
    assert "申请人要求由工作人员办理" in case.auto["doubts"]


async def test_a_licence_that_was_annulled_meanwhile_decides_nothing(hall):
    draft = await ready(hall)
    await hall.database["licences"].update_many(
        {"holder_id": draft.owner_id}, {"$set": {"state": "annulled"}}
    )
    with pytest.raises(Incomplete):
        await hall.cases.submit(draft.id, draft.owner_id)


async def test_only_items_whose_data_carries_rules_are_decided_by_rules(hall):
    by_rules = {
        item["alias"]
        for item in hall.catalogue.snapshot.items
        if item.get("auto_rules")
    }
    assert by_rules == {"unemployment_register", "tax_paid_cert"}
    set_clock(hall, BEGIN)
    owner = await verified(hall, id_number(next(_seeds)))
    case = await opened(
        hall, "pension_cert", owner
    )  # auto_decide, and nothing to upload: no rules, so people
    assert (await hall.cases.submit(case.id, owner)).state is State.SUBMITTED


async def test_the_share_that_is_looked_at_is_the_share_and_always_the_same():
    ids = [new_id("case") for _ in range(20_000)]
    drawn = [auto_decision.is_sampled(case_id, 5) for case_id in ids]
    assert drawn == [auto_decision.is_sampled(case_id, 5) for case_id in ids]
    assert 0.04 < sum(drawn) / len(drawn) < 0.06
    assert not any(auto_decision.is_sampled(case_id, 0) for case_id in ids)
    assert all(auto_decision.is_sampled(case_id, 100) for case_id in ids)


async def test_a_head_looks_at_the_sample_once(hall, monkeypatch):
    monkeypatch.setattr(auto_decision, "is_sampled", lambda _case_id, _percent: True)
    head, clerk = staff_of("sg-rsj", "head"), staff_of("sg-rsj")
    draft = await ready(hall)
    case = await hall.cases.submit(draft.id, draft.owner_id)
    listed, cursor = await hall.review.samples(head)
    assert ([row.id for row in listed], cursor) == ([case.id], None)
    assert (await hall.review.samples(staff_of("sg-gaj", "head")))[0] == []
    finding = {"finding": "wrong", "note": "年龄算错"}
    with pytest.raises(ActionNotAllowed):
        await hall.review.act(case.id, "audit_sample", clerk, finding)
    results = await asyncio.gather(
        *(hall.review.act(case.id, "audit_sample", head, finding) for _ in range(3)),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert (await hall.review.samples(head))[0] == []
    [done] = (await hall.review.samples(head, state="done"))[0]
    assert (done.sample["finding"], done.sample["by"], done.state) == (
        "wrong",
        head.account,
        State.COMPLETED,
    )
