# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching secrets on the host, from a play and at each start of the host; the way there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import secret_sources
from .env_file import problems_of_source
from .errors import ScutumError
from .installation import Installation

# Seconds between two tries.
PAUSE = 5.0


def fetch(
    installation: Installation, given: dict[str, Any] | None, deadline: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Have the secrets on the tmpfs. A source that does not answer leaves everything as it is.

    Args:
        given: settings to try (`source`, `options`, `credential`); None takes those that are kept.
        deadline: seconds for which it is tried again; 0 is one try.
        say: called with a line for each try that failed.

    Returns:
        `source`, `keys` (names), `changed` (whether a value differs from what lay there), `services` (whose file changed).
    """
    store = installation.store()
    settings = store.settings()
    if given is None and settings is None:
        raise ScutumError(
            f"{installation.directory} has no source of secrets: config/.env holds them",
            next_step="set scutum_secrets_source and run playbooks/secrets.yml",
        )
    if given is None and settings is not None:
        given = {"source": settings.source, "options": settings.options, "credential": store.credential()}
    asked = dict(given or {})
    end = time.monotonic() + deadline
    while True:
        try:
            values = secret_sources.read(asked["source"], asked["options"], asked["credential"])
            break
        except ScutumError as error:
            left = end - time.monotonic()
            if deadline and store.values():
                # The engine was started again, not the host: what lies there goes on to serve.
                say(f"the secrets that were fetched before stay: {error.what}")
                values = store.values()
                break
            if left <= 0:
                raise
            say(f"waiting for secrets, {left:.0f} s left: {error.what}")
            time.sleep(min(PAUSE, max(left, 0.1)))
    problems = problems_of_source(values)
    if problems:
        raise ScutumError(
            f"{asked['source']}: {'; '.join(problems)}",
            left="nothing was changed",
            next_step="correct the values in the source",
        )
    changed = store.keep(values)
    places = store.places() if store.runtime() else {}
    services = store.place(installation.env().as_dict(), places) if places else []
    return {"source": asked["source"], "keys": sorted(values), "changed": changed, "services": sorted(services)}
