# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator decides about an upgrade: the variables of the role, checked, and kept on the host for the watch and the rollback."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from . import release
from .errors import ScutumError
from .files import ensure_directory, read_text, write_file
from .installation import Installation

# Below the installation's private directory.
FILE = "upgrade.json"
# What only the call that brings it may know: it goes through standard input, and is not kept.
_SECRET = ("environment", "registry_username", "registry_password")
PREFIX = "scutum_upgrade_"
_EGRESS = re.compile(r"^[A-Za-z0-9.-]+:\d{1,5}$")


@dataclass
class Settings:
    """The variables of the role upgrade, without their prefix; what comes from the role install is named so.

    Args:
        version: the release to go to.
        base_url, sums, archive, digests, environment, registry_username, registry_password: as in the role install.
        models: that have to answer in the smoke test; empty for one of each provider that LiteLLM knows.
        without_staging: the target's version, as a confirmation that nothing is rehearsed.
        allow_skipped_minor: go over a minor release.
        license_days: a licence that ends within as many days is refused.
        backup_max_age: hours; an older verified backup is not enough.
        receipt_max_age: hours for which what was rehearsed counts.
        staging_directory: of the copy; empty for `<directory>-staging`.
        staging_providers: ask real providers from the copy, with production's keys.
        staging_egress: what the copy may reach, as host:port.
        staging_cpus: CPUs for each of its services.
        keep_staging: leave the copy for a look.
        migration_timeout, start_timeout: seconds.
        probe_interval: seconds between two requests that count while services are recreated.
        baseline: seconds for which signals are measured before.
        watch: seconds.
        watch_interval: seconds between two looks.
        completion_interval: seconds between two completions that the watch asks for; 0 for none.
        minimum_requests: answers without which nothing is decided.
        error_margin: share of failed answers beyond the baseline's that is still good.
        latency_factor: how many times slower than the baseline is still good.
        automatic_rollback: go back by itself.
        accept_export: go back by itself also where rows cannot be carried over and are only exported.
        metrics: directory for metrics; empty for nowhere.
    """

    version: str = ""
    base_url: str = ""
    sums: dict[str, str] = field(default_factory=dict)
    archive: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    registry_username: str = ""
    registry_password: str = ""
    models: list[str] = field(default_factory=list)
    without_staging: str = ""
    allow_skipped_minor: bool = False
    license_days: int = 7
    backup_max_age: float = 24
    receipt_max_age: float = 24
    staging_directory: str = ""
    staging_providers: bool = False
    staging_egress: list[str] = field(default_factory=list)
    staging_cpus: float = 1.0
    keep_staging: bool = False
    migration_timeout: float = 600
    start_timeout: float = 300
    probe_interval: float = 0.5
    baseline: float = 30
    watch: float = 1800
    watch_interval: float = 2
    completion_interval: float = 10
    minimum_requests: int = 50
    error_margin: float = 0.05
    latency_factor: float = 3.0
    automatic_rollback: bool = True
    accept_export: bool = False
    metrics: str = ""

    @property
    def staged(self) -> bool:
        """Whether it is rehearsed in a copy first."""
        return self.without_staging != self.version


def problems(wanted: Settings) -> list[str]:
    """What is wrong with the settings, before anything is done."""
    found = []
    if wanted.without_staging and wanted.without_staging != wanted.version:
        found.append(
            f"{PREFIX}without_staging is {wanted.without_staging!r}, and the upgrade goes to {wanted.version}: it names the release for "
            "which the rehearsal is left out"
        )
    for name in ("migration_timeout", "start_timeout", "watch", "watch_interval", "staging_cpus", "latency_factor"):
        if getattr(wanted, name) <= 0:
            found.append(f"{PREFIX}{name} has to be more than 0")
    for name in (
        "license_days",
        "backup_max_age",
        "receipt_max_age",
        "probe_interval",
        "baseline",
        "completion_interval",
    ):
        if getattr(wanted, name) < 0:
            found.append(f"{PREFIX}{name} must not be negative")
    if wanted.minimum_requests < 1:
        found.append(f"{PREFIX}minimum_requests has to be at least 1: nothing is never good")
    if not 0 < wanted.error_margin < 1:
        found.append(f"{PREFIX}error_margin is a share, between 0 and 1")
    found += [
        f"{PREFIX}staging_egress: {place} is not host:port"
        for place in wanted.staging_egress
        if not _EGRESS.fullmatch(place)
    ]
    if wanted.staging_directory and not wanted.staging_directory.startswith("/"):
        found.append(f"{PREFIX}staging_directory is no absolute path")
    return found


def from_words(given: dict[str, Any]) -> Settings:
    """Settings as the role gives them; refuses what cannot work, all of it at once."""
    known = {item.name for item in fields(Settings)}
    wanted = Settings(**{name: value for name, value in given.items() if name in known})
    release.check_version(wanted.version)
    wrong = problems(wanted)
    if wrong:
        raise ScutumError(
            "; ".join(wrong), left="nothing was changed", next_step="correct this and run the playbook again"
        )
    return wanted


def keep(installation: Installation, wanted: Settings) -> None:
    """Keep them on the host, without what is secret."""
    ensure_directory(installation.private, 0o700)
    text = json.dumps(
        {name: value for name, value in asdict(wanted).items() if name not in _SECRET}, indent=1, sort_keys=True
    )
    write_file(os.path.join(installation.private, FILE), text + "\n", 0o600)


def kept(installation: Installation) -> Settings:
    """Those of the last upgrade."""
    text = read_text(os.path.join(installation.private, FILE))
    if text is None:
        raise ScutumError(
            f"no upgrade of {installation.directory} was ever begun here",
            left="nothing was changed",
            next_step="playbooks/upgrade.yml with scutum_version set to the release to go to",
        )
    return Settings(**json.loads(text))
