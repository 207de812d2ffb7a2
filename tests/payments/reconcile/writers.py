"""Bills as the providers write them, made from what was read out of real ones; the readers are tested against these."""

import gzip
import hashlib
import io
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from payments.bill import BillKind, BillRow, BillState

WECHATPAY_COLUMNS = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,货币种类,应结订单金额,代金券金额,"
    "微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,商品名称,商户数据包,手续费,费率,订单金额,申请退款金额,费率备注"
).split(",")
ALIPAY_COLUMNS = (
    "支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,对方账户,订单金额（元）,商家实收（元）,"
    "支付宝红包（元）,集分宝（元）,支付宝优惠（元）,商家优惠（元）,券核销金额（元）,券名称,商家红包消费金额（元）,卡消费金额（元）,退款批次号/请求号,"
    "服务费（元）,分润（元）,备注"
).split(",")
_REFUND_WORDS = {
    BillState.SUCCEEDED: "SUCCESS",
    BillState.PROCESSING: "PROCESSING",
    BillState.CLOSED: "FAIL",
    BillState.ABNORMAL: "CHANGE",
}


def a_row(number: str = "pay_01", **changes: Any) -> BillRow:
    row = BillRow(
        kind=BillKind.PAYMENT,
        provider="wechatpay",
        out_trade_no=number,
        out_refund_no="",
        provider_trade_no="4200000000202611230000000001",
        amount_fen=4000,
        fee_millifen=24000,
        booked_at=datetime(2026, 11, 23, 2, 0, tzinfo=UTC),
        state=BillState.PAID,
        title="居民身份证丢失补领",
    )
    if changes.get("kind") is BillKind.REFUND:
        row = row._replace(out_refund_no="rfd_01", state=BillState.SUCCEEDED)
    return row._replace(**changes)


def yuan(fen: int) -> str:
    return str(Decimal(fen).scaleb(-2).quantize(Decimal("0.01")))


def yuan5(millifen: int) -> str:
    return str(Decimal(millifen).scaleb(-5).quantize(Decimal("0.00001")))


def china(moment: datetime) -> str:
    return (moment.astimezone(UTC) + timedelta(hours=8)).strftime("%Y-%m-%d %H:%M:%S")


def wechatpay_bill(rows: Sequence[BillRow], **sums: str) -> bytes:
    """Return an unpacked bill; `sums` replaces a written sum (to make it wrong)."""
    lines = [",".join(WECHATPAY_COLUMNS)]
    for row in rows:
        paid = row.kind is BillKind.PAYMENT
        values = {
            "交易时间": china(row.booked_at),
            "公众账号ID": "wxab8acd895ab1638a",
            "商户号": "1921000401",
            "特约商户号": "0",
            "微信订单号": row.provider_trade_no,
            "商户订单号": row.out_trade_no,
            "用户标识": "oHkLxtx0vUqe-18p",
            "交易类型": "JSAPI",
            "交易状态": "SUCCESS" if paid else "REFUND",
            "付款银行": "OTHERS",
            "货币种类": "CNY",
            "应结订单金额": yuan(row.amount_fen if paid else 0),
            "代金券金额": "0.00",
            "微信退款单号": "0" if paid else "50000709672019",
            "商户退款单号": "0" if paid else row.out_refund_no,
            "退款金额": yuan(0 if paid else row.amount_fen),
            "充值券退款金额": "0.00",
            "退款类型": "" if paid else "ORIGINAL",
            "退款状态": "" if paid else _REFUND_WORDS[row.state],
            "商品名称": row.title,
            "手续费": yuan5(row.fee_millifen),
            "费率": "0.60%",
            "订单金额": yuan(row.amount_fen if paid else 0),
            "申请退款金额": yuan(0 if paid else row.amount_fen),
        }
        lines.append(",".join("`" + values.get(name, "") for name in WECHATPAY_COLUMNS))
    paid_fen = sum(row.amount_fen for row in rows if row.kind is BillKind.PAYMENT)
    back_fen = sum(row.amount_fen for row in rows if row.kind is BillKind.REFUND)
    totals = {
        "总交易单数": f"{len(rows)}.0",
        "应结订单总金额": yuan(paid_fen),
        "退款总金额": yuan(back_fen),
        "充值券退款总金额": "0.0",
        "手续费总金额": yuan5(sum(row.fee_millifen for row in rows)),
        "订单总金额": yuan(paid_fen),
        "申请退款总金额": yuan(back_fen),
    } | sums
    lines += [",".join(totals), ",".join(f"`{value}" for value in totals.values())]
    return ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()


def sha1(raw: bytes) -> str:
    return hashlib.sha1(raw, usedforsecurity=False).hexdigest()


def packed(raw: bytes) -> bytes:
    return gzip.compress(raw)


def alipay_rows(rows: Sequence[BillRow], *, closing: dict[str, str] | None = None, end: bool = True) -> bytes:
    """Return `..._业务明细.csv`; `closing` replaces parts of the closing lines."""
    lines = [
        "#支付宝业务明细查询",
        "#账号：[20880211096256330156]",
        "#起始日期：[2026年11月23日 00:00:00]   终止日期：[2026年11月24日 00:00:00]",
        "#-----------------------------------------业务明细列表----------------------------------------",
        ",".join(ALIPAY_COLUMNS),
    ]
    for row in rows:
        paid = row.kind is BillKind.PAYMENT
        amount = yuan(row.amount_fen if paid else -row.amount_fen)
        values = {
            "支付宝交易号": f"{row.provider_trade_no}\t",
            "商户订单号": f"{row.out_trade_no}\t",
            "业务类型": "交易\t" if paid else "退款\t",
            "商品名称": row.title,
            "创建时间": china(row.booked_at),
            "完成时间": china(row.booked_at),
            "门店编号": "\t",
            "对方账户": "*三(138****0000)\t",
            "订单金额（元）": amount,
            "商家实收（元）": amount,
            "退款批次号/请求号": f"{row.out_refund_no}\t",
            "服务费（元）": yuan5(-row.fee_millifen),
            "分润（元）": "0.00",
        }
        lines.append(",".join(values.get(name, "0.00" if name.endswith("（元）") else "") for name in ALIPAY_COLUMNS))
    payments = [row for row in rows if row.kind is BillKind.PAYMENT]
    refunds = [row for row in rows if row.kind is BillKind.REFUND]
    told = {
        "payments": str(len(payments)),
        "payments_yuan": yuan(sum(row.amount_fen for row in payments)),
        "refunds": str(len(refunds)),
        "refunds_yuan": yuan(-sum(row.amount_fen for row in refunds)),
    } | (closing or {})
    if end:
        lines += [
            "#-----------------------------------------业务明细列表结束------------------------------------",
            f"#交易合计：{told['payments']}笔，商家实收共{told['payments_yuan']}元，商家优惠共0.00元",
            f"#退款合计：{told['refunds']}笔，商家实收退款共{told['refunds_yuan']}元，商家优惠退款共0.00元",
            "#导出时间：[2026年11月24日 05:46:49]",
        ]
    return ("\r\n".join(lines) + "\r\n").encode("gb18030")


def alipay_summary(rows: Sequence[BillRow], **replaced: str) -> bytes:
    """Return `..._业务明细(汇总).csv`."""
    payments = [row for row in rows if row.kind is BillKind.PAYMENT]
    net = sum(row.amount_fen if row.kind is BillKind.PAYMENT else -row.amount_fen for row in rows)
    values = {
        "门店编号": "合计",
        "门店名称": "",
        "交易订单总笔数": str(len(payments)),
        "退款订单总笔数": str(len(rows) - len(payments)),
        "订单金额（元）": yuan(net),
        "商家实收（元）": yuan(net),
        "服务费（元）": yuan5(-sum(row.fee_millifen for row in rows)),
    } | replaced
    lines = [
        "#支付宝业务汇总查询",
        "#-----------------------------------------业务汇总列表----------------------------------------",
        ",".join(values),
        ",".join(f"{value}\t" for value in values.values()),
        "#----------------------------------------业务汇总列表结束-------------------------------------",
    ]
    return ("\r\n".join(lines) + "\r\n").encode("gb18030")


def gbk_zip(members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip whose member names are GBK bytes without the UTF-8 flag, as Alipay writes them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, raw in members.items():
            # zipfile writes a name that fits code page 437 as it is: that is the back door to raw bytes.
            archive.writestr(zipfile.ZipInfo(_AsCp437(name.encode("gb18030").decode("cp437"))), raw, method)
    return out.getvalue()


class _AsCp437(str):
    """A member name that is written in code page 437 where zipfile would choose UTF-8."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return super().encode("cp437" if encoding in ("ascii", "utf-8") else encoding, errors)


def alipay_bill(rows: Sequence[BillRow]) -> bytes:
    return gbk_zip(
        {
            "20880211096256330156_20261123_业务明细.csv": alipay_rows(rows),
            "20880211096256330156_20261123_业务明细(汇总).csv": alipay_summary(rows),
        }
    )
