# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Traffic as it was: from LiteLLM's own table, else from its metrics over a while; and the signals that say that one host is not enough."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from . import cgroup, limits
from .database import Database
from .errors import ScutumError
from .installation import Installation

# Seconds that a transaction may be open and do nothing (whitepaper: "long IDLE-IN-TRANSACTION rows").
IDLE = 60.0
# LiteLLM uses this much of its CPU limit, while the host uses less than that of its cores (whitepaper: workers saturate first).
SATURATED, SPARE = 0.9, 0.8
# Measured traffic that differs less from what a plan was made for changes no plan: each change recreates services.
NEAR = 0.25
# Differences that are none: rows of an audit log a day, entries of a cache (12 MB).
FEW = {"audit_per_day": 1000.0, "cached_prompts": 1000.0}


def measure(installation: Installation, days: int, seconds: float) -> dict[str, Any]:
    """How much traffic there is.

    Args:
        days: whole days back that are looked at in LiteLLM's table.
        seconds: for which LiteLLM's metrics are watched when that table has no whole day.

    Returns:
        `per_day` (of the busiest day), `peak` (a second, in the busiest minute), `audit_per_day`, `cached_prompts`, `source`.
    """
    found = Database(installation).traffic(days)
    cached = _entries(installation)
    if found.get("days"):
        return {
            "per_day": found["requests"],
            "peak": max(found["peak"], found["requests"] / 86400),
            "audit_per_day": found["audit"],
            "cached_prompts": cached,
            "source": f"LiteLLM's table, {found['days']:.0f} of the last {days} days",
        }
    client = installation.litellm()
    before, begin = client.requests_served(), time.monotonic()
    time.sleep(seconds)
    after, lasted = client.requests_served(), time.monotonic() - begin
    if before is None or after is None or after <= before:
        raise ScutumError(
            f"there is no traffic to measure: LiteLLM's table has no whole day (UTC) of the last {days}, and its metrics "
            + ("are not there" if after is None else f"counted no request in {seconds:.0f} s"),
            left="nothing was changed",
            next_step="say how much is expected: scutum_limits_requests_per_day, or scutum_limits_requests_per_second",
        )
    rate = (after - before) / lasted
    return {
        "per_day": None,
        "peak": rate,
        "audit_per_day": found.get("audit"),
        "cached_prompts": cached,
        "source": f"LiteLLM's metrics, {lasted:.0f} s",
    }


def near(measured: float | None, planned: float, least: float = 1) -> bool:
    """Whether a plan for the second still serves for the first.

    Args:
        least: a difference that is none, however little was planned.
    """
    return measured is None or abs(measured - planned) <= max(NEAR * planned, least)


def _entries(installation: Installation) -> int:
    """Keys of Redis: the cache's entries are all but a few of them."""
    answer = limits.redis(installation, "DBSIZE").split()
    return int(answer[-1]) if answer and answer[-1].isdigit() else 0


def signals(installation: Installation, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The whitepaper's signals for leaving one host, as far as they can be measured from here.

    Waits for a connection of a pool cannot: neither LiteLLM nor admin-api tells them.

    Args:
        seconds: for which the CPUs are watched.

    Returns:
        `idle_in_transaction` (seconds), `litellm_busy` (share of its limit), `host_busy` (share of the cores), `scale_out` (reasons).
    """
    containers = installation.compose().containers(installation.project)
    pid = int((containers.get("litellm") or {}).get("State", {}).get("Pid") or 0)
    if not pid:
        raise ScutumError(
            "litellm does not run, so it cannot be watched",
            left="nothing was changed",
            next_step=f"cd {installation.directory} && {installation.compose().command('ps', '-a')}",
        )
    cores = os.cpu_count() or 1
    idle = Database(installation).idle_in_transaction()
    say(f"watching the CPUs for {seconds:g} s")
    first, host, begin = cgroup.of(pid), _busy(), time.monotonic()
    time.sleep(seconds)
    second, lasted = cgroup.of(pid), time.monotonic() - begin
    own = (second.cpu_seconds - first.cpu_seconds) / lasted / (second.cpus or cores)
    all_of_it = (_busy() - host) / lasted / cores
    reasons = []
    if idle > IDLE:
        reasons.append(
            f"Postgres: a transaction has been open and idle for {idle:.0f} s; if that is usual, writes wait for each other: move Postgres "
            "to a managed service or a host of its own"
        )
    if own > SATURATED and all_of_it < SPARE:
        reasons.append(
            f"LiteLLM uses {own:.0%} of its CPUs and the host {all_of_it:.0%}: give it more workers, then replicas behind a load balancer"
        )
    return {
        "idle_in_transaction": round(idle, 1),
        "litellm_busy": round(own, 3),
        "host_busy": round(all_of_it, 3),
        "scale_out": reasons,
    }


def _busy() -> float:
    """CPU seconds that the host has worked."""
    with open("/proc/stat", encoding="ascii") as handle:
        ticks = [int(word) for word in handle.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
