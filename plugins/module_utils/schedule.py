# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs on a schedule, which run this library's command line: a systemd service and its timer for each, or a line for cron."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import socket
from dataclasses import dataclass, field
from typing import Any

from . import notify
from .engine import run
from .errors import ScutumError
from .files import ensure_directory, read_text, write_file
from .installation import Installation

UNITS = "/etc/systemd/system"
CRON = "/etc/cron.d"

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
{skipped}RandomizedDelaySec={delay}
Persistent=true

[Install]
WantedBy=timers.target
"""

# systemd leaves out a time that daylight saving skips, and makes up for it only on the next day (measured: 03:17 in Europe/Helsinki on
# 2026-03-29). 26 hours after a daily job's last run it is due all the same; each usual run, also of the night of 25 hours, comes before.
_SKIPPED = "OnUnitInactiveSec={seconds}\n"
_DAILY = "*-*-* "
_LATEST = 26 * 3600

# The same priorities and the same end as a unit has. No % in it, which cron takes for a line break.
_CRON = """# Written by scutum.ops: change variables, not this file.
# {description}
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
{calendar} root nice -n 10 ionice -c 3 timeout {timeout} {command} 2>&1 | logger -t {unit}
"""


@dataclass
class Job:
    """A scheduled job.

    Args:
        name: the units are `scutum-ops-<name>.service` and `.timer`.
        arguments: of `scutum-ops`, after `--dir`.
        calendar: when, in systemd's words (`man systemd.time`), or in cron's.
        delay: seconds by which a start is put off at random, so that many hosts do not start at once (cron: the job does it by itself).
        scheduler: `timer`, which makes up for a run that was missed, or `cron`.
        timeout: seconds after which a run is ended.
        directories: created 0755 when they are missing.
        notifications: what `notify.settings` reads; None leaves that file alone.
        metrics: files that the job writes; removed with it.
    """

    name: str
    description: str
    arguments: list[str]
    calendar: str
    delay: int = 300
    timeout: int = 600
    scheduler: str = "timer"
    directories: list[str] = field(default_factory=list)
    notifications: dict[str, Any] | None = None
    metrics: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """The units' name without its ending."""
        return f"scutum-ops-{self.name}"


def ensure(installation: Installation, job: Job, command: str, check: bool = False) -> list[str]:
    """Have a job on its schedule; names of what was (or would be) changed."""
    if job.scheduler == "cron":
        return _ensure_cron(installation, job, command, check)
    changes: list[str] = []
    analysed = run(["systemd-analyze", "calendar", job.calendar], timeout=30)
    if analysed.rc not in (0, 127):
        raise ScutumError(
            f"the schedule {job.calendar!r} of {job.unit} is not one that systemd understands",
            left="nothing was changed",
            next_step=f"systemd-analyze calendar '{job.calendar}' says why; man systemd.time, CALENDAR EVENTS",
        )
    changes += _remove_cron(job, check)
    for path in job.directories:
        if ensure_directory(path, 0o755, check):
            changes.append(path)
    changes += _notifications(installation, job, check)
    line = " ".join(quoted(word) for word in [command, "--dir", installation.directory, *job.arguments])
    daily = job.calendar.startswith(_DAILY) or job.calendar == "daily"
    skipped = _SKIPPED.format(seconds=_LATEST + job.delay) if daily else ""
    texts = {
        "service": _SERVICE.format(description=job.description, command=line, timeout=job.timeout),
        "timer": _TIMER.format(description=job.description, calendar=job.calendar, skipped=skipped, delay=job.delay),
    }
    timer = f"{job.unit}.timer"
    for kind, text in texts.items():
        path = os.path.join(UNITS, f"{job.unit}.{kind}")
        if write_file(path, text, 0o644, check):
            changes.append(path)
    if check:
        return changes + ([f"{timer} enabled"] if not changes and not _good(state(timer)) else [])
    # Asked of systemd and not of what this run wrote: an earlier run may have been killed before it told systemd.
    units = [timer, f"{job.unit}.service"]
    stale = [unit for unit in units if state(unit).get("NeedDaemonReload") == "yes"]
    if stale or any(path.startswith(UNITS) for path in changes):
        systemctl("daemon-reload")
        if _good(state(timer)):
            systemctl("restart", timer)
        changes += [f"{unit} loaded anew" for unit in stale if not any(path.endswith(unit) for path in changes)]
    if not _good(state(timer)):
        changes.append(f"{timer} enabled")
        systemctl("enable", "--now", timer)
    return changes


def _ensure_cron(installation: Installation, job: Job, command: str, check: bool) -> list[str]:
    if not os.path.isdir(CRON) or run(["sh", "-c", "command -v cron || command -v crond"], timeout=10).rc != 0:
        raise ScutumError(
            f"{job.unit}: this host has no cron",
            left="nothing was changed",
            next_step="install cron, or use a timer of systemd (scutum_backup_scheduler: timer)",
        )
    changes = [path for path in job.directories if ensure_directory(path, 0o755, check)]
    changes += _notifications(installation, job, check)
    words = [
        command,
        "--dir",
        installation.directory,
        *job.arguments,
        *(["--delay", str(job.delay)] if job.delay else []),
    ]
    text = _CRON.format(
        description=job.description,
        calendar=job.calendar,
        timeout=job.timeout + job.delay,
        command=" ".join(shlex.quote(word) for word in words),
        unit=job.unit,
    )
    path = os.path.join(CRON, job.unit)
    if write_file(path, text, 0o644, check):
        changes.append(path)
    return changes + _remove_timer(job, check)


def _remove_cron(job: Job, check: bool) -> list[str]:
    path = os.path.join(CRON, job.unit)
    if not os.path.exists(path):
        return []
    if not check:
        os.unlink(path)
    return [path]


def _notifications(installation: Installation, job: Job, check: bool) -> list[str]:
    """Keep where jobs tell people; a new way is tried before it is kept, because it would be needed at a bad hour."""
    if job.notifications is None or (check and not os.path.isdir(installation.private)):
        return []
    path = os.path.join(installation.private, notify.FILE)
    text = json.dumps(job.notifications, indent=2, sort_keys=True) + "\n"
    if not write_file(path, text, 0o600, check=True):
        return []
    if not check:
        if notify.ways(job.notifications):
            notify.send(
                job.notifications,
                f"Scutum: messages of the jobs on {socket.gethostname()} arrive here",
                "This is a test: scutum.ops sends it when the place for messages has changed. Nothing is wrong.\n",
                {"event": "notifications.test"},
                [],
            )
        write_file(path, text, 0o600)
    return [path]


def quoted(word: str) -> str:
    """A word of ExecStart: systemd takes quotes, backslashes, dollar and percent signs for its own."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if not re.fullmatch(r"[A-Za-z0-9_./=:@,+%$-]+", word) else word


def state(unit: str) -> dict[str, str]:
    """What systemd says of a unit: `NeedDaemonReload`, `UnitFileState`, `ActiveState`."""
    shown = run(["systemctl", "show", "-p", "NeedDaemonReload,UnitFileState,ActiveState", unit], timeout=30)
    return dict(line.partition("=")[::2] for line in shown.out.splitlines())


def _good(shown: dict[str, str]) -> bool:
    return shown.get("UnitFileState") == "enabled" and shown.get("ActiveState") == "active"


def remove(job: Job, check: bool = False) -> list[str]:
    """Take a job off its schedule, and its metrics with it, which would grow old; its settings and state stay."""
    found = [path for path in job.metrics if os.path.exists(path)]
    if not check:
        for path in found:
            os.unlink(path)
    return found + _remove_cron(job, check) + _remove_timer(job, check)


def _remove_timer(job: Job, check: bool) -> list[str]:
    # The timer goes last: while it is there, a run that was killed is done again.
    paths = [os.path.join(UNITS, f"{job.unit}.{kind}") for kind in ("service", "timer")]
    found = [path for path in paths if os.path.exists(path)]
    if found and not check:
        if os.path.exists(paths[1]):
            systemctl("disable", "--now", f"{job.unit}.timer")
        for path in found:
            os.unlink(path)
        systemctl("daemon-reload")
    return found


def jobs(installation: Installation) -> list[Job]:
    """The jobs that are on a schedule for an installation, as far as removing them needs."""
    found = []
    for path in sorted(glob.glob(os.path.join(UNITS, "scutum-ops-*.timer"))):
        service = read_text(path[: -len("timer")] + "service") or ""
        if not service or f" --dir {quoted(installation.directory)} " in service:
            found.append(Job(os.path.basename(path)[len("scutum-ops-") : -len(".timer")], "", [], "daily"))
    for path in sorted(glob.glob(os.path.join(CRON, "scutum-ops-*"))):
        if f" --dir {shlex.quote(installation.directory)} " in (read_text(path) or ""):
            found.append(Job(os.path.basename(path)[len("scutum-ops-") :], "", [], "daily", scheduler="cron"))
    return found


def run_now(job: Job) -> str:
    """Run a job once and wait; empty, or why it failed."""
    result = run(["systemctl", "start", f"{job.unit}.service"], timeout=job.timeout + 30)
    if result.rc == 0:
        return ""
    log = run(["journalctl", "-q", "--no-pager", "-o", "cat", "-n", "8", "-u", f"{job.unit}.service"], timeout=30)
    return f"{job.unit}: its first run failed:\n{log.out.strip()[-800:]}"


def ensure_unit(unit: str, text: str, check: bool = False) -> list[str]:
    """Have a unit of our own, enabled, so that the next start of the host begins it; names of what was (or would be) changed."""
    path = os.path.join(UNITS, unit)
    changes = [path] if write_file(path, text, 0o644, check) else []
    if check:
        return changes
    if changes or state(unit).get("NeedDaemonReload") == "yes":
        systemctl("daemon-reload")
    if state(unit).get("UnitFileState") != "enabled":
        systemctl("enable", unit)
        changes.append(f"{unit} enabled")
    return changes


def remove_unit(unit: str, check: bool = False) -> list[str]:
    """Have it no more; what runs of it goes on."""
    path = os.path.join(UNITS, unit)
    if not os.path.exists(path):
        return []
    if not check:
        systemctl("disable", unit)
        os.unlink(path)
        systemctl("daemon-reload")
    return [path]


def command_line(installation: Installation, command: str, *words: str) -> str:
    """ExecStart of a job of ours."""
    return " ".join(quoted(word) for word in (command, "--dir", installation.directory, *words))


def systemctl(*arguments: str) -> None:
    """One call of systemctl that has to succeed."""
    result = run(["systemctl", *arguments], timeout=60)
    if result.rc != 0:
        raise ScutumError(
            f"systemctl {' '.join(arguments)} failed: {result.err.strip()[-300:]}",
            left="the unit files are written",
            next_step=f"systemctl status {arguments[-1]}",
        )
