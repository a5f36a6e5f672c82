"""Licences as the product has them: Ed25519 JWTs, checked offline; the state lives in each worker process."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

import jwt

REQUIRED = ("exp", "iat", "tier", "sub", "email")
RETENTION = {"trial": 30, "team": 90, "business": 365, "enterprise": 2555}


class Refused(Exception):
    """Why a licence key was not accepted; the text is the API's detail."""


def public_key() -> str:
    """The vendor's public key, baked into the image."""
    path = os.environ.get("LICENSE_PUBLIC_KEY_PATH", "/app/config/license-public.pem")
    with open(path, encoding="utf-8") as handle:
        return handle.read()


def decode(key: str, allow_expired: bool) -> dict[str, Any]:
    """The claims of a key whose signature is right."""
    try:
        claims = dict(jwt.decode(key, public_key(), algorithms=["EdDSA"], options={"verify_exp": False}))
    except jwt.InvalidSignatureError as error:
        raise Refused("license signature does not match — wrong issuer or tampered token") from error
    except jwt.PyJWTError as error:
        raise Refused(f"license could not be decoded: {error}") from error
    missing = [name for name in REQUIRED if name not in claims]
    if missing:
        raise Refused(f"license missing required claim: {missing[0]}")
    late = datetime.now(UTC).timestamp() - float(claims["exp"])
    if late > 0 and not allow_expired:
        raise Refused(f"license expired {int(late // 86400)} day(s) ago")
    return claims


class State:
    """What one worker process believes."""

    def __init__(self) -> None:
        self.claims: dict[str, Any] | None = None
        self.error: str | None = None

    def take(self, key: str) -> None:
        """Believe a key, or remember why not."""
        self.claims, self.error = None, None
        if not key:
            return
        try:
            self.claims = decode(key, allow_expired=True)
        except Refused as refused:
            self.error = str(refused)

    def describe(self) -> dict[str, Any]:
        """The answer of GET /api/v1/license."""
        claims = self.claims
        if claims is None:
            return {
                "present": self.error is not None, "valid": False, "expired": False, "tier": None, "customer_email": None,
                "company": None, "issued_at": None, "expires_at": None, "days_remaining": None, "features": {},
                "error": self.error,
            }  # fmt: skip
        expires = datetime.fromtimestamp(float(claims["exp"]), UTC)
        left = expires - datetime.now(UTC)
        return {
            "present": True,
            "valid": True,
            "expired": left.total_seconds() <= 0,
            "tier": claims["tier"],
            "customer_email": claims["email"],
            "company": claims.get("company"),
            "issued_at": datetime.fromtimestamp(float(claims["iat"]), UTC).isoformat(),
            "expires_at": expires.isoformat(),
            "days_remaining": max(0, left.days),
            "features": claims.get("features") or {},
            "error": None,
        }


async def revalidate(state: State, pool: Any) -> None:
    """The environment's key when there is one, else the operative row: the trap, kept as it is."""
    key = os.environ.get("LICENSE_KEY", "")
    if not key and pool is not None:
        key = (
            await pool.fetchval(
                "SELECT license_key FROM licenses WHERE is_active ORDER BY expires_at DESC NULLS LAST LIMIT 1"
            )
            or ""
        )
    elif key and pool is not None:
        await remember(pool, key, "environment")
    state.take(key)


async def remember(pool: Any, key: str, by: str) -> None:
    """A row for a key that was accepted; older rows stay active."""
    try:
        claims = decode(key, allow_expired=True)
    except Refused:
        return
    await pool.execute(
        "INSERT INTO licenses (license_key, customer_id, customer_email, company, tier, issued_at, expires_at, features, "
        "activated_by) VALUES ($1, $2, $3, $4, $5, to_timestamp($6), to_timestamp($7), $8::jsonb, $9) "
        "ON CONFLICT (license_key) DO NOTHING",
        key, str(claims["sub"]), claims["email"], claims.get("company"), claims["tier"], float(claims["iat"]),
        float(claims["exp"]), json.dumps(claims.get("features") or {}), by,
    )  # fmt: skip
