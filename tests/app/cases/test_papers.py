"""Papers of a case: one per step, in its transaction; what it says stays; who may have it, and who can check it."""

import io
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pikepdf
import pypdfium2
import pytest

from app.cases import paper_texts, views
from app.cases.drafts import Save
from app.cases.errors import CaseNotFound, PaperNotFound
from app.cases.model import FINAL, Case, State, Suspension
from app.cases.paper_pdf import render
from app.cases.papers import KINDS
from app.kernel.events import new_event
from commands.story import picture
from tests.app.cases.dying import mortal
from tests.app.cases.handled import a_person, opened, set_clock, staff_of, submitted, with_materials

CLERK, HEAD = staff_of("sg-scjg"), staff_of("sg-scjg", "head")
BEGIN = datetime(2026, 3, 2, 2, tzinfo=UTC)
GAPS = {"missing": [{"key": "layout", "reason": "看不清，请重拍"}]}


def read(pdf):
    """The text of a PDF without its line breaks, and where its code leads."""
    with pypdfium2.PdfDocument(pdf) as document:
        text = "".join(page.get_textpage().get_text_bounded() for page in document)
    with pikepdf.open(io.BytesIO(pdf)) as document:
        links = [str(note.A.URI) for page in document.pages for note in page.get("/Annots", ())]
        assert sum(len(page.get_images()) for page in document.pages) == 1
    (link,) = links
    return "".join(text.split()), link


async def paper(hall, case, kind, ordinal=-1):
    number = [row["number"] for row in await hall.cases.papers.of(case) if row["kind"] == kind][ordinal]
    text, link = read((await hall.cases.papers.pdf(case, number))[1])
    assert urlsplit(link).path == f"/papers/{number}" and number in text
    return number, parse_qs(urlsplit(link).query)["code"][0], text


async def standing(hall, case, kind, ordinal=-1):
    number, code, _text = await paper(hall, case, kind, ordinal)
    return (await hall.cases.papers.check(number, code))["state"]


async def act(hall, case, action, who=CLERK, **body):
    return await hall.review.act(case.id, action, who, body)


async def test_every_step_says_what_it_said_and_no_later_one_changes_it(hall):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, "food_licence", owner))
    assert (await hall.cases.view(case))["papers"] == []
    case = await hall.cases.submit(case.id, owner, command="cmd_1")
    await hall.cases.submit(case.id, owner, command="cmd_1")  # a retry issues nothing
    assert [row["kind"] for row in await hall.cases.papers.of(case)] == ["application", "receipt"]
    _, _, text = await paper(hall, case, "receipt")
    for part in (case.number, case.query_code, "收件凭证", "3月9日", "个文件", case.agency_name):
        assert part in text
    first_number, _, first = await paper(hall, case, "application")
    assert case.form["name" if "name" in case.form else "org_name"] in first and str(case.form["place"]) in first
    case = await hall.requests.correct(case.id, owner, {"place": "韶关市武江区更正路2号"}, "打错了")
    case = await act(hall, case, "correct", approve=True, reason="")
    assert "更正路2号" in (await paper(hall, case, "application"))[2] and "更正路2号" not in first

    case = await act(hall, case, "request_supplement", **GAPS, reason="")
    _, _, text = await paper(hall, case, "supplement")
    assert "补正告知书" in text and "看不清，请重拍" in text and "3月23日" in text and await standing(hall, case, "supplement") == "in_force"
    set_clock(hall, BEGIN + timedelta(days=1))
    await hall.cases.put_material(case.id, owner, "layout", "b.png", picture(7))
    case = await hall.cases.supplement(case.id, owner, command="cmd_2")
    assert await standing(hall, case, "supplement") == "overtaken"
    assert [await standing(hall, case, "receipt", place) for place in (0, 1)] == ["overtaken", "in_force"]
    case = await act(hall, case, "accept", tolerated=[])
    case = await act(hall, case, "extend", HEAD, days=5, reason="现场核查")
    case = await act(hall, case, "suspend", kind="inspection", days=3, reason="抽样检验")
    _, _, text = await paper(hall, case, "suspension")
    assert "检验：抽样检验" in text and "不计入办理期限" in text
    set_clock(hall, BEGIN + timedelta(days=7))
    case = await act(hall, case, "resume")
    promised = (await paper(hall, case, "acceptance"))[2]
    assert "受理通知书" in promised and "3月3日" in promised
    _, _, text = await paper(hall, case, "extension")
    assert "现场核查" in text and "5天" in text
    case = await act(hall, case, "decide", HEAD, outcome="approved", opinion="符合条件")
    case = await act(hall, case, "deliver", HEAD, method="express", tracking="EMS123")
    assert "准予决定书" in (await paper(hall, case, "decision"))[2] and "符合条件" in (await paper(hall, case, "decision"))[2]
    assert "EMS123" in (await paper(hall, case, "completion"))[2]
    # The whole life later each says what it said on its day.
    assert (await paper(hall, case, "acceptance"))[2] == promised
    assert (await paper(hall, case, "application", 0))[::2] == (first_number, first)
    listed = [row["number"] for row in await hall.cases.papers.of(case)]
    assert listed == [row["number"] for row in (await hall.cases.view(case))["papers"]]
    assert len(listed) == len(set(listed)) == 11


async def test_a_refusal_a_denial_and_a_notice_that_ran_out(hall):
    set_clock(hall, BEGIN)
    refused = await submitted(hall, "food_licence")
    refused = await act(hall, refused, "reject", reason="不在本市经营", rule="食品经营许可管理办法第十二条", right_body="广州市市场监督管理局")
    _, _, text = await paper(hall, refused, "refusal")
    for part in ("不予受理通知书", "不在本市经营", "第十二条", "广州市市场监督管理局", "60日", "6个月", "韶关市人民政府"):
        assert part in text
    denied = await act(hall, await submitted(hall, "food_licence"), "accept")
    denied = await act(hall, denied, "decide", outcome="denied", opinion="现场不符合卫生要求")
    _, _, text = await paper(hall, denied, "decision")
    for part in ("不予决定书", "现场不符合卫生要求", "行政复议", "起诉", "《"):
        assert part in text
    silent = await submitted(hall, "food_licence")
    asked = await act(hall, await submitted(hall, "food_licence"), "request_supplement", **GAPS, reason="")
    set_clock(hall, BEGIN + timedelta(days=60))
    await hall.sweeps.run()
    assert "逾期未补正" in (await paper(hall, asked, "refusal"))[2] and await standing(hall, asked, "supplement") == "overtaken"
    assert "视为受理" in (await paper(hall, silent, "acceptance"))[2]


async def test_who_may_have_it_and_who_can_check_it(hall):
    case, other = await submitted(hall, "food_licence"), await submitted(hall, "food_licence")
    number, code, text = await paper(hall, case, "application")
    foreign, foreign_code, _ = await paper(hall, other, "application")
    with pytest.raises(PaperNotFound):
        await hall.cases.papers.pdf(case, foreign)
    with pytest.raises(CaseNotFound):
        await hall.review.paper_pdf(case.id, number, staff_of("sg-jj"))
    with pytest.raises(PaperNotFound):
        await hall.review.paper_pdf(case.id, foreign, CLERK)
    assert read((await hall.review.paper_pdf(case.id, number, CLERK))[1])[0] == text
    assert await hall.database["audit"].count_documents({"action": "paper.read", "subject": case.id, "purpose": number}) == 1

    public = await hall.cases.papers.check(number, code)
    assert (public["title"], public["state"], public["item_name"]) == ("申请表", "in_force", case.item_name)
    for value in case.form.values():
        assert not isinstance(value, str) or len(value) < 2 or value in case.item_name or value not in str(public)
    for wrong in ((number, foreign_code), (number, ""), (number, code.lower()), (number + "1", code), ("x", code), (foreign, code)):
        with pytest.raises(PaperNotFound):
            await hall.cases.papers.check(*wrong)
    await hall.cases.withdraw(case.id, case.owner_id, "不办了")
    assert (await hall.cases.papers.check(number, code))["state"] == "withdrawn"
    # At rest nobody's words are in clear.
    stored = await hall.database["papers"].find_one({"_id": number})
    assert str(case.form["place"]) not in str(stored) and str(case.form.get("name", "张示例")) not in str(stored)


@pytest.mark.parametrize("after", [False, True], ids=["before_the_command", "before_its_answer"])
async def test_at_every_death_there_are_step_and_paper_or_neither(hall, monkeypatch, after):
    set_clock(hall, BEGIN)
    owner = await a_person(hall)
    case = await with_materials(hall, await opened(hall, "food_licence", owner))
    steps = [
        ("submitted", lambda: hall.cases.submit(case.id, owner, command="cmd_1"), ["application", "receipt"]),
        ("accepted", lambda: act(hall, case, "accept"), ["acceptance"]),
        ("approved", lambda: act(hall, case, "decide", HEAD, outcome="approved", opinion=""), ["decision"]),
    ]
    before = []
    with mortal(monkeypatch) as attempt:
        for state, work, kinds in steps:
            for number in range(1, 60):
                died = await attempt(work, number, after)
                stored = await hall.database["cases"].find_one({"_id": case.id})
                papers = [row["kind"] for row in await hall.cases.papers.of(case)]
                is_done = stored["state"] == state
                assert papers == ([*before, *kinds] if is_done else before), (state, number)
                if is_done or not died:
                    break
            assert is_done and number > 3
            before = papers


def test_a_form_of_every_kind_of_field_and_a_long_one_is_drawn():
    rows = [["项目䶮", "一行\n两行" * 40], *([f"标签{n}", "值" * 60] for n in range(60))]
    shown = {
        "_id": "440-SQ1", "title": "申请表", "agency_name": "韶关市市场监督管理局", "issued_at": BEGIN, "code": "ABCD2345",
        "to": "张示例", "signed": "韶关市市场监督管理局", "rows": rows, "paragraphs": ["以上"], "check_url": "https://hall.example.gov.cn/papers/440-SQ1?code=ABCD2345",
    }  # fmt: skip
    text, link = read(render(shown))
    assert link == shown["check_url"] and "标签59" in text and "2026年3月2日" in text


def test_an_application_prints_the_answers_in_words_and_leaves_out_what_was_not_asked():
    options = [{"value": "post", "label": "邮寄"}, {"value": "self", "label": "自取"}]
    item = {
        "situations": [{"key": "who", "question": "谁来办", "type": "single", "options": [{"value": "me", "label": "本人"}]}],
        "form": [
            {"key": "way", "label": "方式", "type": "select", "options": options},
            {"key": "hidden", "label": "自取窗口", "type": "text", "show_when": {"way": ["self"]}},
            {"key": "other", "label": "代办人", "type": "text", "when": {"who": ["agent"]}},
            {"key": "place", "label": "地点", "type": "division"},
            {"key": "members", "label": "成员", "type": "table"},
            {"key": "yes", "label": "同意", "type": "boolean"},
            {"key": "photo", "label": "照片", "type": "photo"},
        ],
        "materials": [{"key": "hukou", "name": "户口簿"}],
    }
    form = {
        "way": "post", "hidden": "旧答案", "place": "440203", "yes": True,
        "members": [{"姓名": "张三", "关系": "子"}, {"姓名": "李四", "关系": ""}],
    }  # fmt: skip
    case = Case(
        id="case_1", number="1", query_code="A", owner_id="res_1", item_code="x", item_version=1, item_name="某事", agency_id="a",
        agency_name="某局", division_code="440203", state=State.SUBMITTED, version=1, created_at=BEGIN, updated_at=BEGIN,
        answers={"who": "me"}, form=form, materials={"photo": {"files": [{}]}, "hukou": {"files": [{}, {}]}},
    )  # fmt: skip
    event = new_event("case.submitted", subject=("case", case.id), owner_id="res_1", data={}, at=BEGIN)
    text = paper_texts.application(paper_texts.Step(case, event, item, lambda code: {"440203": "武江区"}[code]))
    assert list(text.rows) == [
        ("申请事项", "某事"), ("办件编号", "1"), ("办理地区", "武江区"), ("谁来办", "本人"), ("方式", "邮寄"), ("地点", "武江区"),
        ("成员", "姓名 张三，关系 子；姓名 李四"), ("同意", "是"), ("照片", "见所附文件"), ("所附材料", "户口簿（2个文件）"),
    ]  # fmt: skip


@pytest.mark.parametrize("state", list(State))
def test_in_every_state_one_line_says_who_does_what_by_when(state):
    day = date(2026, 3, 9)
    case = Case(
        id="case_1", number="1", query_code="A", owner_id="res_1", item_code="x", item_version=1, item_name="某事", agency_id="a",
        agency_name="某局", division_code="440203", state=state, version=1, created_at=BEGIN, updated_at=BEGIN,
        accept_by_on=day, deadline_on=day, deliver_by_on=day, supplement={"by_on": "2026-03-09", "missing": []},
        suspensions=(Suspension("hearing", 1, day, None, "", day),),
    )  # fmt: skip
    step = views.next_step(case)
    assert step["text"].endswith("。") and "{" not in step["text"] and "None" not in step["text"]
    if state in FINAL:
        assert step["line"] == ""
    elif step["actor"] == "agency":
        assert step["line"].startswith("下一步：某局在2026年3月9日前") and step["by_on"] == "2026-03-09"
    else:
        assert step["line"].startswith("下一步：您") and views.next_step(case, "申请人")["line"].startswith("下一步：申请人")


def test_every_kind_of_paper_is_of_its_own_mark():
    assert len({kind.mark for kind in KINDS.values()}) == len(KINDS)


async def test_a_rare_character_of_a_name_stands_on_paper_by_its_code_and_marks_of_direction_do_not(hall):
    case = await opened(hall, "no_crime_cert", await a_person(hall))
    case = await hall.cases.drafts.save(case.id, case.owner_id, Save({"name": "𠮷示\u202e例\u200b"}, {}, case.version))
    assert case.form["name"] == "𠮷示例"
    case = await with_materials(hall, case)
    case = await hall.cases.submit(case.id, case.owner_id)
    _number, _code, text = await paper(hall, case, "receipt")
    assert "［U+20BB7］示例" in text
