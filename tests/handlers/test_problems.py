"""What is wrong with a body or a query is said in Chinese, whatever validator found it."""

import re

import pytest
from marshmallow import Schema, fields, validate

from app.kernel.errors import ValidationFailed
from handlers.problems import judged


class Everything(Schema):
    text = fields.String(validate=validate.Length(2, 4))
    long = fields.String(validate=validate.Length(max=4))
    short = fields.List(fields.String(), validate=validate.Length(min=1))
    exact = fields.String(validate=validate.Length(equal=3))
    choice = fields.String(validate=validate.OneOf(["hmac-sm3", "hmac-sha256"]))
    choices = fields.List(fields.String(), validate=validate.ContainsOnly(["a", "b"]))
    number = fields.Integer(validate=validate.Range(1, 100))
    least = fields.Integer(validate=validate.Range(min=1))
    most = fields.Integer(validate=validate.Range(max=9))
    pattern = fields.String(validate=validate.Regexp(r"[a-z]+\Z"))
    moment = fields.AwareDateTime()
    time = fields.Time()
    address = fields.Email()
    url = fields.Url()


WRONG = {
    "text": "x", "long": "x" * 5, "short": [], "exact": "x", "choice": "md5", "choices": ["c"], "number": 0, "least": 0, "most": 10, "pattern": "1",
    "moment": "2026-11-23T06:00:00", "time": "later", "address": "nobody", "url": "nowhere",
}  # fmt: skip


@pytest.mark.parametrize("name", [*WRONG, "text type", "unknown"])
def test_it_is_said_in_chinese(name: str) -> None:
    data = {"text": 5} if name == "text type" else {"nobody": 1} if name == "unknown" else {name: WRONG[name]}
    with pytest.raises(ValidationFailed) as raised:
        judged(Everything, data, "")
    for row in raised.value.errors:
        assert re.search(r"[\u4e00-\u9fff]", row["detail"]), row
        assert not re.search(r"\b(must|valid|length|string)\b", row["detail"], re.IGNORECASE), row


def test_the_bounds_are_named() -> None:
    with pytest.raises(ValidationFailed) as raised:
        judged(Everything, {"text": "x", "choice": "md5", "number": 0}, "")
    assert {row["pointer"]: row["detail"] for row in raised.value.errors} == {
        "/text": "长度应为 2 到 4", "/choice": "应为其中之一：hmac-sm3, hmac-sha256", "/number": "应为 1 到 100",
    }  # fmt: skip
