"""RSA, AES and base64 as the platforms use them: pure functions over `cryptography`."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP, PKCS1v15
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


@lru_cache(maxsize=32)
def _private_key(pem: str) -> rsa.RSAPrivateKey:
    # Reading a PEM costs more than a signature (the key is checked), and there is a handful of keys only.
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("an RSA private key is needed")
    return key


@lru_cache(maxsize=32)
def _public_key(pem: str) -> rsa.RSAPublicKey:
    key = serialization.load_pem_public_key(pem.encode())
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("an RSA public key is needed")
    return key


def rsa_sign(private_pem: str, message: bytes) -> str:
    """Return the base64 RSASSA-PKCS1-v1_5 SHA-256 signature: WECHATPAY2-SHA256-RSA2048 and Alipay's RSA2 alike."""
    return b64encode(_private_key(private_pem).sign(message, PKCS1v15(), hashes.SHA256())).decode()


def rsa_verify(public_pem: str, message: bytes, signature: str) -> bool:
    """Say whether the base64 signature fits; bad base64 is a wrong signature, not an exception."""
    try:
        raw = b64decode(signature, validate=True)
        _public_key(public_pem).verify(raw, message, PKCS1v15(), hashes.SHA256())
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


def rsa_unseal(private_pem: str, sealed: str) -> str:
    """Open a sensitive field of a request: RSA-OAEP with SHA-1, base64. Raises ValueError."""
    oaep = OAEP(mgf=MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
    return _private_key(private_pem).decrypt(b64decode(sealed, validate=True), oaep).decode()


def gcm_seal(key: str, nonce: str, associated_data: str, plaintext: bytes) -> str:
    """AEAD_AES_256_GCM of WeChat Pay: base64 of ciphertext with its 16-byte tag at the end."""
    return b64encode(AESGCM(key.encode()).encrypt(nonce.encode(), plaintext, associated_data.encode())).decode()


def cbc_seal(key: bytes, iv: bytes, plaintext: bytes, *, block_bits: int = 128) -> str:
    """AES-CBC with PKCS#7, base64. Alipay content uses 16-byte blocks, WeChat message push pads to 32 bytes."""
    padder = padding.PKCS7(block_bits).padder()
    padded = padder.update(plaintext) + padder.finalize()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def cbc_open(key: bytes, iv: bytes, sealed: bytes, *, block_bits: int = 128) -> bytes:
    """Open what `cbc_seal` made, given as bytes. Raises ValueError."""
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    unpadder = padding.PKCS7(block_bits).unpadder()
    return unpadder.update(decryptor.update(sealed) + decryptor.finalize()) + unpadder.finalize()


def make_rsa_key() -> tuple[str, str]:
    """Make an RSA 2048 pair: (private PKCS#8 PEM, public SubjectPublicKeyInfo PEM)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private_pem.decode(), public_pem.decode()
