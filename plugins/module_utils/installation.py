# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One installation on a host: where things are, what is recorded about it, how its parts are reached."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

from . import compose as compose_module
from . import http_client as http
from .admin_api import AdminApi
from .compose import Compose
from .engine import Engine
from .env_file import EnvFile
from .errors import ScutumError
from .files import ensure_directory, read_text, write_file
from .litellm import LiteLLM
from .redact import redact
from .secret_store import Store

PRIVATE = ".scutum-ops"

# Services of the release, the port inside, and what a person calls them.
PORTS = {"litellm": 4000, "admin-api": 8086, "admin-ui": 80, "docs-site": 80}


class Installation:
    """An installation in a directory.

    Args:
        directory: the directory that holds config/.env; its name is the Compose project's name.
    """

    def __init__(self, directory: str) -> None:
        self.directory = os.path.abspath(directory)
        self.private = os.path.join(self.directory, PRIVATE)
        self.engine = Engine()

    def path(self, *parts: str) -> str:
        """A path below the directory."""
        return os.path.join(self.directory, *parts)

    @property
    def project(self) -> str:
        """The Compose project's name: COMPOSE_PROJECT_NAME when an adopted host has it, else the directory's."""
        name = self.env().get("COMPOSE_PROJECT_NAME") or os.path.basename(self.directory)
        # As Compose makes it.
        return re.sub(r"[^a-z0-9_-]", "", name.lower()).lstrip("_-")

    def env(self) -> EnvFile:
        """config/.env as it is now; empty when there is none."""
        return EnvFile(read_text(self.path(compose_module.ENV_FILE)) or "")

    def exists(self) -> bool:
        """Whether anybody, the vendor's installer or this collection, has installed here."""
        return os.path.exists(self.path(compose_module.ENV_FILE))

    def managed(self) -> bool:
        """Whether this collection has installed or adopted it."""
        return os.path.exists(os.path.join(self.private, "state.json"))

    def adopted(self) -> bool:
        """Whether the vendor's installer made it; decided once, before this collection writes anything."""
        return bool(self.state().get("adopted")) if self.managed() else self.exists()

    def begin(self) -> None:
        """Take it under management: from now on a run that is killed is continued, not taken for the vendor's."""
        if not self.managed():
            self.save_state(adopted=self.exists())

    def compose(self) -> Compose:
        """Compose with the file that is in force."""
        return Compose(
            self.directory, [self.env().get("COMPOSE_FILE") or compose_module.VENDOR_FILE], engine=self.engine
        )

    def state(self) -> dict[str, Any]:
        """What was recorded: `version` (in force), `target` (of a run that has not ended), `adopted`, `images`,
        `alembic_heads`, `litellm_schema`, `schema_window`."""
        text = read_text(os.path.join(self.private, "state.json"))
        if text is None:
            return {}
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise ScutumError(
                f"{self.private}/state.json is not JSON: {error}",
                next_step=f"mv {self.private}/state.json {self.private}/state.json.broken, and run the playbook again: "
                "the installation is then adopted as it stands (set scutum_bind_address, which decides where ports are)",
            ) from error

    def save_state(self, **changes: Any) -> bool:
        """Record something (None removes it); true when that changed the record."""
        state = self.state()
        before = json.dumps(state, sort_keys=True)
        for key, value in changes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        if json.dumps(state, sort_keys=True) == before and self.managed():
            return False
        ensure_directory(self.private, 0o700)
        return write_file(
            os.path.join(self.private, "state.json"), json.dumps(state, indent=2, sort_keys=True) + "\n", 0o600
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep two runs from changing one installation at once."""
        ensure_directory(self.private, 0o700)
        with open(os.path.join(self.private, "lock"), "w", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ScutumError(
                    f"another run is changing {self.directory}",
                    left="nothing was changed by this one",
                    next_step="wait for it to end (the lock goes with its process) and run the playbook again",
                ) from error
            yield

    def store(self) -> Store:
        """The secrets that come from a source."""
        return Store(self.private, self.project)

    def secret(self, key: str) -> str:
        """A secret, from config/.env or from the source; empty when there is none."""
        return self.env().get(key) or self.store().values().get(key, "")

    def secrets_in_force(self) -> dict[str, str]:
        """Every secret that services run with or get at their next start; what only a rotation keeps is left out."""
        held = {**self.env().secrets(), **(self.store().values() if self.store().runtime() else {})}
        return {key: value for key, value in held.items() if not key.endswith(("_PREVIOUS", "_NEXT"))}

    def redact(self, text: str) -> str:
        """Text without the values that are secret."""
        return redact(text, {**self.env().secrets(), **self.store().values()})

    def url(self, service: str, deadline: float = 0.0) -> str:
        """The base URL of a service as this host reaches it; a container that restarts is waited for (seconds)."""
        end = time.monotonic() + deadline
        while (published := self.compose().published(service, PORTS[service])) is None:
            container = self.compose().containers(self.project).get(service)
            state = str(container["State"]["Status"]) if container else "missing"
            if time.monotonic() >= end or state in ("missing", "exited", "dead", "paused"):
                raise ScutumError(
                    f"{service} publishes no port on this host: its container is {state}",
                    left="nothing was asked of it",
                    next_step=f"cd {self.directory} && {self.compose().command('up', '-d', service)}",
                )
            time.sleep(1)
        address, port = published
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
        return f"http://{'[' + address + ']' if ':' in address else address}:{port}"

    def outside_url(self, service: str) -> str:
        """The base URL of a service for people: the host's own address where the port is on all addresses."""
        published = self.compose().published(service, PORTS[service])
        if published is None:
            return ""
        address, port = published
        if address in ("0.0.0.0", "::"):
            # Connecting a datagram socket sends nothing: it only chooses the address that leads outside.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.connect(("192.0.2.1", 9))
                    address = str(probe.getsockname()[0])
                except OSError:
                    address = "127.0.0.1"
        return f"http://{'[' + address + ']' if ':' in address else address}:{port}"

    def answers(self, service: str) -> bool:
        """Whether a service with a port answers an HTTP request of ours."""
        try:
            if service == "litellm":
                return self.litellm(0).alive()
            if service == "admin-api":
                return self.admin_api(0).health()
            return service in PORTS and http.request("GET", self.url(service) + "/", timeout=5).status == 200
        except ScutumError:
            return False

    def admin_api(self, deadline: float = 30.0) -> AdminApi:
        """A client for the admin API."""
        return AdminApi(self.url("admin-api", deadline), self.secret("SCUTUM_API_KEY"), deadline)

    def litellm(self, deadline: float = 30.0) -> LiteLLM:
        """A client for LiteLLM."""
        return LiteLLM(self.url("litellm", deadline), self.secret("SCUTUM_API_KEY"), deadline)
