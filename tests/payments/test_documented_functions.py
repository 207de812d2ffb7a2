"""Every function that docs/payments.md names is there, says what it takes and gives, and takes plain values."""

import importlib
import inspect
import io
import re
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import orjson
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.platforms import alipay_protocol as alipay
from app.platforms import certificates, rsa
from config.settings import ROOT
from payments import bill
from payments.providers import alipay_accounts, alipay_bills, wechatpay_bills, wechatpay_funds
from payments.providers import wechatpay_v3 as wechat
from tests.payments.providers.test_merchant import certificate_of

TEXT = (ROOT / "docs" / "payments.md").read_text("utf-8").partition("## The pure functions")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", TEXT, re.MULTILINE)
NAMED = [(module, name) for module, cell in ROWS for name in re.findall(r"`([A-Za-z_]+)(?:\([^`]*\))?`", cell) if name != "BillRefused"]

NOW = datetime(2026, 11, 2, 2, 0, tzinfo=UTC)
STAMP = str(int(NOW.timestamp()))
KEY = generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
PUBLIC = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
).decode()
API_V3_KEY = "k" * 32


def test_the_table_is_read():
    assert len(NAMED) > 35 and ("app.platforms.rsa", "sign") in NAMED


@pytest.mark.parametrize(("module", "name"), NAMED)
def test_it_is_there_and_says_what_it_takes(module, name):
    found = getattr(importlib.import_module(module), name)
    if name.isupper():  # a table
        assert found
        return
    assert inspect.getdoc(found)
    if inspect.isfunction(found):
        signature = inspect.signature(found)
        assert signature.return_annotation is not signature.empty
        assert all(each.annotation is not each.empty for each in signature.parameters.values())


def test_rsa_with_plain_values():
    private, public = rsa.load_private_key(PEM), rsa.load_public_key(PUBLIC)
    assert rsa.is_signed(public, b"text", rsa.sign(private, b"text"))
    assert rsa.unseal(private, rsa.seal(public, "张三")) == "张三"


def test_wechat_pay_with_plain_values():
    body = b'{"mchid":"1900000001"}'
    signature = wechat.sign_request(KEY, "POST", "https://host/v3/x?a=1", 1790000000, "n", body)
    assert rsa.is_signed(KEY.public_key(), b"POST\n/v3/x?a=1\n1790000000\nn\n" + body + b"\n", signature)
    header = wechat.authorization(
        KEY, mch_id="1900000001", serial="7" * 40, method="POST", url="https://host/v3/x?a=1", body=body,
        timestamp=1790000000, nonce="n",
    )  # fmt: skip
    assert header.startswith('WECHATPAY2-SHA256-RSA2048 mchid="1900000001",') and f'signature="{signature}"' in header

    sealed = AESGCM(API_V3_KEY.encode()).encrypt(b"123456789012", b'{"trade_state":"SUCCESS"}', b"transaction")
    resource = {
        "algorithm": "AEAD_AES_256_GCM", "nonce": "123456789012", "associated_data": "transaction",
        "ciphertext": b64encode(sealed).decode(),
    }  # fmt: skip
    assert orjson.loads(wechat.decrypt_resource(resource, API_V3_KEY)) == {"trade_state": "SUCCESS"}
    notice = orjson.dumps({"id": "1", "resource": resource})
    headers = {
        "Wechatpay-Timestamp": STAMP, "Wechatpay-Nonce": "n", "Wechatpay-Serial": "PUB_KEY_ID_1",
        "Wechatpay-Signature": rsa.sign(KEY, f"{STAMP}\nn\n".encode() + notice + b"\n"),
    }  # fmt: skip
    wechat.verify_message(headers, notice, {"PUB_KEY_ID_1": KEY.public_key()}, NOW)
    with pytest.raises(wechat.MessageRefused):
        wechat.verify_message(headers, notice + b" ", {"PUB_KEY_ID_1": KEY.public_key()}, NOW)
    assert wechat.open_notification(notice, API_V3_KEY)[1] == {"trade_state": "SUCCESS"}
    for scene in ("mini_program", "jsapi", "app"):
        assert wechat.pay_params(scene, app_id="wx", mch_id="19", prepay_id="p", key=KEY, timestamp=1, nonce="n")
    assert wechat.h5_address("https://wx?a=1", "https://hall/o?b=2") == "https://wx?a=1&redirect_url=https%3A%2F%2Fhall%2Fo%3Fb%3D2"
    assert orjson.loads(wechat.abnormal_refund("rfd_1"))["type"] == "MERCHANT_BANK_CARD"


def test_alipay_with_plain_values():
    content = {"out_trade_no": "pay_1"}
    request = alipay.build_request("alipay.trade.query", app_id="2021", key=KEY, now=NOW, biz_content=content)
    assert request["timestamp"] == "2026-11-02 10:00:00"
    assert rsa.is_signed(KEY.public_key(), alipay.signing_text(request).encode(), request["sign"])
    assert "biz_content=%7B" in alipay.order_string("alipay.trade.app.pay", app_id="2021", key=KEY, now=NOW, biz_content=content)
    part = b'{"code":"10000","subject":"}\\"{"}'
    raw = b'{"alipay_trade_query_response":' + part + b',"sign":"' + rsa.sign(KEY, part).encode() + b'"}'
    assert alipay.signed_part(raw, "alipay_trade_query_response") == part
    answer = alipay.verify_answer(raw, "alipay.trade.query", {"": KEY.public_key()})
    assert answer.is_signed and answer.content["code"] == "10000"
    sign = rsa.sign(KEY, b"a=&b=1 2")
    form = alipay.read_form(("b=1+2&a=&sign_type=RSA2&sign=" + quote(sign, safe="")).encode())
    assert alipay.verify_notification(form, [KEY.public_key()])
    padded = b"13800000000" + bytes([5]) * 5
    encryptor = Cipher(algorithms.AES128(b"k" * 16), modes.CBC(bytes(16))).encryptor()
    assert alipay.open_content(b64encode(encryptor.update(padded)).decode(), b64encode(b"k" * 16).decode()) == b"13800000000"


def test_certificates_with_plain_values():
    pem = certificate_of(KEY, "1", NOW - timedelta(days=1), NOW + timedelta(days=1))
    (one,) = certificates.read_certificates(pem)
    assert certificates.is_valid_at(one, NOW) and not certificates.is_valid_at(one, NOW + timedelta(days=1))
    assert not certificates.chains_to_root(one, [], [], NOW)
    assert one.signature_hash_algorithm.name == hashes.SHA256().name
    assert re.fullmatch("[0-9a-f]{32}", alipay.certificate_sn(pem)) and alipay.root_certificate_sn(pem) == alipay.certificate_sn(pem)


def test_bills_with_plain_values(tmp_path):
    assert (bill.fen("12.30"), bill.millifen("0.00135"), bill.exact("1.5", 1)) == (1230, 135, 15)
    with pytest.raises(bill.BillRefused):
        bill.fen("0.001")
    junk = tmp_path / "junk"
    junk.write_bytes(b"no bill")
    for read in (
        lambda: wechatpay_bills.read_bill(io.BytesIO(b"no bill")),
        lambda: wechatpay_bills.read_file(junk, is_gzip=False),
        lambda: wechatpay_bills.read_file(junk, is_gzip=True),
        lambda: wechatpay_funds.read_file(junk, is_gzip=False),
        lambda: alipay_bills.read_file(junk),
        lambda: alipay_bills.read_rows(io.BytesIO(b"no bill")),
        lambda: alipay_accounts.read_file(junk),
    ):
        with pytest.raises(bill.BillRefused):
            list(read())
