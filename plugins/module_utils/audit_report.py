# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What audit history there is: looked at once, and shown as text, as a page and as metrics."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from typing import Any

from . import audit_catalog as catalog
from . import audit_retention as rules
from . import audit_tables, partition_session, partitions
from .audit_retention import Hot
from .audit_tables import Table
from .database import Database
from .host_job import runs
from .installation import Installation
from .metrics import Gauges

METRICS = "scutum_audit"
# Whitepaper, "Disaster scenarios": alert at 70 % of the disk.
FULL = 0.7


def measure(
    database: Database, hot: Mapping[str, Hot], archived: list[catalog.Entry] | None, now: float | None = None
) -> dict[str, Any]:
    """Look at tables, archive and disk.

    Args:
        archived: the files that count; None when there is no archive, or it does not answer.

    Returns:
        `tables` (see `_table`), `database_bytes`, `disk_ratio` (None when the disk's size is not known), `at`.
    """
    now = time.time() if now is None else now
    tables = {name: _table(database, audit_tables.table(name), item, archived, now) for name, item in hot.items()}
    size = database.size()
    disk = _disk(database)
    return {"tables": tables, "database_bytes": size, "disk_ratio": round(size / disk, 4) if disk else None, "at": now}


def _table(
    database: Database, table: Table, hot: Hot, archived: list[catalog.Entry] | None, now: float
) -> dict[str, Any]:
    """One table: `exists`, `partitioned`, `open`, `rows` (estimated), `bytes`, `default_rows`, `oldest` (seconds since 1970, 0 for no row),
    `hot_days`, `source`, `warnings`, `lag_days`, `months_archived`, `archived_rows`, `months` (of both places, oldest first)."""
    state = partitions.look(database, table.name)
    there = catalog.months(archived or [], table.name)
    months: dict[str, dict[str, Any]] = {
        month: {"month": month, "rows": 0, "bytes": 0, "state": "archived", "archived_rows": rows}
        for month, rows in there.items()
    }
    for part in [*state.parts, *state.detached]:
        if not part.month:
            continue
        due = rules.due(part.month, hot.days, now)
        what = "detached" if part in state.detached else "due" if due else "hot"
        months[part.month] = {
            "month": part.month,
            "rows": part.rows_estimate,
            "bytes": part.bytes,
            "state": what,
            "archived_rows": there.get(part.month, 0),
        }
    late = [name for name, item in months.items() if item["state"] in ("due", "detached") and name not in there]
    return {
        "exists": state.exists,
        "partitioned": state.partitioned,
        "open": state.open,
        "rows": state.rows_estimate,
        "bytes": state.bytes,
        "default_rows": state.default_rows,
        "oldest": _oldest(database, table, state),
        "ahead": _ahead(months, now),
        "hot_days": hot.days,
        "source": hot.source,
        "warnings": list(hot.warnings),
        "lag_days": rules.lag_days(late, hot.days, now),
        "months_archived": len(there),
        "archived_rows": sum(there.values()),
        "months": [months[name] for name in sorted(months)],
    }


def _oldest(database: Database, table: Table, state: partitions.State) -> float:
    """The oldest row's time: of the first part that has any."""
    if not state.exists:
        return 0.0
    if not state.partitioned:
        return partitions.oldest(database, table.name, table.column)
    found = [
        partitions.oldest(database, part.name, table.column)
        for part in state.parts
        if part.kind in ("other", "default")
    ]
    for part in sorted((part for part in state.parts if part.kind == "month"), key=lambda part: part.month):
        moment = partitions.oldest(database, part.name, table.column)
        if moment:
            found.append(moment)
            break
    return min((moment for moment in found if moment), default=0.0)


def _ahead(months: dict[str, dict[str, Any]], now: float) -> int:
    """Months after this one that have a partition without a gap."""
    count, month = 0, audit_tables.month_of(now)
    while (month := audit_tables.shift(month, 1)) in months and months[month]["state"] == "hot":
        count += 1
    return count


def _disk(database: Database) -> int:
    """Bytes of the disk that holds the database; 0 when its container does not say."""
    directory = partition_session.scalar(database, "SHOW data_directory")
    result = database.installation.engine.run("exec", database.container(), "df", "-kP", directory, timeout=60)
    fields = result.out.strip().splitlines()[-1].split() if result.rc == 0 and result.out.strip() else []
    return int(fields[1]) * 1024 if len(fields) >= 6 and fields[1].isdigit() else 0


def problems(found: Mapping[str, Any], ahead: int) -> list[str]:
    """What is wrong, each with what to do.

    Args:
        found: what `measure` returned, with `archive_error`.
        ahead: months for which there should be partitions.
    """
    wrong = []
    for name, item in found["tables"].items():
        if not item["exists"]:
            wrong.append(
                f"public.{name} does not exist: did LiteLLM's schema push drop it? scutum-ops verify; where the release has no such table, "
                "take it out of scutum_audit_tables"
            )
            continue
        if item["open"]:
            wrong.append(
                f"{name}: {item['open']} was interrupted: playbooks/audit_retention.yml (scutum-ops audit-partitions) goes on"
            )
        elif not item["partitioned"]:
            wrong.append(f"{name} is one plain table: playbooks/audit_retention.yml (scutum-ops audit-partitions)")
        elif item["ahead"] < ahead:
            wrong.append(
                f"{name} has partitions for {item['ahead']} months ahead, not {ahead}: scutum-ops audit-retention"
            )
        if item["default_rows"]:
            wrong.append(
                f"{name}: {item['default_rows']} rows in the default partition: scutum-ops audit-retention moves them"
            )
        detached = [month["month"] for month in item["months"] if month["state"] == "detached"]
        if detached:
            wrong.append(
                f"{name}: {', '.join(detached)} is detached, and not seen by the product: scutum-ops audit-retention goes on"
            )
        if item["lag_days"] > 2 and found.get("where"):
            wrong.append(f"{name}: the archive is {item['lag_days']} days late: scutum-ops audit-retention says why")
        wrong += item["warnings"]
    if found.get("archive_error"):
        wrong.append(f"the archive: {found['archive_error']}")
    if (found["disk_ratio"] or 0) >= FULL:
        wrong.append(
            f"the database takes {found['disk_ratio']:.0%} of its disk: enlarge the disk, or keep fewer days in Postgres"
        )
    good, bad = found.get("last_success", {}), found.get("last_failure", {})
    if bad.get("at", 0) > good.get("at", 0):
        wrong.append(f"the last run failed: {bad['error']}")
    return wrong


def text(found: Mapping[str, Any]) -> list[str]:
    """All of it, a line each."""
    lines = []
    for name, item in found["tables"].items():
        if not item["exists"]:
            lines.append(f"{name}: does not exist")
            continue
        days = f"{item['hot_days']} days" if item["hot_days"] else "for ever"
        shape = f"{item['ahead']} months ahead" if item["partitioned"] else "one plain table"
        lines.append(
            f"{name}: {item['rows']} rows, {_size(item['bytes'])} in Postgres, kept there {days} ({item['source']}); {shape}; "
            f"{item['months_archived']} months, {item['archived_rows']} rows in the archive"
        )
        lines += [
            f"  {month['month']}  {month['state']:<8}  {month['rows']:>12} rows  {_size(month['bytes']):>10}"
            + (f"  {month['archived_rows']:>12} archived" if month["archived_rows"] else "")
            for month in item["months"]
        ]
    ratio = found["disk_ratio"]
    lines.append(
        f"database: {_size(found['database_bytes'])}" + (f", {ratio:.1%} of its disk" if ratio is not None else "")
    )
    lines.append(f"archive: {found.get('where') or 'none (scutum_audit_store is empty): nothing leaves Postgres'}")
    good = found.get("last_success", {}).get("at")
    lines.append(f"last good run: {time.strftime('%Y-%m-%d %H:%M', time.localtime(good)) if good else 'never'}")
    return [*lines, *(f"WRONG {line}" for line in found.get("problems", []))]


def page(installation: Installation, found: Mapping[str, Any]) -> str:
    """The same as a page: each month with a bar for its rows, in Postgres and in the archive."""
    parts = []
    for name, item in found["tables"].items():
        most = max((max(month["rows"], month["archived_rows"]) for month in item["months"]), default=0) or 1
        rows = "".join(
            f"<tr><td>{month['month']}</td><td>{month['state']}</td><td align='right'>{month['rows']}</td>"
            f"<td align='right'>{month['archived_rows']}</td><td align='right'>{_size(month['bytes'])}</td>"
            f"<td>{_bar(month['rows'] / most, '#1a73e8')}{_bar(month['archived_rows'] / most, '#9aa0a6')}</td></tr>"
            for month in item["months"]
        )
        head = "<tr><th>month</th><th></th><th>rows in Postgres</th><th>in the archive</th><th>size</th><th></th></tr>"
        parts.append(f"<h2>{html.escape(name)}</h2><table cellpadding='4'>{head}{rows}</table>")
    wrong = "".join(f"<li>{html.escape(line)}</li>" for line in found.get("problems", []))
    lines = "<br>".join(html.escape(line) for line in text(found) if not line.startswith(("  ", "WRONG ")))
    title = html.escape(f"Audit history of {installation.directory}")
    return (
        f"<!doctype html><meta charset='utf-8'><title>{title}</title><body style='font-family:sans-serif'><h1>{title}</h1>"
        + (
            f"<ul style='background:#fce8e6'>{wrong}</ul>"
            if wrong
            else "<p style='background:#e6f4ea'>nothing is wrong</p>"
        )
        + f"<p>{lines}</p>{''.join(parts)}</body>\n"
    )


def _bar(share: float, colour: str) -> str:
    return f"<div style='background:{colour};height:.5em;width:{round(share * 300)}px'></div>"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def gauges(held: dict[str, Any]) -> dict[str, Gauges]:
    """The metrics of the record of runs: `measured` is what `measure` returned last."""
    measured = held.get("measured") or {}
    tables = measured.get("tables", {})
    found: dict[str, Gauges] = {**runs(held, METRICS, "run")}
    for name, key, help_text in (
        ("hot_rows", "rows", "Rows in Postgres, estimated."),
        ("hot_bytes", "bytes", "Bytes in Postgres, with indexes."),
        ("oldest_hot_timestamp_seconds", "oldest", "The oldest row in Postgres; 0 for no row."),
        ("default_rows", "default_rows", "Rows in the default partition: they belong to no month that is there."),
        ("partitions_ahead", "ahead", "Months after this one that have a partition."),
        ("months_archived", "months_archived", "Months in the archive."),
        ("archive_lag_days", "lag_days", "Days by which the oldest month that should be in the archive is late."),
        ("retention_days", "hot_days", "Days for which rows stay in Postgres; 0 is unknown, and nothing leaves."),
    ):
        found[f"{METRICS}_{name}"] = [
            (help_text, {"table": table}, float(item[key] or 0)) for table, item in tables.items()
        ]
    if measured.get("disk_ratio") is not None:
        found[f"{METRICS}_database_disk_ratio"] = (
            "Size of the database as a share of its disk.",
            {},
            measured["disk_ratio"],
        )
    return found
