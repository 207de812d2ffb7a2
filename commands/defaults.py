"""What dev and test make by themselves on first start: the key ring, the demo password. Kept under the data directory, mode 0600."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from app.kernel.crypto import make_key_ring
from commands.servers import CannotStart


def kept_secret(path: Path, make: Callable[[], str]) -> str:
    """Return the text of a secret file, made on first use. Two processes that start at once get the same one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(make())
            try:
                os.link(draft, path)  # atomic, and loses when another process was first
            except FileExistsError:
                pass
            draft.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise CannotStart(f"cannot keep a secret in {path} ({error.strerror}): mend it, or set HALL_DATA_DIR") from error


def _given(environment: dict[str, str], name: str) -> bool:
    return name in environment or f"{name}_FILE" in environment


def fill_in(environment: dict[str, str], sandbox_settings: dict[str, str], data_dir: Path) -> dict[str, str]:
    """Return the environment of a dev or test hall: what is not given comes from the stand-ins and the data directory.

    Whoever points a platform elsewhere brings that platform's verification keys too (none means: fetch certificates), so these are
    then left alone.
    """
    filled = dict(environment)
    if not _given(filled, "HALL_SECRET_KEYS"):
        filled["HALL_SECRET_KEYS"] = kept_secret(data_dir / "secret_keys", make_key_ring)
    if not _given(filled, "HALL_DEMO_PASSWORD"):
        filled["HALL_DEMO_PASSWORD"] = kept_secret(data_dir / "demo_password", lambda: secrets.token_urlsafe(6))
    foreign = {
        prefix
        for prefix, url in (("HALL_WECHATPAY_PUBLIC_KEY", "HALL_WECHATPAY_URL"), ("HALL_ALIPAY_PUBLIC_KEY", "HALL_ALIPAY_GATEWAY_URL"))
        if _given(filled, url)
    }
    for name, value in sandbox_settings.items():
        if not _given(filled, name) and not any(name.startswith(prefix) for prefix in foreign):
            filled[name] = value
    return filled
