"""What an operator watches. The alarms on them are in docs/operations: every one of these should normally stand still."""

from prometheus_client import Counter

notices = Counter("hall_payment_notices", "Notifications by outcome", ["provider", "outcome"])
signatures_refused = Counter("hall_payment_signatures_refused", "Notifications whose signature did not hold", ["provider", "reason"])
held = Counter("hall_payment_held", "Reports that did not match our record", ["provider", "what"])
overpaid = Counter("hall_payment_overpaid", "Payments beyond the one that settled", ["provider"])
settled = Counter("hall_payment_settled", "Orders settled, by what told us first", ["provider", "source"])
unknown_outcomes = Counter("hall_payment_unknown_outcomes", "Calls to a provider without a clear answer", ["provider", "call"])
unknown_numbers = Counter("hall_payment_unknown_numbers", "Notices of numbers we do not have", ["provider"])
