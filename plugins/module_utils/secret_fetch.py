# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching secrets on the host, from a play and at each start of the host; the way there is one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from . import env_file, secret_rotation
from .errors import ScutumError
from .installation import Installation
from .secret_ages import ROTATED, Record
from .secret_sources import PREVIOUS, REQUIRED, Source

# Seconds between two tries.
PAUSE = 5.0


def fetch(
    installation: Installation, given: dict[str, Any] | None, deadline: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Have the secrets on the tmpfs. A source that does not answer leaves everything as it is.

    Args:
        given: settings to try (`source`, `options`, `credential`, `injection`); None takes those that are kept.
        deadline: seconds for which it is tried again, at the start of a host; 0 is one try, from a play or by hand.
        say: called with a line for each try that failed.

    Returns:
        `source`, `keys` (names), `changed` (whether a value differs from what lay there), `services` (whose file changed).
    """
    store = installation.store()
    if given is None:
        source, settings = store.source(), store.settings()
        way = settings.injection if settings else "runtime"
    else:
        source, way = (
            Source(given["source"], given["options"], given["credential"]),
            str(given.get("injection", "runtime")),
        )
    if source is None:
        raise ScutumError(
            f"{installation.directory} has no source of secrets: config/.env holds them",
            left="nothing was changed",
            next_step="set scutum_secrets_source and run playbooks/secrets.yml",
        )
    end = time.monotonic() + deadline
    while True:
        try:
            # On a bare host there is nothing yet that a second run could change.
            with installation.lock() if os.path.isdir(installation.private) else contextlib.nullcontext():
                values = usable(installation, source, way, bool(deadline), say)
                changed, services = _keep(installation, values)
            break
        except ScutumError as error:
            left = end - time.monotonic()
            if deadline and store.values():
                # The engine was started again, not the host: what lies there goes on to serve.
                say(f"the secrets that were fetched before stay: {error.what}")
                values = store.values()
                changed, services = _keep(installation, values)
                break
            if left <= 0:
                raise
            say(f"waiting for secrets, {left:.0f} s left: {error.what}")
            time.sleep(min(PAUSE, max(left, 0.1)))
    return {"source": source.name, "keys": sorted(values), "changed": changed, "services": services}


def _keep(installation: Installation, values: dict[str, str]) -> tuple[bool, list[str]]:
    """On the tmpfs, and from there to the services that run with it."""
    store = installation.store()
    changed = store.keep(values)
    # Also on the way to config/.env: until their containers are recreated, services are started with these files.
    places = store.places()
    return changed, sorted(store.place(installation.env().as_dict(), places)) if places else []


def usable(
    installation: Installation, source: Source, way: str, starting: bool, say: Callable[[str], None]
) -> dict[str, str]:
    """What the source holds, checked, with the values that are in force on this host.

    Args:
        way: `runtime` or `env_file`, which cannot hold every value.
        starting: the host starts: it takes what it ran with, as long as the source still has it.
    """
    held = source.read()
    values = {key: value for key, value in held.items() if not key.endswith(PREVIOUS)}
    problems = env_file.problems_of_source(values)
    if way == "env_file":
        problems += env_file.problems_in_file(values)
    if problems:
        raise ScutumError(
            f"{source.where}: {'; '.join(dict.fromkeys(problems))}",
            left="nothing was changed",
            next_step="correct the values in the source",
        )
    record = Record(installation.private)
    others = [key for key in REQUIRED if record.is_in_force(key, values[key]) is False]
    if not others:
        return values
    if not starting:
        raise ScutumError(
            f"{', '.join(others)} in {source.where}: not what is in force on this host, and running data or other services "
            "depend on it",
            left="nothing was changed",
            next_step=_way(others),
        )
    before = list(source.older(held))
    taken = {}
    for key in others:
        old = next((content[key] for content in before if record.is_in_force(key, content.get(key, ""))), None)
        if old is not None:
            say(f"{key}: the source holds another value than the one in force here; its older one is used")
            values[key] = old
        elif key == "LITELLM_SALT_KEY":
            raise ScutumError(
                f"{key} in {source.where}: not what LiteLLM's stored credentials are encrypted with, and the source has no older one",
                left="no service was started with it",
                next_step="write the old value into the source again",
            )
        else:
            say(
                f"{key}: the source holds another value than the one in force here, and no older one: the new one is taken up"
            )
            taken[key] = values[key]
    secret_rotation.take_up(installation, taken)
    return values


def _way(keys: list[str]) -> str:
    if "LITELLM_SALT_KEY" in keys:
        return (
            "write the old LITELLM_SALT_KEY back: LiteLLM's stored credentials are encrypted with it, it never changes"
        )
    names = [name for name, (key, unused) in ROTATED.items() if key in keys]
    return f"take the new value up with playbooks/rotate_secrets.yml -e scutum_rotate={','.join(names)}, or write the old one back"
