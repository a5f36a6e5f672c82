# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets on a host: where they come from, and the tmpfs on which they lie while the host runs.

source -> values.json (root alone) -> one file for each service, with just what it uses, readable by its image's user alone.
Nothing of it is on a disk but the source's own credential. After a reboot the unit fetches again before the engine starts.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from typing import Any

from .errors import ScutumError
from .files import ensure_directory, read_text, write_file
from .interpolation import interpolate
from .secret_ages import Marks
from .secret_sources import GIVEN, Source

RUNTIME = "/run/scutum-ops"
# Below the installation's private directory, 0600.
SETTINGS = "secrets.json"
CREDENTIAL = "secrets-credential.json"
PLACES = "secrets-places.json"
ROTATION = "secrets-rotation.json"
# Postgres takes its password from the environment when it makes its cluster, and never again: a new one is no reason to recreate it.
_READ_ONCE = {"postgres": frozenset({"POSTGRES_PASSWORD"})}
# Variables of config/.env that hold the services' marks: Compose recreates a service whose mark is another one.
MARK = "SCUTUM_OPS_MARK_"


@dataclass(frozen=True)
class Settings:
    """Where the secrets of an installation come from.

    Args:
        source: name of the source.
        options: of the source; no secret among them.
        injection: `runtime` (fetched on the host at start, never in a file on disk) or `env_file` (config/.env).
    """

    source: str
    options: dict[str, Any]
    injection: str = "runtime"


class Store:
    """The secrets of one installation.

    Args:
        private: the installation's private directory.
        project: its Compose project; names the directory on the tmpfs.
    """

    def __init__(self, private: str, project: str) -> None:
        self.private = private
        self.directory = os.path.join(RUNTIME, project)

    def _kept(self, name: str) -> Any:
        return json.loads(read_text(os.path.join(self.private, name)) or "null")

    def settings(self) -> Settings | None:
        """Where the secrets come from; None when config/.env is all there is."""
        found = self._kept(SETTINGS)
        return Settings(found["source"], found["options"], found["injection"]) if found else None

    def source(self) -> Source | None:
        """The source that is kept; None when config/.env is all there is."""
        settings = self.settings()
        return Source(settings.source, settings.options, self.credential()) if settings else None

    def forget(self, check: bool = False) -> list[str]:
        """Keep nothing of a source any more: config/.env is all there is; names of what was (or would be) taken away."""
        paths = [os.path.join(self.private, name) for name in (SETTINGS, CREDENTIAL, PLACES)]
        found = [path for path in [*paths, self.directory] if os.path.exists(path)]
        if not check:
            for path in found:
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        return [os.path.basename(path) for path in found]

    def runtime(self) -> bool:
        """Whether services get their secrets from the tmpfs."""
        settings = self.settings()
        return settings is not None and settings.injection == "runtime"

    def configure(self, settings: Settings, credential: dict[str, str], check: bool = False) -> list[str]:
        """Keep where the secrets come from, and the source's credential; names of what was (or would be) changed."""
        if not check:
            ensure_directory(self.private, 0o700)
        texts: dict[str, dict[str, Any]] = {
            SETTINGS: {"source": settings.source, "options": settings.options, "injection": settings.injection},
            # Of source file it would be the values.
            CREDENTIAL: {} if settings.source in GIVEN else credential,
        }
        return [
            name
            for name, content in texts.items()
            if write_file(
                os.path.join(self.private, name), json.dumps(content, indent=1, sort_keys=True) + "\n", 0o600, check
            )
        ]

    def credential(self) -> dict[str, str]:
        """The source's own credential: the one secret at rest."""
        return dict(self._kept(CREDENTIAL) or {})

    def values(self) -> dict[str, str]:
        """What was fetched; empty when nothing was since the last start of the host."""
        return dict(json.loads(read_text(os.path.join(self.directory, "values.json")) or "{}"))

    def keep(self, values: dict[str, str]) -> bool:
        """Put what was fetched on the tmpfs, for root alone; true when it differs from what was there."""
        self._refuse_disk()
        ensure_directory(RUNTIME, 0o700)
        ensure_directory(self.directory, 0o700)
        return write_file(os.path.join(self.directory, "values.json"), json.dumps(values, sort_keys=True) + "\n", 0o600)

    def _refuse_disk(self) -> None:
        parent = "/run"
        with open("/proc/mounts", encoding="utf-8") as handle:
            kinds = {line.split()[1]: line.split()[2] for line in handle}
        if kinds.get(parent) not in ("tmpfs", "ramfs"):
            raise ScutumError(
                f"{parent} is no tmpfs on this host: secrets would lie on a disk",
                left="nothing was written",
                next_step="use scutum_secrets_injection: env_file, or have /run as a tmpfs",
            )

    # --- places: which service uses what; no secret among them

    def places(self) -> dict[str, dict[str, Any]]:
        """By service: `user` (uid) and `environment` (name to a text with variables)."""
        return dict(self._kept(PLACES) or {})

    def save_places(self, places: dict[str, dict[str, Any]], check: bool = False) -> bool:
        """Keep which service uses what, for the next start of the host."""
        text = json.dumps(places, indent=1, sort_keys=True) + "\n"
        return write_file(os.path.join(self.private, PLACES), text, 0o600, check)

    def file(self, service: str) -> str:
        """The file that a service gets."""
        return os.path.join(self.directory, "services", service)

    def place(self, plain: dict[str, str], places: dict[str, dict[str, Any]]) -> list[str]:
        """Write the services' files; names of the services whose file changed.

        Args:
            plain: config/.env, for variables that are no secrets.
        """
        self._refuse_disk()
        if not self.values():
            # The variables' defaults would do, which are the vendor's published ones.
            raise ScutumError(
                f"{self.directory} holds no secrets: nothing was fetched since the host started",
                left="no service's file was written",
                next_step="scutum-ops secrets-fetch says why",
            )
        ensure_directory(os.path.join(self.directory, "services"), 0o700)
        changed = []
        for service, content in self.render(plain, places).items():
            path = self.file(service)
            if write_file(path, content, 0o400):
                changed.append(service)
            os.chown(path, int(places[service]["user"]), -1)
        for name in os.listdir(os.path.dirname(self.file(""))):
            if name not in places:
                os.unlink(self.file(name))
        return changed

    def render(self, plain: dict[str, str], places: dict[str, dict[str, Any]]) -> dict[str, str]:
        """The text of each service's file: what a shell reads back as it was, whatever a value holds."""
        values = {**plain, **self.values()}
        return {service: _exports(place["environment"], values) for service, place in places.items()}

    def marks(self, plain: dict[str, str], places: dict[str, dict[str, Any]]) -> dict[str, str]:
        """By variable of config/.env, a mark of each service that changes with its secrets and tells nothing about them."""
        values, marks = {**plain, **self.values()}, Marks(self.private)
        found = {}
        for service, place in places.items():
            once = _READ_ONCE.get(service, frozenset())
            texts = {name: text for name, text in place["environment"].items() if name not in once}
            found[mark_variable(service)] = marks.of(_exports(texts, values))
        return found


def mark_variable(service: str) -> str:
    """The variable of config/.env with a service's mark."""
    return MARK + re.sub(r"[^A-Z0-9]", "_", service.upper())


def _exports(texts: dict[str, str], values: dict[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(interpolate(text, values))}\n" for name, text in sorted(texts.items()))
