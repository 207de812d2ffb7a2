"""How WeChat Pay signs and encrypts what it sends: answers and notifications (reference: API v3, 1.3 and 1.6)."""

from __future__ import annotations

import secrets
import string
from base64 import b64encode

from sandbox import certificates
from sandbox.base import Sandbox, compact, rfc3339_china
from sandbox.credentials import Credentials
from sandbox.signing import gcm_seal, rsa_sign
from sandbox.store import Notice

SIGNATURE_TYPE = "WECHATPAY2-SHA256-RSA2048"
_ALPHANUMERIC = string.ascii_letters + string.digits


def nonce(length: int = 32) -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))


def signature_headers(
    sandbox: Sandbox, body: bytes, key_id: str, now: float, *, forged: bool = False
) -> dict[str, str]:
    """Sign `body` with the key named by `key_id` (public-key id or certificate serial).

    A forged one looks like the probes the real WeChat Pay sends to see whether a merchant checks at all.
    """
    timestamp, nonce_str = str(int(now)), nonce()
    message = f"{timestamp}\n{nonce_str}\n".encode() + body + b"\n"
    signer = certificates.platform_signer(sandbox, key_id)
    signature = rsa_sign(signer.private_key if signer else sandbox.credentials.wechatpay_private_key, message)
    if forged:
        signature = "WECHATPAY/SIGNTEST/" + b64encode(secrets.token_bytes(240)).decode()
    return {
        "Wechatpay-Timestamp": timestamp,
        "Wechatpay-Nonce": nonce_str,
        "Wechatpay-Signature": signature,
        "Wechatpay-Serial": key_id,
        "Wechatpay-Signature-Type": SIGNATURE_TYPE,
    }


def encrypt_resource(credentials: Credentials, plaintext: bytes, associated_data: str) -> dict[str, str]:
    nonce_str = nonce(12)
    return {
        "algorithm": "AEAD_AES_256_GCM",
        "ciphertext": gcm_seal(credentials.wechatpay_api_v3_key, nonce_str, associated_data, plaintext),
        "associated_data": associated_data,
        "nonce": nonce_str,
    }


def _key_id(sandbox: Sandbox, notice: Notice) -> str:
    """Return the key a delivery is signed with: as the order was asked for, unless a change of keys is under way."""
    signers = certificates.platform_signers(sandbox)
    wish = sandbox.store.get("notice_key", "wechatpay") or ""
    if wish == "certificate" or (wish == "mixed" and notice.attempts % 2 == 0):
        return signers[-1].serial
    if wish in ("public_key", "mixed"):
        return sandbox.credentials.wechatpay_public_key_id
    # A certificate that is gone signs nothing any more; its successor does.
    is_known = notice.key_id == sandbox.credentials.wechatpay_public_key_id or certificates.platform_signer(sandbox, notice.key_id)
    return notice.key_id if is_known else signers[-1].serial


def build(
    sandbox: Sandbox, notice: Notice, *, forged: bool = False, unsigned: bool = False
) -> tuple[dict[str, str], bytes]:
    """Return headers and body of one delivery; every delivery is encrypted and signed afresh, its `id` stays."""
    credentials, now = sandbox.credentials, sandbox.clock()
    original_type = notice.content["original_type"]
    resource = encrypt_resource(credentials, compact(notice.content["resource"]), original_type)
    body = compact(
        {
            "id": notice.notice_id,
            "create_time": rfc3339_china(notice.content["created_at"]),
            "resource_type": "encrypt-resource",
            "event_type": notice.kind,
            "summary": notice.content["summary"],
            "resource": {"original_type": original_type} | resource,
        }
    )
    headers = signature_headers(sandbox, body, _key_id(sandbox, notice), now, forged=forged)
    if unsigned:
        headers = {}
    return headers | {
        "Content-Type": "application/json",
        "Accept": "*/*",
        "User-Agent": "Mozilla/4.0",
        "Request-ID": f"{nonce(24).upper()}-0",
    }, body
