"""Alipay's gateway protocol 1.0, as pure functions: what is signed, how, and how an answer or a notice is checked.

Data in, data out: no network, no clock, no settings. Facts: open.alipay.com, "签名" and "异步通知" pages; where they are silent the
behaviour of the official Node SDK.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509 import oid

from app.kernel.clock import SHANGHAI
from app.platforms import rsa
from app.platforms.certificates import pem_blocks

_RSA_SIGNATURES = "1.2.840.113549.1.1."
# The names in which Alipay writes an issuer; others do not occur in its certificates.
_NAME_PARTS = {
    oid.NameOID.COMMON_NAME: "CN",
    oid.NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    oid.NameOID.ORGANIZATION_NAME: "O",
    oid.NameOID.LOCALITY_NAME: "L",
    oid.NameOID.STATE_OR_PROVINCE_NAME: "ST",
    oid.NameOID.COUNTRY_NAME: "C",
}


class Unreadable(ValueError):
    """This is no answer or notice of Alipay's; what was asked for may have happened all the same."""


class UnknownCertificate(Unreadable):
    """Signed with a certificate we do not hold; `serial` is its name, to be fetched and tried against our root."""

    def __init__(self, serial: str) -> None:
        super().__init__("signed with a certificate we do not know")
        self.serial = serial


# --- requests ---


def signing_text(params: Mapping[str, str]) -> str:
    """Return the text a request is signed over: everything but `sign`, empty ones left out, sorted, raw values."""
    return "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "sign" and params[name] != "")


def build_request(
    method: str,
    *,
    app_id: str,
    key: RSAPrivateKey,
    now: datetime,
    biz_content: Mapping[str, Any] | None = None,
    app_cert_sn: str = "",
    root_cert_sn: str = "",
    **top_level: str,
) -> dict[str, str]:
    """Return all parameters of a call, signed.

    Args:
        now: aware; written in China time, whatever zone this machine has.
        biz_content: becomes one JSON text.
        top_level: parameters beside biz_content (`notify_url`, `grant_type` ...); empty ones are left out.
    """
    params = {
        "app_id": app_id,
        "method": method,
        "format": "JSON",
        "charset": "utf-8",
        "sign_type": "RSA2",
        "timestamp": now.astimezone(SHANGHAI).strftime("%Y-%m-%d %H:%M:%S"),
        "version": "1.0",
        "app_cert_sn": app_cert_sn,
        "alipay_root_cert_sn": root_cert_sn,
        **top_level,
    }
    if biz_content is not None:
        params["biz_content"] = orjson.dumps(biz_content).decode()
    params = {name: value for name, value in params.items() if value != ""}
    return params | {"sign": rsa.sign(key, signing_text(params).encode())}


def order_string(method: str, **request: Any) -> str:
    """Return the signed, URL-encoded parameter text that the app's SDK takes (alipay.trade.app.pay), no call needed."""
    return urlencode(build_request(method, **request))


def encode_form(params: Mapping[str, str]) -> bytes:
    return urlencode(params).encode()


# --- answers ---


@dataclass(frozen=True)
class Answer:
    """What a call gave. `is_signed`: Alipay's signature over exactly these bytes holds; without it nothing is proven."""

    content: Mapping[str, Any]
    is_error: bool  # came as error_response: refused before it was routed
    is_signed: bool

    def text(self, name: str) -> str:
        value = self.content.get(name)
        return value if isinstance(value, str) else ""


def members(raw: bytes) -> dict[str, bytes]:
    """Return the members of a JSON object as raw bytes, each exactly as it was sent.

    Strings and their escapes are stepped over as such, so braces, quotes and the word "sign" inside a value change nothing.

    Raises:
        Unreadable: not an object, broken off, something behind it, or a repeated name.
    """
    found: dict[str, bytes] = {}
    at = _expect(raw, _skip_blank(raw, 0), b"{")
    at = _skip_blank(raw, at)
    while raw[at : at + 1] != b"}":
        if found:
            at = _skip_blank(raw, _expect(raw, at, b","))
        end = _skip_string(raw, at)
        try:
            name = orjson.loads(raw[at:end])
        except orjson.JSONDecodeError as error:
            raise Unreadable("a name that is no JSON string") from error
        begin = _skip_blank(raw, _expect(raw, _skip_blank(raw, end), b":"))
        at = _skip_value(raw, begin)
        if name in found:
            raise Unreadable(f"{name!r} comes twice")
        found[name] = raw[begin:at]
        at = _skip_blank(raw, at)
    if raw[at + 1 :].strip():
        raise Unreadable("something follows the answer")
    return found


def signed_part(raw: bytes, key: str) -> bytes:
    """Return the bytes Alipay signed: the value of `key` at the top of an answer. Raises Unreadable."""
    try:
        return members(raw)[key]
    except KeyError as error:
        raise Unreadable(f"no {key} in the answer") from error


def verify_answer(raw: bytes, method: str, keys: Mapping[str, RSAPublicKey]) -> Answer:
    """Cut the answer of `method` out of what came, check its signature and read it.

    Args:
        keys: certificate serial -> key; in key mode the one key under the empty text.

    Raises:
        UnknownCertificate: in certificate mode only.
        Unreadable: no such answer in it, or a signature that does not fit. A missing signature does not raise: the caller
            decides what an unsigned answer is worth (`is_signed`).
    """
    parts = members(raw)
    name = method.replace(".", "_") + "_response"
    is_error = name not in parts
    part = parts.get("error_response") if is_error else parts[name]
    if part is None:
        raise Unreadable(f"neither {name} nor error_response")
    sign, cert_sn = _text(parts.get("sign")), _text(parts.get("alipay_cert_sn"))
    if sign:
        # In key mode a serial has nothing to name; in certificate mode the exact one is demanded, never "the only key we have".
        key = keys.get("") or keys.get(cert_sn)
        if key is None:
            raise UnknownCertificate(cert_sn)
        if not rsa.is_signed(key, part, sign):
            raise Unreadable("the signature of the answer does not fit")
    try:
        content = orjson.loads(part)
    except orjson.JSONDecodeError as error:
        raise Unreadable("the answer is no JSON") from error
    if not isinstance(content, dict):
        raise Unreadable("the answer is no object")
    return Answer(content, is_error=is_error, is_signed=bool(sign))


def _text(raw: bytes | None) -> str:
    try:
        value = orjson.loads(raw) if raw else ""
    except orjson.JSONDecodeError as error:
        raise Unreadable("the signature is no text") from error
    return value if isinstance(value, str) else ""


def _skip_blank(raw: bytes, at: int) -> int:
    while raw[at : at + 1] in (b" ", b"\t", b"\r", b"\n"):
        at += 1
    return at


def _expect(raw: bytes, at: int, what: bytes) -> int:
    if raw[at : at + 1] != what:
        raise Unreadable(f"no {what.decode()} at byte {at}")
    return at + 1


def _skip_string(raw: bytes, at: int) -> int:
    at = _expect(raw, at, b'"')
    while True:
        if at >= len(raw):
            raise Unreadable("a string that does not end")
        if raw[at] == 0x5C:  # backslash: the next byte is never the end. UTF-8 has no 0x5C or 0x22 inside a character.
            at += 2
        elif raw[at] == 0x22:
            return at + 1
        else:
            at += 1


def _skip_value(raw: bytes, at: int) -> int:
    first = raw[at : at + 1]
    if first == b'"':
        return _skip_string(raw, at)
    if first not in (b"{", b"["):
        end = at
        while raw[end : end + 1] not in (b",", b"}", b"]", b"", b" ", b"\t", b"\r", b"\n"):
            end += 1
        if end == at:
            raise Unreadable(f"no value at byte {at}")
        return end
    depth = 0
    while at < len(raw):
        byte = raw[at : at + 1]
        if byte == b'"':
            at = _skip_string(raw, at)
            continue
        depth += (byte in (b"{", b"[")) - (byte in (b"}", b"]"))
        at += 1
        if depth == 0:
            return at
    raise Unreadable("a value that does not end")


# --- asynchronous notifications ---


def read_form(body: bytes) -> dict[str, str]:
    """Return the fields of a notice, percent-decoded once and otherwise untouched, empty ones kept.

    Raises:
        Unreadable: not a form in UTF-8, or a repeated name (one of the two would escape the check).
    """
    try:
        pairs = parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, errors="strict", strict_parsing=False, max_num_fields=200
        )
    except ValueError as error:
        raise Unreadable("the notice is no form") from error
    form = dict(pairs)
    if len(form) != len(pairs):
        raise Unreadable("a field comes twice")
    return form


def verify_notification(form: Mapping[str, str], keys: Sequence[RSAPublicKey]) -> bool:
    """Say whether Alipay signed this notice. The form is not changed.

    Signed text: all fields but `sign` and `sign_type`, sorted, `k=v` joined by `&`, empty values kept.
    """
    if form.get("sign_type", "RSA2") != "RSA2":
        return False
    names = sorted(name for name in form if name not in ("sign", "sign_type"))
    text = "&".join(f"{name}={form[name]}" for name in names).encode()
    return any(rsa.is_signed(key, text, form.get("sign", "")) for key in keys)


# --- certificates ---


def certificate_sn(pem: str) -> str:
    """Return the serial by which Alipay names a certificate: MD5 hex of issuer (reversed) and decimal serial."""
    blocks = pem_blocks(pem)
    if not blocks:
        raise Unreadable("no certificate in the text")
    return serial_of(x509.load_pem_x509_certificate(blocks[0]))


def root_certificate_sn(pem: str) -> str:
    """Return the serials of the RSA-signed certificates of a root bundle, joined by `_`.

    The bundle holds certificates of other algorithms, and one that `cryptography` refuses (NULL in ECDSA parameters): those are
    skipped, one by one.

    Raises:
        Unreadable: nothing remains; better no start than an empty serial.
    """
    found = []
    for block in pem_blocks(pem):
        try:
            certificate = x509.load_pem_x509_certificate(block)
            if certificate.signature_algorithm_oid.dotted_string.startswith(_RSA_SIGNATURES):
                found.append(serial_of(certificate))
        except ValueError:
            continue
    if not found:
        raise Unreadable("no RSA certificate in the root bundle")
    return "_".join(found)


def serial_of(certificate: x509.Certificate) -> str:
    """Return Alipay's name of a certificate; see certificate_sn. Raises KeyError for an issuer with other name parts."""
    issuer = ",".join(f"{_NAME_PARTS[part.oid]}={part.value}" for part in reversed(list(certificate.issuer)))
    # MD5 here is a name, not a protection: Alipay defined it so.
    return hashlib.md5(f"{issuer}{certificate.serial_number}".encode(), usedforsecurity=False).hexdigest()


# --- sealed content (phone number) ---


def open_content(ciphertext: str, aes_key: str) -> bytes:
    """Decrypt what Alipay sealed for this app: AES-128-CBC, zero IV, PKCS#7, everything base64. Raises Unreadable."""
    try:
        decryptor = Cipher(algorithms.AES128(base64.b64decode(aes_key)), modes.CBC(bytes(16))).decryptor()
        padded = decryptor.update(base64.b64decode(ciphertext, validate=True)) + decryptor.finalize()
        unpadder = padding.PKCS7(128).unpadder()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise Unreadable("the content cannot be decrypted") from error
