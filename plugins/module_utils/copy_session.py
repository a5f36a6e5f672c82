# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""COPY out of the installation's Postgres and into it: one psql session in the server's container, whose data go through a named pipe."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Generator, Iterator
from typing import BinaryIO, cast

from . import container_pipe, parquet_file
from .database import SETTINGS, Database, Snapshot, literal, quoted
from .engine import clean_environment
from .errors import ScutumError

SCHEMA = "public"
_COLUMNS = """
WITH RECURSIVE base(number, oid, modifier) AS (
  SELECT attnum, atttypid, atttypmod FROM pg_attribute WHERE attrelid = {relation}::regclass AND attnum > 0 AND NOT attisdropped
  UNION ALL
  SELECT b.number, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
SELECT encode(convert_to(a.attname, 'UTF8'), 'hex'), encode(convert_to(format_type(a.atttypid, a.atttypmod), 'UTF8'), 'hex'),
       CASE WHEN n.nspname = 'pg_catalog' THEN '' ELSE n.nspname || '.' END || t.typname,
       CASE WHEN t.typcategory = 'A' AND en.nspname = 'pg_catalog' THEN e.typname ELSE '' END, b.modifier, t.typtype = 'e'
  FROM pg_attribute a JOIN base b ON b.number = a.attnum JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
       JOIN pg_namespace n ON n.oid = t.typnamespace
       LEFT JOIN pg_type e ON e.oid = t.typelem LEFT JOIN pg_namespace en ON en.oid = e.typnamespace
 WHERE a.attrelid = {relation}::regclass ORDER BY a.attnum
"""
_KEY = """
SELECT encode(convert_to(a.attname, 'UTF8'), 'hex') FROM pg_index i
       CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
 WHERE i.indrelid = {relation}::regclass AND i.indisprimary ORDER BY k.place
"""
# A month is read in the order of its index: a sort of all of it would write it to the server's disk once more.
_READING = "SET work_mem = '64MB'; SET enable_sort = off; SET max_parallel_workers_per_gather = 0; SET jit = off; SET lock_timeout = '60s'"
_LOADED = "archived"


class Out:
    """A session that sees one moment of the database, and reads one relation of it.

    Args:
        relation: its name, in the schema public.
    """

    def __init__(
        self,
        relation: str,
        snapshot: _Session,
        process: subprocess.Popen[bytes],
        pipe: container_pipe.Pipe,
        direct: bool,
    ) -> None:
        self.relation = relation
        self.rows = -1
        self._snapshot = snapshot
        self._process = process
        self._pipe = pipe
        self._direct = direct
        self._known = ""

    def columns(self) -> tuple[parquet_file.Column, ...]:
        """Its columns, in their order."""
        return tuple(
            parquet_file.column(_decoded(name), _decoded(declared), base, element, int(modifier), enum == "t")
            for name, declared, base, element, modifier, enum in self._snapshot.query(
                _COLUMNS.format(relation=literal(_named(self.relation)))
            )
        )

    def key(self) -> list[str]:
        """The columns of its primary key."""
        return [_decoded(row[0]) for row in self._snapshot.query(_KEY.format(relation=literal(_named(self.relation))))]

    def size(self) -> int:
        """Bytes of its rows, without indexes."""
        return int(self._snapshot.query(f"SELECT pg_table_size({literal(_named(self.relation))}::regclass)")[0][0])

    def server(self) -> str:
        """What tells this server's cluster from any other."""
        return self._snapshot.server()

    def without(self, key: list[str], known: Iterator[bytes]) -> None:
        """From now on, leave out the rows with these keys.

        Args:
            known: their values in Postgres's text format.
        """
        names = ", ".join(quoted(name) for name in key)
        # A table of its own session cannot be made in a transaction that only reads.
        self._snapshot.query(
            f"COMMIT; CREATE TEMP TABLE {_LOADED} AS SELECT {names} FROM {_named(self.relation)} WITH NO DATA"
        )
        self._send(f"COPY pg_temp.{_LOADED} FROM STDIN;\n".encode())
        for block in known:
            self._send(block)
        self._send(b"\\.\n")
        self._snapshot.query(f"ANALYZE pg_temp.{_LOADED}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        same = " AND ".join(f"k.{quoted(name)} = r.{quoted(name)}" for name in key)
        self._known = f" WHERE NOT EXISTS (SELECT 1 FROM pg_temp.{_LOADED} k WHERE {same})"

    def read(self, columns: tuple[parquet_file.Column, ...], order: list[str]) -> Generator[bytes]:
        """The rows as `parquet_file.POSTGRES_CSV`; `rows` is their number afterwards. It raises when the session ends before its end."""
        listed = parquet_file.selected(columns, "r")
        sorting = ", ".join(f"r.{quoted(name)}" for name in order)
        options = parquet_file.POSTGRES_CSV + parquet_file.forced(columns)
        select = f"SELECT {listed} FROM {_named(self.relation)} r{self._known} ORDER BY {sorting}"
        # Its tag is the server's own count.
        target, end = (literal(self._pipe.inside), ";") if self._direct else ("STDOUT", f"\\g {self._pipe.inside}")
        self._send(f"\\set QUIET off\nCOPY ({select}) TO {target} ({options}) {end}\n\\q\n".encode())
        yield from self._pipe.read(self._process)
        said = self._snapshot.rest()
        found = re.search(r"^COPY (\d+)$", said, re.M)
        if self._process.wait() != 0 or not found:
            raise self._snapshot.failure()
        self.rows = int(found[1])

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            stdin = cast(BinaryIO, self._process.stdin)
            stdin.write(data)
            stdin.flush()


class _Session(Snapshot):
    """A snapshot's session that is asked to say more."""

    def rest(self) -> str:
        """All that it still says."""
        return cast(BinaryIO, self._process.stdout).read().decode("utf-8", "replace")

    def failure(self) -> ScutumError:
        """Why it ended."""
        self._problems.seek(0)
        why = self._problems.read().decode("utf-8", "replace").strip()[-400:]
        return ScutumError(
            f"Postgres: {self._redact(why) or 'the session that read the rows was ended'}",
            left="the rows are where they were",
            next_step=self._look,
        )


@contextlib.contextmanager
def reading(database: Database, relation: str, timeout: float = 6 * 3600) -> Iterator[Out]:
    """A session that reads one relation of the schema public.

    Args:
        timeout: seconds after which it is ended.
    """
    with (
        container_pipe.pipe(database.installation.engine, database.container()) as pipe,
        _psql(database, timeout) as (process, problems, name),
    ):
        session = _Session(process, problems, database.installation.redact, database.look())
        session.query(f"{name}; {SETTINGS}; {_READING}")
        direct = _direct(session, os.path.dirname(pipe.inside))
        session.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield Out(relation, session, process, pipe, direct)


def _direct(session: Snapshot, directory: str) -> bool:
    """Whether the server itself may write to the pipe: past psql, a tenth less CPU (measured). The image's own role may; one that was given
    less may not, and neither may a server that is not the first process of its container."""
    asked = f"SELECT pg_has_role('pg_write_server_files', 'MEMBER') AND isdir FROM pg_stat_file({literal(directory)})"
    found = session.query(f"\\set ON_ERROR_STOP off\n{asked}") == [["t"]]
    session.query("\\set ON_ERROR_STOP on\nSELECT 1")
    return found


def write(database: Database, parts: Iterator[bytes], timeout: float = 6 * 3600) -> None:
    """Send a script with the data of its COPY FROM STDIN (text format) in it; the first failure ends it, and is raised.

    Args:
        parts: of the script, one after the other; what it raises goes on, and what was not committed is undone.
        timeout: seconds after which it is ended.
    """
    with _psql(database, timeout) as (process, problems, name):
        sent = cast(BinaryIO, process.stdin)
        # Closed by a psql that has found a failure.
        with contextlib.suppress(BrokenPipeError):
            sent.write(f"{name};\n".encode())
            for part in parts:
                sent.write(part)
            sent.close()
        rc = process.wait()
        problems.seek(0)
        why = problems.read().decode("utf-8", "replace").strip()
    if rc != 0:
        # Postgres quotes the row after the reason.
        reason = database.installation.redact(re.split(r"\nCONTEXT:|\nDETAIL:", why)[0].strip()[-400:])
        raise ScutumError(
            f"Postgres: {reason or f'the session was ended ({rc})'}",
            left="nothing was loaded: all of it is one transaction",
            next_step=database.look(),
        )


@contextlib.contextmanager
def _psql(database: Database, timeout: float) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO, str]]:
    """A psql in the server's container, what it complains about, and the statement that gives its session a name: when it does not end by
    itself, that does not stay in the server either."""
    name = f"scutum-ops-copy-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryFile() as problems:
        process = subprocess.Popen(
            database.psql(), env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=problems
        )
        end = threading.Timer(timeout, process.kill)
        end.daemon = True
        end.start()
        try:
            yield process, cast(BinaryIO, problems), f"SET application_name = '{name}'"
        finally:
            end.cancel()
            process.kill()
            if process.wait() != 0:
                # The engine's client is gone; what it started in the container may not be, and holds a lock on the table.
                with contextlib.suppress(ScutumError):
                    database.query(
                        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'", 30
                    )
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()


def unfit(database: Database, relation: str, item: parquet_file.Column | None, key: list[str]) -> str:
    """The key of a row that cannot be kept, in words; empty when none is found.

    Args:
        item: the column that holds the value; None for the longest row.
    """
    names = " || ' ' || ".join(f"r.{quoted(name)}::text" for name in key) or "r.ctid::text"
    where = f"SELECT {names} FROM {_named(relation)} r"
    if item is None:
        query = f"{where} ORDER BY octet_length(r::text) DESC LIMIT 1"
    elif item.stored in parquet_file.MOMENTS:
        name = f"r.{quoted(item.name)}"
        query = f"{where} WHERE NOT isfinite({name}) OR {name} < '0001-01-01' OR {name} > '294247-01-01' LIMIT 1"
    elif item.stored.startswith("DECIMAL"):
        query = f"{where} WHERE r.{quoted(item.name)} IN ('NaN', 'Infinity', '-Infinity') LIMIT 1"
    else:
        return ""
    return next((row[0] for row in database.query(f"SET timezone = 'UTC'; {query}")), "")


def _named(relation: str) -> str:
    return f"{SCHEMA}.{quoted(relation)}"


def _decoded(text: str) -> str:
    return bytes.fromhex(text).decode()
