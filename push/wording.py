"""The values that texts can name, made from an event in a language: days in words, money in yuan, lists as lines."""

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from app.kernel.clock import SHANGHAI, chinese_day, chinese_moment, parse_utc
from app.kernel.events import Event
from app.kernel.money import yuan_text
from app.kernel.numbers import mask_id_number
from push.reminder_words import news_values, reminder_values

# What a text may name, by kind. A sentence that names something the event does not bring is left out.
PLACEHOLDERS: Mapping[str, frozenset[str]] = {
    "case": frozenset(
        "subject_id at item_name agency_name number number_tail query_code deadline deadline_year accept_by supplement_by "
        "pay_by expected_on received_on expires_on ask_by hold_by days rule right_body review_body court complain_to amount_yuan reason opinion missing_lines tracking phrase hint".split()
    ),
    "order": frozenset(
        "subject_id order_id at item_name matters amount_yuan refund_yuan expires receipt_number provider_name phrase hint".split()
    ),
    "identity": frozenset("subject_id at item_name channel_name phrase hint".split()),
    "feedback": frozenset("subject_id at item_name agency_name number deadline deadline_year phrase hint".split()),
    # What an agency wrote: `item_name` is its title, `path` where it leads, without the first slash.
    "notice": frozenset("subject_id at item_name agency_name text path phrase hint".split()),
    "reminder": frozenset("subject_id at item_name page entry_lines day phrase hint".split()),
    "news": frozenset("subject_id at item_name page changes period_name from_day until_day text phrase hint".split()),
}
# Always there: only these may stand in a title, in the first sentence, or in a text that leaves the hall.
ALWAYS: Mapping[str, frozenset[str]] = {
    "case": frozenset("subject_id at item_name agency_name phrase hint".split()),
    "order": frozenset("subject_id order_id at item_name matters phrase hint".split()),
    "identity": frozenset("subject_id at item_name channel_name phrase hint".split()),
    "feedback": frozenset("subject_id at item_name agency_name phrase hint".split()),
    "notice": frozenset("subject_id at item_name agency_name text path phrase hint".split()),
    "reminder": frozenset("subject_id at item_name page phrase hint".split()),
    "news": frozenset("subject_id at item_name page phrase hint".split()),
}
# What may leave the hall, where it can stand on a lock screen: the matter, never its content. No amount, no reason, no titles
# of bills (they name offences). Source: the rule for texts on lock screens of GB/T 35273 and the platforms' own terms.
OUTSIDE: frozenset[str] = frozenset("subject_id at item_name number number_tail phrase hint".split())

_CONDITIONS = frozenset("deadline_estimated fee_paid has_delivery by_superior review_body method outcome provider state is_required".split())

_FALLBACKS = {
    "zh": {"item_name": "您的事项", "agency_name": "办理部门", "matters": "政务服务费用", "channel_name": "另一种方式"},
    "en": {"item_name": "your matter", "agency_name": "the office", "matters": "a fee", "channel_name": "another way"},
}
_NOTICE = {
    "zh": {"item_name": "政务服务通知", "text": "请打开“韶关办事”查看。", "path": "inbox"},
    "en": {"item_name": "A notice of the city", "text": "Please open the hall.", "path": "inbox"},
}
_ORDER_MATTER = {"zh": "政务缴费", "en": "Payment"}
_PROVIDERS = {
    "zh": {"wechatpay": "微信支付", "alipay": "支付宝"},
    "en": {"wechatpay": "WeChat Pay", "alipay": "Alipay"},
}
_SIGN_INS = {
    "zh": {"wechat": "微信", "alipay": "支付宝", "sms": "手机号"},
    "en": {"wechat": "WeChat", "alipay": "Alipay", "sms": "phone number"},
}
_SOURCES = {  # placeholder -> name in the event's data; each is a Shanghai day
    "deadline": "deadline_on",
    "accept_by": "accept_by_on",
    "supplement_by": "supplement_by_on",
    "pay_by": "pay_by_on",
    "expected_on": "expected_on",
    "received_on": "received_on",
    "expires_on": "expires_on",
    "ask_by": "ask_by_on",
    "hold_by": "hold_by_on",
}
_ID_NUMBER = re.compile(r"(?<!\d)[1-9]\d{5}(?:18|19|20)\d{9}[\dXx](?!\d)")


def is_condition(text: str) -> bool:
    """Say whether `when` of a sentence is understood: `deadline_estimated`, or `method=post`."""
    return text.partition("=")[0] in _CONDITIONS


def holds(condition: str, data: Mapping[str, Any]) -> bool:
    """Say whether the condition of a sentence holds for an event's data."""
    name, equals, value = condition.partition("=")
    return str(data.get(name, "")) == value if equals else bool(data.get(name))


def values_of(event: Event, kind: str, language: str) -> dict[str, str]:
    """Return what the texts of a kind can name, without empty values."""
    data = event.data
    values = dict(_FALLBACKS[language])
    values |= {"subject_id": event.subject_id, "order_id": _text(data.get("order_id")) or event.subject_id}
    values |= {"at": _moment(event.at, language)}
    for name in ("item_name", "agency_name", "number", "query_code", "tracking", "receipt_number"):
        values[name] = _text(data.get(name)) or values.get(name, "")
    for name in ("reason", "opinion", "rule", "right_body", "review_body", "court", "complain_to"):
        values[name] = _free_text(data.get(name))
    for name, source in _SOURCES.items():
        values[name] = _day(data.get(source), language)
    # What is estimated is the decision's day when there is one, before acceptance the acceptance's.
    values["deadline_year"] = str(data.get("deadline_on") or data.get("accept_by_on") or "")[:4]
    values["days"] = _text(data.get("days"))
    for name, source in (("amount_yuan", "amount_fen"), ("refund_yuan", "refund_fen")):
        if isinstance(data.get(source), int):
            values[name] = yuan_text(data[source])
    # A case number has 43 characters, a WeChat field takes 32: its last twelve are the day and the running number.
    values["number_tail"] = re.sub(r"[^\x21-\x7e]", "", values["number"])[-12:]
    values["missing_lines"] = _missing_lines(data.get("missing"), language)
    if kind == "order":
        values["item_name"] = _ORDER_MATTER[language]
        titles = [_text(title) for title in data.get("titles") or [] if title]
        if titles:
            values["matters"] = ("、" if language == "zh" else ", ").join(titles[:5]) + ("…" if len(titles) > 5 else "")
        expires_at = data.get("expires_at")
        if expires_at:
            values["expires"] = _moment(parse_utc(expires_at) if isinstance(expires_at, str) else expires_at, language)
        values["provider_name"] = _PROVIDERS[language].get(str(data.get("provider")), "")
    if kind == "notice":
        # English where the agency wrote it.
        for name, otherwise in _NOTICE[language].items():
            values[name] = _free_text(data.get(f"{name}_{language}") or data.get(name)) or otherwise
    if kind == "identity":
        values["channel_name"] = _SIGN_INS[language].get(str(data.get("channel")), values["channel_name"])
    if kind == "reminder":
        values |= reminder_values(data, language)
    if kind == "news":
        values |= news_values(data, language)
    return {name: value for name, value in values.items() if value and name in PLACEHOLDERS[kind]}


def _text(value: Any) -> str:
    return " ".join(str(value).split()) if value is not None else ""


def _free_text(value: Any) -> str:
    """Return what a clerk wrote, without citizen numbers: a stored message holds none."""
    text = str(value).strip() if value is not None else ""
    return _ID_NUMBER.sub(lambda match: mask_id_number(match[0]), text)


def _missing_lines(missing: Any, language: str) -> str:
    colon = "：" if language == "zh" else ": "
    lines = []
    for index, row in enumerate(missing or [], start=1):
        name = _free_text(row.get("name") or row.get("key"))
        reason = _free_text(row.get("reason"))
        lines.append(f"{index}. {name}{colon}{reason}" if name and reason else f"{index}. {name or reason}")
    return "\n".join(lines)


def _day(value: Any, language: str) -> str:
    if not value:
        return ""
    if isinstance(value, datetime):
        day = value.astimezone(SHANGHAI).date()
    else:
        day = value if isinstance(value, date) else date.fromisoformat(str(value)[:10])
    return chinese_day(day) if language == "zh" else day.isoformat()


def _moment(value: datetime, language: str) -> str:
    return chinese_moment(value) if language == "zh" else f"{value.astimezone(SHANGHAI):%Y-%m-%d %H:%M}"
