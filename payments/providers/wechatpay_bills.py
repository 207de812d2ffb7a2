"""The trade bill of WeChat Pay (GET /v3/bill/tradebill, bill_type ALL, SUCCESS or REFUND), read by stream. Pure: a file in, rows out.

The file is UTF-8 with a BOM and CRLF: a line of column names, one line per trade or refund with a backtick before every field, a line
of names of sums and one line of sums, backticked too. Product names may hold commas, quotes and backticks. Columns are found by name.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from payments.bill import (
    MAX_LINE_BYTES,
    MAX_UNPACKED_BYTES,
    BillKind,
    BillRefused,
    BillRow,
    BillState,
    Reading,
    china_moment,
    exact,
    fen,
    millifen,
)

PROVIDER = "wechatpay"

_NEEDED = ("交易时间", "微信订单号", "商户订单号", "交易状态", "订单金额")
_FREE = ("商品名称", "商户数据包")
_SUMS_BEGIN = "总交易单数"
# Name of a sum -> the column it is the sum of, and the decimals of that column.
_SUMS = {
    "应结订单总金额": ("应结订单金额", 2),
    "退款总金额": ("退款金额", 2),
    "充值券退款总金额": ("充值券退款金额", 2),
    "手续费总金额": ("手续费", 5),
    "订单总金额": ("订单金额", 2),
    "申请退款总金额": ("申请退款金额", 2),
}
_REFUND_STATES = {
    "SUCCESS": BillState.SUCCEEDED,
    "PROCESSING": BillState.PROCESSING,
    "FAIL": BillState.CLOSED,
    "CHANGE": BillState.ABNORMAL,  # the money cannot reach the payer's account
}


def read_file(path: Path, *, is_gzip: bool, sha1: str = "", reading: Reading | None = None) -> Iterator[BillRow]:
    """Yield the rows of a bill file; see `read_bill`."""
    with unpacked(path, is_gzip=is_gzip) as file:
        yield from read_bill(file, sha1=sha1, reading=reading)


@contextmanager
def unpacked(path: Path, *, is_gzip: bool) -> Iterator[BinaryIO]:
    """Open a file as it was before it was packed. Raises BillRefused, also while it is read, when it is not whole."""
    try:
        with path.open("rb") as packed:
            if is_gzip:
                with gzip.GzipFile(fileobj=packed) as file:
                    yield file  # type: ignore[misc]
            else:
                yield packed
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BillRefused(f"not whole gzip: {error}") from error


def read_bill(
    file: BinaryIO, *, sha1: str = "", reading: Reading | None = None, max_bytes: int = MAX_UNPACKED_BYTES
) -> Iterator[BillRow]:
    """Yield the rows of an unpacked bill.

    Args:
        sha1: hash_value of the signed answer, over the unpacked file; "" to leave it.
        reading: gets the sums and the hash.

    Raises:
        BillRefused: also at the very end, when hash or sums differ: nothing that was yielded counts then.
    """
    reading = reading if reading is not None else Reading()
    hashed = Hashed(file, max_bytes)
    lines = lines_of(hashed)
    columns = Columns(next(lines, "").removeprefix("\ufeff"), _NEEDED, _FREE)
    totals: dict[str, int] = dict.fromkeys(_SUMS, 0)
    summed = [
        (name, columns.place[column], millifen if decimals == 5 else fen)
        for name, (column, decimals) in _SUMS.items()
        if column in columns.place
    ]
    rows = 0
    for line in lines:
        if not line.startswith("`"):
            break
        fields = columns.split(line)
        while fields is None:  # a product name with a line break in it
            more = next(lines, None)
            if more is None or len(line) > MAX_LINE_BYTES:
                raise BillRefused("a row with too few fields")
            line = f"{line}\n{more}"
            fields = columns.split(line)
        for name, place, number in summed:
            totals[name] += number(fields[place])
        row = _row(fields, columns.place)
        rows += 1
        reading.sums.add(row)
        yield row
    else:
        raise BillRefused("no sums: the file is cut off")
    _compare(line, next(lines, ""), rows, totals, columns.place)
    for line in lines:
        if line:
            raise BillRefused("something after the sums")
    reading.sha1, reading.unpacked_bytes = hashed.sha1.hexdigest(), hashed.length
    if sha1 and reading.sha1 != sha1.lower():
        raise BillRefused("another SHA-1 than announced")


class Hashed(io.RawIOBase):
    """Hashes and counts what is read through it."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.sha1 = hashlib.sha1(usedforsecurity=False)
        self.length = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        chunk = self._file.read(len(buffer))
        self.sha1.update(chunk)
        self.length += len(chunk)
        if self.length > self._max_bytes:
            raise BillRefused("unpacked file too large")
        buffer[: len(chunk)] = chunk
        return len(chunk)


def lines_of(hashed: Hashed) -> Iterator[str]:
    """Yield the lines without their ends; only LF ends one, whatever else Unicode calls a line break."""
    buffered = io.BufferedReader(hashed, 256 * 1024)
    while raw := buffered.readline(MAX_LINE_BYTES):
        if not raw.endswith(b"\n") and len(raw) == MAX_LINE_BYTES:
            raise BillRefused("a line without end")
        try:
            yield raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise BillRefused("not UTF-8") from error


class Columns:
    """Where each column is, and how to cut a row into them."""

    def __init__(self, header: str, needed: Sequence[str], free: Sequence[str]) -> None:
        names = [name.strip().removeprefix("`") for name in header.split(",")]
        self.place: Mapping[str, int] = {name: place for place, name in enumerate(names)}
        missing = [name for name in needed if name not in self.place]
        if missing:
            raise BillRefused(f"column missing: {', '.join(missing)}")
        self._count = len(names)
        # Free text of people; what stands left and right of it is the provider's own.
        places = [self.place[name] for name in free if name in self.place]
        self._free = (min(places), max(places)) if places else None

    def split(self, line: str) -> list[str] | None:
        """Cut a row: after its first backtick, at comma and backtick. None when there are fewer fields than columns."""
        fields = line[1:].split(",`")
        more = len(fields) - self._count
        if more == 0:
            return fields
        if more < 0:
            return None
        if self._free is None:
            raise BillRefused("a row with too many fields")
        # Somebody's product name holds the separator itself: count from both ends, the rest is free text.
        first, last = self._free
        middle = fields[first : last + 1 + more]
        spread = [",`".join(middle[: len(middle) - (last - first)]), *middle[len(middle) - (last - first) :]]
        return fields[:first] + spread + fields[last + 1 + more :]


def _row(fields: list[str], place: Mapping[str, int]) -> BillRow:
    def get(name: str) -> str:
        at = place.get(name)
        return "" if at is None else fields[at]

    word = get("交易状态")
    is_refund = word in ("REFUND", "REVOKED")  # a payment at the counter that was revoked: given back as well
    if is_refund:
        state = _REFUND_STATES.get(get("退款状态"), BillState.UNKNOWN)
    else:
        state = BillState.PAID if word == "SUCCESS" else BillState.UNKNOWN
    amount_fen = fen(get("申请退款金额") or get("退款金额")) if is_refund else fen(get("订单金额"))
    if amount_fen < 0:
        raise BillRefused("a negative amount")
    refund_no = get("商户退款单号")
    return BillRow(
        kind=BillKind.REFUND if is_refund else BillKind.PAYMENT,
        provider=PROVIDER,
        out_trade_no=get("商户订单号"),
        out_refund_no=refund_no if is_refund and refund_no != "0" else "",
        provider_trade_no=get("微信订单号"),
        amount_fen=amount_fen,
        fee_millifen=millifen(get("手续费")),
        booked_at=china_moment(get("交易时间")),
        state=state,
        title=get("商品名称"),
    )


def _compare(names: str, values: str, rows: int, totals: Mapping[str, int], place: Mapping[str, int]) -> None:
    """Compare what the provider added up with what we added up. Raises BillRefused."""
    told = dict(
        zip(
            (name.strip().removeprefix("`") for name in names.split(",")),
            (value.strip().removeprefix("`") for value in values.split(",")),
            strict=False,
        )
    )
    if _SUMS_BEGIN not in told:
        raise BillRefused("no sums")
    if exact(told[_SUMS_BEGIN], 0) != rows:  # the count is written like `45.0`
        raise BillRefused(f"sum differs: {_SUMS_BEGIN}")
    for name, (column, decimals) in _SUMS.items():
        if name not in told or column not in place:
            continue
        shown = len(told[name].partition(".")[2].rstrip("0"))
        ours = totals[name]
        # Five-decimal fees are sometimes summed up in fen: then compare what is shown, rounded half up.
        unit = 10 ** (decimals - max(shown, 2)) if shown < decimals else 1
        if exact(told[name], decimals) not in (ours, (ours + unit // 2) // unit * unit):
            raise BillRefused(f"sum differs: {name}")
