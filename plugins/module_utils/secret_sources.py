# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where secrets come from: one interface, a small file for each source. Runs on the host, in the isolated environment.

A source that can be written has `write`; one that keeps versions has `older`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from . import (
    secret_source_aws_secrets_manager,
    secret_source_file,
    secret_source_gcp_secret_manager,
    secret_source_hashi_vault,
    secret_source_sops,
)
from .errors import ScutumError
from .secret_source_common import refusal


class Module(Protocol):
    """What a source's file has. A failure is a ScutumError that names source, path and key, never a value."""

    @staticmethod
    def where(options: dict[str, Any]) -> str:
        """The place, for people."""

    @staticmethod
    def problems(options: dict[str, Any], credential: dict[str, str]) -> list[str]:
        """What is wrong with the settings."""

    @staticmethod
    def read(options: dict[str, Any], credential: dict[str, str], timeout: float) -> dict[str, Any]:
        """Keys and values."""


MODULES: dict[str, Any] = {
    "aws_secrets_manager": secret_source_aws_secrets_manager,
    "file": secret_source_file,
    "gcp_secret_manager": secret_source_gcp_secret_manager,
    "hashi_vault": secret_source_hashi_vault,
    "sops": secret_source_sops,
}
# `generated` is config/.env itself: there is nothing to ask.
NAMES = ("generated", *sorted(MODULES))
# They cannot be asked again after a reboot.
GIVEN = ("generated", "file")
# Without these nothing starts. Another key of the source is used where a service asks for it by that name.
REQUIRED = ("SCUTUM_API_KEY", "JWT_SECRET_KEY", "INTERNAL_SERVICE_KEY", "POSTGRES_PASSWORD", "LITELLM_SALT_KEY")
# What a source without versions calls a value that a rotation replaced.
PREVIOUS = "_PREVIOUS"


@dataclass
class Source:
    """A source with its settings.

    Args:
        name: of the source.
        options: what it needs to know; no secret among them.
        credential: its own credential (for `file`: the values).
        timeout: seconds for one call.
    """

    name: str
    options: dict[str, Any]
    credential: dict[str, str] = field(default_factory=dict)
    timeout: float = 10

    @property
    def _module(self) -> Any:
        return MODULES[self.name]

    @property
    def where(self) -> str:
        """The place, for people."""
        return str(self._module.where(self.options))

    def problems(self) -> list[str]:
        """What is wrong with the settings, before anything is asked."""
        known: dict[str, Any] = {"scutum_secrets_options": self._module.OPTIONS}
        if hasattr(self._module, "CREDENTIAL"):
            known["scutum_secrets_credential"] = self._module.CREDENTIAL
        given = {"scutum_secrets_options": self.options, "scutum_secrets_credential": self.credential}
        unknown = [
            f"{place}.{name} is none of {', '.join(names)}"
            for place, names in known.items()
            for name in given[place]
            if name not in names
        ]
        return unknown + list(self._module.problems(self.options, self.credential))

    def pinned(self) -> str:
        """The option that names one version, and so keeps a new one from being seen; empty when there is none."""
        default = {"version": ("", "latest", "None"), "version_stage": ("", "AWSCURRENT", "None")}
        return next((name for name, same in default.items() if str(self.options.get(name, "")) not in same), "")

    def _ask(self, name: str, *more: Any) -> Any:
        """A call of the source's file. What a client throws that is no refusal of ours is named by its type: its text may hold anything."""
        try:
            return getattr(self._module, name)(self.options, self.credential, self.timeout, *more)
        except ScutumError:
            raise
        except Exception as error:  # each client has failures that it does not document
            raise refusal(
                self.where,
                f"its answer cannot be used ({type(error).__name__})",
                "check scutum_secrets_options, then the source",
            ) from None

    @property
    def writable(self) -> bool:
        """Whether a rotation can write into it."""
        return hasattr(self._module, "write")

    def read(self) -> dict[str, str]:
        """Every value, checked for being there and being a text."""
        found = self._ask("read")
        missing = sorted(key for key in REQUIRED if not found.get(key))
        if missing:
            raise ScutumError(
                f"{self.where}: {', '.join(missing)} missing or empty",
                left="nothing was changed",
                next_step="write the keys into the source under these names (openssl rand -hex 32 makes a value)",
            )
        wrong = sorted(
            key for key, value in found.items() if not isinstance(value, (str, int, float)) or isinstance(value, bool)
        )
        if wrong:
            raise ScutumError(
                f"{self.where}: {', '.join(wrong)} is no text",
                left="nothing was changed",
                next_step="write it as a text",
            )
        return {str(key): str(value) for key, value in found.items() if value != ""}

    def older(self, now: dict[str, str]) -> Iterator[dict[str, str]]:
        """What it held before, newest first, where it can tell.

        Args:
            now: what it holds, with values under KEY_PREVIOUS when it has no versions.
        """
        yield {key.removesuffix(PREVIOUS): value for key, value in now.items() if key.endswith(PREVIOUS)}
        if hasattr(self._module, "older"):
            for content in self._ask("older"):
                yield {str(key): str(value) for key, value in content.items() if value is not None}

    def write(self, changes: dict[str, str], before: dict[str, str]) -> None:
        """Write new values; the old ones stay to be read, as a version or under KEY_PREVIOUS.

        Args:
            before: today's values of the same keys.
        """
        kept = {} if self._keeps_versions() else {key + PREVIOUS: before[key] for key in changes}
        self._ask("write", {**changes, **kept})

    def _keeps_versions(self) -> bool:
        versions = getattr(self._module, "keeps_versions", lambda options: hasattr(self._module, "older"))
        return bool(versions(self.options))
