# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker Compose: the only place that knows its command line, its files and its labels."""

from __future__ import annotations

import json
import os
from typing import Any

from .engine import Engine, Result, clean_environment
from .env_file import EnvFile
from .errors import ScutumError
from .files import read_text
from .redact import redact

VENDOR_FILE = "docker-compose.yaml"
OVERRIDE_FILE = "scutum-ops.override.yaml"
# Named by COMPOSE_FILE in config/.env, because the vendor's CLI passes exactly one -f.
MERGED_FILE = "scutum-ops.compose.yaml"
ENV_FILE = "config/.env"

LABEL_HASH = "com.docker.compose.config-hash"
LABEL_PROJECT = "com.docker.compose.project"
LABEL_SERVICE = "com.docker.compose.service"
LABEL_DIRECTORY = "com.docker.compose.project.working_dir"
LABEL_ONEOFF = "com.docker.compose.oneoff"


class Compose:
    """One Compose project: called as the vendor's CLI calls it, with an environment that cannot shadow config/.env.

    Args:
        directory: where config/.env and the Compose file are.
        files: names below the directory, in the order in which they are merged.
        extra: variables that shall win over config/.env (a version that is not yet switched to, for instance).
        elsewhere: the files lie outside the directory; paths in them are relative to it all the same.
    """

    def __init__(
        self,
        directory: str,
        files: list[str],
        extra: dict[str, str] | None = None,
        engine: Engine | None = None,
        elsewhere: bool = False,
        env_file: str = ENV_FILE,
    ) -> None:
        self.directory = directory
        self.files = files
        self.extra = extra or {}
        self.engine = engine or Engine()
        self.elsewhere = elsewhere
        self.env_file = env_file

    def command(self, *arguments: str) -> str:
        """The call as an operator would type it in the directory."""
        return " ".join(["docker compose", *self._options(), *arguments])

    def _options(self) -> list[str]:
        options = ["--env-file", self.env_file]
        if self.elsewhere:
            options += ["--project-directory", self.directory]
        for name in self.files:
            options += ["-f", name]
        return options

    def run(self, *arguments: str, timeout: float | None = 120, stdin: str | None = None) -> Result:
        """One call of Compose."""
        return self.engine.run(
            "compose",
            *self._options(),
            *arguments,
            # In check mode there may be no directory yet.
            cwd=self.directory if os.path.isdir(self.directory) else None,
            environment=clean_environment(self.extra),
            timeout=timeout,
            stdin=stdin,
        )

    def must(self, *arguments: str, timeout: float | None = 120, stdin: str | None = None) -> str:
        """One call that has to succeed; its standard output."""
        result = self.run(*arguments, timeout=timeout, stdin=stdin)
        if result.rc != 0:
            secrets = EnvFile(read_text(os.path.join(self.directory, self.env_file)) or "").secrets()
            raise ScutumError(
                f"docker compose {arguments[0]} failed ({result.rc}): {redact(result.err.strip()[-800:], secrets)}",
                next_step=f"see it again with: cd {self.directory} && {self.command(*arguments)}",
            )
        return result.out

    def model(self) -> dict[str, Any]:
        """The project as Compose sees it, interpolated; services of inactive profiles are left out. Holds secrets."""
        return dict(json.loads(self.must("config", "--format", "json")))

    def raw_model(self) -> dict[str, Any]:
        """The project as it is written, variables and all; services of every profile."""
        return dict(json.loads(self.must("config", "--no-interpolate", "--format", "json")))

    def merged(self) -> str:
        """All files as one, not interpolated, so that secrets stay in config/.env."""
        return self.must("config", "--no-interpolate")

    def hashes(self) -> dict[str, str]:
        """What Compose compares a running container with, by service."""
        lines = [line.split() for line in self.must("config", "--hash", "*").splitlines()]
        return {words[0]: words[1] for words in lines if len(words) >= 2}

    def containers(self, project: str) -> dict[str, dict[str, Any]]:
        """The project's containers by service; one-off containers are left out."""
        found = {}
        for item in self.engine.containers(f"{LABEL_PROJECT}={project}"):
            labels = item.get("Config", {}).get("Labels") or {}
            if labels.get(LABEL_ONEOFF, "False") != "True":
                found[str(labels.get(LABEL_SERVICE))] = item
        return found

    def container_id(self, project: str, service: str) -> str:
        """The running container of a service; empty when there is none."""
        filters = [
            f"label={LABEL_PROJECT}={project}",
            f"label={LABEL_SERVICE}={service}",
            f"label={LABEL_ONEOFF}=False",
        ]
        arguments = [part for text in filters for part in ("--filter", text)]
        return (self.engine.run("ps", "-q", *arguments, timeout=60).out.split() or [""])[0]

    def logs(self, service: str, lines: int = 20) -> str:
        """The last lines of a service's log. May hold secrets: redact before showing."""
        result = self.run("logs", "--no-color", "--no-log-prefix", "--tail", str(lines), service, timeout=30)
        return (result.out + result.err).strip()

    def published(self, service: str, port: int) -> tuple[str, int] | None:
        """Address and port on the host on which a service's port is published; None when it is not."""
        out = self.run("port", service, str(port), timeout=30).out.strip()
        if ":" not in out:
            return None
        address, unused, number = out.splitlines()[0].rpartition(":")
        if not number.isdigit() or number == "0":
            return None
        return address.strip("[]"), int(number)


def mapping(entries: Any) -> dict[str, Any]:
    """An environment or labels, which may be a list of NAME=value, as a mapping; None is a name without a value."""
    if isinstance(entries, list):
        pairs = [str(item).partition("=") for item in entries]
        return {name: value if equals else None for name, equals, value in pairs}
    return dict(entries or {})
