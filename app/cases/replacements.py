"""Licences that stood in for a material and were lost after acceptance: run out, annulled, or not the applicant's any more.

The case keeps its place and its clock. The applicant is told once for each licence and may hand in a file or another licence instead; until
then nothing is approved, and a denial says why. A licence that turns out to be good again needs no replacing. What is marked stands with the
holding itself (`lost`), so that whatever replaces the holding ends the mark in the same write.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.cases import machine
from app.cases.model import Case
from app.cases.steps import APPLICANT, HALL, Moved, advance
from app.kernel.clock import shanghai_day
from app.kernel.errors import ErrorRow, error_row


def noted(case: Case, names: Mapping[str, str], asked: Mapping[str, tuple[str, bool]], now: datetime) -> Moved:
    """Mark what was lost since it was last asked for, take the mark off what is good again; the same case when neither.

    Args:
        names: of the materials, by key.
        asked: by key of a material: the licence that was asked for, and whether it is lost. One that was replaced meanwhile is passed by.
    """
    held = {key: is_lost for key, (licence, is_lost) in asked.items() if case.materials.get(key, {}).get("licence_id") == licence}
    lost = [key for key, is_lost in held.items() if is_lost and key not in case.lost_materials]
    good = [key for key, is_lost in held.items() if not is_lost and key in case.lost_materials]
    moved = Moved(case)
    if lost and machine.find(case, "lose_licence", machine.SYSTEM, shanghai_day(now)):
        moved = lose(case, {key: names.get(key, key) for key in lost}, now)
    if good and machine.find(moved.case, "regain_licence", machine.SYSTEM, shanghai_day(now)):
        moved = moved.then(regain(moved.case, good, now))
    return moved


def lose(case: Case, names: Mapping[str, str], now: datetime) -> Moved:
    """The licences that stood in for these materials (key -> name) are worth nothing any more; the applicant is told."""
    marked = {key: {**case.materials[key], "lost": {"at": now, "name": name}} for key, name in names.items()}
    return advance(
        case,
        "lose_licence",
        machine.SYSTEM,
        now,
        by=HALL,
        title="用的电子证照失效了，请换一张",
        detail=f"{'、'.join(names.values())}：证照已过期、已作废或不在您名下。换一张或上传文件就接着办，不用重新申请。",
        data={"missing": [{"key": key, "name": name, "reason": "证照已失效，请换一张或上传文件"} for key, name in names.items()]},
        materials={**case.materials, **marked},
    )


def regain(case: Case, keys: list[str], now: datetime) -> Moved:
    """Licences told as lost are good again: nothing is to be replaced for these materials."""
    names = [case.materials[key]["lost"]["name"] for key in keys]
    unmarked = {key: {name: value for name, value in case.materials[key].items() if name != "lost"} for key in keys}
    return advance(
        case,
        "regain_licence",
        machine.SYSTEM,
        now,
        by=HALL,
        title="电子证照又能用了",
        detail=f"{'、'.join(names)}不用再换。",
        data={"missing": [{"key": key, "name": name, "reason": ""} for key, name in zip(keys, names, strict=True)]},
        materials={**case.materials, **unmarked},
    )


def replace_material(case: Case, key: str, holding: Mapping[str, Any], now: datetime) -> Moved:
    """A file or another licence has come in the place of one that was lost."""
    name = case.materials[key]["lost"]["name"] if key in case.lost_materials else key
    return advance(
        case,
        "replace_material",
        machine.RESIDENT,
        now,
        by=APPLICANT,
        title="已换上新的材料",
        detail=name,
        data={"missing": [{"key": key, "name": name, "reason": ""}]},
        materials={**case.materials, key: dict(holding)},
    )


def sentence(case: Case) -> str:
    """Return the sentence that names what is to be replaced, or nothing."""
    names = "、".join(case.materials[key]["lost"]["name"] for key in case.lost_materials)
    return f"请换掉已失效的证照：{names}。" if names else ""


def rows(case: Case) -> list[ErrorRow]:
    """Return what the clerk is told who wants to approve meanwhile."""
    return [
        error_row(
            f"/materials/{key}",
            "licence_not_valid",
            f"“{case.materials[key]['lost']['name']}”用的电子证照已过期、已作废或不是申请人本人的，已经告诉申请人换一张或上传文件。"
            "换好前不能准予；不再等的，可以说明理由不予办理。",
        )
        for key in case.lost_materials
    ]


def is_lost(case: Case, key: str) -> bool:
    """Say whether the licence in the place of this material was told as lost and can be replaced now."""
    return key in case.lost_materials and "replace_material" in machine.allowed_actions(case, machine.RESIDENT)
