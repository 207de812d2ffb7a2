"""The Alipay gateway protocol against what Alipay really signed, and against python-alipay-sdk as a second opinion."""

import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest
from alipay import AliPay
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from app.platforms import alipay_protocol as protocol
from app.platforms import rsa

FOLDER = Path(__file__).parent / "vectors"
VECTORS = json.loads((FOLDER / "alipay.json").read_text())
ROOT = (FOLDER / "alipay_root.crt").read_text()
KEY = generate_private_key(65537, 2048)
PUBLIC = KEY.public_key()
NOON = datetime(2026, 11, 2, 2, 0, tzinfo=UTC)

ORACLE = AliPay(
    appid="2021000000000000",
    app_notify_url=None,
    app_private_key_string=KEY.private_bytes(
        s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption()
    ).decode(),
    alipay_public_key_string=PUBLIC.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo).decode(),
    sign_type="RSA2",
)

TEXT = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
NASTY = st.one_of(TEXT, st.sampled_from(['{', '}', '"sign":"x"', '\\"}', 'a"b', "\\", '","sign":"', "}}]]", "\u2028", "😀"]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), NASTY),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NASTY, inner, max_size=4)),
    max_leaves=15,
)


# --- requests ---


def test_signed_text_of_the_documents():
    params = protocol.build_request(
        "alipay.trade.query",
        app_id="2021000000000000",
        key=KEY,
        now=NOON,
        biz_content={"out_trade_no": "pay_01KB", "query_options": ["fund_bill_list"]},
        notify_url="",
    )
    assert protocol.signing_text(params) == (
        'app_id=2021000000000000&biz_content={"out_trade_no":"pay_01KB","query_options":["fund_bill_list"]}'
        "&charset=utf-8&format=JSON&method=alipay.trade.query&sign_type=RSA2&timestamp=2026-11-02 10:00:00&version=1.0"
    )
    assert "notify_url" not in params


@given(subject=NASTY, url=st.sampled_from(["", "https://hall.example.gov.cn/callbacks/alipay"]))
def test_the_sdk_signs_alike(subject, url):
    params = protocol.build_request(
        "alipay.trade.create", app_id="1", key=KEY, now=NOON, biz_content={"subject": subject}, notify_url=url
    )
    unsigned = {name: value for name, value in params.items() if name != "sign"}
    assert ORACLE._sign("&".join(f"{k}={v}" for k, v in sorted(unsigned.items()))) == params["sign"]
    # What is sent decodes back to what was signed.
    assert dict(parse_qsl(protocol.encode_form(params).decode(), keep_blank_values=True)) == params


def test_order_string_is_the_signed_request_encoded():
    text = protocol.order_string(
        "alipay.trade.app.pay", app_id="1", key=KEY, now=NOON, biz_content={"subject": "补领 & 工本费"}
    )
    params = dict(parse_qsl(text))
    assert rsa.is_signed(PUBLIC, protocol.signing_text(params).encode(), params["sign"])


# --- answers ---


def test_an_answer_alipay_signed():
    vector = VECTORS["answer"]
    keys = {"": rsa.load_public_key(vector["public_key"])}
    answer = protocol.verify_answer(vector["raw"].encode(), vector["method"], keys)
    assert answer.is_signed and not answer.is_error and answer.text("code") == "10000"
    damaged = vector["raw"].replace('"10000"', '"10001"').encode()
    with pytest.raises(protocol.Unreadable):
        protocol.verify_answer(damaged, vector["method"], keys)


@given(content=st.dictionaries(NASTY, JSON, max_size=6), ascii_only=st.booleans(), blank=st.sampled_from(["", " ", "\r\n\t"]))
def test_cut_out_finds_exactly_the_signed_bytes(content, ascii_only, blank):
    part = json.dumps(content, ensure_ascii=ascii_only, indent=2 if blank else None).replace("/", "\\/").encode()
    space = blank.encode()
    sign = rsa.sign(KEY, part)
    raw = b"{" + space + b'"alipay_trade_query_response"' + space + b":" + space + part + space + b"," + space
    raw += b'"alipay_cert_sn":"","sign":"' + sign.encode() + b'"' + space + b"}" + space
    assert protocol.signed_part(raw, "alipay_trade_query_response") == part
    answer = protocol.verify_answer(raw, "alipay.trade.query", {"": PUBLIC})
    assert answer.content == content and answer.is_signed


@given(raw=st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode()[:-1])))
def test_garbage_is_refused_and_nothing_else(raw):
    with pytest.raises(protocol.Unreadable):
        protocol.verify_answer(raw, "alipay.trade.query", {"": PUBLIC})


@pytest.mark.parametrize(
    "raw",
    [
        b'{"alipay_trade_query_response":{"code":"10000"},"sign":"AAAA"}',
        b'{"alipay_trade_query_response":{"code":"10000"},"sign":"AAAA","sign":"BBBB"}',
        b'{"alipay_trade_query_response":{"code":"10000"},"alipay_trade_query_response":{}}',
        b'{"other_response":{"code":"10000"}}',
        b'{"alipay_trade_query_response":"text"}',
        b'{"alipay_trade_query_response":{"code":"10000"}} {}',
    ],
)
def test_forged_and_ambiguous_answers(raw):
    with pytest.raises(protocol.Unreadable):
        protocol.verify_answer(raw, "alipay.trade.query", {"": PUBLIC})


def test_an_unsigned_error_is_told_apart():
    raw = b'{"error_response":{"code":"20000","sub_code":"isp.unknow-error"}}'
    answer = protocol.verify_answer(raw, "alipay.trade.query", {"": PUBLIC})
    assert answer.is_error and not answer.is_signed


def test_certificate_mode_wants_the_exact_serial():
    part = b'{"code":"10000"}'
    raw = b'{"a_b_response":' + part + b',"alipay_cert_sn":"sn1","sign":"' + rsa.sign(KEY, part).encode() + b'"}'
    assert protocol.verify_answer(raw, "a.b", {"sn1": PUBLIC}).is_signed
    with pytest.raises(protocol.Unreadable, match="certificate"):
        protocol.verify_answer(raw, "a.b", {"sn2": PUBLIC})


# --- notifications ---


def test_a_notification_alipay_signed():
    vector = VECTORS["notification"]
    key = rsa.load_public_key(vector["public_key"])
    form = protocol.read_form(urlencode(vector["form"]).encode())
    assert form == vector["form"]
    assert protocol.verify_notification(form, [PUBLIC, key])
    assert form == vector["form"]  # not changed by the check
    assert not protocol.verify_notification(form | {"total_amount": "0.02"}, [key])
    assert not protocol.verify_notification(form | {"body": ""}, [key])
    assert not protocol.verify_notification({k: v for k, v in form.items() if k != "sign"}, [key])
    assert not protocol.verify_notification(form | {"sign_type": "RSA"}, [key])


@given(
    fields=st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), NASTY, max_size=8).map(
        lambda fields: {k: v for k, v in fields.items() if k not in ("sign", "sign_type")}
    )
)
def test_notification_text_keeps_blanks_empty_values_and_signs(fields):
    text = "&".join(f"{name}={fields[name]}" for name in sorted(fields))
    form = fields | {"sign_type": "RSA2", "sign": rsa.sign(KEY, text.encode())}
    received = protocol.read_form(urlencode(form).encode())
    assert received == form
    assert protocol.verify_notification(received, [PUBLIC])
    signature = received.pop("sign")  # the oracle changes the form it is given
    assert ORACLE.verify(dict(received), signature)


@pytest.mark.parametrize("body", [b"a=1&a=2", b"a=%FF", b"\xff=1", b"&".join(b"f%d=1" % i for i in range(300))])
def test_ambiguous_forms_are_refused(body):
    with pytest.raises(protocol.Unreadable):
        protocol.read_form(body)


# --- certificates ---


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\\n"])
def test_serials_alipay_published(line_end):
    vector = VECTORS["app_certificate"]
    assert protocol.certificate_sn(vector["pem"].replace("\n", line_end)) == vector["sn"]
    assert protocol.root_certificate_sn(ROOT.replace("\n", line_end)) == VECTORS["root_certificates_sn"]
    without_blank_lines = "\n".join(line for line in ROOT.split("\n") if line).replace("\n", line_end)
    assert protocol.root_certificate_sn(without_blank_lines) == VECTORS["root_certificates_sn"]


def test_a_bundle_without_rsa_is_refused():
    for text in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", ROOT[: ROOT.index("MIIF0")]):
        with pytest.raises(protocol.Unreadable):
            protocol.root_certificate_sn(text)
