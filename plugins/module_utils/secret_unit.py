# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd unit that fetches secrets at each start of the host, before the engine starts its containers."""

from __future__ import annotations

import os

from .files import write_file
from .installation import Installation
from .schedule import UNITS, quoted, state, systemctl

NAME = "scutum-ops-secrets.service"
# The engine waits for it: containers that start without their file would fail. It ends by itself, and then the engine starts.
_UNIT = """# Written by scutum.ops (role secrets): change variables, not this file.
[Unit]
Description=Scutum: secrets from {source}, before the engine starts
Wants=network-online.target
After=network-online.target
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command}
TimeoutStartSec={timeout}

[Install]
WantedBy=docker.service multi-user.target
"""


def ensure(installation: Installation, source: str, command: str, deadline: int, check: bool = False) -> list[str]:
    """Have the unit, enabled; names of what was (or would be) changed.

    Args:
        deadline: seconds for which it asks a source that does not answer, at the start of the host.
    """
    words = [command, "--dir", installation.directory, "secrets-fetch", "--deadline", str(deadline)]
    text = _UNIT.format(source=source, command=" ".join(quoted(word) for word in words), timeout=deadline + 60)
    path = os.path.join(UNITS, NAME)
    changes = [path] if write_file(path, text, 0o644, check) else []
    if check:
        return changes
    if changes or state(NAME).get("NeedDaemonReload") == "yes":
        systemctl("daemon-reload")
    if state(NAME).get("UnitFileState") != "enabled":
        systemctl("enable", NAME)
        changes.append(f"{NAME} enabled")
    return changes


def remove(check: bool = False) -> list[str]:
    """Take the unit away; what lies on the tmpfs stays until the host stops."""
    path = os.path.join(UNITS, NAME)
    if not os.path.exists(path):
        return []
    if not check:
        systemctl("disable", NAME)
        os.unlink(path)
        systemctl("daemon-reload")
    return [path]
