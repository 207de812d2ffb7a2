"""What an operator watches. The alarms on them are in docs/operations: every one of these should normally stand still."""

from prometheus_client import Counter, Gauge

notices = Counter("hall_payment_notices", "Notifications by outcome", ["provider", "outcome"])
signatures_refused = Counter("hall_payment_signatures_refused", "Notifications whose signature did not hold", ["provider", "reason"])
held = Counter("hall_payment_held", "Reports that did not match our record", ["provider", "what"])
overpaid = Counter("hall_payment_overpaid", "Payments beyond the one that settled", ["provider"])
settled = Counter("hall_payment_settled", "Orders settled, by what told us first", ["provider", "source"])
unknown_outcomes = Counter("hall_payment_unknown_outcomes", "Calls to a provider without a clear answer", ["provider", "call"])
refunds = Counter("hall_payment_refunds", "Refunds by what became of them", ["provider", "state"])
refunds_overdue = Gauge("hall_payment_refunds_overdue", "Refunds under way for more than seven days", multiprocess_mode="mostrecent")
oldest_unknown = Gauge(
    "hall_payment_oldest_unknown_seconds", "Age of the oldest call to a provider of unknown outcome", multiprocess_mode="mostrecent"
)
unknown_numbers = Counter("hall_payment_unknown_numbers", "Notices of numbers we do not have", ["provider"])
not_understood = Counter("hall_payment_not_understood", "Answers of a provider, proven to be its, that we cannot read", ["provider"])
answers_refused = Counter("hall_payment_answers_refused", "Answers of a provider that are not proven to be its", ["provider", "reason"])
clock_offset = Gauge(
    "hall_payment_clock_offset_seconds", "Provider's clock ahead of ours, by its last answer", ["provider"], multiprocess_mode="mostrecent"
)
funds_short = Counter("hall_payment_refund_funds_short", "Refunds a provider could not make for want of funds", ["provider"])
