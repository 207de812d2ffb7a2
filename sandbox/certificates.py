"""Certificates of both providers: made on first use, changed on demand, kept in the store.

WeChat Pay has one platform certificate at a time for signing, and for a while two that verify. Alipay's chains to a root through an
intermediate one, as the original's does; the root bundle also holds a certificate that no hall can use, to see that it is skipped.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import md5

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from sandbox.base import Sandbox
from sandbox.signing import make_rsa_key

# The order in which a certificate holds the parts; Alipay reads them backwards.
_PARTS = (
    ("C", NameOID.COUNTRY_NAME),
    ("O", NameOID.ORGANIZATION_NAME),
    ("OU", NameOID.ORGANIZATIONAL_UNIT_NAME),
    ("CN", NameOID.COMMON_NAME),
)
_ROOT = {"C": "CN", "O": "Ant Financial (sandbox)", "OU": "Certification Authority", "CN": "Sandbox Root R1"}
_CLASS = _ROOT | {"CN": "Sandbox Class 2 R1"}


@dataclass(frozen=True)
class Signer:
    """A certificate that signs: `serial` is the provider's name for it; `pem` may hold the chain above it."""

    serial: str
    private_key: str
    pem: str
    starts: float
    ends: float


# --- WeChat Pay: the merchant's API certificates ---


def set_merchant_key(sandbox: Sandbox, serial: str, public_key: str) -> None:
    """Register one more certificate of the merchant by its public key; an empty key revokes a serial."""
    sandbox.store.put("merchant_key", serial, public_key)


def merchant_key(sandbox: Sandbox, serial: str) -> str:
    """Return the public key the merchant is known by under a serial; empty for none."""
    kept = sandbox.store.get("merchant_key", serial)
    if kept is not None:
        return str(kept)
    return sandbox.credentials.merchant_public_key if serial == sandbox.credentials.merchant_serial else ""


# --- WeChat Pay: platform certificates ---


def platform_signers(sandbox: Sandbox) -> list[Signer]:
    """Return the platform certificates that count, oldest first; the last one signs."""
    kept = sandbox.store.get("platform_signers", "all")
    if kept is not None:
        return [Signer(**row) for row in kept]
    own = sandbox.credentials
    starts, ends = (datetime.fromisoformat(text).timestamp() for text in (own.platform_certificate_from, own.platform_certificate_until))
    return [Signer(own.platform_serial, own.platform_private_key, own.platform_certificate, starts, ends)]


def platform_signer(sandbox: Sandbox, serial: str) -> Signer | None:
    return next((signer for signer in platform_signers(sandbox) if signer.serial == serial), None)


def rotate_platform(sandbox: Sandbox, *, days: float = 1825, keep_old: bool = True) -> Signer:
    """Make a new platform certificate that signs from now on, living `days`; the old one still verifies unless told otherwise."""
    private_pem, _ = make_rsa_key()
    now = datetime.fromtimestamp(sandbox.clock(), UTC)
    starts = now - timedelta(days=1)
    name = {"C": "CN", "O": "Tenpay.com", "CN": "Tenpay.com sign (sandbox)"}
    made = _make(private_pem, name, private_pem, name, starts, now + timedelta(days=days))
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    signer = Signer(f"{made.serial_number:040X}", private_pem, pem, starts.timestamp(), made.not_valid_after_utc.timestamp())
    rows = [*(platform_signers(sandbox) if keep_old else []), signer]
    sandbox.store.put("platform_signers", "all", [row.__dict__ for row in rows])
    return signer


# --- Alipay: a chain ---


def alipay_chain(sandbox: Sandbox) -> dict[str, str]:
    """Return {root_cert, public_cert, app_cert, app_cert_sn, root_cert_sn} of certificate mode, as an operator downloads them."""
    kept: dict[str, str] | None = sandbox.store.get("alipay_chain", "all")
    if kept is None:
        kept = _make_chain(sandbox)
        sandbox.store.put("alipay_chain", "all", kept)
    shown = ("root_cert", "app_cert", "app_cert_sn", "root_cert_sn")
    return {name: kept[name] for name in shown} | {"public_cert": alipay_signers(sandbox)[0].pem}


def alipay_signers(sandbox: Sandbox) -> list[Signer]:
    """Return Alipay's certificates, oldest first; the last one signs."""
    kept = sandbox.store.get("alipay_signers", "all")
    if kept is None:
        alipay_chain_kept = sandbox.store.get("alipay_chain", "all") or _make_chain(sandbox)
        sandbox.store.put("alipay_chain", "all", alipay_chain_kept)
        return [_add_alipay_signer(sandbox, sandbox.credentials.alipay_private_key, days=730)]
    return [Signer(**row) for row in kept]


def rotate_alipay(sandbox: Sandbox, *, days: float = 730, foreign: bool = False) -> Signer:
    """Make a new Alipay certificate that signs from now on; `foreign`: of an authority that does not chain to the root."""
    alipay_signers(sandbox)
    private_pem, _ = make_rsa_key()
    return _add_alipay_signer(sandbox, private_pem, days=days, foreign=foreign)


def _add_alipay_signer(sandbox: Sandbox, private_pem: str, *, days: float, foreign: bool = False) -> Signer:
    chain = sandbox.store.get("alipay_chain", "all")
    now = datetime.fromtimestamp(sandbox.clock(), UTC)
    issuer_key, above = chain["class_key"], chain["class_cert"]
    if foreign:
        issuer_key, _ = make_rsa_key()
        above = ""
    name = {"C": "CN", "O": "Alipay (sandbox)", "OU": "Alipay", "CN": f"sandbox {secrets.token_hex(4)}"}
    made = _make(private_pem, name, issuer_key, _CLASS, now - timedelta(days=1), now + timedelta(days=days))
    pem = made.public_bytes(serialization.Encoding.PEM).decode() + above
    signer = Signer(
        serial_of(made), private_pem, pem, made.not_valid_before_utc.timestamp(), made.not_valid_after_utc.timestamp()
    )
    kept = sandbox.store.get("alipay_signers", "all") or []
    sandbox.store.put("alipay_signers", "all", [*kept, signer.__dict__])
    return signer


def _make_chain(sandbox: Sandbox) -> dict[str, str]:
    now = datetime.fromtimestamp(sandbox.clock(), UTC)
    starts, ends = now - timedelta(days=400), now + timedelta(days=7300)
    root_key, class_key = make_rsa_key()[0], make_rsa_key()[0]
    root = _make(root_key, _ROOT, root_key, _ROOT, starts, ends, is_authority=True)
    between = _make(class_key, _CLASS, root_key, _ROOT, starts, ends, is_authority=True)
    app_name = {"C": "CN", "O": "韶关掌上办事大厅", "OU": "Alipay", "CN": sandbox.credentials.alipay_app_id}
    app = _make(
        sandbox.credentials.alipay_app_private_key, app_name, class_key, _CLASS, now - timedelta(days=1), now + timedelta(days=730)
    )
    other_key = ec.generate_private_key(ec.SECP384R1())
    other_name = _name(_ROOT | {"CN": "Sandbox Root E1"})
    other = (
        x509.CertificateBuilder()
        .subject_name(other_name)
        .issuer_name(other_name)
        .public_key(other_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
        .sign(other_key, hashes.SHA384())
    )
    return {
        "class_key": class_key,
        "class_cert": _pem(between),
        "root_cert": _pem(other) + "\r\n" + _pem(root).replace("\n", "\r\n"),
        "app_cert": _pem(app),
        "app_cert_sn": serial_of(app),
        "root_cert_sn": serial_of(root),  # of the RSA-signed ones alone
    }


def serial_of(certificate: x509.Certificate) -> str:
    """Return Alipay's name of a certificate."""
    words = {oid: word for word, oid in _PARTS}
    issuer = ",".join(f"{words[part.oid]}={part.value}" for part in reversed(list(certificate.issuer)))
    return md5(f"{issuer}{certificate.serial_number}".encode(), usedforsecurity=False).hexdigest()


def _make(
    private_pem: str,
    name: dict[str, str],
    issuer_pem: str,
    issuer: dict[str, str],
    starts: datetime,
    ends: datetime,
    *,
    is_authority: bool = False,
) -> x509.Certificate:
    key, issuer_key = (serialization.load_pem_private_key(pem.encode(), password=None) for pem in (private_pem, issuer_pem))
    assert isinstance(key, rsa.RSAPrivateKey) and isinstance(issuer_key, rsa.RSAPrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number((0x70 << 152) | secrets.randbits(152))  # twenty octets, positive: 40 hex digits
        .not_valid_before(starts.replace(microsecond=0))
        .not_valid_after(ends.replace(microsecond=0))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    return builder.sign(issuer_key, hashes.SHA256())


def _name(parts: dict[str, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, parts[word]) for word, oid in _PARTS if word in parts])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
