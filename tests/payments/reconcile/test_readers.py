"""The bill readers: against a writer of our own, against the shapes of published bills, and against files that are no bills."""

import gzip
import io
import zipfile
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payments.bill import BillKind, BillRefused, BillState, Reading, exact, fen, millifen
from payments.providers import alipay_bills, wechatpay_bills
from tests.payments.reconcile.writers import (
    a_row,
    alipay_bill,
    alipay_rows,
    alipay_summary,
    gbk_zip,
    packed,
    sha1,
    wechatpay_bill,
)

NUMBERS = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghij_", min_size=6, max_size=32)
# Anything people name a thing, but no line break, and no separator of the bill itself (that is a test of its own).
TITLES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="`"), max_size=30)
AMOUNTS = st.one_of(st.sampled_from([1, 10, 100, 9_999_999_999]), st.integers(1, 9_999_999_999))
FEES = st.integers(-10_000_000, 10_000_000)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC))
REFUND_STATES = st.sampled_from([BillState.SUCCEEDED, BillState.PROCESSING, BillState.ABNORMAL, BillState.CLOSED])


@st.composite
def rows(draw, provider, titles, refund_states):
    made = a_row(
        draw(NUMBERS),
        provider=provider,
        provider_trade_no=draw(st.text("0123456789", min_size=20, max_size=28)),
        amount_fen=draw(AMOUNTS),
        fee_millifen=draw(FEES),
        booked_at=draw(MOMENTS),
        title=draw(titles),
    )
    if draw(st.booleans()):
        made = made._replace(kind=BillKind.REFUND, out_refund_no=draw(NUMBERS), state=draw(refund_states))
    return made


@settings(max_examples=150, deadline=None)
@given(st.lists(rows("wechatpay", TITLES, REFUND_STATES), max_size=12))
def test_wechatpay_round_trip(made):
    raw = wechatpay_bill(made)
    reading = Reading()
    assert list(wechatpay_bills.read_bill(io.BytesIO(raw), sha1=sha1(raw), reading=reading)) == made
    assert reading.sums.payments + reading.sums.refunds == len(made)
    assert reading.sums.fee_millifen == sum(row.fee_millifen for row in made)
    assert reading.unpacked_bytes == len(raw)


# Alipay pads its fields, so blanks at the ends of a name are not told apart from padding; its file is GBK and unquoted.
@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        rows(
            "alipay",
            TITLES.filter(lambda text: '"' not in text).map(str.strip),
            st.just(BillState.SUCCEEDED),
        ),
        max_size=12,
    )
)
def test_alipay_round_trip(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("bill") / "bill.zip"
    path.write_bytes(alipay_bill(made))
    reading = Reading()
    assert list(alipay_bills.read_file(path, reading=reading)) == made
    assert reading.sums.refunds_fen == sum(row.amount_fen for row in made if row.kind is BillKind.REFUND)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.01", 1), ("0.10", 10), ("1.00", 100), ("99999999.99", 9_999_999_999), ("-0.01", -1), ("45.0", 4500), ("7", 700), ("", 0)],
)
def test_amounts_are_exact(text, value):
    assert fen(text) == value


@pytest.mark.parametrize("text", ["0.001", "1e3", "1,000.00", " 1", "１.00", "1_0", "--1", ".5", "nan"])
def test_what_is_not_an_amount_is_refused(text):
    with pytest.raises(BillRefused):
        fen(text)


def test_fees_have_five_decimals():
    assert (millifen("0.60000"), millifen("-0.00001"), exact("45.0", 0)) == (60000, -1, 45)


# --- WeChat Pay ---


def read_wechatpay(raw, **options):
    return list(wechatpay_bills.read_bill(io.BytesIO(raw), **options))


def test_a_published_shape():
    """Two rows as in the bill published with wechatpay-php: LF, count `2.0`, sums with one decimal, fees summed in fen."""
    text = wechatpay_bill(
        [
            a_row("autotest_20190219015232_89201", amount_fen=3, fee_millifen=1000),
            a_row("autotest_1", kind=BillKind.REFUND, out_refund_no="REF4200", amount_fen=10, fee_millifen=0),
        ],
        订单总金额="0.03",
        申请退款总金额="0.1",
        手续费总金额="0.01",
    )
    payment, refund = read_wechatpay(text.replace(b"\r\n", b"\n"))
    assert (payment.amount_fen, payment.fee_millifen, payment.number) == (3, 1000, "autotest_20190219015232_89201")
    assert (refund.amount_fen, refund.number, refund.state) == (10, "REF4200", BillState.SUCCEEDED)


@pytest.mark.parametrize("title", ['名称,有"引号",和逗号', "带`反引号`的", "连分隔符,`也有", "两个,`,`连着", "换\n行", "\u2028行"])
def test_product_names_may_hold_anything(title):
    made = [a_row(title=title), a_row("pay_02", title=title, kind=BillKind.REFUND)]
    raw = wechatpay_bill(made)
    assert read_wechatpay(raw) == made


def test_columns_are_found_by_name():
    """SUCCESS bills lack the refund columns, and their sums count only what is there."""
    header = "商户订单号,交易状态,交易时间,新的一列,订单金额,微信订单号"
    raw = f"\ufeff{header}\r\n`pay_01,`SUCCESS,`2026-11-23 10:00:00,`?,`40.00,`42\r\n总交易单数,订单总金额\r\n`1.0,`40.00\r\n"
    (row,) = read_wechatpay(raw.encode())
    assert (row.out_trade_no, row.amount_fen, row.booked_at) == ("pay_01", 4000, datetime(2026, 11, 23, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    "sum_name", ["总交易单数", "应结订单总金额", "退款总金额", "充值券退款总金额", "手续费总金额", "订单总金额", "申请退款总金额"]
)
def test_any_sum_that_differs_refuses_the_file(sum_name):
    raw = wechatpay_bill([a_row(), a_row("rfd_1", kind=BillKind.REFUND)], **{sum_name: "7.77"})
    with pytest.raises(BillRefused):
        read_wechatpay(raw)


def test_the_hash_is_over_the_unpacked_file(tmp_path):
    raw = wechatpay_bill([a_row()])
    path = tmp_path / "bill.gz"
    path.write_bytes(packed(raw))
    assert list(wechatpay_bills.read_file(path, is_gzip=True, sha1=sha1(raw))) == [a_row()]
    with pytest.raises(BillRefused, match="SHA-1"):
        list(wechatpay_bills.read_file(path, is_gzip=True, sha1=sha1(raw + b" ")))


@pytest.mark.parametrize("keep", [0, 1, 40, 500])
def test_a_cut_off_bill_is_refused(tmp_path, keep):
    raw = wechatpay_bill([a_row(f"pay_{number:04}") for number in range(30)])
    with pytest.raises(BillRefused):
        read_wechatpay(raw[: len(raw) - len(raw) // 2 - keep])
    path = tmp_path / "bill.gz"
    path.write_bytes(packed(raw)[: -keep - 9])
    with pytest.raises(BillRefused):
        list(wechatpay_bills.read_file(path, is_gzip=True, sha1=sha1(raw)))


@pytest.mark.parametrize(
    "raw", [b"", b"<html>502</html>", b"\xff\xfe\x00", b'{"code":"NO_AUTH"}', b"x" * 200_000, "交易时间\r\n".encode()]
)
def test_what_is_not_a_bill_is_refused(raw):
    with pytest.raises(BillRefused):
        read_wechatpay(raw)


def test_a_file_that_unpacks_too_large_is_refused():
    with pytest.raises(BillRefused, match="too large"):
        read_wechatpay(wechatpay_bill([a_row()] * 2000), max_bytes=300_000)


def test_unknown_words_are_kept_for_a_person():
    raw = wechatpay_bill([a_row()]).replace(b"`SUCCESS", b"`SOMETHING")
    assert [row.state for row in read_wechatpay(raw)] == [BillState.UNKNOWN]


def test_an_empty_day_with_sums_of_nothing():
    assert read_wechatpay(wechatpay_bill([])) == []


# --- Alipay ---


def read_alipay(tmp_path, raw, **options):
    path = tmp_path / "bill.zip"
    path.write_bytes(raw)
    return list(alipay_bills.read_file(path, **options))


def test_names_are_gbk_and_refunds_negative(tmp_path):
    made = [a_row(provider="alipay"), a_row(provider="alipay", kind=BillKind.REFUND, out_refund_no="rfd_9", amount_fen=1)]
    raw = alipay_bill(made)
    assert "业务明细.csv".encode("gb18030") in raw  # really GBK bytes
    assert all(not info.flag_bits & 0x800 for info in zipfile.ZipFile(io.BytesIO(raw)).infolist())
    assert read_alipay(tmp_path, raw) == made


def test_charges_are_positive_here_and_negative_there(tmp_path):
    (row,) = read_alipay(tmp_path, alipay_bill([a_row(provider="alipay", fee_millifen=24000)]))
    assert row.fee_millifen == 24000


@pytest.mark.parametrize("title", ["有,逗号,的", "一半,引号", "2026-11-23 10:00:00,的票"])
def test_alipay_names_with_commas(tmp_path, title):
    made = [a_row(provider="alipay", title=title)]
    assert read_alipay(tmp_path, alipay_bill(made)) == made


def test_half_width_parentheses_do_as_well(tmp_path):
    raw = alipay_rows([a_row(provider="alipay")]).decode("gb18030").replace("（元）", "(元)").encode("gb18030")
    assert len(read_alipay(tmp_path, gbk_zip({"2088_20261123_业务明细.csv": raw}))) == 1


@pytest.mark.parametrize("wrong", ["payments", "payments_yuan", "refunds", "refunds_yuan"])
def test_a_closing_line_that_differs_refuses_the_file(tmp_path, wrong):
    raw = gbk_zip({"1_业务明细.csv": alipay_rows([a_row(provider="alipay")], closing={wrong: "7"})})
    with pytest.raises(BillRefused, match="sum differs"):
        read_alipay(tmp_path, raw)


@pytest.mark.parametrize("wrong", ["交易订单总笔数", "退款订单总笔数", "订单金额（元）", "服务费（元）"])
def test_a_summary_that_differs_refuses_the_file(tmp_path, wrong):
    made = [a_row(provider="alipay")]
    raw = gbk_zip({"1_业务明细.csv": alipay_rows(made), "1_业务明细(汇总).csv": alipay_summary(made, **{wrong: "7"})})
    with pytest.raises(BillRefused, match="sum differs"):
        read_alipay(tmp_path, raw)


def test_without_its_closing_line_a_bill_is_cut_off(tmp_path):
    with pytest.raises(BillRefused, match="cut off"):
        read_alipay(tmp_path, gbk_zip({"1_业务明细.csv": alipay_rows([a_row(provider="alipay")], end=False)}))


def test_zip_bombs_are_not_unpacked(tmp_path):
    with pytest.raises(BillRefused, match="too large"):
        read_alipay(tmp_path, gbk_zip({"1_业务明细.csv": b"#" * 50_000_000}))
    many = gbk_zip({f"{number}.csv": b"" for number in range(50)})
    with pytest.raises(BillRefused, match="too many"):
        read_alipay(tmp_path, many)
    made = [a_row(f"pay_{number}", provider="alipay", provider_trade_no=str(number) * 20) for number in range(3000)]
    with pytest.raises(BillRefused, match="too large"):
        read_alipay(tmp_path, alipay_bill(made), max_bytes=100_000)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"PK\x03\x04" + b"\0" * 100, gzip.compress(b"x", mtime=0)])
def test_what_is_not_a_zip_is_refused(tmp_path, raw):
    with pytest.raises(BillRefused):
        read_alipay(tmp_path, raw)


CHANGES = st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=20), st.integers(0, 20)), min_size=1, max_size=4)


def damaged(raw, changes):
    """Replace, cut out or put in bytes."""
    for at, more, less in changes:
        at %= len(raw) or 1
        raw = raw[:at] + more + raw[at + less :]
    return raw


@settings(max_examples=300, deadline=None)
@given(CHANGES)
def test_damage_never_ends_in_anything_but_a_refusal(tmp_path_factory, changes):
    """Whatever happens to a file on its way: it reads as it was written, or it is refused."""
    folder = tmp_path_factory.mktemp("damaged")
    made = [a_row(provider="alipay"), a_row("pay_02", provider="alipay", kind=BillKind.REFUND)]
    (folder / "bill.zip").write_bytes(damaged(alipay_bill(made), changes))
    try:
        assert [row.amount_fen for row in alipay_bills.read_file(folder / "bill.zip")] == [4000, 4000]
    except BillRefused:
        pass
    raw = wechatpay_bill([a_row(), a_row("pay_02", kind=BillKind.REFUND)])
    (folder / "bill.gz").write_bytes(damaged(packed(raw), changes))
    try:
        assert len(list(wechatpay_bills.read_file(folder / "bill.gz", is_gzip=True, sha1=sha1(raw)))) == 2
    except BillRefused:
        pass
