"""Licences as the product has them: Ed25519 JWTs, checked offline; the state lives in each worker process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

log = logging.getLogger("admin-api")
REQUIRED = ("exp", "iat", "tier", "sub", "email")
RETENTION = {"trial": 30, "team": 90, "business": 365, "enterprise": 2555}


class Refused(Exception):
    """Why a licence key was not accepted; the text is the API's detail."""


def public_key() -> str:
    """The vendor's public key, baked into the image."""
    path = os.environ.get("LICENSE_PUBLIC_KEY_PATH", "/app/config/license-public.pem")
    with open(path, encoding="utf-8") as handle:
        return handle.read()


def decode(key: str) -> dict[str, Any]:
    """The claims of a key whose signature is right; expired ones too."""
    try:
        return dict(
            jwt.decode(
                key,
                public_key(),
                algorithms=["EdDSA"],
                options={"verify_exp": False, "require": list(REQUIRED)},
            )
        )
    except jwt.InvalidSignatureError as error:
        raise Refused("license signature does not match — wrong issuer or tampered token") from error
    except jwt.MissingRequiredClaimError as error:
        raise Refused(f"license missing required claim: {error}") from error
    except jwt.DecodeError as error:
        raise Refused(f"license could not be decoded: {error}") from error
    except Exception as error:
        raise Refused(f"license verification failed: {type(error).__name__}: {error}") from error


def late(claims: dict[str, Any]) -> timedelta:
    """How long a licence has been expired; negative while it is not."""
    return datetime.now(UTC) - datetime.fromtimestamp(int(claims["exp"]), UTC)


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
            self.claims = decode(key)
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
        expires = datetime.fromtimestamp(int(claims["exp"]), UTC)
        left = expires - datetime.now(UTC)
        return {
            "present": True,
            "valid": True,
            "expired": left.total_seconds() <= 0,
            "tier": claims["tier"],
            "customer_email": claims["email"],
            "company": claims.get("company"),
            "issued_at": datetime.fromtimestamp(int(claims["iat"]), UTC).isoformat(),
            "expires_at": expires.isoformat(),
            "days_remaining": max(0, left.days),
            "features": claims.get("features") or {},
            "error": f"license expired {late(claims).days} day(s) ago" if left.total_seconds() <= 0 else None,
        }


async def revalidate(state: State, pool: Any) -> None:
    """The environment's key when there is one, else the operative row: the trap, kept as it is."""
    environment = os.environ.get("LICENSE_KEY", "").strip()
    key = environment
    if not key and pool is not None:
        key = await pool.fetchval(
            "SELECT license_key FROM licenses WHERE is_active ORDER BY expires_at DESC, created_at DESC LIMIT 1"
        )
    if environment and pool is not None:
        with contextlib.suppress(Refused):
            if late(claims := decode(environment)).total_seconds() < 0:
                await remember(pool, environment, claims, "environment")
    state.take(key or "")


async def remember(pool: Any, key: str, claims: dict[str, Any], by: str) -> None:
    """A row for a key that was accepted; a row that is there becomes active again. A failure is only logged."""
    try:
        await pool.execute(
            "INSERT INTO licenses (license_key, customer_id, customer_email, company, tier, issued_at, expires_at, features, "
            "activated_by) VALUES ($1, $2, $3, $4, $5, to_timestamp($6), to_timestamp($7), $8::jsonb, $9) "
            "ON CONFLICT (license_key) DO UPDATE SET is_active = true",
            key, str(claims["sub"]), claims["email"], str(claims.get("company", "")), claims["tier"],
            float(int(claims["iat"])), float(int(claims["exp"])), json.dumps(dict(claims.get("features", {}))), by,
        )  # fmt: skip
    except Exception as error:  # the product keeps serving the licence that it could not keep
        log.warning("Could not persist license: %s", error)
