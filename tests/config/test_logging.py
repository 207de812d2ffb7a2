"""No number of a person and no secret stands in a log line, wherever it hides."""

import contextlib
import io
import json
import logging
import sys
from pathlib import Path

import pytest
import structlog

from config.logging import configure_logging, mask


def test_numbers_and_secrets_are_masked_everywhere():
    line = {
        "text": "电话13812345678，证号44020019000101001X，440203197002010004。",
        "url": "https://x/cgi?access_token=abc&openid=o1&code=123",
        "nested": [{"password": "p", "phone": "13812345678"}],
        "api_v3_key": "k",
    }
    assert mask(line) == {
        "text": "电话138****5678，证号440***********001X，440***********0004。",
        "url": "https://x/cgi?access_token=***&openid=o1&code=***",
        "nested": [{"password": "***", "phone": "138****5678"}],
        "api_v3_key": "***",
    }


def test_a_case_number_is_not_mistaken_for_a_person():
    number = "1144020099900002174440709904000202611240001"
    assert mask(number) == number


@pytest.fixture
def restored():
    """The logging of the test run comes back afterwards."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_that_cannot_be_written_costs_the_line_and_not_the_work(monkeypatch, restored):
    full = Path("/dev/full").open("w")  # noqa: SIM115 - refuses every byte, as a disk does that is full
    monkeypatch.setattr(sys, "stderr", full)
    configure_logging("info", "json", process="test")
    structlog.get_logger("test").info("payment.settled", attempt_id="pay_1")
    with contextlib.suppress(OSError):  # it still holds the line
        full.close()


def test_a_line_with_odd_values_is_written_all_the_same(monkeypatch, restored):
    sink = io.StringIO()
    monkeypatch.setattr(sys, "stderr", sink)
    configure_logging("info", "json", process="test")
    structlog.get_logger("test").info("odd", half="\ud83d", large=2**70, path=Path("/x"), 名="值")
    line = json.loads(sink.getvalue())
    assert (line["half"], line["large"], line["名"]) == ("\ud83d", 2**70, "值") and "/x" in line["path"]


def test_one_line_per_fact_with_what_belongs_to_it(monkeypatch, restored):
    sink = io.StringIO()
    monkeypatch.setattr(sys, "stderr", sink)
    configure_logging("info", "json", process="web", request_id=lambda: "req_1")
    log = structlog.get_logger("test")
    log.debug("not.told")
    log.info("payment.settled", phone="13812345678", late=False)
    logging.getLogger("library").warning("slow %s", 3)
    ours, theirs = (json.loads(line) for line in sink.getvalue().splitlines())
    assert ours | {"timestamp": ""} == {
        "event": "payment.settled", "level": "info", "process": "web", "request_id": "req_1", "phone": "138****5678", "late": False,
        "timestamp": "",
    }  # fmt: skip
    assert (theirs["event"], theirs["level"], theirs["process"]) == ("slow 3", "warning", "web")
