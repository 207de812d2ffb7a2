"""What is particular to each kind of bill: who may pay it, what a surcharge may be, until when it can be paid. Data and pure functions.

The amount of a bill is always its department's (model.quote_of); these rules say when the hall does not take it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum

from app.exchange.departments import Bill
from app.kernel.clock import SHANGHAI, parse_utc


class Identity(StrEnum):
    """Whose citizen number may be given to find a bill. A bill's own number (decision, account, code) serves whoever holds it."""

    OWN = "own"
    FAMILY = "family"  # one's own, or a relative's, saying which relative
    ANYBODY = "anybody"


@dataclass(frozen=True)
class Surcharge:
    """What comes on top of a bill that is late: a share of it per calendar day after `due_on`, never more than `cap_percent` of it."""

    title: str
    percent_per_day: int
    cap_percent: int


@dataclass(frozen=True)
class BillRule:
    """The rules of one kind.

    Attributes:
        identity: whose citizen number may be given.
        holder: what the one whose bill it is is called, for the payer to compare before he pays.
        surcharge: how a surcharge is judged; None where its department alone computes it.
        surcharge_title: what a surcharge that is not judged is called.
        has_deadline: it cannot be paid any more after its deadline.
        oldest_first: of one account the older bills are paid before, or together with, the newer ones.
        source: what the rule rests on.
    """

    identity: Identity
    holder: str
    source: str
    surcharge: Surcharge | None = None
    surcharge_title: str = "滞纳金"
    has_deadline: bool = False
    oldest_first: bool = False


_FINE = Surcharge("加处罚款（逾期每日3%，不超过罚款数额）", percent_per_day=3, cap_percent=100)
_INSURED = BillRule(Identity.ANYBODY, "参保人", "社会保险费征缴暂行条例；可由他人代缴")
_BY_CODE = BillRule(Identity.OWN, "缴款人", "政府非税收入管理办法：凭缴款识别码缴款，持码即可缴")

# The kinds of config/catalogue/bill_kinds.json, which says by which numbers each is found and from which level on.
RULES: Mapping[str, BillRule] = {
    "traffic_fine": BillRule(
        Identity.OWN, "当事人", "行政处罚法第六十七条、第七十二条、第七十三条；道路交通安全法第一百零八条、第一百零九条", surcharge=_FINE
    ),
    "flex_pension": _INSURED,
    "flex_medical": _INSURED,
    "medins_resident": _INSURED,
    "resident_pension": _INSURED,
    "water": BillRule(
        Identity.OWN, "户主", "供用水合同：整单缴清，先缴旧账；违约金由供水单位核定", surcharge_title="违约金", oldest_first=True
    ),
    "medical": BillRule(Identity.FAMILY, "患者", "个人信息保护法第二十八条、第二十九条：医疗信息只给本人和近亲属"),
    "exam_fee": BillRule(Identity.ANYBODY, "考生", "考试报名公告：逾期未缴视为放弃", has_deadline=True),
    "nontax": _BY_CODE,
    "case_fee": _BY_CODE,
    # 0.05 % a day by 税收征收管理法 art. 32, computed by the tax system alone.
    "tax": BillRule(Identity.OWN, "纳税人", "税收征收管理法第三十二条：滞纳金由税务系统计算"),
}
# A kind nobody wrote a rule for is as narrow as any.
_NARROWEST = BillRule(Identity.OWN, "缴款人", "")

RELATIONS = ("配偶", "父母", "子女", "其他近亲属")
# Who pays by a relative's number says which relative it is; kept with the question, never sent to the department.
RELATION_FIELD: Mapping[str, object] = {
    "key": "relation",
    "label": "患者是您的",
    "type": "text",
    "hint": "给家人缴时选",
    "pattern": f"^({'|'.join(RELATIONS)})$",
    "options": list(RELATIONS),
}

# Nobody pays in less; a payment begun later could only come too late and go back.
SHORTEST_TO_PAY = timedelta(minutes=2)


def rule_of(kind: str) -> BillRule:
    """Return the rules of a kind."""
    return RULES.get(kind, _NARROWEST)


def surcharge_fen(surcharge: Surcharge, base_fen: int, due_on: date, on: date) -> int:
    """Return the surcharge on the Shanghai day `on`, in fen, rounded down.

    Calendar days count, from the day after `due_on`; weekends and holidays too.

    Source: 行政处罚法 art. 72 (3 % of the fine per day, at most the fine); 道路交通安全法 art. 109.
    """
    days = max(0, (on - due_on).days)
    return min(base_fen * surcharge.cap_percent // 100, base_fen * surcharge.percent_per_day * days // 100)


class Judgement(StrEnum):
    """What the hall thinks of a department's surcharge."""

    FINE = "fine"
    DIFFERS = "differs"  # lawful, but not what the days since due_on give: the department's figure holds, and the payer is told
    UNLAWFUL = "unlawful"  # above the cap: not taken


def judge_surcharge(bill: Bill, on: date) -> Judgement:
    """Judge the surcharge that a department asks for on a Shanghai day.

    A lower one can be right: days of a review or suit do not count (行政处罚法 art. 73), a payment may have been put off (art. 66), and a
    later receipt of the decision moves the days. So only the cap, which no fact can move, is a reason not to take a bill.
    """
    surcharge = rule_of(bill.kind).surcharge
    if surcharge is None:
        return Judgement.FINE
    if bill.late_fee_fen > bill.amount_fen * surcharge.cap_percent // 100:
        return Judgement.UNLAWFUL
    ours = surcharge_fen(surcharge, bill.amount_fen, date.fromisoformat(bill.due_on), on)
    return Judgement.FINE if bill.late_fee_fen == ours else Judgement.DIFFERS


def surcharge_title(kind: str) -> str:
    """Return what the surcharge of a kind is called on an order and a receipt."""
    rule = rule_of(kind)
    return rule.surcharge.title if rule.surcharge else rule.surcharge_title


def pay_by(bill: Bill) -> datetime | None:
    """Return the moment (UTC) after which a bill cannot be paid any more; None when a late payment is taken.

    The department's own moment, or else the end of `due_on` in Shanghai.
    """
    if not rule_of(bill.kind).has_deadline:
        return None
    if bill.hard_deadline:
        return parse_utc(bill.hard_deadline)
    return datetime.combine(date.fromisoformat(bill.due_on) + timedelta(days=1), time(), SHANGHAI)
