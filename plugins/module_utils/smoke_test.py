# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The smoke test (whitepaper: "Upgrade procedure"): four endpoints with their shapes, a model of each provider, what it is that runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from . import verification
from .admin_api import AdminApi
from .errors import ScutumError
from .installation import Installation
from .litellm import LiteLLM
from .report import Say, lines, step

# What clients read (vendor: src/admin-api, the answer of GET /api/v1/license and a row of GET /api/v1/audit-logs).
LICENCE_KEYS = (
    *("present", "valid", "expired", "tier", "customer_email", "company"),
    *("issued_at", "expires_at", "days_remaining", "features", "error"),
)
AUDIT_KEYS = ("id", "timestamp", "actor_id", "action")


AnyClient = TypeVar("AnyClient", AdminApi, LiteLLM)


class _Client(Generic[AnyClient]):
    """A client that is found once, at the first call, so that checks measure the service and not the search for its port.

    It tries again until the deadline, which all calls share.
    """

    def __init__(self, find: Callable[[float], AnyClient], deadline: float) -> None:
        self._find: Callable[[float], AnyClient] = find
        self._end = time.monotonic() + deadline
        self._found: AnyClient | None = None
        with contextlib.suppress(ScutumError):
            self()

    def __call__(self) -> AnyClient:
        """The client, with the time that is left; when it is over, each call is tried once."""
        left = max(0.0, self._end - time.monotonic())
        if self._found is None:
            self._found = self._find(left)
        self._found.deadline = left
        return self._found


def _silent(line: str) -> None:
    """Say nothing."""


def run(
    installation: Installation,
    version: str,
    models: list[str] | None = None,
    pinned: dict[str, str] | None = None,
    deadline: float = 60,
    say: Say = _silent,
) -> dict[str, Any]:
    """Run every check and report all of them, also after one has failed.

    Args:
        version: the release that every Scutum image has to be labelled with.
        models: that have to answer a completion by themselves; empty for the first of each provider that LiteLLM knows.
        pinned: digest by service; services not named are compared with the record.
        deadline: seconds, for all checks together, within which a service that has just started may refuse connections.
        say: called with a line for each check.

    Returns:
        `ok`, `checks` (name, ok, detail, seconds), `version` (what admin-api calls itself, empty when it does not say), `models` (asked).
    """
    result: dict[str, Any] = {"ok": False, "checks": [], "version": "", "models": list(models or [])}
    admin_api, litellm = _Client(installation.admin_api, deadline), _Client(installation.litellm, deadline)

    def check(name: str, function: Callable[[], str]) -> None:
        start = time.monotonic()
        with contextlib.suppress(ScutumError), step(installation, result, name, say) as tell:
            tell(function())
        result["checks"][-1]["seconds"] = round(time.monotonic() - start, 3)

    check("/health", lambda: _health(admin_api()))
    check("/api/v1/license", lambda: _licence(admin_api()))
    if not models:
        why = "LiteLLM knows no model that answers chat completions"
        try:
            result["models"] = list(litellm().providers().values())
        except ScutumError as error:
            why = error.what
        if not result["models"]:
            check("/v1/chat/completions", partial(_nothing_to_ask, why))
    for name in result["models"]:
        check(f"/v1/chat/completions {name}", partial(_completion, litellm, name))
    check("/api/v1/audit-logs?limit=1", lambda: _audit_logs(admin_api()))
    try:
        compose = installation.compose()
        model = compose.model()
        containers = verification.counted(model, compose.containers(str(model["name"])))
    except ScutumError as error:
        check("containers", partial(_fail, error))
    else:
        check("release", lambda: verification.versions(model, containers, version))
        check("image digests", lambda: verification.digests(installation, containers, version, pinned or {}))
    with contextlib.suppress(ScutumError):
        result["version"] = admin_api().reported_version()
    result["ok"] = all(item["ok"] for item in result["checks"])
    return result


def text(result: dict[str, Any]) -> list[str]:
    """The checks for a person, a line each, and what it was that was tested."""
    told = [f"{line} ({item['seconds']:.2f} s)" for line, item in zip(lines(result), result["checks"])]
    failed = sum(not item["ok"] for item in result["checks"])
    told.append(
        f"the smoke test failed: {failed} of {len(result['checks'])} checks" if failed else "the smoke test passed"
    )
    if result["version"]:
        told[-1] += f"; admin-api calls itself {result['version']}"
    return told


def _health(client: AdminApi) -> str:
    found = client.health_state()
    if found.get("status") != "healthy":
        raise ScutumError(f"admin-api: GET /health answered {str(found)[:200]}, without status healthy")
    return "healthy (it does not ask the database)"


def _licence(client: AdminApi) -> str:
    found = client.licence()
    missing = [key for key in LICENCE_KEYS if key not in found]
    if missing:
        raise ScutumError(f"admin-api: GET /api/v1/license answered without {', '.join(missing)}")
    return verification.describe_licence(found)


def _audit_logs(client: AdminApi) -> str:
    rows = client.audit_logs(1)
    if not rows:
        return "login and a query of audit_logs answered, which is empty"
    missing = [key for key in AUDIT_KEYS if not isinstance(rows[0], dict) or key not in rows[0]]
    if missing:
        raise ScutumError(f"admin-api: GET /api/v1/audit-logs answered with a row without {', '.join(missing)}")
    if len(rows) > 1:
        raise ScutumError(f"admin-api: GET /api/v1/audit-logs?limit=1 answered with {len(rows)} rows")
    return f"the newest row is of {rows[0]['timestamp']}"


def _completion(client: Callable[[], LiteLLM], name: str) -> str:
    return verification.completion(client(), name)


def _nothing_to_ask(why: str) -> str:
    raise ScutumError(f"there is no model to ask: {why}; name those that have to answer in scutum_smoke_models")


def _fail(error: ScutumError) -> str:
    raise error
