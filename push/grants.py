"""The ledger of WeChat grants: how many messages of a template a person has allowed.

One-time: each "accept" allows one message. Long-term: one "accept" allows all until it is taken back. The ledger is a hint that
saves calls that would fail; WeChat's own answer decides (43101 sets it to zero). Source: WeChat, subscribe message, reference
`wx.requestSubscribeMessage` and the events subscribe_msg_popup_event, subscribe_msg_change_event.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession

from app.storage.mongo import Database
from push.vendor_templates import VendorTemplate

INDEXES: Mapping[str, Sequence[Any]] = {"grants": []}  # found by _id alone

# The client reports an acceptance and WeChat reports the same tap by an event: within this time they are one.
_SAME_TAP = timedelta(minutes=5)
_REMEMBERED_TAPS = 20


class Grants:
    def __init__(self, database: Database, templates: Sequence[VendorTemplate]) -> None:
        self._database = database
        self._grants = database["grants"]
        self.templates: Mapping[str, VendorTemplate] = {template.template_id: template for template in templates}

    async def left(self, openid: str) -> list[dict[str, Any]]:
        """Return `{template_id, left, long_term}` for every template; `left` of a long-term one is 1 while it is accepted."""
        kept = {
            document["template_id"]: document
            async for document in self._grants.find({"_id": {"$in": [_key(openid, one) for one in self.templates]}})
        }
        return [_view(template, kept.get(template.template_id)) for template in self.templates.values()]

    async def best_for(self, openid: str, event: str) -> VendorTemplate | None:
        """Return the template that may carry an event to a person: a long-term one first, since it uses nothing up."""
        fitting = [template for template in self.templates.values() if event in template.events]
        keys = [_key(openid, template.template_id) for template in fitting]
        kept = {document["_id"]: document async for document in self._grants.find({"_id": {"$in": keys}})}
        for template in sorted(fitting, key=lambda one: not one.long_term):
            document = kept.get(_key(openid, template.template_id))
            if document and (document["accepted"] if template.long_term else document["left"] > 0):
                return template
        return None

    async def choose(
        self, openid: str, template_id: str, choice: str, *, source: str, now: datetime, session: AsyncClientSession | None = None
    ) -> None:
        """Note what a person chose in WeChat's pop-up.

        Args:
            choice: `accept`, `reject`; anything else (`ban`, `filter`) grants nothing and takes nothing.
            source: `client` or `event`; one tap that both report counts once.
        """
        template = self.templates[template_id]
        if choice == "reject" and template.long_term:
            await self._change(openid, template_id, {"$set": {"accepted": False, "changed_at": now}}, session)
        if choice != "accept":
            return
        if template.long_term:
            await self._change(openid, template_id, {"$set": {"accepted": True, "changed_at": now}}, session)
            return
        other = "event" if source == "client" else "client"
        # The tap of the other report, if it is there, is taken away: both together have counted one.
        matched = await self._grants.find_one_and_update(
            {"_id": _key(openid, template_id), "taps": {"$elemMatch": {"source": other, "at": {"$gt": now - _SAME_TAP}}}},
            {"$unset": {"taps.$": ""}, "$set": {"changed_at": now}},
            session=session,
        )
        if matched is not None:
            await self._grants.update_one({"_id": _key(openid, template_id)}, {"$pull": {"taps": None}}, session=session)
            return
        tap = {"$each": [{"source": source, "at": now}], "$slice": -_REMEMBERED_TAPS}
        await self._change(
            openid, template_id, {"$inc": {"left": 1}, "$push": {"taps": tap}, "$set": {"changed_at": now}}, session
        )

    async def take_back(self, openid: str, template_id: str, *, now: datetime, session: AsyncClientSession | None = None) -> None:
        """The person turned the template off in WeChat's settings: nothing of it is left."""
        await self._change(openid, template_id, {"$set": {"left": 0, "accepted": False, "taps": [], "changed_at": now}}, session)

    async def used(self, openid: str, template_id: str, session: AsyncClientSession) -> None:
        """One message went out."""
        template = self.templates.get(template_id)
        if template is not None and not template.long_term:
            await self._grants.update_one(
                {"_id": _key(openid, template_id), "left": {"$gt": 0}}, {"$inc": {"left": -1}}, session=session
            )

    async def refused(self, openid: str, template_id: str, *, asked_at: datetime, session: AsyncClientSession) -> None:
        """WeChat says no grant is left (43101), or nobody is there (40003). One that was given after the message was made ready stays."""
        await self._grants.update_one(
            {"_id": _key(openid, template_id), "changed_at": {"$lte": asked_at}},
            {"$set": {"left": 0, "accepted": False, "taps": []}},
            session=session,
        )

    async def _change(
        self, openid: str, template_id: str, update: Mapping[str, Any], session: AsyncClientSession | None
    ) -> None:
        first = {"openid": openid, "template_id": template_id, "left": 0, "accepted": False}
        touched = {name for part in update.values() for name in part}
        await self._grants.find_one_and_update(
            {"_id": _key(openid, template_id)},
            {**update, "$setOnInsert": {name: value for name, value in first.items() if name not in touched}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )


def _key(openid: str, template_id: str) -> str:
    return f"{openid}:{template_id}"


def _view(template: VendorTemplate, document: Mapping[str, Any] | None) -> dict[str, Any]:
    left = document["left"] if document else 0
    if template.long_term:
        left = 1 if document and document["accepted"] else 0
    return {"template_id": template.template_id, "left": left, "long_term": template.long_term}
