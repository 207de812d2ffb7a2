"""An agency's office with residents around it, for the tests of campaigns: real parts, the stand-ins at the other end of the channels."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from app.cases.applicants import INDEXES as APPLICANTS_INDEXES
from app.cases.applicants import Applicants
from app.catalogue.live import LiveCatalogue
from app.catalogue.publish import publish
from app.identity import store as identity_store
from app.identity.model import StaffSession
from app.identity.service import Identity
from app.kernel.clock import utc_now
from app.kernel.crypto import KeyRing
from app.kernel.ids import new_id
from app.storage.mongo import Database, ensure_indexes
from push import service as push_service
from push import subscriptions as push_subscriptions
from push.campaigns import model, segments
from push.campaigns.model import Content
from push.campaigns.segments import Segment
from push.campaigns.service import Campaigns
from push.subscriptions import Subscriptions
from tests.catalogue import the_catalogue
from tests.push.desk import Desk

CLERK = StaffSession("clerk.sg-gaj", "经办", "clerk", "sg-gaj")
HEAD = StaffSession("head.sg-gaj", "负责人", "head", "sg-gaj")
OTHER_HEAD = StaffSession("head2.sg-gaj", "另一负责人", "head", "sg-gaj")
STRANGER = StaffSession("head.sg-jj", "负责人", "head", "sg-jj")
OPERATOR = StaffSession("head.sg-zsj", "负责人", "head", "sg-zsj")
OPERATOR_CLERK = StaffSession("clerk.sg-zsj", "经办", "clerk", "sg-zsj")

WANTED = Content(
    title="户籍窗口搬迁",
    text="12月1日起，户籍窗口搬到新华南路1号。\n原地址不再办理。",
    title_en="",
    text_en="",
    link="/items/id_card_lost",
    channels=("sms",),
    rate=500,
    start_at=None,
    segment=Segment("all"),
)
INDEXES = {
    **push_service.INDEXES,
    **model.INDEXES,
    **{name: [*push_service.INDEXES[name], *more] for name, more in model.COUNTING_INDEXES.items()},
    **push_subscriptions.INDEXES,
    **identity_store.INDEXES,
    "cases": APPLICANTS_INDEXES,
}


@dataclass
class Office:
    desk: Desk
    database: Database
    campaigns: Campaigns
    identity: Identity
    subscriptions: Subscriptions
    catalogue: LiveCatalogue

    async def residents(self, count: int, *, phone: bool = False) -> list[str]:
        """Return new residents; with a phone they have asked for text messages of notices."""
        ids = [new_id("res") for _ in range(count)]
        if ids:
            await self.database["residents"].insert_many([identity_store.new_resident(each, utc_now()) for each in ids])
        if phone:
            for number, each in enumerate(ids, start=len(self.desk.town.phones)):
                self.desk.town.phones[each] = f"137{number:08d}"
                await self.desk.push.set_preferences(each, {"kinds": {"notice": {"sms": True}}})
        return ids

    async def case(
        self, owner_id: str, *, item: str = "id_card_lost", division: str = "440203", agency: str = "sg-gaj", days_ago: int = 1
    ) -> None:
        code = self.catalogue.item(item)["code"]
        row = {"_id": new_id("case"), "owner_id": owner_id, "item_code": code, "division_code": division, "agency_id": agency}
        await self.database["cases"].insert_one(row | {"submitted_at": utc_now() - timedelta(days=days_ago)})

    async def draft(self, staff: StaffSession = CLERK, **changes: Any) -> str:
        made = await self.campaigns.create(staff, replace(WANTED, **changes), new_id("cpn"))
        return str(made["id"])

    async def approved(self, staff: StaffSession = CLERK, by: StaffSession = HEAD, **changes: Any) -> str:
        campaign_id = await self.draft(staff, **changes)
        found = await self.campaigns.act(campaign_id, staff, "submit")
        await self.campaigns.act(campaign_id, by, "approve", version=found["version"])
        return campaign_id

    async def run(self, rounds: int = 1, for_s: float = 1.0) -> None:
        for _ in range(rounds):
            await self.campaigns.sending.run(for_s)

    async def run_out(self, campaign_id: str, *, deliver: bool = True) -> dict[str, Any]:
        """Run worker rounds until a campaign is finished; return it."""
        for _ in range(200):
            await self.campaigns.sending.run(1.0)
            if deliver:
                await self.desk.push.deliver_due(lane="campaign")
            found = await self.seen(campaign_id)
            if found["state"] == "finished":
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"not finished: {found}")

    async def seen(self, campaign_id: str, staff: StaffSession = CLERK) -> dict[str, Any]:
        return await self.campaigns.get(campaign_id, staff)

    async def told(self, campaign_id: str) -> list[str]:
        """Return whose inboxes have the campaign's message, one entry per message."""
        return [row["owner_id"] async for row in self.database["messages"].find({"event_id": campaign_id}).sort("owner_id", 1)]

    async def texted(self) -> list[str]:
        """Return the numbers that got a text message of a campaign, one entry per message."""
        async with self.desk.http.get(f"{self.desk.running.url}/_sim/sent", params={"channel": "sms"}) as answer:
            return sorted(row["to"] for row in (await answer.json())["items"] if row.get("template") == "campaign.sent")


async def open_office(desk: Desk, keys: KeyRing, *, approval_size: int = 1000) -> Office:
    database = desk.database
    await ensure_indexes(database, INDEXES)
    await publish(database, the_catalogue())
    catalogue = LiveCatalogue(database)
    await catalogue.load()
    nothing: Any = None
    identity = Identity(database, keys, wechat=nothing, alipay=nothing, sms_codes=nothing, realname=nothing)
    subscriptions = Subscriptions(database, desk.push.store, catalogue)
    campaigns = put_together(desk, identity, subscriptions, catalogue, approval_size)
    return Office(desk, database, campaigns, identity, subscriptions, catalogue)


def put_together(
    desk: Desk, identity: Identity, subscriptions: Subscriptions, catalogue: LiveCatalogue, approval_size: int = 1000
) -> Campaigns:
    """Return Campaigns as a process of its own would have it."""
    applicants = Applicants(desk.database)
    people: dict[str, segments.People] = {
        segments.ALL: segments.Everybody(identity),
        segments.DIVISION: segments.Within(applicants, lambda: catalogue.snapshot.divisions),
        segments.APPLICANTS: applicants,
        segments.SUBSCRIBERS: segments.Following(subscriptions),
    }
    return Campaigns(
        desk.database, desk.redis, desk.push, catalogue=catalogue, people=people, phones=identity.resident_of_phone, operator="sg-zsj",
        approval_size=approval_size,
    )  # fmt: skip


