"""Every event has a text that holds with any data, and a text that could go wrong stops the start."""

import re
import shutil
from pathlib import Path

import orjson
import pytest

from app.cases import steps
from app.cases.model import Fee
from app.kernel.events import new_event
from push.model import EVENTS
from push.preview import load_samples
from push.templates import FOLDER, TemplatesError, load_templates
from push.vendor_templates import check_field, fit
from sandbox.wechat_template import is_allowed
from tests.app.cases.walking import CALENDAR, draft, item
from tests.push.desk import FULL

ALL = [(kind, name) for kind, names in EVENTS.items() for name in names]


@pytest.fixture(scope="module")
def templates():
    return load_templates()


@pytest.mark.parametrize("data", [{}, FULL], ids=["minimal", "full"])
@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_event_renders_with_any_data(templates, kind, name, language, data):
    rendered = templates.render(new_event(name, subject=(kind, "x_1"), owner_id="res_1", data=data), language)

    assert rendered.title and rendered.body and rendered.short
    assert rendered.link.startswith("/")
    assert "{" not in rendered.title + rendered.body + rendered.short and "None" not in rendered.body
    for vendor in (*templates.wechat, *templates.alipay):
        if name in vendor.events:
            for field, value in vendor.fill(rendered.values).items():
                assert field.startswith("keyword") or is_allowed(field, {"value": value}), (field, value)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_nothing_private_leaves_the_hall(templates, kind, name):
    rendered = templates.render(new_event(name, subject=(kind, "x_1"), owner_id="res_1", data=FULL), "zh")

    outside = rendered.short + " ".join(rendered.values.values())
    for private in ("440203199001010018", "40.00", "太暗", "A7K9PM", "工本费"):
        assert private not in outside
    assert "440203199001010018" not in rendered.body  # what is stored holds no citizen number either


def test_supplement_names_everything_and_what_to_do(templates):
    event = new_event("case.supplement_requested", subject=("case", "case_1"), owner_id="res_1", data=FULL)

    body = templates.render(event, "zh").body

    assert "1. 近期照片：太暗" in body and "2. 申请表：没有签名" in body
    assert "现在轮到您" in body


def test_an_estimated_day_is_called_estimated(templates):
    data = FULL | {"deadline_estimated": False}
    says = "国务院还没有公布2027年放假安排"

    def body(given):
        return templates.render(new_event("case.accepted", subject=("case", "c"), owner_id="r", data=given), "zh").body

    assert says in body(FULL) and "2027年1月8日" in body(FULL)
    assert says not in body(data)


def test_how_it_is_delivered_decides_the_sentence(templates):
    def body(method):
        event = new_event("case.completed", subject=("case", "c"), owner_id="r", data=FULL | {"method": method})
        return templates.render(event, "zh").body

    assert "EMS1234567890" in body("post") and "窗口" not in body("post")
    assert "窗口" in body("window") and "EMS" not in body("window")


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        ("thing", "一二三四五六七八九十一二三四五六七八九十一", "一二三四五六七八九十一二三四五六七八九…"),
        ("thing", "居民身份证\n 补领", "居民身份证 补领"),
        ("thing", "  ", "无"),
        ("phrase", "已受理OK", "已受理"),
        ("character_string", "202611230017", "202611230017"),
        ("character_string", "号", "-"),
    ],
)
def test_values_are_brought_into_the_form_of_their_field(kind, given, wanted):
    assert fit(kind, given) == wanted
    assert check_field(kind, wanted) is None


def _changed(folder: Path, file: str, change) -> Path:
    shutil.copytree(FOLDER, folder / "messages")
    path = folder / "messages" / file
    data = orjson.loads(path.read_bytes())
    change(data)
    path.write_bytes(orjson.dumps(data))
    return folder / "messages"


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("case.json", lambda d: d["events"].pop("case.accepted"), "case.json: case.accepted: text is missing"),
        ("case.json", lambda d: d["events"].update({"case.flew": d["events"]["case.accepted"]}), "case.flew: unknown event"),
        (
            "case.json",
            lambda d: d["events"]["case.denied"]["zh"].update(title="{nobody}"),
            "case.json: case.denied: zh.title: placeholder {nobody} is not known",
        ),
        (
            "case.json",
            lambda d: d["events"]["case.fee_due"]["zh"].update(short="请缴{amount_yuan}元"),
            "case.json: case.fee_due: zh.short: placeholder {amount_yuan} must not leave the hall",
        ),
        (
            "case.json",
            lambda d: d["events"]["case.accepted"].update(phrase="已经受理了呀"),
            "case.json: case.accepted: phrase: '已经受理了呀' does not fit",
        ),
        (
            "case.json",
            lambda d: d["events"]["case.accepted"]["zh"].update(hint="一" * 21),
            "case.json: case.accepted: zh.hint:",
        ),
        ("case.json", lambda d: d["events"]["case.accepted"]["en"].pop("body"), "case.json: events: case.accepted: en: body"),
        (
            "wechat_templates.json",
            lambda d: d[1]["fields"].update(character_string2="{number}"),
            "wechat_templates.json: 办理结果通知: fields.character_string2: a character_string field takes only {number_tail}",
        ),
        ("wechat_templates.json", lambda d: d[0]["fields"].update(phrase2="超过五个汉字了"), "fields.phrase2:"),
        ("wechat_templates.json", lambda d: d[0]["fields"].update(thing1="{reason}"), "must not leave the hall"),
        ("wechat_templates.json", lambda d: d[0].update(events=["case.flew"]), "case.flew is not known"),
        # A text that would not hold for any data, or says more than it may.
        ("case.json", lambda d: d["events"]["case.accepted"]["zh"].update(title="{reason}"), "case.json: case.accepted: zh.title: placeholder {reason} is not always there"),
        ("case.json", lambda d: d["events"]["case.accepted"]["en"]["body"].__setitem__(0, "By {deadline}."), "case.json: case.accepted: en.body[0]: placeholder {deadline} is not always there"),
        ("case.json", lambda d: d["events"]["case.accepted"]["zh"]["body"].__setitem__(1, "编号{numbr}。"), "case.json: case.accepted: zh.body[1]: placeholder {numbr} is not known"),
        ("case.json", lambda d: d["events"]["case.accepted"]["zh"]["body"].__setitem__(0, {"text": "好。", "when": "fee_paid"}), "case.json: case.accepted: zh.body[0].when: the first sentence always stands"),
        ("case.json", lambda d: d["events"]["case.accepted"]["zh"]["body"].append({"text": "好。", "when": "moon=full"}), "].when: condition 'moon=full' is not known"),
        ("case.json", lambda d: d["events"]["case.accepted"]["zh"]["body"].append({"text": "好。", "if": "x"}), "case.json: events: case.accepted: zh: body"),
        ("case.json", lambda d: d["events"]["case.accepted"]["zh"].update(short="您的{Item}已受理"), "case.json: case.accepted: zh.short: a brace that is not a placeholder"),
        ("case.json", lambda d: d["events"]["case.accepted"]["zh"].update(short="查询码{query_code}"), "zh.short: placeholder {query_code} must not leave the hall"),
        ("case.json", lambda d: d["events"]["case.accepted"]["en"].update(short="x" * 201), "case.json: events: case.accepted: en: short"),
        ("case.json", lambda d: d["events"]["case.accepted"].update(link="cases"), "case.json: events: case.accepted: link"),
        ("case.json", lambda d: d["events"]["case.accepted"].update(link="/cases/{number}"), "case.json: case.accepted: link: placeholder {number} is not always there"),
        # How it is told.
        ("case.json", lambda d: d["events"]["case.accepted"].update(channels=["pigeon"]), "case.json: events: case.accepted: channels"),
        ("case.json", lambda d: d["events"]["case.accepted"].update(lane="fast"), "case.json: events: case.accepted: lane"),
        ("case.json", lambda d: d["events"]["case.accepted"].update(lane="campaign"), "case.json: case.accepted: lane: a campaign can wait"),
        ("case.json", lambda d: d["events"]["case.accepted"].pop("zh"), "case.json: events: case.accepted: zh"),
        ("case.json", lambda d: d.update(kind="order"), "case.json: kind: want 'case'"),
        ("order.json", lambda d: d["events"].pop("order.paid"), "order.json: order.paid: text is missing"),
        # Templates of vendors: a field that could overflow, a name that would leave a hole, a page that opens nothing.
        ("wechat_templates.json", lambda d: d[0]["fields"].update(time3="{at}前"), "wechat_templates.json: 待办提醒: fields.time3: a time field takes only {at} alone"),
        ("wechat_templates.json", lambda d: d[0]["fields"].update(phrase2="{hint}"), "待办提醒: fields.phrase2: a phrase field takes only {phrase} alone"),
        ("wechat_templates.json", lambda d: d[0]["fields"].update(thing9="一" * 21), "待办提醒: fields.thing9:"),
        ("wechat_templates.json", lambda d: d[0]["fields"].update(thing1="{Item}"), "待办提醒: fields.thing1: a brace that is not a placeholder"),
        ("wechat_templates.json", lambda d: d[0]["fields"].update(money5="{phrase}"), "待办提醒: fields.money5: kind 'money' is not known"),
        ("wechat_templates.json", lambda d: d[0]["fields"].update(thing="{hint}"), "待办提醒: fields.thing: kind 'thing' is not known"),
        ("wechat_templates.json", lambda d: d[0].update(page="pages/case?id={case}"), "待办提醒: page: placeholder {case} is not known"),
        ("wechat_templates.json", lambda d: d[0].update(page="pages/" + "x" * 130), "待办提醒: page: longer than 128"),
        ("wechat_templates.json", lambda d: d[0].update(page="/pages/case"), "wechat_templates.json: 0: page"),
        ("wechat_templates.json", lambda d: d[1].update(template_id=d[0]["template_id"]), "template_id: used twice"),
        ("wechat_templates.json", lambda d: d[0].pop("long_term"), "wechat_templates.json: 0: long_term"),
        ("wechat_official_templates.json", lambda d: d[0]["fields"].update(thing4="{reason}"), "wechat_official_templates.json: 待办事项提醒: fields.thing4: placeholder {reason} must not leave"),
        ("wechat_official_templates.json", lambda d: d[0]["fields"].update(character_string2="{number}"), "待办事项提醒: fields.character_string2: a character_string field takes only"),
        ("wechat_official_templates.json", lambda d: d[0].update(events=[]), "wechat_official_templates.json: 0: events"),
        ("alipay_templates.json", lambda d: d[0]["fields"].update({f"keyword{n}": "{hint}" for n in range(1, 9)}), "alipay_templates.json: 待办提醒: fields: could come to"),
        ("alipay_templates.json", lambda d: d[0]["fields"].update({f"keyword{n}": "{hint}" for n in range(1, 6)}), "alipay_templates.json: 待办提醒: fields: could come to"),
        ("alipay_templates.json", lambda d: d[0]["fields"].update(keyword1="{amount_yuan}"), "alipay_templates.json: 待办提醒: fields.keyword1: placeholder {amount_yuan} must not leave"),
    ],
)
def test_a_wrong_text_stops_the_start_and_is_named(tmp_path, file, change, says):
    with pytest.raises(TemplatesError, match=re.escape(says)):
        load_templates(_changed(tmp_path, file, change))


@pytest.mark.parametrize("file", ["case.json", "wechat_templates.json", "wechat_official_templates.json", "alipay_templates.json"])
@pytest.mark.parametrize("content", [None, b"{", b'"text"', b"\xff"], ids=["missing", "broken", "no object", "no text"])
def test_a_file_that_cannot_be_read_stops_the_start_and_is_named(tmp_path, file, content):
    shutil.copytree(FOLDER, tmp_path / "messages")
    path = tmp_path / "messages" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(TemplatesError, match=re.escape(f"messages: {file}: ")):
        load_templates(tmp_path / "messages")


def test_every_mistake_is_told_at_once(tmp_path):
    folder = _changed(tmp_path, "case.json", lambda d: (d["events"].pop("case.denied"), d["events"]["case.accepted"].update(phrase="ok")))
    (folder / "order.json").write_bytes(b"{")
    with pytest.raises(TemplatesError) as wrong:
        load_templates(folder)
    lines = str(wrong.value).splitlines()
    assert len(lines) >= 3 and all(line.startswith("messages: ") for line in lines)
    assert any("case.denied" in line for line in lines) and any("phrase" in line for line in lines) and any("order.json" in line for line in lines)


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]"])
def test_samples_of_every_kind_are_there_or_the_start_stops(tmp_path, content):
    (tmp_path / "samples.json").write_bytes(content)
    with pytest.raises(TemplatesError, match="messages: samples.json: "):
        load_samples(tmp_path / "samples.json")


def test_a_fee_that_falls_due_is_told_with_amount_basis_and_payee(templates):
    start = draft(item(), (Fee("a", "工本费", 4000, "on_application", "发改价格规〔2019〕1931号"),))
    moved = steps.submit(start.case, start.item, start.fees, {}, CALENDAR, start.now)
    body = templates.render(next(event for event in moved.events if event.name == "case.fee_due"), "zh").body

    assert all(said in body for said in ("40.00元", "由某局收取", "收费依据：发改价格规〔2019〕1931号"))
