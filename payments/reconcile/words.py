"""Reconciliation in the words of an accountant: what each difference means and what to do about it. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.kernel.clock import SHANGHAI
from app.kernel.money import yuan_text

PROVIDERS = {"wechatpay": "微信支付", "alipay": "支付宝"}
KINDS = {"ours_only": "我方有、账单没有", "theirs_only": "账单有、我方没有", "amount": "金额不一致", "state": "状态不一致"}
SUBJECTS = {"payment": "收款", "refund": "退款"}
STATES = {"waiting": "待次日账单确认", "open": "待处理", "settled": "已核清"}
PROBLEMS = {
    "creating": "支付平台还在生成这一天的账单，稍后会自动再取。",
    "missing": "支付平台还没有这一天的账单，稍后会自动再取。",
    "refused": "下载的账单文件不完整或合计对不上，没有采用，稍后会自动再取。",
    "not_given": "支付平台没有给这一天的账单（当天的账单次日上午才有，三个月以前的不再提供）。",
    "unreachable": "支付平台暂时连不上，稍后会自动再取。",
}
_HOW = {
    "query": "已向支付平台查询并入账，双方一致。",
    "other_day": "已向支付平台查询：这笔款项属于另一天的账单。",
    "found": "我方系统里现在有这个单号，金额和状态一致。",
    "next_bill": "已在次日账单中找到这笔款项。",
    "withdrawn": "支付平台更正了账单，重新核对后已没有这处差异。",
    "staff": "已由工作人员核实处理。",
}
_OUR_STATES = {
    "created": "未支付",
    "waiting": "等待支付",
    "unknown": "结果未知",
    "paid": "已收款",
    "closed": "已关闭",
    "failed": "未成功",
    "held": "已冻结，待核实",
    "returned": "已在平台后台退回",
    "requested": "待审批",
    "approved": "已批准，未发出",
    "sending": "已发出，待确认",
    "processing": "退款处理中",
    "succeeded": "已退款",
    "abnormal": "退款异常",
    "rejected": "审批未通过",
}
_THEIR_STATES = {
    "paid": "已支付",
    "succeeded": "已退款",
    "processing": "退款处理中",
    "abnormal": "退款异常",
    "closed": "退款失败",
    "unknown": "不认识的状态",
}


def amount(fen: int | None) -> str:
    return "—" if fen is None else yuan_text(fen)


def moment(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(SHANGHAI).strftime("%Y-%m-%d %H:%M:%S")


def our_state(row: Mapping[str, Any]) -> str:
    return _OUR_STATES.get(row.get("ours_state", ""), row.get("ours_state", "")) or "—"


def their_state(row: Mapping[str, Any]) -> str:
    return _THEIR_STATES.get(row.get("theirs_state", ""), row.get("theirs_state", "")) or "—"


def sentence(row: Mapping[str, Any]) -> str:
    """Say in one sentence what differs."""
    what = SUBJECTS[row["subject"]]
    ours, theirs = amount(row.get("ours_fen")), amount(row.get("theirs_fen"))
    kind, detail = row["kind"], row.get("detail", "")
    if kind == "theirs_only":
        return f"账单上有一笔{what} {theirs} 元，我方系统里没有这个单号。"
    if kind == "ours_only":
        return f"我方记了一笔{what} {ours} 元，账单上没有这个单号。"
    if detail == "twice":
        return f"同一个单号在账单上出现了不止一次，合计 {theirs} 元；我方只记了 {ours} 元。"
    if kind == "amount":
        return f"账单上的{what}是 {theirs} 元，我方应为 {ours} 元。"
    if detail == "day":
        return f"金额都是 {ours} 元，但双方记的日期相差超过一天。"
    return f"金额都是 {theirs} 元，账单说“{their_state(row)}”，我方是“{our_state(row)}”。"


def advice(row: Mapping[str, Any]) -> str:
    """Say what is to be done, or why nothing is."""
    if row["state"] == "settled":
        text = _HOW.get(row.get("how", ""), "已核清。")
        return f"{text}说明：{row['said']}" if row.get("how") == "staff" and row.get("said") else text
    if row["state"] == "waiting":
        return "这笔款项发生在零点前后，可能在次日的账单里。明天对账时会自动再找，今天不用处理。"
    kind, is_refund = row["kind"], row["subject"] == "refund"
    if row.get("ours_state") == "held":
        return "这笔付款已冻结。请先在“对不上的付款”里处理：再问一次支付平台，或原路全额退回；处理好以后再核清这条差异。"
    if kind == "theirs_only" and is_refund:
        return "核实是否有人在支付平台的商户后台直接退款。确认后补登记；不是我方操作的，请联系支付平台。"
    if kind == "theirs_only":
        return "核实是否为同一商户号下其他系统的收款。是的话在系统里注明；不是的话，按商户订单号联系缴款人退款。"
    if kind == "ours_only" and is_refund:
        return "在支付平台商户后台按退款单号查询。平台没有这笔退款的话，缴款人还没有收到钱，请重新退款。"
    if kind == "ours_only":
        return "在支付平台商户后台按商户订单号查询。平台没有收到这笔钱的话，请停止办理并上报财务负责人。"
    if kind == "amount":
        return "以支付平台商户后台的实际金额为准，核对这张订单：多收的退还，少收的联系缴款人补缴。"
    return "在支付平台商户后台查询这个单号的最新状态，按实际结果处理后在系统里核清。"


def problem(text: str) -> str:
    """Say why a day is not reconciled yet."""
    return PROBLEMS.get(text.partition(":")[0], "还没有对完，稍后会自动继续。")
