"""Keys as operators have them: PEM or bare base64, PKCS#1 or PKCS#8, with any line ends."""

import base64

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as make_rsa

from app.platforms import rsa

KEY = make_rsa(65537, 2048)


def _private(encoding, form):
    return KEY.private_bytes(encoding, form, s.NoEncryption())


@pytest.mark.parametrize("form", [s.PrivateFormat.PKCS8, s.PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("dress", ["pem", "crlf", "escaped", "indented", "bare", "bare_lines"])
def test_private_keys(form, dress):
    pem, der = _private(s.Encoding.PEM, form).decode(), _private(s.Encoding.DER, form)
    bare = base64.b64encode(der).decode()
    text = {
        "pem": pem,
        "crlf": pem.replace("\n", "\r\n"),
        "escaped": pem.replace("\n", "\\n"),
        "indented": "  " + pem.replace("\n", "\n  "),
        "bare": bare,
        "bare_lines": "\r\n".join(bare[i : i + 64] for i in range(0, len(bare), 64)),
    }[dress]
    assert rsa.load_private_key(text).private_numbers() == KEY.private_numbers()


def test_public_keys():
    public = KEY.public_key()
    spki = public.public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo)
    pem = public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo).decode()
    for text in (pem, pem.replace("\n", "\r\n"), base64.b64encode(spki).decode()):
        assert rsa.load_public_key(text).public_numbers() == public.public_numbers()


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----", "AAAA"])
def test_unreadable_keys_never_show_their_text(text):
    for load in (rsa.load_private_key, rsa.load_public_key):
        with pytest.raises(rsa.KeyUnreadable) as caught:
            load(text)
        assert not text or text not in str(caught.value)


def test_other_kinds_of_keys_are_refused():
    elliptic = generate_private_key(SECP256R1())
    with pytest.raises(rsa.KeyUnreadable):
        rsa.load_private_key(elliptic.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode())


def test_signature():
    signature = rsa.sign(KEY, b"text")
    assert rsa.is_signed(KEY.public_key(), b"text", signature)
    assert not rsa.is_signed(KEY.public_key(), b"texT", signature)
    assert not rsa.is_signed(KEY.public_key(), b"text", signature + "!")
    assert not rsa.is_signed(KEY.public_key(), b"text", "")
