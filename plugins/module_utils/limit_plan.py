# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From an operator's variables, the host and measured traffic to limits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from . import limits, sizing, traffic
from .errors import ScutumError
from .files import read_text
from .installation import Installation
from .sizing import bytes_of, number

_PREFIX = "scutum_limits_"


@dataclass
class Wanted:
    """The variables of the role, without their prefix, as they were written: numbers may be texts."""

    requests_per_day: Any = None
    requests_per_second: Any = None
    audit_writes_per_day: Any = None
    cached_prompts: Any = None
    measure: bool = False
    measure_days: Any = 7
    measure_seconds: Any = 60
    host_cores: Any = None
    host_memory: Any = None
    litellm_workers: Any = None
    admin_api_workers: Any = None
    postgres_max_connections: Any = None
    litellm_connections: Any = sizing.LITELLM_POOL
    fixed: dict[str, Any] = field(default_factory=dict)
    regions: Any = 1
    profiles: list[str] = field(default_factory=list)
    log_driver: str = "json-file"
    log_max_size: Any = "10m"
    log_max_files: Any = 5
    open_files: Any = 16384
    timeout: Any = 300


def request(wanted: Wanted, services: tuple[str, ...]) -> sizing.Request:
    """The request to `sizing`, or a refusal that names the variable."""

    def given(name: str, least: float = 0, whole: bool = False, prefix: str = _PREFIX) -> float | None:
        value = getattr(wanted, name)
        return None if value in (None, "") else number(value, prefix + name, least, whole)

    def count(name: str, prefix: str = _PREFIX) -> int | None:
        value = given(name, 1, True, prefix)
        return None if value is None else int(value)

    fixed = {}
    for name, item in (wanted.fixed or {}).items():
        if not isinstance(item, dict) or not item or set(item) - {"memory", "cpus"}:
            raise ScutumError(
                f"{_PREFIX}fixed.{name}: a mapping with memory, cpus or both",
                left="nothing was changed",
                next_step="for example {litellm: {memory: 3g, cpus: 2}}",
            )
        one = {}
        if "memory" in item:
            one["memory"] = float(bytes_of(item["memory"], f"{_PREFIX}fixed.{name}.memory"))
        if "cpus" in item:
            one["cpus"] = number(item["cpus"], f"{_PREFIX}fixed.{name}.cpus", 0.01)
        fixed[name] = one
    cached = given("cached_prompts", whole=True) if wanted.cached_prompts not in (0, "0") else 0
    return sizing.Request(
        cores=given("host_cores") or float(len(os.sched_getaffinity(0))),
        memory=memory() if wanted.host_memory in (None, "") else bytes_of(wanted.host_memory, f"{_PREFIX}host_memory"),
        services=services,
        per_day=given("requests_per_day"),
        peak=given("requests_per_second"),
        audit_per_day=given("audit_writes_per_day"),
        cached_prompts=None if cached is None else int(cached),
        litellm_workers=count("litellm_workers", "scutum_"),
        admin_workers=count("admin_api_workers"),
        max_connections=count("postgres_max_connections"),
        litellm_pool=count("litellm_connections") or sizing.LITELLM_POOL,
        fixed=fixed,
        regions=count("regions") or 1,
    )


def memory() -> int:
    """Bytes of this host, in steps of 64 MiB: what the kernel takes for itself differs from boot to boot."""
    for line in (read_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 65536 * 65536 * 1024
    raise ScutumError(
        "/proc/meminfo names no MemTotal", left="nothing was changed", next_step="set scutum_limits_host_memory"
    )


def make(installation: Installation, wanted: Wanted) -> tuple[limits.Limits, dict[str, Any]]:
    """Limits for this host, and what was measured for them.

    Measured traffic that is near to what the recorded plan was made for gives the recorded plan: a change recreates services.
    """
    asked = request(wanted, limits.services(installation, wanted.profiles))
    number(wanted.timeout, f"{_PREFIX}timeout", 1)
    if asked.cores > (os.cpu_count() or 1):
        raise ScutumError(
            f"{_PREFIX}host_cores: {asked.cores:g}, and this host has {os.cpu_count()}: the engine would refuse the limits",
            left="nothing was changed",
            next_step="leave it out; the filter scutum.ops.sizing plans for other hosts",
        )
    if asked.memory > memory():
        raise ScutumError(
            f"{_PREFIX}host_memory: {sizing.text_of(asked.memory)}, and this host has {sizing.text_of(memory())}",
            left="nothing was changed",
            next_step="leave it out; the filter scutum.ops.sizing plans for other hosts",
        )
    days = int(number(wanted.measure_days, f"{_PREFIX}measure_days", 1, True))
    seconds = number(wanted.measure_seconds, f"{_PREFIX}measure_seconds")
    size = int(number(wanted.log_max_files, f"{_PREFIX}log_max_files", 1, True))
    open_files = 0 if wanted.open_files in (0, "0") else int(number(wanted.open_files, f"{_PREFIX}open_files", 1, True))
    measured: dict[str, Any] = {}
    if wanted.measure:
        if asked.per_day is not None or asked.peak is not None:
            raise ScutumError(
                f"{_PREFIX}measure is set, and so is {_PREFIX}requests_per_day or {_PREFIX}requests_per_second",
                left="nothing was changed",
                next_step="leave one of them out",
            )
        measured = traffic.measure(installation, days, seconds)
        asked = _with(asked, measured, limits.load(installation).current)
    found = limits.Limits(
        plan=sizing.plan(asked),
        log_driver=wanted.log_driver,
        log_size=str(wanted.log_max_size),
        log_files=size,
        open_files=open_files,
    )
    limits.check_settings(found)
    return found, measured


def _with(asked: sizing.Request, measured: dict[str, Any], held: limits.Limits | None) -> sizing.Request:
    taken = {name: measured[name] for name in ("per_day", "peak", "audit_per_day", "cached_prompts")}
    if held:
        planned = held.plan["request"]
        for name, value in taken.items():
            if (
                value is not None
                and planned.get(name) is not None
                and traffic.near(value, planned[name], traffic.FEW.get(name, 1))
            ):
                taken[name] = planned[name]
    return replace(asked, **taken)
