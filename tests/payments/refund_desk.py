"""A provider whose refund desk a test holds in its hand: payments go to the stand-in, refunds are kept here, as strictly as the real ones.

One number is one refund with one content; no more goes back than was paid; what was never received is not found.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.kernel.clock import utc_now
from payments.provider import ProviderNotSent, ProviderRefused, ProviderUnknown, RefundProviderState, RefundReport


@dataclass
class RefundDesk:
    """Wraps a provider.

    Attributes:
        mode: what becomes of the next new refunds: `succeed`, `process`, `lose` (done, but the answer does not arrive), `drop` (never
            received, and no answer), `not_sent`, `refuse`, `misname` (another amount is told).
    """

    provider: Any
    mode: str = "succeed"
    made: dict[str, dict[str, Any]] = field(default_factory=dict)  # by out_refund_no
    calls: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    silent: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.provider, name)

    def prepare_refund(self, terms: Any) -> str:
        return json.dumps({name: getattr(terms, name) for name in ("out_trade_no", "out_refund_no", "amount_fen", "paid_fen", "reason")})

    async def refund(self, refund: Any) -> RefundReport:
        self.calls.append(refund.out_refund_no)
        content = json.loads(refund.request)
        assert content["out_refund_no"] == refund.out_refund_no and content["out_trade_no"] == refund.out_trade_no
        if self.mode == "drop":
            raise ProviderUnknown("time-out")
        if self.mode == "not_sent":
            raise ProviderNotSent("not enough funds")
        known = self.made.get(refund.out_refund_no)
        if known is not None:
            assert known["content"] == content, "one number with two contents"
            return self._report(refund)
        if self.mode == "refuse":
            raise ProviderRefused("TRADE_OVERDUE")
        before = [made["content"] for made in self.made.values() if made["content"]["out_trade_no"] == refund.out_trade_no]
        assert sum(row["amount_fen"] for row in before) + content["amount_fen"] <= content["paid_fen"], "more back than was paid"
        state = "processing" if self.mode == "process" else "succeeded"
        self.made[refund.out_refund_no] = {"content": content, "state": state}
        if self.mode == "lose":
            raise ProviderUnknown("time-out")
        return self._report(refund)

    async def query_refund(self, refund: Any) -> RefundReport:
        self.queries.append(refund.out_refund_no)
        if self.silent:
            raise ProviderUnknown("time-out")
        return self._report(refund)

    def becomes(self, out_refund_no: str, state: str) -> None:
        self.made[out_refund_no]["state"] = state

    def told(self, refund: Any, state: str, **changes: Any) -> RefundReport:
        """Return a report as a notice brings it."""
        own = {"amount_fen": refund.amount_fen, "provider_refund_no": "5030", "refunded_at": utc_now()} | changes
        return RefundReport(self.provider.name, refund.out_trade_no, refund.out_refund_no, RefundProviderState(state), **own)

    def returned_fen(self, out_trade_no: str) -> int:
        made = [row for row in self.made.values() if row["content"]["out_trade_no"] == out_trade_no and row["state"] == "succeeded"]
        return sum(row["content"]["amount_fen"] for row in made)

    def _report(self, refund: Any) -> RefundReport:
        made = self.made.get(refund.out_refund_no)
        at: datetime | None = None
        if made is None:
            return RefundReport(self.provider.name, refund.out_trade_no, refund.out_refund_no, RefundProviderState.NOT_FOUND)
        if made["state"] == "succeeded":
            at = utc_now()
        amount_fen = made["content"]["amount_fen"] + (1 if self.mode == "misname" else 0)
        return RefundReport(
            self.provider.name,
            refund.out_trade_no,
            refund.out_refund_no,
            RefundProviderState(made["state"]),
            amount_fen=amount_fen,
            provider_refund_no=f"50{refund.out_refund_no[-6:]}",
            refunded_at=at,
        )
