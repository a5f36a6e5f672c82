# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where secrets come from: one interface, a small file for each source. Runs on the host, in the isolated environment."""

from __future__ import annotations

from typing import Any, Protocol

from . import secret_source_hashi_vault
from .errors import ScutumError


class Source(Protocol):
    """A source that is asked on the host, now and after each reboot."""

    @staticmethod
    def problems(options: dict[str, Any], credential: dict[str, str]) -> list[str]:
        """What is wrong with the settings."""

    @staticmethod
    def read(options: dict[str, Any], credential: dict[str, str], timeout: float) -> dict[str, Any]:
        """Keys and values; a ScutumError names source, path and key, never a value."""


SOURCES: dict[str, Any] = {"hashi_vault": secret_source_hashi_vault}
# Without these nothing starts. Another key of the source is used where a service asks for it by that name.
REQUIRED = ("SCUTUM_API_KEY", "JWT_SECRET_KEY", "INTERNAL_SERVICE_KEY", "POSTGRES_PASSWORD", "LITELLM_SALT_KEY")


def read(source: str, options: dict[str, Any], credential: dict[str, str], timeout: float = 10) -> dict[str, str]:
    """Every value of a source, checked for being there and being a text."""
    found = SOURCES[source].read(options, credential, timeout)
    where = f"{source}, {options.get('path', '')}"
    missing = sorted(key for key in REQUIRED if not found.get(key))
    if missing:
        raise ScutumError(
            f"{where}: {', '.join(missing)} missing or empty",
            left="nothing was changed",
            next_step="write the keys into the source under these names (openssl rand -hex 32 makes a value)",
        )
    wrong = sorted(
        key for key, value in found.items() if not isinstance(value, (str, int, float)) or isinstance(value, bool)
    )
    if wrong:
        raise ScutumError(
            f"{where}: {', '.join(wrong)} is no text", left="nothing was changed", next_step="write it as a text"
        )
    return {str(key): str(value) for key, value in found.items() if value != ""}
