"""A wrong catalogue file is told whole: file, row, field, what is wanted; all mistakes at once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.catalogue.load import CatalogueBroken, load_catalogue
from tests.app.catalogue.conftest import FOLDER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in FOLDER.glob("*.json"):
        shutil.copy2(path, tmp_path)
    return tmp_path


def change(folder: Path, file: str, part: str, index: int, edit: Any) -> None:
    data = json.loads((folder / file).read_text(encoding="utf-8"))
    edit(data[part][index])
    (folder / file).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def mistakes(folder: Path) -> list[str]:
    with pytest.raises(CatalogueBroken) as caught:
        load_catalogue(folder)
    return caught.value.mistakes


def test_the_catalogue_of_the_house_is_whole(catalogue):
    assert len(catalogue.items) == 100
    assert {item["service_kind"] for item in catalogue.items} == {"handle", "check", "pay"}
    assert len(catalogue.divisions) == 123
    assert len(catalogue.knowledge) == 62


def test_every_pay_item_has_its_kinds_and_every_check_item_too(catalogue):
    for item in catalogue.items:
        assert bool(item["check_kinds"]) == (item["service_kind"] == "check"), item["alias"]
        if item["service_kind"] == "pay":
            assert item["pay_kinds"], item["alias"]


def test_all_mistakes_are_told_at_once_with_file_item_and_field(folder):
    change(folder, "items.json", "items", 0, lambda item: item.pop("summary"))
    change(folder, "items.json", "items", 1, lambda item: item.update(visits="none", colour="red"))
    change(folder, "items.json", "items", 2, lambda item: item["materials"][0].update(required="sometimes"))
    change(folder, "agencies.json", "agencies", 0, lambda agency: agency.update(uscc="123"))
    told = mistakes(folder)
    for start in (
        "items.json: biz_individual_open: summary: Missing data",
        "items.json: biz_company_open: visits: Not a valid integer",
        "items.json: biz_company_open: colour: Unknown field",
        "items.json: biz_change: materials.0.required:",
        "agencies.json: sg-zsj: uscc:",
    ):
        assert any(line.startswith(start) for line in told), (start, told)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda item: item.update(agency="sg-nobody"), "agency: 'sg-nobody' is not known"),
        (lambda item: item["co_agencies"].append("sg-nobody"), "co_agencies: 'sg-nobody' is not known"),
        (lambda item: item["materials"][1].update(licence="LIC-NONE"), "materials.licence: 'LIC-NONE' is not known"),
        (lambda item: item["result"].update(licence="LIC-NONE"), "result.licence: 'LIC-NONE' is not known"),
        (lambda item: item["materials"][2].update(when={"colour": ["red"]}), "the item has no such situation"),
        (lambda item: item["materials"][2].update(when={"premises": ["castle"]}), "'castle' is no option of it"),
        (lambda item: item["form"][0].update(prefill="licence:LIC-BIZ.colour"), "LIC-BIZ has no field 'colour'"),
        (lambda item: item["form"][0].update(show_when={"colour": ["red"]}), "the form has no such field"),
        (lambda item: item["form"].append(item["form"][0]), "form.trade_name: used twice"),
        (lambda item: item.update(promised_limit={"days": 9, "unit": "working"}), "9 days are more than the 3 of the law"),
        (lambda item: item.update(base_code="440131901999"), "is not the end of code"),
        (lambda item: item.update(pay_kinds=["bribe"]), "pay_kinds: 'bribe' is not known"),
        (lambda item: item.update(check_kinds=["rumour"]), "check_kinds: 'rumour' is not known"),
        (lambda item: item["form"][0].update(max="tomorrow"), "form.0.max: want a whole number or today"),
        (
            lambda item: item["fees"].append(
                {"key": "extra", "name": "手续费", "amount_fen": 100, "unit": "", "basis": "", "payer": "applicant",
                 "when_paid": "on_application", "when": None, "certainty": "known", "notes": ""}
            ),
            "fees.extra.basis: a fee needs one",
        ),
        (lambda item: item["materials"][2].update(when={"agent": ["yes"]}), None),
        (lambda item: item.update(promised_limit={"days": 9, "unit": "calendar"}), None),  # other units are not compared
    ],
)
def test_references_and_limits_are_checked(folder, edit, said):
    change(folder, "items.json", "items", 0, edit)
    if said is None:
        assert load_catalogue(folder)
    else:
        assert any(line.startswith("items.json: biz_individual_open: ") and said in line for line in mistakes(folder))


def test_codes_and_aliases_are_used_once(folder):
    data = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    data["items"][1] |= {"code": data["items"][0]["code"], "base_code": data["items"][0]["base_code"]}
    (folder / "items.json").write_text(json.dumps(data), encoding="utf-8")
    assert any("biz_company_open: code: also used by biz_individual_open" in line for line in mistakes(folder))
    data["items"][2]["alias"] = data["items"][0]["alias"]
    (folder / "items.json").write_text(json.dumps(data), encoding="utf-8")
    assert any("biz_individual_open: alias: used twice" in line for line in mistakes(folder))


@pytest.mark.parametrize(
    ("file", "part", "edit", "said"),
    [
        ("kb.json", "entries", lambda row: row.update(items=["nothing"]), "kb.json: KB001: items: 'nothing'"),
        ("kb.json", "entries", lambda row: row.update(owner="sg-nobody"), "kb.json: KB001: owner:"),
        ("bundles.json", "bundles", lambda row: row["items"][0].update(alias="nothing"), "bundles.json: newborn: items:"),
        ("licences.json", "licences", lambda row: row.update(issuer="sg-nobody"), "licences.json: LIC-IDCARD: issuer:"),
        ("divisions.json", "divisions", lambda row: row.update(code="x"), "divisions.json: x: code:"),
        ("check_kinds.json", "kinds", lambda row: row.update(source="x"), "check_kinds.json: case_progress: source:"),
        ("bill_kinds.json", "kinds", lambda row: row["lookup"][0].update(keys=["x"]), "bill_kinds.json: traffic_fine: lookup:"),
        ("notices.json", "notices", lambda row: row.update(item="x"), "notices.json: medins-2027: item:"),
    ],
)
def test_every_file_is_judged(folder, file, part, edit, said):
    change(folder, file, part, 0, edit)
    assert any(line.startswith(said) for line in mistakes(folder))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"items": 5}', '{"items": [5]}', '{"items": [], "more": 1}'])
def test_a_file_that_is_no_catalogue_is_named(folder, content):
    (folder / "items.json").write_text(content, encoding="utf-8")
    assert any(line.startswith(("items.json", "kb.json")) for line in mistakes(folder))


def test_a_missing_file_is_named(folder):
    (folder / "synonyms.json").unlink()
    assert any(line.startswith("synonyms.json") for line in mistakes(folder))
