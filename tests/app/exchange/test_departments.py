"""The department adapter against a server that answers whatever the test wants: nothing wrong is ever taken for an answer."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from app.exchange.departments import BillNotFound, Departments, InputsRefused, Office, PaymentRefused
from app.kernel import context
from app.kernel.errors import ProviderUnavailable
from app.platforms.http import HttpClient

OFFICE = Office("sg-jj", "韶关市公安局交通警察支队", "12345")
BILL = {
    "id": "bill-1",
    "kind": "traffic_fine",
    "title": "违停",
    "amount_fen": 10000,
    "late_fee_fen": 300,
    "due_on": "2026-11-23",
    "payee": {"agency": "sg-jj", "name": "交警支队"},
    "state": "unpaid",
}
FOUND = {"as_of": "2026-11-23T06:00:00Z", "source": "交警系统", "records": [], "bills": [BILL]}
AT = datetime(2026, 11, 23, 6, tzinfo=UTC)


class Says(RequestHandler):
    """Answers what `says` holds, and keeps what came."""

    async def _any(self) -> None:
        app: Any = self.application
        app.came.append((self.request.method, self.request.path, dict(self.request.headers), self.request.body))
        status, body, delay_s = app.says
        await asyncio.sleep(delay_s)
        self.set_status(status)
        self.finish(body if isinstance(body, bytes) else orjson.dumps(body))

    get = post = _any


@pytest.fixture
async def office() -> AsyncIterator[Any]:
    socket, port = bind_unused_port()
    app: Any = Application([(r".*", Says)], log_function=lambda _handler: None)
    app.came, app.says = [], (200, FOUND, 0)
    server = HTTPServer(app)
    server.add_socket(socket)
    http = HttpClient()
    app.departments = Departments(http, f"http://127.0.0.1:{port}/departments/", timeout_s=0.5)
    yield app
    await http.close()
    server.stop()
    await server.close_all_connections()


async def test_questions_go_out_as_agreed_and_carry_the_request_id(office):
    context.request_id.set("req_test_1234")
    found = await office.departments.lookup_bills(OFFICE, "traffic_fine", {"decision_no": "4402031900000015"})
    assert found.as_of == "2026-11-23T06:00:00Z"
    assert found.bills[0].late_fee_fen == 300
    method, path, headers, body = office.came[0]
    assert (method, path) == ("POST", "/departments/bills/lookup")
    assert headers["X-Request-Id"] == "req_test_1234"
    assert orjson.loads(body) == {"kind": "traffic_fine", "keys": {"decision_no": "4402031900000015"}}


async def test_a_check_sends_the_verified_person(office):
    person = {"name": "张三", "id_number": "44020019000101001X"}
    await office.departments.check(OFFICE, "licence_points", {}, person)
    _method, path, _headers, body = office.came[0]
    assert path == "/departments/checks/licence_points"
    assert orjson.loads(body) == {"inputs": {}, "person": person}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in FOUND.items() if key != name}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, FOUND),
        (503, b""),
        (404, {}),
        (302, b""),
        (200, b""),
        (200, b"<html>"),
        (200, "系统忙{{".encode("gb18030")),
        (200, []),
        (200, None),
        (200, {}),
        (200, without("bills")),  # "bills" missing is not "no bills"
        (200, without("as_of")),
        (200, without("source")),
        (200, FOUND | {"as_of": "yesterday"}),
        (200, FOUND | {"as_of": "2026-11-23T06:00:00"}),  # whose clock?
        (200, FOUND | {"bills": None}),
        (200, FOUND | {"bills": [BILL | {"amount_fen": "10000"}]}),
        (200, FOUND | {"bills": [BILL | {"amount_fen": 100.5}]}),
        (200, FOUND | {"bills": [BILL | {"amount_fen": -1}]}),
        (200, FOUND | {"bills": [BILL | {"state": "perhaps"}]}),
        (200, FOUND | {"bills": [BILL | {"due_on": "soon"}]}),
        (200, FOUND | {"bills": [BILL | {"id": "../../etc"}]}),
    ],
)
async def test_whatever_is_not_an_answer_is_unavailable_with_the_way_out(office, status, body):
    office.says = (status, body, 0)
    for ask in (
        office.departments.lookup_bills(OFFICE, "traffic_fine", {}),
        office.departments.check(OFFICE, "traffic_violation", {}, None),
    ):
        with pytest.raises(ProviderUnavailable) as caught:
            await ask
        assert OFFICE.name in caught.value.detail
        assert OFFICE.hotline in caught.value.detail
        assert caught.value.retry_after_s > 0


async def test_slow_is_unavailable(office):
    office.says = (200, FOUND, 2)
    with pytest.raises(ProviderUnavailable):
        await office.departments.bill(OFFICE, "bill-1")


async def test_new_fields_of_a_department_do_no_harm(office):
    office.says = (200, FOUND | {"more": 1, "bills": [BILL | {"colour": "red"}]}, 0)
    assert (await office.departments.lookup_bills(OFFICE, "traffic_fine", {})).bills[0].id == "bill-1"


async def test_one_bill(office):
    office.says = (200, {"as_of": FOUND["as_of"], "source": "x"} | BILL, 0)
    assert (await office.departments.bill(OFFICE, "bill-1")).amount_fen == 10000
    with pytest.raises(ProviderUnavailable):
        await office.departments.bill(OFFICE, "bill-2")  # it answers with another bill
    office.says = (404, {"code": "not_found"}, 0)
    with pytest.raises(BillNotFound):
        await office.departments.bill(OFFICE, "a/b?c")
    assert office.came[-1][1] == "/departments/bills/a%2Fb%3Fc"


async def test_refused_inputs_are_named(office):
    office.says = (422, {"code": "inputs_incomplete", "fields": ["inputs.vin_last6"]}, 0)
    with pytest.raises(InputsRefused) as caught:
        await office.departments.check(OFFICE, "traffic_violation", {}, None)
    assert caught.value.fields == ("vin_last6",)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (409, {"code": "already_paid"}, PaymentRefused),
        (422, {"code": "wrong_amount"}, PaymentRefused),
        (404, {"code": "not_found"}, BillNotFound),
        (500, {}, ProviderUnavailable),
        (200, {"accepted": False}, ProviderUnavailable),
        (200, {}, ProviderUnavailable),
    ],
)
async def test_payments_are_taken_refused_or_to_be_told_again(office, status, body, error):
    office.says = (status, body, 0)
    with pytest.raises(error):
        await _pay(office)


async def test_a_taken_payment_gives_a_receipt_number(office):
    office.says = (200, {"accepted": True, "receipt_no": "R1"}, 0)
    assert await _pay(office) == "R1"
    assert orjson.loads(office.came[0][3]) == {
        "payment_id": "ord_1.bill-1",
        "amount_fen": 10000,
        "late_fee_fen": 300,
        "paid_at": "2026-11-23T06:00:00Z",
        "provider_trade_no": "T1",
    }


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (409, {"code": "unknown_payment"}, PaymentRefused),
        (422, {"code": "wrong_amount"}, PaymentRefused),
        (422, [], PaymentRefused),
        (404, {"code": "not_found"}, BillNotFound),
        (500, {}, ProviderUnavailable),
        (200, {"accepted": "yes"}, ProviderUnavailable),
        (200, b"<html>", ProviderUnavailable),
    ],
)
async def test_refunds_are_acknowledged_refused_or_to_be_told_again(office, status, body, error):
    office.says = (status, body, 0)
    with pytest.raises(error):
        await _refund(office)


async def test_a_refund_names_its_payment(office):
    office.says = (200, {"accepted": True}, 0)
    await _refund(office)
    assert office.came[0][1] == "/departments/bills/bill-1/refunds"
    told = {"refund_id": "rfd_1.bill-1", "payment_id": "ord_1.bill-1", "amount_fen": 300, "refunded_at": "2026-11-23T06:00:00Z"}
    assert orjson.loads(office.came[0][3]) == told


@pytest.mark.parametrize(
    ("more", "masked", "deadline"),
    [
        ({}, "", None),
        ({"payer_name_masked": "张**"}, "张**", None),
        ({"payer_name_masked": "欧阳娜娜"}, "欧***", None),  # a department that forgets to mask
        ({"hard_deadline": "2026-11-29T00:00:00+08:00"}, "", "2026-11-28T16:00:00Z"),
    ],
)
async def test_what_else_a_bill_may_say(office, more, masked, deadline):
    office.says = (200, BILL | more, 0)
    bill = await office.departments.bill(OFFICE, "bill-1")
    assert (bill.payer_masked, bill.hard_deadline) == (masked, deadline)


@pytest.mark.parametrize("wrong", [{"due_on": "2026-02-30"}, {"hard_deadline": "2026-11-29"}, {"payer_name_masked": 5}])
async def test_days_that_do_not_exist_are_no_answer(office, wrong):
    office.says = (200, BILL | wrong, 0)
    with pytest.raises(ProviderUnavailable):
        await office.departments.bill(OFFICE, "bill-1")


async def _refund(office: Any) -> None:
    await office.departments.report_refund(
        OFFICE, "bill-1", refund_id="rfd_1.bill-1", payment_id="ord_1.bill-1", amount_fen=300, refunded_at=AT
    )


async def _pay(office: Any) -> str:
    receipt: str = await office.departments.report_payment(
        OFFICE,
        "bill-1",
        payment_id="ord_1.bill-1",
        amount_fen=10000,
        late_fee_fen=300,
        paid_at=AT,
        provider_trade_no="T1",
    )
    return receipt
