"""The report of one day, for an accountant: an HTML page that explains itself, and a CSV with every difference. Pure."""

import csv
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from html import escape
from typing import Any, TextIO

from app.kernel.clock import chinese_day, chinese_moment
from app.kernel.money import yuan_text
from payments.reconcile import words

# More rows than this nobody reads in a browser; the CSV has them all.
MOST_ROWS = 500

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.7 "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; color: #1c2430; background: #f4f6f9; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 56px; background: #fff; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 8px; } p { margin: 6px 0; }
.result { border-radius: 8px; padding: 14px 18px; margin: 18px 0; border: 1px solid; }
.good { background: #edf7f0; border-color: #9fd1b0; } .bad { background: #fdf2e9; border-color: #e8b98a; }
.result strong { font-size: 17px; }
table { border-collapse: collapse; width: 100%; margin: 8px 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #57606e; padding-bottom: 4px; }
th, td { border: 1px solid #d7dce3; padding: 7px 10px; text-align: left; vertical-align: top; }
thead th { background: #eef1f5; } td.n, th.n { text-align: right; white-space: nowrap; }
td.no { font: 12px/1.6 ui-monospace, Consolas, monospace; min-width: 232px; } td.s { white-space: nowrap; }
tr.settled td { color: #57606e; }
.diff { color: #a3421a; font-weight: 600; } .muted { color: #57606e; } ul { margin: 6px 0; padding-left: 22px; }
@media print { body { background: #fff; } main { padding: 0; } tr { break-inside: avoid; } }
"""


def html_report(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], now: datetime) -> str:
    """Return the page of one reconciliation.

    Args:
        run: its `reconciliations` document. rows: its findings, at most MOST_ROWS of them are shown.
    """
    day = date.fromisoformat(run["day"])
    provider = words.PROVIDERS.get(run["provider"], run["provider"])
    progress, counts = run["progress"], run.get("findings") or {}
    open_count, waiting, settled = (counts.get(state, 0) for state in ("open", "waiting", "settled"))
    theirs, ours = progress["theirs"] or _NO_SUMS, progress["ours"]
    title = f"{provider}对账报告 {chinese_day(day)}"
    total = open_count + waiting + settled
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">韶关掌上办事大厅 · 生成时间 {chinese_moment(now)}</p>',
        _result(open_count, waiting, settled),
        "<h2>对了什么</h2>",
        f"<p>把{provider}{chinese_day(day)}（零点到零点，北京时间）的日账单，与本系统同一天的收款和退款逐笔核对，两个方向都查："
        "账单上的每一笔是否在本系统有记录、金额和状态是否一致；本系统记的每一笔是否在账单上。"
        "前一天和后一天的账单也看，零点前后的款项不会误报。账单文件的合计（和微信支付账单的校验值）已先行验算，一致才采用。</p>",
        _sums(theirs, ours),
        _bridge(theirs, ours, rows, total),
        "<h2>差异明细</h2>",
        _findings(rows, total),
        _legend(),
    ]
    return (
        '<!doctype html>\n<html lang="zh-CN"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>" + "\n".join(body) + "</main></body></html>\n"
    )


_NO_SUMS = {"payments": 0, "payments_fen": 0, "refunds": 0, "refunds_fen": 0, "fee_millifen": 0}


def _result(open_count: int, waiting: int, settled: int) -> str:
    if open_count:
        text = f"<strong>有 {open_count} 处差异需要处理</strong>"
        rest = "请按下面“差异明细”里每一行的“怎么办”处理。"
    elif waiting:
        text, rest = f"<strong>有 {waiting} 处差异要等次日账单</strong>", "今天不用处理，明天对账时会自动再查。"
    else:
        text, rest = "<strong>账单与本系统一致，没有需要处理的差异</strong>", ""
    more = [f"另有 {waiting} 处要等次日账单。" if waiting and open_count else "", f"已自动或人工核清 {settled} 处。" if settled else ""]
    return f'<div class="result {"bad" if open_count else "good"}">{text}<p>{rest}{"".join(more)}</p></div>'


def _sums(theirs: Mapping[str, int], ours: Mapping[str, int]) -> str:
    lines = []
    for name, label in (("payments", "收款"), ("refunds", "退款")):
        count, fen = theirs[name] - ours[name], theirs[f"{name}_fen"] - ours[f"{name}_fen"]
        differs = ' class="n diff"' if count or fen else ' class="n"'
        lines.append(
            f'<tr><th>{label}</th><td class="n">{theirs[name]:,}</td><td class="n">{_yuan(theirs[f"{name}_fen"])}</td>'
            f'<td class="n">{ours[name]:,}</td><td class="n">{_yuan(ours[f"{name}_fen"])}</td>'
            f"<td{differs}>{count:+,}</td><td{differs}>{_signed(fen)}</td></tr>".replace("+0<", "0<")
        )
    fee = (theirs["fee_millifen"] + 500) // 1000
    return (
        "<h2>合计</h2><table><caption>金额单位：元。差额 = 账单 − 本系统。</caption><thead><tr><th></th>"
        '<th class="n">账单笔数</th><th class="n">账单金额</th><th class="n">本系统笔数</th><th class="n">本系统金额</th>'
        '<th class="n">笔数差</th><th class="n">金额差</th></tr></thead><tbody>' + "".join(lines) + "</tbody></table>"
        f"<p>平台手续费（账单）：{_yuan(fee)} 元，已按“手续费”科目记入总账。</p>"
    )


def _bridge(theirs: Mapping[str, int], ours: Mapping[str, int], rows: Sequence[Mapping[str, Any]], total: int) -> str:
    """Explain the difference of the sums out of the single differences, as far as they do."""
    gap = theirs["payments_fen"] - theirs["refunds_fen"] - ours["payments_fen"] + ours["refunds_fen"]
    if total > len(rows):
        return ""
    explained = 0
    for row in rows:
        if row["state"] == "settled" and row.get("how") in ("query", "other_day", "withdrawn"):
            continue
        sign = 1 if row["subject"] == "payment" else -1
        theirs_fen = row.get("theirs_fen", 0) if row.get("theirs_state") in ("paid", "succeeded") else 0
        ours_fen = row.get("ours_fen", 0) if row.get("ours_state") in ("paid", "succeeded") else 0
        explained += sign * (theirs_fen - ours_fen)
    if not gap and not explained:
        return ""
    text = f"<p>净额差（收款减退款）：账单比本系统 {_signed(gap)} 元；下面列出的差异合计 {_signed(explained)} 元。"
    if gap == explained:
        return text + "两者相等，差额已全部解释。</p>"
    return text + "两者之差一般来自零点前后、记在相邻日期的款项。</p>"


def _findings(rows: Sequence[Mapping[str, Any]], total: int) -> str:
    if not rows:
        return "<p>没有差异。</p>"
    order = {"open": 0, "waiting": 1, "settled": 2}
    lines = []
    for row in sorted(rows, key=lambda row: (order[row["state"]], row["_id"])):
        numbers = [("退款单号 " if row["subject"] == "refund" else "商户订单号 ") + row["number"]]
        if row["out_trade_no"] not in ("", row["number"]):
            numbers.append(f"原收款 {row['out_trade_no']}")
        if row.get("provider_trade_no"):
            numbers.append(f"平台单号 {row['provider_trade_no']}")
        if row.get("order_id"):
            numbers.append(f"订单 {row['order_id']}")
        lines.append(
            f'<tr class="{row["state"]}"><td class="s">{words.STATES[row["state"]]}</td>'
            f"<td class=\"s\">{words.SUBJECTS[row['subject']]}<br>{words.KINDS[row['kind']]}</td>"
            f'<td class="no">{"<br>".join(escape(number).replace(" ", "<br>", 1) for number in numbers)}</td>'
            f'<td class="n">{words.amount(row.get("theirs_fen"))}</td><td class="n">{words.amount(row.get("ours_fen"))}</td>'
            f"<td>{escape(words.sentence(row))}<br>{_when(row)}</td><td>{escape(words.advice(row))}</td></tr>"
        )
    more = f"<p>共 {total} 处差异，这里列出前 {len(rows)} 处，全部在同名的 CSV 文件里。</p>" if total > len(rows) else ""
    return (
        '<table><thead><tr><th>状态</th><th>类别</th><th>单号</th><th class="n">账单金额</th><th class="n">本系统金额</th>'
        "<th>差异</th><th>怎么办</th></tr></thead><tbody>" + "".join(lines) + "</tbody></table>" + more
    )


def _when(row: Mapping[str, Any]) -> str:
    at = words.moment(row.get("at"))
    return f'<span class="muted">{at}</span>' if at else ""


def _legend() -> str:
    return (
        "<h2>说明</h2><ul>"
        "<li><b>我方有、账单没有</b>：本系统记了账，支付平台的账单上找不到。</li>"
        "<li><b>账单有、我方没有</b>：支付平台有一笔，本系统没有这个单号。同一商户号下其他系统的收款也会在这里。</li>"
        "<li><b>金额不一致</b>、<b>状态不一致</b>：双方都有这个单号，但金额不同，或一方已成功而另一方没有。</li>"
        "<li>“待处理”的差额挂在总账的“待查”科目，核清时自动转出；在此之前不会计入任何单位的应付款。</li></ul>"
    )


def _yuan(fen: int) -> str:
    whole, _, rest = yuan_text(abs(fen)).partition(".")
    return f"{'-' if fen < 0 else ''}{int(whole):,}.{rest}"


def _signed(fen: int) -> str:
    return f"+{_yuan(fen)}" if fen > 0 else _yuan(fen)


class CsvReport:
    """Writes findings one by one, for a spreadsheet: with a BOM (the file's encoding), numbers kept as text."""

    COLUMNS = (
        "支付平台,账单日期,状态,类别,收款或退款,单号,原收款单号,平台单号,订单号,收款单位,账单金额（元）,本系统金额（元）,账单状态,本系统状态,时间,差异,怎么办"
    )

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file)
        self._writer.writerow(self.COLUMNS.split(","))

    def add(self, row: Mapping[str, Any]) -> None:
        numbers = (row["number"], row["out_trade_no"], row.get("provider_trade_no", ""), row.get("order_id", ""))
        self._writer.writerow(
            [
                words.PROVIDERS.get(row["provider"], row["provider"]),
                row["day"],
                words.STATES[row["state"]],
                words.KINDS[row["kind"]],
                words.SUBJECTS[row["subject"]],
                *(_text(number) for number in numbers),
                _text(row.get("agency_id", "")),
                "" if row.get("theirs_fen") is None else yuan_text(row["theirs_fen"]),
                "" if row.get("ours_fen") is None else yuan_text(row["ours_fen"]),
                words.their_state(row),
                words.our_state(row),
                words.moment(row.get("at")),
                words.sentence(row),
                words.advice(row),
            ]
        )


def _text(number: str) -> str:
    """Keep a number as text in a spreadsheet: a tab behind it, as the providers' own bills have; and nothing starts a formula."""
    if not number:
        return ""
    return f"{chr(39) if number[0] in '=+-@' else ''}{number}\t"
