"""Between an HTML form and the values of a case's form: names, kinds, what a page needs to draw a field, and what was changed on it.

A page carries `version` and `base`: a short mark of each answer as it was when the page was drawn. What still bears its mark was
not touched here and is not sent on, so a page that stood open on one device never takes back what another has saved meanwhile.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.kernel.errors import ErrorRow
from handlers import pages_text

PREFIX = "f."
MAX_ROWS = 50

# Field type -> attributes of the input: what keyboard a phone shows, what it may fill in by itself.
_INPUTS = {
    "date": 'type="date"',
    "datetime": 'type="datetime-local"',
    "month": 'type="month"',
    "mobile": 'type="tel" inputmode="tel" autocomplete="tel" maxlength="20"',
    "id_number": 'type="text" inputmode="text" autocapitalize="characters" autocomplete="off" maxlength="20" spellcheck="false"',
    "bank_card": 'type="text" inputmode="numeric" autocomplete="off" maxlength="30"',
    "number": 'type="text" inputmode="decimal" autocomplete="off" maxlength="20"',
    "money": 'type="text" inputmode="decimal" autocomplete="off" maxlength="20"',
    "uscc": 'type="text" autocapitalize="characters" autocomplete="off" maxlength="20" spellcheck="false"',
    "vin": 'type="text" autocapitalize="characters" autocomplete="off" maxlength="20" spellcheck="false"',
    "plate": 'type="text" autocapitalize="characters" autocomplete="off" maxlength="12" spellcheck="false" placeholder="粤F12345"',
    "address": 'type="text" autocomplete="street-address"',
}

_HINTS = {
    "id_number": "18位，最后一位可以是X",
    "mobile": "11位手机号",
    "plate": "例如 粤F12345，新能源车 粤FD12345",
    "vin": "17位，在行驶证上",
    "uscc": "18位，在营业执照上",
    "money": "单位：元",
    "list": "没有用到的格子空着就行",
}


def input_attributes(field: Mapping[str, Any]) -> str:
    """Return the attributes of a one-line input. Trusted text of our own; templates write it raw."""
    return _INPUTS.get(field["type"], 'type="text"')


def hint(field: Mapping[str, Any]) -> str:
    """Return what helps to fill a field: the item's own words first."""
    if field["type"] == "money" and "元" in field["label"]:
        return str(field.get("hint") or "")  # the label says the unit, which is not always yuan
    return str(field.get("hint") or _HINTS.get(field["type"], ""))


def input_value(field: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return the text an input shows for a value."""
    value = values.get(field["key"])
    if value is None:
        return ""
    text = str(value)
    return text[:16].replace(" ", "T") if field["type"] == "datetime" else text


def condition(field: Mapping[str, Any]) -> str:
    """Return `show_when` as JSON for web/static/form.js, or empty text."""
    return orjson.dumps(field["show_when"]).decode() if field.get("show_when") else ""


def entries(field: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Return the inputs of a list field: what is filled in, and empty ones up to its limit (three when it has none)."""
    filled = list(values.get(field["key"]) or ())
    places = field.get("max_items") or max(3, len(filled) + 1)
    return (filled + [""] * places)[:places]


def table_rows(field: Mapping[str, Any], values: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Return the rows of a table field: what is filled in, and one empty row (three at first)."""
    filled: list[Mapping[str, str]] = list(values.get(field["key"]) or ())
    empty: list[Mapping[str, str]] = [{}]
    return filled + empty * (1 if filled else 3)


# --- what was changed on a page ---


@dataclass(frozen=True)
class Page:
    """What a page sent: everything that stands on it, and what of it was changed here."""

    version: int
    base: dict[str, str]
    form: dict[str, Any]
    answers: dict[str, Any]
    changed_form: dict[str, Any]
    changed_answers: dict[str, Any]


def mark(value: Any) -> str:
    """Return the mark of an answer; the same for two answers that a page shows alike."""
    return hashlib.blake2s(orjson.dumps(_as_shown(value)), digest_size=4).hexdigest()


def _as_shown(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list):
        entries = [_as_shown(entry) for entry in value]
        return [entry for entry in entries if entry] or None
    if isinstance(value, Mapping):
        return sorted([column, str(cell).strip()] for column, cell in value.items() if str(cell).strip())
    text = str(value).replace("\r\n", "\n").strip()
    # A moment is shown without its seconds, and with a T between day and time.
    return re.sub(r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d).*", r"\1T\2", text) or None


def base(view: Mapping[str, Any]) -> dict[str, str]:
    """Return the marks of the stored answers of a case, by the names of their inputs."""
    values, answers = view["form"]["values"], view["answers"]
    marks = {PREFIX + field["key"]: mark(values.get(field["key"])) for field in view["form"]["fields"]}
    return marks | {f"q.{row['key']}": mark(answers.get(row["key"])) for row in view["situations"]}


def read_page(view: Mapping[str, Any], sent: Mapping[str, Sequence[str]]) -> Page:
    """Return what a page of this case sent. A name in `use.<name>` = theirs gives its answer up for the stored one."""
    version = (sent.get("version") or [""])[-1]
    try:
        marks = orjson.loads((sent.get("base") or ["{}"])[-1])
    except orjson.JSONDecodeError:
        marks = {}
    marks = marks if isinstance(marks, dict) else {}
    given_up = {name.removeprefix("use.") for name, values in sent.items() if name.startswith("use.") and values[-1] == "theirs"}
    form = read_values([field for field in view["form"]["fields"] if "computed" not in field], sent)
    # Of a page drawn before the form changed: fields that are no more, as plain text.
    known = {field["key"] for field in view["form"]["fields"]}
    removed = {row["key"] for row in (view["carried_over"] or {}).get("changes", ()) if row["change"] == "removed"} - known
    form |= {key: sent[PREFIX + key][-1] for key in removed if sent.get(PREFIX + key)}
    answers = read_answers(view["situations"], sent)

    def changed(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: value
            for key, value in given.items()
            if prefix + key not in given_up and marks.get(prefix + key) != mark(value)
        }

    return Page(
        version=int(version) if re.fullmatch(r"[0-9]{1,9}", version) else 0,
        base=marks,
        form=form,
        answers=answers,
        changed_form=changed(PREFIX, form),
        changed_answers=changed("q.", answers),
    )


def elsewhere(view: Mapping[str, Any], page: Page) -> dict[str, Any]:
    """Return by input name what is stored for the answers that differ from what stands on the page: changed on another device."""
    stored = {PREFIX + field["key"]: view["form"]["values"].get(field["key"]) for field in view["form"]["fields"] if "computed" not in field}
    shown = {PREFIX + key: value for key, value in page.form.items()}
    return {name: as_inputs(value) for name, value in stored.items() if name in shown and mark(value) != mark(shown[name])}


def as_inputs(value: Any) -> list[str]:
    """Return the values of the inputs that show an answer; a table has none that a script could fill in place."""
    if value is None or (isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value)):
        return [] if value else [""]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def conflicts(view: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], divisions: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return by input name what a page needs to let a person choose between two answers."""
    fields = {f"/form/{field['key']}": field for field in view["form"]["fields"]}
    questions = {f"/answers/{row['key']}": row for row in view["situations"]}
    found = {}
    for row in rows:
        theirs = row["theirs"]
        is_form = row["pointer"] in fields
        field = fields[row["pointer"]] if is_form else {**questions[row["pointer"]], "type": "multiselect" if isinstance(theirs, list) else "select"}
        name = (PREFIX if is_form else "q.") + row["key"]
        found[name] = {
            "name": name,
            "label": row["label"],
            "theirs": pages_text.shown(field, theirs, divisions),
            "inputs": orjson.dumps(as_inputs(theirs)).decode(),
        }
    return found


def as_json(marks: Mapping[str, str]) -> str:
    """Return marks as a page carries them."""
    return orjson.dumps(marks).decode()


def left(fields: Sequence[Mapping[str, Any]], wrong: Sequence[ErrorRow]) -> list[dict[str, str]]:
    """Return the fields that must still be filled in, in the order of the form."""
    missing = {row["pointer"].rsplit("/", 1)[-1] for row in wrong if row["code"] == "required" and row["pointer"].startswith("/form/")}
    return [{"key": field["key"], "label": field["label"]} for field in fields if field["key"] in missing]


def plain(value: Any) -> str:
    """Return an answer as text when its field is not known any more."""
    if isinstance(value, list):
        return "；".join("，".join(map(str, entry.values())) if isinstance(entry, Mapping) else str(entry) for entry in value)
    return {True: "是", False: "否"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def read_values(fields: Sequence[Mapping[str, Any]], sent: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the values of the fields as the API takes them; None takes an answer back. Nothing is judged here.

    Args:
        sent: the form by name, as `PageHandler.form_fields` returns it.
    """
    return {field["key"]: _value(field, sent) for field in fields}


def _value(field: Mapping[str, Any], sent: Mapping[str, Sequence[str]]) -> Any:
    name, kind = PREFIX + field["key"], field["type"]
    given = list(sent.get(name, ()))
    if kind == "boolean":
        return {"true": True, "false": False}.get(given[-1] if given else "")
    if kind in ("multiselect", "list"):
        return [entry.strip() for entry in given if entry.strip()] or None
    if kind == "table":
        return _rows(field, sent) or None
    text = given[-1].strip() if given else ""
    if kind == "number" and re.fullmatch(r"-?\d{1,12}", text):
        return int(text)
    return text or None


def _rows(field: Mapping[str, Any], sent: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    rows = []
    for number in range(MAX_ROWS):
        cells = [sent.get(f"{PREFIX}{field['key']}.{number}.{place}", ()) for place in range(len(field["columns"]))]
        if not any(cells):
            break
        row = {column: cell[-1].strip() for column, cell in zip(field["columns"], cells, strict=True) if cell}
        if any(row.values()):
            rows.append(row)
    return rows


def read_answers(situations: Sequence[Mapping[str, Any]], sent: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the answers to an item's situation questions; a question left open is absent."""
    answers: dict[str, Any] = {}
    for situation in situations:
        given = [value for value in sent.get(f"q.{situation['key']}", ()) if value]
        if given:
            answers[situation["key"]] = given if situation["type"] == "multi" else given[-1]
    return answers
