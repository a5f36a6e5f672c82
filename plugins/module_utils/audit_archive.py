# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does with the archive of a host: prove that it is whole, ask it, bring months of it back."""

from __future__ import annotations

from typing import Any

from . import audit_catalog as catalog
from . import audit_job, audit_reading, audit_settings
from .database import Database
from .errors import ScutumError
from .installation import Installation
from .object_store import Store
from .report import Say
from .restore_record import host_name


def _opened(installation: Installation) -> tuple[Store, str]:
    """The archive, and the directory for a file on its way."""
    wanted = audit_job.settings(installation)
    return audit_settings.needed_store(installation, wanted), audit_settings.spool(installation, wanted)


def _confirmed(host: str, option: str) -> None:
    if host != host_name():
        raise ScutumError(
            f"the confirmation is {host!r}, and this host is {host_name()}",
            left="nothing was removed",
            next_step=f"look whether it is the host that you mean; if so: {option} {host_name()}",
        )


def verify(installation: Installation, deep: bool, say: Say) -> dict[str, Any]:
    """Whether the archive is what was written.

    Args:
        deep: read every file and compare its rows, too.

    Returns:
        `ok`, `checks` (name, ok, detail), `months` (by table), `rows`, `orphans`, `where`, `text`.
    """
    place, spool = _opened(installation)
    its = audit_job.job(installation)
    report = catalog.verify(place, deep, say, spool, its.status().get("heads"))
    if report.ok:
        # The newest ones, too, have to be there the next time: no store can show by itself that they are gone.
        its.record(heads=report.heads)
    # Each file was said when it had been read.
    shown = [item for item in report.checks if not item["ok"] or not item["name"].startswith("table=")]
    lines = [f"{'ok  ' if item['ok'] else 'FAIL'} {item['name']}: {item['detail']}" for item in shown]
    lines += [
        f"{table}: {len(months)} months, {months[0]} to {months[-1]}"
        for table, months in report.months.items()
        if months
    ]
    lines.append(f"{report.rows} rows in {place.where}: {'whole' if report.ok else 'NOT WHOLE'}")
    found = {
        "ok": report.ok,
        "checks": report.checks,
        "months": report.months,
        "rows": report.rows,
        "orphans": report.orphans,
    }
    return {**found, "where": place.where, "text": lines}


def remove_leftovers(installation: Installation, host: str, say: Say) -> dict[str, Any]:
    """Remove what killed runs left: files without a manifest, of months that are archived without them. Other ones stay: their manifest
    may have been removed by somebody.

    Args:
        host: this host's name, as a confirmation.
    """
    _confirmed(host, "scutum-ops audit-verify --remove-leftovers")
    place, unused = _opened(installation)
    with audit_job.job(installation).alone(say):
        report = catalog.verify(place, False, lambda line: None)
        mine = [
            key
            for key in report.orphans
            if any(
                key.startswith(catalog.folder(table, month))
                for table, months in report.months.items()
                for month in months
            )
        ]
        removed = catalog.remove_leftovers(place, mine) if mine else []
    kept = sorted(set(report.orphans) - set(removed))
    lines = [*(f"removed: {key}" for key in removed), *(f"kept, its month has no other file: {key}" for key in kept)]
    return {"removed": removed, "kept": kept, "text": lines or ["nothing is left over"]}


def query(
    installation: Installation, sql: str, first: str, last: str, say: Say, limit: int = audit_reading.LIMIT
) -> dict[str, Any]:
    """SQL over the archive.

    Args:
        first: month, as 2026-03; empty for all before.
        last: month; empty for all after.
        limit: rows; more are an error.

    Returns:
        `columns`, `rows` (texts), `text`.
    """
    place, spool = _opened(installation)
    columns, rows = audit_reading.query(place, sql, spool, say, first, last, limit)
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    return {"columns": columns, "rows": rows, "text": lines}


def rehydrate(installation: Installation, table: str, first: str, last: str, say: Say) -> dict[str, Any]:
    """Months of the archive back into Postgres, into a schema of their own."""
    if not (first and last):
        raise ScutumError(
            "the first and the last month are needed",
            left="nothing was loaded",
            next_step="scutum-ops audit-rehydrate --from 2026-03 --to 2026-04",
        )
    place, spool = _opened(installation)
    found = audit_reading.rehydrate(Database(installation), place, table, first, last, spool, say)
    lines = [
        f"{found['table']}: {', '.join(found['months'])}; {found['rows']} rows loaded now",
        f"it goes with: scutum-ops audit-rehydrate --forget {host_name()}",
    ]
    return {**found, "text": lines}


def forget(installation: Installation, host: str) -> dict[str, Any]:
    """Drop what was brought back; the archive stays.

    Args:
        host: this host's name, as a confirmation.
    """
    _confirmed(host, "scutum-ops audit-rehydrate --forget")
    tables = audit_reading.forget(Database(installation))
    return {
        "tables": tables,
        "text": [f"{tables} tables of the schema {audit_reading.SCHEMA} are gone; the archive is as it was"],
    }
