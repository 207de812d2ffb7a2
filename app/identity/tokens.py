"""Tokens: short asymmetric JWTs (EdDSA, pinned) whose session is checked, and opaque refresh tokens that rotate."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

import jwt

from app.identity.errors import TokenExpired, TokenInvalid
from app.kernel.crypto import KeyRing
from app.kernel.ids import ulid

ACCESS_FOR = timedelta(minutes=15)
PAGE_FOR = timedelta(hours=12)
STAFF_FOR = timedelta(hours=8)
REFRESH_FOR = timedelta(days=30)

_ISSUER = "hall"
_EXPIRED = "登录已过期，请重新登录。"
_INVALID = "登录状态无效，请重新登录。"


def sign_token(keys: KeyRing, *, audience: str, subject: str, now: datetime, lifetime: timedelta, **claims: str) -> str:
    """Return a signed token. `audience` is what it is good for: `api`, `page` or `staff`."""
    return jwt.encode(
        {"iss": _ISSUER, "aud": audience, "sub": subject, "iat": now, "exp": now + lifetime, "jti": ulid(), **claims},
        keys.signing_key(keys.current),
        algorithm="EdDSA",
        headers={"kid": keys.current},
    )


def read_token(keys: KeyRing, token: str, *, audience: str) -> dict[str, Any]:
    """Return the claims of a valid token.

    Raises:
        TokenExpired, TokenInvalid.
    """
    try:
        kid = jwt.get_unverified_header(token).get("kid", "")
        if kid not in keys.secrets:  # chosen by whoever sent it: looked up in the closed ring, nowhere else
            raise TokenInvalid(_INVALID, en="Invalid token.")
        claims: dict[str, Any] = jwt.decode(
            token,
            keys.verifying_key(kid),
            algorithms=["EdDSA"],
            audience=audience,
            issuer=_ISSUER,
            leeway=10,
            options={"require": ["exp", "iat", "iss", "aud", "sub", "jti"], "strict_aud": True},
        )
        return claims
    except jwt.ExpiredSignatureError as error:
        raise TokenExpired(_EXPIRED, en="The token has expired.") from error
    except jwt.InvalidTokenError as error:
        raise TokenInvalid(_INVALID, en="Invalid token.") from error


def make_refresh_token(session_id: str) -> str:
    """Return a new refresh token: the session's id and 256 random bits."""
    return f"{session_id}.{secrets.token_urlsafe(32)}"


def refresh_hash(token: str) -> str:
    """Return what is stored of a refresh token."""
    return hashlib.sha256(token.encode()).hexdigest()
