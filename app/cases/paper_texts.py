"""What the papers of a case say. Pure: a case, the event of the step, and the item in; words out. The words are kept (papers.py), not made anew.

Source: 行政许可法 art. 32 (a dated paper for acceptance and refusal), 38 (reasons and remedies), 42 (extension), 45 (special procedures).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from app.cases import forms, materials, remedies
from app.cases.model import Case, State
from app.catalogue.answers import shown
from app.kernel.clock import chinese_day, chinese_moment
from app.kernel.events import Event

Row = tuple[str, str]
DELIVERY_NAMES = {
    "electronic": "电子证照", "licence": "电子证照", "window": "窗口领取", "self": "窗口领取", "express": "邮寄", "post": "邮寄",
}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """`rows` are label and value; `paragraphs` stand below them."""

    title: str
    rows: tuple[Row, ...]
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """What a paper is written from: the case as it is after the step, and what the step told."""

    case: Case
    event: Event
    item: Mapping[str, Any]
    division_name: Callable[[str], str]

    @property
    def told(self) -> Mapping[str, Any]:
        return self.event.data

    @property
    def detail(self) -> str:
        """What the timeline says of this step."""
        return next((entry.detail for entry in reversed(self.case.timeline) if entry.event == self.event.name), "")


def application(step: Step) -> Text:
    """申请表: the item's form as it was answered, in its order, with what was handed in. Nothing is masked: it is the applicant's own."""
    case, item = step.case, step.item
    rows: list[Row] = [("申请事项", case.item_name), ("办件编号", case.number), ("办理地区", step.division_name(case.division_code))]
    for situation in item["situations"]:
        if situation["key"] in case.answers:
            kind = "multiselect" if situation["type"] == "multi" else "select"
            rows.append((situation["question"], shown({"type": kind, "options": situation["options"]}, case.answers[situation["key"]], {})))
    for field in forms.visible_fields(item, case.answers, case.form):
        value = case.form.get(field["key"])
        names = {value: step.division_name(value)} if field["type"] == "division" and isinstance(value, str) else {}
        is_file = field["type"] == "photo" and not value and field["key"] in case.materials
        rows.append((field["label"], "见所附文件" if is_file else shown(field, value, names)))
    rows += [("所附材料", line) for line in _handed_in(step)]
    if step.event.name == "case.correction_answered":
        return Text("申请表（更正后）", tuple(rows), ("本表是同意更正后的内容，更正前的申请表仍然保留。",))
    return Text("申请表", tuple(rows), ("以上内容由申请人填写并确认提交。",))


def receipt(step: Step) -> Text:
    """收件凭证: number and query code, what was handed in, and the day by which acceptance is decided."""
    case, told = step.case, step.told
    waits_for_fee = case.state is State.AWAITING_PAYMENT and case.resume_state is State.SUBMITTED
    by = "缴费到账之日起重新计算" if waits_for_fee else _day(told["accept_by_on"])
    rows = [
        *_which(step),
        ("查询码", case.query_code),
        ("收件时间", chinese_moment(step.event.at)),
        *(("收到的材料", line) for line in _handed_in(step)),
        ("决定是否受理的最后一天", by),
    ]
    return Text(
        "收件凭证",
        tuple(rows),
        (
            "我们已经收到您的申请。本凭证只说明已经收到，不表示已经受理。",
            "凭办件编号和查询码，不用登录也能查进度；请不要告诉不相干的人。",
        ),
    )


def acceptance(step: Step) -> Text:
    """受理通知书: from which day, and by when it is decided."""
    case, told = step.case, step.told
    assert case.accepted_at is not None
    since = chinese_moment(case.accepted_at).partition(" ")[0]
    if step.event.name == "case.deemed_accepted":
        first = f"您提出的“{case.item_name}”申请，依法自{since}起视为受理。"
    else:
        first = f"您提出的“{case.item_name}”申请，材料齐全、符合法定形式，现予受理。"
    rows = [*_which(step), ("受理日期", since)]
    if told.get("deadline_on"):
        rows.append(("作出决定的最后一天", _day(told["deadline_on"]) + ("（次年放假安排未公布，为估算）" if told.get("deadline_estimated") else "")))
    return Text("受理通知书", (*rows, *_basis(step)), (first, step.detail))


def refusal(step: Step) -> Text:
    """不予受理通知书: the reason, the rule, the right body, and the remedies; or that a notice ran out."""
    case, told = step.case, step.told
    if step.event.name == "case.supplement_expired":
        last = (case.supplement or {}).get("by_on")
        rows = [*_which(step), ("原因", told["reason"]), *([("告知的最后一天", _day(last))] if last else [])]
        return Text("逾期未补正告知书", tuple(rows), ("本次申请到此结束，可以随时用原来填写的内容重新申请。", remedies.sentence({})))
    rows = [*_which(step), ("不予受理的理由", told["reason"])]
    if told.get("rule"):
        rows.append(("依据", told["rule"]))
    if told.get("right_body"):
        rows.append(("应当向谁申请", told["right_body"]))
    return Text("不予受理通知书", tuple(rows), (f"您提出的“{case.item_name}”申请，决定不予受理。", remedies.sentence(told)))


def supplement(step: Step) -> Text:
    """补正告知书: every gap with its reason at once, the last day, and how."""
    case, told = step.case, step.told
    rows = [*_which(step)]
    rows += [(f"要补的第{number}项", f"{row['name']}：{row['reason']}") for number, row in enumerate(told["missing"], start=1)]
    rows.append(("补齐的最后一天", _day(told["supplement_by_on"])))
    if told.get("reason"):
        rows.append(("再次告知的理由", told["reason"]))
    return Text(
        "补正告知书",
        tuple(rows),
        (
            "上面是需要补正的全部内容。补齐后，受理期限从收到之日起重新计算。",
            "怎么补：打开“我的办件”里的这个办件，逐项补好后点“去补交”；也可以带到办理单位的窗口。",
            "到期没有补齐也可以以后重新申请，原来填写的内容会带过去。" if case.rules.get("supplement_expiry", "close") == "close" else "到期后办件仍然保留，补齐后继续办理。",
        ),
    )


def suspension(step: Step) -> Text:
    """特别程序告知书: which procedure, how long, and that this time does not count."""
    told = step.told
    rows = [*_which(step), ("特别程序", told["reason"]), ("预计天数", f"{told['days']}天"), ("预计结束", _day(told["expected_on"]))]
    return Text("特别程序告知书", tuple(rows), ("这段时间依法不计入办理期限。程序结束后恢复计时，并会告诉您。",))


def hearing(step: Step) -> Text:
    """听证告知书: what the office intends and why, and by when a hearing can be asked for, or that it is held anyway (许可法 art. 46, 47)."""
    told = step.told
    rows = [*_which(step), ("拟作的决定和理由", told["reason"])]
    if told["is_required"]:
        rows.append(("最迟举行日", _day(told["hold_by_on"])))
        return Text("听证告知书", tuple(rows), ("作出决定前，本单位依法举行听证，不收费。时间和地点会提前告诉您。",))
    rows.append(("提出听证的期限", _day(told["ask_by_on"])))
    return Text("听证告知书", tuple(rows), ("您有权要求听证，不收费。请在期限内在本办件的页面上提出；到期没有提出，视为放弃。",))


def extension(step: Step) -> Text:
    """延期告知书: why, how long, and the new day."""
    told = step.told
    rows = [*_which(step), ("延期的理由", told["reason"]), ("延长天数", f"{told['days']}天")]
    if told.get("old_deadline_on"):
        rows.append(("原来的期限", _day(told["old_deadline_on"])))
    if told.get("deadline_on"):
        rows.append(("现在的期限", _day(told["deadline_on"])))
    return Text("延期告知书", tuple(rows), ("经本单位负责人批准，办理期限延长一次。",))


def decision(step: Step) -> Text:
    """准予／不予决定书: outcome, opinion, rule and remedies."""
    case, told = step.case, step.told
    if step.event.name == "case.deemed_renewed":  # 行政许可法 art. 50: shown to whoever asks whether the licence is still good
        rows = [*_which(step), ("决定", "视为准予延续"), ("原有效期到", _day(told["expires_on"])), ("理由", told["opinion"])]
        first = f"您按期提出的“{case.item_name}”延续申请，本单位在有效期届满前没有作出决定，依法视为准予延续。"
        return Text("视为准予延续证明", (*rows, *_basis(step)), (first, remedies.sentence(told)))
    is_approved = step.event.name == "case.approved"
    rows = [*_which(step), ("决定", "准予办理" if is_approved else "不予办理")]
    if told.get("opinion"):
        rows.append(("意见" if is_approved else "理由", told["opinion"]))
    first = f"您提出的“{case.item_name}”申请，经审查，决定{'准予' if is_approved else '不予'}办理。"
    is_automatic = bool((case.decision or {}).get("is_automatic"))
    by_rules = ("本决定由系统按公开的规则自动作出；您可以要求工作人员重新核对。",) if is_automatic else ()  # 个人信息保护法 art. 24
    return Text("准予决定书" if is_approved else "不予决定书", (*rows, *_basis(step)), (first, *by_rules, remedies.sentence(told)))


def completion(step: Step) -> Text:
    """办结凭证: how the result was handed over."""
    told = step.told
    rows = [*_which(step), ("送达方式", DELIVERY_NAMES.get(told["method"], told["method"])), ("送达时间", chinese_moment(step.event.at))]
    if told.get("tracking"):
        rows.append(("邮件单号", told["tracking"]))
    return Text("办结凭证", tuple(rows), ("本办件已经办结。", remedies.sentence({})))


def _which(step: Step) -> Iterator[Row]:
    yield "办理事项", step.case.item_name
    yield "办件编号", step.case.number


def _basis(step: Step) -> Iterator[Row]:
    laws = [f"《{row['law']}》{'、'.join(row['articles'])}" for row in step.item.get("legal_basis") or ()]
    if laws:
        yield "办理依据", "；".join(laws)


def _handed_in(step: Step) -> Iterator[str]:
    case = step.case
    for material in materials.needed(step.item, case.answers):
        held = case.materials.get(material["key"]) or {}
        if held.get("licence_id"):
            yield f"{material['name']}（电子证照）"
        elif held.get("files"):
            yield f"{material['name']}（{len(held['files'])}个文件）"
    for promise in case.open_promises:
        yield f"{promise.name}（承诺以后补交）"


def _day(day: str) -> str:
    return chinese_day(date.fromisoformat(day))
