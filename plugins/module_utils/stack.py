# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stack: what would have to be created, recreated or started, doing it, and waiting until it is healthy."""

from __future__ import annotations

import re
import time
from typing import Any

from . import schema_guard
from .compose import LABEL_HASH, Compose
from .errors import ScutumError
from .images import references
from .installation import Installation

_ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL|[Ff]ailed)\b")


def plan(compose: Compose, model: dict[str, Any]) -> dict[str, str]:
    """What has to be done, by service: create, recreate, start, or stop; services that stay as they are left out.

    A service that left the project, because its profile is off, would run on with its old image and its old secrets.
    """
    containers = compose.containers(str(model["name"]))
    wanted = references(model)
    images = compose.engine.images(list(wanted.values()))
    actions = {}
    for service, digest in compose.hashes().items():
        container = containers.get(service)
        if container is None:
            actions[service] = "create"
        elif (
            (container["Config"].get("Labels") or {}).get(LABEL_HASH) != digest
            or wanted.get(service) in images
            and images[wanted[service]]["Id"] != container["Image"]
        ):
            actions[service] = "recreate"
        elif container["State"]["Status"] != "running":
            actions[service] = "start"
    for service, container in containers.items():
        if service not in model["services"] and container["State"]["Status"] in ("running", "restarting"):
            actions[service] = "stop"
    return actions


def window_needed(installation: Installation, image: str) -> bool:
    """Whether a run with this LiteLLM image would open a schema window."""
    found = installation.engine.images([image]).get(image, {})
    return schema_guard.needed(installation, str(found.get("Id", "")))


def apply(installation: Installation, timeout: float, report: Any = None) -> dict[str, Any]:
    """Bring the stack to what its Compose file says, through the schema guard, and wait until it is healthy.

    Args:
        timeout: seconds until every service has to be healthy.
        report: called with a line of progress.

    Returns:
        `actions` by service, `guard` when a schema window was run, `seconds`.
    """
    start = time.monotonic()
    say = report or (lambda line: None)
    compose = installation.compose()
    model = compose.model()
    actions = plan(compose, model)
    stopping = {service for service, action in actions.items() if action == "stop"}
    if stopping:
        containers = compose.containers(str(model["name"]))
        compose.engine.must("stop", *(containers[service]["Id"] for service in sorted(stopping)), timeout=120)
    image = references(model)["litellm"]
    image_id = str(compose.engine.images([image]).get(image, {}).get("Id", ""))
    guard: dict[str, Any] = {}
    if schema_guard.needed(installation, image_id):
        say("schema guard: starting Postgres and Redis")
        compose.must("up", "-d", "--no-deps", "postgres", "redis", timeout=timeout)
        wait(installation, compose, model, ["postgres"], timeout)
        say("schema guard: LiteLLM prepares its tables, writers stopped")
        guard = schema_guard.run(installation, image_id, image, timeout)
        actions = {**plan(compose, model), **dict.fromkeys(stopping, "stop")}
    if set(actions) - stopping:
        say("starting: " + ", ".join(f"{name} ({action})" for name, action in sorted(actions.items())))
        result = compose.run("up", "-d", timeout=timeout)
        if result.rc != 0:
            raise ScutumError(
                "docker compose up failed: " + installation.redact(result.err.strip()[-800:]),
                left="services may be partly started; no data was removed",
                next_step=_advice(installation, result.err),
            )
    wait(installation, compose, model, sorted(model["services"]), timeout)
    return {"actions": actions, "guard": guard, "seconds": round(time.monotonic() - start, 1)}


def recreate(installation: Installation, services: list[str], timeout: float, force: bool = False) -> None:
    """Bring some services to what their Compose file and config/.env say, in one go, and leave all others alone.

    A plain `up` would recreate what depends on them as well (Compose before 2.29.3, docker/compose#12122). What they depend on is part
    of the call: with `--no-deps` Compose records another hash, and the next `up` recreates them again (measured, 2.26).

    Args:
        force: also those that are what their file says, for somebody changed the container itself.
    """
    if not services:
        return
    compose = installation.compose()
    if force:
        containers = compose.containers(installation.project)
        ids = [containers[name]["Id"] for name in services if name in containers]
        compose.engine.must("rm", "-f", *ids, timeout=timeout)
    result = compose.run("up", "-d", *services, timeout=timeout)
    if result.rc != 0:
        raise ScutumError(
            f"docker compose up {' '.join(services)} failed: {installation.redact(result.err.strip()[-800:])}",
            left=f"{', '.join(services)} may not run; everything else was left alone",
            next_step=_advice(installation, result.err),
        )
    wait(installation, compose, compose.model(), services, timeout)


def other_image(installation: Installation, service: str) -> str:
    """The image that a recreated service would run, when it is not the one that runs; else empty."""
    compose = installation.compose()
    container = compose.containers(installation.project).get(service)
    wanted = references(compose.model()).get(service, "")
    return wanted if container and container["Config"].get("Image") != wanted else ""


def _advice(installation: Installation, text: str) -> str:
    if "address already in use" in text or "port is already allocated" in text:
        return "free the port (ss -ltnp), or set another one in scutum_env (LITELLM_PORT, ADMIN_API_PORT, …)"
    return f"cd {installation.directory} && {installation.compose().command('ps', '-a')}"


def unhealthy(installation: Installation, service: str, container: dict[str, Any] | None) -> str:
    """Why a service does not count as healthy; empty when it does.

    The engine's word is enough for good. When it is not good yet, a service that answers on its port counts as well: the
    release's checks run every 15 seconds only, and use HEAD requests that not every version of a service answers.
    """
    if container is None:
        return "has no container"
    state = container["State"]
    health = (state.get("Health") or {}).get("Status", "none")
    if state["Status"] == "running" and (health in ("healthy", "none") or installation.answers(service)):
        return ""
    return f"is {state['Status']}" + (f", health {health}" if health != "none" else "")


def wait(
    installation: Installation, compose: Compose, model: dict[str, Any], services: list[str], timeout: float
) -> None:
    """Wait until services are healthy; give up early on one that restarts again and again."""
    end = time.monotonic() + timeout
    while True:
        containers = compose.containers(str(model["name"]))
        waiting = {name: why for name in services if (why := unhealthy(installation, name, containers.get(name)))}
        if not waiting:
            return
        looping = [name for name in waiting if (containers.get(name) or {}).get("RestartCount", 0) >= 3]
        if looping or time.monotonic() > end:
            name = looping[0] if looping else min(waiting, key=_upstream_first)
            others = sorted(set(waiting) - {name})
            if looping:
                count, code = containers[name]["RestartCount"], containers[name]["State"].get("ExitCode")
                waiting[name] = f"restarts again and again ({count} times, last exit code {code})"
            raise ScutumError(
                f"{name} {waiting[name]}"
                + (f" (not healthy either: {', '.join(others)})" if others else "")
                + f". Its last lines:\n{installation.redact(telling(compose.logs(name, 200)))}",
                left="containers may have been recreated and migrations applied; no volume was removed",
                next_step=f"cd {installation.directory} && {compose.command('logs', '--tail', '200', name)}",
            )
        # Not more often: each look takes CPU from what starts.
        time.sleep(1)


def telling(log: str, last: int = 15) -> str:
    """The last lines of a log, and before them the last five that speak of an error: a traceback hides its own cause."""
    lines = log.splitlines()
    errors = dict.fromkeys(line for line in lines[:-last] if _ERROR.search(line))
    return "\n".join([*list(errors)[-5:], *lines[-last:]])


def _upstream_first(name: str) -> int:
    order = ["postgres", "redis", "litellm", "admin-api"]
    return order.index(name) if name in order else len(order)
