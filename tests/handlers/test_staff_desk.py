"""The clerks' desk over HTTP: two who claim the same, marks and the one notice, templates, window intake, and that every read is recorded."""

import asyncio
import re
from dataclasses import replace
from types import SimpleNamespace

import aiohttp
import pytest

from app.cases import listed
from app.cases.documents import from_document, to_document
from app.cases.model import State
from app.identity import store as identity_store
from app.identity.model import LEVEL_FACE
from app.kernel.ids import new_id
from app.storage.files import CLEAN
from commands.routes import ROUTE_MODULES
from commands.story import id_number, picture, sample_form
from tests.handlers.pages_world import PASSWORD, World, world  # noqa: F401
from tests.handlers.serving import Site

AGENCY = "sg-gaj"
ITEM = "id_card_lost"


@pytest.fixture
async def desk(world: World):  # noqa: F811
    """Three people of two agencies, signed in."""
    site = Site(world.url, world.browser().http)
    tokens = {}
    await world.hall.staff.add(f"clerk2.{AGENCY}", "第二个经办", "clerk", AGENCY, PASSWORD)
    for account in (f"clerk.{AGENCY}", f"clerk2.{AGENCY}", f"head.{AGENCY}", "clerk.sg-jj"):
        tokens[account.replace(f".{AGENCY}", "").replace(".sg-", "-")] = (await world.hall.staff.login(account, PASSWORD))[0]

    async def call(who, method, path, body=None, **more):
        headers = {"Idempotency-Key": more.pop("key", new_id("key"))}
        return await site.call(method, path, token=tokens[who], headers=headers, **({} if body is None else {"json": body}), **more)

    return SimpleNamespace(call=call, hall=world.hall)


_seeds = iter(range(5000, 9000))


async def at_window(desk, who="clerk", **changes):
    """A case taken in at the window, filled in, with its materials; and who it is of."""
    number = id_number(next(_seeds))
    body = {"item_code": ITEM, "division_code": "440203", "name": "陈示例", "id_number": number, "phone": "13800000077", "answers": {"age": "adult"}}
    opened = await desk.call(who, "POST", "/staff/v1/intake", {**body, **changes})
    assert opened.status == 201, opened.json
    case = opened.json
    fields = [field for field in case["form"]["fields"] if "computed" not in field]
    form = {**sample_form(fields), **{key: value for key, value in case["form"]["values"].items() if value}}
    case = (await desk.call(who, "PATCH", f"/staff/v1/intake/{case['id']}", {"form": form, "version": case["version"], "merge": True})).json
    for row in case["materials"]:
        if row["status"] == "missing":
            data = aiohttp.FormData()
            data.add_field("file", picture(), filename="a.png", content_type="image/png")
            put = await desk.call(who, "PUT", f"/staff/v1/intake/{case['id']}/materials/{row['key']}", data=data)
            assert put.status == 200, put.json
    return case


async def handed_in(desk, who="clerk"):
    case = await at_window(desk, who)
    answer = await desk.call(who, "POST", f"/staff/v1/intake/{case['id']}/submit", {"confirmed": True})
    assert answer.status == 200, answer.json
    stored = await desk.hall.cases.store.load({"_id": case["id"]})
    if stored.state is State.AWAITING_PAYMENT:
        await desk.hall.cases.fee_paid(stored.id, new_id("ord"))
    return await desk.hall.cases.store.load({"_id": case["id"]})


async def test_of_two_clerks_who_claim_the_same_cases_each_case_has_one_owner(desk):
    one = await handed_in(desk)
    document = await desk.hall.database["cases"].find_one({"_id": one.id})
    ids = []
    copies = []
    for place in range(200):
        case = from_document(document, desk.hall.keys)
        copy = replace(case, id=new_id("case"), number=f"copy{place:035d}", assignee=None, state=State.SUBMITTED)
        ids.append(copy.id)
        copies.append(to_document(copy, desk.hall.keys, frozenset({"name"})) | listed.listed(copy, desk.hall.keys))
    await desk.hall.database["cases"].insert_many(copies)
    answers = await asyncio.gather(
        *(desk.call(who, "POST", "/staff/v1/tasks/claim", {"case_ids": ids}) for who in ("clerk", "clerk2", "head"))
    )
    owners = {row["_id"]: row["assignee"] async for row in desk.hall.database["cases"].find({"_id": {"$in": ids}})}
    for place, case_id in enumerate(ids):
        outcomes = [answer.json["items"][place]["outcome"] for answer in answers]
        assert sorted(outcomes) == ["claimed", "taken", "taken"], outcomes
        winner = ("clerk", "clerk2", "head")[outcomes.index("claimed")]
        assert owners[case_id] == f"{winner}.{AGENCY}"
    again = await desk.call("clerk", "POST", "/staff/v1/tasks/claim", {"case_ids": [*ids[:2], "case_none"]})
    assert again.json["items"][-1]["outcome"] == "not_found"
    await desk.hall.database["cases"].delete_many({"_id": {"$in": ids}})


async def test_marks_stay_inside_until_one_notice_tells_them_all(desk):
    case = await handed_in(desk)
    path = f"/staff/v1/cases/{case.id}"
    empty = await desk.call("clerk", "POST", path + "/request_supplement", {"from_marks": True})
    assert empty.status == 422
    for key, reason in (("hukou", "看不清"), ("lost_date", "日期不对"), ("hukou", "缺一页")):
        marked = await desk.call("clerk", "POST", path + "/marks", {"key": key, "reason": reason})
        assert marked.status == 200, marked.json
    assert {mark["key"]: mark["reason"] for mark in marked.json["marks"]} == {"hukou": "缺一页", "lost_date": "日期不对"}
    assert (await desk.call("clerk", "POST", path + "/marks", {"key": "nothing", "reason": "x"})).status == 422
    assert (await desk.call("clerk-jj", "POST", path + "/marks", {"key": "hukou", "reason": "x"})).status == 404
    resident = await desk.hall.cases.view(await desk.hall.cases.get(case.id, case.owner_id))
    assert "缺一页" not in str(resident) and "marks" not in resident
    stored = await desk.hall.database["case_marks"].find({"case_id": case.id}).to_list()
    assert "缺一页" not in str(stored), "sealed at rest"
    await desk.call("clerk", "DELETE", path + "/marks/lost_date")
    await desk.call("clerk", "POST", path + "/marks", {"key": "mobile", "reason": "打不通"})
    told = await desk.call("clerk", "POST", path + "/request_supplement", {"from_marks": True})
    assert told.status == 200, told.json
    assert {row["key"]: row["reason"] for row in told.json["supplement"]["missing"]} == {"hukou": "缺一页", "mobile": "打不通"}
    assert told.json["marks"] == [], "told once"
    assert (await desk.call("clerk2", "POST", path + "/marks", {"key": "hukou", "reason": "x"})).json["code"] == "case.action_not_allowed"


async def test_opinion_templates_are_the_hall_s_the_office_s_and_one_s_own(desk):
    row = {"action": "decide", "outcome": "approved", "text": "材料齐全，准予补领。", "item": ITEM}
    first = await desk.call("clerk", "POST", "/staff/v1/opinions", row)
    again = await desk.call("clerk", "POST", "/staff/v1/opinions", row)
    assert first.status == 201 and first.json == again.json
    assert (await desk.call("clerk", "POST", "/staff/v1/opinions", {**row, "for_agency": True})).status == 403
    shared = await desk.call("head", "POST", "/staff/v1/opinions", {**row, "text": "经核实，准予。", "for_agency": True})
    texts = [one["text"] for one in (await desk.call("clerk", "GET", f"/staff/v1/opinions?action=decide&item={ITEM}")).json["items"]]
    assert texts[:2] == ["材料齐全，准予补领。", "经核实，准予。"] and len(texts) > 3
    others = [one["text"] for one in (await desk.call("clerk2", "GET", "/staff/v1/opinions?action=decide")).json["items"]]
    assert "材料齐全，准予补领。" not in others and "经核实，准予。" in others
    assert "经核实，准予。" not in str((await desk.call("clerk-jj", "GET", "/staff/v1/opinions")).json)
    assert (await desk.call("clerk2", "DELETE", f"/staff/v1/opinions/{first.json['id']}")).status == 404
    assert (await desk.call("clerk", "DELETE", f"/staff/v1/opinions/{shared.json['id']}")).status == 404
    assert (await desk.call("clerk", "DELETE", f"/staff/v1/opinions/{first.json['id']}")).status == 204


async def test_a_resident_at_the_window_gets_the_same_case_once(desk):
    number, key = id_number(next(_seeds)), new_id("key")
    body = {"item_code": ITEM, "division_code": "440203", "name": "李示例", "id_number": number, "phone": "13800000088", "answers": {"age": "adult"}}
    first, again = [await desk.call("clerk", "POST", "/staff/v1/intake", body, key=key) for _ in range(2)]
    assert (first.status, first.json["id"]) == (201, again.json["id"])
    case = await desk.hall.cases.store.load({"_id": first.json["id"]})
    assert (case.channel, case.taken_in_by, case.timeline[0].title) == ("window", f"clerk.{AGENCY}", "窗口收件")
    assert case.form["name"] == "李示例" and case.form["mobile"] == "13800000088"
    resident = await desk.hall.database["residents"].find_one({"_id": case.owner_id})
    assert resident["seen_at_window"][-1]["by"] == f"clerk.{AGENCY}" and "phone" not in resident, "a phone that was told proves nothing"
    # At two windows at once: one resident.
    other = id_number(next(_seeds))
    both = await asyncio.gather(
        *(desk.call(who, "POST", "/staff/v1/intake", {**body, "id_number": other}) for who in ("clerk", "clerk2"))
    )
    owners = {(await desk.hall.cases.store.load({"_id": answer.json["id"]})).owner_id for answer in both}
    assert len(owners) == 1
    # Nobody else of the office works on it, and a draft is in nobody's list.
    for who in ("clerk2", "head", "clerk-jj"):
        assert (await desk.call(who, "GET", f"/staff/v1/intake/{case.id}")).status == 404
    assert (await desk.call("clerk", "GET", f"/staff/v1/cases/{case.id}")).status == 404
    assert case.id in [row["id"] for row in (await desk.call("clerk", "GET", "/staff/v1/intake")).json["items"]]


@pytest.mark.parametrize(
    ("changes", "status", "pointer"),
    [
        ({"id_number": "440203199001010010"}, 422, "/id_number"),
        ({"phone": "123"}, 422, "/phone"),
        ({"division_code": "999999"}, 422, "/division_code"),
        ({"item_code": "nothing"}, 404, ""),
        ({"item_code": "driver_renew"}, 403, ""),
        ({"name": ""}, 422, "/name"),
    ],
)
async def test_what_is_wrong_at_the_window_is_refused(desk, changes, status, pointer):
    body = {"item_code": ITEM, "division_code": "440203", "name": "李示例", "id_number": id_number(next(_seeds)), "answers": {"age": "adult"}}
    answer = await desk.call("clerk", "POST", "/staff/v1/intake", body | changes)
    assert answer.status == status, answer.json
    if pointer:
        assert pointer in [row["pointer"] for row in answer.json["errors"]]


async def test_a_number_under_another_name_is_refused_and_no_account_is_raised(desk):
    number = id_number(next(_seeds))
    resident_id = new_id("res")
    await desk.hall.database["residents"].insert_one(
        identity_store.new_resident(resident_id, (await handed_in(desk)).created_at)
        | {"level": 3}
        | identity_store.sealed_fields(desk.hall.keys, resident_id, {"name": "王示例", "id_number": number})
    )
    body = {"item_code": ITEM, "division_code": "440203", "name": "赵示例", "id_number": number, "answers": {"age": "adult"}}
    refused = await desk.call("clerk", "POST", "/staff/v1/intake", body)
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/name")
    taken = await desk.call("clerk", "POST", "/staff/v1/intake", body | {"name": "王示例"})
    assert taken.status == 201
    case = await desk.hall.cases.store.load({"_id": taken.json["id"]})
    assert case.owner_id == resident_id
    assert (await desk.hall.identity.resident(resident_id)).level == 3, "the clerk sees a person, not who holds the phone"


async def test_handed_in_at_the_window_it_is_a_case_like_any_other(desk):
    case = await at_window(desk)
    path = f"/staff/v1/intake/{case['id']}/submit"
    assert (await desk.call("clerk", "POST", path, {"confirmed": False})).status == 422
    assert (await desk.call("clerk2", "POST", path, {"confirmed": True})).status == 404
    key = new_id("key")
    first, again = [await desk.call("clerk", "POST", path, {"confirmed": True}, key=key) for _ in range(2)]
    assert first.status == 200 and first.json == again.json
    assert [entry["title"] for entry in first.json["timeline"]].count("窗口收件") == 2, "taken in, and confirmed"
    receipt = (await desk.call("clerk", "GET", f"/staff/v1/intake/{case['id']}/receipt")).json
    shown = await desk.hall.cases.progress(receipt["number"], receipt["query_code"])
    assert shown["number"] == case["number"]
    assert (await desk.call("clerk", "PATCH", f"/staff/v1/intake/{case['id']}", {"form": {}, "version": 1})).status == 404
    rows = await desk.hall.database["audit"].find({"subject": case["id"]}).to_list()
    assert {"intake.open", "intake.save", "intake.material", "intake.submit", "intake.receipt"} <= {row["action"] for row in rows}
    assert {row["actor"] for row in rows if row["action"].startswith("intake.")} == {f"clerk.{AGENCY}"}


async def test_who_took_it_in_is_found_by_the_same_number_online(desk):
    """The resident shows their face in an app later: the case is in their own list. Name and number alone show nothing of it."""
    case = await handed_in(desk)
    owner = await desk.hall.identity.resident(case.owner_id)
    younger = new_id("res")
    await desk.hall.database["residents"].insert_one(identity_store.new_resident(younger, case.created_at))
    proving = desk.hall.identity._proving
    assert await proving.prove(younger, name=owner.name, id_number=owner.id_number) == (younger, None)
    assert (await desk.hall.identity.resident(younger)).level == 3, "what the clerk saw does not carry over to a phone"
    stays, joined = await proving.prove(younger, level=LEVEL_FACE)
    assert (stays, joined) == (case.owner_id, younger)
    assert case.id in [mine.id for mine in (await desk.hall.cases.list(stays))[0]]


# --- every read is recorded ---

# Other parts' lists of money and supervision: they have tests of their own.
ELSEWHERE = re.compile(r"money|refund|finding|payment|order|supervision|cards|calendar|measures|notices|leave|samples|routing|reconcil")


def staff_reads():
    """Every GET route of the clerks, API and pages, as the hall itself lists them."""
    for module in ROUTE_MODULES:
        for pattern, handler, *_rest in module.routes:
            if pattern.startswith("/staff"):
                yield pattern, handler


async def test_every_read_of_a_person_s_data_leaves_a_row(desk):
    draft, case = await at_window(desk), await handed_in(desk)
    document = await desk.hall.cases.store.load({"_id": case.id})
    file_id = document.materials["hukou"]["files"][0]["id"]
    await desk.hall.cases.holdings._files.tell_scan(file_id, CLEAN)  # no scanner stands here: what it would say, so that the file is shown
    token = (await desk.hall.staff.login(f"clerk.{AGENCY}", PASSWORD))[0]
    audit = desk.hall.database["audit"]
    tried = []
    http = Site(desk.hall.settings.public_url, aiohttp.ClientSession())
    async with http.http:
        for pattern, handler in staff_reads():
            if ELSEWHERE.search(pattern) or ELSEWHERE.search(handler.__module__):
                continue
            subject = draft["id"] if "/intake/" in pattern and "receipt" not in pattern else case.id
            path = _filled(pattern, subject, file_id)
            before = await audit.count_documents({"actor": f"clerk.{AGENCY}"})
            headers = {"Cookie": f"hall_staff={token}"}
            answer = await http.call("GET", path, token=token, headers=headers, allow_redirects=False)
            if answer.status != 200:
                assert answer.status in (302, 303, 403, 404, 405, 422), (path, answer.status, answer.body[:300])
                continue
            rows = await audit.count_documents({"actor": f"clerk.{AGENCY}"}) - before
            if _is_personal(answer, case.number, draft["number"]):
                assert rows >= 1, path
                tried.append(pattern)
    assert len(tried) >= 12, tried


def _is_personal(answer, *numbers):
    """Say whether an answer shows something of a person: a name, masked or not, a case, a picture of a paper."""
    text = answer.body.decode("utf-8", "replace")
    return answer.headers["Content-Type"].startswith("image") or any(shown in text for shown in (*numbers, "陈示例", "陈**"))


def _filled(pattern, case_id, file_id):
    path = pattern.replace("/?", "")
    for group in re.findall(r"\((?:[^()]|\[[^\]]*\])*\)", path):
        if "case_" in group or group == r"([\w-]+)":
            value = case_id
        elif r"\d" in group and "A-Z" not in group:
            value = "1"
        elif path.count("/files/") and path.index(group) > path.index("/files/"):
            value = file_id
        else:
            value = "hukou"
        path = path.replace(group, value, 1)
    return path
