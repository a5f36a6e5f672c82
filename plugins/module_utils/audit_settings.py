# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator decides about audit history: the variables of the role audit_retention, kept on the host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from . import audit_retention, audit_tables, licence, object_store
from .errors import ScutumError
from .files import ensure_directory
from .installation import Installation
from .object_store import Store

FILE = "audit-retention.json"
# In the source of secrets, or in config/.env: the archive's own, else that of the backups; without any the client asks the instance.
_CREDENTIAL = ("access_key_id", "secret_access_key", "session_token")
_PREFIXES = ("SCUTUM_AUDIT_", "SCUTUM_BACKUP_")
_DOCS = "docs/roles/audit_retention.md has each variable, with an example"


@dataclass
class Settings:
    """The variables of the role, without their prefix.

    Args:
        store: where months are archived, as object_store takes it; empty for nowhere, and then nothing leaves.
        tables: by name, what is different for it: `hot_days`.
        hot_days: for audit_logs; None is what the licence says.
        confirm_fewer_days: the number that is confirmed, when fewer days than before shall be in force.
        partitions_ahead: months.
        without_backup: drop also what no verified backup holds.
        litellm_days: for LiteLLM's own table, which is not archived; 0 leaves it alone.
        spool: directory for a file on its way; empty for one below the private directory.
        lock_patience: seconds for which a lock is tried again.
        timeout: seconds of a run.
    """

    store: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=lambda: {"audit_logs": {}})
    hot_days: int | None = None
    confirm_fewer_days: int | None = None
    partitions_ahead: int = 3
    without_backup: bool = False
    litellm_days: int = 0
    spool: str = ""
    lock_patience: int = 600
    timeout: int = 6 * 3600


def from_words(given: Mapping[str, Any]) -> Settings:
    """Settings from a module's parameters, where 0 stands for none, or from what was kept.

    Raises:
        ScutumError: what is wrong with them, all of it; nothing was changed.
    """
    words = {item.name: given[item.name] for item in fields(Settings) if given.get(item.name) is not None}
    for name in ("hot_days", "confirm_fewer_days"):
        words[name] = words.get(name) or None
    found = Settings(**words)
    wrong = _tables(found) + problems(found)
    if wrong:
        raise ScutumError("; ".join(wrong), left="nothing was changed", next_step=_DOCS)
    return found


def _tables(found: Settings) -> list[str]:
    """Make numbers of what a survey gives as text; what is wrong with the tables."""
    given: Any = found.tables
    if not isinstance(given, dict):
        return ["scutum_audit_tables has to be a dictionary: {audit_logs: {}}"]
    wrong = []
    for name, own in found.tables.items():
        own = own or {}
        unknown = sorted(set(own) - {"hot_days"}) if isinstance(own, dict) else ["?"]
        if unknown:
            wrong.append(f"scutum_audit_tables.{name}: only hot_days may stand there, not {', '.join(unknown)}")
            continue
        days = str(own.get("hot_days") or 0)
        if not days.isdigit():
            wrong.append(f"scutum_audit_tables.{name}.hot_days is {days!r}: a number of days is needed")
        else:
            found.tables[name] = {"hot_days": int(days)} if int(days) else {}
    return wrong


def problems(found: Settings) -> list[str]:
    """What is wrong with settings, before anything is done."""
    wrong = []
    if found.store:
        said = object_store.problems(found.store, {})
        wrong += [text.replace(object_store.VARIABLE, "scutum_audit_store") for text in said]
    if not found.tables:
        wrong.append("scutum_audit_tables names no table; scutum_audit: false leaves all as they are")
    wrong += [
        f"scutum_audit_tables: {name} is no table that grows; those are {', '.join(audit_tables.TABLES)}"
        for name in found.tables
        if name not in audit_tables.TABLES
    ]
    for name, number, least in (
        ("hot_days", 1 if found.hot_days is None else found.hot_days, 1),
        ("confirm_fewer_days", 1 if found.confirm_fewer_days is None else found.confirm_fewer_days, 1),
        ("partitions_ahead", found.partitions_ahead, 1),
        ("litellm_days", found.litellm_days, 0),
        ("lock_patience", found.lock_patience, 1),
        ("timeout", found.timeout, 300),
    ):
        if number < least:
            wrong.append(f"scutum_audit_{name} is {number}: at least {least} is needed")
    if found.partitions_ahead > 24:
        wrong.append(f"scutum_audit_partitions_ahead is {found.partitions_ahead}: at most 24 months")
    if found.spool and not found.spool.startswith("/"):
        wrong.append("scutum_audit_spool is no absolute path")
    elif found.spool and not os.path.isdir(found.spool):
        wrong.append(f"scutum_audit_spool: {found.spool} is no directory of this host")
    return wrong


def store(installation: Installation, found: Settings) -> Store | None:
    """The archive, with the credential from the installation's secrets; None without one."""
    if not found.store:
        return None
    credential: dict[str, str] = {}
    for prefix in _PREFIXES:
        held = {name: installation.secret(prefix + name.upper()) for name in _CREDENTIAL}
        if held["access_key_id"]:
            credential = {name: value for name, value in held.items() if value}
            break
    return object_store.open_store(found.store, credential)


def needed_store(installation: Installation, found: Settings) -> Store:
    """The same, where there has to be one."""
    place = store(installation, found)
    if place is None:
        raise ScutumError(
            f"{installation.directory} has no archive: scutum_audit_store is empty",
            left="nothing was done",
            next_step="set scutum_audit_store and run playbooks/audit_retention.yml",
        )
    return place


def spool(installation: Installation, found: Settings) -> str:
    """The directory for a file on its way, which is there."""
    if found.spool:
        return found.spool
    path = os.path.join(installation.private, "audit-spool")
    ensure_directory(path, 0o700)
    return path


def hot(installation: Installation, found: Settings, before: Mapping[str, int]) -> dict[str, audit_retention.Hot]:
    """By table, for how long its rows stay; the licence is asked only where it decides.

    Args:
        before: days that were in force, by table.
    """
    days, says = None, ""
    if found.hot_days is None and any(audit_tables.table(name).hot_days is None for name in found.tables):
        days, says = _licence(installation)
    result = {}
    for name, own in found.tables.items():
        usual = audit_tables.table(name).hot_days
        wanted = own.get("hot_days") or (found.hot_days if usual is None else None)
        result[name] = audit_retention.hot(name, wanted, usual, days, says, before.get(name), found.confirm_fewer_days)
    return result


def _licence(installation: Installation) -> tuple[int | None, str]:
    """Days by the licence's rule, and what is known of it in words."""
    status = licence.status(installation)
    days = status["audit_retention_days"]
    if days:
        return int(days), str(status["tier"])
    if status["endpoint_error"]:
        return None, f"admin-api does not say which licence is in force: {status['endpoint_error']}"
    if status["table_error"]:
        return None, f"the table of licences cannot be read: {status['table_error']}"
    if not status["consistent"]:
        return None, "the places that know a licence do not agree: scutum-ops license"
    if status["expired"]:
        return None, "the licence has expired: playbooks/license.yml"
    if not status["present"]:
        return None, "there is no licence: playbooks/license.yml"
    return None, f"the licence ({status['tier']}) does not say it: scutum-ops license"
