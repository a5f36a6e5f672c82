# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd units of an upgrade: the one that watches it, and the one that goes on where a restart of the host interrupted it."""

from __future__ import annotations

from . import schedule
from .installation import Installation

COMMAND = "/usr/local/sbin/scutum-ops"
_WATCH = """# Written by scutum.ops while an upgrade is watched; removed when that has ended.
[Unit]
Description=Scutum: watch the upgrade to {target}, and go back when it is bad
After=docker.service network-online.target
Wants=docker.service network-online.target
StartLimitIntervalSec=600
StartLimitBurst=10

[Service]
Type=exec
Environment=HOME=/root
ExecStart={command}
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
"""
# Between two releases the old admin-api may not start on the newer schema: a host that comes back must not wait for a person.
_RESUME = """# Written by scutum.ops while an upgrade changes production; removed when that has ended.
[Unit]
Description=Scutum: go on with an upgrade, or its rollback, that was interrupted
After=docker.service network-online.target
Wants=docker.service network-online.target

[Service]
Type=oneshot
Environment=HOME=/root
ExecStart={command}
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""


def watch_unit(installation: Installation) -> str:
    """Each installation of a host has its own."""
    return f"scutum-ops-upgrade-watch-{installation.project}.service"


def resume_unit(installation: Installation) -> str:
    """The same of what goes on."""
    return f"scutum-ops-upgrade-resume-{installation.project}.service"


def start_watch(installation: Installation, target: str) -> None:
    """Have the watch running, and again after a restart of the host."""
    line = schedule.command_line(installation, COMMAND, "upgrade-watch")
    schedule.ensure_unit(watch_unit(installation), _WATCH.format(target=target, command=line))
    schedule.systemctl("--no-block", "start", watch_unit(installation))


def watching(installation: Installation) -> bool:
    """Whether it runs, or is about to."""
    return schedule.state(watch_unit(installation)).get("ActiveState") in ("active", "activating")


def stop_watch(installation: Installation) -> None:
    """End it, because somebody goes back by hand."""
    if watching(installation):
        schedule.systemctl("stop", watch_unit(installation))
    remove_watch(installation)


def remove_watch(installation: Installation) -> None:
    """It has ended."""
    schedule.remove_unit(watch_unit(installation))


def ensure_resume(installation: Installation) -> None:
    """Have what begins now gone on with at the next start of the host."""
    line = schedule.command_line(installation, COMMAND, "upgrade-resume")
    schedule.ensure_unit(resume_unit(installation), _RESUME.format(command=line))


def remove_resume(installation: Installation) -> None:
    """There is nothing to go on with."""
    schedule.remove_unit(resume_unit(installation))
