"""Call-backs (回访): every bad rating opens one, in the transaction of the rating, under an id made of the rating's."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.feedback import machine
from app.feedback.model import LEVELS
from app.feedback.work_order import PERSON, WorkOrder, entry
from app.kernel.clock import shanghai_day


def opened_by(
    rating: Mapping[str, Any], text: str, number: str, concerned: Sequence[str], desk: str, *, is_with_superior: bool, now: datetime
) -> WorkOrder:
    """Return the work order of a bad rating.

    Args:
        concerned: the staff who were rated: none of them calls back.
        desk: the agency whose head deals with it (people.desk_for).
    """
    said = "，".join([LEVELS[rating["level"]], *rating["tags"]]) + (f"。{text}" if text else "")
    return WorkOrder(
        id=f"cbk_{rating['_id'].rpartition('_')[2]}",
        kind=machine.CALL_BACK,
        number=number,
        owner_id=rating["owner_id"],
        # Nobody left a name: there is nobody to reach, so it begins with looking into it.
        state=machine.FIRST[machine.CALL_BACK] if rating["owner_id"] else "contacted",
        version=1,
        created_at=now,
        updated_at=now,
        about="case" if rating["case_id"] else "agency",
        agency_id=rating["agency_id"],
        agency_name=rating["agency_name"],
        desk_agency=desk,
        began_on=shanghai_day(now),
        item_code=rating["item_code"],
        item_name=rating["item_name"],
        case_id=rating["case_id"],
        level=rating["level"],
        concerned=tuple(concerned),
        is_with_superior=is_with_superior,
        log=(entry(now, "open", PERSON, said),),
    )
