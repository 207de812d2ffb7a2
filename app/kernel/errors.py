"""Expected failures, named by what the caller can do. Anything else is a bug and becomes a 500.

HallError
├── BadRequest 400           mend the request itself
├── Unauthorized 401         sign in, or renew the token
├── Forbidden 403            not allowed, or a higher identity level is needed
├── NotFound 404             does not exist, or belongs to somebody else (never told apart)
├── Conflict 409             the thing changed or is in another state: reload, then decide
├── TooLarge 413, WrongType 415
├── ValidationFailed 422     one row per field that must be mended
├── RateLimited 429          wait `retry_after_s`
└── ProviderUnavailable 503  somebody else's system does not answer: wait `retry_after_s`

Every area derives its own errors from these and gives them its own stable, dotted `code`.
"""

from collections.abc import Sequence
from typing import TypedDict


class ErrorRow(TypedDict):
    """One field to mend: a JSON pointer, a stable code, and a sentence for the person."""

    pointer: str
    code: str
    detail: str


class HallError(Exception):
    """Base of every expected failure."""

    code = "internal"  # public and stable: never reused or renamed
    status = 500
    title = "出了点问题"

    def __init__(self, detail: str, *, en: str | None = None, **context: object) -> None:
        super().__init__(detail)
        self.detail = detail  # shown to the person, plain Chinese
        self.detail_en = en or detail
        self.context = context  # for the log, so no personal data


class BadRequest(HallError):
    code = "request.malformed"
    status = 400
    title = "请求格式不对"


class Unauthorized(HallError):
    code = "auth.required"
    status = 401
    title = "请先登录"


class Forbidden(HallError):
    code = "auth.forbidden"
    status = 403
    title = "没有权限"


class NotFound(HallError):
    code = "resource.not_found"
    status = 404
    title = "没有找到"


class Conflict(HallError):
    code = "resource.conflict"
    status = 409
    title = "状态已变化"


class TooLarge(HallError):
    code = "request.too_large"
    status = 413
    title = "内容太大"


class WrongType(HallError):
    code = "request.wrong_type"
    status = 415
    title = "内容类型不支持"


class ValidationFailed(HallError):
    """Fields that must be mended, all told at once."""

    code = "validation.failed"
    status = 422
    title = "填写的内容需要修改"

    def __init__(self, errors: Sequence[ErrorRow], detail: str | None = None, **context: object) -> None:
        super().__init__(
            detail or f"有 {len(errors)} 处需要修改，请按提示更正后重试。",
            en=f"{len(errors)} field(s) need correction.",
            **context,
        )
        self.errors = list(errors)


class RateLimited(HallError):
    code = "rate.limited"
    status = 429
    title = "操作太频繁"

    def __init__(self, detail: str, *, retry_after_s: int, en: str | None = None, **context: object) -> None:
        super().__init__(detail, en=en, **context)
        self.retry_after_s = retry_after_s


class ProviderUnavailable(HallError):
    code = "provider.unavailable"
    status = 503
    title = "对方系统暂时没有回应"

    def __init__(self, detail: str, *, retry_after_s: int = 5, en: str | None = None, **context: object) -> None:
        super().__init__(detail, en=en, **context)
        self.retry_after_s = retry_after_s


def error_row(pointer: str, code: str, detail: str) -> ErrorRow:
    """Return one row of `ValidationFailed.errors`."""
    return {"pointer": pointer, "code": code, "detail": detail}
