# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the archive: SQL over its files (DuckDB), and months back into Postgres, into a schema of their own.

Every file is compared with its manifest's hash before anything of it is shown or loaded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from . import audit_catalog as catalog
from . import copy_session, parquet_file
from .audit_tables import parts as month_parts
from .database import Database, literal, quoted
from .errors import ScutumError
from .object_store import Store
from .report import Say

SCHEMA = "audit_rehydrated"
_LOADED = f"{SCHEMA}.{quoted('_loaded')}"
# Rows that a query shows.
LIMIT = 1000


# --- SQL over the archive


def query(
    store: Store, sql: str, spool: str, say: Say, from_month: str = "", to_month: str = "", limit: int = LIMIT
) -> tuple[list[str], list[list[str]]]:
    """Run a statement over the archive: each table is a view with the columns that it had in Postgres.

    Only the files of the tables that the statement names, and of the months that are given, are fetched. The statement can read nothing
    else: no file of the host, no network.

    Args:
        sql: one statement of DuckDB; its dialect is close to Postgres's.
        spool: directory for the files, which go when it has ended.
        from_month: the first one, as `2026-03`; empty for all before.
        to_month: the last one; empty for all after.
        limit: rows that are returned; more are an error, since a cut answer reads like a whole one.

    Returns:
        Names of the columns, and rows with every value as text; NULL is an empty text.
    """
    found = [
        e for e in _within(catalog.entries(store), from_month, to_month) if re.search(rf"\b{re.escape(e.table)}\b", sql)
    ]
    if not found:
        raise ScutumError(
            f"{store.where}: the statement names no table that is archived{_between(from_month, to_month)}",
            left="nothing was read",
            next_step=f"name one of them: {', '.join(sorted({e.table for e in catalog.entries(store)})) or 'none is there yet'}",
        )
    narrower = f" for {len(found)} files of the archive; give --from and --to for fewer"
    parquet_file.space(spool, sum(entry.bytes for entry in found), narrower)
    with contextlib.ExitStack() as held:
        views: dict[str, list[str]] = {}
        for entry in found:
            say(f"fetching {entry.key} ({entry.bytes / 2**20:.1f} MiB)")
            path = held.enter_context(catalog.fetched(store, entry, spool))
            views.setdefault(entry.table, []).append(path)
        database = held.enter_context(contextlib.closing(parquet_file.connect(threads=2)))
        paths = ", ".join(literal(path) for each in views.values() for path in each)
        database.execute(f"SET allowed_paths = [{paths}]; SET enable_external_access = false")
        for table, each in views.items():
            files = ", ".join(literal(path) for path in each)
            database.execute(
                f"CREATE VIEW {quoted(table)} AS SELECT * FROM read_parquet([{files}], union_by_name=true, hive_partitioning=false)"
            )
        database.execute("SET lock_configuration = true")
        try:
            answer = database.execute(sql)
            names = [str(item[0]) for item in answer.description or []]
            rows = answer.fetchmany(limit + 1)
        except Exception as error:  # DuckDB has a class for each kind of mistake
            raise ScutumError(
                f"the statement was refused: {str(error).strip()[:400]}",
                left="nothing was changed",
                next_step="correct it; DESCRIBE audit_logs shows the columns of a table",
            ) from None
    if len(rows) > limit:
        raise ScutumError(
            f"the answer has more than {limit} rows",
            left="nothing was changed",
            next_step="aggregate, add a LIMIT, or raise --limit",
        )
    return names, [["" if value is None else str(value) for value in row] for row in rows]


def _within(found: list[catalog.Entry], first: str, last: str) -> list[catalog.Entry]:
    """The entries of some months; both ends count."""
    for month in (first, last):
        if month:
            month_parts(month)
    return [entry for entry in found if (not first or entry.month >= first) and (not last or entry.month <= last)]


def _between(first: str, last: str) -> str:
    return f" between {first or 'the first month'} and {last or 'the last one'}" if first or last else ""


# --- back into Postgres


def rehydrate(
    database: Database, store: Store, table: str, from_month: str, to_month: str, spool: str, say: Say
) -> dict[str, Any]:
    """Load months into `audit_rehydrated`, for an audit: all of them, or none. What is there already is left as it is.

    Args:
        table: its name, in both schemas.
        from_month: the first one, as `2026-03`.
        to_month: the last one.
        spool: directory for one file at a time.

    Returns:
        `table` (with its schema), `months` (that are there now), `loaded` (files of this call), `rows` (of this call), `bytes`.
    """
    wanted = _within(catalog.entries(store, table), from_month, to_month)
    if not wanted:
        raise ScutumError(
            f"{store.where}: no month of {table} is archived{_between(from_month, to_month)}",
            left="nothing was loaded",
            next_step="scutum-ops audit lists the months",
        )
    have = _loaded(database, table)
    missing = [entry for entry in wanted if entry.key not in have]
    if missing:
        _check_types(database, missing)
        copy_session.write(database, _script(database, store, table, missing, spool, say))
    return {
        "table": f"{SCHEMA}.{table}",
        "months": list(catalog.months(wanted, table)),
        "loaded": [entry.key for entry in missing],
        "rows": sum(entry.rows for entry in missing),
        "bytes": sum(entry.bytes for entry in missing),
    }


def forget(database: Database) -> int:
    """Drop what was rehydrated, all tables of it; their number. The archive stays."""
    tables = database.query(
        f"SELECT count(*) FROM pg_tables WHERE schemaname = {literal(SCHEMA)} AND tablename <> '_loaded'"
    )
    database.query(f"SET lock_timeout = '10s'; DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    return int(tables[0][0])


def _loaded(database: Database, table: str) -> set[str]:
    """Keys of the files that are there."""
    if database.query(f"SELECT to_regclass({literal(_LOADED)}) IS NOT NULL") != [["t"]]:
        return set()
    return {row[0] for row in database.query(f"SELECT key FROM {_LOADED} WHERE relation = {literal(table)}")}


def _check_types(database: Database, found: list[catalog.Entry]) -> None:
    """That every type is one of this server's: what a manifest says goes into a statement, and whoever can write to the store could write
    there what they like."""
    types = sorted({column.type for entry in found for column in entry.columns})
    asked = ", ".join(f"to_regtype({literal(text)}) IS NOT NULL" for text in types)
    try:
        known = database.query(f"SET search_path = ''; SELECT {asked}")[0]
    except ScutumError:
        known = ["f"] * len(types)
    wrong = [text for text, good in zip(types, known) if good != "t"]
    if wrong:
        raise ScutumError(
            f"this server has no type {wrong[0][:80]!r}, which the archive names"
            if known.count("f") < len(types)
            else "a manifest of the archive names a type that is none",
            left="nothing was loaded",
            next_step="scutum-ops audit-verify; an enum or a domain that was dropped has to be created again first",
        )


def _script(
    database: Database, store: Store, table: str, missing: list[catalog.Entry], spool: str, say: Say
) -> Iterator[bytes]:
    """One transaction for psql, with the rows in it."""
    target, owner = f"{SCHEMA}.{quoted(table)}", quoted(database.user)
    # The newest declaration of a column; one that came later is NULL in older months.
    columns = {column.name: column for entry in sorted(missing, key=lambda e: e.seq) for column in entry.columns}
    declared = ", ".join(f"{quoted(c.name)} {c.type}" for c in columns.values())
    added = "".join(
        f"ALTER TABLE {target} ADD COLUMN IF NOT EXISTS {quoted(c.name)} {c.type};\n" for c in columns.values()
    )
    yield (
        "SET client_min_messages = warning; SET timezone = 'UTC'; SET datestyle = 'ISO'; SET search_path = '';\nBEGIN;\n"
        f"CREATE SCHEMA IF NOT EXISTS {SCHEMA};\nREVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC;\n"
        f"CREATE TABLE IF NOT EXISTS {_LOADED} (relation text NOT NULL, key text PRIMARY KEY, rows bigint NOT NULL, "
        "loaded timestamptz NOT NULL DEFAULT now());\n"
        f"CREATE TABLE IF NOT EXISTS {target} ({declared});\n{added}"
        f"CREATE INDEX IF NOT EXISTS {quoted(f'{table}_time')} ON {target} ({quoted(missing[0].time)});\n"
        f"GRANT INSERT ON {target} TO {owner};\n"
    ).encode()
    for entry in missing:
        with catalog.fetched(store, entry, spool) as path:
            say(f"{entry.key}: {entry.rows} rows, as they were archived")
            # Two at once: the second one waits here, and fails.
            record = f"INSERT INTO {_LOADED} (relation, key, rows) VALUES ({literal(table)}, {literal(entry.key)}, {entry.rows})"
            names = ", ".join(quoted(column.name) for column in entry.columns)
            yield f"{record};\nCOPY {target} ({names}) FROM STDIN;\n".encode()
            yield from parquet_file.render_text(entry.columns, path)
            yield b"\\.\n"
    yield (
        "DO $$ BEGIN IF (SELECT count(*) FROM "
        f"{target}) <> (SELECT sum(rows) FROM {_LOADED} WHERE relation = {literal(table)}) THEN "
        f"RAISE EXCEPTION 'not all rows arrived in {SCHEMA}, or somebody changed what was there'; END IF; END $$;\n"
        f"REVOKE ALL ON {target} FROM PUBLIC, {owner};\nGRANT SELECT ON {target} TO {owner};\nCOMMIT;\n"
    ).encode()
