"""Rows of a bill that match nothing of ours are an alarm until somebody or something settles them."""

import pytest
from prometheus_client import REGISTRY


@pytest.mark.parametrize("provider", ["wechatpay", "alipay"])
async def test_unmatched_rows_of_a_bill_are_counted_and_stay_open(books, provider):
    def shown(metric, **labels):
        return REGISTRY.get_sample_value(metric, {"provider": provider, **labels}) or 0

    await books.paid(provider)
    before = shown("hall_reconcile_findings_total", kind="theirs_only")
    await books.bill(provider, foreign=2)
    await books.run(provider)
    assert shown("hall_reconcile_findings_total", kind="theirs_only") == before + 2
    assert shown("hall_reconcile_open_findings") == 2
