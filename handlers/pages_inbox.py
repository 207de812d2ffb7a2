"""消息: what the hall has told the resident."""

from handlers.pages_base import PageHandler, local_path


class Inbox(PageHandler):
    needs = "resident"
    tab = "inbox"

    async def get(self) -> None:
        page = await self.hall.push.inbox(
            self.resident.resident_id, unread=False, limit=20, cursor=self.text("cursor", limit=60) or None
        )
        await self.show("inbox.html", messages=page["items"], next_cursor=page["next_cursor"], unread=page["unread_count"])


class ReadMessage(PageHandler):
    """POST /inbox/<id>: mark a message read and go where it leads."""

    needs = "resident"

    async def get(self, _message_id: str) -> None:
        self.redirect("/inbox", status=303)

    async def post(self, message_id: str) -> None:
        message = await self.hall.push.mark_read(self.resident.resident_id, message_id)
        self.redirect(local_path(message["link"], "/inbox"), status=303)


class ReadAll(PageHandler):
    needs = "resident"

    async def get(self) -> None:
        self.redirect("/inbox", status=303)

    async def post(self) -> None:
        await self.hall.push.mark_all_read(self.resident.resident_id)
        self.redirect("/inbox", status=303)


routes = [
    (r"/inbox", Inbox),
    (r"/inbox/read-all", ReadAll),
    (r"/inbox/(msg_\w+)", ReadMessage),
]
