# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parquet: from the CSV that Postgres writes, and back to the same bytes of CSV, by DuckDB (an SQL engine inside this process).

That the bytes are the same is the proof that a file holds the rows: they are what Postgres said, whatever DuckDB made of them meanwhile.
The quote of that CSV is a control character, since JSON is full of the usual one; text is always quoted, so that an empty text is told
from NULL.

Memory is bounded, whatever the file: small row groups, one thread, no spilling to the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import select
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from .background import Work
from .database import literal, quoted
from .errors import ScutumError
from .files import free_bytes

SPOOL = "scutum_audit_spool"
_BLOCK = 1 << 20
_LOOK = 0.1
_PIPE_SIZE = 1031

_QUOTE = "\x01"
# For COPY in Postgres, and the same for DuckDB.
POSTGRES_CSV = "FORMAT csv, QUOTE E'\\x01', ESCAPE E'\\x01', NULL '', ENCODING 'UTF8'"
_READ_CSV = (
    f"auto_detect=false, header=false, delim=',', quote='{_QUOTE}', escape='{_QUOTE}', nullstr='', allow_quoted_nulls=false, "
    "new_line='\\n'"
)
_WRITE_CSV = f"FORMAT csv, HEADER false, DELIMITER ',', QUOTE '{_QUOTE}', ESCAPE '{_QUOTE}', NULLSTR ''"
# Postgres's other format: a row that can be sent through psql whatever stands in it (in CSV, psql ends at a line `\.`).
_WRITE_TEXT = "FORMAT csv, HEADER false, DELIMITER '\t', QUOTE '', ESCAPE '', NULLSTR '\\N'"

# Level 1 is both smaller and faster than 3 on rows of audit history, and so is a dictionary only where values repeat (measured).
_PARQUET = "COMPRESSION zstd, COMPRESSION_LEVEL 1, DICTIONARY_SIZE_LIMIT 2000"

# Postgres's type -> the type in the file. A type that DuckDB has not is kept as the text by which Postgres reads it back without loss.
_STORED = {
    "bool": "BOOLEAN", "int2": "SMALLINT", "int4": "INTEGER", "int8": "BIGINT", "float4": "FLOAT", "float8": "DOUBLE",
    "uuid": "UUID", "jsonb": "JSON", "timestamptz": "TIMESTAMPTZ", "timestamp": "TIMESTAMP", "date": "DATE", "time": "TIME",
    "bytea": "BLOB",
}  # fmt: skip
_AS_TEXT = (
    "text", "varchar", "bpchar", "name", "json", "numeric", "interval", "timetz", "inet", "cidr", "macaddr", "macaddr8", "bit", "varbit",
    "xml", "oid", "char",
)  # fmt: skip
# Quoted in CSV.
_TEXTS = ("VARCHAR", "JSON", "BLOB")
_BITS = {"DOUBLE": ("float8send", 64), "FLOAT": ("float4send", 32)}
# Those that may be infinite in Postgres, which Parquet cannot say.
MOMENTS = ("TIMESTAMPTZ", "TIMESTAMP", "DATE")


@dataclass(frozen=True)
class Column:
    """A column of a table and of its file.

    Args:
        name: of both.
        type: Postgres's, as it is declared: `character varying(255)`.
        stored: DuckDB's, in the file: `VARCHAR`.
    """

    name: str
    type: str
    stored: str


class Unfit(ScutumError):
    """A value that cannot be kept without loss.

    Args:
        column: that holds it.
    """

    def __init__(self, what: str, column: str) -> None:
        super().__init__(what, left="nothing was archived, and nothing was removed", next_step="correct the row")
        self.column = column


@dataclass(frozen=True)
class Size:
    """What a file is made with.

    Args:
        row: bytes of the longest row. DuckDB reads in pieces of that size.
        group: rows of a row group: what a reader skips or reads as a whole, and what the writer holds.
        memory: that DuckDB may use, for it.
    """

    row: int
    group: int
    memory: str


USUAL = Size(4 << 20, 30720, "224MB")
# For rows with very long texts. A group is the least that DuckDB writes.
LARGE = Size(64 << 20, 2048, "1500MB")


class TooLarge(ScutumError):
    """Rows that do not fit the size that was given."""

    def __init__(self, what: str) -> None:
        super().__init__(what, left="nothing was archived, and nothing was removed", next_step="shorten the row")


@dataclass(frozen=True)
class Content:
    """What a stream of CSV was.

    Args:
        sha256: of its bytes.
        bytes: their number.
        rows: in the file that was made of it.
    """

    sha256: str
    bytes: int
    rows: int


def column(name: str, declared: str, base: str, element: str, modifier: int, enum: bool) -> Column:
    """A column as it is kept.

    Args:
        declared: its type in words.
        base: the type's name in pg_catalog (a domain's is the one below it); of another schema with that before it.
        element: of an array, that of its elements; else empty.
        modifier: pg_attribute.atttypmod.
        enum: whether the type is an enum.

    Raises:
        ScutumError: nobody has looked at this type.
    """
    if base == "numeric" and modifier >= 4:
        precision, scale = (modifier - 4) >> 16 & 0xFFFF, ((modifier - 4 & 0x7FF) ^ 1024) - 1024
        if precision <= 38 and 0 <= scale <= precision:
            return Column(name, declared, f"DECIMAL({precision},{scale})")
    if base in _STORED:
        return Column(name, declared, _STORED[base])
    if base in _AS_TEXT or enum or element in _STORED or element in _AS_TEXT:
        return Column(name, declared, "VARCHAR")
    raise ScutumError(
        f"column {name} is of the type {declared}, which nobody has proven to come back from Parquet without loss",
        left="nothing was archived, and nothing was removed",
        next_step="keep this table's rows online (scutum_audit_tables), or ask for the type",
    )


def selected(columns: tuple[Column, ...], row: str) -> str:
    """The list of columns of a SELECT in Postgres, for `POSTGRES_CSV`; `row` is the relation's alias."""
    return ", ".join(_sent(c, f"{row}.{quoted(c.name)}") for c in columns)


def _sent(item: Column, value: str) -> str:
    """Both write the shortest text that is read as the same number, and do not agree on which that is (measured, above 2^53): bits are."""
    if item.stored in _BITS:
        function, width = _BITS[item.stored]
        return f"('x' || encode({function}({value}), 'hex'))::bit({width})"
    return value


def forced(columns: tuple[Column, ...]) -> str:
    """The option of both COPY by which text is always quoted; empty where there is no text."""
    names = ", ".join(quoted(c.name) for c in columns if c.stored in _TEXTS)
    return f", FORCE_QUOTE ({names})" if names else ""


# --- writing


def write(columns: tuple[Column, ...], blocks: Iterator[bytes], path: str, size: Size) -> Content:
    """Make a Parquet file of CSV.

    Args:
        blocks: the CSV; what it raises goes on.
        path: of the file; it exists, and is empty.

    Raises:
        Unfit: a value that cannot be kept.
        TooLarge: it needs a larger size.
    """
    reading, writing = _pipe()
    # A reader that has ended must not keep this one waiting.
    os.set_blocking(writing, False)
    kinds = ", ".join(f"{literal(c.name)}: '{_read_as(c.stored)}'" for c in columns)
    kept = ", ".join(f"{_kept(c)} AS {quoted(c.name)}" for c in columns)
    statement = (
        f"COPY (SELECT {kept} FROM read_csv('/proc/self/fd/{reading}', columns={{{kinds}}}, {_READ_CSV}, max_line_size={size.row}, "
        f"buffer_size={size.row})) TO {literal(path)} (FORMAT parquet, {_PARQUET}, ROW_GROUP_SIZE {size.group}, USE_TMP_FILE false)"
    )
    digest, count = hashlib.sha256(), 0
    work = _beside(statement, size.memory)
    try:
        for block in blocks:
            digest.update(block)
            count += len(block)
            if not _push(writing, block, work):
                break
    finally:
        os.close(writing)
        work.wait()
        os.close(reading)
    # What DuckDB refuses is said first: the stream stopped for it.
    [(rows,)] = work.result()
    _finite(columns, path)
    return Content(digest.hexdigest(), count, int(rows))


def _finite(columns: tuple[Column, ...], path: str) -> None:
    """DuckDB keeps an infinite moment as a number that other readers take for a date."""
    for item in columns:
        if item.stored in MOMENTS:
            name = quoted(item.name)
            kind = item.stored
            found = _ask(
                f"SELECT 1 FROM {_file(path)} WHERE {name} IN ('infinity'::{kind}, '-infinity'::{kind}) LIMIT 1"
            )
            if found:
                raise Unfit(f"column {item.name} holds an infinite moment, which Parquet has not", item.name)


def _push(writing: int, block: bytes, work: Work) -> bool:
    """Give the reader a block; False when it has ended."""
    rest = memoryview(block)
    while rest:
        if select.select([], [writing], [], _LOOK)[1]:
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(writing, rest) :]
        elif work.ended:
            return False
    return True


def _read_as(stored: str) -> str:
    return "VARCHAR" if stored == "BLOB" or stored in _BITS else stored


def _kept(item: Column) -> str:
    """What is written to the file, from what was read."""
    name = quoted(item.name)
    if item.stored == "BLOB":
        return f"unhex(substr({name}, 3))"
    return f"{name}::BIT::{item.stored}" if item.stored in _BITS else name


# --- reading


def render(columns: tuple[Column, ...], path: str, size: Size = LARGE) -> Iterator[bytes]:
    """The CSV that the file was made of, in blocks."""
    names = ", ".join(f"{_said(c)}{'::BIT' * (c.stored in _BITS)} AS {quoted(c.name)}" for c in columns)
    yield from _stream(f"SELECT {names} FROM {_file(path)}", _WRITE_CSV + forced(columns), size)


def render_text(columns: tuple[Column, ...], path: str) -> Iterator[bytes]:
    """The same rows in Postgres's text format."""
    names = ", ".join(f"{_escaped(c)} AS {quoted(c.name)}" for c in columns)
    yield from _stream(f"SELECT {names} FROM {_file(path)}", _WRITE_TEXT, LARGE)


def digest(columns: tuple[Column, ...], path: str) -> str:
    """SHA-256 of the CSV that a file renders to."""
    try:
        return _digest(columns, path, USUAL)
    except TooLarge:
        return _digest(columns, path, LARGE)


def _digest(columns: tuple[Column, ...], path: str, size: Size) -> str:
    found = hashlib.sha256()
    for block in render(columns, path, size):
        found.update(block)
    return found.hexdigest()


def bounds(path: str, time: str) -> tuple[int, str, str]:
    """Rows of a file, and its first and last moment as ISO text in UTC; empty texts where there are no rows.

    Args:
        time: the column of moments.
    """
    name = quoted(time)
    moment = "strftime({}({}) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"
    first, last = (moment.format(which, name) for which in ("min", "max"))
    [(rows, begin, end)] = _ask(f"SELECT count(*), {first}, {last} FROM {_file(path)}")
    return int(rows), begin or "", end or ""


def _said(item: Column) -> str:
    """A value as Postgres writes it."""
    name = quoted(item.name)
    if item.stored == "BOOLEAN":
        return f"CASE WHEN {name} THEN 't' WHEN NOT {name} THEN 'f' END"
    if item.stored == "BLOB":
        return f"'\\x' || lower(hex({name}))"
    return name


def _escaped(item: Column) -> str:
    text = f"({_said(item)})::VARCHAR"
    if item.stored in _TEXTS:
        for plain, letter in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
            text = f"replace({text}, '{plain}', '{letter}')"
    return text


def _file(path: str) -> str:
    return f"read_parquet({literal(path)}, hive_partitioning=false)"


def _stream(query: str, options: str, size: Size) -> Iterator[bytes]:
    reading, writing = _pipe()
    work = _beside(f"COPY ({query}) TO '/proc/self/fd/{writing}' ({options}, USE_TMP_FILE false)", size.memory, writing)
    try:
        while True:
            block = os.read(reading, _BLOCK)
            if not block:
                break
            yield block
    finally:
        # Nobody reads any more: what still writes ends with an error.
        os.close(reading)
        work.wait()
    work.result()


# --- DuckDB


def connect(memory: str = LARGE.memory, threads: int = 1) -> Any:
    """A database in memory, with bounded memory and no second opinion about time zones or extensions.

    Args:
        memory: the most that it takes.
        threads: more than one costs memory for rows that wait for their turn: 800 MB in place of 200 (measured), for an order that is kept.
    """
    import duckdb

    found = duckdb.connect(
        config={
            "threads": threads,
            "memory_limit": memory,
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        }
    )
    found.execute("SET TimeZone = 'UTC'; SET enable_external_file_cache = false; SET enable_progress_bar = false")
    return found


def _ask(query: str, memory: str = LARGE.memory) -> list[tuple[Any, ...]]:
    with contextlib.closing(connect(memory)) as database:
        try:
            return list(database.execute(query).fetchall())
        except Exception as error:
            raise refused(error) from None


def _beside(statement: str, memory: str, close: int = -1) -> Work:
    """A statement beside other work.

    Args:
        close: descriptor that is closed when it has ended.
    """

    def run() -> list[tuple[Any, ...]]:
        try:
            return _ask(statement, memory)
        finally:
            if close >= 0:
                os.close(close)

    return Work(run)


def refused(error: Exception) -> ScutumError:
    """What DuckDB says, without the row that it quotes."""
    text = str(error)
    found = re.search(r'Error when converting column "((?:[^"]|"")*)"\. Could not convert', text)
    if found:
        return Unfit(f"column {found[1]} holds a value that Parquet cannot keep without loss", found[1])
    # Postgres writes no CSV that cannot be read: what DuckDB calls an open quote is a row that is longer than its piece (measured).
    if "CSV Error" in text or "Maximum line size" in text or type(error).__name__ == "OutOfMemoryException":
        return TooLarge("a row, or many rows together, are too long for the memory that is given to them")
    if "No space left" in text or "Disk quota exceeded" in text:
        return spool_full("it is full")
    said = text.strip().splitlines()[0][:200] if text.strip() else type(error).__name__
    return ScutumError(
        f"DuckDB: {said}",
        left="nothing that counts was written, and nothing was removed",
        next_step="the file may be damaged (scutum-ops audit-verify), or the host short of memory (free -m)",
    )


@contextlib.contextmanager
def spooled(directory: str) -> Iterator[tuple[BinaryIO, str]]:
    """A file without a name, which goes with this process however it ends, and a path by which DuckDB finds it."""
    try:
        handle = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 -- only what opening it says is said so
    except OSError as error:
        raise spool_full(f"{directory} cannot be used ({errno.errorcode.get(error.errno or 0, error)})") from error
    with handle:
        yield cast(BinaryIO, handle), f"/proc/self/fd/{handle.fileno()}"


def space(directory: str, needed: int, narrower: str = "") -> None:
    """Refuse what will not fit.

    Args:
        needed: bytes.
        narrower: what would need less, for the message.
    """
    try:
        free = free_bytes(directory)
    except OSError as error:
        raise spool_full(f"{directory} cannot be used ({errno.errorcode.get(error.errno or 0, error)})") from error
    if free < needed:
        raise spool_full(f"{directory} has {free // 2**20} MiB free, and {needed / 2**20:.1f} MiB are needed{narrower}")


@contextlib.contextmanager
def full(directory: str) -> Iterator[None]:
    """What the disk refuses, in our words."""
    try:
        yield
    except OSError as error:
        raise spool_full(f"{directory}: {error.strerror}") from error


def spool_full(why: str) -> ScutumError:
    """The directory for files on their way has no room."""
    return ScutumError(
        f"{SPOOL}: {why}",
        left="nothing that counts was written, and nothing was removed",
        next_step=f"make room there (df -h), or set {SPOOL} to a directory on a larger disk",
    )


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(reading, _PIPE_SIZE, _BLOCK)
    return reading, writing
