# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a service reaches its secrets: a file of its own, read by its entrypoint before what it would have run anyway.

The environment of the container, which the engine shows to everybody who may ask it, then holds none.
"""

from __future__ import annotations

from typing import Any

from .compose import mapping
from .engine import Engine
from .errors import ScutumError
from .images import references
from .interpolation import escape, variables
from .secret_store import mark_variable

TARGET = "/run/scutum-secrets"
LABEL = "ops.scutum.secrets"
# The words after it are what the image, or Compose, would have run.
_READ = f'. {TARGET} && exec "$@"'


def places(model: dict[str, Any], keys: set[str], users: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Which service uses what.

    Args:
        model: the project as it is written, variables and all.
        keys: names of the secrets.
        users: uid of each service's image.
    """
    found = {}
    for name, service in model.get("services", {}).items():
        environment = {
            entry: str(text)
            for entry, text in mapping(service.get("environment")).items()
            if text is not None and variables(str(text)) & keys
        }
        if environment and name in users:
            found[name] = {"user": users[name], "environment": environment}
    return found


def users(engine: Engine, model: dict[str, Any], known: dict[str, int]) -> dict[str, int]:
    """The uid of each service's image; images that are not here are left out.

    Args:
        known: uid by image id. A name is asked of the image itself, which takes a container, and added here: it never changes.
    """
    wanted = references(model)
    found = engine.images(list(wanted.values()))
    uids: dict[str, int] = {}
    for service, reference in wanted.items():
        if reference not in found:
            continue
        image = str(found[reference]["Id"])
        user = str(found[reference].get("Config", {}).get("User") or "0").split(":", maxsplit=1)[0]
        if not user.isdigit() and image not in known:
            shown = engine.must("run", "--rm", "--network", "none", "--entrypoint", "id", reference, "-u", timeout=60)
            known[image] = int(shown.strip())
        uids[service] = int(user) if user.isdigit() else known[image]
    return uids


def override(
    engine: Engine,
    raw: dict[str, Any],
    model: dict[str, Any],
    found: dict[str, dict[str, Any]],
    files: dict[str, str],
) -> dict[str, Any]:
    """The additions to the Compose override.

    Args:
        raw: the project as it is written; its `command` and `entrypoint` win over the image's.
        model: the same, interpolated: the images' names.
        found: what `places` returned.
        files: path on the host by service.
    """
    images = engine.images(list(references(model).values()))
    services: dict[str, Any] = {}
    for name, place in found.items():
        service = raw["services"][name]
        config = images.get(references(model)[name], {}).get("Config", {})
        entrypoint = service.get("entrypoint") or [escape(word) for word in config.get("Entrypoint") or []]
        # Setting an entrypoint drops the image's own command.
        command = service.get("command") or [escape(word) for word in config.get("Cmd") or []]
        if isinstance(entrypoint, str) or isinstance(command, str) or not (entrypoint or command):
            raise ScutumError(
                f"{name}: what it runs cannot be told from its image and the Compose file",
                left="nothing was changed",
                next_step="use scutum_secrets_injection: env_file, and report the image",
            )
        services[name] = {
            "entrypoint": ["/bin/sh", "-c", escape(_READ), "scutum", *entrypoint],
            "command": command,
            "environment": dict.fromkeys(place["environment"], ""),
            "volumes": [
                {
                    "type": "bind",
                    "source": files[name],
                    "target": TARGET,
                    "read_only": True,
                    "bind": {"create_host_path": False},
                }
            ],
            # Compose recreates a service whose mark is another one, and only it.
            "labels": {LABEL: f"${{{mark_variable(name)}:-}}"},
        }
    return {"services": services}
