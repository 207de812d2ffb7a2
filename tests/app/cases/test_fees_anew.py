"""Answers that change while a notice is open: the fees follow them, and nobody pays for one thing and gets another."""

from datetime import UTC, datetime, timedelta

import pytest

from app.cases.drafts import Save
from app.cases.errors import Incomplete
from app.cases.model import State
from app.kernel.ids import new_id
from commands.story import picture
from tests.app.cases.handled import set_clock, staff_of, submitted

NOW = datetime(2026, 3, 2, 2, tzinfo=UTC)


async def noticed(hall, alias, answers, key="mobile"):
    """A case that waits for a supplement, a day after its notice."""
    set_clock(hall, NOW)
    case = await submitted(hall, alias, answers)
    missing = [{"key": key if key != "mobile" else next(field["key"] for field in hall.catalogue.item(alias)["form"]), "reason": "请核对"}]
    case = await hall.review.act(case.id, "request_supplement", staff_of(case.agency_id), {"missing": missing})
    set_clock(hall, NOW + timedelta(days=1))
    return case


async def brought(hall, case, answers):
    case = await hall.cases.drafts.save(case.id, case.owner_id, Save({}, answers, case.version))
    for row in (await hall.cases.view(case))["materials"]:
        if row["status"] == "missing":
            case = await hall.cases.put_material(case.id, case.owner_id, row["key"], "a.png", picture())
    return await hall.cases.supplement(case.id, case.owner_id)


async def test_what_was_paid_for_is_not_exchanged_for_something_dearer(hall):
    case = await noticed(hall, "hkm_endorse", {"entries": "1"})
    with pytest.raises(Incomplete) as refused:
        await brought(hall, case, {"entries": "m"})
    assert [(row["pointer"], row["code"]) for row in refused.value.errors] == [("/answers/entries", "fee_paid")]
    case = await hall.cases.get(case.id, case.owner_id)
    case = await brought(hall, case, {"entries": "1"})
    assert (case.state, [(fee.key, fee.state) for fee in case.fees]) == (State.SUBMITTED, [("e1", "paid")])


async def test_a_fee_that_is_not_due_yet_follows_the_answers(hall):
    case = await noticed(hall, "id_card_renew", {"reason": "expire"})
    case = await brought(hall, case, {"reason": "damage"})
    assert [(fee.key, fee.amount_fen, fee.state) for fee in case.fees] == [("damage", 4000, "pending")]


async def test_what_comes_on_top_is_asked_for_before_the_office_goes_on(hall):
    case = await noticed(hall, "passport", {"kind": "first"})
    assert [fee.key for fee in case.fees if fee.state == "paid"] == [fee.key for fee in case.fees]
    case = await brought(hall, case, {"kind": "note"})
    assert (case.state, sum(fee.amount_fen for fee in case.due_fees)) == (State.AWAITING_PAYMENT, 2000)
    await hall.cases.fee_paid(case.id, new_id("ord"))
    case = await hall.cases.get(case.id, case.owner_id)
    assert (case.state, {fee.state for fee in case.fees}) == (State.SUBMITTED, {"paid"})


async def test_a_material_that_the_answers_need_no_more_is_not_waited_for(hall):
    case = await noticed(hall, "food_licence", {"form": "catering"}, "health")
    case = await brought(hall, case, {"form": "sale"})
    assert case.state is State.SUBMITTED
