"""The page of a person's e-mail address, and the one that a mail leads to when it is not wanted any more."""

from app.kernel.errors import HallError, NotFound
from handlers.pages_base import PageHandler, errors_by_field


class OwnEmail(PageHandler):
    """GET, POST /me/email: an address sends a code there, the code verifies it, `forget` takes it out of use."""

    needs = "resident"
    tab = "me"

    async def get(self) -> None:
        await self._show()

    async def post(self) -> None:
        emails, resident_id, sent_to = self.hall.emails, self.resident.resident_id, self.text("sent_to", limit=300)
        try:
            if self.text("forget"):
                await emails.forget(resident_id)
                self.tell_next("email_off")
            elif "code" in self.request.body_arguments:
                await emails.confirm(resident_id, self.text("code", limit=12).strip())
                self.tell_next("email")
            else:
                return await self._show(sent_to=await emails.ask(resident_id, self.text("email", limit=300), self.client_address))
        except HallError as error:
            if error.status not in (404, 409, 422, 429, 503):
                raise
            return await self._show(error, sent_to=sent_to)
        self.redirect("/me/email", status=303)

    async def _show(self, error: HallError | None = None, sent_to: str = "") -> None:
        await self.show(
            "me_email.html",
            error.status if error else 200,
            kept=await self.hall.emails.view(self.resident.resident_id),
            is_on=self.hall.emails.is_on,
            sent_to=sent_to,
            typed=self.text("email", limit=300) if error else "",
            error=error,
            errors=errors_by_field(error) if error else {},
            back="/me",
        )


class StopEmails(PageHandler):
    """/email/stop?who=&mark=: the link in every mail. A GET asks, since mail scanners follow links; a POST stops (RFC 8058)."""

    def check_xsrf_cookie(self) -> None:
        """The mark in the address is the permission: a mail program that posts has neither cookie nor form."""

    async def get(self) -> None:
        self._who()
        await self.show("email_stop.html", is_done=False)

    async def post(self) -> None:
        await self.hall.push.stop_emails(self._who())
        await self.show("email_stop.html", is_done=True)

    def _who(self) -> str:
        who = self.text("who", limit=60)
        if not self.hall.emails.may_stop(who, self.text("mark", limit=80)):
            raise NotFound("这个链接不完整，请从邮件里重新打开，或登录后在“我的”里设置。")
        return who


routes = [
    (r"/me/email", OwnEmail),
    (r"/email/stop", StopEmails),
]
