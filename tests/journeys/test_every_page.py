"""Every page route, taken from the application itself: garbage in address and form, by nobody, a resident and a clerk. Never a 500."""

import asyncio
import re
from collections import Counter
from urllib.parse import quote, quote_from_bytes

import pytest

from app.kernel.ids import new_id, ulid
from commands.routes import ROUTE_MODULES
from handlers.pages_base import PageHandler, PageNotFound
from tests.handlers.pages_browser import Browser
from tests.journeys.conftest import PASSWORD
from tests.journeys.stories import LOST, a_name, paid_attempt, someone, submitted

PAGES = [
    (pattern, handler)
    for module in ROUTE_MODULES
    for pattern, handler, *_rest in module.routes
    if issubclass(handler, PageHandler) and handler is not PageNotFound
]
# What ends the session of the rest of the test, or leads away.
LEFT_OUT = ("/sign-out", "/staff/sign-out", "/sign-in/")
VALUES = [b"", b"\x00", b"x" * 5001, "１２３\u202e".encode(), b"<b>&'\"", b"-1", b"9" * 40, b"\xff\xfe", b"2026-02-30", b"{", b"true", b"..%2f"]
QUERIES = ["cursor=%00", "cursor=%ff", "level=9&tab=x&state=x", "code=%F0%9F%98%80", "q=" + "x" * 3000, "next=//evil.example", "division=1&item=%27"]


@pytest.fixture
async def known(hall, anyone):
    """A resident with one of everything, their browser, and the ids of it."""
    resident, name = await someone(anyone)
    case = await submitted(resident, "id_card_lost", {"age": "adult"}, LOST)
    order, _attempt = await paid_attempt(resident, hall.sandbox_url, "case", case["id"])
    await resident.until(f"/v1/cases/{case['id']}", lambda answer: answer["state"] == "submitted")
    contacts = await resident.until("/v1/contacts", lambda answer: bool(answer["items"]))
    complaint = await resident.post("/v1/complaints", {"about": "hall", "text": "打不开"}, key=ulid())
    draft = await resident.open_case("elder_allowance", {})
    case = await resident.get(f"/v1/cases/{case['id']}")
    ids = {
        "case": case["id"], "draft": draft["id"], "order": order["id"], "contact": contacts["items"][0]["id"],
        "complaint": complaint["id"], "paper": case["papers"][0]["number"],
    }  # fmt: skip
    words = [str(case["form"]["values"][key]) for key in ("name", "id_number", "mobile")] + [case["number"], "打不开"]
    assert all(len(word) > 1 for word in words)
    return name, ids, words


async def signed_in(hall, name):
    browser = Browser(hall.url)
    start = await browser.get("/sign-in/wechat/start?next=/me", follow=False)
    page = await browser.get(start.headers["Location"] + f"&name={name}")
    assert page.path == "/me"
    return browser


async def staff(hall, account):
    browser = Browser(hall.url)
    page = await browser.submit(await browser.get("/staff/sign-in"), "/staff/sign-in", account=account, password=PASSWORD)
    assert page.path == "/staff/tasks"
    return browser


def addresses(pattern, ids):
    """Return addresses that a route takes: with what there is, with what there is not."""
    found = set()
    for real in (ids, {**ids, "case": ids["draft"]}, {name: new_id(value.partition("_")[0])[: len(value)] for name, value in ids.items()}):
        path = pattern
        for wanted, value in (
            (r"\((?:\?:)?case_[^()]*\)", real["case"]), (r"\(con_[^()]*\)", real["contact"]), (r"\(dlv_[^()]*\)", new_id("dlv")),
            (r"\(\(\?:cmp\|cbk\)_[^()]*\)", real["complaint"]), (r"\(card_[^()]*\)", new_id("card")), (r"\(ord_[^()]*\)", real["order"]),
            (r"\(\[\\w-\]\{1,80\}\)", real["paper"]), (r"\(\[0-9A-Z\]\{26\}\[0-9a-f\]\{20\}\)", ulid() + "a" * 20),
        ):  # fmt: skip
            path = re.sub(wanted, lambda _match, value=value: value, path)
        path = re.sub(r"\([^()]*\|[^()]*\)", lambda match: match[0][1:-1].split("|")[0], path)
        path = re.sub(r"\([^()]*\)", "x1", path)
        found.add(path.replace("\\.", ".").replace("/?", "/").replace("?", ""))
    return sorted(found)


async def sent(browser, method, path, data=None):
    async with browser.http.request(method, browser.base_url + path, data=data, allow_redirects=False) as answer:
        return answer.status, await answer.read()


async def test_garbage_in_every_address_and_every_field_of_every_page_is_answered_calmly(hall, known):
    name, ids, _words = known
    people = {"nobody": Browser(hall.url), "resident": await signed_in(hall, name), "clerk": await staff(hall, "clerk.sg-gaj"), "head": await staff(hall, "head.sg-gaj")}
    names, tokens = set(), {}
    for who, browser in people.items():
        for start in ("/", "/me", "/cases", "/staff/tasks", "/staff/intake", "/staff/consultations", "/complaints/new", f"/cases/{ids['case']}",
                      f"/cases/{ids['draft']}/edit", f"/staff/cases/{ids['case']}", f"/ratings/{ids['contact']}?level=4", "/progress", "/feedback"):  # fmt: skip
            page = await browser.get(start)
            for form in page.forms:
                names |= form.names
                tokens.setdefault(who, next((value for field, value in form.values if field == "_xsrf"), None))
    names -= {"_xsrf", "once"}
    assert len(names) > 30 and {"text", "level"} <= names, names
    bugs = hall.log("web").count("http.bug")
    tried, seen = 0, Counter()
    for pattern, handler in PAGES:
        if pattern.startswith(LEFT_OUT):
            continue
        for path in addresses(pattern, ids):
            wanted = []
            for who, browser in people.items():
                wanted += [(who, "GET", path, sent(browser, "GET", path))] + [(who, "GET", query, sent(browser, "GET", f"{path}?{query}")) for query in QUERIES]
                if "post" in vars(handler) or any("post" in vars(base) for base in handler.__mro__ if issubclass(base, PageHandler)):
                    for value in VALUES:
                        body = f"_xsrf={quote(tokens[who] or '')}&once={ulid()}&" + "&".join(f"{field}={quote_from_bytes(value)}" for field in sorted(names))
                        wanted.append((who, "POST", repr(value[:9]), sent_form(browser, path, body)))
            answers = await asyncio.gather(*(call for _who, _method, _what, call in wanted))
            for (who, method, what, _call), (status, body) in zip(wanted, answers, strict=True):
                assert status < 500, (who, method, path, what, status, body[:400])
                tried += 1
                seen[who, method, status] += 1
    for browser in people.values():
        await browser.close()
    # Not all of it was stopped at the door.
    assert tried > 3000 and all(seen["resident", "POST", status] > 50 for status in (303, 422)) and seen["head", "POST", 422] > 50, seen
    found = [line for line in hall.log("web").splitlines() if "http.bug" in line][bugs:]
    assert not found, found[:3]


async def test_what_is_somebody_elses_or_another_agencys_stands_on_no_page(hall, known):
    """Whoever has the address and no right: no page holds the number of the case, its applicant or the words of the complaint."""
    _name, ids, words = known
    strangers = [await signed_in(hall, a_name()), await staff(hall, "clerk.sg-mzj"), await staff(hall, "head.sg-jj"), Browser(hall.url)]
    tried = 0
    for pattern, _handler in PAGES:
        for path in addresses(pattern, ids):
            if not any(value in path for value in ids.values()):
                continue
            for browser in strangers:
                status, body = await sent(browser, "GET", path)
                shown = body.decode(errors="replace").replace(path, "").replace(ids["paper"], "")  # the address itself is known
                assert not any(word in shown for word in words), (path, status)
                assert status in (303, 401, 403, 404, 405) or path.startswith("/papers/"), (path, status)
                tried += 1
    for browser in strangers:
        await browser.close()
    assert tried > 100


async def sent_form(browser, path, body):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with browser.http.post(browser.base_url + path, data=body, headers=headers, allow_redirects=False) as answer:
        return answer.status, await answer.read()
