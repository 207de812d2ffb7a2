"""An office that says nothing: the worker, started again, finds the day that has passed, and the resident is told once."""

from datetime import timedelta

from app.kernel.clock import today, utc_now
from app.storage.mongo import Database
from tests.journeys.conftest import settled
from tests.journeys.stories import events_of, someone, submitted


async def test_a_case_nobody_answered_is_accepted_by_law_while_workers_die(hall, anyone, clerk):
    resident, _name = await someone(anyone)
    case = await submitted(resident, "injury_identify", {}, {})
    assert (case["state"], case["clock"]["name"]) == ("submitted", "acceptance")
    hall.kill("worker")
    # Ten days go by while no worker runs.
    database = Database(hall.environment["HALL_MONGODB_URI"], hall.environment["HALL_MONGODB_DATABASE"])
    past, long_ago = (today() - timedelta(days=3)).isoformat(), utc_now() - timedelta(days=10)
    days = {"accept_by_on": past, "look_on": past, "due_on": past, "received_at": long_ago}
    await database["cases"].update_one({"_id": case["id"]}, {"$set": days})
    await database.close()
    for _ in range(3):
        hall.start("worker")
        await resident.until(f"/v1/cases/{case['id']}", lambda answer: answer["state"] == "accepted")
        hall.kill("worker")
    hall.start("worker")
    accepted = await resident.get(f"/v1/cases/{case['id']}")
    assert accepted["is_deemed_accepted"]
    assert accepted["clock"]["due_on"] == accepted["deadline_on"]
    officer = await clerk("sg-rsj")
    decided = await officer.act(case["id"], "decide", outcome="denied", opinion="不符合条件")
    assert decided["decision"]["review_body"] == "韶关市人民政府"
    # An event whose relay died comes again after its lease of 30 s.
    await resident.until("/v1/notifications", lambda answer: {"case.submitted", "case.denied"} <= set(events_of(answer["items"])), 60)
    inbox = [name for name in events_of(await settled(resident)) if name.startswith("case.")]
    assert sorted(inbox) == ["case.deemed_accepted", "case.denied", "case.submitted"]
