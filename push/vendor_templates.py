"""Templates that WeChat and Alipay have approved for us, and the limits of their fields.

Source of the limits: WeChat open documentation, subscribe message, "参数类型" (thing 20 characters, phrase 5 Chinese characters, ...).
The files wechat_templates.json and alipay_templates.json are the operator's: the ids are those of the console, most useful first.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from marshmallow import Schema, ValidationError, fields, validate

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_NAME = re.compile(r"([a-z_]+?)(\d{1,3})")
_THING_LENGTH = 20
_KEYWORD_LENGTH = 100
_DATA_BYTES = 2048  # of the whole of Alipay's `data`, as JSON
_NONE = "无"

# Kind of a WeChat field -> what a finished value looks like.
_FORMS: Mapping[str, re.Pattern[str]] = {
    "thing": re.compile(r"[^\x00-\x1f]{1,20}"),
    "phrase": re.compile(r"[\u4e00-\u9fff]{1,5}"),
    "character_string": re.compile(r"[\x21-\x7e]{1,32}"),
    "time": re.compile(r"\d{4}年\d{1,2}月\d{1,2}日( \d{2}:\d{2})?"),
    "keyword": re.compile(r"[^\x00-\x1f]{1,100}"),
}
# Most characters of a kind; a time has a form instead.
LIMITS: Mapping[str, int] = {"thing": _THING_LENGTH, "phrase": 5, "character_string": 32, "keyword": _KEYWORD_LENGTH}
# Which names give values that fit a kind without being cut.
_FITTING: Mapping[str, frozenset[str]] = {
    "phrase": frozenset({"phrase"}),
    "character_string": frozenset({"number_tail"}),
    "time": frozenset({"at"}),
}


@dataclass(frozen=True)
class VendorTemplate:
    """One approved template. `long_term`: one acceptance allows any number of messages."""

    template_id: str
    title: str
    long_term: bool
    events: tuple[str, ...]
    fields: Mapping[str, str]
    page: str

    def fill(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return the fields of one message, each within the limits of its kind. An empty field is refused, so it says 无."""
        return {name: fit(kind_of(name), replaced(text, values)) for name, text in self.fields.items()}

    def page_for(self, values: Mapping[str, str]) -> str:
        return replaced(self.page, values)


def fit(kind: str, text: str) -> str:
    """Bring a text into the form of a field kind: white space collapsed, too long a thing cut to 19 characters and `…`."""
    text = re.sub(r"[\s\x00-\x1f]+", " ", text).strip()
    if kind in ("thing", "keyword"):
        limit = _THING_LENGTH if kind == "thing" else _KEYWORD_LENGTH
        return (text if len(text) <= limit else text[: limit - 1] + "…") or _NONE
    if kind == "phrase":
        return re.sub(r"[^\u4e00-\u9fff]", "", text)[:5] or "已更新"
    if kind == "character_string":
        return re.sub(r"[^\x21-\x7e]", "", text)[:32] or "-"
    return text


def check_field(kind: str, text: str) -> str | None:
    """Return what is wrong with a fixed value for a field kind, or None."""
    return None if _FORMS[kind].fullmatch(text) else f"{text!r} does not fit a field of kind {kind}"


def load_vendor_templates(
    path: Path, specs: Mapping[str, Any], allowed: frozenset[str]
) -> tuple[tuple[VendorTemplate, ...], list[str]]:
    """Read one vendor's templates; returns them with the list of mistakes (file, template, field)."""
    try:
        rows = _TemplateSchema(many=True).load(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError) as error:
        return (), [f"{path.name}: {error}"]
    except ValidationError as error:
        return (), [f"{path.name}: {line}" for line in lines_of(error.messages)]
    templates = tuple(VendorTemplate(**row | {"events": tuple(row["events"])}) for row in rows)
    wrong = []
    seen: set[str] = set()
    for template in templates:
        where = f"{path.name}: {template.title}"
        if template.template_id in seen:
            wrong.append(f"{where}: template_id: used twice")
        seen.add(template.template_id)
        wrong += [f"{where}: events: {name} is not known" for name in template.events if name not in specs]
        if len(template.page) > 128:
            wrong.append(f"{where}: page: longer than 128 characters")
        # What has no value there would be left out, and the page would open nothing.
        wrong += [f"{where}: page: placeholder {{{one}}} is not known" for one in _PLACEHOLDER.findall(template.page) if one not in allowed]
        if (most := _most_bytes(template)) > _DATA_BYTES:
            wrong.append(f"{where}: fields: could come to {most} bytes, Alipay takes {_DATA_BYTES}")
        for name, text in template.fields.items():
            wrong += [f"{where}: fields.{name}: {line}" for line in _field_mistakes(name, text, allowed)]
    return templates, wrong


def _field_mistakes(name: str, text: str, allowed: frozenset[str]) -> list[str]:
    kind = kind_of(name)
    if kind not in _FORMS:
        return [f"kind {kind or name!r} is not known; use one of {', '.join(_FORMS)}"]
    named = _PLACEHOLDER.findall(text)
    if "{" in _PLACEHOLDER.sub("", text) or "}" in _PLACEHOLDER.sub("", text):
        return ["a brace that is not a placeholder"]
    wrong = [f"placeholder {{{one}}} must not leave the hall" for one in named if one not in allowed]
    if not named:
        problem = check_field(kind, text)
        return [problem] if problem else []
    fitting = _FITTING.get(kind)
    if fitting is not None and (text != f"{{{named[0]}}}" or named[0] not in fitting):
        wrong.append(f"a {kind} field takes only {' or '.join(sorted('{' + one + '}' for one in fitting))} alone")
    return wrong


def _most_bytes(template: VendorTemplate) -> int:
    """Return the bytes of `data` when every keyword is as long as it can be; 0 for WeChat, which limits each field alone."""
    keywords = [name for name in template.fields if kind_of(name) == "keyword"]
    longest = {name: {"value": "𠮷" * _KEYWORD_LENGTH} for name in keywords}  # four bytes each: a rare character, a picture
    return len(orjson.dumps(longest)) if keywords else 0


def lines_of(messages: Any, path: str = "") -> list[str]:
    """Return what a schema found wrong, one line each: `events: case.accepted: en: body: Missing data`."""
    if isinstance(messages, dict):
        lines: list[str] = []
        for key, inner in messages.items():
            # Dict fields report {"event": {"value": ...}}: the word between says nothing to the reader.
            lines += lines_of(inner, path if key in ("value", "key") else f"{path}{': ' if path else ''}{key}")
        return lines
    return [f"{path}: {text}" for text in (messages if isinstance(messages, list) else [messages])]


def kind_of(name: str) -> str:
    """Return the kind of a field (`thing` of `thing1`), empty text for a name of another form."""
    match = _NAME.fullmatch(name)
    return match[1] if match else ""


def replaced(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its placeholders filled; what has no value is left out."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], ""), text)


class _TemplateSchema(Schema):
    template_id = fields.Str(required=True, validate=validate.Regexp(r"[A-Za-z0-9_-]{1,64}$"))
    title = fields.Str(required=True, validate=validate.Length(1, 20))
    long_term = fields.Bool(required=True)
    page = fields.Str(required=True, validate=validate.Regexp(r"[A-Za-z0-9]"))  # no leading slash: WeChat refuses it
    events = fields.List(fields.Str(), required=True, validate=validate.Length(min=1))
    fields = fields.Dict(
        keys=fields.Str(), values=fields.Str(validate=validate.Length(min=1)), required=True, validate=validate.Length(min=1)
    )
