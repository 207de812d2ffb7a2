"""The keys of both sides: the hall's as merchant and app, the platforms' as signers. Made once, then kept.

A real platform never holds a merchant's private key. Here one file holds everything because the same machine plays
both sides; the stand-ins themselves use only the public half of the hall's keys.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import string
import tempfile
from base64 import b64encode
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sandbox.signing import make_rsa_key
from sandbox.tls import host_certificate

FILE_NAME = "credentials.json"
_ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(frozen=True, repr=False)  # no repr: a traceback should not print keys
class Credentials:
    """Every secret of the sandbox. PEM values are text with real line ends."""

    wechat_app_id: str
    wechat_open_app_id: str  # of the native app, at the open platform
    wechat_app_secret: str
    wechat_message_token: str
    wechat_message_aes_key: str  # 43 characters: base64 of 32 bytes without its "="
    wechatpay_mch_id: str
    wechatpay_api_v3_key: str  # exactly 32 letters and digits
    merchant_serial: str  # 40 hex digits, upper case
    merchant_private_key: str
    merchant_public_key: str
    wechatpay_public_key_id: str  # PUB_KEY_ID_...
    wechatpay_private_key: str
    wechatpay_public_key: str
    platform_serial: str  # 40 hex digits, upper case: certificate mode
    platform_private_key: str
    platform_certificate: str
    platform_certificate_from: str  # RFC 3339, China time
    platform_certificate_until: str
    alipay_app_id: str
    alipay_app_private_key: str
    alipay_app_public_key: str
    alipay_private_key: str
    alipay_public_key: str
    alipay_seller_id: str  # 2088 + 12 digits
    alipay_aes_key: str  # base64 of 16 bytes
    jpush_app_key: str
    jpush_master_secret: str

    @property
    def gateway_key(self) -> str:
        """With which the SMS and voice gateway signs its reports."""
        return hashlib.sha256(f"gateway/{self.wechat_app_secret}".encode()).hexdigest()

    def derived(self, label: str) -> bytes:
        """Return 32 bytes that belong to a label: secrets of stand-ins that came after the first kept sets, which so stay complete."""
        return hmac.digest(self.wechat_app_secret.encode(), label.encode(), "sha256")

    @property
    def official_app_id(self) -> str:
        """Of the city's official account; it and the mini-program belong to one open platform account."""
        return "wx" + self.derived("official.app_id").hex()[:16]

    @property
    def official_app_secret(self) -> str:
        return self.derived("official.app_secret").hex()[:32]

    @property
    def official_message_token(self) -> str:
        return self.derived("official.message_token").hex()[:24]

    @property
    def official_message_aes_key(self) -> str:
        return b64encode(self.derived("official.message_aes_key")).decode().rstrip("=")

    @property
    def smtp_name(self) -> str:
        return "hall"

    @property
    def smtp_password(self) -> str:
        return self.derived("smtp.password").hex()[:24]

    @property
    def apns_private(self) -> ec.EllipticCurvePrivateKey:
        """The .p8 key of the team; made of what there is, so that a set made before there was one has it too."""
        secret = int.from_bytes(hashlib.sha256(f"apns/{self.wechat_app_secret}".encode()).digest())
        return ec.derive_private_key(secret % (2**255) + 1, ec.SECP256R1())

    @property
    def apns_key_id(self) -> str:
        return hashlib.sha256(f"apns key/{self.jpush_app_key}".encode()).hexdigest()[:10].upper()

    @property
    def apns_team_id(self) -> str:
        return hashlib.sha256(f"apns team/{self.jpush_app_key}".encode()).hexdigest()[:10].upper()

    apns_topic = "cn.gov.sg.hall"

    def hall_settings(self, sandbox_url: str) -> dict[str, str]:
        """Return the HALL_* variables with which the hall speaks to these stand-ins at `sandbox_url`."""
        url = sandbox_url.rstrip("/")
        return {
            "HALL_WECHAT_API_URL": url,
            "HALL_WECHAT_APP_ID": self.wechat_app_id,
            "HALL_WECHAT_OPEN_APP_ID": self.wechat_open_app_id,
            "HALL_WECHAT_APP_SECRET": self.wechat_app_secret,
            "HALL_WECHAT_MESSAGE_TOKEN": self.wechat_message_token,
            "HALL_WECHAT_MESSAGE_AES_KEY": self.wechat_message_aes_key,
            "HALL_WECHAT_OFFICIAL_APP_ID": self.official_app_id,
            "HALL_WECHAT_OFFICIAL_APP_SECRET": self.official_app_secret,
            "HALL_WECHAT_OFFICIAL_MESSAGE_TOKEN": self.official_message_token,
            "HALL_WECHAT_OFFICIAL_MESSAGE_AES_KEY": self.official_message_aes_key,
            "HALL_WECHATPAY_URL": url,
            "HALL_WECHATPAY_MCH_ID": self.wechatpay_mch_id,
            "HALL_WECHATPAY_API_V3_KEY": self.wechatpay_api_v3_key,
            "HALL_WECHATPAY_MERCHANT_SERIAL": self.merchant_serial,
            "HALL_WECHATPAY_MERCHANT_KEY": self.merchant_private_key,
            "HALL_WECHATPAY_PUBLIC_KEY_ID": self.wechatpay_public_key_id,
            "HALL_WECHATPAY_PUBLIC_KEY": self.wechatpay_public_key,
            "HALL_ALIPAY_GATEWAY_URL": f"{url}/gateway.do",
            "HALL_ALIPAY_APP_ID": self.alipay_app_id,
            "HALL_ALIPAY_APP_PRIVATE_KEY": self.alipay_app_private_key,
            "HALL_ALIPAY_PUBLIC_KEY": self.alipay_public_key,
            "HALL_ALIPAY_SELLER_ID": self.alipay_seller_id,
            "HALL_ALIPAY_AES_KEY": self.alipay_aes_key,
            "HALL_SMS_URL": f"{url}/sms",
            "HALL_VOICE_URL": f"{url}/voice",
            "HALL_GATEWAY_KEY": self.gateway_key,
            "HALL_JPUSH_URL": f"{url}/jpush",
            "HALL_JPUSH_REPORT_URL": f"{url}/jpush",
            "HALL_JPUSH_APP_KEY": self.jpush_app_key,
            "HALL_JPUSH_MASTER_SECRET": self.jpush_master_secret,
            "HALL_APNS_URL": f"http://127.0.0.1:{apns_port(urlsplit(url).port or 80)}",
            "HALL_APNS_KEY": self.apns_private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
            "HALL_APNS_KEY_ID": self.apns_key_id,
            "HALL_APNS_TEAM_ID": self.apns_team_id,
            "HALL_APNS_TOPIC": self.apns_topic,
            "HALL_REALNAME_URL": f"{url}/realname",
            "HALL_DEPARTMENTS_URL": f"{url}/departments",
            "HALL_SMTP_URL": f"smtp://{self.smtp_name}:{self.smtp_password}@127.0.0.1:{smtp_port(urlsplit(url).port or 80)}",
            "HALL_SMTP_CA": host_certificate(self.derived("smtp.tls"))[0],
            "HALL_MAIL_FROM": "韶关掌上办事大厅 <noreply@hall.example>",
            "HALL_CLAMAV_URL": f"tcp://127.0.0.1:{clamd_port(urlsplit(url).port or 80)}",
        }


def clamd_port(sandbox_port: int) -> int:
    """Return where the stand-in of clamd listens: it speaks no HTTP, so it needs a port beside the sandbox's own."""
    return sandbox_port + 1 if sandbox_port < 65535 else sandbox_port - 1


def smtp_port(sandbox_port: int) -> int:
    """Return where the stand-in of a mail server listens."""
    return sandbox_port + 3 if sandbox_port <= 65532 else sandbox_port - 3


def apns_port(sandbox_port: int) -> int:
    """Return where the stand-in of Apple listens: it speaks HTTP/2 only."""
    return sandbox_port + 2 if sandbox_port < 65534 else sandbox_port - 2


def load_or_make(data_dir: Path) -> Credentials:
    """Return the credentials kept in `data_dir`, making them (file mode 0600) on the first call.

    Raises:
        ValueError: the file exists but is not a complete set; it names the file, so that a person can remove it.
    """
    path = Path(data_dir) / FILE_NAME
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep(path, make())
    try:
        values = json.loads(path.read_text())
        # A set made before there was one for the native app: the app then pays under the mini-program's.
        values.setdefault("wechat_open_app_id", values["wechat_app_id"])
        return Credentials(**{field.name: values[field.name] for field in fields(Credentials)})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a complete set of sandbox credentials ({error}); remove it") from error


def _keep(path: Path, credentials: Credentials) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".credentials-")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(credentials), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        # link() instead of rename(): of two processes that start together the first wins, and both then read its file.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)


def make() -> Credentials:
    """Make a fresh set. Five RSA keys: about a second."""
    merchant_private, merchant_public = make_rsa_key()
    wechatpay_private, wechatpay_public = make_rsa_key()
    platform_private, _ = make_rsa_key()
    app_private, app_public = make_rsa_key()
    alipay_private, alipay_public = make_rsa_key()
    mch_id = "19" + _digits(8)
    starts = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    ends = starts + timedelta(days=5 * 365)
    serial, certificate = _platform_certificate(platform_private, starts, ends)
    return Credentials(
        wechat_app_id="wx" + secrets.token_hex(8),
        wechat_open_app_id="wx" + secrets.token_hex(8),
        wechat_app_secret=secrets.token_hex(16),
        wechat_message_token=_letters(24),
        wechat_message_aes_key=b64encode(secrets.token_bytes(32)).decode().rstrip("="),
        wechatpay_mch_id=mch_id,
        wechatpay_api_v3_key=_letters(32),
        merchant_serial=_serial(),
        merchant_private_key=merchant_private,
        merchant_public_key=merchant_public,
        wechatpay_public_key_id=f"PUB_KEY_ID_0{mch_id}{datetime.now(UTC):%Y%m%d}00{_digits(14)}",
        wechatpay_private_key=wechatpay_private,
        wechatpay_public_key=wechatpay_public,
        platform_serial=serial,
        platform_private_key=platform_private,
        platform_certificate=certificate,
        platform_certificate_from=_china_time(starts),
        platform_certificate_until=_china_time(ends),
        alipay_app_id="2021" + _digits(12),
        alipay_app_private_key=app_private,
        alipay_app_public_key=app_public,
        alipay_private_key=alipay_private,
        alipay_public_key=alipay_public,
        alipay_seller_id="2088" + _digits(12),
        alipay_aes_key=b64encode(secrets.token_bytes(16)).decode(),
        jpush_app_key=secrets.token_hex(12),
        jpush_master_secret=secrets.token_hex(12),
    )


def _platform_certificate(private_pem: str, starts: datetime, ends: datetime) -> tuple[str, str]:
    key = serialization.load_pem_private_key(private_pem.encode(), password=None)
    serial = int(_serial(), 16)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tenpay.com"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Tenpay.com sign (sandbox)"),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(starts)
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    return f"{serial:040X}", certificate.public_bytes(serialization.Encoding.PEM).decode()


def _serial() -> str:
    # A certificate serial is positive and at most 20 octets: 40 hex digits whose first is below 8.
    return "7" + secrets.token_hex(20).upper()[1:]


def _china_time(moment: datetime) -> str:
    return (moment + timedelta(hours=8)).strftime("%Y-%m-%dT%H:%M:%S+08:00")


def _digits(count: int) -> str:
    return "".join(secrets.choice(string.digits) for _ in range(count))


def _letters(count: int) -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(count))
