"""The texts of config/messages: loaded once, judged whole, rendered per event and language.

A text that could go wrong later (an event without a text, a name nobody fills, a field that WeChat would refuse, a text for the
lock screen that tells more than the matter) stops the start instead, with file, event and field.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from marshmallow import Schema, ValidationError, fields, validate

from app.kernel.events import Event
from push import wording
from push.lanes import CAMPAIGN, LANES, ORDINARY, URGENT
from push.model import CHANNELS, DERIVED, EVENTS, LANGUAGES
from push.vendor_templates import VendorTemplate, check_field, lines_of, load_vendor_templates

FOLDER = Path(__file__).resolve().parent.parent / "config" / "messages"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
# After a text that tells for `count` more events of the same matter.
MORE = {"zh": "（另有{count}条新进展）", "en": " ({count} more)"}
SIGNATURE = {"zh": "【韶关办事】", "en": "[Shaoguan Hall] "}


def signed(language: str, text: str) -> str:
    """Return a text that leaves the hall, with the name of the sender before it."""
    return SIGNATURE[language] + text


class TemplatesError(Exception):
    """The texts are wrong; one line per mistake, each with file, event and field."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of a body; left out when something it names is not there or its condition does not hold."""

    text: str
    when: str = ""


@dataclass(frozen=True)
class Texts:
    title: str
    body: tuple[Sentence, ...]
    hint: str  # at most 20 characters, for a WeChat field
    short: str  # for text messages and native pushes


@dataclass(frozen=True)
class EventSpec:
    """How one event is told.

    Attributes:
        channels: which may carry it outside the hall; empty: inbox and stream only.
        lane: how long it may wait behind others (push/lanes.py).
        urgent: goes out in quiet hours too.
        must_arrive: when it is unclear whether one channel delivered, the next one is used as well.
        phrase: the state in at most five Chinese characters.
    """

    event: str
    kind: str
    link: str
    channels: tuple[str, ...]
    lane: str
    urgent: bool
    must_arrive: bool
    phrase: str
    texts: Mapping[str, Texts]


@dataclass(frozen=True)
class Rendered:
    """A message in words. `values` are those that may leave the hall."""

    kind: str
    title: str
    body: str
    link: str
    short: str
    values: Mapping[str, str]
    language: str


@dataclass(frozen=True)
class MessageTemplates:
    specs: Mapping[str, EventSpec]
    wechat: tuple[VendorTemplate, ...]
    alipay: tuple[VendorTemplate, ...]
    official: tuple[VendorTemplate, ...]

    def render(self, event: Event, language: str) -> Rendered:
        """Return an event in words. Works for any data: what is not there is not said."""
        spec = self.specs[event.name]
        texts = spec.texts[language]
        values = wording.values_of(event, spec.kind, language) | {"phrase": spec.phrase, "hint": texts.hint}
        sentences = [
            said
            for sentence in texts.body
            if not sentence.when or wording.holds(sentence.when, event.data)
            if (said := filled(sentence.text, values)) is not None
        ]
        return Rendered(
            kind=spec.kind,
            title=filled(texts.title, values) or "",
            body="\n".join(sentences),
            link=filled(spec.link, values) or "/",
            short=signed(language, filled(texts.short, values) or ""),
            values=self._outside(event, spec),
            language=language,
        )

    def _outside(self, event: Event, spec: EventSpec) -> dict[str, str]:
        """Return the values for templates of WeChat and Alipay: Chinese always, as the approved templates are."""
        values = wording.values_of(event, spec.kind, "zh") | {"phrase": spec.phrase, "hint": spec.texts["zh"].hint}
        return {name: value for name, value in values.items() if name in wording.OUTSIDE}


@lru_cache(maxsize=1)  # judging them takes 60 ms; whoever changes a file starts the process anew
def load_templates(folder: Path = FOLDER) -> MessageTemplates:
    """Read and judge all texts.

    Raises:
        TemplatesError: names every mistake.
    """
    wrong: list[str] = []
    specs: dict[str, EventSpec] = {}
    for kind in EVENTS:
        path = folder / f"{kind}.json"
        try:
            data = _KindFile().load(orjson.loads(path.read_bytes()))
        except (OSError, orjson.JSONDecodeError) as error:
            wrong.append(f"{path.name}: {error}")
        except ValidationError as error:
            wrong += [f"{path.name}: {line}" for line in lines_of(error.messages)]
        else:
            if data["kind"] != kind:
                wrong.append(f"{path.name}: kind: want {kind!r}")
            for name, entry in data["events"].items():
                specs[name] = _spec(name, kind, entry["link"] or data["link"], entry)
            known = set(EVENTS[kind])
            wrong += [f"{path.name}: {name}: unknown event" for name in sorted(set(data["events"]) - known)]
            wrong += [f"{path.name}: {name}: text is missing" for name in sorted(known - set(data["events"]))]
            for name in sorted(known & set(data["events"])):
                wrong += [f"{path.name}: {name}: {line}" for line in _mistakes(specs[name])]
    vendors = []
    for name in ("wechat", "alipay", "wechat_official"):
        templates, mistakes = load_vendor_templates(folder / f"{name}_templates.json", specs, wording.OUTSIDE)
        vendors.append(templates)
        wrong += mistakes
    if wrong:
        raise TemplatesError("\n".join(f"messages: {line}" for line in wrong))
    return MessageTemplates(specs, *vendors)


def names_in(text: str) -> list[str]:
    """Return what a text names, in order."""
    return _PLACEHOLDER.findall(text)


def filled(text: str, values: Mapping[str, str]) -> str | None:
    """Return a text with its placeholders filled, or None when one has no value."""
    if any(name not in values for name in _PLACEHOLDER.findall(text)):
        return None
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _spec(name: str, kind: str, link: str, entry: Mapping[str, Any]) -> EventSpec:
    texts = {
        language: Texts(
            title=entry[language]["title"],
            body=tuple(
                Sentence(row["text"], row["when"]) if isinstance(row, dict) else Sentence(row)
                for row in entry[language]["body"]
            ),
            hint=entry[language]["hint"],
            short=entry[language]["short"],
        )
        for language in LANGUAGES
    }
    chain = chain_of(entry["channels"], matters=entry["urgent"] or entry["must_arrive"])
    lane = entry["lane"] or (URGENT if entry["urgent"] else ORDINARY)
    return EventSpec(name, kind, link, chain, lane, entry["urgent"], entry["must_arrive"], entry["phrase"], texts)


def chain_of(channels: Collection[str], *, matters: bool) -> tuple[str, ...]:
    """Return the channels of an event in the order in which they are tried.

    Where the native app is named, iPhones are reached through Apple too; where a text message is named and it matters (urgent, or must
    arrive), a call comes after it, for those who want calls, and e-mail last.
    """
    wanted = set(channels) | ({"apns"} if "app" in channels else set()) | ({"voice"} if matters and "sms" in channels else set())
    chain = [channel for channel in CHANNELS if channel in wanted]
    if matters:  # a mail that was taken may still come back, and nobody here would know
        chain.sort(key=lambda channel: channel == "email")
    return tuple(chain)


def _mistakes(spec: EventSpec) -> list[str]:
    wrong = []
    known, always = wording.PLACEHOLDERS[spec.kind], wording.ALWAYS[spec.kind]

    def check(field: str, text: str, allowed: frozenset[str], why: str) -> None:
        for name in _PLACEHOLDER.findall(text):
            if name not in known:
                wrong.append(f"{field}: placeholder {{{name}}} is not known for {spec.kind}")
            elif name not in allowed:
                wrong.append(f"{field}: placeholder {{{name}}} {why}")
        if "{" in _PLACEHOLDER.sub("", text) or "}" in _PLACEHOLDER.sub("", text):
            wrong.append(f"{field}: a brace that is not a placeholder")

    if spec.must_arrive and "sms" not in spec.channels:
        wrong.append("channels: what must arrive goes by sms too: some people have nothing else")
    if spec.lane == CAMPAIGN and (spec.urgent or spec.must_arrive):
        wrong.append("lane: a campaign can wait and may be missed: neither urgent nor must_arrive")
    check("link", spec.link, always, "is not always there")
    if problem := check_field("phrase", spec.phrase):
        wrong.append(f"phrase: {problem}")
    for language, texts in spec.texts.items():
        check(f"{language}.title", texts.title, always, "is not always there")
        check(f"{language}.short", texts.short, wording.OUTSIDE & always, "must not leave the hall, or is not always there")
        if problem := check_field("thing", texts.hint) if language == "zh" else None:
            wrong.append(f"{language}.hint: {problem}")
        for index, sentence in enumerate(texts.body):
            field = f"{language}.body[{index}]"
            check(field, sentence.text, known if index else always, "is not always there; the first sentence always stands")
            if sentence.when and not wording.is_condition(sentence.when):
                wrong.append(f"{field}.when: condition {sentence.when!r} is not known")
        if texts.body[0].when:
            wrong.append(f"{language}.body[0].when: the first sentence always stands")
    return wrong


class _SentenceField(fields.Field[Any]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, dict) and set(value) == {"text", "when"} and all(isinstance(v, str) for v in value.values()):
            return value
        raise ValidationError('want a text, or {"text": ..., "when": ...}')


_some = validate.Length(min=1)


class _TextsSchema(Schema):
    title = fields.Str(required=True, validate=validate.Length(1, 40))
    body = fields.List(_SentenceField(), required=True, validate=_some)
    hint = fields.Str(required=True, validate=validate.Length(1, 40))
    # Seven parts of a long text message are 469 characters; two are what a person reads.
    short = fields.Str(required=True, validate=validate.Length(1, 200))


class _EventSchema(Schema):
    link = fields.Str(load_default="", validate=validate.Regexp(r"/.*|$"))
    channels = fields.List(fields.Str(validate=validate.OneOf([one for one in CHANNELS if one not in DERIVED])), required=True)
    lane = fields.Str(load_default="", validate=validate.OneOf(LANES))
    urgent = fields.Bool(load_default=False)
    must_arrive = fields.Bool(load_default=False)
    phrase = fields.Str(required=True)
    zh = fields.Nested(_TextsSchema, required=True)
    en = fields.Nested(_TextsSchema, required=True)


class _KindFile(Schema):
    kind = fields.Str(required=True)
    link = fields.Str(required=True, validate=validate.Regexp(r"/.*"))
    events = fields.Dict(keys=fields.Str(), values=fields.Nested(_EventSchema), required=True)
