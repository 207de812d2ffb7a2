"""What a resident can meet when paying. Every text says what to do next.

NotFound     order.not_found, receipt.not_found, refund.not_found
Forbidden    refund.second_person_needed
Conflict     order.already_paid, order.payable_busy, order.older_first, order.closed, order.expired, order.close_unsure, order.payment_held,
             order.too_many_attempts, payment.payer_unknown, payment.refused, payment.not_held, payment.held_unclear,
             payment.return_asked, refund.not_refundable, refund.decided, refund.pay_out_refused
Validation   payment.scene_unsupported, refund.too_much
Unavailable  provider.unavailable (kernel)
"""

from app.kernel.errors import Conflict, Forbidden, NotFound, ProviderUnavailable, ValidationFailed, error_row
from app.kernel.money import yuan_text


class OrderNotFound(NotFound):
    code = "order.not_found"


class ReceiptNotFound(NotFound):
    code = "receipt.not_found"


class OrderAlreadyPaid(Conflict):
    code = "order.already_paid"
    public = ("order_id",)


class PayableBusy(Conflict):
    """Somebody else, or another order of the same resident, is about to pay one of these."""

    code = "order.payable_busy"
    public = ("order_id",)


class OlderFirst(Conflict):
    """Of one account an older bill has to be paid before, or together with, this one."""

    code = "order.older_first"


class OrderClosed(Conflict):
    code = "order.closed"


class OrderExpired(Conflict):
    code = "order.expired"


class CloseUnsure(Conflict):
    """The provider has not confirmed that nothing was paid, so the order stays."""

    code = "order.close_unsure"


class PaymentHeld(Conflict):
    """The provider told of a payment that does not match the order; a person looks at it."""

    code = "order.payment_held"


class TooManyAttempts(Conflict):
    code = "order.too_many_attempts"


class PayerUnknown(Conflict):
    """The resident has never signed in at this provider's platform, so it cannot know who pays."""

    code = "payment.payer_unknown"


class PaymentRefused(Conflict):
    """The provider will not take this attempt; nothing was paid."""

    code = "payment.refused"


class NotHeld(Conflict):
    """The payment fits by now, or somebody has decided about it: load it again."""

    code = "payment.not_held"


class HeldUnclear(Conflict):
    """What came cannot be given back by the hall (another currency, or the provider tells another amount now): use its own pages."""

    code = "payment.held_unclear"


class ReturnAsked(Conflict):
    """Somebody has asked for the payment to go back; the head has to decide."""

    code = "payment.return_asked"


class ReceiptNotIssued(Conflict):
    code = "receipt.not_issued"


class RefundNotFound(NotFound):
    code = "refund.not_found"


class NotRefundable(Conflict):
    """Nothing of this order can go back."""

    code = "refund.not_refundable"


class RefundDecided(Conflict):
    """The second person has agreed or refused already."""

    code = "refund.decided"


class PayOutRefused(Conflict):
    """The provider will not pay a stuck refund out this way."""

    code = "refund.pay_out_refused"


class SecondPersonNeeded(Forbidden):
    """Only the head of the agency, under another account than the asker's, may agree or refuse."""

    code = "refund.second_person_needed"


class RefundTooMuch(ValidationFailed):
    code = "refund.too_much"


class SceneUnsupported(ValidationFailed):
    code = "payment.scene_unsupported"

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__([error_row(pointer, "unsupported", detail)], detail)


def already_paid(order_id: str) -> OrderAlreadyPaid:
    return OrderAlreadyPaid("这笔费用已经缴清了，不用再缴，可以在订单里查看收据。", en="Paid already.", order_id=order_id)


def not_found() -> OrderNotFound:
    return OrderNotFound("没有找到这张订单。", en="No such order.")


def refund_not_found() -> RefundNotFound:
    return RefundNotFound("没有找到这笔退款。", en="No such refund.")


def too_much(left_fen: int) -> RefundTooMuch:
    detail = f"最多还可以退{yuan_text(left_fen)}元。" if left_fen else "这笔付款已经没有可以退的金额。"
    return RefundTooMuch([error_row("/amount_fen", "too_much", detail)], detail)


def provider_silent(label: str) -> ProviderUnavailable:
    """The outcome of a prepay is unknown. True as it stands: money moves only in the cashier, which has not opened yet."""
    return ProviderUnavailable(
        f"{label}暂时没有回应，您还没有被扣款。请过几秒再点一次“支付”（不会重复下单），或换一种支付方式。",
        en="The payment provider does not answer. You have not been charged; try again in a few seconds.",
        retry_after_s=5,
    )
