# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An empty host made ready for a restore: config/.env as the backup has it, so that an install brings up the same with the same secrets.

The backup holds secrets only when it is encrypted, and only those that were in config/.env: others come from their source, from the
operator's variables, or are made anew and named.
"""

from __future__ import annotations

import json
import time
from typing import Any

from . import backup, backup_archive, env_file, preflight, restore, restore_record
from . import backup_catalog as catalog
from . import compose as compose_module
from .errors import ScutumError
from .files import ensure_directory, write_file
from .installation import Installation


def prepare(installation: Installation, wanted: restore.Settings, check: bool = False) -> dict[str, Any]:
    """Have config/.env on an empty host; a host with an installation stays as it is.

    Returns:
        `empty`: whether it still is; `install`: whether the release has to be installed now, which a run that was killed may have begun;
        `release` (to install), `id` (of the backup), `changed`, `text`.

    Raises:
        ScutumError: there is no such backup, or it cannot be read here.
    """
    confirmed = restore.confirmed(wanted) == "confirm"
    record = restore_record.load(installation)
    if installation.exists():
        begun = record is not None and record.phase == restore_record.PREPARED
        return {
            "empty": False,
            "install": begun and confirmed,
            "release": record.release if record and begun else str(installation.state().get("version") or ""),
            "id": record.id if record else "",
            "changed": False,
            "text": [],
        }
    orphaned = preflight.orphaned_data(installation) if installation.engine.installed() else []
    if orphaned:
        raise ScutumError("; ".join(orphaned), left="nothing was changed", next_step="then run it again")
    if not wanted.store:
        raise ScutumError(
            f"{installation.directory} holds no installation, and nothing says where its backups are",
            left="nothing was changed",
            next_step="set scutum_backup_store (or scutum_restore_store)",
        )
    place = backup.store(installation, backup.Settings(store=wanted.store), given=wanted.environment)
    manifest = catalog.manifest(place, catalog.choose(place, wanted.name).id)
    name, release = manifest["id"], manifest["release"]
    if not release:
        raise ScutumError(
            f"{name}: no release was recorded with it",
            left="nothing was changed",
            next_step="install the release, then restore",
        )
    archive = backup_archive.read(place, manifest, wanted.identities)
    planned, missing = _environment(installation, archive, wanted.environment)
    told = [f"this host is empty: release {release} of backup {name} has to be installed first"]
    told += [f"{key} is nowhere: {restore.CONSEQUENCES.get(key, restore.NOWHERE)}" for key in missing]
    if check or not confirmed:
        return {
            "empty": True,
            "install": False,
            "release": release,
            "id": name,
            "changed": check and confirmed,
            "text": told,
        }
    ensure_directory(installation.directory, 0o755)
    ensure_directory(installation.path("config"), 0o755)
    restore_record.save(
        installation,
        restore_record.Open(
            restore_record.PREPARED, name, time.time(), release=release, fresh=True, new_secrets=missing
        ),
    )
    installation.save_state(adopted=_adopted(archive))
    # Last: with it there is an installation, and what was made anew must not be made twice.
    write_file(installation.path(compose_module.ENV_FILE), planned.render(), 0o600)
    return {"empty": False, "install": True, "release": release, "id": name, "changed": True, "text": told}


def _environment(
    installation: Installation, archive: backup_archive.Archive, environment: dict[str, str]
) -> tuple[env_file.EnvFile, list[str]]:
    """config/.env from an archive, and the keys whose values were nowhere: they are new, or missing."""
    held = env_file.EnvFile(archive.texts.get(compose_module.ENV_FILE, ""))
    # Decided by the install; an adopted installation keeps its profiles until something is set.
    owned = env_file.OWNED.keys() - ({"COMPOSE_PROFILES"} if _adopted(archive) else set())
    held.drop([*owned, *(key for key in held.as_dict() if key.startswith("SCUTUM_OPS_"))])
    store = installation.store()
    from_source = store.values() if store.settings() else {}
    runtime = env_file.secrets_of(from_source) if store.runtime() else {}
    given = {**{key: value for key, value in from_source.items() if key not in runtime}, **environment}
    planned, unused = env_file.plan(None, held.render(), given, held=runtime)
    known = {*given, *runtime, *(key for key, value in held.as_dict().items() if value)}
    return planned, sorted(key for key in archive.left_out if key not in known)


def _adopted(archive: backup_archive.Archive) -> bool:
    """Whether the vendor's installer had made what was backed up: its ports and profiles are kept then."""
    return bool(json.loads(archive.texts.get(backup_archive.STATE, "{}")).get("adopted"))
