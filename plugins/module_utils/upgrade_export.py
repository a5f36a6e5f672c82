# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was written since a backup, when that backup comes back: what only traffic writes is carried over, all else is exported.

A table that only grows (audit history, LiteLLM's spend) has its rows brought into the restored database, and so have LiteLLM's daily sums
and the totals beside its keys, users and teams, by the columns that both have. In all others a row may have been changed, or transformed by
a migration: they are compared, and what differs is exported as a whole, for a person to decide. Columns that only the newer release has
have no place in the restored database: rows with them are exported as well, for information.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .audit_tables import FOREIGN, TABLES
from .database import SETTINGS, Database, literal, quoted
from .engine import clean_environment
from .errors import ScutumError
from .redact import without_rows

# Seconds before the backup from which on rows are looked at again: a transaction that was open while it was taken had older times. A
# row that is there already is left alone.
_MARGIN = 86400
# What every release writes itself, and LiteLLM's lease of who runs its jobs.
_IGNORED = frozenset({"public.alembic_version", "public._prisma_migrations", "public.LiteLLM_CronJob"})
_TIMES = {
    **{f"public.{name}": item.column for name, item in TABLES.items()},
    **{f"public.{name}": item.column for name, item in FOREIGN.items()},
}

# What requests and LiteLLM's own jobs write into its tables, and no person. Source: BerriAI/litellm at 029f645f, schema.prisma (columns),
# litellm/proxy/db/db_spend_update_writer.py and litellm/proxy/utils.py (spend), the job that resets budgets (spend, budget_reset_at).
_LITELLM = "public.LiteLLM_"
_TOTALS = frozenset(
    {
        "spend",
        "model_spend",
        "total_spend",
        "last_active",
        "budget_reset_at",
        "call_count",
        "last_used_at",
        # Prisma sets it with each of them; whatever a person changes shows in another column.
        "updated_at",
    }
)
# Sums by day and indexes of requests: no person writes a row.
_WHOLE = re.compile(rf"{re.escape(_LITELLM)}(Daily\w*(Spend|Metrics)|SpendLog\w+Index|ErrorLogs|HealthCheckTable)")
# A request that names an end user for the first time makes a row. It is known by having nothing that a person would set.
_BORN = frozenset({f"{_LITELLM}EndUserTable"})

_COLUMNS = """
SELECT n.nspname, c.relname, jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)),
       (SELECT coalesce(jsonb_agg(k.attname ORDER BY k.attname), '[]') FROM pg_index i
          JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = ANY (i.indkey) WHERE i.indrelid = c.oid AND i.indisprimary),
       (SELECT coalesce(jsonb_agg((SELECT coalesce(jsonb_agg(k.attname), '[]') FROM pg_attribute k
                                    WHERE k.attrelid = i.indrelid AND k.attnum = ANY (i.indkey))), '[]')
          FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
 GROUP BY n.nspname, c.relname, c.oid ORDER BY 1, 2
"""
# By the default's dependency, not by who owns it: the sequence of a table that was made anew in months is owned by nobody. One of an
# identity column depends on its column instead.
_SEQUENCES = """
SELECT n.nspname, c.relname, a.attname, s.oid::regclass
  FROM (SELECT d.adrelid AS place, d.adnum AS number, x.refobjid AS sequence
          FROM pg_attrdef d JOIN pg_depend x ON x.classid = 'pg_attrdef'::regclass AND x.objid = d.oid
         WHERE x.refclassid = 'pg_class'::regclass
        UNION
        SELECT x.refobjid, x.refobjsubid, x.objid FROM pg_depend x
         WHERE x.classid = 'pg_class'::regclass AND x.refclassid = 'pg_class'::regclass AND x.deptype = 'i') u
       JOIN pg_class s ON s.oid = u.sequence AND s.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0
       JOIN pg_class c ON c.oid = u.place JOIN pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.number
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
 ORDER BY 1, 2, 3, 4
"""
# Both sides have to write the same text, whatever their databases are set to.
_PINNED = f"{SETTINGS} \\g /dev/null\n"
# A trigger of the restored table may call functions by their short names.
_SESSION = f"{_PINNED}RESET search_path;\n"


@dataclass
class Table:
    """A table, by what is needed to compare and copy it.

    Args:
        columns: types by name; generated columns are left out.
        key: columns of the primary key.
        unique: columns of each unique index, the primary key among them.
    """

    name: str
    quoted: str
    columns: dict[str, str]
    key: list[str]
    unique: list[list[str]]


@dataclass
class Findings:
    """What is in the database in force and not in the restored one.

    Args:
        carried: rows that were brought over or whose totals were, by table.
        exported: tables that differ and are not carried over, with the rows that each has.
        noted: tables with columns that the restored database does not know, with the rows that were exported for information.
    """

    carried: dict[str, int] = field(default_factory=dict)
    exported: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)


def differences(live: Database, restored: Database) -> dict[str, int]:
    """Tables, but what is carried over, whose contents differ in the columns that both have: rows in the database in force."""
    ours, theirs = _tables(live), _tables(restored)
    compared, found = [], {}
    for name, table in ours.items():
        other = theirs.get(name)
        if name in _IGNORED or _grows(table, other) or _whole(table, other):
            continue
        if other is None:
            rows = _count(live, table.quoted)
            # An empty table of the newer release is nothing that could be lost.
            if rows:
                found[name] = rows
        else:
            compared.append((name, _compared(table, other)))
    if compared:
        sql = _PINNED + " UNION ALL ".join(
            f"SELECT {number}, {every}, count(*), coalesce(sum(('x' || substr(md5(ROW(t.*)::text), 1, 15))::bit(60)::bigint)::numeric, 0) "
            f"FROM ({rows}) t"
            for number, (unused, (every, rows)) in enumerate(compared)
        )
        here, there = (sorted(database.query(sql), key=lambda row: int(row[0])) for database in (live, restored))
        # The number of all rows is for people: it may differ by rows that traffic made.
        found |= {compared[int(mine[0])][0]: int(mine[1]) for mine, other in zip(here, there) if mine[2:] != other[2:]}
    return found


def carry(live: Database, restored: Database, taken: float, directory: str) -> Findings:
    """Bring over what traffic wrote, and export what cannot be; nothing may write to either meanwhile.

    Args:
        taken: when the backup was, in seconds since 1970.
        directory: for the files: `<table>.sql` that was brought over (psql takes it again, and nothing comes twice), `<table>.csv` that was
            only exported.
    """
    found = Findings()
    ours, theirs = _tables(live), _tables(restored)
    both = {name: (table, theirs[name]) for name, table in ours.items() if name in theirs and name not in _IGNORED}
    sequences = restored.query(_PINNED + _SEQUENCES)
    for name, (table, other) in both.items():
        common, place = _common(table, other), other.quoted
        forward = [
            _forward(place, column, used) for schema, own, column, used in sequences if f"{schema}.{own}" == name
        ]
        if _grows(table, other):
            script = [_insert(place, common, other.key, "DO NOTHING"), *forward]
            found.carried[name] = _bring(live, restored, table, other, common, _since(table, taken), script, directory)
        elif _whole(table, other):
            script = [_insert(place, common, other.key, _replace(common, other.key)), *forward]
            found.carried[name] = _bring(live, restored, table, other, common, "", script, directory)
        elif _totals(table, other):
            totals, settings = _totals(table, other), _settings(table, other)
            script = [_update(place, totals, other.key)]
            if name in _BORN:
                script += [_insert(place, common, other.key, "DO NOTHING", f" WHERE {_untouched(settings)}"), *forward]
            names = common if name in _BORN else [*other.key, *totals]
            found.carried[name] = _bring(live, restored, table, other, names, "", script, directory)
    found.exported = differences(live, restored)
    for name in found.exported:
        _export(live, ours[name], "", directory)
    for name, (table, other) in both.items():
        if name in found.exported or not table.columns.keys() - other.columns.keys():
            continue
        # Of a table that grows only rows that are brought over lose something: the older release wrote all others.
        where = _since(table, taken) if _grows(table, other) else ""
        rows = _count(live, table.quoted + where)
        if rows:
            _export(live, table, where, directory)
            found.noted[name] = rows
    return found


def _tables(database: Database) -> dict[str, Table]:
    found = {}
    for schema, name, columns, key, unique in database.query(_COLUMNS):
        full = f"{schema}.{name}"
        place = f"{quoted(schema)}.{quoted(name)}"
        found[full] = Table(full, place, dict(json.loads(columns)), list(json.loads(key)), list(json.loads(unique)))
    return found


def _common(table: Table, other: Table) -> list[str]:
    """Columns that both have, by name: another type takes the text, or refuses it."""
    return [name for name in table.columns if name in other.columns]


def _grows(table: Table, other: Table | None) -> bool:
    """Whether its rows can be brought over; without a primary key nothing says which are there already."""
    return (
        _TIMES.get(table.name) in table.columns
        and other is not None
        and bool(table.key and other.key)
        and set(other.key) <= table.columns.keys()
    )


def _keyed(table: Table, other: Table | None) -> bool:
    """Whether a row of LiteLLM's is the same row on both sides by its primary key."""
    return table.name.startswith(_LITELLM) and other is not None and bool(table.key) and table.key == other.key


def _whole(table: Table, other: Table | None) -> bool:
    """Whether nothing but traffic writes it, and all of its rows have a place in the restored table.

    A release that sums up by one more column has rows that are one to the older: a person has to decide about those.
    """
    if other is None or not _keyed(table, other) or not _WHOLE.fullmatch(table.name):
        return False
    return all(any(set(mine) <= set(theirs) for mine in table.unique) for theirs in other.unique)


def _totals(table: Table, other: Table) -> list[str]:
    """Columns that traffic changes in rows of people."""
    if not _keyed(table, other):
        return []
    return [name for name in _common(table, other) if name in _TOTALS and name not in other.key]


def _settings(table: Table, other: Table) -> list[str]:
    """Columns that a person sets, but the key."""
    totals = _totals(table, other)
    return [name for name in _common(table, other) if name not in totals and name not in other.key]


def _untouched(settings: Iterable[str]) -> str:
    """Whether no person set anything in a row: true where there is nothing that could be."""
    return " AND ".join(["true", *(f"coalesce({quoted(name)}::text, 'false') = 'false'" for name in settings)])


def _compared(table: Table, other: Table) -> tuple[str, str]:
    """How all rows are counted, and the text of those that are compared."""
    totals = _totals(table, other)
    columns = ", ".join(f"{quoted(name)}::text" for name in _common(table, other) if name not in totals)
    if table.name in _BORN and totals:
        where = f" WHERE NOT ({_untouched(_settings(table, other))})"
        return f"(SELECT count(*) FROM {table.quoted})", f"SELECT {columns} FROM {table.quoted}{where}"
    return "count(*)", f"SELECT {columns} FROM {table.quoted}"


def _count(database: Database, what: str) -> int:
    return int(database.query(f"SELECT count(*) FROM {what}")[0][0])


def _since(table: Table, taken: float) -> str:
    """The condition for rows of a table that grows, since shortly before the backup."""
    column = _TIMES[table.name]
    since = f"to_timestamp({taken - _MARGIN})"
    if "without time zone" in table.columns[column]:
        since = f"{since} AT TIME ZONE 'UTC'"
    # Rows without a time are of no month, and may be new.
    return f" WHERE {quoted(column)} >= {since} OR {quoted(column)} IS NULL"


def _list(names: Iterable[str], of: str = "") -> str:
    return ", ".join(of + quoted(name) for name in names)


def _insert(place: str, names: list[str], key: list[str], conflict: str, where: str = "") -> str:
    """Only the primary key says that a row is there already: whatever else is unique in the old schema must not swallow one."""
    return (
        f"WITH done AS (INSERT INTO {place} AS held ({_list(names)}) OVERRIDING SYSTEM VALUE SELECT {_list(names)} FROM carried{where} "
        f"ON CONFLICT ({_list(key)}) {conflict} RETURNING 1) SELECT count(*) FROM done;\n"
    )


def _replace(names: list[str], key: list[str]) -> str:
    others = [name for name in names if name not in key]
    if not others:
        return "DO NOTHING"
    values = ", ".join(f"{quoted(name)} = EXCLUDED.{quoted(name)}" for name in others)
    return f"DO UPDATE SET {values} WHERE {_other(others, 'EXCLUDED.')}"


def _update(place: str, names: list[str], key: list[str]) -> str:
    values = ", ".join(f"{quoted(name)} = carried.{quoted(name)}" for name in names)
    same = " AND ".join(f"held.{quoted(name)} = carried.{quoted(name)}" for name in key)
    return (
        f"WITH done AS (UPDATE {place} AS held SET {values} FROM carried WHERE {same} AND {_other(names, 'carried.')} RETURNING 1) "
        "SELECT count(*) FROM done;\n"
    )


def _other(names: list[str], new: str) -> str:
    """Whether a row has other values; by text, since not every type can be compared."""
    return f"ROW({_list(names, 'held.')})::text <> ROW({_list(names, new)})::text"


def _forward(place: str, column: str, sequence: str) -> str:
    """A sequence that stands where the backup had it would give numbers that rows have by now; it never goes backwards."""
    return (
        f"SELECT setval({literal(sequence)}::regclass, m.top) FROM (SELECT max({quoted(column)})::bigint AS top FROM {place}) m, "
        f"{sequence} s WHERE m.top > s.last_value OR m.top = s.last_value AND NOT s.is_called \\g /dev/null\n"
    )


def _bring(
    live: Database,
    restored: Database,
    table: Table,
    other: Table,
    names: list[str],
    where: str,
    script: list[str],
    directory: str,
) -> int:
    """Rows of one table, by statements that find them in `carried`; how many rows these say they wrote.

    `carried` has the types of the restored table: what one of them cannot take is refused when it is read, and never cut off.
    """
    path = os.path.join(directory, f"{_file(table.name)}.sql")
    head = (
        f"{_SESSION}CREATE TEMP TABLE carried AS SELECT {_list(names)} FROM {other.quoted} LIMIT 0;\n"
        f"COPY carried ({_list(names)}) FROM STDIN;\n"
    )
    rows = f"COPY (SELECT {_list(names)} FROM {table.quoted}{where}) TO STDOUT"
    _copy_out(live, rows, path, head, "\\.\n" + "".join(script))
    with open(path, "rb") as handle:
        done = subprocess.run(
            restored.psql("-1"), env=clean_environment(), stdin=handle, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ScutumError(
            f"rows of {table.name} cannot be brought over: {_said(restored, done.stderr)}",
            left=f"they are in {path}; nothing in force was changed",
            next_step="see what the restored database refuses, and call the rollback again",
        )
    return sum(int(word) for word in done.stdout.split())


def _export(live: Database, table: Table, where: str, directory: str) -> None:
    path = os.path.join(directory, f"{_file(table.name)}.csv")
    _copy_out(live, f"COPY (SELECT * FROM {table.quoted}{where}) TO STDOUT (FORMAT csv, HEADER)", path)


def _copy_out(database: Database, statement: str, path: str, head: str = "", tail: str = "") -> None:
    """What COPY says into a private file, between two texts."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        # It may be there from a run that was killed.
        os.fchmod(descriptor, 0o600)
        handle.write(head.encode())
        handle.flush()
        done = subprocess.run(
            database.psql(),
            env=clean_environment(),
            input=f"{_PINNED}{statement}".encode(),
            stdout=handle,
            stderr=subprocess.PIPE,
            check=False,
        )
        handle.seek(0, os.SEEK_END)
        handle.write(tail.encode())
        handle.flush()
        os.fsync(handle.fileno())
    if done.returncode:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise ScutumError(
            f"what was written since the backup cannot be exported: {_said(database, done.stderr.decode('utf-8', 'replace'))}",
            left="nothing in force was changed",
            next_step=database.look(),
        )


def _said(database: Database, text: str) -> str:
    return without_rows(database.installation.redact(text)).strip()[-300:]


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)


def lines(found: Findings, directory: str) -> list[str]:
    """The findings for people."""
    said = [f"{name}: {rows} rows brought over" for name, rows in sorted(found.carried.items()) if rows]
    said += [f"{name}: differs, {rows} rows exported to {directory}" for name, rows in sorted(found.exported.items())]
    said += [
        f"{name}: {rows} rows exported to {directory} for information, the restored database does not know all of their columns"
        for name, rows in sorted(found.noted.items())
    ]
    return said or ["nothing was written since the backup"]


def refuse(exported: dict[str, Any], host: str) -> None:
    """Refuse to lose what cannot be brought over."""
    if exported:
        named = ", ".join(f"{name} ({rows} rows)" for name, rows in sorted(exported.items()))
        raise ScutumError(
            f"a rollback by restore would lose what was written since the backup into: {named}",
            left="nothing in force was changed",
            next_step=f"scutum_rollback_accept_export={host} goes on, and exports these tables as they are first (on the host: scutum-ops "
            f"rollback --accept-export {host})",
        )
