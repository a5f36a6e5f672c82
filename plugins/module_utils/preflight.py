# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Preflight: what is on a host, and everything that would make an install fail, found before anything changes."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import urllib.parse
from typing import Any

from . import litellm_config as litellm_config_module
from . import release
from .compose import ENV_FILE, LABEL_DIRECTORY, LABEL_PROJECT, LABEL_SERVICE, VENDOR_FILE
from .engine import MINIMUM_COMPOSE, MINIMUM_ENGINE, version_tuple
from .env_file import OWNED, EnvFile, problem_with
from .env_file import texts as env_texts
from .errors import ScutumError
from .files import existing, free_bytes
from .installation import Installation

# Profile by service of the release's Compose file; without it a service does not run.
PROFILES = {
    "sre-agent": "sre",
    "cost-predictor": "finops",
    "budget-webhook": "finops",
    "prometheus": "observability",
    "grafana": "observability",
    "jaeger": "observability",
}
# Port on the host by variable: the defaults of the release's Compose file.
PUBLISHED = {"LITELLM_PORT": 4000, "ADMIN_API_PORT": 8086, "ADMIN_UI_PORT": 5173, "DOCS_SITE_PORT": 8089}


def examine(
    installation: Installation,
    version: str,
    *,
    engine_source: str = "auto",
    bind_address: str = "",
    wanted: dict[str, Any] | None = None,
    minimum_free_mb: int = 0,
    image_registry: str = "",
    image_digests: dict[str, str] | None = None,
    release_sha256: dict[str, str] | None = None,
    release_base_url: str = "",
    litellm_workers: int | None = None,
    litellm_config: dict[str, Any] | None = None,
    start_timeout: int = 1,
    profiles: list[str] | None = None,
) -> dict[str, Any]:
    """Look at a host and refuse what cannot work, with every problem in one message.

    Args:
        version: the release that is to be installed.
        engine_source: `none` means that a missing engine is the operator's to install.
        bind_address: where ports will be published.
        wanted: `scutum_env`.
        minimum_free_mb: MiB that have to be free for images while the installation is not there yet.
        image_registry, image_digests, release_sha256, release_base_url, litellm_workers, litellm_config, start_timeout,
            profiles: the variables of the role with these names, checked for what their types cannot say.

    Returns:
        `engine` (versions, `present`), `installation` (`absent`, `vendor` or `managed`), `installed_version`.
    """
    release.check_version(version)
    texts, problems = env_texts(wanted or {})
    problems = [f"scutum_env: {text}" for text in problems]
    env = installation.env()
    state = installation.state()
    kind = "managed" if installation.managed() else "vendor" if installation.exists() else "absent"
    installed = str(state.get("version") or "")
    written = env.get("SCUTUM_VERSION")
    # An upgrade by the vendor's CLI is not in our record. A run of ours that did not end has written what it aimed at.
    if written and written != state.get("target") and version_tuple(written) > version_tuple(installed or "0"):
        installed = written
    engine = installation.engine.versions()
    engine["present"] = bool(engine["server"])
    problems += _engine_problems(engine, installation.engine.installed(), engine_source)
    if installed and version_tuple(version) < version_tuple(installed):
        problems.append(
            f"scutum_version is {version}, but {installed} is installed: an older release does not start on a newer "
            "database; going back is done by restoring the backup taken before the upgrade"
        )
    if kind == "vendor" and installed and installed != version:
        problems.append(
            f"{installation.directory} holds the vendor's installation of {installed}: adopt it at that version first "
            f"(scutum_version: {installed}), then change the version"
        )
    problems += _value_problems(
        bind_address, image_registry, image_digests or {}, release_sha256 or {}, release_base_url, litellm_workers
    )
    problems += litellm_config_module.problems_with(litellm_config or {})
    for name, number, least in (("start_timeout", start_timeout, 1), ("min_free_mb", minimum_free_mb, 0)):
        if number < least:
            problems.append(f"scutum_install_{name}: {number} is too small, {least} is the least")
    own = env.get("COMPOSE_FILE")
    if kind == "vendor" and own and own != VENDOR_FILE:
        problems.append(
            f"COMPOSE_FILE in {installation.path(ENV_FILE)} is {own}, a file of your own, which adopting would replace: carry "
            "what differs into scutum_compose_override (volumes first: a database elsewhere would look empty), then take "
            "COMPOSE_FILE out"
        )
    for place in litellm_config_module.literal_secrets(litellm_config or {}):
        problems.append(f"{place} holds a secret: put it into scutum_env and write os.environ/ITS_NAME there")
    for key, value in sorted(texts.items()):
        if key in OWNED:
            problems.append(f"{key} cannot be set through scutum_env: it is decided by {OWNED[key]}")
        elif why := (problem_with(key, value) if value else None):
            problems.append(f"scutum_env: {why}")
    if engine["present"]:
        problems += _other_installations(installation)
        problems += orphaned_data(installation)
        if kind == "vendor":
            problems += _profiles_off(installation, set(profiles or env.get("COMPOSE_PROFILES").split(",")))
    problems += _busy_ports(installation, env, texts, bind_address, engine["present"])
    if kind == "absent" and minimum_free_mb:
        problems += _disk(engine["root"], minimum_free_mb)
    if problems:
        raise ScutumError(
            "; ".join(problems) if len(problems) == 1 else "\n".join(["", *(f"- {text}" for text in problems)]),
            left="nothing was changed",
            next_step="correct this and run the playbook again",
        )
    return {"engine": engine, "installation": kind, "installed_version": installed}


def _value_problems(
    bind_address: str,
    image_registry: str,
    image_digests: dict[str, str],
    release_sha256: dict[str, str],
    release_base_url: str,
    litellm_workers: int | None,
) -> list[str]:
    problems = []
    if bind_address:
        try:
            ipaddress.ip_address(bind_address)
        except ValueError:
            problems.append(f"scutum_bind_address: {bind_address} is not an IP address, such as 127.0.0.1 or 0.0.0.0")
    if "://" in image_registry or image_registry.endswith("/"):
        problems.append(f"scutum_image_registry: {image_registry} has to be host[:port][/prefix], without https://")
    for service, digest in sorted(image_digests.items()):
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", str(digest)):
            problems.append(f"scutum_image_digests: {service} needs sha256: and 64 hexadecimal digits")
    for name, value in sorted(release_sha256.items()):
        if name not in release.FILES:
            problems.append(
                f"scutum_release_sha256: {name} is no file of a bundle ({', '.join(sorted(release.FILES))})"
            )
        elif not re.fullmatch(r"[0-9a-fA-F]{64}", str(value)):
            problems.append(f"scutum_release_sha256: {name} needs 64 hexadecimal digits")
    if release_base_url and not _is_url(release_base_url):
        problems.append(f"scutum_release_base_url: {release_base_url} is not an http(s) URL")
    if litellm_workers is not None and not 1 <= litellm_workers <= 256:
        problems.append(f"scutum_litellm_workers: {litellm_workers} is not between 1 and 256")
    return problems


def _is_url(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not re.search(r"\s", text)
        )
    except ValueError:
        return False


def _engine_problems(engine: dict[str, Any], installed: bool, source: str) -> list[str]:
    if not engine["present"]:
        if source == "none":
            why = "its daemon does not answer" if installed else "there is none"
            return [f"scutum_install_engine is none, so the engine has to be there, but {why}: systemctl status docker"]
        # Another one beside it would fight over its files.
        return ["docker is installed, but its daemon does not answer: systemctl status docker"] if installed else []
    problems = []
    if version_tuple(engine["server"]) < MINIMUM_ENGINE:
        problems.append(
            f"Docker Engine {engine['server']} is too old: {'.'.join(map(str, MINIMUM_ENGINE))} or newer is needed"
        )
    if version_tuple(engine["compose"] or "0") < MINIMUM_COMPOSE:
        have = f"Docker Compose {engine['compose']} is too old" if engine["compose"] else "Docker Compose is missing"
        problems.append(
            f"{have}: {'.'.join(map(str, MINIMUM_COMPOSE))} or newer is needed (!override and !reset); install or upgrade "
            "docker-compose-plugin (Docker's repository), docker-compose (Debian 13) or docker-compose-v2 (Ubuntu)"
        )
    return problems


def _other_installations(installation: Installation) -> list[str]:
    for item in installation.engine.inspect("container", ["scutum-proxy"]):
        where = (item["Config"].get("Labels") or {}).get(LABEL_DIRECTORY, "")
        if where and os.path.realpath(where) != os.path.realpath(installation.directory):
            text = f"Scutum already runs on this host from {where}: set scutum_dir: {where} to adopt it"
            return [f"{text} (scutum_dir is {installation.directory})"]
    return []


def _profiles_off(installation: Installation, on: set[str]) -> list[str]:
    """Services that were switched on by hand, and would be switched off by adopting."""
    found = installation.engine.containers(f"{LABEL_PROJECT}={installation.project}")
    running = {str(item["Config"]["Labels"].get(LABEL_SERVICE)) for item in found if item["State"]["Running"]}
    off = {PROFILES[name] for name in running & set(PROFILES) if not {PROFILES[name], "full"} & on}
    return [
        f"services of the profile {name} run, and neither scutum_profiles nor COMPOSE_PROFILES in config/.env has it: they "
        f"would be stopped. Add {name} to scutum_profiles, or stop them yourself"
        for name in sorted(off)
    ]


def orphaned_data(installation: Installation) -> list[str]:
    """A database of an installation whose config/.env is gone, in words: its password is gone with it."""
    volume = f"{installation.project}_postgres-data"
    if not installation.exists() and installation.engine.inspect("volume", [volume]):
        text = (
            f"the volume {volume} holds a database, but {installation.directory}/config/.env with its password is gone"
        )
        return [f"{text}: put config/.env back, or move the volume away if its data is not wanted"]
    return []


def _busy_ports(
    installation: Installation, env: EnvFile, wanted: dict[str, str], address: str, engine_present: bool
) -> list[str]:
    ours = set()
    if engine_present:
        # By project and not by directory, which may be a symbolic link to the one that the label names.
        for item in installation.engine.containers(f"{LABEL_PROJECT}={installation.project}"):
            for bindings in (item.get("NetworkSettings", {}).get("Ports") or {}).values():
                ours |= {int(binding["HostPort"]) for binding in bindings or []}
    problems = []
    for key, default in PUBLISHED.items():
        text = wanted.get(key) or env.get(key) or str(default)
        if not text.isdigit() or not 0 < int(text) < 65536:
            problems.append(f"{key} is not a port number")
        elif int(text) not in ours and _is_taken(address or "0.0.0.0", int(text)):
            problems.append(
                f"port {text} ({key}) is already taken on this host: free it (ss -ltnp 'sport = :{text}'), "
                f"or set another {key} in scutum_env"
            )
    return problems


def _is_taken(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _disk(root: str, minimum_mb: int) -> list[str]:
    path = existing(root or "/var/lib/docker")
    free = free_bytes(path) // 2**20
    if free < minimum_mb:
        text = f"{path} has {free} MiB free, and the images need {minimum_mb} MiB (scutum_install_min_free_mb)"
        return [f"{text}: free space, for instance with docker image prune, or move data-root to a larger disk"]
    return []
