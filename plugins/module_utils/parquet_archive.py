# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archiving a month: Postgres -> CSV -> Parquet -> store, fetched again, rendered to the same CSV; the manifest comes last.

Nothing is removed here. A run that is killed leaves at most a file that no manifest describes, and that counts for nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from . import audit_catalog as catalog
from . import copy_session, parquet_file
from .audit_tables import Table
from .database import Database
from .errors import ScutumError
from .object_store import Store
from .parquet_file import Column
from .report import Say

# Seconds after which an unfinished upload was left by a run that died.
_STALE = 24 * 3600


def archive(
    database: Database,
    table: Table,
    relname: str,
    month: str,
    store: Store,
    spool: str,
    say: Say,
    timeout: float = 6 * 3600,
) -> catalog.Entry:
    """Have every row of a relation in the archive, as one more file; what is there already, by its primary key, is left out.

    So it may be called again: for rows that came late, and after a run that was killed. Whether objects are locked is the store's setting.

    Args:
        relname: the month's partition, or what was detached; in the schema public.
        month: of its rows, as `2026-03`.
        spool: directory for the file on its way, in a file without a name.
        timeout: seconds after which the session in Postgres is ended.

    Returns:
        The entry that was written; the month's newest one when no row was new. A month without rows has a file without rows.

    Raises:
        ScutumError: nothing that counts was written, and the next run begins anew.
    """
    store.abort_stale(f"table={table.name}/", _STALE)
    part = catalog.next_part(store, table.name, month)
    # A month that has no file has none that counts.
    known = catalog.of_month(catalog.entries(store, table.name), table.name, month) if part else []
    with parquet_file.spooled(spool) as (handle, path):
        try:
            exported = _export(database, table, relname, known, store, spool, path, timeout, parquet_file.USUAL)
        except parquet_file.TooLarge:
            say(f"{table.name} {month}: it has very long rows; once more, with more memory")
            exported = _export(database, table, relname, known, store, spool, path, timeout, parquet_file.LARGE)
        content = exported.content
        if known and not content.rows:
            return known[-1]
        size = os.path.getsize(path)
        say(f"{table.name} {month}: {content.rows} rows, {size / 2**20:.1f} MiB to {store.where}")
        name = catalog.file_key(table.name, month, part)
        stored = store.upload(name, iter(lambda: handle.read(1 << 20), b""), expected_size=size)
    entry = catalog.Entry(
        table=table.name,
        month=month,
        key=name,
        part=part,
        rows=content.rows,
        bytes=stored.size,
        sha256=stored.sha256,
        content=content.sha256,
        first="",
        last="",
        seq=0,
        written=round(time.time(), 3),
        columns=exported.columns,
        time=table.column,
        server=exported.server,
    )
    with catalog.fetched(store, entry, spool) as path:
        first, last = catalog.compare(entry, path)
    written = catalog.append(store, replace(entry, first=first, last=last))
    say(f"{table.name} {month}: {written.key} was read again, and holds what Postgres sent")
    return written


@dataclass(frozen=True)
class _Exported:
    content: parquet_file.Content
    columns: tuple[Column, ...]
    server: str


def _export(
    database: Database,
    table: Table,
    relname: str,
    known: list[catalog.Entry],
    store: Store,
    spool: str,
    path: str,
    timeout: float,
    size: parquet_file.Size,
) -> _Exported:
    """Rows of a relation that no known file has, into a Parquet file."""
    with copy_session.reading(database, relname, timeout) as session:
        columns, key, server = session.columns(), session.key(), session.server()
        # Compressed; what it really needs is seen by the disk.
        parquet_file.space(spool, session.size() // 3)
        if known:
            if not key:
                raise _keyless(relname)
            session.without(key, _keys(store, known, key, spool))
        order = [table.column, *(name for name in key if name != table.column)]
        try:
            with contextlib.closing(session.read(columns, order)) as blocks:
                content = parquet_file.write(columns, blocks, path, size)
        except parquet_file.Unfit as error:
            raise _named(error, database, relname, columns, key) from error
        except parquet_file.TooLarge as error:
            if size == parquet_file.USUAL:
                raise
            raise _named(error, database, relname, columns, key) from error
        sent = session.rows
    if content.rows != sent:
        raise ScutumError(
            f"{relname}: Postgres sent {sent} rows, and {content.rows} are in the file",
            left="nothing was uploaded, and no row was removed",
            next_step="scutum-ops audit-retention runs it again; if it stays, report it: it is a defect of this collection or of DuckDB",
        )
    return _Exported(content, columns, server)


def _keys(store: Store, known: list[catalog.Entry], key: list[str], spool: str) -> Iterator[bytes]:
    """The primary keys in files, in Postgres's text format."""
    for entry in known:
        columns = tuple(column for name in key for column in entry.columns if column.name == name)
        with catalog.fetched(store, entry, spool) as path:
            yield from parquet_file.render_text(columns, path)


def _keyless(relname: str) -> ScutumError:
    return ScutumError(
        f"{relname} has no primary key: rows that came late cannot be told from those that are archived",
        left="no row was removed",
        next_step=f"give {relname} its primary key back, then: scutum-ops audit-retention",
    )


def _named(
    error: ScutumError, database: Database, relname: str, columns: tuple[Column, ...], key: list[str]
) -> ScutumError:
    """The same refusal, with the row that is the cause."""
    name = error.column if isinstance(error, parquet_file.Unfit) else ""
    item = next((column for column in columns if column.name == name), None)
    with contextlib.suppress(ScutumError):
        row = copy_session.unfit(database, relname, item, key)
        if row:
            which = " ".join(key) or "ctid"
            return ScutumError(
                f"{relname}: {error.what}: the row whose {which} is {row}",
                left=error.left,
                next_step=f"correct that row of {relname}, then: scutum-ops audit-retention",
            )
    return ScutumError(f"{relname}: {error.what}", left=error.left, next_step=error.next_step)
