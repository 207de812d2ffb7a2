"""Who follows the city's official account on WeChat: its openids, joined to residents by unionid.

The account's own events fill it (`subscribe`, `unsubscribe`), and its list, for those who followed before. Both name an openid only, so who it is
gets asked for afterwards, many at once.
Guarantee: the newest event of an openid counts, in whatever order and however often events come; an openid whose unionid is not known yet is
asked for until WeChat answers.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from app.kernel.errors import ProviderUnavailable
from app.platforms.wechat import WeChat, WeChatRefused
from app.platforms.wechat_account import MOST_AT_ONCE, followers, list_openids
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

WALK_AGAIN = timedelta(days=7)
_AGAIN = timedelta(seconds=60)

INDEXES = {
    "wechat_followers": [
        IndexModel([("unionid", ASCENDING)], name="of_unionid", partialFilterExpression={"follows": True}),
        IndexModel([("ask_at", ASCENDING)], name="unknown", partialFilterExpression={"ask_at": {"$type": "date"}}),
    ],
    "wechat_walks": [],  # by _id, what is walked through
}


class Followers:
    """Of one official account; `account` is None where the city has none."""

    def __init__(self, database: Database, account: WeChat | None, clock: Callable[[], datetime]) -> None:
        self._followers = database["wechat_followers"]
        self._walks = database["wechat_walks"]
        self._account = account
        self._clock = clock

    async def note(self, openid: str, *, follows: bool, event_at: int) -> None:
        """Note that somebody began or stopped to follow; `event_at`: CreateTime of the event, in epoch seconds. An older event changes nothing."""
        changes = {"follows": follows, "event_at": event_at, "ask_at": self._clock() if follows else None}
        try:
            # At the same second the end counts: whoever is not written to by mistake is told by the next channel.
            older = {"$lt": event_at} if follows else {"$lte": event_at}
            await self._followers.update_one({"_id": openid, "event_at": older}, {"$set": changes}, upsert=True)
        except DuplicateKeyError:  # there is one, and it is newer
            log.info("followers.old_event")

    async def walk(self) -> int:
        """Take in who followed before the hall heard of it, a page of the account's list at a time; called by the worker.

        Returns how many were new. The place is kept, so a worker that dies goes on where it was; when the end is reached it begins again after
        WALK_AGAIN: events that were lost while the callback was away are made good by it.
        """
        if self._account is None:
            return 0
        now = self._clock()
        place = await self._walks.find_one({"_id": "followers"}) or {"after": "", "next_at": now}
        if place["next_at"] > now:
            return 0
        try:
            openids, last = await list_openids(self._account, place["after"])
        except (ProviderUnavailable, WeChatRefused) as error:
            log.warning("followers.not_listed", error=type(error).__name__)
            await self._walks.update_one({"_id": "followers"}, {"$set": {"after": place["after"], "next_at": now + _AGAIN}}, upsert=True)
            return 0
        known = {row["_id"] async for row in self._followers.find({"_id": {"$in": openids}, "follows": True}, {"_id": 1})}
        new = [openid for openid in openids if openid not in known]
        for openid in new:
            # Asked who it is; the answer says whether it follows, so an end that we have heard of meanwhile is not undone by a list.
            ask = {"$set": {"ask_at": now}, "$setOnInsert": {"follows": False, "event_at": 0}}
            await self._followers.update_one({"_id": openid}, ask, upsert=True)
        following = {"after": last, "next_at": now if last else now + WALK_AGAIN}
        await self._walks.update_one({"_id": "followers"}, {"$set": following}, upsert=True)
        return len(new)

    async def ask_due(self) -> int:
        """Ask who the openids are that are not known yet; called by the worker. Returns how many are known now."""
        if self._account is None:
            return 0
        now = self._clock()
        due = await self._followers.find({"ask_at": {"$lte": now}}).sort("ask_at", 1).limit(MOST_AT_ONCE).to_list()
        if not due:
            return 0
        event_at = {row["_id"]: row["event_at"] for row in due}
        await self._followers.update_many({"_id": {"$in": list(event_at)}}, {"$set": {"ask_at": now + _AGAIN}})
        try:
            found = await followers(self._account, list(event_at))
        except (ProviderUnavailable, WeChatRefused) as error:
            log.warning("followers.not_asked", error=type(error).__name__, count=len(due))
            return 0
        for one in found:
            if not one.unionid:
                log.warning("followers.no_unionid", mend="bind the official account and the mini-program to one open platform account")
            # An event that came meanwhile is newer than this answer.
            await self._followers.update_one(
                {"_id": one.openid, "event_at": event_at.get(one.openid)},
                {"$set": {"unionid": one.unionid, "follows": one.follows, "ask_at": None}},
            )
        return len(found)

    async def openid_of(self, unionid: str) -> str:
        """Return the openid with which a person follows the account, or empty text."""
        found = await self._followers.find_one({"unionid": unionid, "follows": True}) if unionid else None
        return str(found["_id"]) if found else ""

    async def gone(self, openid: str, session: AsyncClientSession) -> None:
        """WeChat says that this openid does not follow (any more). A later `subscribe` brings it back."""
        await self._followers.update_one({"_id": openid}, {"$set": {"follows": False}}, session=session)
