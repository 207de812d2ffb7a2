"""The signature between the hall and department systems: who sent it, when, and that nothing of it was changed. Pure.

    X-Hall-App        whose secret it is
    X-Hall-Timestamp  epoch seconds; five minutes on either side are good
    X-Hall-Nonce      16 to 64 letters and digits, each once
    X-Hall-Signature  HMAC with SM3 or SHA-256 of the signed text, lower-case hex

The signed text is six lines joined by a newline, without one at the end: method, path, query, timestamp, nonce, digest of the body. The query is
sorted by name and value, each percent-encoded (RFC 3986, only letters, digits and -._~ stay) and joined as in an address. The digest is the
hex of SM3 or SHA-256, the one that the HMAC uses. docs/integration.md has an example that a test computes.
"""

import secrets
from datetime import datetime
from urllib.parse import parse_qsl, quote, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

_HASHES = {"hmac-sm3": hashes.SM3, "hmac-sha256": hashes.SHA256}
ALGORITHMS = tuple(_HASHES)


def signed_text(method: str, url: str, timestamp: str, nonce: str, body: bytes, algorithm: str) -> str:
    """Return what is signed. `url` may be whole or a path with query."""
    parts = urlsplit(url)
    pairs = sorted(parse_qsl(parts.query, keep_blank_values=True))
    query = "&".join(f"{quote(name, safe='-._~')}={quote(value, safe='-._~')}" for name, value in pairs)
    digest = hashes.Hash(_HASHES[algorithm]())
    digest.update(body)
    return "\n".join((method.upper(), parts.path or "/", query, timestamp, nonce, digest.finalize().hex()))


def signature(secret: str, text: str, algorithm: str) -> str:
    """Return the HMAC of a signed text in hex; the secret counts as the characters it is written in."""
    mac = HMAC(secret.encode(), _HASHES[algorithm]())
    mac.update(text.encode())
    return mac.finalize().hex()


def signed_headers(
    app: str, secret: str, method: str, url: str, body: bytes, algorithm: str, now: datetime, *, previous: str = ""
) -> dict[str, str]:
    """Return the headers of one request, with a nonce of its own.

    Args:
        previous: a secret that the receiver may still use; its signature goes along as X-Hall-Signature-Previous.
    """
    timestamp, nonce = str(int(now.timestamp())), secrets.token_hex(16)
    text = signed_text(method, url, timestamp, nonce, body, algorithm)
    headers = {
        "X-Hall-App": app,
        "X-Hall-Timestamp": timestamp,
        "X-Hall-Nonce": nonce,
        "X-Hall-Signature": signature(secret, text, algorithm),
    }
    return headers | ({"X-Hall-Signature-Previous": signature(previous, text, algorithm)} if previous else {})
