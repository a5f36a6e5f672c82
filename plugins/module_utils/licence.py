# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The licence of an installation: which one is in force, and what that means.

Three places know a licence, and each worker process of admin-api believes one of them: LICENSE_KEY in the container's
environment wins at start and again at each revalidation; else it is the table's active row that expires last; and
what an activation tells one worker lives there until that worker's next revalidation.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import licence_token, release
from .admin_api import AdminApi
from .database import Database
from .errors import ScutumError
from .files import sha256_bytes
from .installation import Installation
from .licence_token import TIERS, Token, moment

ENV_KEY = "LICENSE_KEY"
# Fresh connections by worker, opened in bursts: one after the other they would nearly all reach the same worker.
CONNECTIONS = 20
_BURST = 32


def retention_days(tier: str, features: dict[str, Any], in_force: bool) -> int | None:
    """Days for which audit rows have to stay online; None is unknown, and nothing may be dropped on it.

    Enterprise keeps 2555 days whatever its feature says; the feature's number counts for the other tiers; without the
    feature the tier's number does. An expired or missing licence, an unknown tier and a number that is none are unknown.
    """
    if not in_force or tier not in TIERS:
        return None
    if tier == "enterprise":
        return TIERS["enterprise"]
    days = features.get("audit_retention_days")
    if days is None:
        return TIERS[tier]
    return days if isinstance(days, int) and not isinstance(days, bool) and days > 0 else None


@dataclass
class Survey:
    """What the table and the environment hold at one moment; the keys are secrets."""

    rows: list[dict[str, Any]]
    container_key: str
    file_key: str
    workers: int

    @property
    def operative(self) -> dict[str, Any] | None:
        """The row that the product takes from the table."""
        return self.rows[0] if self.rows and self.rows[0]["active"] else None

    @property
    def environment(self) -> dict[str, Any] | None:
        """The licence in the container's environment, as a row; None when there is none that can be read."""
        try:
            return as_row(licence_token.read(self.container_key)) if self.container_key else None
        except ScutumError:
            return None

    @property
    def current(self) -> dict[str, Any] | None:
        """The licence in force, as a row: the environment's, else the table's."""
        return self.environment or self.operative

    def conflict(self) -> bool:
        """Whether the environment, now or at the next start, says something else than the table."""
        operative = self.operative
        return any(
            key and (operative is None or fingerprint_of(key) != operative["fingerprint"])
            for key in (self.container_key, self.file_key)
        )


def fingerprint_of(key: str) -> str:
    """SHA-256 of a token, as the table's rows have it."""
    return sha256_bytes(key.strip().encode())


def as_row(token: Token) -> dict[str, Any]:
    """A token in the shape of a row of the table."""
    return {
        "id": "",
        "fingerprint": token.fingerprint,
        "tier": token.tier,
        "customer_id": token.customer,
        "customer_email": token.email,
        "company": token.claims.get("company"),
        "features": token.features,
        "expires_at": token.expires_at,
        "active": True,
    }


def public_key(installation: Installation) -> str:
    """The release's public key: that of the pinned bundle, else what the vendor's installer put into config/."""
    version = str(installation.state().get("version") or "")
    if version:
        return f"{release.directory(installation.directory, version)}/license-public.pem"
    return installation.path("config", "license-public.pem")


def container(installation: Installation) -> dict[str, Any] | None:
    """admin-api's container."""
    return installation.compose().containers(installation.project).get("admin-api")


def container_key(found: dict[str, Any] | None) -> str:
    """LICENSE_KEY with which admin-api's container was created; empty when it has none."""
    for line in (found or {}).get("Config", {}).get("Env") or []:
        name, unused, value = line.partition("=")
        if name == ENV_KEY:
            return str(value).strip()
    return ""


def workers(found: dict[str, Any] | None) -> int:
    """Worker processes of admin-api, from its command (`--workers N`) or WEB_CONCURRENCY; the vendor's image starts one."""
    config = (found or {}).get("Config", {})
    words: list[str] = []
    for word in [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]:
        # One word can be a whole command: sh -c "uvicorn … --workers 4".
        words += str(word).replace("=", " ").split() if " " in str(word) else str(word).split("=", 1)
    for option, value in zip(words, words[1:]):
        if option in ("--workers", "-w") and value.isdigit():
            return max(1, int(value))
    environment = dict(line.partition("=")[::2] for line in config.get("Env") or [])
    number = environment.get("WEB_CONCURRENCY", "")
    return max(1, int(number)) if number.isdigit() else 1


def survey(installation: Installation) -> Survey:
    """What the table and the environment hold."""
    found = container(installation)
    return Survey(
        rows=Database(installation).licences(),
        container_key=container_key(found),
        file_key=installation.env().get(ENV_KEY).strip(),
        workers=workers(found),
    )


def epoch(answer: dict[str, Any]) -> float:
    try:
        return float(int(datetime.fromisoformat(str(answer.get("expires_at")).replace("Z", "+00:00")).timestamp()))
    except ValueError:
        return 0.0


def identity(answer: dict[str, Any]) -> tuple[Any, ...]:
    return (bool(answer.get("valid")), answer.get("tier"), answer.get("customer_email"), epoch(answer))


def served_identity(shown: dict[str, Any]) -> tuple[Any, ...]:
    """`identity`, of an answer that was described."""
    return (shown["valid"], shown["tier"], shown["customer_email"], epoch(shown))


def row_identity(row: dict[str, Any] | None) -> tuple[Any, ...]:
    """How the endpoint shows a row, or none."""
    if row is None:
        return (False, None, None, 0.0)
    return (True, row["tier"], row["customer_email"], float(int(row["expires_at"])))


def ask(client: AdminApi, connections: int) -> list[dict[str, Any]]:
    """The endpoint's answers over that many fresh connections."""
    connections = max(1, connections)
    with ThreadPoolExecutor(max_workers=min(connections, _BURST)) as pool:
        return list(pool.map(lambda unused: client.licence(), range(connections)))


def describe(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer of the endpoint means, in this collection's words."""
    expires = epoch(answer)
    in_force = bool(answer.get("valid")) and not answer.get("expired")
    features = dict(answer.get("features") or {})
    return {
        "present": bool(answer.get("present")),
        "valid": bool(answer.get("valid")),
        "expired": bool(answer.get("expired")),
        "tier": answer.get("tier"),
        "customer_email": answer.get("customer_email"),
        "company": answer.get("company"),
        "features": features,
        "expires_at": moment(expires) if expires else None,
        "days_remaining": round((expires - time.time()) / 86400, 4) if expires else None,
        "audit_retention_days": retention_days(str(answer.get("tier")), features, in_force),
        "error": answer.get("error"),
    }


def told(answer: dict[str, Any]) -> str:
    """An answer of the endpoint in a few words."""
    if not answer.get("present"):
        return "no licence"
    if not answer.get("valid"):
        return f"an invalid licence ({str(answer.get('error'))[:80]})"
    return f"{answer.get('tier')} for {answer.get('customer_email')} until {moment(epoch(answer))}"


def look(client: AdminApi, connections: int = CONNECTIONS) -> dict[str, Any]:
    """What the public endpoint says: no credentials, and no host, are needed.

    Returns:
        `describe`'s keys, `answers` (number), `consistent` (whether all were the same) and `served` (in words, each once).
        Of answers that differ the one that ends first is described, and how long audit data stays is unknown.
    """
    answers = ask(client, connections)
    consistent = len({identity(answer) for answer in answers}) == 1
    shown = describe(min(answers, key=epoch))
    return {
        **shown,
        "audit_retention_days": shown["audit_retention_days"] if consistent else None,
        "answers": len(answers),
        "consistent": consistent,
        "served": sorted({told(answer) for answer in answers}),
    }


def status(installation: Installation, connections: int = CONNECTIONS, timeout: float = 30) -> dict[str, Any]:
    """What all three places say.

    Args:
        connections: fresh connections by worker of admin-api.

    Returns:
        `look`'s keys (None and `endpoint_error` when admin-api does not answer); `environment_conflict`; `table`: `rows`,
        `active`, and of the operative row `tier`, `customer_email`, `expires_at`, `features` (None and `table_error` when
        Postgres does not answer); `in_force`, the same of the licence that counts. `consistent` covers all of it, and
        without it `audit_retention_days` is None: nothing may be dropped on a licence that is disputed.
    """
    found: Survey | None = None
    table_error, endpoint_error = "", ""
    table: dict[str, Any] = {"rows": None, "active": None, **summary(None)}
    try:
        found = survey(installation)
        active = sum(1 for item in found.rows if item["active"])
        table = {"rows": len(found.rows), "active": active, **summary(found.operative)}
    except ScutumError as error:
        table_error = error.what
    served: dict[str, Any] = {**dict.fromkeys(describe({})), "answers": 0, "consistent": False, "served": []}
    try:
        served = look(installation.admin_api(timeout), connections * (found.workers if found else 1))
    except ScutumError as error:
        endpoint_error = error.what
    agrees = (
        bool(found) and not endpoint_error and served_identity(served) == row_identity(found.current if found else None)
    )
    conflict = found.conflict() if found else None
    served["consistent"] = served["consistent"] and agrees and not conflict
    if not served["consistent"]:
        served["audit_retention_days"] = None
    in_force = summary(found.current) if found else {key: served.get(key) for key in summary(None)}
    return {
        **served,
        "in_force": in_force,
        "endpoint_error": endpoint_error,
        "environment_conflict": conflict,
        "table": table,
        "table_error": table_error,
    }


def days_until(expires_at: str | None) -> float | None:
    """Days until a moment, negative afterwards; None without one."""
    return (epoch({"expires_at": expires_at}) - time.time()) / 86400 if expires_at else None


def text(found: dict[str, Any]) -> str:
    """`status`, or `look`, for a person."""
    lines = [
        f"served    {' AND '.join(found['served']) or 'unknown: ' + found['endpoint_error']} ({found['answers']} answers)"
    ]
    table = found.get("table")
    if found.get("table_error"):
        lines.append(f"table     unknown: {found['table_error']}")
    elif table:
        operative = f"; operative: {table['tier']} for {table['customer_email']} until {table['expires_at']}"
        lines.append(
            f"table     {table['active']} active of {table['rows']} row(s)" + (operative if table["tier"] else "")
        )
    if found.get("environment_conflict"):
        lines.append(f"conflict  {ENV_KEY} in the environment is another licence: it wins at each revalidation")
    if found["expires_at"]:
        lines.append(f"left      {found['days_remaining']:.2f} day(s)" + (": EXPIRED" if found["expired"] else ""))
    days = found["audit_retention_days"]
    lines.append("retention " + (f"{days} days of audit history" if days else "unknown: nothing may be dropped"))
    return "\n".join([*lines, f"agreement {'yes' if found['consistent'] else 'NO'}"])


def summary(row: dict[str, Any] | None) -> dict[str, Any]:
    """A row for results and diffs: never its token."""
    if row is None:
        return {"tier": None, "customer_email": None, "expires_at": None, "features": {}}
    return {
        "tier": row["tier"],
        "customer_email": row["customer_email"],
        "expires_at": moment(row["expires_at"]),
        "features": row["features"],
    }
