"""Materials that come later: tolerated as missing (容缺受理) or promised instead of proven (告知承诺).

The applicant promises before handing in, the clerk fixes the day at acceptance, both see it until the material has come; past the day both are
told. Source: 广东省优化营商环境条例 art. 32 and 36.
"""

from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Any

from app.cases import machine, replacements
from app.cases.model import Case, Promise
from app.cases.procedure import COMMITMENT_LIMIT, rule
from app.cases.steps import APPLICANT, HALL, Moved, advance
from app.kernel.calendar import MAX_DAYS, WorkingCalendar
from app.kernel.clock import chinese_day, shanghai_day
from app.kernel.errors import ErrorRow, ValidationFailed, error_row
from app.kernel.records import replace


def promise(case: Case, keys: Collection[str], names: Mapping[str, str], now: datetime) -> Moved:
    """Promise that these materials come later; they replace what was promised before, so an empty list takes the promise back.

    Args:
        keys: materials; names: of the materials that are needed under the answers given.

    Raises:
        ActionNotAllowed: the item lets nothing come later, or the case is handed in already.
        ValidationFailed: a material that may not come later.
    """
    allowed = case.rules.get("promisable", {})
    rows = [
        error_row(f"/keys/{number}", "not_deferrable", "这项材料不能承诺后补")
        for number, key in enumerate(keys)
        if key not in allowed or key not in names
    ]
    if rows:
        # The table speaks first: whether anything may be promised at all.
        advance(case, "promise", machine.RESIDENT, now, by=APPLICANT)
        raise ValidationFailed(rows)
    made = tuple(Promise(key, names[key], allowed[key], now) for key in dict.fromkeys(keys))
    title = "已承诺后补材料" if made else "已取消后补承诺"
    detail = "、".join(each.name for each in made)
    return advance(case, "promise", machine.RESIDENT, now, by=APPLICANT, title=title, detail=detail, promises=made)


def due_day_rows(case: Case, due_days: Mapping[str, date], on: date) -> list[ErrorRow]:
    """Return a row for each day a clerk may not fix: of a material nobody promised, not in the future, or beyond any limit."""
    promised = {each.key for each in case.open_promises}
    rows = []
    for number, (key, day) in enumerate(due_days.items()):
        if key not in promised:
            rows.append(error_row(f"/tolerated/{number}/key", "not_promised", "申请人没有承诺后补这项材料，不能容缺"))
        elif day <= on:
            rows.append(error_row(f"/tolerated/{number}/due_on", "not_later", "补交的日子要在今天之后"))
        elif (day - on).days > MAX_DAYS:
            rows.append(error_row(f"/tolerated/{number}/due_on", "too_late", "补交的日子太远了，请核对年份"))
    return rows


def with_due_days(case: Case, calendar: WorkingCalendar, now: datetime, due_days: Mapping[str, date]) -> Case:
    """Return a case with the day of each promise fixed.

    Not named: a tolerated material by the day of the decision, which waits for it; what was promised instead of proven by the general limit.
    """
    later = calendar.add(shanghai_day(now), *rule(case.rules, "commitment", COMMITMENT_LIMIT)).on

    def fixed(each: Promise) -> Promise:
        otherwise = case.deadline_on if each.kind == "deferral" and case.deadline_on else later
        return replace(each, due_on=due_days.get(each.key, otherwise)) if each.met_at is None else each

    return replace(case, promises=tuple(map(fixed, case.promises)))


def rows(case: Case) -> list[dict[str, str]]:
    """Return the open promises as an event tells them: name and last day."""
    return [
        {"key": each.key, "name": each.name, "reason": f"请在{chinese_day(each.due_on)}前补交" if each.due_on else ""}
        for each in case.open_promises
    ]


def sentence(case: Case) -> str:
    """Return the sentence that names what is still to come, or nothing."""
    told = "、".join(f"{each.name}（{chinese_day(each.due_on)}前）" for each in case.open_promises if each.due_on)
    return f"请按承诺补交：{told}。" if told else ""


def held(case: Case, key: str, holding: Mapping[str, Any], now: datetime) -> Moved:
    """Keep what was handed in for a material: in a draft or a supplement as part of it, later because it was promised or
    in the place of a licence that was lost."""
    if machine.find(case, "save", machine.RESIDENT, shanghai_day(now)) is None and (
        is_owed(case, key) or (holding.get("files") and may_add(case, key))
    ):
        return hand_in(case, key, holding, now)
    if replacements.is_lost(case, key):
        return replacements.replace_material(case, key, holding, now)
    materials = {**case.materials, key: dict(holding)}
    return advance(case, "save", machine.RESIDENT, now, by=APPLICANT, materials=materials)


def hand_in(case: Case, key: str, holding: Mapping[str, Any], now: datetime) -> Moved:
    """The promised material has come."""
    met = tuple(replace(each, met_at=now) if each.key == key and each.met_at is None else each for each in case.promises)
    name = next((each.name for each in case.promises if each.key == key), key)
    return advance(
        case,
        "hand_in",
        machine.RESIDENT,
        now,
        by=APPLICANT,
        title="已补交承诺的材料",
        detail=name,
        data={"missing": [{"key": key, "name": name, "reason": ""}]},
        promises=met,
        materials={**case.materials, key: dict(holding)},
    )


def is_owed(case: Case, key: str) -> bool:
    """Say whether this material was promised and has not come."""
    return any(each.key == key for each in case.open_promises)


def may_add(case: Case, key: str) -> bool:
    """Say whether more files may follow those of a promised material that have come: pages come one after the other."""
    return case.decision is None and key in case.begun_promises


def warn(case: Case, now: datetime) -> Moved:
    """Tell both sides, once per material, what has not come by its day."""
    on = shanghai_day(now)
    late = [
        each
        for each in case.open_promises
        if each.due_on is not None and on > each.due_on and f"promise:{each.key}" not in case.reminded
    ]
    return advance(
        case,
        "warn_promise",
        machine.SYSTEM,
        now,
        by=HALL,
        title="承诺补交的材料已到期",
        detail="、".join(each.name for each in late),
        data={"missing": [{"key": each.key, "name": each.name, "reason": ""} for each in late]},
        reminded=(*case.reminded, *(f"promise:{each.key}" for each in late)),
    )
