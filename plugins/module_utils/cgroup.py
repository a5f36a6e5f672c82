# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Control groups: what the kernel limits a process to and how much it uses, by version 1 (a hierarchy for each controller) and 2 (one)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .errors import ScutumError
from .files import read_text

ROOT = "/sys/fs/cgroup"
# Version 1 writes "no limit" as the largest number of pages.
_NONE = 1 << 60


@dataclass(frozen=True)
class Group:
    """A control group as the kernel has it.

    Args:
        memory: limit in bytes, 0 for none.
        cpus: limit in cores, 0 for none.
        pids: limit, 0 for none.
        used: bytes without the file cache that the kernel may take away.
        kills: processes that were killed because the limit was reached.
        cpu_seconds: CPU time used so far.
    """

    memory: int
    cpus: float
    pids: int
    used: int
    kills: int
    cpu_seconds: float


def of(pid: int, root: str = ROOT, proc: str = "/proc") -> Group:
    """The group of a process."""
    text = read_text(f"{proc}/{pid}/cgroup")
    if not pid or text is None:
        raise ScutumError("it does not run", left="nothing was read", next_step="docker ps -a")
    places = {}
    for line in text.splitlines():
        unused, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            places[controller] = path.lstrip("/")
    return _second(os.path.join(root, places[""])) if "memory" not in places else _first(root, places)


def _first(root: str, places: dict[str, str]) -> Group:
    memory = os.path.join(root, "memory", places["memory"])
    # Both names may be mounted, as one.
    cpu = os.path.join(root, "cpu", places.get("cpu", ""))
    limit, quota = _number(memory, "memory.limit_in_bytes"), _number(cpu, "cpu.cfs_quota_us")
    pids = _number(os.path.join(root, "pids", places.get("pids", "")), "pids.max")
    return Group(
        memory=0 if limit >= _NONE else limit,
        cpus=round(quota / (_number(cpu, "cpu.cfs_period_us") or 100_000), 2) if quota > 0 else 0,
        pids=pids,
        used=_number(memory, "memory.usage_in_bytes") - _pairs(memory, "memory.stat").get("total_inactive_file", 0),
        kills=_pairs(memory, "memory.oom_control").get("oom_kill", 0),
        cpu_seconds=_number(os.path.join(root, "cpuacct", places.get("cpuacct", "")), "cpuacct.usage") / 1e9,
    )


def _second(place: str) -> Group:
    quota, unused, period = (read_text(f"{place}/cpu.max") or "max 100000").strip().partition(" ")
    return Group(
        memory=_number(place, "memory.max"),
        cpus=0 if quota == "max" else round(int(quota) / int(period), 2),
        pids=_number(place, "pids.max"),
        used=_number(place, "memory.current") - _pairs(place, "memory.stat").get("inactive_file", 0),
        kills=_pairs(place, "memory.events").get("oom_kill", 0),
        cpu_seconds=_pairs(place, "cpu.stat").get("usage_usec", 0) / 1e6,
    )


def _number(place: str, name: str) -> int:
    """What a file says; 0 for "max" and for a file that is not there."""
    text = (read_text(os.path.join(place, name)) or "0").strip()
    return 0 if text == "max" else int(text)


def _pairs(place: str, name: str) -> dict[str, int]:
    lines = [line.split() for line in (read_text(os.path.join(place, name)) or "").splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}
