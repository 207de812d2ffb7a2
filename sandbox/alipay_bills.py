"""Alipay's daily bills, of trades and of the account: the address by a gateway call, then a zip; from the stand-in's own trades and refunds."""

from __future__ import annotations

import io
import secrets
import zipfile
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from sandbox import bill_days
from sandbox.alipay_trade import Refused
from sandbox.base import Sandbox, StandIn
from sandbox.bill_days import Booked

METHOD = "alipay.data.dataservice.bill.downloadurl.query"
_URL_LIVES_S = 30
_COLUMNS = (
    "支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,对方账户,订单金额（元）,商家实收（元）,"
    "支付宝红包（元）,集分宝（元）,支付宝优惠（元）,商家优惠（元）,券核销金额（元）,券名称,商家红包消费金额（元）,卡消费金额（元）,退款批次号/请求号,"
    "服务费（元）,分润（元）,备注"
)
_SUM_COLUMNS = "门店编号,门店名称,交易订单总笔数,退款订单总笔数,订单金额（元）,商家实收（元）,支付宝优惠（元）,商家优惠（元）,卡消费金额（元）,服务费（元）,分润（元）,实收净额（元）"
_PADDED = ("支付宝交易号", "商户订单号", "业务类型", "门店编号", "门店名称", "操作员", "终端号", "对方账户", "退款批次号/请求号")


def download_url(sandbox: Sandbox, content: dict[str, Any], origin: str) -> dict[str, str]:
    """alipay.data.dataservice.bill.downloadurl.query: the address of a day's zip, good for 30 seconds."""
    day = bill_days.parse_day(str(content.get("bill_date", "")))
    kind = content.get("bill_type")
    if kind not in ("trade", "signcustomer") or day is None or not bill_days.is_over(sandbox, "alipay", day):
        raise Refused("isv.invalid-parameter", "账单类型或日期不正确", code="40002", msg="Invalid Arguments")
    # Alipay has no word for "still being made": until then the bill does not exist.
    if bill_days.is_creating(sandbox, "alipay", day) or not bill_days.booked(sandbox, "alipay", day):
        raise Refused("isp.bill_not_exist", "账单不存在")
    token = secrets.token_urlsafe(24)
    sandbox.store.put("alipay_bill", token, {"until": sandbox.clock() + _URL_LIVES_S, "day": day.isoformat(), "kind": kind})
    return {"bill_download_url": f"{origin}/downloadBillFile.resource?{urlencode({'bizType': kind, 'fileId': token})}"}


class Download(StandIn):
    """GET /downloadBillFile.resource?fileId=: the zip, for anybody who has the address."""

    provider = "alipay"

    def get(self) -> None:
        kept = self.store.get("alipay_bill", self.get_query_argument("fileId", ""))
        if not kept or kept["until"] <= self.now():
            return self.refuse(403, "expired", "下载地址已失效")
        day = date.fromisoformat(kept["day"])
        rows = bill_days.booked(self.sandbox, "alipay", day)
        body = (write if kept["kind"] == "trade" else write_account)(rows, seller_id=self.credentials.alipay_seller_id, day=day)
        return self.send_bytes(body, status=200, content_type="application/zip")


def write(rows: list[Booked], *, seller_id: str, day: date) -> bytes:
    """Return the zip with the file of rows and the file of sums."""
    account = f"{seller_id}0156"
    period = f"#起始日期：[{day:%Y年%m月%d日} 00:00:00]   终止日期：[{day + timedelta(days=1):%Y年%m月%d日} 00:00:00]"
    rule = "-" * 41
    text = [
        "#支付宝业务明细查询",
        f"#账号：[{account}]",
        period,
        f"#{rule}业务明细列表{rule[1:]}",
        _COLUMNS,
        *(_line(row) for row in rows),
        f"#{rule}业务明细列表结束{rule[5:]}",
        *_closing(rows),
    ]
    summary = [
        "#支付宝业务汇总查询",
        f"#账号：[{account}]",
        period,
        f"#{rule}业务汇总列表{rule[1:]}",
        _SUM_COLUMNS,
        _summary(rows),
        f"#{rule[1:]}业务汇总列表结束{rule[4:]}",
    ]
    return _zipped({f"{account}_{day:%Y%m%d}_业务明细.csv": text, f"{account}_{day:%Y%m%d}_业务明细(汇总).csv": summary})


def write_account(rows: list[Booked], *, seller_id: str, day: date) -> bytes:
    """Return the zip of the account's bill: every payment, refund and fee as a movement of its own, without the refunds' own numbers."""
    account, rule, moved = f"{seller_id}0156", "-" * 41, []
    for row in rows:
        moved.append((row, "交易退款" if row.is_refund else "交易付款", -row.amount_fen if row.is_refund else row.amount_fen))
        fee = -((row.fee_millifen + 500) // 1000)
        if fee:
            moved.append((row, "收费" if fee < 0 else "退费", fee))
    expenses, incomes = [fen for *_, fen in moved if fen < 0], [fen for *_, fen in moved if fen > 0]
    lines = []
    for at, (row, word, fen) in enumerate(moved):
        amounts = f"{bill_days.yuan(max(fen, 0))},{bill_days.yuan(min(fen, 0))}"
        begin = f"{day:%Y%m%d}{at:06}\t,{row.trade_id}\t,{row.out_trade_no}\t,{row.title}\t,{bill_days.china_text(row.at)}"
        lines.append(f"{begin},*三(138****0000)\t,{amounts},0.00,支付宝,{word},")
    text = [
        "#支付宝账务明细查询",
        f"#账号：[{account}]",
        f"#起始日期：[{day:%Y年%m月%d日} 00:00:00]   终止日期：[{day + timedelta(days=1):%Y年%m月%d日} 00:00:00]",
        f"#{rule}账务明细列表{rule[1:]}",
        "账务流水号,业务流水号,商户订单号,商品名称,发生时间,对方账号,收入金额（+元）,支出金额（-元）,账户余额（元）,交易渠道,业务类型,备注",
        *lines,
        f"#{rule}账务明细列表结束{rule[5:]}",
        f"#支出合计：{len(expenses)}笔，共{bill_days.yuan(sum(expenses))}元",
        f"#收入合计：{len(incomes)}笔，共{bill_days.yuan(sum(incomes))}元",
        "#导出时间：[2026年11月24日 05:46:49]",
    ]
    return _zipped({f"{account}_{day:%Y%m%d}_账务明细.csv": text})


def _zipped(members: dict[str, list[str]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in members.items():
            member = zipfile.ZipInfo(_RawName(name.encode("gb18030").decode("cp437")))
            archive.writestr(member, ("\r\n".join(lines) + "\r\n").encode("gb18030"), zipfile.ZIP_DEFLATED)
    return out.getvalue()


class _RawName(str):
    """A member name whose bytes go into the zip as they are: GBK without the UTF-8 flag, as the original does."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return super().encode("cp437" if encoding in ("ascii", "utf-8") else encoding, errors)


def _line(row: Booked) -> str:
    amount = bill_days.yuan(-row.amount_fen if row.is_refund else row.amount_fen)
    values = {
        "支付宝交易号": row.trade_id,
        "商户订单号": row.out_trade_no,
        "业务类型": "退款" if row.is_refund else "交易",
        "商品名称": row.title,
        "创建时间": bill_days.china_text(row.at),
        "完成时间": bill_days.china_text(row.at),
        "对方账户": "*三(138****0000)",
        "订单金额（元）": amount,
        "商家实收（元）": amount,
        "退款批次号/请求号": row.out_refund_no,
        "服务费（元）": _fee(row),
    }
    shown = {name: values.get(name, "0.00" if name.endswith("（元）") else "") for name in _COLUMNS.split(",")}
    return ",".join(f"{value}\t" if name in _PADDED else value for name, value in shown.items())


def _fee(row: Booked) -> str:
    # Whole fen here, and negative when charged.
    return bill_days.yuan(-((row.fee_millifen + 500) // 1000))


def _closing(rows: list[Booked]) -> list[str]:
    payments = [row.amount_fen for row in rows if not row.is_refund]
    refunds = [row.amount_fen for row in rows if row.is_refund]
    return [
        f"#交易合计：{len(payments)}笔，商家实收共{bill_days.yuan(sum(payments))}元，商家优惠共0.00元",
        f"#退款合计：{len(refunds)}笔，商家实收退款共{bill_days.yuan(-sum(refunds))}元，商家优惠退款共0.00元",
        "#导出时间：[2026年11月24日 05:46:49]",
    ]


def _summary(rows: list[Booked]) -> str:
    net = sum(-row.amount_fen if row.is_refund else row.amount_fen for row in rows)
    fee = -sum((row.fee_millifen + 500) // 1000 for row in rows)
    values = {
        "门店编号": "合计",
        "交易订单总笔数": str(sum(not row.is_refund for row in rows)),
        "退款订单总笔数": str(sum(row.is_refund for row in rows)),
        "订单金额（元）": bill_days.yuan(net),
        "商家实收（元）": bill_days.yuan(net),
        "服务费（元）": bill_days.yuan(fee),
        "实收净额（元）": bill_days.yuan(net + fee),
    }
    shown = (values.get(name, "0.00" if name.endswith("（元）") else "") for name in _SUM_COLUMNS.split(","))
    return ",".join(f"{value}\t" for value in shown)


routes = [(r"/downloadBillFile\.resource", Download)]
