"""Who may do what to a campaign: written by one, approved by another, large ones by the hall's operator; each step is audited."""

import asyncio
import re
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from app.kernel.clock import utc_now
from app.kernel.errors import HallError, ValidationFailed
from app.kernel.ids import new_id
from app.kernel.printed import with_printed
from config.settings import ROOT
from push.campaigns import machine, printed
from push.campaigns.model import sms_parts
from push.campaigns.segments import Segment
from tests.push.campaigns.office import CLERK, HEAD, OPERATOR, OPERATOR_CLERK, OTHER_HEAD, STRANGER, WANTED, Office

BACKWARDS = Segment("applicants", items=("id_card_lost",))


async def refused(work) -> str:
    with pytest.raises(HallError) as caught:
        await work
    return caught.value.code


async def test_a_second_person_of_the_agency_approves_never_who_wrote_it(office: Office):
    await office.residents(2)
    campaign_id = await office.draft(HEAD)
    act, version = office.campaigns.act, (await office.campaigns.act(campaign_id, HEAD, "submit"))["version"]

    assert await refused(act(campaign_id, HEAD, "approve", version=version)) == "campaign.not_yours_to_do"
    assert await refused(act(campaign_id, CLERK, "approve", version=version)) == "campaign.not_yours_to_do"
    assert await refused(act(campaign_id, STRANGER, "approve", version=version)) == "campaign.not_found"
    assert await refused(act(campaign_id, OPERATOR_CLERK, "approve", version=version)) == "campaign.not_yours_to_do"
    assert await refused(act(campaign_id, OTHER_HEAD, "approve", version=version - 1)) == "campaign.conflict"
    assert await refused(act(campaign_id, OTHER_HEAD, "approve")) == "validation.failed"
    assert (await office.seen(campaign_id))["state"] == "submitted"

    found = await act(campaign_id, OTHER_HEAD, "approve", version=version)
    assert (found["state"], found["approved_by"]) == ("approved", OTHER_HEAD.account)


async def test_who_changed_one_word_is_an_author_too(office: Office):
    campaign_id = await office.draft(CLERK)
    await office.campaigns.edit(campaign_id, HEAD, replace(WANTED, title="户籍窗口搬到新址"), 1)
    found = await office.campaigns.act(campaign_id, CLERK, "submit")

    assert found["authors"] == [CLERK.account, HEAD.account]
    assert "approve" not in (await office.campaigns.get(campaign_id, HEAD))["allowed_actions"]
    assert await refused(office.campaigns.act(campaign_id, HEAD, "approve", version=found["version"])) == "campaign.not_yours_to_do"


async def test_a_large_one_is_approved_by_the_operator_alone(office: Office):
    await office.residents(4)
    office.campaigns._approval_size = 3
    campaign_id = await office.draft()
    found = await office.campaigns.act(campaign_id, CLERK, "submit")
    assert found["needs_operator"] and found["progress"]["size"] == 4

    assert await refused(office.campaigns.act(campaign_id, HEAD, "approve", version=found["version"])) == "campaign.not_yours_to_do"
    await office.campaigns.act(campaign_id, OPERATOR, "approve", version=found["version"])
    await office.run_out(campaign_id)
    assert len(await office.told(campaign_id)) == 4


async def test_each_head_is_shown_how_many_wait_for_them(office: Office):
    async def waiting() -> list[int]:
        return [await office.campaigns.to_approve(each) for each in (CLERK, HEAD, OTHER_HEAD, STRANGER, OPERATOR)]

    await office.residents(4)
    small, own = await office.draft(CLERK), await office.draft(HEAD)
    for each in (small, own):
        await office.campaigns.act(each, CLERK, "submit")
    assert await waiting() == [0, 1, 2, 0, 0], "not one's own"
    office.campaigns._approval_size = 3
    large = await office.draft(CLERK)
    await office.campaigns.act(large, CLERK, "submit")
    assert await waiting() == [0, 1, 2, 0, 1]
    await office.campaigns.act(large, OPERATOR, "refuse", note="时间不对")
    assert await waiting() == [0, 1, 2, 0, 0]


async def test_two_heads_at_once_approve_it_once(office: Office):
    campaign_id = await office.draft()
    version = (await office.campaigns.act(campaign_id, CLERK, "submit"))["version"]

    answers = await asyncio.gather(
        *(office.campaigns.act(campaign_id, each, "approve", version=version) for each in (HEAD, OTHER_HEAD, HEAD)), return_exceptions=True
    )

    assert sum(not isinstance(answer, HallError) for answer in answers) == 1
    assert [row["step"] for row in (await office.seen(campaign_id))["history"]] == ["create", "submit", "approve"]


async def test_what_was_approved_cannot_be_changed_without_a_new_approval(office: Office):
    campaign_id = await office.approved(start_at=utc_now() + timedelta(hours=1))
    version = (await office.seen(campaign_id))["version"]
    assert await refused(office.campaigns.edit(campaign_id, CLERK, WANTED, version)) == "campaign.action_not_allowed"

    back = await office.campaigns.act(campaign_id, CLERK, "take_back")
    changed = await office.campaigns.edit(campaign_id, CLERK, WANTED, back["version"])

    assert (changed["state"], changed["approved_by"]) == ("draft", None)
    await office.run()
    assert await office.told(campaign_id) == []
    assert await refused(office.campaigns.edit(campaign_id, CLERK, WANTED, back["version"])) == "campaign.conflict", "a stale page"


async def test_what_the_operator_paused_only_the_operator_resumes(office: Office):
    campaign_id = await office.approved(channels=(), start_at=utc_now() - timedelta(hours=1))
    await office.residents(30)
    await office.database["campaigns"].update_one({"_id": campaign_id}, {"$set": {"rate": 4}})
    await office.run(for_s=0.1)
    assert await refused(office.campaigns.act(campaign_id, STRANGER, "pause")) == "campaign.not_found"
    await office.campaigns.act(campaign_id, OPERATOR, "pause", note="有人投诉")

    assert await refused(office.campaigns.act(campaign_id, HEAD, "resume")) == "campaign.not_yours_to_do"
    assert (await office.campaigns.act(campaign_id, OPERATOR, "resume"))["state"] == "running"
    await office.campaigns.act(campaign_id, CLERK, "pause")
    assert await refused(office.campaigns.act(campaign_id, CLERK, "resume")) == "campaign.not_yours_to_do", "a head answers for going on"
    assert await refused(office.campaigns.act(campaign_id, HEAD, "stop")) == "validation.failed", "and says why it stops"
    assert (await office.campaigns.act(campaign_id, HEAD, "stop", note="写错了"))["state"] == "stopped"
    assert await refused(office.campaigns.act(campaign_id, OPERATOR, "resume")) == "campaign.action_not_allowed"


async def test_every_step_is_audited_with_who_did_it(office: Office):
    await office.residents(1)
    campaign_id = await office.approved(channels=())
    await office.campaigns.preview(campaign_id, HEAD)
    await office.run_out(campaign_id)

    rows = await office.database["audit"].find({"subject": campaign_id}).sort("_id", 1).to_list()
    assert [(row["action"], row["actor"]) for row in rows] == [
        ("campaign.create", CLERK.account),
        ("campaign.submit", CLERK.account),
        ("campaign.approve", HEAD.account),
        ("campaign.preview", HEAD.account),
        ("campaign.begin", "system"),
        ("campaign.finish", "system"),
    ]


async def test_the_preview_shows_each_channel_and_counts_to_a_bound(office: Office, monkeypatch):
    await office.residents(3)
    campaign_id = await office.draft(title_en="The office has moved", text_en="From 1 December at Xinhua South Road.")

    found = await office.campaigns.preview(campaign_id, CLERK)

    assert found["size"] == {"count": 3, "is_more": False} and found["needs_operator"] is False
    assert found["channels"]["inbox"]["zh"]["title"] == "户籍窗口搬迁"
    assert found["channels"]["inbox"]["en"]["title"] == "The office has moved"
    text = found["channels"]["sms"]["zh"]
    assert text["text"] == "【韶关办事】户籍窗口搬迁。打开“韶关办事”可以看。" and (text["characters"], text["parts"]) == (len(text["text"]), 1)
    monkeypatch.setattr("push.campaigns.service.COUNT_AT_MOST", 2)
    assert (await office.campaigns.preview(campaign_id, CLERK))["size"] == {"count": 2, "is_more": True}
    assert await refused(office.campaigns.preview(campaign_id, STRANGER)) == "campaign.not_found"


async def test_a_test_goes_to_the_author_alone_and_says_what_it_is(office: Office, keys):
    me, other = await office.residents(2, phone=True)
    index = keys.blind_index(office.desk.town.phones[me], purpose="phone")
    await office.database["residents"].update_one({"_id": me}, {"$set": {"phone_index": index}})
    campaign_id = await office.draft()

    await office.campaigns.test(campaign_id, CLERK, office.desk.town.phones[me])
    seen = await office.database["audit"].find_one({"action": "campaign.test_sent"})
    assert (seen["actor"], seen["subject"], seen["owner_id"]) == (CLERK.account, campaign_id, me), "who sent what to whom"
    await office.desk.push.deliver_due()

    [message] = (await office.desk.push.inbox(me, unread=False, limit=5, cursor=None))["items"]
    assert message["title"] == "【试发】户籍窗口搬迁"
    assert await office.texted() == [office.desk.town.phones[me]]
    assert await refused(office.campaigns.test(campaign_id, CLERK, office.desk.town.phones[other])) == "validation.failed"
    assert await refused(office.campaigns.test(campaign_id, STRANGER, office.desk.town.phones[me])) == "campaign.not_found"
    found = await office.seen(campaign_id)
    assert found["progress"]["told"] == 0 and found["version"] == 1
    await office.database["campaigns"].update_one({"_id": campaign_id}, {"$set": {"tests": 17}})
    at_once = (office.campaigns.test(campaign_id, CLERK, office.desk.town.phones[me]) for _ in range(8))
    results = await asyncio.gather(*at_once, return_exceptions=True)
    assert sorted(getattr(result, "code", "sent") for result in results) == ["campaign.action_not_allowed"] * 5 + ["sent"] * 3
    assert await refused(office.campaigns.test(campaign_id, CLERK, office.desk.town.phones[me])) == "campaign.action_not_allowed"
    # And the real one reaches the author as it does everybody.
    submitted = await office.campaigns.act(campaign_id, CLERK, "submit")
    await office.campaigns.act(campaign_id, HEAD, "approve", version=submitted["version"])
    await office.run_out(campaign_id)
    assert await office.told(campaign_id) == [me, other]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"title": "两行\n标题"}, "/title"),
        ({"text": "响铃\x07的正文"}, "/text"),
        ({"title_en": "Alone"}, "/text_en"),
        ({"link": "//evil.example/x"}, "/link"),
        ({"link": "https://evil.example"}, "/link"),
        ({"link": "/a b"}, "/link"),
        ({"channels": ("pigeon",)}, "/channels"),
        ({"channels": ("voice",)}, "/channels"),
        ({"start_at": utc_now() + timedelta(days=100)}, "/start_at"),
        ({"start_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))}, "/start_at"),
        ({"title": "   "}, "/title"),
        ({"title": "\u200b\u200b\u202e字"}, "/title"),
        ({"title": "一行\u2028又一行"}, "/title"),
        ({"text": " \n \u200b\u200b\u200b\u200b\n"}, "/text"),
        ({"segment": Segment("division")}, "/segment/divisions"),
        ({"segment": Segment("division", divisions=("999999",))}, "/segment/divisions"),
        ({"segment": Segment("applicants", items=("nothing",))}, "/segment/items"),
        ({"segment": replace(BACKWARDS, from_on=date(2026, 2, 2), until_on=date(2026, 2, 1))}, "/segment/until_on"),
        ({"segment": replace(BACKWARDS, from_on=date(1, 1, 1), until_on=None)}, "/segment/from_on"),
        ({"segment": replace(BACKWARDS, from_on=None, until_on=date(9999, 12, 31))}, "/segment/until_on"),
        ({"segment": Segment("subscribers", themes=("占卜",))}, "/segment/themes"),
        ({"segment": Segment("all", items=("id_card_lost",))}, "/segment/items"),
    ],
)
async def test_what_cannot_be_is_refused_by_field(office: Office, changes, pointer):
    with pytest.raises(ValidationFailed) as caught:
        await office.campaigns.create(CLERK, replace(WANTED, **changes), new_id("cpn"))
    assert pointer in [row["pointer"] for row in caught.value.errors]


async def test_what_nobody_sees_is_left_out_of_what_is_sent(office: Office):
    campaign = await office.campaigns.get(await office.draft(title="\ufeff户籍\u202e窗口\u200b搬迁", text="12月1日起\x85，搬到\u2066新址\u2069。"), CLERK)
    assert (campaign["title"], campaign["text"]) == ("户籍窗口搬迁", "12月1日起，搬到新址。")


async def test_an_agency_sees_its_own_and_the_operator_all(office: Office):
    mine, theirs = await office.draft(CLERK), await office.draft(STRANGER)

    async def seen(staff, **wanted):
        return [row["id"] for row in (await office.campaigns.page(staff, **wanted))[0]]

    assert await seen(CLERK) == [mine] and await seen(CLERK, everybody=True) == [mine]
    assert await seen(OPERATOR) == [] and await seen(OPERATOR, everybody=True) == [theirs, mine]
    rows, cursor = await office.campaigns.page(OPERATOR, everybody=True, limit=1)
    assert [row["id"] for row in rows] == [theirs]
    assert await seen(OPERATOR, everybody=True, cursor=cursor) == [mine]
    assert await refused(office.campaigns.get(theirs, CLERK)) == "campaign.not_found"


def test_every_state_can_be_left_or_is_an_end_and_every_step_leads_somewhere_known():
    left = {source for step in machine.TABLE for source in step.sources if step.target}
    assert left | {machine.FINISHED, machine.STOPPED} == set(machine.STATES)
    assert {"create", *machine.STEPS} == set(machine.STEP_NAMES) and len(machine.STEPS) == len(machine.TABLE)
    assert all(not step.target or step.target in machine.STATES for step in machine.TABLE)


def test_the_document_shows_the_table_as_it_is():
    document = (Path(ROOT) / "docs" / "push.md").read_text(encoding="utf-8")
    assert with_printed(document, printed.printed()) == document, "run: python -m push.campaigns.printed docs/push.md"
    assert len(re.findall(r"^\| `\w+` \|", printed.printed(), re.M)) == len(machine.TABLE)


@pytest.mark.parametrize(("text", "parts"), [("字" * 70, 1), ("字" * 71, 2), ("a" * 134, 2), ("😀" * 35, 1), ("😀" * 36, 2), ("𠮷" * 68, 3)])
def test_parts_of_a_text_message_are_counted_as_the_carriers_do(text: str, parts: int):
    assert sms_parts(text) == parts
