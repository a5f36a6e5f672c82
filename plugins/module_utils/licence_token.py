# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A licence token, checked offline: what the product would say to it, before anything is sent.

A token is a JWT signed with Ed25519 (`alg: EdDSA`). The signature is checked by OpenSSL, which every supported
distribution has, so that neither the module nor the host needs a package from an index.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from .engine import clean_environment
from .errors import ScutumError

# Tier: days of audit retention, lowest first (vendor: TIER_DEFAULT_FEATURES in scripts/issue-license.py).
TIERS = {"trial": 30, "team": 90, "business": 365, "enterprise": 2555}
REQUIRED = ("exp", "iat", "tier", "sub", "email")
# The table keeps tokens under a unique B-tree index, whose entries end at 2704 bytes: the product takes a longer one,
# fails to store it, only logs that, and has forgotten it after the next start (measured: 2696 is the longest).
LONGEST = 2600
_PART = re.compile(r"^[A-Za-z0-9_-]+$")


@dataclass(frozen=True)
class Token:
    """A token whose parts could be read. The text is a secret; the fingerprint is what is shown and compared."""

    text: str = field(repr=False)
    claims: dict[str, Any]
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the text, as the table's rows are compared with it."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def tier(self) -> str:
        """One of `TIERS`."""
        return str(self.claims.get("tier", ""))

    @property
    def email(self) -> str:
        """The customer's address."""
        return str(self.claims.get("email", ""))

    @property
    def customer(self) -> str:
        """The claim `sub`."""
        return str(self.claims.get("sub", ""))

    @property
    def features(self) -> dict[str, Any]:
        """The features; empty when there are none."""
        found = self.claims.get("features")
        return dict(found) if isinstance(found, dict) else {}

    @property
    def expires_at(self) -> float:
        """Seconds since 1970; the product cuts fractions off."""
        return _seconds(self.claims.get("exp"))

    @property
    def issued_at(self) -> float:
        """Seconds since 1970."""
        return _seconds(self.claims.get("iat"))


def moment(epoch: float) -> str:
    """A time for people and results: UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def refused(why: str, next_step: str) -> ScutumError:
    """The one way in which a token is refused."""
    return ScutumError(
        f"scutum_license_key {why}", left="nothing was sent and nothing was changed", next_step=next_step
    )


_PASTE = "paste the token again, as one line of three parts with two dots, from the vendor's mail or portal"
_ASK = "ask the vendor for a licence for this release; the one in force stays"


def read(text: str) -> Token:
    """The parts of a token; white space around it is taken off.

    Raises:
        ScutumError: it cannot be a licence: empty, broken, of another algorithm.
    """
    text = text.strip()
    if not text:
        raise refused("is empty", "set it to the token from the vendor, or leave it out to keep the licence in force")
    inner = re.search(r"\s", text)
    if inner:
        raise refused(f"has white space inside, after {inner.start()} characters: a paste that was wrapped", _PASTE)
    if len(text) > LONGEST:
        raise refused(
            f"has {len(text)} characters: the product stores at most {LONGEST} (index of the table licenses)",
            "check that the variable holds the token and not a whole file",
        )
    parts = text.split(".")
    # An empty signature is well-formed: `alg: none` has one, and is named for what it is.
    if len(parts) != 3 or not all(_PART.match(part) for part in parts[:2]) or not _PART.match(parts[2] or "-"):
        raise refused(f"is not a token: {len(parts)} part(s) where there have to be 3, or foreign characters", _PASTE)
    try:
        decoded = [base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True) for part in parts]
        header, claims = json.loads(decoded[0]), json.loads(decoded[1])
    except (binascii.Error, ValueError, RecursionError) as error:
        raise refused(f"cannot be decoded ({type(error).__name__}): it was cut or altered", _PASTE) from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise refused("cannot be decoded: header and claims have to be JSON objects", _PASTE)
    if header.get("alg") != "EdDSA":
        raise refused(f"is signed with alg {str(header.get('alg'))[:20]!r}: the vendor signs with EdDSA only", _ASK)
    if len(decoded[2]) != 64:
        raise refused(f"has a signature of {len(decoded[2])} bytes instead of 64: a paste that was cut", _PASTE)
    # Bits that are not used have to be zero: another text is another token.
    if any(base64.urlsafe_b64encode(data).decode().rstrip("=") != part for data, part in zip(decoded, parts)):
        raise refused("cannot be decoded (not canonical): it was cut or altered", _PASTE)
    return Token(text, claims, f"{parts[0]}.{parts[1]}".encode(), decoded[2])


def check(text: str, public_key: str, now: float | None = None) -> Token:
    """A token that the product will accept, by its signature, its claims and this host's clock.

    Args:
        public_key: path of the release's license-public.pem.
        now: this host's clock, seconds since 1970.
    """
    token = read(text)
    if not _signed_by(token, public_key):
        raise refused(
            f"is not signed by the key of this release ({public_key}): another issuer, or it was altered",
            f"{_PASTE}; if it stays so, compare that key with the vendor's",
        )
    now = time.time() if now is None else now
    missing = [name for name in REQUIRED if token.claims.get(name) is None]
    if missing:
        raise refused(f"lacks the claim(s) {', '.join(missing)}", _ASK)
    for name in ("exp", "iat", "nbf"):
        if token.claims.get(name) is not None and not _number(token.claims[name]):
            raise refused(f"has a claim {name} that is not a number of seconds", _ASK)
    if token.tier not in TIERS:
        raise refused(f"is of an unknown tier {token.tier[:40]!r}; known are {', '.join(TIERS)}", _ASK)
    if not token.customer or not token.email:
        raise refused("names no customer (claims sub and email)", _ASK)
    if not isinstance(token.claims.get("features", {}), dict):
        raise refused("has a claim features that is not a mapping: admin-api would answer 500", _ASK)
    clock = f"this host's clock says {moment(now)}; if that is wrong: timedatectl, then run the playbook again"
    if token.expires_at <= now:
        days = int((now - token.expires_at) // 86400)
        raise refused(f"expired {days} day(s) ago, at {moment(token.expires_at)}", f"ask for a renewal. {clock}")
    start = max(token.issued_at, _seconds(token.claims.get("nbf")))
    if start > now:
        raise refused(f"is not valid before {moment(start)}", f"wait until then. {clock}")
    return token


def _number(value: Any) -> bool:
    # Until the year 9999: beyond it no clock and no timestamptz goes.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 253402300800


def _seconds(value: Any) -> float:
    """A time in a claim, cut to whole seconds as the product does; 0 for what is none."""
    return float(int(value)) if _number(value) else 0.0


def _signed_by(token: Token, public_key: str) -> bool:
    if not os.path.exists(public_key):
        raise ScutumError(
            f"{public_key} is missing: no licence can be checked",
            left="nothing was sent and nothing was changed",
            next_step="run playbooks/install.yml, which fetches the release's bundle",
        )
    # In memory, never on disk; files and not pipes, because OpenSSL has to know the length of what Ed25519 signs.
    files = [os.memfd_create(name) for name in ("signed", "signature")]
    try:
        for descriptor, content in zip(files, (token.signed, token.signature)):
            os.write(descriptor, content)
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public_key, "-rawin"]
        command += ["-in", f"/proc/self/fd/{files[0]}", "-sigfile", f"/proc/self/fd/{files[1]}"]
        done = subprocess.run(
            command,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            pass_fds=files,
        )
    except OSError as error:
        raise ScutumError(
            f"openssl could not be started: {error}",
            left="nothing was sent and nothing was changed",
            next_step="install the package openssl (3.0 or newer) on the host",
        ) from error
    finally:
        for descriptor in files:
            os.close(descriptor)
    if done.returncode == 0:
        return True
    if "Verification Failure" in done.stdout + done.stderr:
        return False
    raise ScutumError(
        f"openssl could not check the licence: {(done.stderr or done.stdout).strip()[-300:]}",
        left="nothing was sent and nothing was changed",
        next_step=f"openssl version (3.0 or newer is needed); openssl pkey -pubin -in {public_key} -noout -text",
    )
