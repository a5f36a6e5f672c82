# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which months stay in Postgres, and which may leave: rules only, nothing is asked of anybody here.

A month is that of UTC, as its partition is. It is due when its last moment is older than the hot days: never the month that is now.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from . import audit_tables

DAY = 86400.0

# What may be done with a month.
STAYS = "stays"
DROP = "archive-and-drop"
WAITS = "waits"


@dataclass(frozen=True)
class Hot:
    """For how long rows of a table stay in Postgres.

    Args:
        days: None is unknown: nothing leaves.
        source: where the number comes from, for people.
        warnings: what somebody has to know or to decide.
    """

    days: int | None
    source: str
    warnings: list[str] = field(default_factory=list)


def hot(
    table: str,
    wanted: int | None,
    usual: int | None,
    licence: int | None,
    licence_says: str,
    before: int | None,
    confirmed: int | None,
) -> Hot:
    """How long a table's rows stay.

    A variable is an operator's word, and comes first. Without one, tables other than audit_logs have a number of their own, and
    audit_logs has the licence's (whitepaper, "Auditability": 30 days for a trial, 365 for business, 7 years for enterprise). An expired,
    missing or disputed licence is unknown, and nothing leaves. Fewer days than were in force before have to be confirmed by their number.

    Args:
        wanted: by a variable.
        usual: the table's own; None is the licence's.
        licence: what the licence says; None is unknown.
        licence_says: what is known of the licence, for people.
        before: what was in force when the job ran last.
        confirmed: by scutum_audit_confirm_fewer_days.
    """
    variable = "scutum_audit_hot_days" if usual is None else f"scutum_audit_tables.{table}.hot_days"
    if wanted is not None:
        days, source = wanted, variable
    elif usual is not None:
        days, source = usual, "this collection's default"
    elif licence is not None:
        days, source = licence, f"the licence ({licence_says})"
    else:
        unknown = f"{table}: how long its rows have to stay is unknown ({licence_says}): nothing leaves Postgres until it is known"
        return Hot(None, f"unknown: {licence_says}", [unknown])
    if before is None or days >= before or confirmed == days:
        return Hot(days, source)
    asked = (
        f"{table}: {source} says {days} days, and {before} were in force: {before} stay in force until somebody confirms it "
        f"(scutum_audit_confirm_fewer_days: {days})"
    )
    return Hot(before, f"{before} days were in force, {days} by {source} are not confirmed", [asked])


def due_at(month: str, days: int) -> float:
    """When a month's last moment is `days` days old, in seconds since 1970."""
    return audit_tables.begin(audit_tables.shift(month, 1)) + days * DAY


def due(month: str, days: int | None, now: float) -> bool:
    """Whether a month leaves: its last day is older than the hot days. Never the month that is now, nor a later one."""
    return days is not None and month < audit_tables.month_of(now) and due_at(month, days) <= now


@dataclass(frozen=True)
class Backup:
    """What is known of backups.

    Args:
        taken: when the newest verified one was taken, in seconds since 1970; 0 for none.
        problem: why that is not known; empty when it is.
        needed: false when the operator does without (scutum_audit_without_backup).
    """

    taken: float = 0.0
    problem: str = ""
    needed: bool = True


@dataclass(frozen=True)
class Decision:
    """What may be done with a month: `stays`, `archive`, `archive-and-drop`; `waits` is archived, and its drop waits for `reason`."""

    month: str
    what: str
    reason: str = ""


def decide(month: str, newest: float, hot_days: int | None, backup: Backup, now: float) -> Decision:
    """What may be done with a month that is in Postgres.

    Args:
        newest: time of its last row, in seconds since 1970; 0 when it has none.
    """
    if not due(month, hot_days, now):
        reason = "how long it has to stay is unknown" if hot_days is None else f"younger than {hot_days} days"
        return Decision(month, STAYS, reason)
    if not backup.needed or not newest:
        return Decision(month, DROP)
    if backup.problem:
        return Decision(month, WAITS, f"the newest verified backup is not known: {backup.problem}")
    if not backup.taken:
        return Decision(
            month, WAITS, "there is no verified backup: playbooks/verify_restore.yml (scutum-ops verify-restore)"
        )
    if backup.taken <= newest:
        return Decision(
            month,
            WAITS,
            f"the newest verified backup, of {_moment(backup.taken)}, is older than its last row, of {_moment(newest)}: "
            "playbooks/verify_restore.yml (scutum-ops verify-restore)",
        )
    return Decision(month, DROP)


def lag_days(months: list[str], hot_days: int | None, now: float) -> float:
    """Days by which the oldest month that should have left, and has not, is late; 0 when none is.

    Args:
        months: that are in Postgres and not in the archive.
    """
    late = [now - due_at(month, hot_days) for month in months if hot_days is not None and due(month, hot_days, now)]
    return round(max(late, default=0.0) / DAY, 2)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) + " UTC"
