# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema guard: LiteLLM may change the database only in a watched window.

LiteLLM and admin-api share one database, and the release starts LiteLLM with a schema push that accepts data loss. So a
normal start has DISABLE_SCHEMA_UPDATE set (see override.py), and the first start of each LiteLLM image happens here:
writers stopped, a dump when there is data, the push in a container of its own, then the list of tables and their counts
compared. The pattern is LiteLLM's own advice for serving instances (docs: "Database Migrations"); the comparison is ours.
"""

from __future__ import annotations

import os
import time
from typing import Any

from . import http_client as http
from . import override
from .compose import Compose
from .database import Database
from .errors import ScutumError
from .files import ensure_directory
from .installation import Installation

WINDOW = "scutum-ops-schema-window-"
# Tables that LiteLLM creates and may change.
_OWN = ("public.LiteLLM_", "public._prisma_migrations")


def needed(installation: Installation, image_id: str) -> bool:
    """Whether this LiteLLM image has not been through a window yet, or one was left open."""
    state = installation.state()
    return bool(state.get("schema_window")) or state.get("litellm_schema", {}).get("image_id") != image_id


def writers(model: dict[str, Any]) -> list[str]:
    """Services that reach the database."""
    services = model.get("services", {}).items()
    return sorted(name for name, service in services if "DATABASE_URL" in (service.get("environment") or {}))


def losses(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """What is gone from tables and views that are not LiteLLM's.

    Fewer rows are a loss. More are not: between a window that was killed and this look somebody may have started the stack.
    """
    found = []
    for name, rows in sorted(before.items()):
        if name.startswith(_OWN):
            continue
        if name not in after:
            found.append(f"{name} is gone" + (f" (it had {rows} rows)" if rows >= 0 else " (a view)"))
        elif after[name] < rows:
            found.append(f"{name} has {after[name]} rows (it had {rows})")
    return found


def _window(installation: Installation) -> str:
    """The container's name: a copy on the same host has a window of its own."""
    return WINDOW + installation.project


def run(
    installation: Installation, image_id: str, image: str, timeout: float = 300, disposable: bool = False
) -> dict[str, Any]:
    """Let LiteLLM bring the schema to its version, and prove that nothing else was lost.

    Postgres has to run. Everything that writes is stopped and stays so: the caller starts it afterwards.

    Args:
        disposable: it is a copy, which nobody needs back: no dump is taken.

    Returns:
        `dump` (path, empty when the database was), `tables` (number watched), `seconds`.

    Raises:
        ScutumError: something was lost; the message names it, and says how to get it back.
    """
    start = time.monotonic()
    compose = installation.compose()
    database = Database(installation)
    directory = os.path.join(installation.private, "guard")
    ensure_directory(directory, 0o700)
    if not disposable:
        database.check_space(directory)
    model = compose.model()
    stopped = writers(model)
    compose.must("stop", *stopped, timeout=120)
    try:
        compose.engine.run("rm", "-f", _window(installation), timeout=60)
        settle(installation, database)
        before = database.relations()
        dump = ""
        if before and not disposable:
            dump = os.path.join(directory, time.strftime("before-schema-change-%Y%m%dT%H%M%SZ.dump", time.gmtime()))
            database.dump(dump)
        # From here to the comparison a kill leaves the record, so that the next run compares before it does anything else.
        installation.save_state(schema_window={"image": image, "image_id": image_id, "dump": dump, "before": before})
        _push(installation, compose, model, timeout)
        _compare(installation, database, before, dump, image)
    except ScutumError as error:
        left = f"{' and '.join(stopped)} are stopped, Postgres runs"
        raise ScutumError(
            error.what, left=f"{left}; {error.left}" if error.left else left, next_step=error.next_step
        ) from error
    installation.save_state(schema_window=None, litellm_schema={"image_id": image_id, "image": image})
    return {"dump": dump, "tables": len(before), "seconds": round(time.monotonic() - start, 1)}


def settle(installation: Installation, database: Database) -> None:
    """Compare after a window that was interrupted, and close it; a loss is an error."""
    window = installation.state().get("schema_window")
    if window:
        _compare(installation, database, dict(window["before"]), str(window["dump"]), str(window["image"]))
        installation.save_state(schema_window=None)


def _push(installation: Installation, compose: Compose, model: dict[str, Any], timeout: float) -> None:
    """Start LiteLLM once with schema updates on, wait until it serves (the push comes before that), remove it."""
    # One worker: the push comes before any of them, and each takes 10 s of CPU and 340 MB to start (measured).
    command = override.with_workers(model["services"]["litellm"].get("command") or [], 1)
    # Compose writes a dollar sign as two; the words of `run` are taken as they are.
    command = [word.replace("$$", "$") for word in command]
    compose.must(
        *(
            "run",
            "-d",
            "--no-deps",
            "--name",
            _window(installation),
            "-e",
            "DISABLE_SCHEMA_UPDATE=false",
            "litellm",
            *command,
        ),
        timeout=120,
    )
    try:
        end = time.monotonic() + timeout
        while True:
            found = compose.engine.inspect("container", [_window(installation)])
            state = found[0]["State"] if found else {}
            networks = found[0]["NetworkSettings"]["Networks"].values() if found else []
            addresses = [network["IPAddress"] for network in networks if network.get("IPAddress")]
            if state.get("Status") == "exited" or time.monotonic() > end:
                log = compose.engine.run("logs", "--tail", "20", _window(installation), timeout=30)
                why = "it stopped" if state.get("Status") == "exited" else f"it does not serve after {timeout:.0f} s"
                raise ScutumError(
                    f"LiteLLM could not prepare the database: {why}. Its last lines:\n"
                    + installation.redact((log.out + log.err).strip()),
                    left="the next run compares the tables first",
                    next_step="correct the cause and run the playbook again",
                )
            if addresses and _serves(addresses[0]):
                return
            time.sleep(0.5)
    finally:
        compose.engine.run("rm", "-f", _window(installation), timeout=60)


def _serves(address: str) -> bool:
    try:
        return http.request("GET", f"http://{address}:4000/health/liveliness", timeout=3).status == 200
    except http.NoAnswer:
        return False


def _compare(installation: Installation, database: Database, before: dict[str, int], dump: str, image: str) -> None:
    lost = losses(before, database.relations())
    if lost:
        raise ScutumError(
            f"schema guard: {image} destroyed data that is not LiteLLM's: {'; '.join(lost)}",
            left=f"everything as it was before is in {dump}",
            next_step=f"get it back with: {database.restore_command(dump)}\nthen set scutum_version back to "
            f"{installation.state().get('version') or 'the version that ran before'} and run the playbook again",
        )
