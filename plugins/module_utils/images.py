# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images: having them on the host, and knowing by digest which ones they are."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .engine import Engine, clean_environment
from .errors import ScutumError
from .installation import Installation

# /run is a tmpfs: registry credentials never reach a disk.
RUNTIME_DIRECTORY = "/run"


def references(model: dict[str, Any]) -> dict[str, str]:
    """Image by service."""
    return {name: str(service["image"]) for name, service in model.get("services", {}).items() if service.get("image")}


def missing(engine: Engine, wanted: dict[str, str]) -> list[str]:
    """Which of the images are not on the host."""
    found = engine.images(list(wanted.values()))
    return sorted({reference for reference in wanted.values() if reference not in found})


def provide(
    installation: Installation,
    wanted: dict[str, str],
    *,
    archive: str = "",
    registry: str = "",
    username: str = "",
    password: str = "",
    timeout: float = 1800,
) -> list[str]:
    """Have every image on the host, from an archive or a registry; the references that were brought in.

    Args:
        wanted: image by service.
        archive: file made by `docker save`, on the host; loaded when something is missing.
        registry, username, password: log in there first; the credentials stay on a tmpfs and are removed.
        timeout: seconds for one image.
    """
    engine = installation.engine
    lacking = missing(engine, wanted)
    if not lacking:
        return []
    if archive:
        if not os.path.exists(archive):
            raise ScutumError(
                f"scutum_image_archive: {archive} does not exist on the host",
                left="nothing was changed",
                next_step="copy the archive to the host, or unset scutum_image_archive to pull",
            )
        engine.must("load", "-q", "-i", archive, timeout=timeout)
        still = missing(engine, wanted)
        if still:
            raise ScutumError(
                f"scutum_image_archive: {archive} does not hold {', '.join(still)}",
                left="the images that it holds were loaded; no container was changed",
                next_step=f"make it with: docker save -o {os.path.basename(archive)} {' '.join(sorted(set(wanted.values())))}",
            )
        return lacking
    config = tempfile.mkdtemp(prefix="scutum-ops-", dir=RUNTIME_DIRECTORY) if username else ""
    environment = clean_environment({"DOCKER_CONFIG": config} if config else None)
    try:
        if username:
            login = engine.run(
                *("login", "--username", username, "--password-stdin", registry),
                stdin=password,
                environment=environment,
                timeout=60,
            )
            if login.rc != 0:
                raise ScutumError(
                    f"registry {registry}: login as {username} refused: {login.err.strip()[-200:]}",
                    left="nothing was changed",
                    next_step="check scutum_image_registry_username and scutum_image_registry_password",
                )
        with ThreadPoolExecutor(max_workers=3) as pool:
            pulls = list(
                pool.map(lambda name: engine.run("pull", "-q", name, environment=environment, timeout=timeout), lacking)
            )
    finally:
        if config:
            shutil.rmtree(config, ignore_errors=True)
    failed = [(name, pull.err.strip()) for name, pull in zip(lacking, pulls) if pull.rc != 0]
    if failed:
        raise ScutumError(
            "cannot pull " + "; ".join(f"{name}: {explain(text)}" for name, text in failed),
            left="no container was changed; images that did arrive are kept",
            next_step=_advice(failed[0][1]),
        )
    return lacking


def explain(text: str) -> str:
    """The last line of an engine's complaint, which is the one that says why."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "no reason given"


def _advice(text: str) -> str:
    if "no space left" in text:
        return "free space in the engine's directory (docker system df), and run the playbook again"
    if "manifest unknown" in text or "not found" in text:
        return "check scutum_version and scutum_image_registry: the registry answers, but does not have this image"
    if "denied" in text or "unauthorized" in text:
        return "set scutum_image_registry_username and scutum_image_registry_password"
    return "check that the host reaches the registry (scutum_image_registry), and run the playbook again"


def record(installation: Installation, wanted: dict[str, str]) -> dict[str, dict[str, str]]:
    """What each service's image is on this host: `digest` by which a registry knows it, and its `id`, by service.

    The id is a hash of the content as well: an image that came from an archive has no digest, but the same id.
    """
    found = installation.engine.images(list(wanted.values()))
    return {service: identity(found[ref]) for service, ref in sorted(wanted.items()) if ref in found}


def identity(item: dict[str, Any]) -> dict[str, str]:
    """Digest and id of a local image."""
    digests = item.get("RepoDigests") or []
    return {"digest": str(digests[0]).rpartition("@")[2] if digests else "", "id": str(item.get("Id", ""))}


def same(actual: dict[str, str], expected: dict[str, str]) -> bool:
    """Whether two identities name one image: equal ids or equal digests."""
    return any(actual.get(key) and actual.get(key) == expected.get(key) for key in ("id", "digest"))


def check_digests(actual: dict[str, dict[str, str]], pinned: dict[str, str]) -> list[str]:
    """What differs from the operator's pins (`scutum_image_digests`), in words."""
    problems = []
    for service, digest in sorted(pinned.items()):
        if service not in actual:
            problems.append(f"scutum_image_digests names {service}, which is not a service that runs here")
        elif not same(actual[service], {"id": digest, "digest": digest}):
            is_now = actual[service]["digest"] or actual[service]["id"]
            problems.append(f"{service}: the image is {is_now}, scutum_image_digests says {digest}")
    return problems


def check_record(
    actual: dict[str, dict[str, str]], first: dict[str, dict[str, str]], pinned: dict[str, str]
) -> list[str]:
    """What is not the image that was recorded when this release was first pulled, in words; a pin overrules the record."""
    problems = []
    for service, image in sorted(actual.items()):
        if service in first and service not in pinned and not same(image, first[service]):
            now, then = (item.get("digest") or item.get("id") for item in (image, first[service]))
            problems.append(
                f"{service}: the image is {now}, at the first pull of this release it was {then} (if that is wanted, pin it: "
                f"scutum_image_digests: {{{service}: '{now}'}})"
            )
    return problems


LABEL_KEEPS = "ops.scutum.keeps"


def keep(installation: Installation, known: dict[str, dict[str, dict[str, str]]], check: bool = False) -> list[str]:
    """Keep images of releases from `docker image prune -a`, and let those of all other releases go; names of what was (or would be) begun.

    A container that was never started holds each: the engine removes no image that a container has.

    Args:
        known: identity by service, by release.
    """
    engine = installation.engine
    prefix = f"scutum-ops-keeps-{installation.project}"
    wanted = {
        f"{prefix}-{version}-{service}": image["id"]
        for version, services in known.items()
        for service, image in services.items()
        if image.get("id")
    }
    held = {
        str(item["Name"]).lstrip("/"): item for item in engine.containers(f"{LABEL_KEEPS}={installation.directory}")
    }
    begun = []
    for name, image in sorted(wanted.items()):
        if name in held and held[name]["Image"] == image:
            continue
        begun.append(name)
        if not check:
            engine.run("rm", "-f", name, timeout=60)
            label = f"{LABEL_KEEPS}={installation.directory}"
            engine.must("create", "--name", name, "--network", "none", "--label", label, image, "true", timeout=60)
    if not check:
        over = sorted(held.keys() - wanted.keys())
        if over:
            engine.run("rm", "-f", *over, timeout=60)
    return begun


def kept(installation: Installation) -> list[str]:
    """Names of the containers that hold images."""
    found = installation.engine.containers(f"{LABEL_KEEPS}={installation.directory}")
    return sorted(str(item["Name"]).lstrip("/") for item in found)


def gone(installation: Installation, known: dict[str, dict[str, str]]) -> list[str]:
    """Services whose image is not on this host any more."""
    there = {
        item["Id"] for item in installation.engine.inspect("image", sorted({item["id"] for item in known.values()}))
    }
    return sorted(service for service, image in known.items() if image.get("id") not in there)
