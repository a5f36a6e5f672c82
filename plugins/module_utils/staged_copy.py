# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of an installation beside it: where it lies, whose it is, how it is reached."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from .errors import ScutumError
from .files import ensure_directory, read_text, write_file
from .installation import PORTS, Installation
from .upgrade_settings import Settings

# Below the copy's private directory: whose copy it is, and how far it came.
MARK = "staged.json"
# With the directory of the installation whose copy it is.
LABEL = "ops.scutum.staged"


class StagedCopy(Installation):
    """A copy of an installation.

    Args:
        directory: its own.
        of: the directory of the installation whose copy it is.
    """

    def __init__(self, directory: str, of: str) -> None:
        super().__init__(directory)
        self.of = of

    def url(self, service: str, deadline: float = 0.0) -> str:
        """The base URL of a service: it publishes no port, so it is the container's own address; one that starts is waited for."""
        end = time.monotonic() + deadline
        while True:
            container = self.compose().containers(self.project).get(service)
            found = addresses(container) if container else []
            if found:
                return f"http://{found[0]}:{PORTS[service]}"
            state = str(container["State"]["Status"]) if container else "missing"
            if time.monotonic() >= end or state in ("missing", "exited", "dead", "paused"):
                raise ScutumError(
                    f"{service} has no address in the copy: its container is {state}",
                    left="nothing was asked of it",
                    next_step=f"cd {self.directory} && {self.compose().command('ps', '-a')}",
                )
            time.sleep(0.2)

    def outside_url(self, service: str) -> str:
        """Nobody reaches it from outside."""
        return ""

    def mark(self) -> dict[str, Any]:
        """What is noted about it: `of`, `upgrade` (id of the record), `state`."""
        return dict(json.loads(read_text(os.path.join(self.private, MARK)) or "{}"))

    def note(self, **changes: Any) -> None:
        """Note something about it, before it is true."""
        ensure_directory(self.private, 0o700)
        text = json.dumps({**self.mark(), "of": self.of, **changes}, indent=1) + "\n"
        write_file(os.path.join(self.private, MARK), text, 0o600)


def addresses(container: dict[str, Any]) -> list[str]:
    """The addresses of a container on its networks."""
    networks = container["NetworkSettings"]["Networks"].values()
    return [str(network["IPAddress"]) for network in networks if network.get("IPAddress")]


def directory_of(installation: Installation, wanted: Settings) -> str:
    """Where its copy lies, or would."""
    return os.path.abspath(wanted.staging_directory or f"{installation.directory}-staging")


def load(installation: Installation, wanted: Settings) -> StagedCopy | None:
    """The copy that is there; None when there is none, or somebody else's."""
    copy = StagedCopy(directory_of(installation, wanted), installation.directory)
    return copy if copy.mark().get("of") == installation.directory else None
