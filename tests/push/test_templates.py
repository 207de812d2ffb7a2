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
    ],
)
def test_a_wrong_text_stops_the_start_and_is_named(tmp_path, file, change, says):
    with pytest.raises(TemplatesError, match=re.escape(says)):
        load_templates(_changed(tmp_path, file, change))


def test_a_fee_that_falls_due_is_told_with_amount_basis_and_payee(templates):
    start = draft(item(), (Fee("a", "工本费", 4000, "on_application", "发改价格规〔2019〕1931号"),))
    moved = steps.submit(start.case, start.item, start.fees, {}, CALENDAR, start.now)
    body = templates.render(next(event for event in moved.events if event.name == "case.fee_due"), "zh").body

    assert all(said in body for said in ("40.00元", "由某局收取", "收费依据：发改价格规〔2019〕1931号"))
