# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our Compose override: what the operator's settings change in the vendor's file.

The vendor's file is never edited. Lists such as ports are replaced with !override, since Compose would append them.
"""

from __future__ import annotations

import re
from typing import Any

from . import secret_injection
from .compose import mapping
from .engine import mirrored
from .errors import ScutumError
from .yaml_text import Replaced, render

# A tmpfs: with several workers LiteLLM's /metrics/ is only right when they share a directory, empty at each start.
PROMETHEUS_DIRECTORY = "/run/scutum-prometheus"
LITELLM_CONFIG = "config/litellm/config.yaml"
LITELLM_CONFIG_IN_IMAGE = "/etc/litellm/config.yaml"
# A bind-mounted file that changes does not change the service: this label makes Compose recreate LiteLLM, and only it.
LABEL_CONFIG = "ops.scutum.litellm-config"

HEAD = "# Written by scutum.ops (role install) at each run: change variables, not this file.\n"


def build(
    release: dict[str, Any],
    *,
    image_registry: str = "",
    bind_address: str | None = None,
    litellm_workers: int | None = None,
    litellm_config_sha256: str = "",
    extra: dict[str, Any] | None = None,
    secrets: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
) -> str:
    """The text of the override for a release.

    Args:
        release: the release's own Compose model, every profile, not interpolated.
        image_registry: mirror from which every image comes; empty for the vendor's registries.
        bind_address: host address of every published port; None leaves the vendor's bindings (all addresses).
        litellm_workers: worker processes of LiteLLM; None leaves the release's number.
        litellm_config_sha256: hash of the mounted configuration.
        extra: the operator's own additions (`scutum_compose_override`), merged over ours.
        limits: the additions of `limits.additions`, by service, below the operator's own.
        secrets: the additions of `secret_injection.override`, merged over all; None when config/.env has the secrets.
    """
    services: dict[str, dict[str, Any]] = {}
    for name, service in sorted(release.get("services", {}).items()):
        ours: dict[str, Any] = {}
        if service.get("image"):
            # The vendor's `./scutum up` pulls before it starts: postgres:16-alpine moves, and a host without a registry has none.
            ours["pull_policy"] = "missing"
        if image_registry and service.get("image"):
            ours["image"] = mirrored(str(service["image"]), image_registry)
        if bind_address is not None and service.get("ports"):
            ours["ports"] = Replaced([_on_address(port, bind_address) for port in service["ports"]])
        if ours:
            services[name] = ours
    litellm = services.setdefault("litellm", {})
    litellm["environment"] = {
        # LiteLLM migrates the database that it shares with admin-api: a normal start must change no schema.
        "DISABLE_SCHEMA_UPDATE": "true",
        "LITELLM_SALT_KEY": "${LITELLM_SALT_KEY:?is missing in config/.env}"
        if secrets is None
        else "${LITELLM_SALT_KEY:-}",
        "PROMETHEUS_MULTIPROC_DIR": PROMETHEUS_DIRECTORY,
        # Seconds. The supervisor kills a worker that does not answer within 5, and an import takes 10 s of CPU (measured):
        # on a small host, workers that start together die and are started again and again.
        "TIMEOUT_WORKER_HEALTHCHECK": "120",
    }
    litellm["volumes"] = [f"./{LITELLM_CONFIG}:{LITELLM_CONFIG_IN_IMAGE}:ro"]
    litellm["tmpfs"] = [PROMETHEUS_DIRECTORY + ":mode=1777,size=64m"]
    litellm["labels"] = {LABEL_CONFIG: litellm_config_sha256}
    if litellm_workers is not None:
        litellm["command"] = Replaced(_set_workers(release, litellm_workers))
    ours = merge({"services": services}, {"services": limits or {}})
    return HEAD + render(_with_extra(_with_extra(ours, extra or {}), secrets or {}))


def _with_extra(ours: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The operator's additions over ours, in Compose's own sense of each key: what he adds takes nothing of ours away.

    Environment and labels may be lists of NAME=value there; mounts are added; ports replace the vendor's.
    """
    added: dict[str, Any] = {key: value for key, value in extra.items() if value is not None}
    services = {}
    for name, service in (added.get("services") or {}).items():
        mine = ours["services"].get(name, {})
        theirs = dict(service or {})
        for key in ("environment", "labels"):
            if key in theirs:
                theirs[key] = mapping(theirs[key])
        for key in ("volumes", "tmpfs"):
            if isinstance(theirs.get(key), list):
                theirs[key] = [*mine.get(key, []), *theirs[key]]
        if isinstance(theirs.get("ports"), list):
            theirs["ports"] = Replaced(theirs["ports"])
        services[name] = theirs
    return merge(ours, {**added, "services": services})


def lost(model: dict[str, Any]) -> list[str]:
    """What a model lacks of what LiteLLM must have, whatever the operator's additions say."""
    litellm = model.get("services", {}).get("litellm", {})
    environment = litellm.get("environment") or {}
    targets = {str(item.get("target")) for item in litellm.get("volumes") or [] if item.get("type") == "bind"}
    missing = []
    if str(environment.get("DISABLE_SCHEMA_UPDATE")).lower() != "true":
        missing.append("DISABLE_SCHEMA_UPDATE=true in litellm's environment: without it each start may destroy tables")
    injected = any(item.get("target") == secret_injection.TARGET for item in litellm.get("volumes") or [])
    if not environment.get("LITELLM_SALT_KEY") and not injected:
        missing.append("LITELLM_SALT_KEY in litellm's environment")
    if environment.get("PROMETHEUS_MULTIPROC_DIR") != PROMETHEUS_DIRECTORY:
        missing.append(f"PROMETHEUS_MULTIPROC_DIR={PROMETHEUS_DIRECTORY} in litellm's environment")
    if LITELLM_CONFIG_IN_IMAGE not in targets:
        missing.append(f"the mount of {LITELLM_CONFIG_IN_IMAGE} in litellm")
    return missing


def with_workers(command: list[str], workers: int) -> list[str]:
    """LiteLLM's command with another number of worker processes; unchanged when it names none."""
    changed = list(command)
    if "--num_workers" in changed[:-1]:
        changed[changed.index("--num_workers") + 1] = str(workers)
    return changed


def _set_workers(release: dict[str, Any], workers: int) -> list[str]:
    command = list(release.get("services", {}).get("litellm", {}).get("command") or [])
    if "--num_workers" not in command:
        raise ScutumError(
            "scutum_litellm_workers: the release's command for litellm has no --num_workers to change",
            left="nothing was changed",
            next_step="unset scutum_litellm_workers, or set the whole command in scutum_compose_override",
        )
    return with_workers(command, workers)


def _on_address(port: Any, address: str) -> str:
    """A published port in short syntax on another address; the number stays the variable that the vendor wrote."""
    host = f"[{address}]" if ":" in address else address
    if isinstance(port, dict):
        return f"{host}:{port['published']}:{port['target']}"
    # The host's part may hold colons inside ${NAME:-default}; an address before it is the vendor's, and goes.
    parts = re.findall(r"(?:\$\{[^}]*\}|[^:])+", str(port))
    return ":".join([host, *parts[-2:]])


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings merged recursively; anything else in `over` wins."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged
