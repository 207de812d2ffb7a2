"""The key ring: field encryption, blind indexes, keyed codes and token signing keys, all derived from one secret per key id.

A ring is text: `k2:<base64url of 32 bytes>,k1:<...>`. The first key seals; every key opens, so a key is rotated by putting
a new one in front. Blind indexes and token verification use all keys, the first one writes.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12
_TAG_BYTES = 16


class SealBroken(ValueError):
    """A sealed field cannot be opened: wrong key ring, wrong context, or changed bytes."""


def make_key_ring() -> str:
    """Return the text of a new ring with one key."""
    return "k1:" + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _derive(secret: bytes, purpose: str, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt=None, info=purpose.encode()).derive(secret)


def _sm4_seal(key: bytes, nonce: bytes, text: bytes, context: bytes) -> bytes:
    # cryptography has no AEAD class for SM4; GCM through Cipher leaves nonce and tag to us (RFC 8998).
    encryptor = Cipher(algorithms.SM4(key), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(context)
    return encryptor.update(text) + encryptor.finalize() + encryptor.tag


def _sm4_open(key: bytes, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
    decryptor = Cipher(algorithms.SM4(key), modes.GCM(nonce, sealed[-_TAG_BYTES:])).decryptor()
    decryptor.authenticate_additional_data(context)
    return decryptor.update(sealed[:-_TAG_BYTES]) + decryptor.finalize()


def _aes_seal(key: bytes, nonce: bytes, text: bytes, context: bytes) -> bytes:
    return AESGCM(key).encrypt(nonce, text, context)


def _aes_open(key: bytes, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
    return AESGCM(key).decrypt(nonce, sealed, context)


Transform = Callable[[bytes, bytes, bytes, bytes], bytes]
# Setting -> short name in the sealed text, key length in bytes, seal, open.
_CIPHERS: dict[str, tuple[str, int, Transform, Transform]] = {
    "sm4-gcm": ("s4", 16, _sm4_seal, _sm4_open),
    "aes-256-gcm": ("a2", 32, _aes_seal, _aes_open),
}
_BY_SHORT = {short: name for name, (short, *_rest) in _CIPHERS.items()}


@dataclass(frozen=True, repr=False)
class KeyRing:
    """Keys by id, the first one current. `repr` shows no secret."""

    secrets: dict[str, bytes]
    cipher: str = "sm4-gcm"

    @classmethod
    def from_text(cls, text: str, cipher: str = "sm4-gcm") -> "KeyRing":
        """Read `kid:base64url,...`. Raises ValueError for an empty ring, a double id or a secret that is not 32 bytes."""
        ring: dict[str, bytes] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            kid, _, secret_text = part.partition(":")
            secret = _unpadded(secret_text)
            if not kid.isalnum() or kid in ring or len(secret) != 32:
                raise ValueError(f"key {kid!r}: want id:base64url of 32 bytes, each id once")
            ring[kid] = secret
        if not ring:
            raise ValueError("the key ring is empty")
        if cipher not in _CIPHERS:
            raise ValueError(f"cipher {cipher!r}: want one of {', '.join(_CIPHERS)}")
        return cls(ring, cipher)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_derived", {})
        object.__setattr__(self, "_verifying", {})

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self.secrets)}; {self.cipher})"

    @property
    def current(self) -> str:
        return next(iter(self.secrets))

    def key(self, kid: str, purpose: str, length: int = 32) -> bytes:
        """Return the key derived from secret `kid` for one purpose (HKDF-SHA256). Raises KeyError for an unknown id."""
        cache: dict[tuple[str, str], bytes] = self._derived  # type: ignore[attr-defined]
        if (kid, purpose) not in cache:
            cache[kid, purpose] = _derive(self.secrets[kid], purpose, length)
        return cache[kid, purpose]

    def seal(self, text: str, *, context: str) -> str:
        """Encrypt a field; `context` (record id and field name) is bound in, so that sealed text cannot be moved."""
        short, length, seal, _open = _CIPHERS[self.cipher]
        key = self.key(self.current, f"field.{short}", length)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + seal(key, nonce, text.encode(), context.encode())
        return f"{self.current}.{short}.{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def open_sealed(self, token: str, *, context: str) -> str:
        """Decrypt a field sealed by any key of the ring. Raises SealBroken."""
        try:
            kid, short, body = token.split(".")
            _short, length, _seal, open_ = _CIPHERS[_BY_SHORT[short]]
            raw = _unpadded(body)
            key = self.key(kid, f"field.{short}", length)
            return open_(key, raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode()).decode()
        except (ValueError, KeyError, InvalidTag) as error:
            raise SealBroken(context) from error

    def seal_bytes(self, content: bytes, *, context: str) -> bytes:
        """Encrypt a file; `context` as in seal. CPU work (docs/operations.md says how much): call it in a thread.

        Layout: `<key id>.<cipher>` in ASCII, a newline, nonce, ciphertext, tag.
        """
        short, length, seal, _open = _CIPHERS[self.cipher]
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = seal(self.key(self.current, f"file.{short}", length), nonce, content, context.encode())
        return b"".join((f"{self.current}.{short}\n".encode(), nonce, sealed))

    def open_bytes(self, sealed: bytes, *, context: str) -> bytes:
        """Decrypt a file sealed by any key of the ring. Raises SealBroken."""
        try:
            head = sealed[:80].partition(b"\n")[0]
            kid, short = head.decode().split(".")
            _short, length, _seal, open_ = _CIPHERS[_BY_SHORT[short]]
            begin = len(head) + 1 + _NONCE_BYTES
            key = self.key(kid, f"file.{short}", length)
            return open_(key, sealed[len(head) + 1 : begin], sealed[begin:], context.encode())
        except (ValueError, KeyError, InvalidTag) as error:
            raise SealBroken(context) from error

    def blind_indexes(self, value: str, *, purpose: str) -> list[str]:
        """Return the keyed hashes (HMAC-SM3) under which a value may be stored, the current key's first."""
        return [_hmac_sm3(self.key(kid, f"index.{purpose}"), value) for kid in self.secrets]

    def blind_index(self, value: str, *, purpose: str) -> str:
        """Return the keyed hash under the current key: equal values find each other, nobody reads them back."""
        return _hmac_sm3(self.key(self.current, f"index.{purpose}"), value)

    def code_hash(self, value: str, *, purpose: str) -> str:
        """Return a keyed hash of a short-lived code, bound to its purpose."""
        return hmac.new(self.key(self.current, f"code.{purpose}"), value.encode(), hashlib.sha256).hexdigest()

    def signing_key(self, kid: str) -> Ed25519PrivateKey:
        """Return the token signing key of one key id."""
        return Ed25519PrivateKey.from_private_bytes(self.key(kid, "token.ed25519"))

    def verifying_key(self, kid: str) -> Ed25519PublicKey:
        """Return what tokens of one key id are verified with; made once, which costs as much as verifying."""
        made: dict[str, Ed25519PublicKey] = self._verifying  # type: ignore[attr-defined]
        if kid not in made:
            made[kid] = self.signing_key(kid).public_key()
        return made[kid]


def _hmac_sm3(key: bytes, value: str) -> str:
    mac = HMAC(key, hashes.SM3())
    mac.update(value.encode())
    return mac.finalize().hex()
