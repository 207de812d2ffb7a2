"""What the texts of reminders and of news can name: lines of days in words, and what of an item has changed."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from app.kernel.clock import chinese_day

# What is said of a day, by its kind; `{day}` and `{name}` are filled.
_ENDS = {
    "zh": {
        "licence": "{name}：{day}到期",
        "driving_licence": "{name}：{day}到期",
        "inspection": "{name}：检验有效期到{day}",
        "points_cycle": "{name}：本记分周期到{day}结束",
        "appointment": "{name}：{day}",
    },
    "en": {
        "licence": "{name}: ends on {day}",
        "driving_licence": "{name}: ends on {day}",
        "inspection": "{name}: inspection valid until {day}",
        "points_cycle": "{name}: the points cycle ends on {day}",
        "appointment": "{name}: {day}",
    },
}
# Parts of an item that a person cares about, in words; what is not here is not told as a change (app/catalogue/changes.py).
PARTS = {
    "zh": {
        "materials": "要交的材料",
        "fees": "收费",
        "form": "申请表",
        "conditions": "什么人能办",
        "limits": "办理时间",
        "channels": "办理方式",
        "periods": "申请时间",
        "steps": "办理步骤",
        "summary": "说明",
    },
    "en": {
        "materials": "documents",
        "fees": "fees",
        "form": "form",
        "conditions": "who may apply",
        "limits": "processing time",
        "channels": "how to apply",
        "periods": "when to apply",
        "steps": "steps",
        "summary": "summary",
    },
}


def reminder_values(data: Mapping[str, Any], language: str) -> dict[str, str]:
    """Return `matter`, `entry_lines`, `day` and `page` of a reminder's entries."""
    entries: Sequence[Mapping[str, Any]] = data.get("entries") or ()
    values = {"page": str(data.get("page") or "me")}
    if not entries:
        return values
    names = list(dict.fromkeys(str(entry["name"]) for entry in entries))
    if len(names) == 1:
        values["item_name"] = names[0]
    else:
        values["item_name"] = f"{names[0]}等{len(names)}项" if language == "zh" else f"{names[0]} and {len(names) - 1} more"
    lines = [_line(entry, language) for entry in entries]
    values["entry_lines"] = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1)) if len(lines) > 1 else lines[0]
    values["day"] = _day(entries[0]["due_on"], language)
    return values


def news_values(data: Mapping[str, Any], language: str) -> dict[str, str]:
    """Return `page`, `changes`, `period_name`, `from_day`, `until_day` and `text` of what somebody follows."""
    parts = [PARTS[language][part] for part in data.get("parts") or () if part in PARTS[language]]
    values = {"page": str(data.get("page") or "items"), "changes": ("、" if language == "zh" else ", ").join(parts)}
    for name, source in (("from_day", "from_on"), ("until_day", "until_on")):
        if data.get(source):
            values[name] = _day(str(data[source]), language)
    values["period_name"] = str(data.get("period_name") or "")
    values["text"] = str(data.get("text") or "")
    return values


def _line(entry: Mapping[str, Any], language: str) -> str:
    kinds = _ENDS[language]
    text = kinds.get(str(entry["kind"]), kinds["licence"]).format(name=entry["name"], day=_day(entry["due_on"], language))
    left = entry.get("days_left")
    if not isinstance(left, int) or entry["kind"] == "appointment":
        return text
    if language == "zh":
        return text + (f"，还有{left}天" if left > 0 else "，就是今天" if left == 0 else "，已经过期")
    return text + (f", {left} days left" if left > 0 else ", today" if left == 0 else ", already over")


def _day(text: str, language: str) -> str:
    return chinese_day(date.fromisoformat(text)) if language == "zh" else text
