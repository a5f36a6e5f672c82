# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd units of an installation's secrets: fetching them at each start of the host, and finishing a rotation that it interrupted."""

from __future__ import annotations

from .installation import Installation
from .schedule import command_line, ensure_unit, remove_unit, systemctl

COMMAND = "/usr/local/sbin/scutum-ops"
# HOME is where sops looks for a key of its own.
# The engine waits for it: containers that start without their file would fail. It ends by itself, and then the engine starts.
_FETCH = """# Written by scutum.ops (role secrets): change variables, not this file.
[Unit]
Description=Scutum: secrets from {source}, before the engine starts
Wants=network-online.target
After=network-online.target
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=HOME=/root
ExecStart={command}
TimeoutStartSec={timeout}

[Install]
WantedBy=docker.service multi-user.target
"""
# Only while a rotation is open: a host that is lost in the middle of one finishes it when it comes back.
_RESUME = """# Written by scutum.ops while secrets are being rotated; removed when that has ended.
[Unit]
Description=Scutum: finish a rotation of secrets that was interrupted
After=docker.service {fetch}
Wants=docker.service

[Service]
Type=oneshot
Environment=HOME=/root
ExecStart={command}
TimeoutStartSec=1800

[Install]
WantedBy=multi-user.target
"""


def fetch_unit(installation: Installation) -> str:
    """The unit that fetches; each installation of a host has its own."""
    return f"scutum-ops-secrets-{installation.project}.service"


def resume_unit(installation: Installation) -> str:
    """The unit that finishes a rotation."""
    return f"scutum-ops-secrets-rotation-{installation.project}.service"


def ensure(installation: Installation, source: str, command: str, deadline: int, check: bool = False) -> list[str]:
    """Have the secrets fetched at each start; names of what was (or would be) changed.

    Args:
        deadline: seconds for which it asks a source that does not answer, at the start of the host.
    """
    line = command_line(installation, command, "secrets-fetch", "--deadline", str(deadline))
    return ensure_unit(
        fetch_unit(installation), _FETCH.format(source=source, command=line, timeout=deadline + 60), check
    )


def remove(installation: Installation, check: bool = False) -> list[str]:
    """Have them not fetched any more; what lies on the tmpfs stays until the host stops."""
    return remove_unit(fetch_unit(installation), check)


def ensure_resume(installation: Installation, start: bool = False) -> None:
    """Have an interrupted rotation finished at the next start of the host.

    Args:
        start: now, when the engine runs: this start of the host began it.
    """
    unit = resume_unit(installation)
    line = command_line(installation, COMMAND, "secrets-rotate", "--resume")
    ensure_unit(unit, _RESUME.format(command=line, fetch=fetch_unit(installation)))
    if start:
        systemctl("--no-block", "start", unit)


def remove_resume(installation: Installation) -> None:
    """There is nothing to finish."""
    remove_unit(resume_unit(installation))
