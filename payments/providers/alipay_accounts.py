"""The account bill of Alipay (bill_type signcustomer, 账务明细), read by stream into the rows of a trade bill. Pure: a zip in, rows out.

Some merchants get this one only. It tells what moved on the account: payments, refunds, the fee as rows of its own, and withdrawals, which
are no business of an order. Refunds do not say their own number (out_request_no): reconcile/matching.py finds it in our books.
"""

import errno
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from payments.bill import MAX_UNPACKED_BYTES, BillKind, BillRefused, BillRow, BillState, Reading, china_moment, exact, fen
from payments.providers.alipay_bills import DAMAGE, PROVIDER, lines_of, members_of, places_of

_NEEDED = ("业务流水号", "商户订单号", "发生时间", "收入金额（+元）", "支出金额（-元）", "业务类型")
_PAYMENTS = frozenset({"在线支付", "交易付款", "交易"})
_REFUNDS = frozenset({"交易退款", "退款", "退款（交易退款）"})
_FEES = frozenset({"收费", "服务费", "退费"})
# Of the account, not of an order.
_OTHERS = frozenset({"提现", "转账", "充值", "其它", "其他", "红包退回", "保证金"})
_CLOSING = re.compile(r"#+(支出|收入)合计：(\d+)笔，共(-?[\d.]+)元")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def read_file(path: Path, *, reading: Reading | None = None, max_bytes: int = MAX_UNPACKED_BYTES) -> Iterator[BillRow]:
    """Yield the payments and refunds of a downloaded zip, and compare its sums.

    Raises:
        BillRefused: also at the very end: nothing that was yielded counts then.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            rows_file, _ = members_of(archive, "账务明细", max_bytes)
            with archive.open(rows_file) as member:
                yield from read_rows(member, reading=reading, max_bytes=max_bytes)
    except DAMAGE as error:
        raise BillRefused(f"not a whole zip: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged offset makes zipfile seek before the file
            raise
        raise BillRefused("not a whole zip: offset") from error


def read_rows(
    file: IO[bytes], *, reading: Reading | None = None, max_bytes: int = MAX_UNPACKED_BYTES
) -> Iterator[BillRow]:
    """Yield the payments and refunds of `..._账务明细.csv`; fees go into the sums.

    Raises:
        BillRefused: cut off, a closing line that differs, or not such a file.
    """
    reading = reading if reading is not None else Reading()
    moved = {"收入": [0, 0], "支出": [0, 0]}  # count and fen of every row, whatever it is about
    lines = lines_of(file, reading, max_bytes)
    columns = _Columns(next((line for line in lines if line and not line.startswith("#")), ""))
    for line in lines:
        if line.startswith("#"):
            break
        if not line.strip():
            continue
        fields = columns.split(line)
        income_fen, expense_fen = (abs(fen(fields[columns.place[name]])) for name in ("收入金额（+元）", "支出金额（-元）"))
        if income_fen and expense_fen:
            raise BillRefused("a row with income and expense")
        side, amount_fen = ("支出", expense_fen) if expense_fen else ("收入", income_fen)
        moved[side][0] += 1
        moved[side][1] += amount_fen
        word = fields[columns.place["业务类型"]]
        if word in _FEES:
            reading.sums.fee_millifen += (expense_fen - income_fen) * 1000
            continue
        row = _row(fields, columns.place, word, income_fen, expense_fen)
        if row is not None:
            reading.sums.add(row)
            yield row
    else:
        raise BillRefused("no closing line: the file is cut off")
    if "列表结束" not in line:
        raise BillRefused("no closing line")
    for line in lines:
        closing = _CLOSING.match(line)
        if closing is None:
            continue
        count, total_fen = moved[closing[1]]
        if int(closing[2]) != count or abs(exact(closing[3], 2)) != total_fen:
            raise BillRefused(f"sum differs: {closing[1]}合计")


def _row(
    fields: list[str], place: Mapping[str, int], word: str, income_fen: int, expense_fen: int
) -> BillRow | None:
    number = fields[place["商户订单号"]]
    if word in _PAYMENTS and not expense_fen:
        kind, state = BillKind.PAYMENT, BillState.PAID
    elif word in _REFUNDS and not income_fen:
        kind, state = BillKind.REFUND, BillState.SUCCEEDED
    elif word in _OTHERS or not number:
        return None
    else:  # a word we do not know, about an order: for a person
        kind, state = (BillKind.REFUND if expense_fen else BillKind.PAYMENT), BillState.UNKNOWN
    return BillRow(
        kind=kind,
        provider=PROVIDER,
        out_trade_no=number,
        out_refund_no="",
        provider_trade_no=fields[place["业务流水号"]],
        amount_fen=income_fen or expense_fen,
        fee_millifen=0,
        booked_at=china_moment(fields[place["发生时间"]]),
        state=state,
        title=fields[place["商品名称"]] if "商品名称" in place else "",
    )


class _Columns:
    """Where each column is, and how to cut a row into them."""

    def __init__(self, header: str) -> None:
        self.place = places_of(header, _NEEDED)
        self._count = header.count(",") + 1

    def split(self, line: str) -> list[str]:
        """Cut a row; commas in the product name end at the time that follows it, those in the remark are counted from the end."""
        fields = [part.strip() for part in line.split(",")]
        title, moment = self.place.get("商品名称", -1), self.place["发生时间"]
        if len(fields) > self._count and title >= 0 and title + 1 == moment:
            found = next((at for at in range(moment, len(fields)) if _MOMENT.fullmatch(fields[at])), None)
            if found is None:
                raise BillRefused("a row without its time")
            fields = [*fields[:title], ",".join(fields[title:found]), *fields[found:]]
        remark = self.place.get("备注", -1)
        more = len(fields) - self._count
        if more > 0 and remark >= 0:
            fields = [*fields[:remark], ",".join(fields[remark : remark + more + 1]), *fields[remark + more + 1 :]]
        if len(fields) != self._count:
            raise BillRefused("a row with the wrong number of fields")
        return fields
