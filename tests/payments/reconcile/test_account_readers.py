"""Fund flow of WeChat Pay and account bill of Alipay, written as their makers write them: every row, exact sums, nothing half."""

import gzip
import hashlib
import io
from datetime import UTC, datetime, timedelta

import pytest

from payments.bill import BillKind, BillRefused, BillState, Reading
from payments.providers import alipay_accounts, wechatpay_funds
from payments.providers.wechatpay_funds import FundSums
from payments.reconcile.matching import with_numbers
from tests.payments.reconcile.writers import gbk_zip

FUND_COLUMNS = "记账时间,微信支付业务单号,资金流水单号,业务名称,业务类型,收支类型,收支金额(元),账户结余(元),资金变更提交申请人,备注,业务凭证号"
FUND_ROWS = [
    "`2026-11-23 10:00:00,`4200000846202611230000000001,`1000,`交易,`交易,`收入,`40.00,`140.00,`system,`缴费,`T1",
    "`2026-11-23 10:00:01,`4200000846202611230000000001,`1001,`扣除交易手续费,`交易,`支出,`0.24,`139.76,`system,`缴费,`T1",
    "`2026-11-23 11:00:00,`50300806962026112300000001,`1002,`退款,`退款,`支出,`10.00,`129.76,`1601959334API,`退款总金额10.00元;含手续费0.06元,`S1",
    "`2026-11-23 12:00:00,`1003,`1003,`提现,`提现,`支出,`100.00,`29.76,`1601959334,`备注,`里有逗号,`W1",
]


def funds(rows=FUND_ROWS, sums="`4,`1,`40.00,`3,`110.24", *, caption="", header=FUND_COLUMNS):
    names = "资金流水总笔数,收入笔数,收入金额,支出笔数,支出金额"
    return ("\ufeff" + "\r\n".join([header, *rows, caption or names, sums]) + "\r\n").encode()


def read_funds(raw, **options):
    sums = FundSums()
    return list(wechatpay_funds.read_funds(io.BytesIO(raw), sums=sums, **options)), sums


def test_every_movement_is_read_with_its_sign():
    raw = funds()
    sha1 = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    rows, sums = read_funds(raw, sha1=sha1.upper())
    assert [row.amount_fen for row in rows] == [4000, -24, -1000, -10_000]
    assert [row.balance_fen for row in rows] == [14_000, 13_976, 12_976, 2976]
    assert (sums.incomes, sums.income_fen, sums.expenses, sums.expense_fen) == (1, 4000, 3, 11_024)
    assert sums.by_kind == {"交易": 3976, "退款": -1000, "提现": -10_000} and sums.sha1 == sha1
    assert rows[0].booked_at == datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    assert rows[3].remark == "备注,`里有逗号" and rows[3].voucher_no == "W1"


def test_the_names_of_the_sums_may_be_backticked_and_the_file_packed(tmp_path):
    raw = funds(caption="`资金流水总笔数,`收入笔数,`收入金额,`支出笔数,`支出金额", sums="`4.0,`1,`40,`3,`110.240")
    assert len(read_funds(raw)[0]) == 4
    (tmp_path / "f").write_bytes(gzip.compress(raw))
    assert len(list(wechatpay_funds.read_file(tmp_path / "f", is_gzip=True))) == 4
    (tmp_path / "f").write_bytes(gzip.compress(raw)[:-9])
    with pytest.raises(BillRefused):
        list(wechatpay_funds.read_file(tmp_path / "f", is_gzip=True))


def test_a_day_without_movement():
    assert read_funds(funds([], "`0,`0,`0.00,`0,`0.00"))[0] == []


@pytest.mark.parametrize(
    "raw",
    [
        funds(sums="`5,`1,`40.00,`3,`110.24"),
        funds(sums="`4,`1,`40.01,`3,`110.24"),
        funds(sums="`4,`2,`40.00,`2,`110.24"),
        funds(sums="`4,`1,`40.00,`3,`110.25"),
        funds(sums="`4,`1,`40.00,`3"),
        funds(FUND_ROWS[1:]),
        funds([FUND_ROWS[0].replace("收入", "转入")], "`1,`1,`40.00,`0,`0.00"),
        funds([FUND_ROWS[0].replace("40.00", "-40.00")], "`1,`1,`-40.00,`0,`0.00"),
        funds([FUND_ROWS[0].replace("40.00", "40.001")], "`1,`1,`40.00,`0,`0.00"),
        funds([FUND_ROWS[0].rpartition(",")[0]], "`1,`1,`40.00,`0,`0.00"),
        funds(header=FUND_COLUMNS.replace("收支类型", "方向")),
        funds()[: len(funds()) // 2],
        funds() + b"more\r\n",
        b"",
        b"\xff\xfe",
    ],
)
def test_a_fund_flow_that_is_not_whole_is_refused(raw):
    with pytest.raises(BillRefused):
        read_funds(raw)


def test_another_hash_is_refused():
    with pytest.raises(BillRefused, match="SHA-1"):
        read_funds(funds(), sha1="0" * 40)


# --- Alipay ---

COLUMNS = "账务流水号,业务流水号,商户订单号,商品名称,发生时间,对方账号,收入金额（+元）,支出金额（-元）,账户余额（元）,交易渠道,业务类型,备注"


def line(number="pay_1", word="交易付款", income="40.00", expense="0.00", *, title="身份证补领", at="2026-11-23 10:00:00", remark="", more=""):
    return f"54632446537371\t,2026112322001\t,{number}\t,{title}\t,{at},张三 (138****0000)\t,{income},{expense},100.00,支付宝,{word},{remark}{more}"


ROWS = [
    line(),
    line(word="收费", income="0.00", expense="-0.24", remark="服务费[2026112322001]"),
    line("pay_2", title="违法,罚款,两项", income="200.00", at="2026-11-23 11:00:00"),
    line(word="交易退款", income="0.00", expense="-10.00", at="2026-11-23 12:00:00", remark="售后退款,部分"),
    line("", word="提现", income="0.00", expense="-100.00", title=""),
]


def accounts(rows=ROWS, *, closing=("3笔，共-110.24元", "2笔，共240.00元"), header=COLUMNS, end=True):
    text = [
        "#支付宝账务明细查询", "#账号：[20880211096256330156]", "#起始日期：[2026年11月23日 00:00:00]   终止日期：[2026年11月24日 00:00:00]",
        "#-----------------------------------------账务明细列表----------------------------------------", header, *rows,
    ]  # fmt: skip
    if end:
        text += [
            "#-----------------------------------------账务明细列表结束------------------------------------",
            f"#支出合计：{closing[0]}", f"#收入合计：{closing[1]}", "#导出时间：[2026年11月24日 05:46:49]",
        ]  # fmt: skip
    return ("\r\n".join(text) + "\r\n").encode("gb18030")


def read_accounts(raw):
    reading = Reading()
    return list(alipay_accounts.read_rows(io.BytesIO(raw), reading=reading)), reading.sums


def test_payments_refunds_and_fees_of_an_account():
    rows, sums = read_accounts(accounts())
    assert [(row.kind, row.out_trade_no, row.amount_fen) for row in rows] == [
        (BillKind.PAYMENT, "pay_1", 4000), (BillKind.PAYMENT, "pay_2", 20_000), (BillKind.REFUND, "pay_1", 1000),
    ]  # fmt: skip
    assert rows[1].title == "违法,罚款,两项" and rows[0].provider_trade_no == "2026112322001"
    assert (sums.payments_fen, sums.refunds_fen, sums.fee_millifen) == (24_000, 1000, 24_000)
    assert rows[2].booked_at == datetime(2026, 11, 23, 4, 0, tzinfo=UTC) and rows[2].out_refund_no == ""


def test_newer_files_have_more_columns_and_half_width_parentheses():
    header = COLUMNS.replace("（", "(").replace("）", ")") + ",业务描述,业务账单来源,业务基础订单号,业务订单号"
    raw = accounts([line(remark="备注,里有,逗号", more=",00001|缴费,商家中心,330,M{330}")], closing=("0笔，共0.00元", "1笔，共40.00元"), header=header)
    (row,), _ = read_accounts(raw)
    assert (row.out_trade_no, row.amount_fen, row.state) == ("pay_1", 4000, BillState.PAID)


def test_an_unknown_word_about_an_order_is_for_a_person_and_without_one_nobodys_business():
    raw = accounts([line(word="花呗分期"), line("", word="花呗分期")], closing=("0笔，共0.00元", "2笔，共80.00元"))
    (row,), _ = read_accounts(raw)
    assert row.state is BillState.UNKNOWN


def test_the_zip_is_opened_by_its_own_names(tmp_path):
    path = tmp_path / "bill"
    sums = "#支付宝账务汇总查询\r\n".encode("gb18030")
    path.write_bytes(gbk_zip({"20880211096256330156_20261123_账务明细(汇总).csv": sums, "20880211096256330156_20261123_账务明细.csv": accounts()}))
    assert len(list(alipay_accounts.read_file(path))) == 3
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BillRefused):
        list(alipay_accounts.read_file(path))
    path.write_bytes(gbk_zip({"20880211096256330156_20261123_业务明细.csv": accounts()}))
    with pytest.raises(BillRefused):
        list(alipay_accounts.read_file(path))


@pytest.mark.parametrize(
    "raw",
    [
        accounts(closing=("3笔，共-110.25元", "2笔，共240.00元")),
        accounts(closing=("4笔，共-110.24元", "2笔，共240.00元")),
        accounts(closing=("3笔，共-110.24元", "2笔，共240.01元")),
        accounts(ROWS[1:]),
        accounts(end=False),
        accounts([line(income="40.001")], closing=("0笔，共0.00元", "1笔，共40.00元")),
        accounts([line(income="40.00", expense="-1.00")], closing=("0笔，共0.00元", "1笔，共40.00元")),
        accounts([line().rpartition(",")[0]], closing=("0笔，共0.00元", "1笔，共40.00元")),
        accounts([line(at="昨天", title="一,二")], closing=("0笔，共0.00元", "1笔，共40.00元")),
        accounts(header=COLUMNS.replace("业务类型", "类型")),
        accounts()[:400],
        b"",
    ],
)
def test_an_account_bill_that_is_not_whole_is_refused(raw):
    with pytest.raises(BillRefused):
        read_accounts(raw)


def test_refunds_get_their_number_from_our_books_once_each():
    back = {"word": "交易退款", "income": "0.00", "expense": "-10.00"}
    raw = accounts(
        [line(**back, at="2026-11-23 09:00:00"), line(**back, at="2026-11-23 20:00:00"), line(**back), line("pay_9", **back)],
        closing=("4笔，共-40.00元", "0笔，共0.00元"),
    )
    morning, evening = datetime(2026, 11, 23, 1, 0, tzinfo=UTC), datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    ours = {("pay_1", 1000): [(evening, "rfd_evening"), (morning + timedelta(minutes=1), "rfd_morning")], ("pay_9", 999): [(morning, "rfd_9")]}
    rows = list(with_numbers(iter(read_accounts(raw)[0]), ours))
    assert [row.out_refund_no for row in rows] == ["rfd_morning", "rfd_evening", "", ""]
    assert len(ours["pay_1", 1000]) == 2  # what was given is not used up
