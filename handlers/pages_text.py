"""What the pages say: states, steps, money and days in the words of a resident. Pure functions, no rules."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from app.catalogue.answers import option_label, shown  # noqa: F401 (`shown` is for the templates)
from app.kernel.clock import SHANGHAI, shanghai_day, today, utc_now
from app.kernel.errors import HallError
from app.kernel.money import yuan_text
from push.undelivered import OUTCOMES, channel_name

# The tone of a state: go (somebody works on it), wait (the resident must act), done, stop, rest. The names are app/cases' own.
CASE_TONES = {
    "supplement_required": "wait",
    "awaiting_payment": "wait",
    "not_accepted": "stop",
    "denied": "stop",
    "draft": "rest",
    "suspended": "rest",
    "withdrawn": "rest",
    "approved": "done",
    "completed": "done",
}

ORDER_STATES = {
    "open": ("等待付款", "wait"),
    "paying": ("确认中", "wait"),
    "paid": ("已付款", "done"),
    "closed": ("已关闭", "rest"),
    "refunding": ("退款中", "go"),
    "refunded": ("已退款", "rest"),
    "partly_refunded": ("已部分退款", "rest"),
}

# Lamp of a deadline (app/supervision) -> tone.
LAMPS = {"green": "go", "yellow": "wait", "red": "stop", "none": "rest"}

PROVIDERS = {"wechatpay": "微信支付", "alipay": "支付宝"}
CHANNELS = {"wechat": "微信", "alipay": "支付宝", "sms": "短信验证码"}

TRIES = OUTCOMES  # of telling somebody
# State of a notice -> tone, and what staff read of it.
_FATES = {
    "waiting": ("go", "等待发出"),
    "sending": ("go", "正在发出"),
    "sent": ("done", "{channel}已发出"),
    "inbox": ("rest", "只在站内消息"),
    "merged": ("rest", "并入后一条通知"),
    "unclear": ("wait", "{channel}没有回音"),
    "failed": ("stop", "没有送达"),
}

# What the page after a step says once.
# Before the day of a reminder.
DATED = {"licence": "有效期到", "driving_licence": "有效期到", "inspection": "检验有效期到", "points_cycle": "记分周期到", "appointment": "预约在"}
TOLD = {
    "followed": "已订阅，有消息会告诉您。",
    "unfollowed": "已取消订阅。",
    "wishes": "已保存，以后按这样通知您。",
    "campaign_tested": "✓ 已试发，请在手机上看看效果。",
    "email": "邮箱已验证，以后也会用邮件通知您。",
    "email_off": "邮箱已删除，不再给它发邮件。",
    "phone": "✓ 已核验：手机号是您的。",
    "name": "✓ 已核验：实名认证完成。",
    "face": "✓ 已核验：确认是您本人。",
    "joined": "您用不同方式登录的账号已合并成一个，办件、缴费和消息都在一起了。如果不是您本人操作，请马上打12345。",
}

EVALUATION = ((1, "非常满意"), (2, "满意"), (3, "基本满意"), (4, "不满意"), (5, "非常不满意"))

LEVELS = {
    1: "登录即可",
    2: "需要验证手机号",
    3: "需要实名认证",
    4: "需要实名认证和人脸核验",
}

DELIVERY = {"electronic": "电子证照", "self": "窗口领取", "window": "窗口领取", "express": "邮寄", "post": "邮寄"}

ACTIONS = {
    "claim": "领办",
    "pre_review": "预审通过",
    "accept": "受理",
    "request_supplement": "一次性告知补正",
    "reject": "不予受理",
    "correct": "答复更正申请",
    "tell_hearing": "告知有权要求听证",
    "suspend": "特别程序（暂停计时）",
    "resume": "恢复计时",
    "extend": "延长办理期限",
    "decide": "作出决定",
    "deliver": "送达",
    "reassign": "转给他人",
    "propose": "提出意见，请另一人决定",
    "finish_stage": "完成本环节",
    "give_opinion": "反馈本单位意见",
    "transfer": "转办（市、县之间）",
    "audit_sample": "抽查自动办理的决定",
}

STAGES = ("提交", "受理", "审查", "决定", "送达")
_STAGE_OF = {
    "draft": 0,
    "submitted": 1,
    "supplement_required": 1,
    "not_accepted": 1,
    "accepted": 2,
    "in_review": 2,
    "suspended": 2,
    "denied": 3,
    "approved": 4,
    "delivering": 4,
    "completed": 5,
}
_WEEKDAYS = "一二三四五六日"


def state_tone(state: str) -> str:
    """Return the tone (colour and shape) of a case state."""
    return CASE_TONES.get(state, "go")


def order_name(state: str) -> str:
    """Return an order state in plain words."""
    return ORDER_STATES.get(state, (state, "rest"))[0]


def order_tone(state: str) -> str:
    """Return the tone of an order state."""
    return ORDER_STATES.get(state, (state, "rest"))[1]


def fate(notice: Mapping[str, Any]) -> tuple[str, str]:
    """Return tone and words for what became of a notice: `("done", "短信已送达")`."""
    if notice["state"] == "failed" and notice["handled_by"]:
        return "rest", "没有送达，已跟进"
    if notice["state"] == "sent" and str(notice["fate"] or "").partition(":")[0].strip() == "success":
        return "done", f"{channel_name(notice['channel'])}已送达"
    tone, words = _FATES.get(notice["state"], ("rest", notice["state"]))
    return tone, words.format(channel=channel_name(notice["channel"]))


def stages(case: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the five stages of a case with how each stands: past, now, or nothing yet."""
    events = {entry["event"] for entry in case["timeline"]}
    at = _STAGE_OF.get(case["state"])
    if at is None:  # waiting for a fee, or withdrawn: where it stood is told by what has happened
        at = 4 if events & {"case.approved", "case.deemed_renewed"} else 2 if "case.accepted" in events else 1
    return [(name, "past" if place < at else "now" if place == at else "") for place, name in enumerate(STAGES)]


def yuan(fen: int | None) -> str:
    """Return fen as yuan for people: 4000 -> `40`, 4050 -> `40.50`."""
    if fen is None:
        return ""
    text = yuan_text(fen)
    return text.removesuffix(".00")


def yuan_exact(fen: int | None) -> str:
    """Return fen as yuan with two decimals."""
    return "" if fen is None else yuan_text(fen)


def moment(value: datetime | str | None) -> str:
    """Return a moment in Shanghai time, the way a person says it: `今天 14:05`, `昨天 09:00`, `12月8日 14:05`."""
    if not value:
        return ""
    when = _moment(value)
    day, now = shanghai_day(when), today()
    clock = when.astimezone(SHANGHAI).strftime("%H:%M")
    if day == now:
        return f"今天 {clock}"
    if (now - day).days == 1:
        return f"昨天 {clock}"
    return f"{short_day(day)} {clock}"


def last_minute(value: datetime | str) -> str:
    """Return the last minute before a deadline, for what ends at midnight ends on the day before: `11月28日 23:59`."""
    return moment(_moment(value) - timedelta(seconds=1))


def exact_moment(value: datetime | str | None) -> str:
    """Return a moment with year and seconds, Shanghai time, for receipts."""
    return _moment(value).astimezone(SHANGHAI).strftime("%Y-%m-%d %H:%M:%S") if value else ""


def _moment(value: datetime | str) -> datetime:
    when = datetime.fromisoformat(value) if isinstance(value, str) else value
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def short_day(value: date | str | None) -> str:
    """Return a day without this year's number: `12月8日`, `2027年1月5日`."""
    if not value:
        return ""
    day = date.fromisoformat(value[:10]) if isinstance(value, str) else value
    return f"{day.month}月{day.day}日" if day.year == today().year else f"{day.year}年{day.month}月{day.day}日"


def full_day(value: date | str | None) -> str:
    """Return a day with its weekday: `12月8日（星期二）`."""
    if not value:
        return ""
    day = date.fromisoformat(value[:10]) if isinstance(value, str) else value
    return f"{short_day(day)}（星期{_WEEKDAYS[day.weekday()]}）"


def bounded(count: int, most: int) -> str:
    """Return a count as a list shows it: `7`, or `99+` for more than can be counted."""
    return f"{most}+" if count > most else str(count)


def days_left(value: date | str | None) -> str:
    """Return how far a day is: `今天`, `明天`, `还有5天`, `已过2天`."""
    left = _days_until(value)
    if left is None:
        return ""
    if left < 0:
        return f"已过{-left}天"
    return ("今天", "明天", "后天")[left] if left < 3 else f"还有{left}天"


def validity(licence: Mapping[str, Any]) -> str:
    """Return how long a licence of the wallet is good: `有效期到2027年1月5日，还有36天`."""
    if licence["valid_to"]:
        until = f"有效期到{short_day(licence['valid_to'])}"
        if licence["days_left"] is None:
            return until
        return f"{until}，{days_left(licence['valid_to']) if licence['days_left'] else '今天是最后一天'}"
    return "长期有效" if licence["basis"] == "open" else "有效期以证照上写的为准"


def _days_until(value: date | str | None) -> int | None:
    if not value:
        return None
    day = date.fromisoformat(value[:10]) if isinstance(value, str) else value
    return (day - today()).days


def opening(hours: Sequence[Mapping[str, Any]]) -> str:
    """Return opening hours in words: `周一至周五 09:00-12:00、14:30-17:30`."""
    return "；".join(
        f"周{_WEEKDAYS[row['days'][0] - 1]}"
        + (f"至周{_WEEKDAYS[row['days'][-1] - 1]} " if len(row["days"]) > 1 else " ")
        + "、".join("-".join(period) for period in row["periods"])
        for row in hours
    )


def minutes_left(value: datetime | str | None) -> str:
    """Return how long an order stays open: `还有29分钟`, `已到期`."""
    if not value:
        return ""
    left_s = (_moment(value) - utc_now()).total_seconds()
    if left_s <= 0:
        return "已到期"
    minutes = max(1, int(left_s // 60))
    return f"还有{minutes}分钟" if minutes < 120 else f"还有{minutes // 60}小时"


def limit(limit: Mapping[str, Any] | None) -> str:
    """Return a time limit in words: `10个工作日`, `60天`, `当场`."""
    if not limit or limit.get("days") is None:
        return "没有固定期限"
    if not limit["days"]:
        return "当场办结"
    return f"{limit['days']}个工作日" if limit["unit"] == "working" else f"{limit['days']}天"


def size(count: int) -> str:
    """Return a file size for people."""
    return f"{count / 1048576:.1f} MB" if count >= 1048576 else f"{max(1, count // 1024)} KB"


def share(count: int, total: int) -> int:
    """Return a percentage."""
    return round(100 * count / total) if total else 0


def step_after(error: HallError) -> tuple[str, str]:
    """Return the next step a person can take after a failure: (words, address)."""
    if error.code == "identity.level_required":
        return ("去完成身份核验", "/me/identity?level=" + str(error.context.get("required_level", 2)))
    if error.code == "payment.payer_unknown":
        return ("去登录", "/sign-in")
    if error.code == "page.nothing_chosen":
        return ("回去勾选", "/pay")
    if error.status == 401:
        return ("去登录", "/sign-in")
    if error.status == 409:
        return ("看看最新状态", "/cases")
    return ("回到首页", "/")


def query(**values: str | int | Sequence[str] | None) -> str:
    """Return a query string of the values that are there; a list gives its name several times."""
    found = {name: value for name, value in values.items() if value not in (None, "")}
    return "?" + urlencode(found, doseq=True) if found else ""


def when_text(field: Mapping[str, Any], fields: Sequence[Mapping[str, Any]]) -> str:
    """Return when a conditional field is to be filled, for those who see it without script: `选“邮寄到付”时填写`."""
    labels = [
        option_label(other, value)
        for other in fields
        for value in (field.get("show_when") or {}).get(other["key"], ())
    ]
    return f"选“{'”或“'.join(labels)}”时填写" if labels else ""
