"""The report: what an accountant reads, and what a spreadsheet must not do with it."""

import csv
import io
from datetime import UTC, date, datetime

import pytest

from payments.bill import BillKind
from payments.reconcile import report, words
from payments.reconcile.matching import Finding, FindingState, Kind

NOW = datetime(2026, 11, 24, 2, 5, tzinfo=UTC)


def finding(kind, subject="payment", state="open", **more):
    values = {
        "provider": "wechatpay", "day": date(2026, 11, 23), "kind": Kind(kind), "subject": BillKind(subject), "number": "pay_01",
        "out_trade_no": "pay_01", "at": NOW,
    }  # fmt: skip
    known = {name: more.pop(name) for name in ("how", "said") if name in more}
    return Finding(**values | more).to_document() | {"state": state, "found_at": NOW} | known


def run(rows, **sums):
    theirs = {"payments": 1, "payments_fen": 4000, "refunds": 0, "refunds_fen": 0, "fee_millifen": 24000} | sums
    ours = {"payments": 1, "payments_fen": 4000, "refunds": 0, "refunds_fen": 0}
    counts = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    progress = {"theirs": theirs, "ours": ours, "matched": 1}
    return {"provider": "wechatpay", "day": "2026-11-23", "findings": counts, "progress": progress}


def test_a_clean_day_says_so():
    page = report.html_report(run([]), [], NOW)
    assert "账单与本系统一致，没有需要处理的差异" in page and "没有差异。" in page
    assert "2026年11月23日" in page and "平台手续费（账单）：0.24 元" in page


def test_a_difference_is_told_in_words_with_what_to_do():
    rows = [finding("theirs_only", theirs_fen=1200, theirs_state="paid", number="canteen1", out_trade_no="canteen1")]
    page = report.html_report(run(rows, payments=2, payments_fen=5200), rows, NOW)
    assert "有 1 处差异需要处理" in page
    assert "账单上有一笔收款 12.00 元，我方系统里没有这个单号。" in page
    assert "两者相等，差额已全部解释。" in page


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("subject", list(BillKind))
@pytest.mark.parametrize("state", list(FindingState))
def test_every_finding_has_a_sentence_and_advice(kind, subject, state):
    row = finding(kind, subject, str(state), ours_fen=1, theirs_fen=2, ours_state="paid", theirs_state="paid", how="query")
    assert words.sentence(row).endswith("。") and words.advice(row).endswith("。")
    assert words.STATES[row["state"]] and words.KINDS[row["kind"]]


def test_what_strangers_wrote_is_escaped():
    rows = [finding("theirs_only", number="<script>alert(1)</script>", theirs_fen=1, theirs_state="paid")]
    page = report.html_report(run(rows), rows, NOW)
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_the_csv_keeps_numbers_and_starts_no_formula():
    file = io.StringIO()
    writer = report.CsvReport(file)
    writer.add(finding("amount", number='=HYPERLINK("x")', out_trade_no="420000291220261123", ours_fen=10, theirs_fen=4000))
    header, row = list(csv.reader(io.StringIO(file.getvalue())))
    told = dict(zip(header, row, strict=True))
    assert told["单号"].startswith("'=") and told["原收款单号"] == "420000291220261123\t"
    assert (told["账单金额（元）"], told["本系统金额（元）"], told["类别"]) == ("40.00", "0.10", "金额不一致")
