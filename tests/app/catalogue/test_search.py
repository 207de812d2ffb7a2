"""What residents type, and what must come first."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

QUERIES = [
    ("身份证丢了怎么办", "id_card_lost"),
    ("身份证丢了", "id_card_lost"),
    ("我的身份证不见了，在哪补", "id_card_lost"),
    ("sfz丢失", "id_card_lost"),
    ("sfz", "id_card_lost"),
    ("shenfenzheng", "id_card_lost"),
    ("shen fen zheng", "id_card_lost"),
    ("补办身份证", "id_card_lost"),
    ("身份证", "id_card_lost"),
    ("身分证丢了", "id_card_lost"),  # a homophone
    ("shenfenzhen", "id_card_lost"),  # a letter short
    ("身份证到期", "id_card_renew"),
    ("换身份证要带什么", "id_card_renew"),
    ("身份证快过期了", "id_card_renew"),
    ("公司注销", "biz_cancel_simple"),
    ("罚单", "traffic_violation"),
    ("领养老金", "retirement"),
    ("生了孩子", "birth_register"),
    ("车子年审", "inspection_mark"),
    ("户口本丢了", "hukou_replace"),
    ("住院报销", "medins_reimburse"),
    ("临时身份证", "id_card_temp"),
    ("驾照换证", "driver_renew"),
    ("驾照到期", "driver_renew"),
    ("换驾照", "driver_renew"),
    ("驾照", "driver_renew"),
    ("jiazhao", "driver_renew"),
    ("驾驶证丢了", "driver_lost"),
    ("年检", "inspection_mark"),
    ("新车上牌", "vehicle_register"),
    ("二手车过户", "vehicle_transfer"),
    ("车牌丢了", "plate_lost"),
    ("罚款", "traffic_violation"),
    ("违章", "traffic_violation"),
    ("交通违法罚款怎么交", "traffic_violation"),
    ("决定书编号", "traffic_violation"),
    ("营业执照", "biz_individual_open"),
    ("我要开店", "biz_individual_open"),
    ("办营业执照需要什么材料", "biz_individual_open"),
    ("我想注册公司", "biz_company_open"),
    ("开饭店", "food_licence"),
    ("孩子上学", "school_enrol"),
    ("小学报名", "school_enrol"),
    ("孩子转学", "school_transfer"),
    ("个税", "tax_paid_cert"),
    ("契税", "housing_transfer_tax"),
    ("护照", "passport"),
    ("在哪办护照", "passport"),
    ("港澳通行证", "hkm_permit"),
    ("签注", "hkm_endorse"),
    ("结婚", "marriage"),
    ("离婚", "divorce"),
    ("二胎", "birth_register"),
    ("育儿补贴", "childcare_subsidy"),
    ("上户口", "hukou_birth"),
    ("居住证", "residence_permit"),
    ("异地就医", "medins_offsite"),
    ("外地看病", "medins_offsite"),
    ("社保卡", "sscard_apply"),
    ("失业金", "unemployment_benefit"),
    ("退休", "retirement"),
    ("gongjijin", "gjj_rent"),
    ("租房提取公积金", "gjj_rent"),
    ("公积金余额", "gjj_query"),
    ("房产证", "realty_transfer"),
    ("低保", "dibao"),
    ("残疾证", "disabled_card"),
    ("公租房", "public_rental"),
    ("无犯罪记录证明", "no_crime_cert"),
    ("交水费", "water_bill"),
    ("网约车", "ridehail_driver"),
    ("怎么查办件进度", "case_query"),
    ("ＳＦＺ丢失", "id_card_lost"),  # full-width letters
    ("  身份证  丢了  ", "id_card_lost"),
    ("rcep", "customs_origin"),
]


def found(snapshot, query, kind="item"):
    return [hit.entry.ref for hit in snapshot.search_index.search(query) if hit.entry.kind == kind]


@pytest.mark.parametrize(("query", "first"), QUERIES)
def test_what_residents_type_finds_first_what_they_mean(snapshot, query, first):
    assert found(snapshot, query)[:1] == [first]


@pytest.mark.parametrize(
    ("query", "among"),
    [
        ("社保", {"ss_query", "flex_pay", "sscard_apply", "insured_cert"}),
        ("医保", {"medins_resident_pay", "medins_query", "medins_offsite"}),
        ("gongjijin", {"gjj_rent", "gjj_mortgage", "gjj_retire", "gjj_query"}),
        ("shebao", {"sscard_apply", "insured_cert"}),
        ("sb", {"sscard_apply"}),
        ("过户", {"realty_transfer", "vehicle_transfer"}),
        ("水", {"water_bill", "water_open"}),
        ("营业执照", {"biz_company_open"}),
        ("公积金", {"gjj_rent", "gjj_query", "gjj_mortgage", "gjj_retire"}),
    ],
)
def test_broad_words_find_all_that_they_can_mean(snapshot, query, among):
    assert among <= set(found(snapshot, query))


@pytest.mark.parametrize("query", ["", "   ", "？！", "xyzzy", "a", "🙂", "\x00", "()[]*?\\\"'"])
def test_what_means_nothing_finds_no_item_and_breaks_nothing(snapshot, query):
    assert found(snapshot, query) == []


def test_a_long_question_is_cut_and_still_answered(snapshot):
    assert found(snapshot, "我的身份证丢了" + "请问" * 500)[:1] == ["id_card_lost"]


def test_knowledge_and_agencies_are_found_too(snapshot):
    assert found(snapshot, "工作日怎么算", "knowledge")[:1] == ["KB008"]
    assert "sg-gjj" in found(snapshot, "公积金中心", "agency")


def test_a_query_is_quick(snapshot):
    began = time.perf_counter()
    for query, _first in QUERIES:
        snapshot.search_index.search(query)
    assert (time.perf_counter() - began) / len(QUERIES) < 0.02


@pytest.mark.parametrize(
    ("typed", "completion"),
    [
        ("身份证", "身份证丢了"),
        ("sfz", "身份证丢了"),
        ("shenf", "身份证丢了"),
        ("公积", "公积金余额"),
        ("gjj", "公积金提取"),
        ("驾", "驾照到期"),
        ("huz", "护照"),
    ],
)
def test_completions_by_characters_pinyin_and_initials(snapshot, typed, completion):
    texts = [row["text"] for row in snapshot.suggest(typed)]
    assert completion in texts
    assert len(texts) == len(set(texts)) <= 10


def test_completions_of_nothing_are_none(snapshot):
    assert snapshot.suggest("") == snapshot.suggest("zzzz") == []


def test_highlight_marks_words_and_their_synonyms_and_escapes_the_rest(snapshot):
    mark = snapshot.search_index.highlight
    assert mark("身份证丢了怎么办", "居民身份证丢失补领") == "<em>居民身份证丢失</em>补领"
    assert mark("<b>", "a<b>c & d") == "a&lt;b&gt;c &amp; d"
    assert mark("", "身份证") == "身份证"


@given(st.text(max_size=80) | st.text("身份证丢了补办驾照社保sfzabc123 ？", max_size=70))
@settings(max_examples=150, deadline=None)
def test_nothing_that_is_typed_breaks_it(snapshot, typed):
    found = snapshot.search(typed)
    assert all(row["score"] > 0 for row in found["items"])
    assert len(snapshot.suggest(typed)) <= 10
