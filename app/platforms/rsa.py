"""RSA-2048 with SHA-256, PKCS#1 v1.5: WeChat Pay's WECHATPAY2-SHA256-RSA2048 and Alipay's RSA2 are the same thing.

Keys are read once into key objects (reading costs more than signing). They come as operators have them: PEM or bare base64, PKCS#1 or
PKCS#8, with LF, CRLF or `\\n` written out, because a settings file is copied by hand.
"""

import base64
import binascii
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

# What WeChat Pay defines for its sensitive fields; SHA-1 here is no signature.
_OAEP = OAEP(mgf=MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303


class KeyUnreadable(ValueError):
    """The text is no RSA key. The message never holds the text."""


@lru_cache(maxsize=8)  # judging one takes 50 ms
def load_private_key(text: str) -> RSAPrivateKey:
    """Read a private key. Raises KeyUnreadable."""
    try:
        if "-----BEGIN" in text:
            key = serialization.load_pem_private_key(_pem(text), password=None)
        else:
            key = serialization.load_der_private_key(_bare(text), password=None)  # PKCS#8 and PKCS#1 alike
    except (ValueError, TypeError, binascii.Error) as error:
        raise KeyUnreadable("not an RSA private key (PEM or base64, PKCS#1 or PKCS#8)") from error
    if not isinstance(key, RSAPrivateKey):
        raise KeyUnreadable("not an RSA private key")
    return key


def load_public_key(text: str) -> RSAPublicKey:
    """Read a public key, or the public key of a certificate. Raises KeyUnreadable."""
    try:
        if "-----BEGIN CERTIFICATE" in text:
            key = x509.load_pem_x509_certificate(_pem(text)).public_key()
        elif "-----BEGIN" in text:
            key = serialization.load_pem_public_key(_pem(text))  # type: ignore[assignment]
        else:
            key = serialization.load_der_public_key(_bare(text))  # type: ignore[assignment]
    except (ValueError, TypeError, binascii.Error) as error:
        raise KeyUnreadable("not an RSA public key (PEM or base64)") from error
    if not isinstance(key, RSAPublicKey):
        raise KeyUnreadable("not an RSA public key")
    return key


def sign(key: RSAPrivateKey, message: bytes) -> str:
    """Return the base64 signature of a message."""
    return base64.b64encode(key.sign(message, PKCS1v15(), hashes.SHA256())).decode()


def is_signed(key: RSAPublicKey, message: bytes, signature: str) -> bool:
    """Say whether the base64 signature fits; bad base64 is a wrong signature, not an exception."""
    try:
        key.verify(base64.b64decode(signature, validate=True), message, PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True


def seal(key: RSAPublicKey, text: str) -> str:
    """Encrypt a short text (a card number, a name) for the holder of `key`: OAEP with SHA-1, base64; another text each time.

    Raises ValueError for a text that is too long for the key (214 bytes with 2048 bits).
    """
    return base64.b64encode(key.encrypt(text.encode(), _OAEP)).decode()


def unseal(key: RSAPrivateKey, sealed: str) -> str:
    """Decrypt what was sealed for us. Raises ValueError."""
    return key.decrypt(base64.b64decode(sealed, validate=True), _OAEP).decode()


def _pem(text: str) -> bytes:
    lines = text.replace("\\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.strip() for line in lines if line.strip()).encode() + b"\n"


def _bare(text: str) -> bytes:
    return base64.b64decode("".join(text.split()), validate=True)
