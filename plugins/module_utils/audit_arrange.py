# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables into partitions by month and back, by the word of an operator: the plan first, then what it says. The daily job never does it."""

from __future__ import annotations

from typing import Any

from . import audit_job, audit_tables, partition_conversion, partition_upkeep, partitions
from .audit_settings import Settings
from .database import Database
from .errors import ScutumError
from .installation import Installation
from .report import Say
from .restore_record import host_name


def reachable(installation: Installation) -> bool:
    """Whether there is a Postgres to ask: in check mode on a host that is still empty there is none."""
    if not installation.exists():
        return False
    try:
        Database(installation).container()
    except (ScutumError, OSError):
        return False
    return True


def arrange(installation: Installation, wanted: Settings, say: Say, check: bool = False) -> dict[str, Any]:
    """Have all tables of the settings in partitions, with the months ahead; what was begun and not ended is continued.

    Returns:
        `changes`, `plans` (lines by table), `before` and `after` (the shape in words, by table), `text`.

    Raises:
        ScutumError: a table is not there, or something prevents its conversion; tables before it are converted.
    """
    result: dict[str, Any] = {"changes": [], "plans": {}, "before": {}, "after": {}, "text": []}
    database = Database(installation)
    if check:
        for name in wanted.tables:
            _plan(database, name, wanted, say, result)
        return result
    with audit_job.job(installation).alone(say):
        for name in wanted.tables:
            if not _plan(database, name, wanted, say, result, real=True):
                continue
            table = audit_tables.table(name)
            done = partition_conversion.convert(
                database, table.name, wanted.partitions_ahead, say, wanted.lock_patience
            )
            result["changes"] += [f"{name}: {change}" for change in done["changes"]]
            result["after"][name] = _shape(partitions.look(database, table.name))
            nulls = f"; {done['null_rows']} rows without a time took their fallback" if done.get("null_rows") else ""
            result["text"].append(f"{name}: {result['after'][name]}, in {done['seconds']:.0f} s{nulls}")
    return result


def _plan(
    database: Database, name: str, wanted: Settings, say: Say, result: dict[str, Any], real: bool = False
) -> bool:
    """Look at a table, and have the months ahead where it is partitioned; whether it has to be converted."""
    table = audit_tables.table(name)
    state = partitions.look(database, table.name)
    if not state.exists:
        raise ScutumError(
            f"public.{name} does not exist",
            left="nothing was done with it",
            next_step="admin-api makes it at its start (scutum-ops verify); where the release has no such table, take it out of "
            "scutum_audit_tables",
        )
    result["before"][name] = result["after"][name] = _shape(state)
    if state.partitioned and state.open not in ("convert", "undo"):
        kept = partition_upkeep.keep(database, table.name, wanted.partitions_ahead, say, not real)
        result["changes"] += [f"{name}: {change}" for change in kept]
        result["text"].append(f"{name}: {result['before'][name]}" + (f"; {'; '.join(kept)}" if kept else ""))
        return False
    plan = partition_conversion.plan(database, table.name, wanted.partitions_ahead)
    if plan.hindrances:
        raise ScutumError(
            f"{name} cannot be partitioned: {'; '.join(plan.hindrances)}",
            left="nothing was changed",
            next_step=f"take away what is named, or take {name} out of scutum_audit_tables",
        )
    lines = list(plan.text())
    result["plans"][name] = lines
    if not real:
        result["after"][name] = "in partitions by month"
        result["changes"].append(f"{name}: would be converted into partitions by month")
        result["text"].append(result["changes"][-1])
        result["text"] += [f"{name}: {line}" for line in lines]
    return True


def undo(installation: Installation, wanted: Settings, confirm: str, say: Say, check: bool = False) -> dict[str, Any]:
    """Make plain tables of them again, with every row that is in Postgres; without a confirmation only say what would be done.

    Args:
        confirm: this host's name.

    Returns:
        As `arrange`.
    """
    host = host_name()
    if confirm and confirm != host:
        raise ScutumError(
            f"the confirmation is {confirm!r}, and this host is {host}",
            left="nothing was changed",
            next_step=f"look whether it is the host that you mean; if so: scutum-ops audit-partitions --undo {host}",
        )
    result: dict[str, Any] = {"changes": [], "plans": {}, "before": {}, "after": {}, "text": []}
    database = Database(installation)
    work = []
    for name in wanted.tables:
        table = audit_tables.table(name)
        state = partitions.look(database, table.name)
        result["before"][name] = result["after"][name] = _shape(state)
        if state.exists and (state.partitioned or state.open):
            result["plans"][name] = list(partition_conversion.undo_plan(database, table.name))
            result["text"] += [f"{name}: {line}" for line in result["plans"][name]]
            work.append(table)
        else:
            result["text"].append(f"{name}: {result['before'][name]}")
    if not work:
        return result
    if check or not confirm:
        result["changes"] = [f"{table.name}: would be a plain table" for table in work] if confirm else []
        if not confirm:
            result["text"].append(f"nothing was changed: scutum-ops audit-partitions --undo {host} does it")
        return result
    with audit_job.job(installation).alone(say):
        for table in work:
            done = partition_conversion.undo(database, table.name, say, wanted.lock_patience)
            result["changes"] += [f"{table.name}: {change}" for change in done["changes"]]
            result["after"][table.name] = _shape(partitions.look(database, table.name))
            result["text"].append(f"{table.name}: {result['after'][table.name]}")
    result["text"].append(
        "the next playbook would convert it again, but with scutum_audit: false, or without it in scutum_audit_tables"
    )
    return result


def attach(installation: Installation, relname: str, say: Say, check: bool = False) -> dict[str, Any]:
    """Put a month that was detached back into its table."""
    database = Database(installation)
    found: list[str] = []
    for table in audit_tables.TABLES.values():
        for part in partitions.look(database, table.name).detached:
            found.append(part.name)
            if part.name == relname:
                if not check:
                    with audit_job.job(installation).alone(say):
                        partition_upkeep.attach(database, table.name, relname)
                change = f"{relname}: {'would be' * check or 'is'} back in {table.name}"
                return {"changes": [change], "text": [change]}
    raise ScutumError(
        f"{relname} is no month that was detached; {', '.join(found) or 'none'} is",
        left="nothing was changed",
        next_step="scutum-ops audit lists the months",
    )


def _shape(state: partitions.State) -> str:
    if not state.exists:
        return "does not exist"
    size = f"{state.rows_estimate} rows, {state.bytes / 2**20:.1f} MiB"
    if not state.partitioned:
        return f"one plain table, {size}" + (f" ({state.open} was interrupted)" if state.open else "")
    months = sum(1 for part in state.parts if part.kind == "month")
    return f"in partitions by month ({months}), {size}"
