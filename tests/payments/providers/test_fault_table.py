"""Every fault x every call x both providers: what comes of it, and that the same call afterwards does it exactly once.

The provider is the stand-in over real HTTP. `unknown`: it may have happened, so it is asked for; `not_sent`: nothing happened, the same
again later; `refused`: a definite no. Nothing else may come out of a call, and no fault may be taken for an answer.
"""

from datetime import timedelta

import pytest

from app.kernel.clock import today, utc_now
from payments.provider import PaymentState, ProviderNotSent, ProviderRefused, ProviderUnknown, RefundProviderState
from payments.providers.bill_downloads import AlipayBills, WeChatPayBills
from tests.payments.conftest import providers
from tests.payments.providers.tries import attempt_of, paid_attempt, refund_of

# Fault -> (WeChat Pay, Alipay).
UNKNOWN, NOT_SENT, REFUSED = ProviderUnknown, ProviderNotSent, ProviderRefused
OUTCOMES = {
    "down": (UNKNOWN, UNKNOWN),  # the connection breaks before the work
    "lost": (UNKNOWN, UNKNOWN),  # and after it: the two cannot be told apart
    "slow": (UNKNOWN, UNKNOWN),  # the time-out
    "error500": (UNKNOWN, UNKNOWN),
    "garbage": (UNKNOWN, UNKNOWN),
    "bad_signature": (UNKNOWN, UNKNOWN),  # WeChat Pay's SIGNTEST is this
    "unsigned": (UNKNOWN, UNKNOWN),
    "huge": (UNKNOWN, UNKNOWN),
    "redirect": (UNKNOWN, UNKNOWN),  # never followed
    "rate_limited": (NOT_SENT, NOT_SENT),
    "clock_skew": (REFUSED, REFUSED),  # SIGN_ERROR: turned away, and nothing was done
    "expired_certificate": (UNKNOWN, UNKNOWN),  # the answer is signed with one that has ended
}
CALLS = ("prepay", "query", "close", "refund", "query_refund", "bill")


class Bench:
    """A provider, a clock of its own, and a call of each kind ready to be made again and again."""

    def __init__(self, hall, name, chain):
        self.hall, self.name, self.offset = hall, name, timedelta()
        wechatpay, alipay = providers(
            hall.http, hall.credentials, hall.sandbox.url, f"{hall.sandbox.url}/gateway.do",
            certificate_mode=chain is not None, alipay_chain=chain, clock=self.now,
        )  # fmt: skip
        self.provider = wechatpay if name == "wechatpay" else alipay
        self.client = wechatpay.client if name == "wechatpay" else alipay._gateway
        self.bills = WeChatPayBills(hall.http, wechatpay) if name == "wechatpay" else AlipayBills(hall.http, alipay._gateway)

    def now(self):
        return utc_now() + self.offset

    async def ready(self, folder):
        until = {"expires_at": utc_now().replace(microsecond=0) + timedelta(days=3)}
        self.open = await attempt_of(self.hall, self.provider, **until)
        await self.provider.create(self.open)
        self.fresh = await attempt_of(self.hall, self.provider, **until)
        self.paid = await paid_attempt(self.hall, self.provider)
        self.wanted = refund_of(self.hall, self.provider, self.paid, 1000)
        self.made = refund_of(self.hall, self.provider, await paid_attempt(self.hall, self.provider), 1000)
        await self.provider.refund(self.made)
        await self.hall.sim("bills", provider=self.name, day=today().isoformat(), ready=True)
        self.to = folder / "bill"

    async def make(self, call):
        provider = self.provider
        calls = {
            "prepay": lambda: provider.create(self.fresh),
            "query": lambda: provider.query(self.paid),
            "close": lambda: provider.close(self.open),
            "refund": lambda: provider.refund(self.wanted),
            "query_refund": lambda: provider.query_refund(self.made),
            "bill": lambda: self.bills.fetch(today(), self.to),
        }
        return await calls[call]()

    async def check(self, call):
        """The same call without the fault: its answer, and the one effect of all of them at the provider."""
        if call == "close":
            try:
                await self.make(call)
            except ProviderRefused:  # closed by the first one already; Alipay says so
                pass
            assert (await self.provider.query(self.open)).state is PaymentState.CLOSED
            return
        answer = await self.make(call)
        if call == "prepay":
            assert answer and (await self.provider.query(self.fresh)).state is PaymentState.PENDING
        elif call == "query":
            assert (answer.state, answer.amount_fen) == (PaymentState.PAID, 4000)
        elif call == "refund":
            rows = (await self.hall.sim_get("refunds", out_trade_no=self.paid.out_trade_no))["items"]
            assert [(row["out_refund_no"], row["amount_fen"]) for row in rows] == [(self.wanted.out_refund_no, 1000)]
        elif call == "query_refund":
            assert answer.state in (RefundProviderState.PROCESSING, RefundProviderState.SUCCEEDED)
            assert answer.out_refund_no == self.made.out_refund_no
        else:
            assert answer.path.stat().st_size > 0

    async def begin(self, fault):
        if fault == "clock_skew":
            self.offset = timedelta(minutes=15)
        elif fault == "expired_certificate":
            await self.hall.sim("certificates", provider=self.name, days=1, keep_old=False)
            self.offset += timedelta(minutes=2)  # keys are fetched at most once a minute
            await self.provider.query(self.open)  # it is learned now, and then it ends
            self.offset += timedelta(days=1)
        else:
            self.client._timeout_s = 0.15 if fault == "slow" else 5
            await self.hall.sim("faults", provider=self.name, mode=fault)

    async def end(self, fault):
        self.client._timeout_s = 5
        if fault == "clock_skew":
            self.offset = timedelta()
        elif fault == "expired_certificate":
            await self.hall.sim("certificates", provider=self.name, days=30, keep_old=False)
            self.offset += timedelta(minutes=2)
        else:
            await self.hall.sim("faults", provider=self.name, mode="none")


@pytest.fixture
async def bench(hall, tmp_path, request):
    name, fault = request.param
    needs_chain = fault == "expired_certificate"
    bench = Bench(hall, name, (await hall.sim_get("certificates"))["alipay"] if needs_chain else None)
    if needs_chain:
        hall.sandbox.sandbox.clock = lambda: bench.now().timestamp()  # one clock for both, which the test moves on
    await bench.ready(tmp_path)
    return bench


CASES = [(name, fault) for fault in OUTCOMES for name in ("wechatpay", "alipay")]


@pytest.mark.parametrize(
    ("bench", "fault"), [((name, fault), fault) for name, fault in CASES], indirect=["bench"], ids=map("-".join, CASES)
)
async def test_every_call_in_every_trouble(bench, fault):
    expected = OUTCOMES[fault][bench.name == "alipay"]
    for call in CALLS if fault != "expired_certificate" else ("query", "query_refund"):
        await bench.begin(fault)
        try:
            with pytest.raises(Exception) as caught:
                await bench.make(call)
        finally:
            await bench.end(fault)
        assert type(caught.value) is expected, (call, caught.value)
        await bench.check(call)
