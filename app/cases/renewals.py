"""Renewal of a licence (延续): noted when the application comes in, and granted by law when the office is silent past the old term's end.

Who applies in time (30 days before the end, unless another law says otherwise) has a decision before the end, or the renewal is deemed
granted (行政许可法 art. 50). That end is the licence's and not the case's: stops and extensions of the office's clock (art. 42, 45) do not
move it. Silence counts only where the office could have decided: not while the applicant owed a fee or an answer over the end.
Only items of the kind administrative licence whose data say `renewal`; only for a licence in the applicant's wallet that has its day.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, Protocol

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.cases import deadlines, machine
from app.cases.completeness import has_delivery
from app.cases.model import Case, State
from app.cases.service import Cases
from app.cases.steps import HALL, Moved, advance, complete_if_nothing_to_deliver, require_fee, stop_ended, with_deadline, with_delivery_day
from app.catalogue.model import applies
from app.kernel.calendar import WorkingCalendar
from app.kernel.clock import chinese_day, shanghai_day, utc_now
from app.storage.mongo import Database

_TOO_LATE = "已依法视为准予延续，这项更正没有处理；确需更正的，请申请变更。"


class Wallet(Protocol):
    """What is needed of app/licences: the licence that an application renews."""

    async def renewable(
        self, holder_id: str, licence_type: str, on: date, preferred: Collection[str] = ()
    ) -> Mapping[str, Any] | None: ...


def rule_for(case: Case) -> Mapping[str, Any] | None:
    """Return the rule by which this case renews a licence, or None: its item renews none, or not under these answers."""
    rule = case.rules.get("renewal")
    return rule if rule and applies(rule.get("when"), case.answers) else None


def note(case: Case, licence: Mapping[str, Any], item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime) -> Moved:
    """Note which licence the case renews, and whether it was applied for in time. A case that is decided or noted comes back as it is."""
    rule = rule_for(case)
    if rule is None or machine.find(case, "note_renewal", machine.SYSTEM, shanghai_day(now)) is None:
        return Moved(case)
    assert case.submitted_at is not None
    expires_on = date.fromisoformat(licence["valid_to"])
    days, unit = rule["before"]["days"], rule["before"]["unit"]
    by = expires_on - timedelta(days=days) if unit == "calendar" else deadlines.working_days_before(calendar, expires_on, days)
    in_time = shanghai_day(case.submitted_at) <= by
    ends = f"原来的有效期到{chinese_day(expires_on)}。"
    if in_time:
        detail = f"{ends}到那天还没有决定的，依法视为准予延续（{rule['law']}）。"
    else:
        detail = f"{ends}依法应当在{chinese_day(by)}前申请，这次晚了；审查照常进行，但到期没有决定不视为准予延续。"
    renewal = {
        "licence_id": licence["_id"],
        "number": licence["number"],
        "expires_on": expires_on.isoformat(),
        "apply_by_on": by.isoformat(),
        "in_time": in_time,
        "law": rule["law"],
    }
    moved = advance(case, "note_renewal", machine.SYSTEM, now, by=HALL, title="延续申请", detail=detail, renewal=renewal)
    if case.accepted_at is None or case.deadline_on is None:
        return moved
    # Accepted before this was noted: the end of the term binds from now on.
    counted = with_deadline(moved.case, item, calendar)
    return Moved(counted if case.clock else replace(counted, warn_on=case.warn_on), moved.events)


def deem_renewed(case: Case, item: Mapping[str, Any], calendar: WorkingCalendar, now: datetime) -> Moved:
    """视为准予延续: in time and not decided before the old term ended. Its event is the red card of the office."""
    assert case.renewal is not None
    expires_on = date.fromisoformat(case.renewal["expires_on"])
    opinion = f"有效期届满前没有作出决定，依法视为准予延续（{case.renewal['law']}）"
    unheard = [asked.name for asked in case.open_departments]
    left_out = [stage.name for stage in case.skipped_stages]
    decision = {"outcome": "approved", "opinion": opinion, "at": now, "unheard": unheard, "left_out": left_out, "is_deemed": True}
    ended = stop_ended(case, now) if case.state is State.SUSPENDED else case
    moved = advance(
        replace(with_delivery_day(ended, calendar, now), resume_state=None),
        "deem_renewed",
        machine.SYSTEM,
        now,
        by=HALL,
        title="依法视为准予延续",
        detail=f"{case.agency_name}在{chinese_day(expires_on)}前没有作出决定，依法视为准予延续，新的有效期接着算。",
        data={
            "outcome": "approved",
            "opinion": opinion,
            "reason": opinion,
            "has_delivery": has_delivery(item),
            "expires_on": expires_on.isoformat(),
            "silent_until_on": expires_on.isoformat(),
            "unheard": unheard,
            "left_out": left_out,
            "card": "red",
        },
        decision=decision,
        decided_at=now,
        corrections=tuple(
            asked if asked.outcome else replace(asked, outcome="refused", answer=_TOO_LATE, answered_at=now) for asked in case.corrections
        ),
    )
    moved = moved.then(require_fee(moved.case, "before_issue", now))
    return moved.then(complete_if_nothing_to_deliver(moved.case, now, has_delivery(item)))


class _Taken(Exception):
    """Another application renews this licence."""


class Renewals:
    """Notes what an application renews, from the event of its submission; may be handed over any number of times.

    One licence is renewed by one application: a second one is an ordinary application, until the first has ended without approval. Which one
    it is stands in `renewals` {_id: licence, case_id}, written in the transaction that notes it, so that two at once meet there.
    """

    def __init__(self, database: Database, cases: Cases, wallet: Wallet, clock: Callable[[], datetime] = utc_now) -> None:
        self._renewals = database["renewals"]
        self._cases = cases
        self._wallet = wallet
        self._clock = clock

    async def note(self, case_id: str) -> None:
        """Find the licence that a case renews in the applicant's wallet and note it with the case; nothing when there is none."""
        case = await self._cases.store.load({"_id": case_id})
        rule = rule_for(case)
        if rule is None or case.renewal is not None or case.submitted_at is None:
            return
        held = [row["licence_id"] for row in case.materials.values() if row.get("licence_id")]
        licence = await self._wallet.renewable(case.owner_id, rule["licence"], shanghai_day(case.submitted_at), held)
        if licence is None:
            return

        async def claim(_case: Case, session: AsyncClientSession) -> None:
            row = await self._renewals.find_one({"_id": licence["_id"]}, session=session)
            if row is not None and row["case_id"] != case_id:
                other = await self._cases.store.load({"_id": row["case_id"]}, session)
                if other.is_open or other.decision is not None and other.decision["outcome"] == "approved":
                    raise _Taken
            await self._renewals.replace_one({"_id": licence["_id"]}, {"case_id": case_id}, upsert=True, session=session)

        def step(found: Case, item: Mapping[str, Any]) -> Moved:
            return note(found, licence, item, self._cases.calendar, self._clock())

        for last in (False, True):
            try:
                await self._cases.change({"_id": case_id}, step, claim)
                return
            except _Taken:
                return
            except DuplicateKeyError:  # two at once on a licence that nobody has renewed yet: the second one looks again
                if last:
                    raise
