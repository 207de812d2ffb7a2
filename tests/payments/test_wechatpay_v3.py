"""The pure part of WeChat Pay against values its makers published, and against wechatpayv3 as a second opinion."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from wechatpayv3 import utils as oracle

from app.platforms import rsa
from payments.providers import wechatpay_v3 as v3

VECTORS = json.loads((Path(__file__).parent / "vectors" / "wechatpay.json").read_text())
KEY = rsa.load_private_key(VECTORS["merchant_key"])
PUBLIC = KEY.public_key()
NOTICE = VECTORS["notification"]
NOTICE_KEYS = {"D7CE59D1F522D701": rsa.load_public_key(NOTICE["certificate"])}
NOTICE_AT = datetime.fromtimestamp(1624523846, UTC)


@pytest.mark.parametrize("request_", VECTORS["requests"], ids=lambda row: row["target"][:40])
def test_request_signatures_of_the_documents(request_):
    url = f"https://api.mch.weixin.qq.com{request_['target']}"
    signature = v3.sign_request(
        KEY, request_["method"], url, VECTORS["timestamp"], VECTORS["nonce"], request_["body"].encode()
    )
    assert signature == request_["signature"]


def test_pay_sign_of_the_documents():
    vector = VECTORS["pay_sign"]
    params = v3.pay_params(
        "mini_program",
        app_id=vector["app_id"],
        prepay_id=vector["prepay_id"],
        key=KEY,
        timestamp=VECTORS["timestamp"],
        nonce=VECTORS["nonce"],
    )
    assert params == {
        "timeStamp": "1554208460",
        "nonceStr": VECTORS["nonce"],
        "package": f"prepay_id={vector['prepay_id']}",
        "signType": "RSA",
        "paySign": vector["signature"],
    }


def test_a_base_url_with_a_path_is_signed_with_it():
    text = v3.request_text("GET", "https://proxy.gov.example/wx/v3/x?a=%3D", 1, "n", b"")
    assert text == b"GET\n/wx/v3/x?a=%3D\n1\nn\n\n"


def test_answer_of_the_documents():
    vector = VECTORS["answer"]
    headers = {
        "Wechatpay-Timestamp": vector["timestamp"],
        "wechatpay-nonce": vector["nonce"],  # names in any case
        "Wechatpay-Signature": vector["signature"],
        "Wechatpay-Serial": "any",
    }
    now = datetime.fromtimestamp(int(vector["timestamp"]) + 299, UTC)
    v3.verify_message(headers, vector["body"].encode(), {"any": rsa.load_public_key(vector["public_key"])}, now)


def test_notification_of_the_go_sdk():
    v3.verify_message(NOTICE["headers"], NOTICE["body"].encode(), NOTICE_KEYS, NOTICE_AT)
    resource = json.loads(NOTICE["body"])["resource"]
    plain = v3.open_sealed(
        NOTICE["api_v3_key"].encode(), resource["nonce"], resource["associated_data"], resource["ciphertext"]
    )
    assert plain.decode() == NOTICE["plaintext"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Wechatpay-Serial": "D7CE59D1F522D702"}, "unknown_serial"),
        ({"Wechatpay-Serial": "d7ce59d1f522d701"}, "unknown_serial"),
        ({"Wechatpay-Timestamp": "1624523847"}, "signature"),
        ({"Wechatpay-Timestamp": "1624523846 "}, "timestamp"),
        ({"Wechatpay-Timestamp": ""}, "headers_missing"),
        ({"Wechatpay-Nonce": "other"}, "signature"),
        ({"Wechatpay-Signature": "WECHATPAY/SIGNTEST/AAAA"}, "probe"),
        ({"Wechatpay-Signature": "not base64!"}, "signature"),
        ({"Wechatpay-Signature-Type": "WECHATPAY2-SM2-WITH-SM3"}, "signature_type"),
    ],
)
def test_what_is_refused(change, reason):
    with pytest.raises(v3.MessageRefused) as caught:
        v3.verify_message(NOTICE["headers"] | change, NOTICE["body"].encode(), NOTICE_KEYS, NOTICE_AT)
    assert caught.value.reason == reason


@pytest.mark.parametrize("seconds", [-300, 300, 86400])
def test_the_window_is_five_minutes_both_ways(seconds):
    inside = datetime.fromtimestamp(1624523846 + (299 if seconds > 0 else -299), UTC)
    v3.verify_message(NOTICE["headers"], NOTICE["body"].encode(), NOTICE_KEYS, inside)
    with pytest.raises(v3.MessageRefused, match="outside_window"):
        outside = datetime.fromtimestamp(1624523846 + seconds, UTC)
        v3.verify_message(NOTICE["headers"], NOTICE["body"].encode(), NOTICE_KEYS, outside)


def test_aead_of_the_java_sdk():
    vector = VECTORS["aead"]
    resource = {"algorithm": "AEAD_AES_256_GCM", **vector}
    assert v3.decrypt_resource(resource, vector["api_v3_key"]).decode() == vector["plaintext"]
    flipped = bytearray(base64.b64decode(vector["ciphertext"]))
    flipped[0] ^= 1
    for damaged in (resource | {"ciphertext": base64.b64encode(flipped).decode()}, resource | {"associated_data": ""}):
        with pytest.raises(v3.MessageRefused, match="decryption"):
            v3.decrypt_resource(damaged, vector["api_v3_key"])
    with pytest.raises(v3.MessageRefused, match="algorithm"):
        v3.decrypt_resource(resource | {"algorithm": "AEAD_SM4_GCM"}, vector["api_v3_key"])
    with pytest.raises(ValueError, match="32"):
        v3.decrypt_resource(resource, vector["api_v3_key"][:16])


def test_aead_of_the_go_sdk():
    vector = VECTORS["aead_16_byte_key"]
    sealed = (vector["nonce"], vector["associated_data"], vector["ciphertext"])
    assert v3.open_sealed(vector["key"].encode(), *sealed).decode() == vector["plaintext"]
    for key, changed in (
        (b"testAPIv3Key1111", sealed),
        (b"not a aes key", sealed),
        (vector["key"].encode(), (*sealed[:2], "invalid cipher")),
        (vector["key"].encode(), (*sealed[:2], "SGVsbG8gV29ybGQK")),
    ):
        with pytest.raises(v3.MessageRefused, match="decryption"):
            v3.open_sealed(key, *changed)


def test_encrypted_certificate_of_the_java_sdk():
    vector = VECTORS["encrypted_certificate"]
    pem = v3.decrypt_resource(vector["encrypt_certificate"], VECTORS["aead"]["api_v3_key"])
    assert f"{x509.load_pem_x509_certificate(pem).serial_number:X}" == vector["serial_no"]


def test_missing_associated_data_counts_as_empty():
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = "k" * 32
    sealed = base64.b64encode(AESGCM(key.encode()).encrypt(b"123456789012", b"{}", b"")).decode()
    for extra in ({}, {"associated_data": ""}, {"associated_data": None}):
        resource = {"algorithm": "AEAD_AES_256_GCM", "nonce": "123456789012", "ciphertext": sealed, **extra}
        assert v3.decrypt_resource(resource, key) == b"{}"


@given(body=st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_wechatpayv3_verifies_what_we_sign(body):
    header = v3.authorization(
        KEY,
        mch_id="1900000001",
        serial="40HEX",
        method="POST",
        url="https://api.mch.weixin.qq.com/v3/pay/transactions/jsapi?x=1",
        body=body.encode(),
        timestamp=1790000000,
        nonce="5f3c",
    )
    kind, _, rest = header.partition(" ")
    parts = {name: value.strip('"') for name, value in (part.split("=", 1) for part in rest.split(","))}
    assert kind == "WECHATPAY2-SHA256-RSA2048"
    assert parts | {"signature": ""} == {
        "mchid": "1900000001",
        "nonce_str": "5f3c",
        "timestamp": "1790000000",
        "serial_no": "40HEX",
        "signature": "",
    }
    # The oracle's verifier takes three lines; the request's first two go into its "timestamp".
    head = "POST\n/v3/pay/transactions/jsapi?x=1\n1790000000"
    assert oracle.rsa_verify(head, "5f3c", body, parts["signature"], PUBLIC)


@given(body=st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_we_verify_what_wechatpayv3_signs(body):
    headers = {
        "Wechatpay-Timestamp": "1790000000",
        "Wechatpay-Nonce": "n0nce",
        "Wechatpay-Serial": "PUB_KEY_ID_1",
        "Wechatpay-Signature": oracle.rsa_sign(KEY, f"1790000000\nn0nce\n{body}\n"),
    }
    now = datetime.fromtimestamp(1790000000, UTC)
    v3.verify_message(headers, body.encode(), {"PUB_KEY_ID_1": PUBLIC}, now)
    with pytest.raises(v3.MessageRefused, match="signature"):
        v3.verify_message(headers, body.encode() + b" ", {"PUB_KEY_ID_1": PUBLIC}, now)
