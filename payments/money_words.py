"""Refunds and payments that do not fit, in the words of somebody in a finance office: what happened and what to do. Pure."""

from collections.abc import Mapping
from typing import Any

from app.kernel.money import yuan_text

PROVIDERS = {"wechatpay": "微信支付", "alipay": "支付宝"}
# Name and tone (as the pages use tones: go, wait, done, stop, rest).
REFUND_STATES = {
    "requested": ("等负责人审批", "wait"),
    "approved": ("马上发出", "go"),
    "sending": ("已发出，等平台确认", "go"),
    "processing": ("平台处理中", "go"),
    "succeeded": ("已退到账", "done"),
    "abnormal": ("退不到账户，要人处理", "stop"),
    "closed": ("没有退成", "stop"),
    "rejected": ("没有批准", "rest"),
}
REFUND_KINDS = {"staff": "工作人员退款", "overpaid": "多付自动退回", "bill_refused": "部门未确认，自动退回", "held": "金额不符退回"}
_PAYMENT_STATES = {
    "held": ("对不上，已冻结", "stop"),
    "paid": ("已对上并入账", "done"),
    "returned": ("已在平台后台退回", "rest"),
}
_ENDED = {
    "closed": "支付平台说这次退款最终没有成功。",
    "already_returned": "这笔钱已经由另一次退款退回了，所以这一次没有发出。",
    "payment_fits": "后来支付平台的消息对上了，订单已经缴清，不用再退。",
    "bill_refused": "收款部门没有确认这笔缴款，缴款由系统自动退回，这笔申请不用再批。",
}


def payment_state(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return name and tone of how a payment stands (as HeldDesk.view gives it)."""
    if row["kind"] != "overpaid":
        return _PAYMENT_STATES.get(row["kind"], ("没有付款", "rest"))
    states = {refund["state"] for refund in row["refunds"]}
    if "succeeded" in states:
        return "多付，已退回", "done"
    return ("多付，退款受阻", "stop") if states <= {"abnormal", "closed", "rejected"} else ("多付，正在退回", "go")


def payment_sentence(row: Mapping[str, Any]) -> str:
    """Say what happened with a payment (as HeldDesk.view gives it)."""
    provider = PROVIDERS.get(row["provider"], row["provider"])
    asked = yuan_text(row["expected_fen"])
    came = "另一个金额" if row["reported_fen"] is None else f"{yuan_text(row['reported_fen'])} 元"
    if row["kind"] == "held" and "currency" in row["differs"]:
        return f"订单应收 {asked} 元人民币，{provider}报来的是另一种货币。系统没有入账，缴款人暂时不能再付这张订单。"
    if row["kind"] == "held":
        return f"订单应收 {asked} 元，{provider}说缴款人付了 {came}。系统没有按缴清处理，钱挂在“待查”科目，缴款人暂时不能再付这张订单。"
    if row["kind"] == "overpaid":
        text = "这笔钱是多出来的（重复付款，或付款时订单已经关闭）"
        if row["reported_fen"] is not None and row["decided_by"]:
            text = f"订单应收 {asked} 元，{provider}收到 {came}，经人工核对按多付处理"
        return f"{text}，全额退给缴款人。"
    if row["kind"] == "returned":
        return f"订单应收 {asked} 元，{provider}报来的付款对不上。负责人登记：已在平台商户后台退给缴款人。"
    return f"支付平台后来的消息与订单一致，{asked} 元已经入账。"


def payment_advice(row: Mapping[str, Any]) -> str:
    """Say what is to be done about a payment, "" when nothing is."""
    if row["kind"] == "held":
        if any(refund["state"] == "requested" for refund in row["refunds"]):
            return "已经有人申请退回，等本单位负责人（不能是申请人）在退款里审批。"
        if row["may_return"]:
            return (
                "先点“再问一次支付平台”。还是对不上的，把收到的钱原路全额退回，缴款人就可以重新缴费。不能按缴清处理，也不要让缴款人另外补差额。"
            )
        return "系统不知道该退多少人民币，不能自动退。请在支付平台商户后台核对并退款，再由负责人在这里登记。"
    if row["kind"] == "overpaid" and row["refunds"] and all(r["state"] in ("closed", "rejected") for r in row["refunds"]):
        return "上一次退款没有成功，请打开那次退款，再退一次。"
    return ""


def refund_sentence(row: Mapping[str, Any]) -> str:
    """Say what a refund is (as Refunds.view gives it) and how far it has come."""
    provider = PROVIDERS.get(row["provider"], row["provider"])
    amount = f"{yuan_text(row['amount_fen'])} 元"
    texts = {
        "requested": f"申请退回 {amount}，超过单人限额，还没有发出。",
        "approved": f"退回 {amount} 已获准，几秒内发给{provider}。",
        "sending": f"退回 {amount} 的申请已发给{provider}，还没有明确答复。系统按同一个退款单号反复询问，不会重复退。",
        "processing": f"{provider}正在退回 {amount}，银行卡一般要1到3个工作日。",
        "succeeded": f"{amount} 已经退回缴款人的支付账户。",
        "abnormal": f"{amount} 退不到缴款人的账户（银行卡注销、账户异常等）。",
        "closed": f"退回 {amount} 没有成功，这笔额度已经放开，可以再退一次。",
        "rejected": f"退回 {amount} 的申请没有批准。",
    }
    if row["state"] == "abnormal" and row["failure"] == "amount_differs":
        return f"{provider}说已经退款，但金额不是 {amount}，没有入账。"
    text = texts[row["state"]]
    if row["state"] in ("closed", "rejected"):
        text += _ENDED.get(row["failure"] or "", f"原因：{row['failure']}。" if row["failure"] else "")
    return text


def refund_advice(row: Mapping[str, Any]) -> str:
    """Say what is to be done about a refund, "" when nothing is."""
    if row["state"] == "abnormal":
        if row["provider"] == "wechatpay" and row["failure"] != "amount_differs":
            return (
                "联系缴款人，由本单位负责人（不能是申请人）在这里改退到缴款人的其他银行卡；联系不上或不方便的，退到收款商户的银行账户，再线下转给缴款人。"
                f"也可以在微信支付商户平台按退款单号 {row['out_refund_no']} 处理，办好后系统会自动得知。"
            )
        return f"在支付平台商户后台按退款单号 {row['out_refund_no']} 查看原因并处理，必要时联系平台客服。办好后系统会自动得知。"
    if row["state"] == "requested":
        return "由本单位负责人审批，申请人不能审批自己的申请。"
    if row["is_overdue"]:
        return "已经超过7天，请在支付平台商户后台按退款单号查看，必要时联系平台客服。"
    if row["state"] == "closed" and row["failure"] not in ("already_returned",):
        return "核实原因后可以再退一次，会用新的退款单号。"
    return ""
