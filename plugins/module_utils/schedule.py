# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs on a schedule: a systemd service and its timer for each, which run this library's command line."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from . import notify
from .engine import run
from .errors import ScutumError
from .files import ensure_directory, write_file
from .installation import Installation

UNITS = "/etc/systemd/system"

# A job is a guest on a host that serves: low priority for CPU and disk, and an end.
_SERVICE = """# Written by scutum.ops: change variables, not this file.
[Unit]
Description={description}
After=docker.service network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart={command}
Nice=10
IOSchedulingClass=idle
TimeoutStartSec={timeout}
"""

# Persistent: a run that was missed while the host was off is made up for.
_TIMER = """# Written by scutum.ops: change variables, not this file.
[Unit]
Description={description}

[Timer]
OnCalendar={calendar}
RandomizedDelaySec={delay}
Persistent=true

[Install]
WantedBy=timers.target
"""


@dataclass
class Job:
    """A scheduled job.

    Args:
        name: the units are `scutum-ops-<name>.service` and `.timer`.
        arguments: of `scutum-ops`, after `--dir`.
        calendar: when, in systemd's words (`man systemd.time`).
        delay: seconds by which a start is put off at random, so that many hosts do not start at once.
        timeout: seconds after which a run is ended.
        directories: created 0755 when they are missing.
        notifications: what `notify.settings` reads; None leaves that file alone.
    """

    name: str
    description: str
    arguments: list[str]
    calendar: str
    delay: int = 300
    timeout: int = 600
    directories: list[str] = field(default_factory=list)
    notifications: dict[str, Any] | None = None

    @property
    def unit(self) -> str:
        """The units' name without its ending."""
        return f"scutum-ops-{self.name}"


def ensure(installation: Installation, job: Job, command: str, check: bool = False) -> list[str]:
    """Have a job on its schedule; names of what was (or would be) changed."""
    changes = []
    analysed = run(["systemd-analyze", "calendar", job.calendar], timeout=30)
    if analysed.rc not in (0, 127):
        raise ScutumError(
            f"the schedule {job.calendar!r} of {job.unit} is not one that systemd understands",
            left="nothing was changed",
            next_step=f"systemd-analyze calendar '{job.calendar}' says why; man systemd.time, CALENDAR EVENTS",
        )
    for path in job.directories:
        if ensure_directory(path, 0o755, check):
            changes.append(path)
    if job.notifications is not None and (not check or os.path.isdir(installation.private)):
        path = os.path.join(installation.private, notify.FILE)
        if write_file(path, json.dumps(job.notifications, indent=2, sort_keys=True) + "\n", 0o600, check):
            changes.append(path)
    line = " ".join([command, "--dir", installation.directory, *job.arguments])
    texts = {
        "service": _SERVICE.format(description=job.description, command=line, timeout=job.timeout),
        "timer": _TIMER.format(description=job.description, calendar=job.calendar, delay=job.delay),
    }
    written = [
        path
        for kind, text in texts.items()
        if write_file(path := os.path.join(UNITS, f"{job.unit}.{kind}"), text, 0o644, check)
    ]
    changes += written
    if written and not check:
        _systemctl("daemon-reload")
    timer = f"{job.unit}.timer"
    enabled = run(["systemctl", "is-enabled", timer], timeout=30).out.strip() == "enabled"
    active = run(["systemctl", "is-active", timer], timeout=30).out.strip() == "active"
    if not (enabled and active):
        changes.append(f"{timer} enabled")
        if not check:
            _systemctl("enable", "--now", timer)
    elif any(path.endswith(".timer") for path in written) and not check:
        _systemctl("restart", timer)
    return changes


def remove(job: Job, check: bool = False) -> list[str]:
    """Take a job off its schedule; its settings and state stay."""
    paths = [os.path.join(UNITS, f"{job.unit}.{kind}") for kind in ("timer", "service")]
    found = [path for path in paths if os.path.exists(path)]
    if found and not check:
        _systemctl("disable", "--now", f"{job.unit}.timer")
        for path in found:
            os.unlink(path)
        _systemctl("daemon-reload")
    return found


def run_now(job: Job) -> str:
    """Run a job once and wait; empty, or why it failed."""
    result = run(["systemctl", "start", f"{job.unit}.service"], timeout=job.timeout + 30)
    if result.rc == 0:
        return ""
    log = run(["journalctl", "-q", "--no-pager", "-o", "cat", "-n", "8", "-u", f"{job.unit}.service"], timeout=30)
    return f"{job.unit}: its first run failed:\n{log.out.strip()[-800:]}"


def _systemctl(*arguments: str) -> None:
    result = run(["systemctl", *arguments], timeout=60)
    if result.rc != 0:
        raise ScutumError(
            f"systemctl {' '.join(arguments)} failed: {result.err.strip()[-300:]}",
            left="the unit files are written",
            next_step=f"systemctl status {arguments[-1]}",
        )
