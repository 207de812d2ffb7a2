"""What finance staff read about a payment or a refund: whole sentences for every state there is."""

import pytest

from payments import money_words as say
from payments.refund import RefundKind, RefundState

PAYMENT = {
    "provider": "wechatpay", "kind": "held", "expected_fen": 4000, "reported_fen": 3999, "differs": ["amount"], "may_return": True,
    "decided_by": None, "refunds": [],
}  # fmt: skip
REFUND = {"provider": "alipay", "amount_fen": 4000, "failure": None, "is_overdue": False, "out_refund_no": "rfd_1", "state": "requested"}


@pytest.mark.parametrize(
    ("changes", "state", "part", "todo"),
    [
        ({}, "对不上，已冻结", "应收 40.00 元，微信支付说缴款人付了 39.99 元", "原路全额退回"),
        ({"differs": ["currency"], "may_return": False}, "对不上，已冻结", "另一种货币", "商户后台"),
        ({"refunds": [{"state": "requested"}], "may_return": False}, "对不上，已冻结", "39.99", "在退款里审批"),
        ({"kind": "overpaid", "reported_fen": None, "refunds": [{"state": "sending"}]}, "多付，正在退回", "重复付款", ""),
        ({"kind": "overpaid", "decided_by": "x", "refunds": [{"state": "succeeded"}]}, "多付，已退回", "经人工核对", ""),
        ({"kind": "overpaid", "refunds": [{"state": "closed"}]}, "多付，退款受阻", "全额退给缴款人", "再退一次"),
        ({"kind": "paid"}, "已对上并入账", "已经入账", ""),
        ({"kind": "returned"}, "已在平台后台退回", "负责人登记", ""),
        ({"kind": "waiting"}, "没有付款", "", ""),
    ],
)
def test_a_payment_in_words(changes, state, part, todo):
    row = PAYMENT | changes
    assert say.payment_state(row)[0] == state
    assert part in say.payment_sentence(row)
    assert (todo in say.payment_advice(row)) if todo else say.payment_advice(row) == ""


@pytest.mark.parametrize("state", RefundState)
def test_every_state_of_a_refund_has_its_words(state):
    assert "40.00 元" in say.refund_sentence(REFUND | {"state": str(state)}) and say.REFUND_STATES[str(state)][0]
    assert set(say.REFUND_KINDS) == {str(kind) for kind in RefundKind}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"state": "abnormal", "failure": "abnormal"}, "商户后台按退款单号 rfd_1"),
        ({"state": "abnormal", "failure": "abnormal", "provider": "wechatpay"}, "改退到缴款人的其他银行卡"),
        ({"state": "abnormal", "failure": "amount_differs", "provider": "wechatpay"}, "联系平台客服"),
        ({"state": "processing", "is_overdue": True}, "超过7天"),
        ({"state": "closed", "failure": "closed"}, "再退一次"),
    ],
)
def test_what_is_to_be_done_about_a_refund(changes, part):
    assert part in say.refund_advice(REFUND | changes)


def test_nothing_is_to_be_done_about_what_has_ended_well():
    for changes in ({"state": "succeeded"}, {"state": "closed", "failure": "already_returned"}, {"state": "processing"}):
        assert say.refund_advice(REFUND | changes) == ""
    assert "TRADE_OVERDUE" in say.refund_sentence(REFUND | {"state": "closed", "failure": "TRADE_OVERDUE"})
