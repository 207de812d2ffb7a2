"""What a clerk's system may send and nobody means: days at the end of time, reasons of blanks. Never a 500, never a refusal without a reason."""

import pytest

from app.cases.model import State
from tests.handlers.test_staff_desk import desk, handed_in, world  # noqa: F401


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
async def test_a_list_of_before_the_beginning_or_of_all_time_is_a_list(desk, day):  # noqa: F811
    await handed_in(desk)
    answer = await desk.call("clerk", "GET", f"/staff/v1/tasks?submitted_before={day}")
    assert (answer.status, bool(answer.json.get("items"))) == (200, day > "2026"), answer.json
    assert answer.json["counts"]["total"] == len(answer.json["items"])


async def test_blanks_are_no_reason(desk):  # noqa: F811
    case = await handed_in(desk)
    for action, body in {
        "reject": {"reason": " "},
        "request_supplement": {"missing": [{"key": "mobile", "reason": "\u3000"}]},
        "transfer": {"agency_id": "sg-gaj-wj", "reason": "\n"},
    }.items():
        answer = await desk.call("clerk", "POST", f"/staff/v1/cases/{case.id}/{action}", body)
        assert answer.status == 422, (action, answer.json)
        assert answer.json["errors"][0]["pointer"].endswith("/reason")
    assert (await desk.hall.cases.store.load({"_id": case.id})).state is State.SUBMITTED
