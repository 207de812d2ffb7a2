"""The trade bill of Alipay (alipay.data.dataservice.bill.downloadurl.query, bill_type trade), read by stream. Pure: a zip in, rows out.

The zip holds `..._业务明细.csv` (rows) and `..._业务明细(汇总).csv` (sums); the names are GBK without saying so, the contents GBK, read as
gb18030. The rows stand between a preface and closing lines that begin with `#`; fields are padded by tabs, refunds are negative, and
the parentheses of column names are full-width. Nothing is unpacked to disk.
"""

import csv
import errno
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

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

PROVIDER = "alipay"

_MAX_MEMBERS = 20
# The best that deflate does is about 1:1030, and text with as much repetition as a bill stays far under 1:200.
_MAX_RATIO = 200
_NEEDED = ("支付宝交易号", "商户订单号", "业务类型", "创建时间", "完成时间", "订单金额（元）")
_KINDS = {"交易": BillKind.PAYMENT, "退款": BillKind.REFUND}
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
# `#交易合计：6笔，商家实收共0.06元，商家优惠共0.00元`, `#退款合计：4笔，商家实收退款共-0.04元，...`
_CLOSING = re.compile(r"#+(交易|退款)合计：(\d+)笔，商家实收(?:退款)?共(-?[\d.]+)元")
_SUMMED = ("商家实收（元）", "订单金额（元）", "服务费（元）")


# What zipfile raises for damaged files, found by damaging them.
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, LookupError,
           ValueError)  # fmt: skip


def read_file(path: Path, *, reading: Reading | None = None, max_bytes: int = MAX_UNPACKED_BYTES) -> Iterator[BillRow]:
    """Yield the rows of a downloaded zip, and compare their sums with its closing lines and its file of sums.

    Raises:
        BillRefused: also at the very end: nothing that was yielded counts then.
    """
    reading = reading if reading is not None else Reading()
    try:
        with zipfile.ZipFile(path) as archive:
            rows_file, sums_file = members_of(archive, "业务明细", max_bytes)
            totals: dict[str, int] = {}
            with archive.open(rows_file) as member:
                yield from read_rows(member, reading=reading, totals=totals, max_bytes=max_bytes)
            if sums_file is not None:
                with archive.open(sums_file) as member:
                    _compare_summary(member, reading, totals)
    except DAMAGE as error:
        raise BillRefused(f"not a whole zip: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged offset makes zipfile seek before the file; anything else is the disk's trouble
            raise
        raise BillRefused("not a whole zip: offset") from error


def member_name(member: zipfile.ZipInfo) -> str:
    """Return the real name of a member: GBK bytes that were taken for code page 437, unless it says UTF-8."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("gb18030")
    except UnicodeError:
        return member.filename


def members_of(archive: zipfile.ZipFile, what: str, max_bytes: int) -> tuple[zipfile.ZipInfo, zipfile.ZipInfo | None]:
    """Find the two files inside, and refuse what only claims to be a bill. Raises BillRefused."""
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise BillRefused("too many files in the zip")
    for member in members:
        if member.flag_bits & 0x1:
            raise BillRefused("an encrypted file in the zip")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BillRefused("a file in the zip is packed in an unusual way")
        if member.file_size > max_bytes or member.file_size > max(member.compress_size, 4096) * _MAX_RATIO:
            raise BillRefused("a file in the zip is too large unpacked")
    named = {member_name(member).rsplit("/", 1)[-1]: member for member in members if not member.is_dir()}
    sums = [member for name, member in named.items() if name.endswith(f"{what}(汇总).csv")]
    rows = [member for name, member in named.items() if name.endswith(f"{what}.csv")]
    if len(rows) != 1 or len(sums) > 1:
        raise BillRefused("no file of rows in the zip")
    return rows[0], sums[0] if sums else None


def read_rows(
    file: IO[bytes],
    *,
    reading: Reading | None = None,
    totals: dict[str, int] | None = None,
    max_bytes: int = MAX_UNPACKED_BYTES,
) -> Iterator[BillRow]:
    """Yield the rows of `..._业务明细.csv`.

    Args:
        totals: gets the sums of the columns in thousandths of a fen, for the comparison with the file of sums.

    Raises:
        BillRefused: cut off, a closing line that differs, or not such a file.
    """
    reading = reading if reading is not None else Reading()
    totals = totals if totals is not None else {}
    received = {BillKind.PAYMENT: 0, BillKind.REFUND: 0}
    lines = lines_of(file, reading, max_bytes)
    columns = _Columns(next((line for line in lines if line and not line.startswith("#")), ""))
    summed = [(name, columns.place[name]) for name in _SUMMED if name in columns.place]
    got = columns.place.get("商家实收（元）")
    for line in lines:
        if line.startswith("#"):
            break
        if not line.strip():
            continue
        fields = columns.split(line)
        for name, place in summed:
            totals[name] = totals.get(name, 0) + millifen(fields[place])
        row = _row(fields, columns.place)
        if got is not None:
            received[row.kind] += fen(fields[got])
        reading.sums.add(row)
        yield row
    else:
        raise BillRefused("no closing line: the file is cut off")
    if "列表结束" not in line:
        raise BillRefused("no closing line")
    counts = {BillKind.PAYMENT: reading.sums.payments, BillKind.REFUND: reading.sums.refunds}
    for line in lines:
        closing = _CLOSING.match(line)
        if closing is None:
            continue
        kind = _KINDS[closing[1]]
        if int(closing[2]) != counts[kind]:
            raise BillRefused(f"sum differs: {closing[1]}合计, count")
        if got is not None and exact(closing[3], 2) != received[kind]:
            raise BillRefused(f"sum differs: {closing[1]}合计")


def lines_of(file: IO[bytes], reading: Reading, max_bytes: int) -> Iterator[str]:
    # io.BufferedReader would do, were ZipExtFile not buffered itself already.
    while raw := file.readline(MAX_LINE_BYTES):
        if not raw.endswith(b"\n") and len(raw) == MAX_LINE_BYTES:
            raise BillRefused("a line without end")
        reading.unpacked_bytes += len(raw)
        if reading.unpacked_bytes > max_bytes:  # whatever the zip's own list says of its size
            raise BillRefused("unpacked file too large")
        try:
            yield raw.decode("gb18030").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise BillRefused("not GBK") from error


def places_of(header: str, needed: Iterable[str]) -> Mapping[str, int]:
    """Return where each column stands, by its name. Raises BillRefused when one that is needed is not there."""
    # Half-width parentheses have been seen too; one form inside.
    names = [name.strip().replace("(", "（").replace(")", "）") for name in header.split(",")]
    place = {name: place for place, name in enumerate(names)}
    missing = [name for name in needed if name not in place]
    if missing:
        raise BillRefused(f"column missing: {', '.join(missing)}")
    return place


class _Columns:
    """Where each column is, and how to cut a row into them."""

    def __init__(self, header: str) -> None:
        self.place = places_of(header, _NEEDED)
        self._count = header.count(",") + 1

    def split(self, line: str) -> list[str]:
        """Cut a row into fields without their padding. Raises BillRefused."""
        fields = [part.strip() for part in line.split(",")]
        if len(fields) == self._count:
            return fields
        if '"' in line:
            try:
                quoted = [part.strip() for part in next(csv.reader([line]))]
            except csv.Error as error:
                raise BillRefused("a row that cannot be cut") from error
            if len(quoted) == self._count:
                return quoted
        return self._realign(fields)

    def _realign(self, fields: list[str]) -> list[str]:
        """Put a row with commas in its free text back in order: the two times after the product name show where that ends."""
        title, created, last = self.place.get("商品名称", -1), self.place["创建时间"], self._count - 1
        if len(fields) < self._count or title < 0 or title + 1 != created:
            raise BillRefused("a row with the wrong number of fields")
        found = next(
            (
                place
                for place in range(created, len(fields) - 1)
                if _MOMENT.fullmatch(fields[place]) and _MOMENT.fullmatch(fields[place + 1])
            ),
            None,
        )
        if found is None:
            raise BillRefused("a row without its times")
        fields = [*fields[:title], ",".join(fields[title:found]), *fields[found:]]
        fields = [*fields[:last], ",".join(fields[last:])]  # the remark at the end
        if len(fields) != self._count:
            raise BillRefused("a row with the wrong number of fields")
        return fields


def _row(fields: list[str], place: Mapping[str, int]) -> BillRow:
    def get(name: str) -> str:
        at = place.get(name)
        return "" if at is None else fields[at]

    kind = _KINDS.get(get("业务类型"))
    amount_fen = fen(get("订单金额（元）"))
    state = BillState.SUCCEEDED if kind is BillKind.REFUND else BillState.PAID
    if kind is None:
        state = BillState.UNKNOWN
        kind = BillKind.REFUND if amount_fen < 0 else BillKind.PAYMENT
    if (amount_fen < 0) != (kind is BillKind.REFUND) and amount_fen != 0:
        raise BillRefused("an amount with the wrong sign")
    return BillRow(
        kind=kind,
        provider=PROVIDER,
        out_trade_no=get("商户订单号"),
        out_refund_no=get("退款批次号/请求号") if kind is BillKind.REFUND else "",
        provider_trade_no=get("支付宝交易号"),
        amount_fen=abs(amount_fen),
        fee_millifen=-millifen(get("服务费（元）")),  # negative there means charged
        booked_at=china_moment(get("完成时间") or get("创建时间")),
        state=state,
        title=get("商品名称"),
    )


def _compare_summary(file: IO[bytes], reading: Reading, totals: Mapping[str, int]) -> None:
    """Compare with the row 合计 of `..._业务明细(汇总).csv`. Raises BillRefused."""
    text = io.TextIOWrapper(file, encoding="gb18030", errors="strict", newline=None)
    try:
        content = text.read(1024 * 1024)
    except UnicodeDecodeError as error:
        raise BillRefused("file of sums: not GBK") from error
    lines = [line for line in content.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return
    names = [name.strip().replace("(", "（").replace(")", "）") for name in lines[0].split(",")]
    total = next((line for line in lines[1:] if line.split(",")[0].strip() == "合计"), None)
    if total is None:
        return
    told = dict(zip(names, (part.strip() for part in total.split(",")), strict=False))
    counts = {"交易订单总笔数": reading.sums.payments, "退款订单总笔数": reading.sums.refunds}
    for name, ours in counts.items():
        if told.get(name) and exact(told[name], 0) != ours:
            raise BillRefused(f"sum differs: {name}")
    for name in _SUMMED:
        if told.get(name) and name in totals and exact(told[name], 5) != totals[name]:
            raise BillRefused(f"sum differs: {name}")
