"""The preview shows every event on every channel in every language with what really goes out; the samples leave no sentence unsaid for want of data."""

import pytest

from push.model import CHANNELS, EVENTS, LANGUAGES
from push.preview import FULL, LEAST, LONG, SAMPLES, MessageNotFound, Preview, parts_of
from push.templates import load_templates
from sandbox.wechat_template import is_allowed

ALL = [name for names in EVENTS.values() for name in names]


@pytest.fixture(scope="module")
def preview() -> Preview:
    return Preview(load_templates(), "https://hall.example")


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("event", ALL)
def test_every_event_is_shown_in_every_language_on_every_channel(preview: Preview, event: str, sample: str):
    found = preview.of(event, sample)
    assert set(found["languages"]) == set(LANGUAGES) and set(found["channels"]) <= set(CHANNELS)
    for language, one in found["languages"].items():
        assert set(one["shown"]) == {"inbox", *found["channels"]}
        assert one["shown"]["inbox"]["title"] and one["shown"]["inbox"]["body"]
        said = [row["said"] for row in one["sentences"] if row["said"] is not None]
        assert "\n".join(said) == one["shown"]["inbox"]["body"], "what is explained is what is said"
        for row in one["sentences"]:
            assert (row["said"] is None) == (not row["holds"] or bool(row["missing"])), row
        for channel in {"wechat", "official"} & set(one["shown"]):
            for template in one["shown"][channel]["templates"]:
                for field in template["fields"]:
                    assert is_allowed(field["field"], {"value": field["value"]}), (language, field)
                    assert field["limit"] is None or field["length"] <= field["limit"]


@pytest.mark.parametrize("event", ALL)
def test_the_full_sample_brings_everything_that_a_sentence_names(preview: Preview, event: str):
    for language, one in preview.of(event, FULL)["languages"].items():
        missing = [row for row in one["sentences"] if row["holds"] and row["missing"]]
        assert not missing, (language, missing)


def test_no_text_of_ours_needs_a_look(preview: Preview):
    """A channel that a message file names has a template for the event, and nothing of the sample is cut."""
    assert [(row["event"], row["remarks"]) for row in preview.overview if row["remarks"]] == []
    assert [row["event"] for row in preview.overview] == ALL


def test_what_is_missing_and_what_is_cut_is_pointed_out(preview: Preview):
    least = preview.of("case.supplement_requested", LEAST)["languages"]["zh"]["sentences"]
    assert any("missing_lines" in row["missing"] and row["said"] is None for row in least)
    (template,) = preview.of("case.accepted", LONG)["languages"]["zh"]["shown"]["wechat"]["templates"]
    thing = next(field for field in template["fields"] if field["from"] == "{item_name}")
    assert thing["is_cut"] and thing["length"] == thing["limit"] == 20 and thing["value"].endswith("…")


def test_a_channel_without_a_template_is_pointed_out():
    templates = load_templates()
    poor = Preview(type(templates)(templates.specs, templates.wechat[1:], templates.alipay, ()), "https://hall.example")
    remarks = {row["event"]: row["remarks"] for row in poor.overview}
    assert "微信订阅消息没有对应的模板，这个渠道发不出去" in remarks["case.fee_due"]
    assert "公众号没有对应的模板，这个渠道发不出去" in remarks["case.accepted"] and remarks["case.fee_paid"] == []


def test_an_unknown_event_is_not_found(preview: Preview):
    with pytest.raises(MessageNotFound):
        preview.of("case.flew")


@pytest.mark.parametrize(("length", "parts"), [(1, 1), (70, 1), (71, 2), (134, 2), (135, 3), (200, 3)])
def test_parts_of_a_text_message(length: int, parts: int):
    assert parts_of("字" * length) == parts
