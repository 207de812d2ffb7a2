"""The rules of a subscribe message: keys of the template and the limits of each kind of field (platforms, 2.1)."""

from __future__ import annotations

import re
from typing import Any

from sandbox.store import Store

_TEMPLATE_ID = re.compile(r"[A-Za-z0-9_-]{20,64}")
_KEY = re.compile(r"([a-z_]+?)(\d{1,3})")

_CJK = "\u4e00-\u9fff"
# Kind of field -> pattern of an allowed value. All of them refuse the empty text and line ends.
_KINDS = {
    "thing": re.compile(r"[^\r\n\x00-\x1f]{1,20}"),
    "number": re.compile(r"(?=.{1,32}$)-?\d+(\.\d+)?"),
    "letter": re.compile(r"[A-Za-z]{1,32}"),
    "symbol": re.compile(rf"[^\w\s{_CJK}]{{1,5}}"),
    "character_string": re.compile(r"[\x21-\x7e]{1,32}"),
    "time": re.compile(
        r"(?:(?:\d{4}年\d{1,2}月\d{1,2}日|\d{4}-\d{1,2}-\d{1,2})(?: ?\d{1,2}:\d{2}(?::\d{2})?)?|\d{1,2}:\d{2})"
        r"(?:~(?:(?:\d{4}年\d{1,2}月\d{1,2}日|\d{4}-\d{1,2}-\d{1,2})(?: ?\d{1,2}:\d{2}(?::\d{2})?)?|\d{1,2}:\d{2}))?"
    ),
    "date": re.compile(
        r"(?:\d{4}年\d{1,2}月\d{1,2}日|\d{4}-\d{1,2}-\d{1,2})(?: ?\d{1,2}:\d{2}(?::\d{2})?)?"
        r"(?:~(?:\d{4}年\d{1,2}月\d{1,2}日|\d{4}-\d{1,2}-\d{1,2})(?: ?\d{1,2}:\d{2}(?::\d{2})?)?)?"
    ),
    "amount": re.compile(r"[¥￥$€£]?\d{1,10}(?:\.\d{1,2})?元?"),
    "phone_number": re.compile(r"[\d+-]{1,17}"),
    "car_number": re.compile(rf"[{_CJK}]?[A-Za-z0-9]{{1,7}}[{_CJK}]?"),
    "name": re.compile(rf"[{_CJK}·*\w]{{1,10}}|[A-Za-z .*·'-]{{1,20}}"),
    "phrase": re.compile(rf"[{_CJK}]{{1,5}}"),
    "const": re.compile(r"[^\r\n]{1,20}"),
    "enum": re.compile(r"[^\r\n]{1,20}"),
    "enum_string": re.compile(r"[^\r\n]{1,20}"),
}

Problem = tuple[int, str]  # errcode, errmsg


def find_problem(store: Store, template_id: Any, body: dict[str, Any], kind: str = "wechat_template") -> Problem | None:
    """Return the first reason to refuse the message, None when it may go out.

    Templates registered through /_sim/wechat/templates are exact. One that nobody registered is learnt from its
    first message: the keys of the first are demanded of every later one. While there are registered ones only, an
    unknown id is refused as the original does. `kind`: whose templates, each account has its own.
    """
    if not isinstance(template_id, str) or not _TEMPLATE_ID.fullmatch(template_id):
        return 40037, "invalid template_id"
    data = body.get("data")
    if not isinstance(data, dict) or not data:
        return 47003, "argument invalid! data is empty"
    template = store.get(kind, template_id)
    if template is None and any(not kept.get("learnt") for kept in store.all(kind).values()):
        return 40037, "invalid template_id"
    wanted = template["keys"] if template else sorted(data)
    for key in wanted:
        if key not in data:
            return 47003, f"argument invalid! data.{key}.value is empty"
    for key in data:
        if key not in wanted:
            return 47003, f"argument invalid! data.{key} is not in the template"
        if not is_allowed(key, data[key]):
            return 47003, f"argument invalid! data.{key}.value invalid"
    page = body.get("page", "")
    if not isinstance(page, str) or page.startswith("/") or "://" in page:
        return 41030, "invalid page"
    if body.get("miniprogram_state", "formal") not in ("developer", "trial", "formal"):
        return 40097, "invalid args"
    if body.get("lang", "zh_CN") not in ("zh_CN", "en_US", "zh_HK", "zh_TW"):
        return 40097, "invalid args"
    if template is None:
        store.put(kind, template_id, {"keys": sorted(data), "learnt": True})
    return None


def is_allowed(key: str, part: Any) -> bool:
    """Say whether `{"value": text}` fits the kind of field that the key names (`thing1`, `time2`, ...)."""
    value = part.get("value") if isinstance(part, dict) else None
    match = _KEY.fullmatch(key)
    pattern = _KINDS.get(match[1]) if match else None
    if pattern is None or not isinstance(value, str) or not value.strip():
        return False
    return bool(pattern.fullmatch(value))
