"""What events leave to be reminded of: licences with their terms, days of cases, renewals. Put together here, where all rooms are known."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from app.cases.appointments import appointments, prefix
from app.cases.renewals import Renewals
from app.cases.service import Cases
from app.catalogue.live import LiveCatalogue
from app.identity.service import Identity
from app.kernel.events import Event
from app.licences import terms
from app.licences.service import Licences
from app.reminders.model import Dated
from app.reminders.service import Reminders
from app.storage.mongo import Database

# After these the days of a case can be others than before. Each looks at the case as it is now, so their order does not matter.
_CASE_EVENTS = (
    "case.submitted", "case.supplemented", "case.accepted", "case.deemed_accepted", "case.not_accepted", "case.supplement_expired",
    "case.suspended", "case.resumed", "case.approved", "case.deemed_renewed", "case.denied", "case.completed", "case.withdrawn",
    "case.correction_answered", "case.transferred",
)  # fmt: skip

Handle = Callable[[Event], Awaitable[None]]


def reminding(
    database: Database, cases: Cases, wallet: Licences, reminders: Reminders, identity: Identity, catalogue: LiveCatalogue
) -> list[tuple[str, tuple[str, Handle]]]:
    """Return (event, (subscriber, what it does)); each may be handed over any number of times."""
    renewals = Renewals(database, cases, wallet)

    async def issue_licence(event: Event) -> None:
        case = await cases.store.load({"_id": event.subject_id})
        # As the case began: the item may be another by now, or be offered no more.
        result = (await catalogue.item_at(case.item_code, case.item_version))["result"]
        if not result["licence"]:
            return
        licence = await wallet.issue(
            replace(event, owner_id=case.owner_id),  # two residents may have been joined meanwhile
            result["licence"],
            own=terms.own_term(result.get("terms", ()), case.answers),
            born_on=terms.born_on(str(case.form.get("id_number") or "") or (await identity.resident(case.owner_id)).id_number),
            renews=case.renewal["licence_id"] if case.renewal else None,
            in_time=bool(case.renewal and case.renewal["in_time"]),
        )
        await reminders.drop([f"licence:{licence_id}" for licence_id in await wallet.replaced(licence)])
        for dated in days_of(licence, catalogue.snapshot.licences[licence["type"]], result):
            await reminders.put(licence["holder_id"], dated)

    def may_have(event: Event, has: Callable[[Mapping[str, Any]], bool]) -> bool:
        # Nearly all items have neither: then no case is read. One that is offered no more is read, for its case goes on.
        item = catalogue.snapshot.by_name.get(event.data["item_code"])
        return item is None or has(item)

    async def note_renewal(event: Event) -> None:
        if may_have(event, lambda item: "renewal" in item):
            await renewals.note(event.subject_id)

    async def note_days(event: Event) -> None:
        if not may_have(event, lambda item: "hearing" in item or any(field.get("appointment") for field in item["form"])):
            return
        case = await cases.store.load({"_id": event.subject_id})
        days = appointments(case, await catalogue.item_at(case.item_code, case.item_version))
        await reminders.keep_only(prefix(case.id), [dated.subject for dated in days])
        for dated in days:
            await reminders.put(case.owner_id, dated)

    return [
        ("case.completed", ("licences", issue_licence)),
        ("case.submitted", ("renewals", note_renewal)),
        *((name, ("reminders", note_days)) for name in _CASE_EVENTS),
    ]


def days_of(licence: Mapping[str, Any], kind: Mapping[str, Any], result: Mapping[str, Any]) -> list[Dated]:
    """Return the days of a new licence of which its holder is reminded: its end, and the first inspection of a vehicle.

    A paper for one use (`usage`) is not renewed, so nobody is reminded of its end.
    """
    found = []
    if licence.get("basis") == terms.DATED and kind["validity"]["kind"] != "usage":
        ends_on = date.fromisoformat(licence["valid_to"])
        found.append(Dated(f"licence:{licence['_id']}", "licence", licence["name"], ends_on, item=kind.get("renew_item", "")))
    if years := result.get("first_inspection_years"):
        issued = date.fromisoformat(licence["issued_on"])
        # Valid until the end of the month of registration (机动车登记规定).
        following = date(issued.year + years + issued.month // 12, issued.month % 12 + 1, 1)
        found.append(
            Dated(f"licence:{licence['_id']}:inspection", "inspection", "机动车", following - timedelta(days=1), item="inspection_mark")
        )
    return found
