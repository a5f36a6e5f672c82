# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a value of a secret is accepted, asked of the running service that checks it.

A table is all there is: by key, a question with three answers: yes, no, and nobody here checks it (None).
"""

from __future__ import annotations

import time
from typing import Any

from . import admin_api
from . import http_client as http
from .admin_api import AdminApi
from .database import Database
from .errors import ScutumError
from .installation import Installation
from .litellm import LiteLLM

# They check INTERNAL_SERVICE_KEY; admin-api only sends it. Before any route (vendor: src/shared/middleware.py), so that a path which
# does not exist asks for the key, and does nothing.
VERIFIERS = ("budget-webhook", "cost-predictor", "sre-agent")
_PORTS = (8080, 8081)
_PATH = "/scutum-ops-key-check"
# Seconds for a service that was just recreated.
_DEADLINE = 60.0


def accepted(installation: Installation, key: str, value: str) -> bool | None:
    """Whether a value is accepted; None when nothing on this host checks the key."""
    answer: bool | None = _QUESTIONS[key](installation, value)
    return answer


def said(key: str, new: bool | None, old: bool | None) -> str:
    """The proof in words."""
    if new is None:
        return "not provable here: no service that checks it runs (profiles sre, finops)"
    asked = {
        "JWT_SECRET_KEY": "admin-api",
        "INTERNAL_SERVICE_KEY": "the services that check it",
        "POSTGRES_PASSWORD": "Postgres, over the network",
        "SCUTUM_API_KEY": "admin-api and LiteLLM",
    }
    before = {True: "ACCEPTED", False: "refused", None: "not known any more"}[old]
    return f"the new value is {'accepted' if new else 'REFUSED'} and the old one {before} by {asked[key]}"


def _jwt(installation: Installation, value: str) -> bool:
    return AdminApi(installation.url("admin-api", _DEADLINE), "", _DEADLINE).accepts_token(admin_api.sign_token(value))


def _api_key(installation: Installation, value: str) -> bool:
    admin = AdminApi(installation.url("admin-api", _DEADLINE), value, _DEADLINE).accepts_key()
    gateway = LiteLLM(installation.url("litellm", _DEADLINE), value, _DEADLINE).accepts_key()
    if admin != gateway:
        names = {True: "accepts", False: "refuses"}
        raise ScutumError(f"a value of SCUTUM_API_KEY: admin-api {names[admin]} it, LiteLLM {names[gateway]} it")
    return admin


def _postgres(installation: Installation, value: str) -> bool:
    return Database(installation).password_works(value)


def _internal(installation: Installation, value: str) -> bool | None:
    containers = installation.compose().containers(installation.project)
    verdicts: dict[str, bool] = {}
    for service in VERIFIERS:
        container = containers.get(service)
        if container is None or container["State"]["Status"] != "running":
            continue
        url = _reach(container)
        # A service that takes anything checks nothing (one of the vendor's did not), and proves nothing.
        if url and not _lets_in(service, url, "no key of anybody"):
            verdicts[service] = _lets_in(service, url, value)
    if not verdicts:
        return None
    if len(set(verdicts.values())) > 1:
        takers = ", ".join(name for name, taken in verdicts.items() if taken)
        raise ScutumError(f"a value of INTERNAL_SERVICE_KEY is accepted by {takers} only")
    return next(iter(verdicts.values()))


def _reach(container: dict[str, Any]) -> str:
    """The base URL of a service inside the project's network, as this host reaches it; empty when it answers on no port."""
    exposed = [int(port.split("/")[0]) for port in (container["Config"].get("ExposedPorts") or {})]
    networks = container["NetworkSettings"]["Networks"].values()
    addresses = [network["IPAddress"] for network in networks if network.get("IPAddress")]
    end = time.monotonic() + _DEADLINE
    while addresses:
        for port in dict.fromkeys([*exposed, *_PORTS]):
            url = f"http://{addresses[0]}:{port}"
            try:
                http.request("GET", url + _PATH, timeout=5)
                return url
            except http.NoAnswer:
                continue
        if time.monotonic() > end:
            break
        time.sleep(0.5)
    return ""


def _lets_in(service: str, url: str, key: str) -> bool:
    status = http.request("GET", url + _PATH, headers={"X-Service-Key": key}, timeout=10, deadline=10).status
    if status in (401, 403):
        return False
    if status < 500 and status != 429:
        return True
    raise ScutumError(f"{service} answered {status}, which tells nothing about INTERNAL_SERVICE_KEY")


_QUESTIONS: dict[str, Any] = {
    "JWT_SECRET_KEY": _jwt,
    "INTERNAL_SERVICE_KEY": _internal,
    "POSTGRES_PASSWORD": _postgres,
    "SCUTUM_API_KEY": _api_key,
}
