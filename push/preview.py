"""What every message looks like on every channel, with sample data: for whoever writes the texts and keeps the vendors' templates.

Three samples: `full` (config/messages/samples.json), `least` (an event that brings nothing), `long` (`full` with names longer than any field). The very
functions that send render here too, so what is shown is what goes out.
"""

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any

import orjson

from app.kernel.errors import NotFound
from app.kernel.events import Event
from push import wording
from push.channel import Letter
from push.channels.email import written
from push.channels.voice import spoken
from push.model import EVENTS, LANGUAGES
from push.templates import FOLDER, EventSpec, MessageTemplates, TemplatesError, filled, names_in
from push.vendor_templates import LIMITS, VendorTemplate, fit, kind_of, replaced

SAMPLES = FULL, LEAST, LONG = ("full", "least", "long")
_AT = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
_ID = "01KB2M3N4P5Q6R7S8T9V0W1X2Y"
# A short text up to this goes out as one message, a longer one in parts of a little less.
_ONE_TEXT, _PART = 70, 67
_MANY_PARTS = 3
_ALERT = 80  # characters that a phone shows of an alert before it cuts, a letter counting half of a Chinese one
_LONG_NAME = "涉及多个部门需要联合办理的建设工程竣工验收备案和不动产首次登记一件事"


class MessageNotFound(NotFound):
    code = "message_template.not_found"


class Preview:
    """Of one set of texts. `public_url`: for the links in mails."""

    def __init__(self, templates: MessageTemplates, public_url: str, folder: Path = FOLDER) -> None:
        self._templates = templates
        self._public_url = public_url
        self._samples = load_samples(folder / "samples.json")

    @functools.cached_property
    def overview(self) -> list[dict[str, Any]]:
        """Return every event: how it is told, and what is to be looked at, worst first. Made once: the texts stay as they are until a restart."""
        rows = []
        for kind, names in EVENTS.items():
            for name in names:
                spec = self._templates.specs[name]
                rows.append(
                    {
                        "event": name,
                        "kind": kind,
                        "title": spec.texts["zh"].title,
                        "channels": list(spec.channels),
                        "lane": spec.lane,
                        "urgent": spec.urgent,
                        "must_arrive": spec.must_arrive,
                        "remarks": self._remarks(spec),
                    }
                )
        return rows

    def of(self, event_name: str, sample: str = FULL) -> dict[str, Any]:
        """Return one event in every language on every channel that may carry it. Raises MessageNotFound."""
        spec = self._templates.specs.get(event_name)
        if spec is None:
            raise MessageNotFound("没有这个事件的消息。", en="There is no message of that event.")
        event = self._event(spec, sample)
        return {
            "event": event_name,
            "kind": spec.kind,
            "sample": sample,
            "channels": list(spec.channels),
            "lane": spec.lane,
            "urgent": spec.urgent,
            "must_arrive": spec.must_arrive,
            "phrase": spec.phrase,
            "remarks": self._remarks(spec),
            "languages": {language: self._in_language(spec, event, language) for language in LANGUAGES},
        }

    # --- within ---

    def _event(self, spec: EventSpec, sample: str) -> Event:
        data: dict[str, Any] = {} if sample == LEAST else dict(self._samples[spec.kind])
        if sample == LONG:
            data |= {name: _LONG_NAME for name in ("item_name", "agency_name") if name in data}
            data |= {"titles": [_LONG_NAME] * 6} if "titles" in data else {}
        if spec.event.startswith("order.") or spec.event.startswith("refund."):
            data["state"] = {"order.closed": "closed", "order.paid": "paid"}.get(spec.event, data.get("state"))
        subject_kind = spec.event.partition(".")[0]
        return Event(f"evt_{_ID}", spec.event, _AT, subject_kind, f"{subject_kind[:4]}_{_ID}", f"res_{_ID}", data)

    def _in_language(self, spec: EventSpec, event: Event, language: str) -> dict[str, Any]:
        rendered = self._templates.render(event, language)
        letter = Letter(f"dlv_{_ID}", spec.event, event.owner_id, rendered.short, rendered.values, rendered.link, language)
        subject, text, html = written(letter, spec, self._public_url, "/email/stop?…")
        shown: dict[str, dict[str, Any]] = {
            "inbox": {"title": rendered.title, "body": rendered.body, "link": rendered.link},
            "wechat": self._vendor(self._templates.wechat, spec.event, rendered.values),
            "official": self._vendor(self._templates.official, spec.event, rendered.values),
            "alipay": self._vendor(self._templates.alipay, spec.event, rendered.values),
            "apns": _alert(rendered.short),
            "app": _alert(rendered.short),
            "email": {"subject": subject, "text": text, "html": html},
            "sms": {"text": rendered.short, "length": len(rendered.short), "parts": parts_of(rendered.short)},
            "voice": {"text": spoken(rendered.short)[0]},
        }
        return {
            "sentences": self._sentences(spec, event, language),
            "shown": {channel: shown[channel] for channel in ("inbox", *spec.channels)},
        }

    def _sentences(self, spec: EventSpec, event: Event, language: str) -> list[dict[str, Any]]:
        """Return every sentence of the body: said, or why not."""
        values = wording.values_of(event, spec.kind, language) | {"phrase": spec.phrase, "hint": spec.texts[language].hint}
        rows = []
        for sentence in spec.texts[language].body:
            holds = not sentence.when or wording.holds(sentence.when, event.data)
            missing = [name for name in names_in(sentence.text) if name not in values]
            said = filled(sentence.text, values) if holds else None
            rows.append({"text": sentence.text, "when": sentence.when, "holds": holds, "missing": missing, "said": said})
        return rows

    @staticmethod
    def _vendor(templates: tuple[VendorTemplate, ...], event: str, values: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of each template that fits; an empty list: no template, so this channel never carries the event."""
        rows = []
        for template in templates:
            if event not in template.events:
                continue
            fields = []
            for name, text in template.fields.items():
                kind, raw = kind_of(name), replaced(text, values)
                value = fit(kind, raw)
                fields.append(
                    {
                        "field": name, "kind": kind, "from": text, "value": value, "length": len(value), "limit": LIMITS.get(kind),
                        "is_cut": " ".join(raw.split()) != value,
                    }
                )  # fmt: skip
            page = template.page_for(values)
            rows.append({"template_id": template.template_id, "title": template.title, "page": page, "fields": fields})
        return {"templates": rows}

    def _remarks(self, spec: EventSpec) -> list[str]:
        """Return what a person should look at, in Chinese: no mistake, or it would have stopped the start."""
        remarks = []
        vendors = (("wechat", "微信订阅消息", self._templates.wechat), ("official", "公众号", self._templates.official), ("alipay", "支付宝", self._templates.alipay))
        for channel, channel_name, templates in vendors:
            if channel in spec.channels and not any(spec.event in one.events for one in templates):
                remarks.append(f"{channel_name}没有对应的模板，这个渠道发不出去")
        event = self._event(spec, FULL)
        shown = {language: self._in_language(spec, event, language) for language in LANGUAGES}
        for language, found in shown.items():
            if any(row["missing"] for row in found["sentences"] if row["holds"]):
                remarks.append(f"{_LANGUAGE[language]}：示例数据缺少变量，有句子没有显示")
            sms = found["shown"].get("sms")
            if sms and sms["parts"] >= _MANY_PARTS:
                remarks.append(f"{_LANGUAGE[language]}：短信要拆成{sms['parts']}条")
        for channel, channel_name, _templates in vendors:
            cut = [
                field["field"]
                for row in shown["zh"]["shown"].get(channel, {"templates": []})["templates"]
                for field in row["fields"]
                if field["is_cut"]
            ]
            if cut:
                remarks.append(f"{channel_name}：示例数据超过字段长度，被截短（{'、'.join(cut)}）")
        return remarks


_LANGUAGE = {"zh": "中文", "en": "英文"}


def load_samples(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Read the sample data of every kind. Raises TemplatesError: a kind is missing, unknown, or no object."""
    try:
        samples = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise TemplatesError(f"messages: {path.name}: {error}") from error
    if not isinstance(samples, dict) or set(samples) != set(EVENTS) or not all(isinstance(data, dict) for data in samples.values()):
        raise TemplatesError(f"messages: {path.name}: want an object with data for each of {', '.join(EVENTS)}")
    return samples


def parts_of(text: str) -> int:
    """Return in how many parts a text message goes out: 70 characters in one, 67 in each of several."""
    return 1 if len(text) <= _ONE_TEXT else ceil(len(text) / _PART)


def _alert(short: str) -> dict[str, Any]:
    return {"text": short, "length": len(short), "is_cut": sum(0.5 if letter.isascii() else 1 for letter in short) > _ALERT}
