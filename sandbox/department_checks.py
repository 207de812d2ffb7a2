"""Sample answers of the checks (查). What a person sees is made from name and number, so it is always the same.

A record is {title, state, rows: [{label, value}]}: a heading, a word for how things stand, and labelled rows.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from sandbox import bills
from sandbox.base import Sandbox
from sandbox.people import is_id_number, pick

Answer = tuple[list[dict[str, Any]], list[dict[str, Any]]]


class Missing(Exception):
    """Something needed is not there; `args[0]` lists the fields."""


def _record(title: str, state: str, *rows: tuple[str, str]) -> dict[str, Any]:
    return {"title": title, "state": state, "rows": [{"label": label, "value": value} for label, value in rows]}


def _yuan(fen: int) -> str:
    return f"{fen // 100}.{fen % 100:02d} 元"


def _who(who: dict[str, Any]) -> str:
    """Return the key of a person: every check of one's own data needs the verified identity."""
    name, id_number = who.get("name"), who.get("id_number")
    missing = [] if isinstance(name, str) and name else ["person.name"]
    if not isinstance(id_number, str) or not is_id_number(id_number):
        missing.append("person.id_number")
    if missing:
        raise Missing(missing)
    return f"{name}/{id_number}"


def _day(sandbox: Sandbox, back: int) -> str:
    return (date.fromisoformat(sandbox.today()) - timedelta(days=back)).isoformat()


def traffic_violation(sandbox: Sandbox, inputs: dict[str, Any], who: dict[str, Any]) -> Answer:
    """By plate and the last six of the VIN (or the driver's file number), by the verified person, or by both."""
    found: dict[str, dict[str, Any]] = {}
    keys = {name: str(inputs.get(name) or "") for name in ("plate", "vin_last6", "driver_file_no")}
    by_plate = bool(keys["plate"])
    if by_plate:
        try:
            found |= {bill["id"]: bill for bill in bills.find(sandbox, "traffic_fine", keys)}
        except ValueError:
            raise Missing(["inputs.vin_last6"]) from None
    if who.get("name") and who.get("id_number"):
        mine = bills.of_person(sandbox, "traffic_fine", who["name"], who["id_number"])
        found |= {bill["id"]: bill for bill in mine if not by_plate or bill["keys"].get("plate") == keys["plate"]}
    elif not by_plate:
        raise Missing(["inputs.plate", "inputs.vin_last6"])
    words = {"unpaid": "未缴款", "paid": "已缴款", "disputed": "复议诉讼中，暂停加处罚款", "refunded": "已退款"}
    rows = [
        _record(
            bill["title"],
            words.get(bill["state"], bill["state"]),
            ("号牌号码", bill["keys"].get("plate", "")),
            ("决定书编号", bill["keys"].get("decision_no", "")),
            ("处理日期", bill["issued_on"]),
            ("罚款", _yuan(bill["amount_fen"])),
            ("加处罚款", _yuan(bill["late_fee_fen"])),
            ("记分", f"{bill.get('points', 0)} 分"),
            ("缴款期限", bill["due_on"]),
        )
        for bill in sorted(found.values(), key=lambda bill: bill["due_on"])
    ]
    return rows, list(found.values())


def licence_points(sandbox: Sandbox, inputs: dict[str, Any], who: dict[str, Any]) -> Answer:
    key = _who(who)
    points = pick("points", key, 10)
    record = _record(
        "机动车驾驶证",
        "正常",
        ("准驾车型", ("C1", "C2", "B2", "A2")[pick("class", key, 4)]),
        ("累计记分", f"{points} 分"),
        ("剩余可用", f"{12 - points} 分"),
        ("本记分周期起", _day(sandbox, 40 + pick("cycle", key, 300))),
        ("有效期止", f"{2027 + pick('until', key, 8)}-{1 + pick('month', key, 12):02d}-15"),
        ("发证机关", "韶关市公安局交通警察支队（示例）"),
    )
    return [record], []


def vehicle_status(sandbox: Sandbox, inputs: dict[str, Any], who: dict[str, Any]) -> Answer:
    """The vehicles of a person: one or two, each with the day until which its inspection is valid."""
    key = _who(who)
    return [
        _record(
            f"小型汽车{number}",
            "正常",
            ("号牌号码", f"粤F{10000 + pick(f'plate-{number}', key, 90000)}"),
            ("检验有效期止", _month_end(sandbox, 1 + pick(f"inspection-{number}", key, 12))),
            ("使用性质", "非营运"),
        )
        for number in range(1, 2 + pick("vehicles", key, 2))
    ], []


def _month_end(sandbox: Sandbox, months: int) -> str:
    today = date.fromisoformat(sandbox.today())
    year, month = divmod(today.year * 12 + today.month + months, 12)
    return (date(year, month + 1, 1) - timedelta(days=1)).isoformat()


def social_insurance(sandbox: Sandbox, inputs: dict[str, Any], who: dict[str, Any]) -> Answer:
    key = _who(who)
    base_fen = 450000 + pick("base", key, 60) * 10000
    months = 12 + pick("months", key, 240)
    kinds = (("企业职工基本养老保险", 8), ("失业保险", 0), ("工伤保险", 0))
    return [
        _record(
            name,
            "正常参保",
            ("参保单位", "示例单位（韶关）有限公司"),
            ("缴费基数", _yuan(base_fen)),
            ("个人月缴费", _yuan(base_fen * percent // 100)),
            ("累计缴费月数", f"{months} 个月"),
            ("最近缴费月份", _day(sandbox, 30)[:7]),
        )
        for name, percent in kinds
    ], []


def housing_fund(sandbox: Sandbox, inputs: dict[str, Any], who: dict[str, Any]) -> Answer:
    key = _who(who)
    month_fen = 80000 + pick("gjj", key, 200) * 1000
    record = _record(
        "住房公积金个人账户",
        "正常",
        ("个人账号", f"7510{pick('account', key, 10**8):08d}"),
        ("账户余额", _yuan(month_fen * (6 + pick("gjj-months", key, 120)))),
        ("月缴存额", _yuan(month_fen)),
        ("缴至月份", _day(sandbox, 30)[:7]),
        ("管理部", "韶关市住房公积金管理中心（示例）"),
    )
    return [record], []


def id_card_progress(sandbox: Sandbox, inputs: dict[str, Any], who: dict[str, Any]) -> Answer:
    key = _who(who)
    state = ("制证中", "已签发，待领取", "已受理，审核中")[pick("idcard", key, 3)]
    back = 5 + pick("idcard-days", key, 30)
    record = _record(
        "居民身份证办理进度",
        state,
        ("受理单位", "韶关市公安局浈江分局（示例）"),
        ("业务类型", "丢失补领"),
        ("受理日期", _day(sandbox, back)),
        ("预计完成", _day(sandbox, back - 60)),  # 60 calendar days, 居民身份证法 art. 12
    )
    return [record], []


def exit_entry_progress(sandbox: Sandbox, inputs: dict[str, Any], who: dict[str, Any]) -> Answer:
    key = _who(who)
    state = ("审核中", "制证中", "已完成，可领取")[pick("exit", key, 3)]
    record = _record(
        "往来港澳通行证",
        state,
        ("业务编号", f"4402{pick('exit-no', key, 10**11):011d}"),
        ("受理日期", _day(sandbox, 3 + pick("exit-days", key, 12))),
        ("受理单位", "韶关市公安局出入境管理支队（示例）"),
        ("领取方式", "邮寄" if pick("exit-way", key, 2) else "窗口领取"),
    )
    return [record], []


def appointment(sandbox: Sandbox, inputs: dict[str, Any], who: dict[str, Any]) -> Answer:
    key = _who(who)
    if pick("appointment", key, 4) == 0:
        return [], []
    record = _record(
        "办事大厅预约",
        "预约成功",
        ("办事大厅", "韶关市政务服务中心（示例）"),
        ("预约日期", _day(sandbox, -1 - pick("appointment-day", key, 7))),
        ("时段", ("09:00-10:00", "10:00-11:00", "14:30-15:30")[pick("slot", key, 3)]),
        ("预约号", f"A{100 + pick('ticket', key, 900)}"),
    )
    return [record], []


def medical_insurance(sandbox: Sandbox, inputs: dict[str, Any], who: dict[str, Any]) -> Answer:
    key = _who(who)
    record = _record(
        "基本医疗保险",
        "正常参保",
        ("险种", "城镇职工基本医疗保险" if pick("yb", key, 2) else "城乡居民基本医疗保险"),
        ("参保地", "广东省韶关市"),
        ("个人账户余额", _yuan(pick("yb-balance", key, 600000))),
        ("本年度统筹支付", _yuan(pick("yb-used", key, 300000))),
    )
    return [record], []


KINDS: dict[str, Callable[[Sandbox, dict[str, Any], dict[str, Any]], Answer]] = {
    "traffic_violation": traffic_violation,
    "licence_points": licence_points,
    "vehicle_status": vehicle_status,
    "social_insurance": social_insurance,
    "housing_fund": housing_fund,
    "id_card_progress": id_card_progress,
    "exit_entry_progress": exit_entry_progress,
    "appointment": appointment,
    "medical_insurance": medical_insurance,
}
