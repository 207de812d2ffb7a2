"""What an operator watches of the reconciliation. Findings should stand still, open ones and overdue bills be zero."""

from prometheus_client import Counter, Gauge

findings = Counter("hall_reconcile_findings", "Differences between bills and our books", ["provider", "kind"])
open_findings = Gauge("hall_reconcile_open_findings", "Differences that nobody has settled, of the last days", ["provider"])
overdue = Gauge("hall_reconcile_overdue", "Days whose bill is not reconciled although it is past noon of the next day", ["provider"])
rows = Counter("hall_reconcile_rows", "Rows of bills that were compared", ["provider"])
