"""Audit: who did what to whose data. Rows are only ever added; no personal data stands in them."""

from collections.abc import Sequence
from typing import Any

from app.kernel import context
from app.kernel.clock import utc_now
from app.kernel.ids import new_id


async def record(
    collection: Any,
    *,
    actor: str,
    action: str,
    subject: str,
    owner_id: str,
    purpose: str = "",
    subjects: Sequence[str] = (),
    session: Any = None,
) -> None:
    """Add one row to the `audit` collection.

    Args:
        actor: staff account or resident id.
        action: `<subject>.<verb>`, for example `case.read`.
        subject: id of what was touched.
        owner_id: whose data it is.
        purpose: why, where the law asks for it (个人信息保护法 art. 6).
        subjects: of a list that was read, the ids of its rows.
        session: of the transaction in which it was done, so that nothing is done without its row.
    """
    await collection.insert_one(
        {
            "_id": new_id("aud"),
            "at": utc_now(),
            "actor": actor,
            "action": action,
            "subject": subject,
            "owner_id": owner_id,
            "purpose": purpose,
            "request_id": context.request_id.get(),
            **({"subjects": list(subjects)} if subjects else {}),
        },
        session=session,
    )
