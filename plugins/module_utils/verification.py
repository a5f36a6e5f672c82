# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification: what has to be true of a running installation, asked of the installation itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from . import images, limits
from .compose import Compose
from .database import Database
from .errors import ScutumError
from .images import references
from .installation import PORTS, Installation
from .litellm import LiteLLM
from .stack import unhealthy

LABEL_VERSION = "org.opencontainers.image.version"
# The line with which admin-api says that alembic has reached the head (vendor: src/admin-api/database.py).
_MIGRATED = "Database migrations completed"


def verify(
    installation: Installation,
    version: str,
    smoke_models: list[str],
    pinned: dict[str, str] | None = None,
    deadline: float = 60,
) -> dict[str, Any]:
    """Run every check and report all of them, also after one has failed.

    Args:
        version: the release that every Scutum image has to be labelled with.
        smoke_models: models that have to answer a completion by themselves, without fallback or cache.
        pinned: digest by service (`scutum_image_digests`); services not named are compared with the record.
        deadline: seconds for which a service that has just started may refuse connections.

    Returns:
        `ok`, `checks` (name, ok, detail, seconds), `licence`, `urls`, `services` (names of those at fault).
    """
    compose = installation.compose()
    model = compose.model()
    containers = compose.containers(str(model["name"]))
    checks: list[dict[str, Any]] = []
    faulty: list[str] = []

    def check(name: str, service: str, function: Callable[[], str]) -> None:
        start = time.monotonic()
        try:
            detail, passed = function(), True
        except ScutumError as error:
            detail, passed = installation.redact(error.what), False
            if service and service not in faulty:
                faulty.append(service)
        checks.append({"name": name, "ok": passed, "detail": detail, "seconds": round(time.monotonic() - start, 2)})

    for service in sorted(model["services"]):
        check(f"container {service}", service, partial(_container, installation, service, containers))
    check("release", "", lambda: versions(model, containers, version))
    there = counted(model, containers)
    check("image digests", "", lambda: digests(installation, there, version, pinned or {}))
    bounds = limits.load(installation).current
    if bounds:
        check("limits", "", lambda: limits.must_be_in_force(installation, bounds))
    check("migrations", "admin-api", lambda: _migrations(installation, compose, containers))
    check("LiteLLM's tables", "litellm", lambda: _litellm_tables(installation))
    licence: dict[str, Any] = {}

    def database_through_api() -> str:
        installation.admin_api(deadline).audit_logs(limit=1)
        return "login and a query of audit_logs answered"

    def licence_state() -> str:
        licence.update(installation.admin_api(deadline).licence())
        return describe_licence(licence)

    def answers(name: str) -> str:
        return completion(installation.litellm(deadline), name)

    check("admin-api with database", "admin-api", database_through_api)
    check("licence is readable", "admin-api", licence_state)
    for name in smoke_models:
        check(f"completion {name}", "litellm", partial(answers, name))
    urls = {}
    for service in sorted(set(PORTS) & set(model["services"])):
        with contextlib.suppress(ScutumError):
            urls[service] = installation.outside_url(service)
    return {
        "ok": all(item["ok"] for item in checks),
        "checks": checks,
        "licence": licence,
        "urls": urls,
        "services": faulty,
    }


def report(installation: Installation, result: dict[str, Any], lines: int = 15) -> str:
    """What failed, with the last lines of the log of the services at fault. Holds no secret."""
    failed = [f"{item['name']}: {item['detail']}" for item in result["checks"] if not item["ok"]]
    text = f"{len(failed)} of {len(result['checks'])} checks failed:\n- " + "\n- ".join(failed)
    for service in result["services"]:
        text += f"\nLast lines of {service}:\n" + installation.redact(installation.compose().logs(service, lines))
    return text


def describe_licence(licence: dict[str, Any]) -> str:
    """The licence in a few words."""
    if not licence.get("present"):
        return "no licence (traffic is served all the same)"
    if licence.get("expired"):
        return f"{licence.get('tier')}, EXPIRED at {licence.get('expires_at')} (traffic is served all the same)"
    if not licence.get("valid"):
        return f"not valid: {licence.get('error')}"
    return f"{licence.get('tier')}, {licence.get('days_remaining')} days left (until {licence.get('expires_at')})"


def _container(installation: Installation, service: str, containers: dict[str, dict[str, Any]]) -> str:
    why = unhealthy(installation, service, containers.get(service))
    if why:
        raise ScutumError(why)
    health = (containers[service]["State"].get("Health") or {}).get("Status", "running")
    return health if health in ("healthy", "running") else f"answers (the engine's own check says {health})"


def counted(model: dict[str, Any], containers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The containers that count: a service whose profile is off was stopped, and does no more; one that runs all the same does."""
    return {
        name: item
        for name, item in containers.items()
        if name in model["services"] or item["State"]["Status"] != "exited"
    }


def versions(model: dict[str, Any], containers: dict[str, dict[str, Any]], version: str) -> str:
    """Whether every container of a Scutum image carries the release's label."""
    wrong = []
    count = 0
    for service, reference in sorted(references(model).items()):
        if "/scutum-" not in reference or service not in containers:
            continue
        count += 1
        label = (containers[service]["Config"].get("Labels") or {}).get(LABEL_VERSION, "(no label)")
        if label != version:
            wrong.append(f"{service} is {label}")
    if wrong:
        raise ScutumError(f"pinned is {version}, but {', '.join(wrong)}")
    if not count:
        raise ScutumError("no container runs an image of Scutum")
    return f"{count} Scutum containers are labelled {version}"


def digests(
    installation: Installation, containers: dict[str, dict[str, Any]], version: str, pinned: dict[str, str]
) -> str:
    """Whether every container runs the image that is pinned, or was recorded for the release."""
    recorded = installation.state().get("images", {}).get(version, {})
    found = installation.engine.inspect("image", sorted({item["Image"] for item in containers.values()}))
    actual = {item["Id"]: images.identity(item) for item in found}
    running = {service: actual.get(item["Image"], {"id": item["Image"]}) for service, item in containers.items()}
    wrong = images.check_digests(running, pinned)
    wrong += images.check_record(running, recorded, pinned)
    unknown = sorted(set(running) - set(recorded) - set(pinned))
    if unknown:
        wrong.append(f"no image was recorded for {', '.join(unknown)} of release {version}: run playbooks/install.yml")
    if wrong:
        raise ScutumError("; ".join(wrong))
    return f"{len(containers)} containers run the recorded images"


def _migrations(installation: Installation, compose: Compose, containers: dict[str, dict[str, Any]]) -> str:
    current = Database(installation).alembic_version()
    if not current:
        raise ScutumError("admin-api has migrated nothing: the table alembic_version is not there")
    image = str((containers.get("admin-api") or {}).get("Image", ""))
    heads = installation.state().get("alembic_heads", {})
    head = heads.get(image)
    if not head:
        # Asked of the image once: it costs a second, and an image's head never changes.
        out = compose.run("exec", "-T", "admin-api", "alembic", "heads", timeout=60).out.split()
        head = out[0] if out else ""
        if head and installation.managed():
            # A record is a convenience: a run that holds the lock writes its own.
            with contextlib.suppress(ScutumError), installation.lock():
                installation.save_state(alembic_heads={image: head})
    if head and head != current:
        raise ScutumError(f"the database is at revision {current}, the image's head is {head}")
    if head:
        return f"at head {current}"
    if _MIGRATED not in compose.logs("admin-api", 5000):
        raise ScutumError(f"the image does not tell its head, and the log of admin-api has no line '{_MIGRATED}'")
    return f"at {current}, and admin-api's log says '{_MIGRATED}' (the image does not tell its head)"


def _litellm_tables(installation: Installation) -> str:
    tables = Database(installation).litellm_tables()
    if not tables:
        raise ScutumError("LiteLLM's tables are not in the database: spend is not recorded")
    return f"{len(tables)} tables"


def completion(client: LiteLLM, name: str) -> str:
    """Whether a model answers by itself, without fallback or cache."""
    probe = client.probe(name)
    if not probe.ok:
        raise ScutumError(probe.error)
    return f"answered in {probe.seconds:.2f} s"
