"""The fund flow bill of WeChat Pay (GET /v3/bill/fundflowbill, account_type BASIC, OPERATION or FEES), read by stream. Pure.

What really moved on an account: receipts, refunds, fees, payouts to the bank. The file is written like the trade bill (UTF-8 with a BOM,
backticks, sums at the end, hashed over the unpacked file). Only a reader: nothing is booked from it and no worker fetches it. An
accountant proves with it what `provider:wechatpay` says: income less expense of a day is what the balance has moved by.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from payments.bill import MAX_UNPACKED_BYTES, BillRefused, china_moment, exact, fen
from payments.providers.wechatpay_bills import Columns, Hashed, lines_of, unpacked

_NEEDED = ("记账时间", "微信支付业务单号", "资金流水单号", "业务名称", "业务类型", "收支类型", "收支金额(元)", "账户结余(元)")
_FREE = ("备注",)
_SIGNS = {"收入": 1, "支出": -1}
_SUMS_BEGIN = "资金流水总笔数"


class FundRow(NamedTuple):
    """One movement on an account. `amount_fen` is positive for income, negative for expense; `booked_at` aware UTC."""

    booked_at: datetime
    business_no: str
    flow_no: str
    business: str
    kind: str
    amount_fen: int
    balance_fen: int
    remark: str
    voucher_no: str


@dataclass
class FundSums:
    """What the reader added up; complete once its generator has ended."""

    incomes: int = 0
    income_fen: int = 0
    expenses: int = 0
    expense_fen: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    sha1: str = ""

    def add(self, row: FundRow) -> None:
        if row.amount_fen >= 0:
            self.incomes += 1
            self.income_fen += row.amount_fen
        else:
            self.expenses += 1
            self.expense_fen -= row.amount_fen
        self.by_kind[row.kind] = self.by_kind.get(row.kind, 0) + row.amount_fen


def read_file(path: Path, *, is_gzip: bool, sha1: str = "", sums: FundSums | None = None) -> Iterator[FundRow]:
    """Yield the rows of a fund flow file; see `read_funds`."""
    with unpacked(path, is_gzip=is_gzip) as file:
        yield from read_funds(file, sha1=sha1, sums=sums)


def read_funds(
    file: BinaryIO, *, sha1: str = "", sums: FundSums | None = None, max_bytes: int = MAX_UNPACKED_BYTES
) -> Iterator[FundRow]:
    """Yield the rows of an unpacked fund flow bill.

    Args:
        sha1: hash_value of the signed answer, over the unpacked file; "" to leave it.
        sums: gets the sums and the hash.

    Raises:
        BillRefused: also at the very end, when hash or sums differ: nothing that was yielded counts then.
    """
    sums = sums if sums is not None else FundSums()
    hashed = Hashed(file, max_bytes)
    lines = lines_of(hashed)
    columns = Columns(next(lines, "").removeprefix("\ufeff"), _NEEDED, _FREE)
    for line in lines:
        # A caption has no backtick, or begins with the name of the first sum behind one.
        if not line.startswith("`") or line.startswith(f"`{_SUMS_BEGIN}"):
            break
        fields = columns.split(line)
        if fields is None:
            raise BillRefused("a row with too few fields")
        row = _row(fields, columns.place)
        sums.add(row)
        yield row
    else:
        raise BillRefused("no sums: the file is cut off")
    _compare(line, next(lines, ""), sums)
    for line in lines:
        if line:
            raise BillRefused("something after the sums")
    sums.sha1 = hashed.sha1.hexdigest()
    if sha1 and sums.sha1 != sha1.lower():
        raise BillRefused("another SHA-1 than announced")


def _row(fields: list[str], place: Mapping[str, int]) -> FundRow:
    def get(name: str) -> str:
        at = place.get(name)
        return "" if at is None else fields[at]

    sign, amount_fen = _SIGNS.get(get("收支类型")), fen(get("收支金额(元)"))
    if sign is None or amount_fen < 0:
        raise BillRefused("neither income nor expense")
    return FundRow(
        booked_at=china_moment(get("记账时间")),
        business_no=get("微信支付业务单号"),
        flow_no=get("资金流水单号"),
        business=get("业务名称"),
        kind=get("业务类型"),
        amount_fen=sign * amount_fen,
        balance_fen=fen(get("账户结余(元)")),
        remark=get("备注"),
        voucher_no=get("业务凭证号"),
    )


def _compare(names: str, values: str, sums: FundSums) -> None:
    """Compare what the provider added up with what we added up. Raises BillRefused."""
    cut = [[part.strip().removeprefix("`") for part in text.split(",")] for text in (names, values)]
    told = dict(zip(*cut, strict=False))
    ours = {
        _SUMS_BEGIN: (sums.incomes + sums.expenses, 0),
        "收入笔数": (sums.incomes, 0),
        "收入金额": (sums.income_fen, 2),
        "支出笔数": (sums.expenses, 0),
        "支出金额": (sums.expense_fen, 2),
    }
    for name, (value, decimals) in ours.items():
        if name not in told or exact(told[name], decimals) != value:
            raise BillRefused(f"sum differs: {name}")
