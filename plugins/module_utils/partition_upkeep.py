# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitions of a table that is by month: the next ones in advance, rows of the DEFAULT partition where they belong, months that leave.

A partition is attached under a lock on the parent that keeps inserts out for those few ms. With the weaker lock that ATTACH takes by
itself, an insert that was on its way into the DEFAULT partition is refused when the new partition takes its row (Postgres checks the
DEFAULT partition's bounds again after the wait): an audit row would be lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import audit_tables
from . import partition_shape as shapes
from .audit_tables import Table
from .database import Database, literal, quoted
from .errors import ScutumError
from .partition_copy import Copy, open_operation
from .partition_session import AGAIN, OLD, WORK, Session, open_session

# Times that are taken for what they say; rows of others stay in the DEFAULT partition.
FIRST, LAST = "1970-01-01 00:00:00+00", "3000-01-01 00:00:00+00"
# Rows that are moved while inserts wait; more of them are copied beside first.
_FEW_ROWS = 500
# Months that get a partition in one run because rows of theirs are in the DEFAULT partition.
_MOST_MONTHS = 120
_BOUNDS = "scutum_ops_bounds"


def coming(ahead: int) -> list[str]:
    """This month (UTC), and the next ones."""
    now = audit_tables.month_of(time.time())
    return [audit_tables.shift(now, by) for by in range(max(0, ahead) + 1)]


def old_name(shape: shapes.Shape, kind: str) -> str:
    """The name that an operation gives to what it puts out of force."""
    return f"{OLD}.{quoted(shape.default)}" if kind == "default" else shape.old


def keep(database: Database, table: str, ahead: int, say: Callable[[str], None], check: bool = False) -> list[str]:
    """Have the partitions of this month and the next ones there, and the rows of the DEFAULT partition where they belong.

    Args:
        ahead: months after this one.
        check: only say what would be done.

    Returns:
        Changes in words; nothing for a plain table.
    """
    with open_session(database, alone=not check) as session:
        return keep_in(session, audit_tables.table(table), ahead, say, check)


def keep_in(
    session: Session, table: Table, ahead: int, say: Callable[[str], None], check: bool, patience: float = 600
) -> list[str]:
    """The same in a session that is there."""
    shape = shapes.read(session, table)
    if shape is None or not shape.partitioned:
        return []
    changes: list[str] = []
    state = open_operation(session, table.name)
    if state and check:
        return [f"go on with what was left open on {table.name} ({state['kind']})"]
    if state and state["kind"] != "default":
        raise ScutumError(
            f"{table.name}: an operation was left open ({state['kind']})",
            left="the table serves; its partitions were not looked after",
            next_step=AGAIN,
        )
    if state:
        changes += _move(session, shape, state, [], say, patience)
    months, stay = _default_months(session, shape)
    there = {name for name, unused in _children(session, shape)}
    standing = {shapes.partition_name(table.name, month) for month in detached_months(session, table).values()}

    def free(month: str) -> bool:
        return shapes.partition_name(table.name, month) not in there | standing

    stay += sum(rows for month, rows in months.items() if not free(month))
    months = {month: rows for month, rows in months.items() if free(month)}
    late = sorted(months)[-_MOST_MONTHS:]
    stay += sum(rows for month, rows in months.items() if month not in late)
    missing = [month for month in coming(ahead) if free(month) and month not in late]
    if stay:
        say(
            f"{table.name}: {stay} rows stay in the DEFAULT partition: their times lie outside of 1970 to 2999, or their month is detached"
        )
    if check:
        return [
            *changes,
            *(f"create the partition of {month} of {table.name}" for month in missing),
            *(f"move {months[month]} rows of {month} out of the DEFAULT partition of {table.name}" for month in late),
        ]
    many = [month for month in late if months[month] > _FEW_ROWS]
    if many:
        size = sum(months.values())
        say(f"{table.name}: {size} rows of the DEFAULT partition are copied beside it")
        changes += _move(session, shape, None, sorted({*late, *missing}), say, patience)
        return changes
    for month in sorted({*late, *missing}):
        _add(session, shape, month, patience)
        changes.append(f"created the partition of {month} of {table.name}")
        if month in late:
            changes.append(f"moved {months[month]} rows of {month} out of the DEFAULT partition of {table.name}")
    return changes


def _children(session: Session, shape: shapes.Shape) -> list[tuple[str, str]]:
    rows = session.rows(
        "SELECT c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds FROM pg_inherits i "
        f"JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = {shape.oid} AND c.relispartition ORDER BY 1"
    )
    return [(str(row["name"]), str(row["bounds"])) for row in rows]


def _default_months(session: Session, shape: shapes.Shape) -> tuple[dict[str, int], int]:
    """Rows of the DEFAULT partition by month, and those that no month takes."""
    column = quoted(shape.table.column)
    if not session.exists(f"public.{quoted(shape.default)}"):
        return {}, 0
    rows = session.rows(
        "SELECT coalesce(to_char(month, 'YYYY-MM'), '') AS month, n FROM (SELECT "
        f"CASE WHEN {column} >= {literal(FIRST)} AND {column} < {literal(LAST)} THEN date_trunc('month', {column} AT TIME ZONE 'UTC') END "
        f"AS month, count(*) AS n FROM public.{quoted(shape.default)} GROUP BY 1) q"
    )
    months = {str(row["month"]): int(row["n"]) for row in rows if row["month"]}
    return months, sum(int(row["n"]) for row in rows if not row["month"])


def _within(shape: shapes.Shape, month: str) -> str:
    """A condition for the rows of a month."""
    lower, upper = audit_tables.bounds(month)
    column = quoted(shape.table.column)
    return f"{column} IS NOT NULL AND {column} >= {literal(lower)} AND {column} < {literal(upper)}"


def _take_over(shape: shapes.Shape, month: str, name: str) -> list[str]:
    """Statements that have a table as the partition of a month, with the rows of that month that came into the DEFAULT partition."""
    columns = ", ".join(quoted(column) for column in shape.stored)
    default = f"public.{quoted(shape.default)}"
    return [
        # Whoever inserts waits here, and looks for its partition afterwards.
        f"LOCK TABLE ONLY {shape.live} IN SHARE ROW EXCLUSIVE MODE",
        f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE",
        f"WITH moved AS (DELETE FROM {default} WHERE {_within(shape, month)} RETURNING {columns}) "
        f"INSERT INTO {name} ({columns}) SELECT {columns} FROM moved",
        f"ALTER TABLE {shape.live} ATTACH PARTITION {name} {shapes.for_values(month)}",
    ]


def _add(session: Session, shape: shapes.Shape, month: str, patience: float) -> None:
    """A new partition, with the rows of its month that came into the DEFAULT partition."""
    name = f"public.{quoted(shapes.partition_name(shape.table.name, month))}"
    statements = [*shapes.build_alone(session, shape, name), *_take_over(shape, month, name)]
    session.patiently(lambda: statements, shape.live, patience, "given its partition")


def _move(
    session: Session,
    shape: shapes.Shape,
    state: dict[str, Any] | None,
    months: list[str],
    say: Callable[[str], None],
    patience: float,
) -> list[str]:
    """Many rows: the DEFAULT partition is copied into partitions beside it, which come in its place together with an empty one."""
    if state is None:
        state = {"kind": "default", "phase": "copy", "moment": session.value("SELECT now()"), "months": months}
        Copy(session, shape, state, say).begin(patience)
    copy, months = Copy(session, shape, state, say), list(state["months"])
    names = {month: f"public.{quoted(shapes.partition_name(shape.table.name, month))}" for month in months}
    beside = f"{WORK}.{quoted(shape.default)}"
    if state["phase"] == "copy":
        copy.prepare()
        if not session.exists(shape.new):
            session.run("BEGIN", *shapes.build(session, shape, True), "COMMIT")
        for month in ["", *months]:
            if not session.exists(names.get(month, beside)):
                made = shapes.build_partition(shape, shape.new, "public" if month else WORK, month)
                if month:
                    # What spares ATTACH the reading of its rows under the lock.
                    made.append(f"ALTER TABLE {names[month]} ADD CONSTRAINT {_BOUNDS} CHECK ({_within(shape, month)})")
                session.run("BEGIN", *made, "COMMIT")
        copy.copy()
        copy.index()
        copy.compare()
        default = f"public.{quoted(shape.default)}"
        locks = [f"LOCK TABLE ONLY {shape.live}, {default} IN ACCESS EXCLUSIVE MODE"]
        swap = [
            f"ALTER TABLE {shape.live} DETACH PARTITION {default}",
            f"ALTER TABLE {default} SET SCHEMA {OLD}",
            *(f"ALTER TABLE {shape.new} DETACH PARTITION {name}" for name in (*names.values(), beside)),
            *(f"ALTER TABLE {shape.live} ATTACH PARTITION {name} {shapes.for_values(m)}" for m, name in names.items()),
            f"ALTER TABLE {beside} SET SCHEMA public",
            f"ALTER TABLE {shape.live} ATTACH PARTITION {default} DEFAULT",
        ]
        copy.swap(locks, lambda: swap, patience, "given its partitions")
    for name in names.values():
        drop = f"ALTER TABLE IF EXISTS {name} DROP CONSTRAINT IF EXISTS {_BOUNDS}"
        session.patiently(lambda drop=drop: [drop], name, patience, "freed of its helper")  # type: ignore[misc]
    copy.finish(old_name(shape, "default"), patience)
    return [f"moved the rows of {', '.join(months)} out of the DEFAULT partition of {shape.table.name}"]


def detached_months(session: Session, table: Table) -> dict[str, str]:
    """Months that were detached and are there, by the name of their table."""
    rows = session.rows(
        "SELECT relname AS name, obj_description(oid, 'pg_class') AS said FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        f"AND relkind = 'r' AND NOT relispartition AND obj_description(oid, 'pg_class') LIKE {literal(shapes.DETACHED)} || '% of ' "
        f"|| {literal(table.name)} ORDER BY 1"
    )
    return {str(row["name"]): str(row["said"])[len(shapes.DETACHED) :].split()[0] for row in rows}


def detached(session: Session, table: Table) -> list[str]:
    """Names of tables that were detached from a table, and are there."""
    return list(detached_months(session, table))


def detach(database: Database, table: str, month: str, patience: float = 600.0) -> str:
    """Take the partition of a month out of its table; of one that is out already, its name.

    Returns:
        The name of the table that it is now, in the schema public. A comment marks it, so that a later run finds it.

    Raises:
        ScutumError: there is no such month, or the lock was not to be had.
    """
    known = audit_tables.table(table)
    with open_session(database) as session:
        shape = _partitioned(session, known)
        for name, which in detached_months(session, known).items():
            if which == month:
                return name
        name = shapes.partition_name(table, month)
        if (name, shapes.for_values(month)) not in _children(session, shape):
            raise ScutumError(
                f"{table} has no partition of {month}",
                left="nothing was changed",
                next_step="look at those that it has: scutum-ops audit",
            )
        mark = literal(f"{shapes.DETACHED}{month} of {table}")
        statements = [
            # DETACH … CONCURRENTLY is refused beside a DEFAULT partition.
            f"LOCK TABLE ONLY {shape.live} IN ACCESS EXCLUSIVE MODE",
            f"ALTER TABLE {shape.live} DETACH PARTITION public.{quoted(name)}",
            f"COMMENT ON TABLE public.{quoted(name)} IS {mark}",
        ]
        session.patiently(lambda: statements, shape.live, patience, "rid of a partition")
        return name


def attach(database: Database, table: str, relname: str, patience: float = 600.0) -> None:
    """Put a month that was detached back into its table, with its late rows that came into the DEFAULT partition meanwhile."""
    with open_session(database) as session:
        attach_in(session, audit_tables.table(table), relname, patience)


def attach_in(session: Session, table: Table, relname: str, patience: float) -> None:
    """The same in a session that is there."""
    shape, month = _partitioned(session, table), _must_be_detached(session, table, relname)
    name = f"public.{quoted(relname)}"
    session.run(
        "BEGIN",
        f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {_BOUNDS}",
        f"ALTER TABLE {name} ADD CONSTRAINT {_BOUNDS} CHECK ({_within(shape, month)})",
        "COMMIT",
    )
    statements = [
        *_take_over(shape, month, name),
        f"ALTER TABLE {name} DROP CONSTRAINT {_BOUNDS}",
        f"COMMENT ON TABLE {name} IS NULL",
    ]
    session.patiently(lambda: statements, shape.live, patience, "given its partition")


def drop(database: Database, table: str, relname: str, expected_rows: int, patience: float = 600.0) -> None:
    """Drop a month that was detached.

    Args:
        expected_rows: as many as are archived. They are counted in the transaction that drops it.

    Raises:
        ScutumError: it has another number of rows, or is no table that was detached.
    """
    known = audit_tables.table(table)
    with open_session(database) as session:
        _must_be_detached(session, known, relname)
        name = f"public.{quoted(relname)}"
        counted = (
            f"DO $d$ DECLARE n bigint; BEGIN SELECT count(*) INTO n FROM {name}; IF n <> {int(expected_rows)} THEN "
            f"RAISE EXCEPTION '% rows are there, % were expected', n, {int(expected_rows)}; END IF; END $d$"
        )
        statements = [f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE", counted, f"DROP TABLE {name}"]
        try:
            session.patiently(lambda: statements, name, patience, "dropped")
        except ScutumError as error:
            if "were expected" not in error.what:
                raise
            raise ScutumError(
                f"{relname} was not dropped: {error.what.partition('Postgres: ')[2]}",
                left=f"{relname} is there with all its rows, outside of {table}",
                next_step="scutum-ops audit-retention: rows that came late become a further file, and then it is dropped",
            ) from error


def _partitioned(session: Session, table: Table) -> shapes.Shape:
    shape = shapes.read(session, table)
    if shape is None or not shape.partitioned:
        raise ScutumError(
            f"{table.name} is not in partitions",
            left="nothing was changed",
            next_step="convert it first: playbooks/audit_retention.yml, or scutum-ops audit-partitions",
        )
    return shape


def _must_be_detached(session: Session, table: Table, relname: str) -> str:
    """Its month."""
    month = detached_months(session, table).get(relname)
    if month is None:
        raise ScutumError(
            f"{relname} is no month of {table.name} that was detached",
            left="nothing was changed",
            next_step="look at those that there are: scutum-ops audit",
        )
    return month
