"""Taking a step of the table: state, history and audit change together, or nothing does."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.audit import record
from app.kernel.errors import ValidationFailed, error_row
from app.storage.mongo import Database
from push.campaigns import machine
from push.campaigns.model import MOST_TESTS, CampaignConflict, CampaignNotFound, StepForbidden, StepNotAllowed

_KEPT_HISTORY = 300
# Guard -> what whoever it holds back is told.
_REFUSALS = {
    machine.is_second_person: ("写过这个通知的人不能自己审批，请由另一位负责人处理。", "Somebody who did not write it must do this."),
    machine.may_approve_size: ("写过的人不能自己批准；收件人超过限额的，要由大厅主管单位负责人批准。", "A second person must approve; a large one, the hall's operator."),
    machine.not_held_by_operator: ("这个通知要由大厅主管单位恢复发送。", "The agency that runs the hall must resume it."),
}  # fmt: skip


def not_found() -> CampaignNotFound:
    return CampaignNotFound("没有找到这个群发通知。", en="No such campaign.")


async def take(
    database: Database,
    campaign_id: str,
    name: str,
    actor: machine.Actor,
    now: datetime,
    session: AsyncClientSession,
    *,
    note: str = "",
    version: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Take a step in the transaction of `session`.

    The campaign is read and written in one transaction, so of two who act at once one begins again and is judged by what the other left.

    Args:
        version: the one that was looked at, where what was read matters (edit, submit, approve).
        changes: what else the step changes.

    Raises:
        CampaignNotFound, CampaignConflict (another version), StepNotAllowed (state), StepForbidden (person), ValidationFailed (no note).
    """
    step = machine.STEPS[name]
    campaign = await database["campaigns"].find_one({"_id": campaign_id}, session=session)
    if campaign is None:
        raise not_found()
    if not machine.may(step, actor):
        raise StepForbidden(f"“{machine.STEP_NAMES[name]}”要由单位负责人来做。", en="The head of the agency must do this.")
    if campaign["state"] not in step.sources:
        said = machine.STATE_NAMES[campaign["state"]]
        raise StepNotAllowed(f"这个通知现在是“{said}”，不能{machine.STEP_NAMES[name]}。", en=f"Not while {campaign['state']}.")
    if version is not None and campaign["version"] != version:
        raise CampaignConflict("内容刚被别人改过，请刷新后再看一遍。", en="Somebody has changed it; reload.")
    if not step.guard(campaign, actor, now):
        zh, en = _REFUSALS.get(step.guard, ("现在还不能这样做。", "Not yet."))
        raise StepForbidden(zh, en=en)
    if step.needs_note and not note.strip():
        raise ValidationFailed([error_row("/note", "required", "请写明原因")])
    row = {"at": now, "by": actor.account, "step": name, "note": note.strip()}
    update: dict[str, Any] = {
        "$set": {"state": step.target or campaign["state"], **(changes or {})},
        "$push": {"history": {"$each": [row], "$slice": -_KEPT_HISTORY}},
    }
    if name == "test":  # changes nothing that somebody could have looked at
        if campaign["tests"] >= MOST_TESTS:
            raise StepNotAllowed(f"一个通知最多试发{MOST_TESTS}次。", en="Tested often enough.")
        update["$inc"] = {"tests": 1}
    else:
        update["$inc"] = {"version": 1}
    await database["campaigns"].update_one({"_id": campaign_id}, update, session=session)
    await record(
        database["audit"], actor=actor.account, action=f"campaign.{name}", subject=campaign_id, owner_id="", purpose=note.strip()[:200],
        session=session,
    )  # fmt: skip
