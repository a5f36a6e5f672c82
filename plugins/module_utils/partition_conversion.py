# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain table of the product into partitions by month (UTC), and back, while the product writes to it.

The partitions are built beside the table, with every index, and take its place in one short transaction; no statement of it depends on the
number of rows or of months (see `partition_copy`). Months that have rows, and the next ones, have a partition each; the DEFAULT partition
takes what no month does. So no insert can fail for its time.

Not the way that is common (a CHECK with a bound in the future, the old table attached as one partition, split later): until it is
split, that one refuses rows beyond the bound; it locks the table twice, and the second time has one ATTACH for each month under the
lock (measured: 300 to 670 ms for 47 months).

What is lost: `id` alone is no longer unique across months, since a unique index of a partitioned table has the column in it. The check:
SELECT id FROM audit_logs GROUP BY id HAVING count(*) > 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import audit_tables, partition_hindrances, partition_session, partition_upkeep
from . import partition_shape as shapes
from .audit_tables import Table
from .database import Database, literal, quoted
from .errors import ScutumError
from .partition_copy import Copy, open_operation
from .partition_session import AGAIN, Session, open_session

# Each month with rows has a partition, within these; a table with more of them has times that are wrong.
_MOST_MONTHS = 600
# Bytes a second that are copied, indexed and compared beside a live table, on two cores (measured; many small indexes are slower).
_PACE = 40 << 20


@dataclass(frozen=True)
class Plan:
    """What a conversion would do.

    Args:
        steps: what, with which lock, for how long.
        hindrances: what prevents it, each with what to do about it.
        disk_needed: bytes, until the old table is dropped.
        seconds: expected.
        null_rows: rows without a time.
        beyond_rows: rows whose time is infinite or outside of 1970 to 2999: they stay in the DEFAULT partition.
        months: which get a partition.
    """

    table: str
    steps: list[str] = field(default_factory=list)
    hindrances: list[str] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    disk_needed: int = 0
    seconds: float = 0
    null_rows: int = 0
    beyond_rows: int = 0
    months: list[str] = field(default_factory=list)

    def text(self) -> list[str]:
        """For people."""
        head = f"{self.table}: {self.rows} rows, {_size(self.bytes)}"
        if not self.steps:
            return [f"{head}: nothing to do", *(f"prevented: {text}" for text in self.hindrances)]
        return [
            f"{head}; about {self.seconds:.0f} s, {_size(self.disk_needed)} more on the disk meanwhile",
            *(f"{number}. {text}" for number, text in enumerate(self.steps, 1)),
            *(f"prevented: {text}" for text in self.hindrances),
        ]


@dataclass(frozen=True)
class _Contents:
    """Rows by month; `beyond` are those that no month takes."""

    months: dict[str, int]
    nulls: int
    beyond: int

    @property
    def rows(self) -> int:
        return sum(self.months.values()) + self.beyond

    def wanted(self, ahead: int) -> list[str]:
        """Months that get a partition: those with rows, and the coming ones."""
        return sorted({*self.months, *partition_upkeep.coming(ahead)})


def plan(database: Database, table: str, ahead: int) -> Plan:
    """What `convert` would do. It reads the table once, and changes nothing.

    Args:
        ahead: months for which partitions are there in advance.
    """
    with open_session(database, alone=False) as session:
        return _plan(session, audit_tables.table(table), ahead)


def _plan(session: Session, table: Table, ahead: int) -> Plan:
    shape = _must(session, table)
    if shape.partitioned:
        return Plan(table.name, [], _other_key(session, shape), bytes=_bytes(session, shape))
    contents = _contents(session, shape)
    size = _bytes(session, shape)
    months = contents.wanted(ahead)
    is_open = open_operation(session, table.name) is not None
    hindrances = partition_hindrances.find(session, shape, is_open)
    if len(contents.months) > _MOST_MONTHS:
        hindrances.append(
            f"its rows lie in {len(contents.months)} months (then: correct the times in {table.column} that cannot be right)"
        )
    needed = size + size // 5 + (64 << 20)
    free = partition_session.free_bytes(session)
    # Of one that was begun, a part of it is there.
    if free is not None and free < needed and not is_open:
        hindrances.append(_disk(needed, free))
    seconds = 3 + size / _PACE
    steps = [
        f"note every change of {table.name}: a trigger; SHARE ROW EXCLUSIVE for some ms, inserts wait, reads do not",
        f"build {len(months)} months ({months[0]} to {months[-1]}) and a DEFAULT partition beside it; no lock on {table.name}",
        f"copy {contents.rows} rows in batches, build {len(shape.indexes)} indexes for each month, compare count and hash: "
        f"about {seconds:.0f} s; no lock on {table.name}",
        "change places: ACCESS EXCLUSIVE for some 10 ms, asked for with a lock_timeout of at most 200 ms until it is to be had; "
        "then the primary key is (id, " + table.column + ")",
        "compare what came during the swap, drop the old table",
    ]
    if contents.nulls:
        steps.insert(
            2, f"give {contents.nulls} rows without {table.column} {table.fallback or 'the time of the conversion'}"
        )
    if contents.beyond:
        steps.insert(2, f"leave {contents.beyond} rows outside of 1970 to 2999 in the DEFAULT partition")
    return Plan(
        table.name, steps, hindrances, contents.rows, size, needed, seconds, contents.nulls, contents.beyond, months
    )


def convert(
    database: Database, table: str, ahead: int, say: Callable[[str], None], patience: float = 600.0
) -> dict[str, Any]:
    """Have a table in partitions by month; go on with, or end, what was interrupted.

    Args:
        ahead: months for which partitions are there in advance.
        say: takes a word on how far it is.
        patience: seconds for which a lock is asked for, each time.

    Returns:
        `changes` (in words, empty when it was all there), `rows` (copied), `null_rows` (that took the fallback), `beyond_rows`, `seconds`.

    Raises:
        ScutumError: something prevents it, a lock was not to be had, the disk is too full, or both sides differ; the table serves
            as it did.
    """
    start, known = time.monotonic(), audit_tables.table(table)
    changes: list[str] = []
    told: dict[str, Any] = {"rows": 0, "null_rows": 0, "beyond_rows": 0}
    with open_session(database) as session:
        changes += _end_others(session, known, "convert", say, patience)
        shape = _must(session, known)
        state = open_operation(session, table)
        if shape.partitioned and not state:
            _refuse(table, _other_key(session, shape))
        else:
            told = _convert(session, shape, state, ahead, say, patience)
            changes.append(f"{table} is in partitions by month: {told['rows']} rows")
        changes += partition_upkeep.keep_in(session, known, ahead, say, False)
    return {"changes": changes, **told, "seconds": round(time.monotonic() - start, 1)}


def _convert(
    session: Session,
    shape: shapes.Shape,
    state: dict[str, Any] | None,
    ahead: int,
    say: Callable[[str], None],
    patience: float,
) -> dict[str, Any]:
    """From wherever it is to its end."""
    name = shape.table.name
    if state is None:
        found = _plan(session, shape.table, ahead)
        _refuse(name, found.hindrances)
        moment = session.value("SELECT now()")
        told = {"rows": found.rows, "null_rows": found.null_rows, "beyond_rows": found.beyond_rows}
        state = {"kind": "convert", "phase": "copy", "moment": moment, "told": told, "months": found.months}
        Copy(session, shape, state, say).begin(patience)
        say(f"{name}: changes are noted")
    else:
        say(f"{name}: the conversion that was begun at {state['moment']} goes on")
    copy = Copy(session, shape, state, say)
    if state["phase"] == "copy":
        _refuse(name, partition_hindrances.find(session, shape, True))
        copy.prepare()
        # It may have been begun long ago.
        _build(session, shape, sorted({*state["months"], *partition_upkeep.coming(ahead)}))
        copy.copy()
        say(f"{name}: copied; indexes are built")
        copy.index()
        copy.compare()
        say(f"{name}: count and hash of both sides agree")
        locks = shapes.locks(session, shape)
        copy.swap(locks, lambda: shapes.swap(session, shape), patience, "put in partitions")
    copy.finish(shape.old, patience)
    return dict(state["told"])


def _build(session: Session, shape: shapes.Shape, months: list[str]) -> None:
    """The partitioned table beside the plain one; what is there of it stays."""
    if not session.exists(shape.new):
        session.run("BEGIN", *shapes.build(session, shape, True), "COMMIT")
    for month in ["", *months]:
        name = shapes.partition_name(shape.table.name, month) if month else shape.default
        if not session.exists(f"public.{quoted(name)}"):
            session.run("BEGIN", *shapes.build_partition(shape, shape.new, "public", month), "COMMIT")


def undo_plan(database: Database, table: str) -> list[str]:
    """What `undo` would do, in words; empty when the table is plain."""
    known = audit_tables.table(table)
    with open_session(database, alone=False) as session:
        shape, state = _must(session, known), open_operation(session, table)
        if not shape.partitioned:
            return [f"remove what a conversion of {table} left that was not ended"] if state else []
        detached = partition_upkeep.detached(session, known)
        size = _bytes(session, shape)
        return [
            *(f"attach {name}, which was detached and not dropped" for name in detached),
            f"copy {_size(size)} into a plain table beside it: about {3 + size / _PACE:.0f} s, no lock on {table}",
            "change places: ACCESS EXCLUSIVE for some 10 ms; then the primary key is (id), and archives stay as they are",
            f"drop the partitions of {table}",
        ]


def undo(database: Database, table: str, say: Callable[[str], None], patience: float = 600.0) -> dict[str, Any]:
    """Have a plain table again, with all rows that are in Postgres; of one that is plain, remove what an open conversion left.

    Returns:
        `changes` (in words), `rows`, `seconds`.

    Raises:
        ScutumError: as for `convert`; or ids that are not unique.
    """
    start, known = time.monotonic(), audit_tables.table(table)
    rows = 0
    with open_session(database) as session:
        changes = _end_others(session, known, "undo", say, patience)
        shape, state = _must(session, known), open_operation(session, table)
        if shape.partitioned or state:
            rows = _undo(session, shape, state, say, patience)
            changes.append(f"{table} is a plain table")
    return {"changes": changes, "rows": rows, "seconds": round(time.monotonic() - start, 1)}


def _undo(
    session: Session, shape: shapes.Shape, state: dict[str, Any] | None, say: Callable[[str], None], patience: float
) -> int:
    table = shape.table
    if state is None:
        _refuse(table.name, [*_other_key(session, shape), *partition_hindrances.find(session, shape, False)])
        for name in partition_upkeep.detached(session, table):
            partition_upkeep.attach_in(session, table, name, patience)
            say(f"{table.name}: {name} is attached")
        _unique(session, shape)
        size = _bytes(session, shape)
        needed, free = size + size // 5 + (64 << 20), partition_session.free_bytes(session)
        if free is not None and free < needed:
            _refuse(table.name, [_disk(needed, free)])
        state = {"kind": "undo", "phase": "copy", "moment": session.value("SELECT now()"), "rows": 0}
        Copy(session, shape, state, say).begin(patience)
    copy = Copy(session, shape, state, say)
    if state["phase"] == "copy":
        _refuse(table.name, partition_hindrances.find(session, shape, True))
        _unique(session, shape)
        copy.prepare()
        if not session.exists(shape.new):
            session.run("BEGIN", *shapes.build(session, shape, False), "COMMIT")
        copy.copy()
        say(f"{table.name}: copied; indexes are built")
        copy.index()
        copy.compare()
        copy.note(rows=int(session.value(f"SELECT count(*) FROM {shape.new}")))
        copy.swap(shapes.locks(session, shape), lambda: shapes.swap(session, shape), patience, "made a plain table")
    copy.finish(shape.old, patience)
    return int(copy.state["rows"])


def _unique(session: Session, shape: shapes.Shape) -> None:
    check = f"SELECT id FROM {shape.live} GROUP BY id HAVING count(*) > 1"
    twice = session.value(f"SELECT count(*) FROM ({check}) q")
    if twice != "0":
        raise ScutumError(
            f"{shape.table.name}: {twice} ids are there more than once, which a primary key on (id) does not allow",
            left="the table serves as it did",
            next_step=f"look at them ({check}), give all but one of each another id, then {AGAIN}",
        )


def _end_others(session: Session, table: Table, kind: str, say: Callable[[str], None], patience: float) -> list[str]:
    """End an open operation that is not of this kind: what is not in force yet goes, what is in force is finished."""
    state, shape = open_operation(session, table.name), _must(session, table)
    if state is None or state["kind"] == kind:
        return []
    say(f"{table.name}: an operation was left open ({state['kind']}, {state['phase']}); it is ended first")
    copy = Copy(session, shape, state, say)
    if state["phase"] == "copy":
        copy.abandon(patience)
        return [f"what the operation {state['kind']} of {table.name} left was removed"]
    copy.finish(partition_upkeep.old_name(shape, state["kind"]), patience)
    return [f"the operation {state['kind']} of {table.name} was finished"]


def _must(session: Session, table: Table) -> shapes.Shape:
    shape = shapes.read(session, table)
    if shape is None:
        raise ScutumError(
            f"there is no table public.{table.name}",
            left="nothing was changed",
            next_step="start admin-api, which makes it, or take the table out of the list",
        )
    return shape


def _refuse(table: str, hindrances: list[str]) -> None:
    if hindrances:
        raise ScutumError(
            f"{table} cannot be given another shape: {'; '.join(hindrances)}",
            left="the table serves as it did",
            next_step=f"take away what prevents it; then {AGAIN}",
        )


def _other_key(session: Session, shape: shapes.Shape) -> list[str]:
    """A table that somebody else has in partitions."""
    if not shape.partitioned:
        return []
    wanted = f"RANGE ({shape.table.column if shape.table.column != 'timestamp' else quoted('timestamp')})"
    key = session.value(f"SELECT pg_get_partkeydef({shape.oid})")
    if key.replace('"', "") == wanted.replace('"', ""):
        return []
    return [f"it is in partitions by {key} (then: make it a plain table the way in which it was done)"]


def _bytes(session: Session, shape: shapes.Shape) -> int:
    return int(
        session.value(
            f"SELECT coalesce(sum(pg_total_relation_size(relid)), pg_total_relation_size({shape.oid})) "
            f"FROM pg_partition_tree({shape.oid})"
        )
    )


def _contents(session: Session, shape: shapes.Shape) -> _Contents:
    """One reading of the whole table: a sort order that fits no index would be of no use."""
    moment = session.value("SELECT now()")
    at = shape.time("s", moment)
    rows = session.rows(
        "SELECT coalesce(to_char(month, 'YYYY-MM'), '') AS month, n, nulls FROM (SELECT "
        f"CASE WHEN {at} >= {literal(partition_upkeep.FIRST)} AND {at} < {literal(partition_upkeep.LAST)} "
        f"THEN date_trunc('month', {at} AT TIME ZONE 'UTC') END AS month, count(*) AS n, "
        f"count(*) FILTER (WHERE s.{quoted(shape.table.column)} IS NULL) AS nulls FROM {shape.live} s GROUP BY 1) q"
    )
    months = {str(row["month"]): int(row["n"]) for row in rows if row["month"]}
    return _Contents(months, sum(int(row["nulls"]) for row in rows), sum(int(r["n"]) for r in rows if not r["month"]))


def _disk(needed: int, free: int) -> str:
    return (
        f"the disk of Postgres has {_size(free)} free, the copy may need {_size(needed)} "
        "(then: free space or enlarge the disk; docker system df)"
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
