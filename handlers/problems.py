"""Failures as the API tells them: whatever was raised becomes one of the kernel's errors, and marshmallow's words become ours."""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import Schema, ValidationError
from pymongo.errors import PyMongoError
from tornado.web import MissingArgumentError

from app.kernel.errors import BadRequest, ErrorRow, HallError, NotFound, ProviderUnavailable, TooLarge, ValidationFailed, error_row


class MethodNotAllowed(HallError):
    code = "request.method_not_allowed"
    status = 405
    title = "不支持这种操作"


class ServiceUnavailable(ProviderUnavailable):
    """Our own database does not answer."""

    code = "service.unavailable"
    title = "系统暂时繁忙"


def as_hall_error(status: int, error: BaseException | None) -> HallError:
    if isinstance(error, HallError):
        return error
    if isinstance(error, PyMongoError):
        return ServiceUnavailable("系统暂时繁忙，您已提交的内容不会丢失，请稍后再试。", retry_after_s=3, en="Please try again.")
    if isinstance(error, MissingArgumentError):
        return BadRequest(f"缺少参数 {error.arg_name}。", en=f"Missing argument {error.arg_name}.")
    if status == 405:
        return MethodNotAllowed("这个地址不支持这种操作。", en="Method not allowed.")
    if status == 404:
        return NotFound("没有找到。", en="Not found.")
    if status == 413:
        return TooLarge("提交的内容太大。", en="The body is too large.")
    if 400 <= status < 500:
        return BadRequest("请求格式不对。", en="The request is malformed.")
    return HallError("系统出了点问题，已记录下来。请稍后再试，或拨打12345。", en="Something broke on our side; it was recorded.")


@functools.cache
def _schema(schema: type[Schema]) -> Schema:
    return schema()  # building one costs more than loading with it


def judged(schema: type[Schema], data: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = _schema(schema).load(data)
        return loaded
    except ValidationError as error:
        raise ValidationFailed(list(_rows(error.messages, prefix))) from error


def _rows(messages: Any, pointer: str) -> Iterator[ErrorRow]:
    if isinstance(messages, dict):
        for key, inner in messages.items():
            yield from _rows(inner, pointer if key == "_schema" else f"{pointer}/{_escaped(str(key))}")
    else:
        for message in messages if isinstance(messages, list) else [messages]:
            yield error_row(pointer, "invalid", _in_chinese(str(message)))


def _in_chinese(message: str) -> str:
    known = _CHINESE.get(message)
    if known is not None:
        return known
    for pattern, chinese in _CHINESE_PATTERNS:
        if found := pattern.fullmatch(message):
            return chinese.format(*found.groups())
    return message


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")  # RFC 6901


# marshmallow speaks English; these are its sentences a client of ours can meet.
_CHINESE = {
    "Missing data for required field.": "必填",
    "Unknown field.": "不认识这个字段",
    "Field may not be null.": "不能为空",
    "Not a valid string.": "应为文字",
    "Not a valid integer.": "应为整数",
    "Not a valid boolean.": "应为 true 或 false",
    "Not a valid mapping type.": "应为对象",
    "Not a valid list.": "应为列表",
    "Not a valid date.": "应为日期，例如 2026-11-23",
    "Invalid type.": "类型不对",
    "Invalid input type.": "类型不对",
    "String does not match expected pattern.": "格式不对，请核对",
    "Not a valid email address.": "应为邮箱地址",
    "Not a valid URL.": "应为网址",
    "Not a valid time.": "应为时间，例如 09:30",
    "Not a valid datetime.": "应为日期和时间，例如 2026-11-23T06:00:00Z",
    "Not a valid aware datetime.": "应为带时区的日期和时间，例如 2026-11-23T06:00:00Z",
    "Not a valid number.": "应为数字",
}
# Lengths are of texts and of lists alike.
_CHINESE_PATTERNS = tuple(
    (re.compile(pattern, re.DOTALL), chinese)
    for pattern, chinese in (
        (r"Length must be between (\d+) and (\d+)\.", "长度应为 {0} 到 {1}"),
        (r"Length must be (\d+)\.", "长度应为 {0}"),
        (r"Longer than maximum length (\d+)\.", "太长了，最多 {0}"),
        (r"Shorter than minimum length (\d+)\.", "太短了，至少 {0}"),
        (r"Must be one of: (.*)\.", "应为其中之一：{0}"),
        (r"One or more of the choices you made was not in: (.*)\.", "只能从中选：{0}"),
        (r"Must be greater than or equal to (\S+) and less than or equal to (\S+)\.", "应为 {0} 到 {1}"),
        (r"Must be greater than or equal to (\S+)\.", "不能小于 {0}"),
        (r"Must be less than or equal to (\S+)\.", "不能大于 {0}"),
    )
)
