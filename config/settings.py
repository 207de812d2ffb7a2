"""Settings, read once at start: environment (`HALL_...`), then `.env`, then the defaults of `HALL_ENV`.

Every key can also be given as a file (`HALL_..._FILE`). All wrong values are told at once, one line each; secrets are never shown.
"""

import ipaddress
import os
import ssl
from dataclasses import dataclass, field, fields
from email.utils import parseaddr
from pathlib import Path
from urllib.parse import urlsplit

from environs import Env, EnvValidationError, FileAwareEnv
from marshmallow.validate import OneOf, Range

ROOT = Path(__file__).resolve().parent.parent


class SettingsError(Exception):
    """The settings are wrong; the text names every wrong key, one line each."""


def _secret() -> str:
    return field(repr=False, default="")  # type: ignore[return-value]


@dataclass(frozen=True)
class Settings:
    """Every setting by its name without `HALL_`, lower-case. URLs have no trailing slash. Empty text means not set."""

    env: str
    host: str
    port: int
    processes: int
    public_url: str
    data_dir: Path
    mongodb_uri: str
    mongodb_database: str
    redis_url: str
    sandbox_port: int
    field_cipher: str
    wechat_api_url: str
    wechat_app_id: str
    wechat_open_app_id: str  # of the native app at the open platform; the mini-program's when empty
    wechat_customer_service: str  # who wants a human: queue of our staff, or transfer to WeChat's own tool
    wechat_official_app_id: str  # of the city's official account; empty: none, and no template messages
    wechatpay_url: str
    wechatpay_standby_url: str  # another host of the same API; empty: none
    wechatpay_mch_id: str
    wechatpay_merchant_serial: str
    wechatpay_public_key_id: str
    alipay_gateway_url: str
    alipay_app_id: str
    alipay_seller_id: str
    alipay_bill_type: str  # trade; signcustomer where the merchant's product has the account's bill only
    sms_url: str
    voice_url: str  # of the same gateway, for calls; empty: nobody is called
    jpush_url: str
    jpush_report_url: str  # of JPush's statistics; empty: no receipts are asked for
    jpush_app_key: str
    apns_url: str  # https://api.push.apple.com; empty: iPhones are reached through JPush only
    apns_team_id: str
    apns_key_id: str
    apns_topic: str  # the app's bundle id
    realname_url: str
    departments_url: str
    hook_networks: str  # of the government intranet, to which web hooks may lead besides the internet: 10.20.0.0/16, ...
    mail_from: str  # name and address of the sender of e-mail
    clamav_url: str  # tcp://host:port of clamd; empty: uploads are not scanned
    files_url: str
    log_level: str
    log_format: str
    order_minutes: int
    worker_metrics_port: int
    refund_approval_fen: int
    campaign_approval_size: int
    sms_interval_s: int
    sms_per_hour: int
    sms_per_hour_per_address: int
    secret_keys: str = _secret()
    wechat_app_secret: str = _secret()
    wechat_message_token: str = _secret()
    wechat_message_aes_key: str = _secret()
    wechat_official_app_secret: str = _secret()
    wechat_official_message_token: str = _secret()
    wechat_official_message_aes_key: str = _secret()
    wechatpay_api_v3_key: str = _secret()
    wechatpay_merchant_key: str = _secret()
    wechatpay_merchant_cert: str = _secret()
    wechatpay_public_key: str = _secret()
    alipay_app_private_key: str = _secret()
    alipay_public_key: str = _secret()
    alipay_aes_key: str = _secret()
    alipay_app_cert: str = _secret()
    alipay_root_cert: str = _secret()
    alipay_public_cert: str = _secret()
    jpush_master_secret: str = _secret()
    gateway_key: str = _secret()  # signs the gateway's reports; empty: they are all refused
    apns_key: str = _secret()  # PEM of the .p8 file
    smtp_url: str = _secret()  # smtp://name:password@host:587 or smtps://...:465; empty: no e-mail
    smtp_ca: str = _secret()  # PEM, trusted besides the system's certificates
    demo_password: str = _secret()

    @property
    def is_production(self) -> bool:
        return self.env == "production"

    @property
    def sandbox_url(self) -> str:
        """Where the stand-ins listen in dev and test; empty in production, so that nothing there can lead to them."""
        return "" if self.is_production else f"http://127.0.0.1:{self.sandbox_port}"


# What production cannot run without; dev and test get these from the sandbox and the embedded servers.
REQUIRED_IN_PRODUCTION = (
    "public_url mongodb_uri redis_url secret_keys wechat_api_url wechat_app_id wechat_app_secret wechatpay_url wechatpay_mch_id "
    "wechatpay_api_v3_key wechatpay_merchant_serial wechatpay_merchant_key alipay_gateway_url alipay_app_id "
    "alipay_app_private_key alipay_seller_id sms_url realname_url departments_url"
).split()


def read_settings(environment: dict[str, str] | None = None, *, env_file: Path | None = ROOT / ".env") -> Settings:
    """Read the settings, from `environment` when given instead of the process's own.

    Raises:
        SettingsError: names every missing or wrong key.
    """
    if environment is not None:
        before = dict(os.environ)
        os.environ.clear()
        os.environ.update(environment)
        try:
            return read_settings(env_file=env_file)
        finally:
            os.environ.clear()
            os.environ.update(before)

    env = FileAwareEnv(eager=False)
    unreadable = [name for name, path in os.environ.items() if _is_unreadable(name, path)]
    if unreadable:
        raise SettingsError("\n".join(f"settings: {name}: the file cannot be read" for name in unreadable))
    if env_file is not None and env_file.is_file():
        Env.read_env(str(env_file), recurse=False, override=False)
    with env.prefixed("HALL_"):
        mode = env.str("ENV", "dev", validate=OneOf(["dev", "test", "production"], error="want dev, test or production"))
        production = mode == "production"
        port = env.int("PORT", 8888, validate=Range(1, 65535))
        values: dict[str, object] = {
            "env": mode,
            "host": env.str("HOST", "127.0.0.1"),
            "port": port,
            "processes": env.int("PROCESSES", 1, validate=Range(1, 256)),
            "public_url": env.str("PUBLIC_URL", "" if production else f"http://127.0.0.1:{port}"),
            "data_dir": Path(env.str("DATA_DIR", ".data")),
            "mongodb_database": env.str("MONGODB_DATABASE", "hall"),
            "sandbox_port": env.int("SANDBOX_PORT", 8889, validate=Range(1, 65535)),
            "field_cipher": env.str("FIELD_CIPHER", "sm4-gcm", validate=OneOf(["sm4-gcm", "aes-256-gcm"])),
            "files_url": env.str("FILES_URL", "gridfs:"),
            "log_level": env.str("LOG_LEVEL", "info", validate=OneOf(["debug", "info", "warning", "error"])),
            "log_format": env.str("LOG_FORMAT", "json" if production else "console", validate=OneOf(["json", "console"])),
            "order_minutes": env.int("ORDER_MINUTES", 30, validate=Range(2, 7 * 24 * 60)),
            "refund_approval_fen": env.int("REFUND_APPROVAL_FEN", 50_000, validate=Range(0, 10**11)),
            "campaign_approval_size": env.int("CAMPAIGN_APPROVAL_SIZE", 10_000, validate=Range(0, 10**9)),
            "wechat_customer_service": env.str("WECHAT_CUSTOMER_SERVICE", "queue", validate=OneOf(["queue", "transfer"])),
            "alipay_bill_type": env.str("ALIPAY_BILL_TYPE", "trade", validate=OneOf(["trade", "signcustomer"])),
            "worker_metrics_port": env.int("WORKER_METRICS_PORT", 0, validate=Range(0, 65535)),
            "sms_interval_s": env.int("SMS_INTERVAL_S", 60 if production else 3, validate=Range(0, 3600)),
            "sms_per_hour": env.int("SMS_PER_HOUR", 5 if production else 60, validate=Range(1, 100_000)),
            "sms_per_hour_per_address": env.int(
                "SMS_PER_HOUR_PER_ADDRESS", 20 if production else 5000, validate=Range(1, 1_000_000)
            ),
        }
        for item in fields(Settings):
            if item.name not in values:
                values[item.name] = env.str(item.name.upper(), "")
    try:
        env.seal()
    except EnvValidationError as error:
        lines = [f"settings: {name}: {' '.join(map(str, what))}" for name, what in error.error_messages.items()]
        raise SettingsError("\n".join(lines)) from error
    # A value from a file keeps its final newline, and a URL its final slash: neither is meant.
    cleaned = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
    for name, value in cleaned.items():
        if name.endswith("_url") and isinstance(value, str):
            cleaned[name] = value.rstrip("/")
    settings = Settings(**cleaned)  # type: ignore[arg-type]
    _check(settings)
    return settings


def _is_unreadable(name: str, path: str) -> bool:
    return name.startswith("HALL_") and name.endswith("_FILE") and not os.access(path, os.R_OK)


def _check(settings: Settings) -> None:
    wrong: list[str] = []
    if settings.is_production:
        wrong += [f"HALL_{name.upper()} is missing" for name in REQUIRED_IN_PRODUCTION if not getattr(settings, name)]
        if settings.demo_password:
            wrong.append("HALL_DEMO_PASSWORD is for dev and test only")
        if settings.public_url and not settings.public_url.startswith("https://"):
            wrong.append("HALL_PUBLIC_URL must begin with https:// in production")
        if not settings.wechatpay_public_key and settings.wechatpay_public_key_id:
            wrong.append("HALL_WECHATPAY_PUBLIC_KEY is missing beside HALL_WECHATPAY_PUBLIC_KEY_ID")
        if not (settings.alipay_public_key or settings.alipay_public_cert):
            wrong.append("HALL_ALIPAY_PUBLIC_KEY (or the three HALL_ALIPAY_..._CERT) is missing")
    if settings.files_url != "gridfs:":
        wrong.append("HALL_FILES_URL: this version keeps materials in gridfs: only")
    if settings.wechatpay_api_v3_key and len(settings.wechatpay_api_v3_key) != 32:
        wrong.append("HALL_WECHATPAY_API_V3_KEY must be exactly 32 characters")
    for name in ("public_url", "wechat_api_url", "wechatpay_url", "wechatpay_standby_url", "alipay_gateway_url", "sms_url",
                 "voice_url", "jpush_url", "jpush_report_url", "apns_url", "realname_url", "departments_url"):  # fmt: skip
        value = getattr(settings, name)
        if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).netloc):
            wrong.append(f"HALL_{name.upper()} is not an http(s) URL")
    apple = [f"HALL_{name.upper()}" for name in ("apns_key", "apns_key_id", "apns_team_id", "apns_topic") if not getattr(settings, name)]
    if settings.apns_url and apple:
        wrong.append(f"HALL_APNS_URL is set, but not {', '.join(apple)}")
    if settings.clamav_url:
        scanner = urlsplit(settings.clamav_url)
        if scanner.scheme != "tcp" or not scanner.hostname:
            wrong.append("HALL_CLAMAV_URL is not tcp://host:port")
    if settings.wechat_official_app_id and not settings.wechat_official_app_secret:
        wrong.append("HALL_WECHAT_OFFICIAL_APP_SECRET is missing beside HALL_WECHAT_OFFICIAL_APP_ID")
    if settings.wechat_official_message_aes_key and len(settings.wechat_official_message_aes_key) != 43:
        wrong.append("HALL_WECHAT_OFFICIAL_MESSAGE_AES_KEY must be exactly 43 characters")
    try:
        networks(settings.hook_networks)
    except ValueError as error:
        wrong.append(f"HALL_HOOK_NETWORKS: {error}")
    if settings.smtp_url:
        if not _is_relay(settings.smtp_url):
            wrong.append("HALL_SMTP_URL is not smtp://name:password@host:port or smtps://...")
        if settings.smtp_ca and not _is_pem(settings.smtp_ca):
            wrong.append("HALL_SMTP_CA holds no certificate in PEM")
        if "@" not in parseaddr(settings.mail_from)[1]:
            wrong.append("HALL_MAIL_FROM is missing beside HALL_SMTP_URL: name <address>")
    if wrong:
        raise SettingsError("\n".join(f"settings: {line}" for line in wrong))


def networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Read networks, comma-separated: `10.20.0.0/16, 59.192.0.0/16`. Raises ValueError, also for one that leads to this machine or to all."""
    found = tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    for network in found:
        own = network.network_address
        if network.prefixlen < 8 or own.is_loopback or own.is_link_local or own.is_multicast:
            raise ValueError(f"{network} is no network of a government intranet")
    return found


def _is_relay(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def _is_pem(text: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        return False
    return True
