# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizing: from traffic and a host to limits for every service, by the whitepaper's rules (point 4). Nothing here asks or changes anything.

Each rule has its source beside it: W the whitepaper, V the vendor's source, M measured on the testbed (docs/roles/resource_limits.md
has the table). Where they contradict each other, the comment says what was decided. More traffic never gives a service less.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import ScutumError

MIB = 1 << 20
GIB = 1 << 30
DAY = 86400
# Requests per second at peak over the day's mean, where only one of the two is given: office hours in one time zone.
PEAK = 5.0
# W: "4 workers handles ~400 RPS on a 4-vCPU box"; a worker is one process, so one core.
PER_WORKER = 100.0
# Workers are planned to be this busy at peak.
BUSY = 0.8
# M: resident memory of LiteLLM's supervisor and of each worker. V: the release gives 2 GB to four, which is what comes out here.
LITELLM_BASE, LITELLM_WORKER, LITELLM_SPARE = 160, 350, 1.25
# M: admin-api; one worker needs 60 MiB and as much page cache.
ADMIN_BASE, ADMIN_WORKER = 96, 160
# V: admin-api's pool is 2 to 10 in each process, fixed in code. W says 50 connections and 4 workers, which would be 200 and more than
# Postgres takes: the code is what runs. LiteLLM's Prisma client takes 10 a worker (LiteLLM: database_connection_pool_limit).
ADMIN_POOL, LITELLM_POOL, WEBHOOK_POOL = 10, 10, 10
# Backups, verifications, exporters, psql of a person: beside the pools.
OTHER_CONNECTIONS = 10
# W: an alert at 80% of the connections.
CONNECTION_LINE = 0.8
DEFAULT_CONNECTIONS = 100
# W: 2 GB up to 100 k requests a day; beyond 1 M a managed one. In between, and below, straight lines.
POSTGRES_RULE = ((10_000, 512), (100_000, 2048), (1_000_000, 8192))
POSTGRES_LOCAL = 1_000_000
# W: 512 MB suffices, then linear in unique cached prompts. A small host with little traffic has no 512 MB for an empty cache.
REDIS_RULE = ((10_000, 64), (100_000, 512))
# A semantic cache's entry: 1536 floats and an answer, with Redis's own overhead.
CACHE_ENTRY = 12 * 1024
# A background save forks: pages that change meanwhile are there twice. Half of the data, and what Redis is without any.
REDIS_SAVE, REDIS_BASE = 1.5, 32
# Kept for the kernel, the engine, jobs of this collection.
RESERVE_SHARE, RESERVE_LEAST = 0.1, 384
# An audit row that comes with a request is in the whitepaper's rule; what goes beyond one for ten requests counts as a request.
AUDIT_SHARE = 0.1
# What fits a host when nobody said how much traffic there is: the first of these.
USUAL = (100_000, 50_000, 20_000, 10_000, 1_000)

# MiB, CPUs as a share of the host, processes. None: not measured (its image cannot be had in the testbed).
SMALL: dict[str, tuple[int, float, int]] = {
    "admin-ui": (32, 0.25, 128),
    "docs-site": (32, 0.25, 128),
    "sre-agent": (192, 0.5, 128),
    "cost-predictor": (192, 0.5, 128),
    "budget-webhook": (192, 0.5, 128),
    "prometheus": (1024, 0.5, 128),
    "grafana": (256, 0.5, 128),
    "jaeger": (512, 0.5, 128),
}
UNKNOWN = (256, 0.5, 128)
# MiB below which a service does not start, and a little (M: each was started with less and less).
LEAST = {
    # Redis: with 16 MB for data and what a background save needs.
    "postgres": 64, "redis": 56, "litellm": 320, "admin-api": 96, "admin-ui": 16, "docs-site": 16,
    "sre-agent": 64, "cost-predictor": 64, "budget-webhook": 64,
}  # fmt: skip
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True)
class Request:
    """What is planned for.

    Args:
        cores: of the host.
        memory: of the host, bytes.
        services: those that run, by their names in the Compose file.
        per_day: requests a day; None with peak: derived from it; None without: what fits the host, 100,000 at most.
        peak: requests a second at peak.
        audit_per_day: audit rows a day; None for one for ten requests.
        cached_prompts: entries of the semantic cache; None for what the base has room for.
        litellm_workers, admin_workers, max_connections: fixed by the operator.
        litellm_pool: connections of a LiteLLM worker.
        fixed: by service, `memory` (bytes) and `cpus` that the operator fixes.
        regions: places from which it is used.
    """

    cores: float
    memory: int
    services: tuple[str, ...]
    per_day: float | None = None
    peak: float | None = None
    audit_per_day: float | None = None
    cached_prompts: int | None = None
    litellm_workers: int | None = None
    admin_workers: int | None = None
    max_connections: int | None = None
    litellm_pool: int = LITELLM_POOL
    fixed: dict[str, dict[str, float]] = field(default_factory=dict)
    regions: int = 1


def number(value: Any, name: str, least: float = 0, whole: bool = False) -> float:
    """A number that an operator gave, or a refusal that names the variable."""
    try:
        found = float(str(value).replace("_", "").strip())
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or found <= least and not (least and found == least) or whole and found != int(found):
        kind = "a whole number" if whole else "a number"
        limit = f"of at least {least:g}" if least else "above 0"
        raise _refused(f"{name}: {value!r} is not {kind} {limit}")
    return found


def bytes_of(value: Any, name: str) -> int:
    """Bytes from Compose's notation: 2g, 2gb, 2GiB, 2048m, 2048M, 2147483648, 1.5g; all units are powers of 1024, as in Compose."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?\s*", str(value).lower())
    if not found or float(found[1]) <= 0:
        raise _refused(f"{name}: {value!r} is no size: write 512m, 2g, 2GiB or a number of bytes")
    return int(float(found[1]) * _UNITS[found[2]])


def text_of(size: float) -> str:
    """Bytes as people and Compose write them."""
    return f"{size / GIB:g}g" if size % GIB == 0 else f"{math.ceil(size / MIB)}m"


def _refused(
    what: str, next_step: str = "correct it, and run playbooks/limits.yml --check, which only shows the plan"
) -> ScutumError:
    return ScutumError(what, left="nothing was changed", next_step=next_step)


class DoesNotFit(ScutumError):
    """The host, or the connections, are too few for what was asked."""


def plan(wanted: Request) -> dict[str, Any]:
    """Limits for every service.

    Returns:
        `traffic` (per_day, peak), `request`, `services` (by name: memory, reservation in bytes, cpus, pids, why), `litellm_workers`,
        `admin_workers`, `postgres` (settings by name, as Postgres takes them; shm in bytes), `redis_maxmemory` (bytes), `connections`
        (used, max, line), `total`, `reserve`, `host` (memory in bytes, cores), `scale_out` (reasons), `notes`.

    Raises:
        DoesNotFit: with the numbers, and the nearest plan that fits.
    """
    _check(wanted)
    if wanted.per_day is None and wanted.peak is None:
        return _usual(wanted)
    try:
        return _plan(wanted)
    except DoesNotFit as problem:
        problem.next_step = _nearest(wanted)
        raise


def _check(wanted: Request) -> None:
    if wanted.cores <= 0 or wanted.memory <= 0:
        raise _refused(f"a host with {wanted.cores:g} cores and {wanted.memory} bytes of memory is none")
    unknown = sorted(set(wanted.fixed) - set(wanted.services))
    if unknown:
        raise _refused(
            f"scutum_limits_fixed names {', '.join(unknown)}; the services that run are {', '.join(wanted.services)}"
        )
    for name, fixed in wanted.fixed.items():
        if fixed.get("cpus", 1) > wanted.cores:
            raise _refused(f"scutum_limits_fixed.{name}.cpus: {fixed['cpus']:g}, and the host has {wanted.cores:g}")


def _check_fixed(wanted: Request, workers: int, admin: int) -> None:
    """Refuse memory with which a service does not start."""
    more = {"litellm": LITELLM_WORKER * (workers - 1), "admin-api": LEAST["admin-api"] * (admin - 1)}
    for name, fixed in wanted.fixed.items():
        least = LEAST.get(name, 16) + more.get(name, 0)
        if fixed.get("memory", least * MIB) < least * MIB:
            count = {"litellm": f" with {_workers(workers)}", "admin-api": f" with {_workers(admin)}"}.get(name, "")
            raise _refused(
                f"scutum_limits_fixed.{name}.memory: {text_of(fixed['memory'])} is below the {least}m that {name} needs to start"
                f"{count} (measured)"
            )


def _usual(wanted: Request) -> dict[str, Any]:
    for per_day in USUAL[:-1]:
        if _fits(replace(wanted, per_day=per_day)):
            break
    else:
        per_day = USUAL[-1]
    asked = replace(wanted, per_day=per_day)
    try:
        found = _plan(asked)
    except DoesNotFit as problem:
        problem.next_step = _nearest(asked)
        raise
    found["notes"].insert(
        0,
        f"nobody said how much traffic there is: planned for {per_day} requests a day (scutum_limits_requests_per_day)",
    )
    return found


def _line(rule: Iterable[tuple[float, float]], at: float) -> float:
    """Straight lines between the points of a rule; level before the first and after the last."""
    points = list(rule)
    for (left, low), (right, high) in zip(points, points[1:]):
        if at <= right:
            return low + (high - low) * max(0.0, at - left) / (right - left)
    return points[-1][1]


def _rounded(mib: float) -> int:
    """Bytes, in steps of 16 MiB: a host whose memory reads a little different gets the same plan."""
    return math.ceil(mib / 16) * 16 * MIB


def _plan(wanted: Request) -> dict[str, Any]:
    per_day = wanted.per_day if wanted.per_day is not None else (wanted.peak or 0) * DAY / PEAK
    peak = wanted.peak if wanted.peak is not None else per_day / DAY * PEAK
    audit = per_day * AUDIT_SHARE if wanted.audit_per_day is None else wanted.audit_per_day
    load = per_day + max(0.0, audit - per_day * AUDIT_SHARE)
    workers = wanted.litellm_workers or _litellm_workers(wanted, peak)
    admin = wanted.admin_workers or _admin_workers(wanted, per_day)
    _check_fixed(wanted, workers, admin)
    connections = _connections(wanted, workers, admin)
    redis = round(_line(REDIS_RULE, per_day)) * MIB + _rounded((wanted.cached_prompts or 0) * CACHE_ENTRY / MIB)
    given = wanted.fixed.get("redis", {}).get("memory")
    if given:
        redis = int((given / MIB - REDIS_BASE) / REDIS_SAVE) * MIB
    memory = {
        "postgres": (
            _rounded(_line(POSTGRES_RULE, load)),
            "W: 2 GB up to 100 k requests a day, straight lines to 8 GB at 1 M",
        ),
        "redis": (
            _rounded(redis / MIB * REDIS_SAVE + REDIS_BASE),
            f"W: maxmemory {text_of(redis)}, and half as much again for a background save",
        ),
        "litellm": (
            _rounded((LITELLM_BASE + LITELLM_WORKER * workers) * LITELLM_SPARE),
            f"M: {_workers(workers)} of {LITELLM_WORKER} MiB",
        ),
        "admin-api": (_rounded(ADMIN_BASE + ADMIN_WORKER * admin), f"M: {_workers(admin)} of {ADMIN_WORKER} MiB"),
    }
    share = {"postgres": 0.75, "redis": 0.5, "litellm": 0.9, "admin-api": 0.5}
    pids = {
        "postgres": connections["max"] + 64,
        "redis": 64,
        "litellm": 64 + 64 * workers,
        "admin-api": 64 + 32 * admin,
    }
    services: dict[str, dict[str, Any]] = {}
    for name in sorted(wanted.services):
        least_mib, part, processes = SMALL.get(name, UNKNOWN)
        size, why = memory.get(name, (least_mib * MIB, "M" if name in LEAST else "not measured"))
        fixed = wanted.fixed.get(name, {})
        size = int(fixed.get("memory", size))
        # A tenth is the least that Compose and people can tell apart.
        cpus = fixed.get("cpus") or max(0.1, math.floor(share.get(name, part) * wanted.cores * 20) / 20)
        services[name] = {
            "memory": size,
            "reservation": _rounded(size / MIB / 2),
            "cpus": min(round(cpus, 2), float(wanted.cores)),
            "pids": pids.get(name, processes),
            "why": "fixed by scutum_limits_fixed" if "memory" in fixed else why,
        }
    found: dict[str, Any] = {
        "traffic": {"per_day": round(per_day), "peak": round(peak, 1)},
        # What it was made for, as it was asked.
        "request": {name: getattr(wanted, name) for name in ("per_day", "peak", "audit_per_day", "cached_prompts")},
        "services": services,
        "litellm_workers": workers,
        "admin_workers": admin,
        "connections": connections,
        "postgres": _postgres(services["postgres"]["memory"], connections["max"]) if "postgres" in services else {},
        "redis_maxmemory": redis if "redis" in services else 0,
        "total": sum(item["memory"] for item in services.values()),
        "reserve": max(_rounded(wanted.memory / MIB * RESERVE_SHARE), RESERVE_LEAST * MIB),
        "host": {"cores": wanted.cores, "memory": wanted.memory},
        "scale_out": _scale_out(wanted, per_day, peak),
        "notes": [],
    }
    serves = workers * PER_WORKER * BUSY
    if peak > serves:
        found["notes"].append(
            f"scutum_litellm_workers: {_workers(workers)} of LiteLLM are good for {serves:.0f} requests a second, "
            f"and {peak:.0f} are expected"
        )
    room = wanted.memory - found["reserve"]
    if found["total"] > room:
        largest = sorted(services, key=lambda name: -services[name]["memory"])[:3]
        raise DoesNotFit(
            f"{found['traffic']['per_day']} requests a day ({found['traffic']['peak']:g} a second at peak) need "
            f"{text_of(found['total'])} of memory ("
            + ", ".join(f"{name} {text_of(services[name]['memory'])}" for name in largest)
            + f", …), and the host has {text_of(wanted.memory)}, of which {text_of(found['reserve'])} are kept for itself",
            left="nothing was changed",
        )
    return found


def _workers(number_of: int) -> str:
    return f"{number_of} worker{'s' * (number_of != 1)}"


def _litellm_workers(wanted: Request, peak: float) -> int:
    needed = max(1, math.ceil(peak / (PER_WORKER * BUSY)))
    most = max(1, math.floor(wanted.cores))
    if needed > most:
        raise DoesNotFit(
            f"{peak:.0f} requests a second at peak need {needed} workers of LiteLLM, a core each, and the host has {wanted.cores:g} cores "
            "(whitepaper, point 4: workers before hosts, until the box's ceiling)",
            left="nothing was changed",
        )
    # W: 4 on 4 cores, whatever the mean: bursts come. On less memory two, so that one that dies leaves one that answers.
    room = 4 if wanted.memory >= 8 * GIB else 2 if wanted.memory >= 4 * GIB else 1
    return max(needed, min(room, most))


def _admin_workers(wanted: Request, per_day: float) -> int:
    # W: "4 workers is enough for most". Each is one more that learns of a new licence only within five minutes (V), so not before needed.
    wish = 1 if per_day <= 100_000 else 2 if per_day <= 500_000 else 4
    return max(1, min(wish, math.floor(wanted.cores)))


def _connections(wanted: Request, workers: int, admin: int) -> dict[str, int]:
    webhook = WEBHOOK_POOL if "budget-webhook" in wanted.services else 0
    used = workers * wanted.litellm_pool + admin * ADMIN_POOL + webhook + OTHER_CONNECTIONS
    needed = math.ceil(used / CONNECTION_LINE / 10) * 10
    most = wanted.max_connections or max(DEFAULT_CONNECTIONS, needed)
    if used > most * CONNECTION_LINE:
        raise DoesNotFit(
            f"{workers} LiteLLM workers × {wanted.litellm_pool}, {admin} admin-api workers × {ADMIN_POOL} and "
            f"{webhook + OTHER_CONNECTIONS} others are {used} connections, above the line of {most * CONNECTION_LINE:.0f} (80% of {most})",
            left="nothing was changed",
        )
    return {"used": used, "max": most, "line": math.floor(most * CONNECTION_LINE)}


def _postgres(limit: int, connections: int) -> dict[str, Any]:
    mib = limit // MIB
    shared = mib // 4
    # What is left for sorts when every connection sorts at once, halved: caches need the rest.
    work = min(64, max(1, (mib - shared) // 2 // connections))
    return {
        "settings": {
            "max_connections": str(connections),
            "shared_buffers": f"{shared}MB",
            "effective_cache_size": f"{mib * 6 // 10}MB",
            "work_mem": f"{work}MB",
            "maintenance_work_mem": f"{min(512, max(16, mib // 16))}MB",
        },
        # Parallel queries share memory there; the engine's own 64 MB are too few beyond small tables.
        "shm": _rounded(min(1024, max(64, mib // 8))),
    }


def _scale_out(wanted: Request, per_day: float, peak: float) -> list[str]:
    found = []
    if per_day > POSTGRES_LOCAL:
        found.append(
            f"{per_day:.0f} requests a day: beyond 1 M move Postgres to a managed one (whitepaper, point 4); 8 GB is the most planned here"
        )
    if peak > PER_WORKER * wanted.cores * BUSY * 0.9:
        found.append(
            f"{peak:.0f} requests a second fill this host's {wanted.cores:g} cores: LiteLLM replicas behind a load balancer next"
        )
    if wanted.regions > 1:
        found.append(f"used from {wanted.regions} regions: an admin-api in each (whitepaper, beyond a single host)")
    return found


def _nearest(wanted: Request) -> str:
    """The plan nearest to a request that does not fit, as the next step."""
    base = wanted.per_day if wanted.per_day is not None else (wanted.peak or 0) * DAY / PEAK

    def scaled(share: float) -> Request:
        return replace(
            wanted,
            per_day=base * share,
            peak=None if wanted.peak is None else wanted.peak * share,
        )

    share = _largest(lambda part: _fits(scaled(part)))
    if share:
        fits = _plan(scaled(share))["traffic"]
        # Rounded down: what is named here has to fit.
        step = 10 ** max(0, len(str(fits["per_day"])) - 2)
        return (
            f"nearest that fits here: {fits['per_day'] // step * step} requests a day ({fits['peak']:g} a second at peak); for more take a "
            "larger host, or scale out (managed Postgres, LiteLLM replicas)"
        )
    alone = replace(wanted, cached_prompts=None, audit_per_day=None)
    if alone != wanted and _fits(replace(alone, per_day=1.0, peak=None)):
        return (
            "what is typed beside the requests does not fit, whatever their number: lower scutum_limits_cached_prompts "
            f"({wanted.cached_prompts or 0}, 12 KiB each) or scutum_limits_audit_writes_per_day ({wanted.audit_per_day or 0:g})"
        )
    free = replace(scaled(1e-6), litellm_workers=None, admin_workers=None, max_connections=None, fixed={})
    if (wanted.litellm_workers or wanted.admin_workers or wanted.max_connections or wanted.fixed) and _fits(free):
        kept = _plan(replace(free, per_day=min(base, 1_000)))
        return (
            f"what is fixed does not fit, whatever the traffic: take scutum_litellm_workers ({kept['litellm_workers']} would fit), "
            f"scutum_limits_admin_api_workers ({kept['admin_workers']}), scutum_limits_postgres_max_connections "
            f"({kept['connections']['max']}) or scutum_limits_fixed out"
        )
    return f"no traffic fits: a host for Scutum needs 1 core and {text_of(_smallest(wanted))} of memory at least"


def _fits(wanted: Request) -> bool:
    try:
        _plan(wanted)
    except DoesNotFit:
        return False
    return True


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest share of a request that fits, within 1%."""
    low, high = 1e-6, 1.0
    if not fits(low):
        return 0
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _smallest(wanted: Request) -> int:
    """Bytes of the smallest host for these services."""
    size = GIB
    while not _fits(Request(max(1.0, wanted.cores), size, wanted.services, per_day=1.0)):
        size += 64 * MIB
    return size


def with_workers(found: dict[str, Any], workers: int) -> dict[str, Any]:
    """A plan for another number of LiteLLM's workers, whatever else it says; refused when the host has no room for it."""
    size = _rounded((LITELLM_BASE + LITELLM_WORKER * workers) * LITELLM_SPARE)
    item = {
        **found["services"]["litellm"],
        "memory": size,
        "reservation": _rounded(size / MIB / 2),
        "pids": 64 + 64 * workers,
        "why": f"M: {_workers(workers)} of {LITELLM_WORKER} MiB",
    }
    total = found["total"] - found["services"]["litellm"]["memory"] + size
    if total > found["host"]["memory"] - found["reserve"]:
        raise DoesNotFit(
            f"scutum_litellm_workers: {_workers(workers)} need {text_of(size)} of memory, {text_of(total)} with all other services, "
            f"and the host has {text_of(found['host']['memory'])}, of which {text_of(found['reserve'])} are kept for itself",
            left="nothing was changed",
            next_step="run playbooks/limits.yml with the same scutum_litellm_workers: it says what fits",
        )
    return {**found, "services": {**found["services"], "litellm": item}, "litellm_workers": workers, "total": total}


def table(found: dict[str, Any]) -> list[str]:
    """A plan in lines for people."""
    traffic, host, connections = found["traffic"], found["host"], found["connections"]
    lines = [
        f"{traffic['per_day']} requests a day, {traffic['peak']:g} a second at peak, "
        f"on {host['cores']:g} cores and {text_of(host['memory'])}",
        f"{'service':16} {'memory':>8} {'cpus':>5} {'pids':>5}  why",
    ]
    for name, item in found["services"].items():
        lines.append(f"{name:16} {text_of(item['memory']):>8} {item['cpus']:>5g} {item['pids']:>5}  {item['why']}")
    lines.append(
        f"{'together':16} {text_of(found['total']):>8}              and {text_of(found['reserve'])} kept for the host"
    )
    lines.append(
        f"workers: LiteLLM {found['litellm_workers']}, admin-api {found['admin_workers']}; connections {connections['used']} of "
        f"{connections['max']} (line {connections['line']})"
    )
    if found["postgres"]:
        settings = ", ".join(f"{name} {value}" for name, value in found["postgres"]["settings"].items())
        lines.append(f"Postgres: {settings}; Redis: maxmemory {text_of(found['redis_maxmemory'])}")
    return [*lines, *(f"scale out: {reason}" for reason in found["scale_out"]), *found["notes"]]
