"""E-mail by SMTP: plain text and the same as simple HTML, from the texts of config/messages.

Not repeatable: a mail server takes the same Message-ID twice as two messages. What broke before the message was handed over is tried again,
what broke after it is unclear. A server that takes a message may still send it back later, to an address nobody reads: therefore what must
arrive goes by e-mail last (push/templates.py).
"""

from collections.abc import Callable, Mapping
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, formataddr, parseaddr
from html import escape
from typing import Protocol

import structlog
from pymongo.asynchronous.client_session import AsyncClientSession

from app.kernel.clock import SHANGHAI, utc_now
from app.kernel.errors import NotFound, ProviderUnavailable
from app.kernel.ids import new_id
from app.platforms.smtp import Smtp, SmtpAway, SmtpError, SmtpRefused, SmtpUnknown
from push.channel import Effect, Envelope, Letter, Refused, Then, TryLater, Unclear, alarms
from push.templates import EventSpec, signed

log = structlog.get_logger(__name__)

CODE_MINUTES = 10
_DEAD = frozenset({"550", "553"})

# Code of the reply -> what follows. Source: RFC 5321, 4.2.3, and RFC 3463 (enhanced codes).
EFFECTS: Mapping[str, Effect] = {
    "421": Effect("the server is closing, or was asked too often", Then.LATER),
    "450": Effect("mailbox busy, or unknown senders wait (grey list)", Then.LATER),
    "451": Effect("error of the server, or grey list", Then.LATER),
    "452": Effect("no room at the moment", Then.LATER),
    "4xx": Effect("any other refusal for now", Then.LATER),
    "tls": Effect("no TLS, or a certificate that is not trusted", Then.LATER, "nothing is ever said without TLS", True),
    "530": Effect("the server wants another name and password", Then.NEXT, "", True),
    "535": Effect("name or password wrong", Then.NEXT, "", True),
    "550": Effect("no such mailbox (also 551 and 5.1.x)", Then.NEXT, "the address is marked dead until it is verified anew"),
    "552": Effect("mailbox full (also 5.2.2)", Then.NEXT),
    "553": Effect("no such name for a mailbox", Then.NEXT, "as 550"),
    "554": Effect("refused by policy or for its contents (also 5.7.x)", Then.NEXT, "", True),
    "other": Effect("a refusal we do not know", Then.NEXT, "", True),
}

# What stands under every mail: who writes, that nobody reads answers, how to stop it.
_FOOT = {
    "zh": "这封邮件由韶关掌上办事大厅自动发出，请不要回复。不想再收邮件，请打开：{stop}",
    "en": "Sent by the Shaoguan Mobile Service Hall; replies are not read. To stop these e-mails open: {stop}",
}
_OPEN = {"zh": "打开查看", "en": "Open"}


class Addresses(Protocol):
    """What is used of app.identity.emails.Emails."""

    async def email_of(self, resident_id: str) -> str: ...

    async def mark_dead(self, resident_id: str, email: str, session: AsyncClientSession) -> None: ...


class Email:
    """Channel `email`: for a person with a verified address.

    Args:
        sender: `name <address>` or an address; the domain of Message-ID is its own.
        public_url: of the hall, for links.
        stop_link: resident id -> path where that person stops the mails without signing in.
    """

    name = "email"
    repeatable = False
    settles = True

    def __init__(
        self,
        smtp: Smtp,
        addresses: Addresses,
        specs: Mapping[str, EventSpec],
        *,
        sender: str,
        public_url: str,
        stop_link: Callable[[str], str],
    ) -> None:
        self._smtp = smtp
        self._addresses = addresses
        self._specs = specs
        self._sender = sender
        self._public_url = public_url
        self._stop_link = stop_link

    async def prepare(self, letter: Letter) -> Envelope | None:
        try:
            to = await self._addresses.email_of(letter.owner_id)
        except NotFound:
            return None
        return Envelope(letter, to) if to else None

    async def send(self, envelope: Envelope) -> str:
        letter = envelope.letter
        subject, text, html = written(letter, self._specs[letter.event], self._public_url, self._stop_link(letter.owner_id))
        message = self._message(letter.delivery_id, envelope.to, subject, text, html)
        message["List-Unsubscribe"] = f"<{self._public_url}{self._stop_link(letter.owner_id)}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"  # RFC 8058
        try:
            await self._smtp.send(parseaddr(self._sender)[1], envelope.to, message.as_bytes())
        except SmtpRefused as error:
            code = code_of(error)
            effect = EFFECTS[code]
            if effect.is_alarm:
                alarms.labels(self.name, code).inc()
                log.error("email.refused", code=error.code, enhanced=error.enhanced, step=error.step)
            raise (TryLater if effect.then is Then.LATER else Refused)(code) from error
        except SmtpUnknown as error:
            raise Unclear(error.cause) from error
        except SmtpAway as error:
            if error.cause == "tls":
                alarms.labels(self.name, "tls").inc()
                log.error("email.no_tls")
            raise TryLater(error.cause) from error
        return str(message["Message-ID"])

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        if error_code in _DEAD:
            await self._addresses.mark_dead(envelope.letter.owner_id, envelope.to, session)

    async def send_code(self, email: str, code: str) -> None:
        """Send the code that verifies an address, at once. Raises ProviderUnavailable."""
        subject = f"【韶关办事】邮箱验证码 {code}"
        text = (
            f"您的邮箱验证码是 {code}，{CODE_MINUTES}分钟内有效。\n"
            "您正在韶关掌上办事大厅设置接收通知的邮箱。不是您本人操作的，不用理会这封邮件；请不要把验证码告诉任何人。"
        )
        html = _page(subject, f"<p>{escape(text)}</p>".replace("\n", "<br>"), "", "zh")
        message = self._message(new_id("eml"), email, subject, text, html)
        try:
            await self._smtp.send(parseaddr(self._sender)[1], email, message.as_bytes())
        except SmtpError as error:
            log.warning("email.code_not_sent", error=str(error))
            raise ProviderUnavailable(
                "验证码邮件发不出去，请核对邮箱地址，稍后再试。", en="The e-mail could not be sent; check the address and try again.", retry_after_s=30
            ) from error

    def _message(self, reference: str, to: str, subject: str, text: str, html: str) -> EmailMessage:
        """Return a message. Its Message-ID comes from `reference`: the same delivery has the same one, whoever sends it."""
        name, address = parseaddr(self._sender)
        message = EmailMessage(policy=SMTP)
        message["From"] = formataddr((name, address)) if name.isascii() else f"{name} <{address}>"
        message["To"] = to
        message["Subject"] = " ".join(subject.split())
        message["Date"] = format_datetime(utc_now().astimezone(SHANGHAI))
        message["Message-ID"] = f"<{reference}@{address.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday replies
        message.set_content(text, cte="base64")
        message.add_alternative(html, subtype="html", cte="base64")
        return message


def code_of(error: SmtpRefused) -> str:
    """Return the row of EFFECTS for a refusal: the enhanced code says more than the first one, which servers use as they like."""
    if error.code < 500:
        code = str(error.code)
        return code if code in EFFECTS else "4xx"
    if error.step in ("login", "sender", "connect", "tls"):
        # About us, not about the person: 550 here is no dead mailbox.
        return str(error.code) if error.code in (530, 535) else "554"
    if error.enhanced.startswith("5.7"):
        return "554"
    if error.enhanced == "5.2.2":
        return "552"
    if error.step == "recipient" and (error.enhanced.startswith("5.1") or error.code == 551):
        return "550"
    if error.step == "message" and error.code in (550, 553):
        return "554"  # the recipient had been taken: it is the message that they do not want
    return str(error.code) if str(error.code) in EFFECTS else "other"


def written(letter: Letter, spec: EventSpec, public_url: str, stop_path: str) -> tuple[str, str, str]:
    """Return subject, plain text and HTML of a letter, in its language. Nothing in them that may not stand on a lock screen."""
    language = letter.language
    matter, what = letter.values.get("item_name", ""), spec.texts[language].hint if language != "zh" else spec.phrase
    colon = "：" if language == "zh" else ": "
    subject = signed(language, f"{matter}{colon}{what}" if matter else what)
    link, stop = f"{public_url}{letter.link}", f"{public_url}{stop_path}"
    short = letter.short.removeprefix(signed(language, ""))
    foot = _FOOT[language].format(stop=stop)
    text = f"{short}\n\n{_OPEN[language]}{colon}{link}\n\n--\n{foot}\n"
    body = f'<p>{escape(short)}</p><p><a href="{escape(link)}">{_OPEN[language]}</a></p>'
    foot_html = escape(_FOOT[language].format(stop="")) + f'<a href="{escape(stop)}">{escape(stop)}</a>'
    return subject, text, _page(subject, body, foot_html, language)


def _page(title: str, body: str, foot: str, language: str) -> str:
    lang = "zh-CN" if language == "zh" else language
    return (
        f'<!doctype html><html lang="{lang}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title></head>"
        '<body style="font:16px/1.7 sans-serif;color:#1c1e21;max-width:36em;margin:0 auto;padding:1em">'
        f'{body}<p style="color:#5c6670;font-size:13px">{foot}</p></body></html>'
    )
