"""Pages of what a resident follows and is reminded of: follow and stop on the page of the thing, the days that are noted, two switches."""

from pymongo.errors import PyMongoError

from app.kernel.clock import today
from app.kernel.errors import HallError
from handlers.pages_base import PageHandler, local_path
from push.subscriptions import KINDS

# The kinds of messages that one may turn off here; the API has all of them (handlers/notifications.py).
SWITCHES = {"reminder": "到期和预约提醒", "news": "我订阅的消息"}


async def follows(page: PageHandler, kind: str, key: str) -> bool:
    """Say whether whoever is signed in follows this; the pages of the catalogue stay readable while the database is away."""
    if page.signed_in is None:
        return False
    try:
        await page.hall.subscriptions.get(page.signed_in.resident_id, kind, key)
    except (HallError, PyMongoError):
        return False
    return True


class Follow(PageHandler):
    """POST /subscriptions {kind, key, on, next}: follow, or stop; then back to where the button was."""

    needs = "resident"

    async def get(self) -> None:
        self.redirect("/me/reminders", status=303)

    async def post(self) -> None:
        kind, key = self.text("kind", limit=20), self.text("key", limit=60)
        if self.text("on") == "1":
            await self.hall.subscriptions.put(self.resident.resident_id, kind, key)
            self.tell_next("followed")
        elif kind in KINDS:
            await self.hall.subscriptions.drop(self.resident.resident_id, kind, key)
            self.tell_next("unfollowed")
        self.redirect(local_path(self.text("next", "/me/reminders"), "/me/reminders"), status=303)


class MyReminders(PageHandler):
    """GET /me/reminders: what one follows, the days that one is told of, and the switches. POST {kind, on} turns one."""

    needs = "resident"
    tab = "me"

    async def get(self) -> None:
        owner = self.resident.resident_id
        preferences = await self.hall.push.preferences(owner)
        days = [row for row in await self.hall.reminders.of(owner) if row["due_on"] >= today().isoformat()]
        rows = await self.hall.subscriptions.of(owner)
        await self.show(
            "reminders.html",
            days=days,
            subscriptions=rows,
            switches=[(kind, name, not preferences.refuses(kind)) for kind, name in SWITCHES.items()],
            place=self.hall.catalogue.division(self.division),
            follows_place=any(row["kind"] == "notice" and row["key"] == self.division for row in rows),
            back="/me",
        )

    async def post(self) -> None:
        kind = self.text("kind", limit=20)
        if kind in SWITCHES:
            await self.hall.push.set_preferences(self.resident.resident_id, {"kinds": {kind: {"inbox": self.text("on") == "1"}}})
        self.redirect("/me/reminders", status=303)


routes = [(r"/subscriptions", Follow), (r"/me/reminders", MyReminders)]
