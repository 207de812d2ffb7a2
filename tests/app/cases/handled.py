"""Cases carried along through the service, at any moment of a clock that the test holds."""

import itertools
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.cases.drafts import Save
from app.cases.model import Case, State
from app.identity import store
from app.identity.model import StaffSession
from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from commands.story import picture, sample_form

_phones = itertools.count(13800000100)


def staff_of(agency: str, role: str = "clerk") -> StaffSession:
    return StaffSession(f"{role}.{agency}", "工作人员", role, agency)


def set_clock(hall: Any, moment: datetime) -> None:
    """Let everything that handles cases believe that it is this moment."""
    for part in (hall.cases, hall.cases.drafts, hall.review, hall.requests, hall.sweeps):
        part._clock = lambda: moment


async def a_resident(hall: Any) -> str:
    """A resident at L4, all with the same phone."""
    resident_id = new_id("res")
    document = store.new_resident(resident_id, utc_now()) | {"level": 4}
    await hall.database["residents"].insert_one(
        document | store.sealed_fields(hall.keys, resident_id, {"name": "张示例", "phone": "13800000001"})
    )
    return resident_id


async def a_person(hall: Any) -> str:
    """A resident at L4 with a phone of their own."""
    resident_id = new_id("res")
    sealed = store.sealed_fields(hall.keys, resident_id, {"name": "张示例", "phone": str(next(_phones))})
    await hall.database["residents"].insert_one(store.new_resident(resident_id, utc_now()) | {"level": 4} | sealed)
    return resident_id


async def opened(hall: Any, alias: str, resident_id: str, answers: Mapping[str, Any] | None = None) -> Case:
    item = hall.catalogue.item(alias)
    first = {situation["key"]: situation["options"][0]["value"] for situation in item["situations"]}
    case = await hall.cases.drafts.open(resident_id, alias, "440203", {**first, **(answers or {})}, case_id=new_id("case"))
    fields = [field for field in item["form"] if "computed" not in field]
    return await hall.cases.drafts.save(case.id, resident_id, Save(sample_form(fields), {}, case.version))


async def with_materials(hall: Any, case: Case, leave_out: tuple[str, ...] = ()) -> Case:
    for row in (await hall.cases.view(case))["materials"]:
        if row["status"] == "missing" and row["key"] not in leave_out:
            case = await hall.cases.put_material(case.id, case.owner_id, row["key"], "a.png", picture())
    return case


async def submitted(hall: Any, alias: str, answers: Mapping[str, Any] | None = None) -> Case:
    """A case handed in with everything it needs, its fee due then paid."""
    case = await with_materials(hall, await opened(hall, alias, await a_person(hall), answers))
    return await paid(hall, await hall.cases.submit(case.id, case.owner_id))


async def paid(hall: Any, case: Case) -> Case:
    """The fee has come, if one is due."""
    if case.state is State.AWAITING_PAYMENT:
        await hall.cases.fee_paid(case.id, new_id("ord"))
    return await hall.cases.get(case.id, case.owner_id)


async def events_of(hall: Any, case: Case) -> list[str]:
    """The names of the events of a case, in order."""
    found = await hall.database["events"].find({"subject_id": case.id}).sort("_id", 1).to_list()
    return [event["name"] for event in found]
