"""E-mail by a mail server that really speaks SMTP: what arrives, what each refusal causes, how an address is verified."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from email import message_from_string

import pytest

from app.identity import emails as identity_emails
from app.identity.emails import EmailCodeWrong, EmailOff, Emails
from app.kernel.clock import utc_now
from app.kernel.errors import RateLimited, ValidationFailed
from app.kernel.ids import new_id
from app.kernel.numbers import check_email, mask_email
from app.platforms.smtp import Smtp
from app.storage.mongo import ensure_indexes
from push.channels.email import EFFECTS, Email
from sandbox import smtp as mail_server
from tests.push.desk import Desk


@dataclass
class Post:
    """The desk with a mail server, and the addresses of its residents."""

    desk: Desk
    emails: Emails
    channel: Email

    async def resident(self, name: str, *, phone: bool = False) -> str:
        """Return a new resident whose address `<name>...@example.com` is verified by the code that was sent there."""
        owner_id = await self.desk.resident(phone=phone)
        email = f"{name}{owner_id[-8:].lower()}@example.com"
        if not name.startswith(("nobody", "full", "grey", "policy")):
            await self.emails.ask(owner_id, email, "10.0.0.1")
            await self.emails.confirm(owner_id, (await self.sent(email))[-1]["code"])
        else:  # an address that lived when it was verified
            await self.emails._emails.insert_one(
                {"_id": owner_id, "email": self.emails._keys.seal(email, context=f"{owner_id}.email"),
                 "email_index": self.emails._index(email), "verified_at": utc_now(), "dead_at": None}
            )  # fmt: skip
        return owner_id

    async def sent(self, email: str) -> list[dict]:
        async with self.desk.http.get(f"{self.desk.running.url}/_sim/sent", params={"channel": "emails", "to": email}) as answer:
            return (await answer.json())["emails"]

    async def told(self, owner_id: str, name: str = "case.transferred") -> dict:
        await self.desk.push.tell(self.desk.event(owner_id, name))
        await self.desk.push.deliver_due()
        return (await self.desk.deliveries(owner_id))[-1]


@pytest.fixture
async def post(desk: Desk, keys) -> AsyncIterator[Post]:
    await ensure_indexes(desk.database, identity_emails.INDEXES)
    sandbox = desk.running.sandbox
    server = await mail_server.start(sandbox, "127.0.0.1", 0)
    name, password = sandbox.credentials.smtp_name, sandbox.credentials.smtp_password
    url = f"smtp://{name}:{password}@127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def send_code(email: str, code: str) -> None:
        await channel.send_code(email, code)

    emails = Emails(desk.database, keys, send_code, interval_s=0, per_hour=9, per_hour_per_address=99)
    channel = Email(
        Smtp(url, desk.settings["HALL_SMTP_CA"]),
        emails,
        desk.push.templates.specs,
        sender=desk.settings["HALL_MAIL_FROM"],
        public_url="https://hall.example",
        stop_link=emails.stop_path,
    )
    desk.push.deliveries._channels["email"] = channel
    yield Post(desk, emails, channel)
    server.close()


async def test_a_mail_arrives_as_text_and_html_with_a_chinese_subject(post: Post):
    owner_id = await post.resident("zhang")
    delivery = await post.told(owner_id)
    email = await post.emails.email_of(owner_id)
    mail = (await post.sent(email))[-1]

    assert (delivery["state"], delivery["channel"]) == ("sent", "email")
    assert delivery["vendor_id"] == mail["headers"]["Message-ID"] == f"<{delivery['_id']}@hall.example>"
    assert mail["subject"] == "【韶关办事】居民身份证丢失补领：已转办" and mail["from"] == "韶关掌上办事大厅 <noreply@hall.example>"
    raw = message_from_string(mail["raw"])
    assert raw["Subject"].isascii() and "=?utf-8?" in raw["Subject"], "encoded as RFC 2047 wants it"
    assert raw.get_content_type() == "multipart/alternative"
    link = f"https://hall.example{delivery['link']}"
    assert link in mail["text"] and f'href="{link}"' in mail["html"]
    stop = re.fullmatch(r"<(https://hall\.example/email/stop\?who=\w+&mark=\w+)>", mail["headers"]["List-Unsubscribe"])
    assert stop and stop[1] in mail["text"] and mail["headers"]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["headers"]["Auto-Submitted"] == "auto-generated"
    for private in ("440203199001010018", "40.00", "A7K9PM"):
        assert private not in mail["raw"] + mail["text"]


async def test_a_mail_is_in_the_persons_language(post: Post):
    owner_id = await post.resident("li")
    await post.desk.push.set_preferences(owner_id, {"language": "en"})
    await post.told(owner_id)
    mail = (await post.sent(await post.emails.email_of(owner_id)))[-1]
    assert mail["subject"].startswith("[Shaoguan Hall] ") and "Open: https://hall.example/" in mail["text"]
    assert '<html lang="en">' in mail["html"]


@pytest.mark.parametrize(
    ("name", "attempts", "is_dead"),
    [
        ("nobody", [("email", "refused", "550"), ("sms", "sent", "")], True),
        ("full", [("email", "refused", "552"), ("sms", "sent", "")], False),
        ("policy", [("email", "refused", "554"), ("sms", "sent", "")], False),
        ("grey", [("email", "try_later", "451"), ("email", "sent", "")], False),
    ],
)
async def test_a_refusal_of_the_address_has_the_effect_of_its_row(post: Post, name: str, attempts, is_dead: bool):
    owner_id = await post.resident(name, phone=True)
    first = await post.told(owner_id)
    if first["is_open"]:
        await post.desk.push.deliver_due(first["next_at"])
    delivery = (await post.desk.deliveries(owner_id))[-1]

    assert [(one["channel"], one["outcome"], one.get("code", "")) for one in delivery["attempts"]] == attempts
    assert (await post.emails.view(owner_id))["is_dead"] is is_dead
    if is_dead:
        before = await post.desk.database["deliveries"].count_documents({"attempts.channel": "email"})
        await post.told(owner_id, "case.resumed")
        assert await post.desk.database["deliveries"].count_documents({"attempts.channel": "email"}) == before


@pytest.mark.parametrize(
    ("fault", "outcome", "code", "mails"),
    [
        ("down", "try_later", "SMTPConnectError", 0),
        ("rate_limited", "try_later", "421", 0),
        ("error500", "try_later", "451", 0),
        ("bad_signature", "try_later", "tls", 0),
        ("lost", "unclear", "SMTPServerDisconnected", 1),
    ],
)
async def test_a_fault_of_the_server_is_told_apart_by_what_was_handed_over(post: Post, fault: str, outcome: str, code: str, mails: int):
    owner_id = await post.resident("wang")
    email = await post.emails.email_of(owner_id)
    before = len(await post.sent(email))
    await post.desk.sim("faults", {"provider": "smtp", "mode": fault, "count": 1})

    delivery = await post.told(owner_id)

    attempt = delivery["attempts"][0]
    assert (attempt["channel"], attempt["outcome"], attempt["code"]) == ("email", outcome, code)
    assert len(await post.sent(email)) - before == mails
    if outcome == "try_later":
        await post.desk.push.deliver_due(delivery["next_at"])
        assert (await post.desk.deliveries(owner_id))[-1]["state"] == "sent"
        assert len(await post.sent(email)) - before == 1
    else:
        await post.desk.push.deliver_due(utc_now() + timedelta(hours=80))
        assert len(await post.sent(email)) - before == 1, "what may have gone out is never sent again"


async def test_a_worker_that_died_in_the_call_sends_nothing_again(post: Post):
    owner_id = await post.resident("xu")
    email = await post.emails.email_of(owner_id)
    before = len(await post.sent(email))
    await post.desk.push.tell(post.desk.event(owner_id, "case.transferred"))
    (delivery,) = await post.desk.deliveries(owner_id)
    # As it stands in the database when a worker dies between the note that it calls and the note of what came of it.
    await post.desk.database["deliveries"].update_one(
        {"_id": delivery["_id"]}, {"$set": {"state": "sending", "channel": "email", "claim": "dead", "next_at": utc_now()}}
    )
    await post.desk.push.deliver_due()
    (delivery,) = await post.desk.deliveries(owner_id)
    assert (delivery["state"], delivery["attempts"][-1]["outcome"], delivery["attempts"][-1]["code"]) == ("unclear", "unclear", "crashed")
    assert len(await post.sent(email)) == before


async def test_a_wrong_password_is_about_us_and_marks_no_address(post: Post):
    owner_id = await post.resident("zhao")
    post.channel._smtp._password = "wrong"
    delivery = await post.told(owner_id)
    assert [(one["outcome"], one["code"]) for one in delivery["attempts"]] == [("refused", "535")] and EFFECTS["535"].is_alarm
    assert not (await post.emails.view(owner_id))["is_dead"]


async def test_what_must_arrive_goes_by_mail_last(post: Post):
    owner_id = await post.resident("qian", phone=True)
    delivery = await post.told(owner_id, "case.accepted")
    assert delivery["must_arrive"] and delivery["channel"] == "sms" and delivery["chain"][-1] == "email"


# --- the address ---


async def test_an_address_counts_once_its_code_came_back_and_is_sealed(post: Post):
    owner_id = await post.desk.resident()
    email = f"Sun.{owner_id[-6:]}@Example.COM"
    masked = await post.emails.ask(owner_id, email, "10.0.0.2")
    assert masked.endswith("@example.com") and "Sun." not in masked
    assert await post.emails.email_of(owner_id) == ""
    right = (await post.sent(check_email(email)))[-1]["code"]
    wrong = f"{(int(right) + 1) % 10**6:06d}"
    with pytest.raises(EmailCodeWrong):
        await post.emails.confirm(owner_id, wrong)
    with pytest.raises(EmailCodeWrong):
        await post.emails.confirm(await post.desk.resident(), right)

    assert (await post.emails.confirm(owner_id, right))["email_masked"] == masked

    assert await post.emails.email_of(owner_id) == check_email(email)
    with pytest.raises(EmailCodeWrong):
        await post.emails.confirm(owner_id, right)
    for name in ("emails", "email_codes", "email_sends"):
        assert "example.com" not in str(await post.desk.database[name].find().to_list()), f"{name} holds an address in clear"


async def test_five_wrong_tries_end_a_code(post: Post):
    owner_id = await post.desk.resident()
    email = f"zhou{owner_id[-6:].lower()}@example.com"
    await post.emails.ask(owner_id, email, "10.0.0.3")
    right = (await post.sent(email))[-1]["code"]
    for _ in range(5):
        with pytest.raises(EmailCodeWrong):
            await post.emails.confirm(owner_id, "000000" if right != "000000" else "000001")
    with pytest.raises(EmailCodeWrong):
        await post.emails.confirm(owner_id, right)


async def test_codes_are_limited_per_person_and_per_address(post: Post):
    strict = Emails(
        post.desk.database, post.emails._keys, post.emails._send_code, interval_s=60, per_hour=2, per_hour_per_address=3,
        clock=lambda: now[0],
    )  # fmt: skip
    now = [utc_now()]
    owner_id, other_id = await post.desk.resident(), await post.desk.resident()
    email = f"wu{owner_id[-6:].lower()}@example.com"
    await strict.ask(owner_id, email, "10.0.0.4")
    with pytest.raises(RateLimited):
        await strict.ask(owner_id, "another@example.com", "10.0.0.4")  # the same person
    with pytest.raises(RateLimited):
        await strict.ask(other_id, email, "10.0.0.5")  # the same address
    now[0] += timedelta(seconds=61)
    await strict.ask(owner_id, email, "10.0.0.4")
    now[0] += timedelta(seconds=61)
    with pytest.raises(RateLimited):
        await strict.ask(owner_id, email, "10.0.0.4")
    assert len(await post.sent(email)) == 2


async def test_of_many_who_ask_for_a_code_at_once_one_is_sent(post: Post):
    strict = Emails(post.desk.database, post.emails._keys, post.emails._send_code, interval_s=60, per_hour=5, per_hour_per_address=99)
    people = [await post.desk.resident() for _ in range(8)]
    email = f"zhao{people[0][-6:].lower()}@example.com"
    # Everybody at one address, and one person at many.
    asked = [strict.ask(owner_id, email, "10.0.0.8") for owner_id in people[:-1]]
    asked += [strict.ask(people[-1], f"qian{number}{people[0][-6:].lower()}@example.com", "10.0.0.8") for number in range(8)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(result, str) for result in results[:7]) == 1
    assert sum(isinstance(result, str) for result in results[7:]) == 1
    assert all(isinstance(result, str | RateLimited) for result in results)
    assert len(await post.sent(email)) == 1


@pytest.mark.parametrize("text", ["", "a", "a@b", "张三@example.com", "a@b@example.com", "a b@-x.com", "a@example.com\r\nBcc: b@c.com", "a" * 65 + "@e.com"])
async def test_what_is_no_address_is_refused(post: Post, text: str):
    with pytest.raises(ValidationFailed):
        await post.emails.ask(new_id("res"), text, "10.0.0.6")


async def test_a_hall_without_a_mail_server_says_so(post: Post):
    off = Emails(post.desk.database, post.emails._keys, None, interval_s=0, per_hour=9, per_hour_per_address=9)
    with pytest.raises(EmailOff):
        await off.ask(new_id("res"), "a@example.com", "10.0.0.7")
    assert not off.is_on


def test_addresses_are_normalised_and_masked():
    assert check_email(" Zhang＠Example.Com ") == "Zhang@example.com"
    assert mask_email("zhangsan@example.com") == "z***n@example.com" and mask_email("ab@example.com") == "a***@example.com"


async def test_a_stop_link_is_its_owners_and_turns_mail_off(post: Post):
    owner_id, other_id = await post.resident("zheng"), await post.resident("feng")
    mark = post.emails.stop_path(owner_id).rpartition("=")[2]
    assert post.emails.may_stop(owner_id, mark) and not post.emails.may_stop(other_id, mark) and not post.emails.may_stop(owner_id, "é")
    await post.desk.push.stop_emails(owner_id)
    assert (await post.told(owner_id))["state"] == "inbox"
    assert (await post.told(other_id))["channel"] == "email"


async def test_a_join_keeps_one_address(post: Post):
    from_id, into_id = await post.resident("he"), await post.resident("lv")
    kept, lost = await post.emails.email_of(into_id), await post.emails.email_of(from_id)
    for _ in range(2):
        await post.emails.reassign(from_id, into_id)
    assert (await post.emails.email_of(into_id), await post.emails.email_of(from_id)) == (kept, "")
    alone = await post.desk.resident()
    await post.emails.reassign(into_id, alone)
    assert await post.emails.email_of(alone) == kept != lost
