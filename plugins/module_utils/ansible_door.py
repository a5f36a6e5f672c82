# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first door to this library: what every module does in the same way."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

from .errors import ScutumError, as_error


def mask_only(module: Any, secrets: Iterable[str]) -> None:
    """Have Ansible hide just these values in what the module returns.

    A dict that is no_log hides each of its values, ports and words such as "true" too, and so makes messages unreadable.
    The parameter itself stays hidden.
    """
    module.no_log_values = {value for value in secrets if len(value) >= 6}


def texts(given: dict[str, Any]) -> dict[str, str]:
    """A dict of secrets as texts; what YAML or a lookup made of a JSON text becomes one again."""
    return {
        str(key): json.dumps(value) if isinstance(value, (dict, list)) else str(value)
        for key, value in given.items()
        if value is not None
    }


def installed(installation: Any) -> None:
    """Refuse to work on a directory that holds no installation."""
    if not installation.exists():
        raise ScutumError(
            f"{installation.directory} holds no installation",
            next_step="run playbooks/install.yml, or set scutum_dir to the directory that holds config/.env",
        )


def run(module: Any, work: Callable[[], dict[str, Any]]) -> None:
    """Do a module's work and leave by the one exit: its result, or the failure in the library's three parts.

    Args:
        module: the AnsibleModule.
        work: returns what the module returns; `duration` (seconds) is added.
    """
    start = time.monotonic()
    try:
        result = work()
    except (ScutumError, OSError, UnicodeError, subprocess.SubprocessError) as problem:
        error = as_error(problem)
        module.fail_json(msg=str(error), left=error.left, next_step=error.next_step)
    else:
        module.exit_json(duration=round(time.monotonic() - start, 2), **result)
