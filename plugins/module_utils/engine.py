# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container engine: finding it, calling it, asking it about images and containers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ScutumError

# The first Compose that understands both !override and !reset without known faults (vendor's compose file needs both).
MINIMUM_COMPOSE = (2, 24, 4)
MINIMUM_ENGINE = (20, 10, 0)
# What runc says when its own start of an exec broke on a busy host; nothing of the command has run. A command that is not there, and a
# container that does not run, are told in other words.
_NOT_STARTED = re.compile(
    r"OCI runtime exec failed: exec failed: unable to start container process: [^\n]*"
    r"(setns process|procReady|can't find|can't get final child's PID|read init-p|getting the final child's pid)[^\n]*"
)
_ATTEMPTS = 3


def version_tuple(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.26.1-4` gives (2, 26, 1)."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in match.groups()) if match else (0, 0, 0)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment for Compose that holds none of its variables.

    Compose prefers the shell's value over config/.env, so a variable exported by whoever started us (the vendor's CLI
    exports all of them) would silently win.
    """
    keep = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "DOCKER_HOST", "DOCKER_CONFIG", "SSL_CERT_FILE", "TMPDIR")
    environment = {key: os.environ[key] for key in keep if key in os.environ}
    environment.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    environment.setdefault("HOME", "/root")
    environment.update(extra or {})
    return environment


@dataclass
class Result:
    """What a command printed and how it ended."""

    rc: int
    out: str
    err: str


def run(
    arguments: list[str],
    *,
    cwd: str | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> Result:
    """Run a command to its end; rc 124 and a note when it takes longer than the time-out (seconds)."""
    try:
        done = subprocess.run(
            arguments,
            cwd=cwd,
            env=dict(environment) if environment is not None else clean_environment(),
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        return Result(127, "", f"{arguments[0]}: no such command")
    except subprocess.TimeoutExpired:
        return Result(124, "", f"{' '.join(arguments[:4])} … took longer than {timeout:.0f} s")
    return Result(done.returncode, done.stdout, done.stderr)


class Engine:
    """Docker's command line. Podman will be a second class with the same methods."""

    def __init__(self, binary: str = "docker") -> None:
        self.binary = binary

    def run(self, *arguments: str, **options: Any) -> Result:
        """One call of the command line. An `exec` whose command was never started is tried again, twice."""
        for attempt in range(1, _ATTEMPTS + 1):
            result = run([self.binary, *arguments], **options)
            if arguments[:1] != ("exec",) or not never_started(result):
                break
            time.sleep(0.2 * attempt)
        return result

    def must(self, *arguments: str, **options: Any) -> str:
        """One call that has to succeed; its standard output."""
        result = self.run(*arguments, **options)
        if result.rc != 0:
            raise ScutumError(
                f"{self.binary} {arguments[0]} failed ({result.rc}): {result.err.strip()[-600:]}",
                next_step=f"see it again with: {self.binary} {' '.join(arguments)}",
            )
        return result.out

    def start(self, variables: Mapping[str, str], *arguments: str, timeout: float) -> str:
        """`run -d` with environment variables for the container, whose values reach neither the process list nor a message.

        The command names them only, and the command line takes the values from its own environment.
        """
        named = [word for name in variables for word in ("-e", name)]
        return self.must("run", "-d", *named, *arguments, environment=clean_environment(variables), timeout=timeout)

    def installed(self) -> bool:
        """Whether the command line is there."""
        return shutil.which(self.binary) is not None

    def versions(self) -> dict[str, Any]:
        """`server`, `compose` (strings, empty when there is none) and `root`, where images are kept."""
        if not self.installed():
            return {"server": "", "compose": "", "root": ""}
        info = self.run("info", "--format", "{{.ServerVersion}}|{{.DockerRootDir}}", timeout=30)
        server, unused, root = info.out.strip().partition("|")
        compose = self.run("compose", "version", "--short", timeout=30)
        return {
            "server": server if info.rc == 0 else "",
            "root": root,
            "compose": compose.out.strip().lstrip("v") if compose.rc == 0 else "",
        }

    def inspect(self, kind: str, names: list[str]) -> list[dict[str, Any]]:
        """What the engine knows about those of the named objects that exist."""
        if not names:
            return []
        result = self.run(kind, "inspect", *names, timeout=60)
        try:
            data = json.loads(result.out or "[]")
        except ValueError:
            data = []
        return [item for item in data if isinstance(item, dict)]

    def images(self, references: list[str]) -> dict[str, dict[str, Any]]:
        """Local images by the reference that was asked for; missing ones are left out."""
        found = {}
        for item in self.inspect("image", sorted(set(references))):
            tags = set(item.get("RepoTags") or []) | set(item.get("RepoDigests") or [])
            for reference in references:
                if reference in tags or familiar(reference) in {familiar(tag) for tag in tags}:
                    found[reference] = item
        return found

    def containers(self, label: str) -> list[dict[str, Any]]:
        """Every container, stopped ones too, that carries a label (`key=value`)."""
        ids = self.run("ps", "-aq", "--filter", "label=" + label, timeout=60).out.split()
        return self.inspect("container", ids)


def never_started(result: Result) -> bool:
    """Whether an `exec` failed before its command began: it may be tried again, whatever the command does.

    The engine prints it in place of the command's output, some versions to stdout, others to stderr.
    """
    said = (result.out + result.err).strip()
    return result.rc in (126, 127, 128) and _NOT_STARTED.fullmatch(said) is not None


def familiar(reference: str) -> str:
    """An image reference the way the engine shows it: without the parts that it adds by itself."""
    for prefix in ("docker.io/library/", "docker.io/"):
        reference = reference.removeprefix(prefix)
    if "@" not in reference and ":" not in reference.rsplit("/", 1)[-1]:
        reference += ":latest"
    return reference


def mirrored(reference: str, registry: str) -> str:
    """The same image on a mirror: its registry host is replaced, Docker Hub's official images become `library/…`."""
    if not registry:
        return reference
    first, unused, rest = reference.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        path = rest
    elif rest:
        path = reference
    else:
        path = "library/" + reference
    return registry.rstrip("/") + "/" + path
