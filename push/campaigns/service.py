"""What staff do with campaigns: write, look at, try, hand in, approve, hold. Each step by the table of machine.py, audited."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError
from redis.asyncio import Redis

from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import utc_now
from app.kernel.errors import ValidationFailed, error_row
from app.kernel.ids import new_id
from app.kernel.text import without_unseen
from app.storage.mongo import Database
from app.storage.redis import publish
from push.campaigns import machine, segments, steps
from push.campaigns.model import (
    COUNT_AT_MOST,
    EVENT,
    Catalogue,
    Content,
    chain,
    event_of,
    mistakes,
    sms_parts,
    view,
)
from push.campaigns.segments import People
from push.campaigns.sending import Sending
from push.deliveries import new_delivery
from push.lanes import ORDINARY
from push.model import DERIVED, LANGUAGES, STREAM_CHANNEL
from push.service import Push
from push.store import new_message

TEST_MARK = "【试发】"
# What a step writes besides state and history.
_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "take_back": {"is_active": False, "approved_by": None, "size": None, "needs_operator": False},
    "refuse": {"is_active": False, "approved_by": None, "size": None, "needs_operator": False},
    # The batch in hand is taken away from whoever has it.
    "pause": {"claim": ""},
    "stop": {"claim": "", "next_at": None},
}


class Campaigns:
    """Made once per process by assembly.

    Args:
        people: kind of segment -> who finds its residents; a kind that nobody finds cannot be chosen.
        phones: the id of the resident with a phone number, or empty text.
        operator: the agency that runs the hall.
        approval_size: above so many persons the head of the operator approves, not the agency's own.
    """

    def __init__(
        self,
        database: Database,
        redis: Redis,
        push: Push,
        *,
        catalogue: Catalogue,
        people: Mapping[str, People],
        phones: Callable[[str], Awaitable[str]],
        operator: str,
        approval_size: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._campaigns = database["campaigns"]
        self._redis = redis
        self._push = push
        self._catalogue = catalogue
        self._people = people
        self._phones = phones
        self.operator = operator
        self._approval_size = approval_size
        self._clock = clock
        self.sending = Sending(
            database, redis, store=push.store, deliveries=push.deliveries, templates=push.templates, people=people, clock=clock
        )

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of segments that can be chosen, with what staff read."""
        return {kind: name for kind, name in segments.KIND_NAMES.items() if kind in self._people}

    @property
    def carriers(self) -> tuple[str, ...]:
        """The channels that may carry a campaign outside the hall."""
        return tuple(name for name in self._push.templates.specs[EVENT].channels if name not in DERIVED)

    def actor(self, campaign: Mapping[str, Any], staff: StaffSession) -> machine.Actor:
        is_own, is_operator = campaign["agency_id"] == staff.agency_id, staff.agency_id == self.operator
        return machine.Actor(staff.account, machine.ranks_of(staff.role, is_own, is_operator))

    # --- reading ---

    async def page(
        self, staff: StaffSession, *, state: str = "", everybody: bool = False, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return campaigns, newest first, and the cursor of the next page.

        Args:
            everybody: of all agencies; for the agency that runs the hall, for others it is as if it were not said.
        """
        query: dict[str, Any] = {} if everybody and staff.agency_id == self.operator else {"agency_id": staff.agency_id}
        if state:
            query["state"] = state
        if cursor:
            query["_id"] = {"$lt": cursor}
        found = await self._campaigns.find(query).sort("_id", -1).limit(limit + 1).to_list()
        rows = found[:limit]
        tallies = await self.sending.counting.of([row["_id"] for row in rows])
        return [self._view(row, tallies[row["_id"]], staff) for row in rows], rows[-1]["_id"] if len(found) > limit else None

    async def to_approve(self, staff: StaffSession) -> int:
        """Return how many campaigns wait for this person to approve or refuse them, counted up to 100."""
        if staff.role != "head":
            return 0
        mine: dict[str, Any] = {"agency_id": staff.agency_id, "needs_operator": False}
        if staff.agency_id == self.operator:
            mine = {"$or": [mine, {"needs_operator": True}]}
        waiting = {"state": machine.SUBMITTED, "authors": {"$ne": staff.account}, **mine}
        return await self._campaigns.count_documents(waiting, limit=100)

    async def get(self, campaign_id: str, staff: StaffSession) -> dict[str, Any]:
        """Return a campaign as this person sees it. Raises CampaignNotFound, also for another agency's."""
        campaign = await self._mine(campaign_id, staff)
        return self._view(campaign, (await self.sending.counting.of([campaign_id]))[campaign_id], staff)

    def _view(self, campaign: Mapping[str, Any], tally: Mapping[str, Any], staff: StaffSession) -> dict[str, Any]:
        return view(campaign, tally, self.actor(campaign, staff), self._clock())

    async def _mine(self, campaign_id: str, staff: StaffSession) -> dict[str, Any]:
        campaign = await self._campaigns.find_one({"_id": campaign_id})
        if campaign is None or staff.agency_id not in (campaign["agency_id"], self.operator):
            raise steps.not_found()
        return campaign

    async def looks(self, campaign_id: str, staff: StaffSession) -> dict[str, Any]:
        """Return how a campaign looks: `{inbox: {zh, en}, sms: {zh, en}, ...}`, text messages with their length and parts."""
        return self._looks(await self._mine(campaign_id, staff))

    async def preview(self, campaign_id: str, staff: StaffSession) -> dict[str, Any]:
        """Return how a campaign will look and how many it will reach: `{channels, size: {count, is_more}, needs_operator}`.

        Audited: a number says something of people too.
        """
        campaign = await self._mine(campaign_id, staff)
        count, is_more = await self._count(campaign)
        await record(
            self._database["audit"], actor=staff.account, action="campaign.preview", subject=campaign_id, owner_id="",
        )  # fmt: skip
        return {
            "channels": self._looks(campaign),
            "size": {"count": count, "is_more": is_more},
            "needs_operator": count > self._approval_size,
        }

    async def _count(self, campaign: Mapping[str, Any]) -> tuple[int, bool]:
        segment = segments.from_document(campaign["segment"])
        return await segments.count(self._people[segment.kind], segment, COUNT_AT_MOST)

    def _looks(self, campaign: Mapping[str, Any]) -> dict[str, Any]:
        templates = self._push.templates
        event = event_of(campaign, "", self._clock())
        rendered = {language: templates.render(event, language) for language in LANGUAGES}
        looks: dict[str, Any] = {
            "inbox": {language: {"title": one.title, "body": one.body, "link": one.link} for language, one in rendered.items()}
        }
        for channel in campaign["channels"]:
            looks[channel] = {language: {"text": one.short} for language, one in rendered.items()}
            if channel == "sms":
                for language, one in rendered.items():
                    looks[channel][language] |= {"characters": len(one.short), "parts": sms_parts(one.short)}
            # What the platform's own template makes of it, in the form of its fields.
            for template in getattr(templates, channel, ()):
                if EVENT in template.events:
                    looks[channel] = {"title": template.title, "fields": template.fill(rendered["zh"].values)}
                    break
        return looks

    # --- writing ---

    async def create(self, staff: StaffSession, content: Content, campaign_id: str) -> dict[str, Any]:
        """Begin a campaign of the own agency, as a draft. The same id again gives what is there. Raises ValidationFailed."""
        content = self._judged(content, staff.agency_id)
        now = self._clock()
        document = {
            "_id": campaign_id,
            "version": 1,
            "state": machine.DRAFT,
            "agency_id": staff.agency_id,
            "agency_name": str(self._catalogue.agency(staff.agency_id)["name"]),
            **content.to_document(),
            "authors": [staff.account],
            "created_at": now,
            "approved_by": None,
            "needs_operator": False,
            "paused_by_operator": False,
            "size": None,
            "limit": None,
            "told": 0,
            "muted": 0,
            "tests": 0,
            "cursor": "",
            "before": "",
            "late": [],
            "is_expanded": False,
            "is_active": False,
            "next_at": None,
            "history": [{"at": now, "by": staff.account, "step": "create", "note": ""}],
        }

        async def work(session: AsyncClientSession) -> None:
            await self._campaigns.insert_one(document, session=session)
            await record(
                self._database["audit"], actor=staff.account, action="campaign.create", subject=campaign_id, owner_id="", session=session
            )

        try:
            await self._database.transaction(work)
        except DuplicateKeyError:
            pass  # its answer was lost, and it is asked for again
        return await self.get(campaign_id, staff)

    async def edit(self, campaign_id: str, staff: StaffSession, content: Content, version: int) -> dict[str, Any]:
        """Write a draft anew. Whoever has written any of it does not approve it. Raises what `steps.take` does."""
        campaign = await self._mine(campaign_id, staff)
        content = self._judged(content, campaign["agency_id"])
        changes = content.to_document() | {"authors": sorted({*campaign["authors"], staff.account})}
        await self._take(campaign, "edit", staff, version=version, changes=changes)
        return await self.get(campaign_id, staff)

    def _judged(self, content: Content, agency_id: str) -> Content:
        items = self._catalogue.snapshot.by_name
        content = replace(
            content,
            title=content.title.strip(),
            text=content.text.strip(),
            title_en=content.title_en.strip(),
            text_en=content.text_en.strip(),
            # Whom an agency may write to follows from what people have with it; the agency that runs the hall serves all.
            segment=replace(
                content.segment,
                agency_id="" if agency_id == self.operator else agency_id,
                items=tuple(str(items[name]["code"]) if name in items else name for name in content.segment.items),
            ),
        )
        rows = mistakes(content, self._catalogue, self.carriers, self._clock())
        if content.segment.kind not in self._people:
            rows.append(error_row("/segment/kind", "unknown", "还不能选这类收件人"))
        if rows:
            raise ValidationFailed(rows)
        return replace(
            content, **{name: without_unseen(getattr(content, name)).strip() for name in ("title", "text", "title_en", "text_en")}
        )

    async def act(
        self, campaign_id: str, staff: StaffSession, name: str, *, note: str = "", version: int | None = None
    ) -> dict[str, Any]:
        """Take a step other than edit and test; return the campaign.

        Args:
            version: what was looked at; wanted for `approve`, so that nobody approves what they have not seen.
        """
        campaign = await self._mine(campaign_id, staff)
        actor = self.actor(campaign, staff)
        changes: dict[str, Any] = dict(_CHANGES.get(name, {}))
        if name == "submit":
            count, is_more = await self._count(campaign)
            changes |= {"size": {"count": count, "is_more": is_more}, "needs_operator": count > self._approval_size}
            version = campaign["version"]  # what was counted is what is handed in
        elif name == "approve":
            if version is None:
                raise ValidationFailed([error_row("/version", "required", "请写明批准的是哪一版（version）")])
            # Who grows past what an agency's own head may approve is held there (step `hold`).
            limit = None if machine.OPERATOR in actor.ranks else self._approval_size
            changes |= {"approved_by": staff.account, "is_active": True, "limit": limit}
        elif name == "pause":
            changes["paused_by_operator"] = campaign["agency_id"] != staff.agency_id
        elif name == "resume":
            changes |= {"paused_by_operator": False, "next_at": self._clock()}
            if campaign["needs_operator"]:
                changes["limit"] = None
        elif name == "stop":
            changes["is_active"] = True  # until what has not left is taken back
        await self._take(campaign, name, staff, note=note, version=version, changes=changes, actor=actor)
        if name in ("pause", "resume", "stop"):
            await self.sending.settle(campaign_id)  # at once; the worker's next round would do it too
        return await self.get(campaign_id, staff)

    async def test(self, campaign_id: str, staff: StaffSession, phone: str) -> dict[str, Any]:
        """Send it to the author's own account in the hall, found by phone number, as it will reach everybody; marked as a test.

        At most MOST_TESTS per campaign, tries with a number that nobody has included; audited. Raises what `steps.take` does, and
        ValidationFailed when nobody signs in with this number.
        """
        campaign = await self._mine(campaign_id, staff)
        await self._take(campaign, "test", staff)
        resident_id = await self._phones(phone)
        if not resident_id:
            raise ValidationFailed([error_row("/phone", "unknown", "这个手机号还没有在大厅登录过，请先用它登录一次")])
        # Whose phone that is, nobody can check: who sent what to whom stands in the audit, before it goes out.
        await record(
            self._database["audit"], actor=staff.account, action="campaign.test_sent", subject=campaign_id, owner_id=resident_id,
        )  # fmt: skip
        await self._tell_one(campaign, resident_id)
        return await self.get(campaign_id, staff)

    async def _tell_one(self, campaign: Mapping[str, Any], resident_id: str) -> None:
        now, event_id = self._clock(), new_id("evt")

        async def write(session: AsyncClientSession) -> str:
            [owner_id] = await self._push.store.present_owners([resident_id], session)
            wishes = (await self._push.store.preferences_of([owner_id], session))[owner_id]
            spec = replace(chain(campaign["channels"], self._push.templates.specs[EVENT], wishes), lane=ORDINARY)
            event = event_of(campaign, owner_id, now, event_id=event_id, mark=TEST_MARK)
            rendered = self._push.templates.render(event, wishes.language)
            message = new_message(owner_id, await self._push.store.next_seq(owner_id, session), event, rendered)
            await self._push.store.add_message(message, session)
            await self._push.deliveries.add_many([new_delivery(message["_id"], owner_id, event, spec, rendered, now)], session)
            return owner_id

        await publish(self._redis, STREAM_CHANNEL, await self._database.transaction(write))

    async def _take(
        self,
        campaign: Mapping[str, Any],
        name: str,
        staff: StaffSession,
        *,
        note: str = "",
        version: int | None = None,
        changes: Mapping[str, Any] | None = None,
        actor: machine.Actor | None = None,
    ) -> None:
        by = actor or self.actor(campaign, staff)

        async def work(session: AsyncClientSession) -> None:
            await steps.take(
                self._database, campaign["_id"], name, by, self._clock(), session, note=note, version=version, changes=changes
            )  # fmt: skip

        await self._database.transaction(work)

    async def reassign(self, from_id: str, into_id: str) -> None:
        """After two residents were joined (Sending.reassign)."""
        await self.sending.reassign(from_id, into_id)
