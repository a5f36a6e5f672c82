# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits in force: from a plan (`sizing`) to the Compose override, to the containers, and read back from the kernel and from Postgres.

The record `limits.json` holds what is in force and what was before. It is part of the project like the override's other parts: an install
keeps it. `traffic.py` measures what a plan is made for.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

from . import cgroup, sizing
from .database import Database
from .errors import ScutumError
from .files import read_text, write_file
from .installation import Installation
from .interpolation import escape
from .yaml_text import Replaced

RECORD = "limits.json"
DRIVERS = ("json-file", "journald", "")
# Keys of a service that a plan decides.
_DECIDED = ("mem_limit", "mem_reservation", "memswap_limit", "cpus", "pids_limit", "deploy", "shm_size")
# Services of the release by profile, for a host that has no Compose file yet (vendor: docker-compose.release.yaml).
_ALWAYS = ("postgres", "redis", "litellm", "admin-api", "admin-ui", "docs-site")
_PROFILES = {
    "sre": ("sre-agent",),
    "finops": ("cost-predictor", "budget-webhook"),
    "observability": ("prometheus", "grafana", "jaeger"),
}


@dataclass
class Limits:
    """What is in force, or shall be.

    Args:
        plan: what `sizing.plan` returned.
        log_driver: json-file with the next two, journald, or empty for the engine's own.
        log_size: of a log file, in Compose's notation.
        log_files: kept of each container.
        open_files: limit of open files of each service, 0 for the engine's own.
    """

    plan: dict[str, Any]
    log_driver: str = "json-file"
    log_size: str = "10m"
    log_files: int = 5
    open_files: int = 16384


@dataclass
class Record:
    """The file: `current`, the one before it, whether it was gone back to, and whether the containers have got it (a run may be killed)."""

    current: Limits | None = None
    previous: Limits | None = None
    reverted: bool = False
    settled: bool = False


def load(installation: Installation) -> Record:
    """What is recorded; empty when there are no limits."""
    text = read_text(os.path.join(installation.private, RECORD))
    if text is None:
        return Record()
    held = json.loads(text)
    return Record(
        **{name: Limits(**held[name]) if held.get(name) else None for name in ("current", "previous")},
        reverted=bool(held.get("reverted")),
        settled=bool(held.get("settled")),
    )


def settle(installation: Installation) -> None:
    """Record that the containers have got what is recorded."""
    held = load(installation)
    if held != Record() and not held.settled:
        save(installation, replace(held, settled=True))


def save(installation: Installation, record: Record, check: bool = False) -> bool:
    """Keep the record; whether that changes it."""
    path = os.path.join(installation.private, RECORD)
    if record.current is None and record.previous is None:
        there = os.path.exists(path)
        if there and not check:
            os.unlink(path)
        return there
    if check and not os.path.isdir(installation.private):
        return True
    return write_file(path, json.dumps(asdict(record), indent=1, sort_keys=True) + "\n", 0o600, check)


def services(installation: Installation, profiles: list[str]) -> tuple[str, ...]:
    """Names of the services that run: those of the release that are known here, and others that its Compose file has.

    Args:
        profiles: that are switched on; an adopted host keeps its own until something is set.
    """
    kept = installation.env().as_dict().get("COMPOSE_PROFILES", "") if installation.adopted() else ""
    on = set(profiles or kept.split(","))
    known = {name for names in _PROFILES.values() for name in names} | set(_ALWAYS)
    found = set(_ALWAYS)
    for profile, names in _PROFILES.items():
        if on & {profile, "full", "*"}:
            found |= set(names)
    compose = installation.compose()
    # An install may have ended before it had a Compose file.
    if installation.managed() and all(os.path.exists(installation.path(name)) for name in compose.files):
        found |= set(compose.model()["services"]) - known
    return tuple(sorted(found))


def check_settings(limits: Limits) -> None:
    """Refuse what the engine would refuse, or what would not keep the disk."""
    if limits.log_driver not in DRIVERS:
        raise _refused(f"scutum_limits_log_driver: {limits.log_driver!r} is none of json-file, journald and empty")
    sizing.bytes_of(limits.log_size, "scutum_limits_log_max_size")
    sizing.number(limits.log_files, "scutum_limits_log_max_files", 1, whole=True)
    if limits.open_files and not 1024 <= limits.open_files <= 1 << 20:
        raise _refused(f"scutum_limits_open_files: {limits.open_files} is not between 1024 and {1 << 20}, and not 0")


def _refused(what: str) -> ScutumError:
    return ScutumError(
        what,
        left="nothing was changed",
        next_step="correct it, and run playbooks/limits.yml --check, which only shows the plan",
    )


def for_workers(limits: Limits, workers: int | None) -> Limits:
    """The same for another number of LiteLLM's workers, which the operator decides; None leaves the plan's."""
    if not workers or workers == limits.plan["litellm_workers"]:
        return limits
    return replace(limits, plan=sizing.with_workers(limits.plan, workers))


# --- into the Compose override


def additions(
    release: dict[str, Any], limits: Limits, extra: dict[str, Any], admin_command: list[str] | None = None
) -> dict[str, Any]:
    """What limits add to the services of a release.

    Args:
        release: the release's own Compose model, every profile, not interpolated.
        extra: the operator's own additions, which must not decide the same.
        admin_command: what admin-api runs by itself, when it shall have several workers.
    """
    taken = [
        f"scutum_compose_override.services.{name}.{key}"
        for name, service in (extra.get("services") or {}).items()
        for key in _DECIDED
        if name in limits.plan["services"] and key in (service or {})
    ]
    # The plan's settings and workers are words of these commands: without them it would not be what runs, or be too small for it.
    taken += [
        f"scutum_compose_override.services.{name}.command"
        for name in ("postgres", "redis", "litellm", "admin-api")
        if _other_numbers(name, ((extra.get("services") or {}).get(name) or {}).get("command"), limits.plan)
    ]
    if taken:
        raise _refused(
            f"{', '.join(taken)}: limits, workers and these settings are planned by the role resource_limits; fix one there "
            "(scutum_limits_fixed, scutum_litellm_workers, scutum_limits_admin_api_workers), and take it out here "
            "(playbooks/install.yml); or set scutum_limits: false, and have none (playbooks/limits.yml, scutum_limits_state: absent)"
        )
    found = {}
    for name, service in release["services"].items():
        item = limits.plan["services"].get(name)
        theirs = (extra.get("services") or {}).get(name) or {}
        # The operator's own driver would get our options.
        ours: dict[str, Any] = {} if "logging" in theirs else _logging(limits)
        ours |= {} if "ulimits" in theirs else _ulimits(limits)
        if item:
            ours |= _amounts(item, "deploy" in service) | _command(release, name, limits.plan, admin_command)
        if name == "postgres" and item:
            ours["shm_size"] = str(limits.plan["postgres"]["shm"])
        found[name] = ours
    return found


def _other_numbers(name: str, command: Any, plan: dict[str, Any]) -> bool:
    """Whether an operator's own command of a service takes the plan's numbers away."""
    if not command:
        return False
    if name in ("postgres", "redis"):
        return True
    flag, planned = {
        "litellm": ("--num_workers", plan["litellm_workers"]),
        "admin-api": ("--workers", plan["admin_workers"]),
    }[name]
    words = words_of(command)
    return (words[words.index(flag) + 1] if flag in words[:-1] else "1") != str(planned)


def words_of(command: Any) -> list[str]:
    """A command as Compose reads it: it splits a text as a shell would, and one that is not interpolated is still a text."""
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command or []]


def _logging(limits: Limits) -> dict[str, Any]:
    if not limits.log_driver:
        return {}
    options = (
        {"max-size": limits.log_size, "max-file": str(limits.log_files)} if limits.log_driver == "json-file" else {}
    )
    return {"logging": {"driver": limits.log_driver, **({"options": options} if options else {})}}


def _ulimits(limits: Limits) -> dict[str, Any]:
    return {"ulimits": {"nofile": {"soft": limits.open_files, "hard": limits.open_files}}} if limits.open_files else {}


def _amounts(item: dict[str, Any], deploy: bool) -> dict[str, Any]:
    """Where the release has `deploy`, all of it goes there: Compose rejects a mixture."""
    memory, reservation = str(item["memory"]), str(item["reservation"])
    if deploy:
        limits = {"memory": memory, "cpus": str(item["cpus"]), "pids": item["pids"]}
        return {"deploy": {"resources": {"limits": limits, "reservations": {"memory": reservation}}}}
    return {"mem_limit": memory, "mem_reservation": reservation, "cpus": item["cpus"], "pids_limit": item["pids"]}


def _command(
    release: dict[str, Any], name: str, plan: dict[str, Any], admin_command: list[str] | None
) -> dict[str, Any]:
    """A service's command with the plan's numbers; nothing where it needs none."""
    words = words_of(release["services"][name].get("command"))
    if name == "postgres":
        # In one order, whatever the record's JSON made of it: another one would recreate Postgres.
        settings = [word for item in sorted(plan["postgres"]["settings"].items()) for word in ("-c", "=".join(item))]
        return {"command": Replaced([*(words or ["postgres"]), *settings])}
    if name == "redis":
        size = str(plan["redis_maxmemory"])
        if "--maxmemory" in words[:-1]:
            words[words.index("--maxmemory") + 1] = size
        else:
            words = [*(words or ["redis-server"]), "--maxmemory", size]
        return {"command": Replaced(words)}
    if name == "admin-api" and plan["admin_workers"] > 1 and admin_command:
        if os.path.basename(admin_command[0]) != "uvicorn":
            raise unreadable(name)
        # Each worker runs the migrations at its start: nothing is left for them to do then, and none runs beside another.
        script = escape('alembic upgrade head && exec "$@"')
        return {
            "command": Replaced(["sh", "-c", script, "scutum", *admin_command, "--workers", str(plan["admin_workers"])])
        }
    return {}


def unreadable(name: str) -> ScutumError:
    """The refusal to change a command that cannot be told."""
    return _refused(
        f"{name}: the release's command cannot be told from its image and the Compose file, so its workers and settings cannot be set; "
        "set scutum_limits: false, and report the release"
    )


# --- read back


def differences(installation: Installation, limits: Limits) -> dict[str, list[str]]:
    """What the kernel, Postgres, Redis and the command lines have that is not the plan, by service; empty when all of it is in force."""
    found: dict[str, list[str]] = {}
    compose = installation.compose()
    containers, active = compose.containers(installation.project), compose.model()["services"]
    for name, item in limits.plan["services"].items():
        if name not in active:
            # Its profile is off.
            continue
        container = containers.get(name)
        if container is None or not container["State"].get("Pid"):
            found[name] = ["does not run"]
            continue
        group = cgroup.of(int(container["State"]["Pid"]))
        # The kernel counts in pages.
        pairs: dict[str, tuple[Any, Any]] = {
            "memory": (item["memory"] // 4096, group.memory // 4096),
            "cpus": (round(item["cpus"], 2), group.cpus),
            "pids": (item["pids"], group.pids),
        }
        words = [str(word) for word in container["Config"].get("Cmd") or []]
        # Of admin-api the command may be the operator's own.
        if name == "litellm" and "--num_workers" in words[:-1]:
            pairs["workers"] = (limits.plan["litellm_workers"], words[words.index("--num_workers") + 1])
        wrong = [
            f"{kind} is {has}, planned is {planned}"
            for kind, (planned, has) in pairs.items()
            if float(has) != float(planned)
        ]
        if name == "postgres":
            wrong += _postgres_differences(installation, limits.plan["postgres"]["settings"])
        if name == "redis":
            answer = redis(installation, "CONFIG", "GET", "maxmemory").split()
            if answer[-1:] != [str(limits.plan["redis_maxmemory"])]:
                wrong.append(f"maxmemory is {' '.join(answer[-1:])}, planned is {limits.plan['redis_maxmemory']}")
        if wrong:
            found[name] = wrong
    return found


def _postgres_differences(installation: Installation, planned: dict[str, str]) -> list[str]:
    has, wrong = Database(installation).settings(list(planned)), []
    for name, text in planned.items():
        memory = text.endswith("MB")
        wanted = sizing.bytes_of(text, name) if memory else int(text)
        # Memory is kept in blocks of 8 KiB, or in KiB.
        if abs(has.get(name, -1) - wanted) > (8192 if memory else 0):
            wrong.append(f"{name} is {has.get(name)}, planned is {wanted}")
    return wrong


def in_words(found: dict[str, list[str]]) -> list[str]:
    """Differences as lines."""
    return [f"{name}: {text}" for name, texts in found.items() for text in texts]


def must_be_in_force(installation: Installation, limits: Limits) -> str:
    """Fail when the running containers do not have the plan's numbers; else say so."""
    found = differences(installation, limits)
    if found:
        raise ScutumError(
            f"the limits are written and not in force: {'; '.join(in_words(found))}",
            left="the services run",
            next_step="playbooks/limits.yml recreates these services; a command in scutum_compose_override wins over limits",
        )
    return f"{len(limits.plan['services'])} services have the plan's numbers"


def redis(installation: Installation, *words: str) -> str:
    """What Redis answers."""
    container = installation.compose().container_id(installation.project, "redis")
    return installation.engine.must("exec", container, "redis-cli", *words, timeout=30)


def changes(before: Limits | None, after: Limits | None) -> tuple[str, str]:
    """Both as text, number for number, for a diff."""

    def text(limits: Limits | None) -> str:
        if limits is None:
            return ""
        plan, lines = limits.plan, []
        for name, item in plan["services"].items():
            amounts = f"memory {sizing.text_of(item['memory'])}, cpus {item['cpus']:g}, pids {item['pids']}"
            lines.append(f"{name}: {amounts}")
        lines += [f"postgres {key}: {value}" for key, value in plan["postgres"].get("settings", {}).items()]
        lines.append(f"redis maxmemory: {sizing.text_of(plan['redis_maxmemory'])}")
        lines.append(f"workers: litellm {plan['litellm_workers']}, admin-api {plan['admin_workers']}")
        lines.append(f"logs: {limits.log_driver or 'as the engine does'} {limits.log_size} x {limits.log_files}")
        lines.append(f"open files: {limits.open_files}")
        return "\n".join(lines) + "\n"

    return text(before), text(after)
