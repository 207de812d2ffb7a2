"""WeChat Pay API v3 as pure functions: what is signed, how messages are checked and opened, what the client SDK takes.

Data in, data out: clock, keys and random text are passed in. Facts: pay.weixin.qq.com documents 4012365334 to 4012365341 (signing),
4013053420 (verifying), 4013053249 (notifications).
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.platforms import rsa

SIGNATURE_TYPE = "WECHATPAY2-SHA256-RSA2048"
RESOURCE_ALGORITHM = "AEAD_AES_256_GCM"
WINDOW_S = 300
_PROBE = "WECHATPAY/SIGNTEST/"


class MessageRefused(Exception):
    """An answer or notification that does not prove to be WeChat Pay's. `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownSerial(MessageRefused):
    """Signed with a key we do not hold; never tried with "the only key we have"."""

    def __init__(self) -> None:
        super().__init__("unknown_serial")


class SignatureProbe(MessageRefused):
    """WeChat Pay's own wrong signature, sent to see whether we check: refused like any other, but no alarm."""

    def __init__(self) -> None:
        super().__init__("probe")


# --- requests ---


def request_text(method: str, url: str, timestamp: int, nonce: str, body: bytes) -> bytes:
    """Return the five signed lines. Of the URL its path and query count, exactly as they are sent."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{method}\n{target}\n{timestamp}\n{nonce}\n".encode() + body + b"\n"


def sign_request(key: RSAPrivateKey, method: str, url: str, timestamp: int, nonce: str, body: bytes = b"") -> str:
    """Return the base64 signature of a request under the merchant's key."""
    return rsa.sign(key, request_text(method, url, timestamp, nonce, body))


def authorization(
    key: RSAPrivateKey,
    *,
    mch_id: str,
    serial: str,
    method: str,
    url: str,
    body: bytes,
    timestamp: int,
    nonce: str,
) -> str:
    """Return the Authorization header of a request."""
    signature = sign_request(key, method, url, timestamp, nonce, body)
    return (
        f'{SIGNATURE_TYPE} mchid="{mch_id}",nonce_str="{nonce}",timestamp="{timestamp}",'
        f'serial_no="{serial}",signature="{signature}"'
    )


# --- answers and notifications ---


def verify_message(
    headers: Mapping[str, str], body: bytes, keys: Mapping[str, RSAPublicKey], now: datetime
) -> None:
    """Check that WeChat Pay sent these bytes within the last five minutes.

    Args:
        headers: as received; names in any case.
        keys: exact `Wechatpay-Serial` -> key.
        now: the moment of arrival.

    Raises:
        MessageRefused (UnknownSerial, SignatureProbe).
    """
    found = {name.lower(): value for name, value in headers.items()}
    timestamp, nonce, signature, serial = (
        found.get(f"wechatpay-{name}", "") for name in ("timestamp", "nonce", "signature", "serial")
    )
    if not (timestamp and nonce and signature and serial):
        raise MessageRefused("headers_missing")
    if found.get("wechatpay-signature-type", SIGNATURE_TYPE) != SIGNATURE_TYPE:
        raise MessageRefused("signature_type")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise MessageRefused("timestamp")
    if abs(now.timestamp() - int(timestamp)) >= WINDOW_S:
        raise MessageRefused("outside_window")
    if signature.startswith(_PROBE):
        raise SignatureProbe
    key = keys.get(serial)
    if key is None:
        raise UnknownSerial
    # A nonce is ASCII; whatever else a header can hold must fail the check, not the encoding.
    message = f"{timestamp}\n{nonce}\n".encode(errors="surrogateescape") + body + b"\n"
    if not rsa.is_signed(key, message, signature):
        raise MessageRefused("signature")


def decrypt_resource(resource: Mapping[str, Any], api_v3_key: str) -> bytes:
    """Open the encrypted part of a notification or certificate; the tag is checked.

    Raises:
        MessageRefused: another algorithm, a damaged or forged text.
        ValueError: our APIv3 key is not 32 characters long.
    """
    if len(api_v3_key) != 32:
        raise ValueError("the APIv3 key must be exactly 32 characters")
    if resource.get("algorithm") != RESOURCE_ALGORITHM:
        raise MessageRefused("algorithm")
    ciphertext, nonce = resource.get("ciphertext"), resource.get("nonce")
    associated_data = resource.get("associated_data") or ""  # may be absent or empty: then no bytes
    if not all(isinstance(text, str) for text in (ciphertext, nonce, associated_data)):
        raise MessageRefused("resource")
    return open_sealed(api_v3_key.encode(), str(nonce), str(associated_data), str(ciphertext))


def open_sealed(key: bytes, nonce: str, associated_data: str, ciphertext: str) -> bytes:
    """Decrypt AES-GCM with the 16-byte tag at the end of the base64 ciphertext. Raises MessageRefused."""
    try:
        sealed = base64.b64decode(ciphertext, validate=True)
        return AESGCM(key).decrypt(nonce.encode(), sealed, associated_data.encode())
    except (InvalidTag, binascii.Error, ValueError) as error:
        raise MessageRefused("decryption") from error


def open_notification(body: bytes, api_v3_key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (envelope, content) of a notification whose signature has been checked. Raises MessageRefused."""
    try:
        envelope = orjson.loads(body)
        content = orjson.loads(decrypt_resource(envelope["resource"], api_v3_key))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise MessageRefused("content") from error
    if not isinstance(envelope, dict) or not isinstance(content, dict):
        raise MessageRefused("content")
    return envelope, content


# --- abnormal refunds ---


def abnormal_refund(
    out_refund_no: str, *, key: RSAPublicKey | None = None, bank: str = "", account: str = "", holder: str = ""
) -> bytes:
    """Return the body of `POST /v3/refund/domestic/refunds/{refund_id}/apply-abnormal-refund`.

    Args:
        key: WeChat Pay's, named by `Wechatpay-Serial` of the same request; needed for a payer's card only.
        bank, account, holder: the payer's own card: WeChat Pay's word for the bank (`ICBC_DEBIT`), number and name, both sealed.
            Without an account the money goes to the merchant's card, and from there to the payer by other means.

    Raises:
        ValueError: an account without its bank, holder or key.
    """
    if not account:
        return orjson.dumps({"out_refund_no": out_refund_no, "type": "MERCHANT_BANK_CARD"})
    if key is None or not bank or not holder:
        raise ValueError("a payer's card needs its bank, its holder and a key to seal them with")
    sealed = {"bank_account": rsa.seal(key, account), "real_name": rsa.seal(key, holder)}
    return orjson.dumps({"out_refund_no": out_refund_no, "type": "USER_BANK_CARD", "bank_type": bank, **sealed})


# --- what the client SDK takes ---


def pay_params(
    scene: str, *, app_id: str, mch_id: str = "", prepay_id: str, key: RSAPrivateKey, timestamp: int, nonce: str
) -> dict[str, str]:
    """Return the object for the client of a scene, signed with the merchant's key.

    mini_program: exactly what wx.requestPayment takes; the app id is in the signed text but not in the object.
    jsapi: the same with `appId`, for the WeChat browser. app: what the open SDK's PayReq takes; it alone needs `mch_id`.
    Raises KeyError for a scene that has no such object (h5 and native have an address instead).
    """
    build = _CLIENT_OBJECTS[scene]
    return build(app_id, mch_id, prepay_id, key, str(timestamp), nonce)


def h5_address(h5_url: str, return_url: str) -> str:
    """Return the address of the H5 cashier that leads back to `return_url` afterwards; coming back proves nothing."""
    if not return_url:
        return h5_url
    return f"{h5_url}{'&' if '?' in h5_url else '?'}redirect_url={quote(return_url, safe='')}"


def _mini_program(
    app_id: str, mch_id: str, prepay_id: str, key: RSAPrivateKey, timestamp: str, nonce: str
) -> dict[str, str]:
    package = f"prepay_id={prepay_id}"
    return {
        "timeStamp": timestamp,
        "nonceStr": nonce,
        "package": package,
        "signType": "RSA",
        "paySign": _signed(key, app_id, timestamp, nonce, package),
    }


def _jsapi(app_id: str, mch_id: str, prepay_id: str, key: RSAPrivateKey, timestamp: str, nonce: str) -> dict[str, str]:
    return {"appId": app_id, **_mini_program(app_id, mch_id, prepay_id, key, timestamp, nonce)}


def _app(app_id: str, mch_id: str, prepay_id: str, key: RSAPrivateKey, timestamp: str, nonce: str) -> dict[str, str]:
    return {
        "appid": app_id,
        "partnerid": mch_id,
        "prepayid": prepay_id,
        "package": "Sign=WXPay",
        "noncestr": nonce,
        "timestamp": timestamp,
        "sign": _signed(key, app_id, timestamp, nonce, prepay_id),  # the bare prepay_id, not the package
    }


def _signed(key: RSAPrivateKey, *lines: str) -> str:
    return rsa.sign(key, "".join(f"{line}\n" for line in lines).encode())


_CLIENT_OBJECTS = {"mini_program": _mini_program, "jsapi": _jsapi, "app": _app}
