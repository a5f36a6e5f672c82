# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what shape a table of the product is in: plain or by month, what its partitions are, and what was left open.

Nothing here changes anything, or waits for a lock that a write could hold.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from . import audit_tables, partition_shape
from .database import Database, literal, quoted
from .partition_session import WORK

_BOUNDS = re.compile(r"FOR VALUES FROM \('?([^')]*)'?\) TO \('?([^')]*)'?\)")
_FIRST = re.compile(r"(\d{4}-\d{2})-01 00:00:00\+00")
# Rows are counted by the server as they come; after a crash it knows only what the last ANALYZE found.
_ROWS = "coalesce(nullif(pg_stat_get_live_tuples({0}.oid), 0), greatest({0}.reltuples, 0)::bigint)"
_LOOK = """
SET timezone = 'UTC'; SET datestyle = 'ISO'; SET search_path = '';
SELECT jsonb_build_object('kind', c.relkind, 'estimate', {whole}, 'bytes', pg_total_relation_size(c.oid),
  'open', to_regclass('{work}.operations') IS NOT NULL,
  'parts', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', p.relname, 'bounds', pg_get_expr(p.relpartbound, p.oid),
      'estimate', {part}, 'bytes', pg_total_relation_size(p.oid)) ORDER BY p.relname), '[]')
    FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid WHERE i.inhparent = c.oid AND p.relispartition),
  'detached', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', p.relname, 'said', obj_description(p.oid, 'pg_class'),
      'estimate', {part}, 'bytes', pg_total_relation_size(p.oid)) ORDER BY p.relname), '[]')
    FROM pg_class p WHERE p.relnamespace = 'public'::regnamespace AND p.relkind = 'r' AND NOT p.relispartition
     AND obj_description(p.oid, 'pg_class') LIKE {mark} || '% of ' || {name}))
  FROM pg_class c WHERE c.oid = to_regclass({live})"""


@dataclass(frozen=True)
class Part:
    """One partition, or one that was detached.

    Args:
        name: in the schema public.
        kind: month, default, or other (not of our making).
        month: `2026-03`; empty unless it is one of a month.
        lower, upper: bounds in UTC, the upper one excluded; empty where there is none.
        rows_estimate: the server's; 0 when it knows nothing.
        bytes: with indexes and long values.
    """

    name: str
    kind: str
    month: str = ""
    lower: str = ""
    upper: str = ""
    rows_estimate: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class State:
    """The shape of a table.

    Args:
        default_rows: rows of the DEFAULT partition, counted.
        open: kind of the operation that was interrupted: convert, undo or default (rows of the DEFAULT partition are moved); or empty.
        detached: months that were detached and neither dropped nor attached again.
    """

    exists: bool
    partitioned: bool = False
    rows_estimate: int = 0
    bytes: int = 0
    default_rows: int = 0
    parts: list[Part] = field(default_factory=list)
    open: str = ""
    detached: list[Part] = field(default_factory=list)

    def of_month(self, month: str) -> Part | None:
        """The partition of a month."""
        return next((part for part in self.parts if part.month == month), None)


def look(database: Database, table: str) -> State:
    """How a table is stored at this moment; the name is one of `audit_tables.TABLES`."""
    audit_tables.table(table)
    live = f"public.{quoted(table)}"
    names = {"work": WORK, "mark": literal(partition_shape.DETACHED), "name": literal(table), "live": literal(live)}
    rows = database.query(_LOOK.format(whole=_ROWS.format("c"), part=_ROWS.format("p"), **names))
    if not rows:
        return State(False)
    found: dict[str, Any] = json.loads("\x1f".join(rows[0]))
    parts = [part_of(table, item) for item in found["parts"]]
    is_open = ""
    if found["open"]:
        noted = database.query(f"SELECT state->>'kind' FROM {WORK}.operations WHERE name = {literal(table)}")
        is_open = noted[0][0] if noted else ""
    default = next((part.name for part in parts if part.kind == "default"), "")
    partitioned = found["kind"] == "p"
    return State(
        exists=True,
        partitioned=partitioned,
        rows_estimate=sum(part.rows_estimate for part in parts) if partitioned else int(found["estimate"]),
        bytes=sum(part.bytes for part in parts) if partitioned else int(found["bytes"]),
        default_rows=count(database, default) if default else 0,
        parts=parts,
        open=is_open,
        detached=[_detached(item) for item in found["detached"]],
    )


def part_of(table: str, item: dict[str, Any]) -> Part:
    """A partition as Postgres describes it, in a session whose zone is UTC."""
    name, said = str(item["name"]), str(item["bounds"])
    rows, size = int(item["estimate"]), int(item["bytes"])
    if said == "DEFAULT":
        return Part(name, "default", rows_estimate=rows, bytes=size)
    match = _BOUNDS.fullmatch(said)
    lower, upper = match.groups() if match else ("", "")
    first = _FIRST.fullmatch(lower)
    if first and audit_tables.bounds(first[1]) == (lower, upper):
        return Part(name, "month", first[1], lower, upper, rows, size)
    lower, upper = ("" if bound in ("MINVALUE", "MAXVALUE") else bound for bound in (lower, upper))
    return Part(name, "other", "", lower, upper, rows, size)


def _detached(item: dict[str, Any]) -> Part:
    month = str(item["said"])[len(partition_shape.DETACHED) :].split()[0]
    lower, upper = audit_tables.bounds(month)
    return Part(str(item["name"]), "month", month, lower, upper, int(item["estimate"]), int(item["bytes"]))


def count(database: Database, relname: str) -> int:
    """Rows of a table in the schema public, counted."""
    return int(database.query(f"SELECT count(*) FROM public.{quoted(relname)}", timeout=6 * 3600)[0][0])


def newest(database: Database, relname: str, column: str) -> float:
    """The latest time in a column, in seconds since 1970; 0 without rows. Infinite times are not counted."""
    return _edge(database, "max", relname, column)


def oldest(database: Database, relname: str, column: str) -> float:
    """The earliest time in a column, in seconds since 1970; 0 without rows. Infinite times are not counted."""
    return _edge(database, "min", relname, column)


def _edge(database: Database, which: str, relname: str, column: str) -> float:
    # Ends that are infinite are left out so that an index still serves.
    rows = database.query(
        f"SELECT coalesce(extract(epoch FROM {which}({quoted(column)})), 0) FROM public.{quoted(relname)} "
        f"WHERE {quoted(column)} > '-infinity' AND {quoted(column)} < 'infinity'",
        timeout=6 * 3600,
    )
    return float(rows[0][0])
