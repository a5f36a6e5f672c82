# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of a live table go into another one beside it, while inserts, updates and deletes go on; then the two change places.

1. A trigger notes the id of every row that is changed, in the changing transaction itself: the list is exactly as true as the table.
2. The blocks that were there at that moment are copied in batches, in the heap's order. A row that is on the list is left out.
3. Indexes are built. Then, until little is left, the rows on the list are brought to what they are in the table, and taken off it.
4. Both sides are compared by count and hash: one snapshot, without the rows that are on the list at that moment.
5. The swap, one short transaction: the table is locked, the rest of the list is done, the tables change schemas.
6. The rows of the list since the comparison are compared once more, and the old table is dropped.

Each step notes in `scutum_ops.operations` how far it came, in its own transaction: whoever comes next goes on there, or undoes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from . import partition_shape as shapes
from .database import literal, quoted
from .errors import ScutumError
from .partition_session import AGAIN, OLD, WORK, Session

# Blocks of 8 KiB in a batch, and for how long nothing is done after one, as a share of the time that it took. A batch ends when it is on
# the disk, so that the copy is never ahead of it: what an insert waits for is the write-ahead log's way there (measured), not a lock.
_BLOCKS, _REST = 256, 0.15
# Ids that are taken off the list at once, and how many may be left for the swap.
_IDS, _FEW = 2000, 40
# Seconds between two words on how far it is.
_WORD = 5.0


def open_operation(session: Session, table: str) -> dict[str, Any] | None:
    """What is noted of an operation that was begun: `kind` (convert, undo, default), `phase` (copy, swapped), `moment`, …"""
    if not session.exists(f"{WORK}.operations"):
        return None
    found = session.rows(f"SELECT state FROM {WORK}.operations WHERE name = {literal(table)}")
    return dict(found[0]["state"]) if found else None


def _rest(start: float) -> None:
    """Leave the server to others, after something that began at that time."""
    time.sleep((time.monotonic() - start) * _REST)


class Copy:
    """One table on its way into another.

    Args:
        shape: the table that the application knows.
        state: what is noted, see `open_operation`.
        say: takes a word on how far it is.
    """

    def __init__(
        self, session: Session, shape: shapes.Shape, state: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        self.session, self.shape, self.state, self.say = session, shape, state, say
        name = shape.table.name
        self.source = shape.live if state["kind"] != "default" else f"public.{quoted(shape.default)}"
        self.changes = f"{WORK}.{quoted(name + '_changes')}"
        self._refuse = f"{WORK}.{quoted(name + '_truncate')}"
        self._applied = f"{WORK}.{quoted(name + '_applied')}"
        self._apply = f"{WORK}.{quoted(name + '_apply')}"

    def _note(self, **changed: Any) -> str:
        """A statement that notes how far it came."""
        state = literal(json.dumps({**self.state, **changed}))
        return (
            f"INSERT INTO {WORK}.operations VALUES ({literal(self.shape.table.name)}, {state}) "
            "ON CONFLICT (name) DO UPDATE SET state = excluded.state"
        )

    def note(self, **changed: Any) -> None:
        """Note how far it came."""
        self.session.run(self._note(**changed))
        self.state.update(changed)

    def begin(self, patience: float) -> None:
        """Have every change noted from now on: one transaction, which waits for those that write at that moment."""
        kind = self.shape.id_type
        change = (
            f"CREATE FUNCTION {self.changes}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
            "SET search_path = pg_catalog, pg_temp AS $f$ BEGIN "
            f"IF TG_OP <> 'INSERT' THEN INSERT INTO {self.changes} VALUES (OLD.id, false); END IF; "
            f"IF TG_OP <> 'DELETE' THEN INSERT INTO {self.changes} VALUES (NEW.id, TG_OP = 'INSERT'); END IF; RETURN NULL; END $f$"
        )
        refuse = (
            f"CREATE FUNCTION {self._refuse}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION "
            "'scutum.ops gives this table another shape at this moment: it cannot be truncated'; END $f$"
        )
        call = "FOR EACH {} EXECUTE FUNCTION {}()"
        statements = [
            f"CREATE SCHEMA IF NOT EXISTS {WORK}",
            f"CREATE SCHEMA IF NOT EXISTS {OLD}",
            f"CREATE TABLE IF NOT EXISTS {WORK}.operations (name text PRIMARY KEY, state jsonb NOT NULL)",
            f"CREATE TABLE {self.changes} (id {kind} NOT NULL, fresh boolean NOT NULL)",
            f"CREATE INDEX ON {self.changes} (id)",
            f"CREATE TABLE {self._applied} (id {kind} PRIMARY KEY)",
            change,
            refuse,
            self._note(),
            # Only from here on somebody may wait.
            f"CREATE TRIGGER {shapes.CHANGES} AFTER INSERT OR UPDATE OR DELETE ON {self.source} {call.format('ROW', self.changes)}",
            f"CREATE TRIGGER {shapes.TRUNCATE} BEFORE TRUNCATE ON {self.source} {call.format('STATEMENT', self._refuse)}",
            # Sessions of a replica or of a restore change rows, too.
            f"ALTER TABLE {self.source} ENABLE ALWAYS TRIGGER {shapes.CHANGES}",
        ]
        self.session.patiently(lambda: statements, self.source, patience, "watched for changes")

    def prepare(self) -> None:
        """What the steps below need: the function that does the list, and the blocks that are there now."""
        moment, target = str(self.state["moment"]), self.shape.new
        columns = ", ".join(quoted(name) for name in self.shape.stored)
        values = ", ".join(self.shape.values("s", moment))
        self.session.run(
            f"CREATE OR REPLACE FUNCTION {self._apply}(most int, whole boolean) RETURNS int LANGUAGE plpgsql AS $f$ "
            f"DECLARE ids {self.shape.id_type}[]; other {self.shape.id_type}[]; BEGIN "
            f"SELECT array_agg(DISTINCT q.id) INTO ids FROM (SELECT id FROM {self.changes} LIMIT most) q; "
            "IF ids IS NULL THEN RETURN 0; END IF; "
            # A row that was inserted since, and nothing else, cannot be in the copy.
            f"WITH gone AS (DELETE FROM {self.changes} c WHERE c.id = ANY (ids) RETURNING c.id, c.fresh) "
            "SELECT array_agg(q.id) INTO other FROM (SELECT id FROM gone GROUP BY id HAVING count(*) > 1 OR NOT bool_and(fresh)) q; "
            f"IF other IS NOT NULL THEN DELETE FROM {target} t WHERE t.id = ANY (other); END IF; "
            f"INSERT INTO {target} ({columns}) SELECT {values} FROM {self.source} s WHERE s.id = ANY (ids); "
            f"INSERT INTO {self._applied} SELECT unnest(ids) ON CONFLICT DO NOTHING; "
            f"IF whole AND EXISTS (SELECT FROM {self.changes}) THEN "
            "RAISE EXCEPTION 'more was changed than the swap may do' USING ERRCODE = 'lock_not_available'; END IF; "
            "RETURN cardinality(ids); END $f$"
        )
        if "ends" not in self.state:
            rows = self.session.rows(
                "SELECT c.relname AS name, pg_relation_size(c.oid) / current_setting('block_size')::int AS blocks "
                f"FROM pg_partition_tree({literal(self.source)}) p JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf "
                # The tree of a plain table is empty.
                f"UNION SELECT c.relname, pg_relation_size(c.oid) / current_setting('block_size')::int FROM pg_class c "
                f"WHERE c.oid = {literal(self.source)}::regclass AND c.relkind = 'r'"
            )
            self.note(ends={str(row["name"]): int(row["blocks"]) for row in rows}, done={})

    def copy(self) -> None:
        """The blocks, in batches: each of them one transaction."""
        ends, done = dict(self.state["ends"]), dict(self.state["done"])
        moment = str(self.state["moment"])
        columns = ", ".join(quoted(name) for name in self.shape.stored)
        values = ", ".join(self.shape.values("s", moment))
        total, word = sum(ends.values()), time.monotonic() + _WORD
        for name, end in sorted(ends.items()):
            while (block := int(done.get(name, 0))) < end:
                done[name] = min(end, block + _BLOCKS)
                start = time.monotonic()
                self.session.run(
                    "BEGIN",
                    f"INSERT INTO {self.shape.new} ({columns}) SELECT {values} FROM ONLY public.{quoted(name)} s "
                    f"WHERE s.ctid >= '({block},0)' AND s.ctid < '({done[name]},0)' "
                    f"AND NOT EXISTS (SELECT FROM {self.changes} c WHERE c.id = s.id)",
                    self._note(done=done),
                    "COMMIT",
                )
                self.state["done"] = done
                if time.monotonic() > word:
                    word = time.monotonic() + _WORD
                    self.say(f"{self.shape.table.name}: {sum(done.values()) * 100 // max(1, total)} % copied")
                _rest(start)

    def index(self) -> None:
        """Indexes: of each partition first, then those of the whole, which take them over; and the planner's statistics."""
        target, oid = self.shape.new, self._oid(self.shape.new)
        partitioned = self.state["kind"] != "undo"
        if partitioned:
            leaves = self.session.rows(
                f"SELECT relid::regclass::text AS name, relid::bigint AS oid FROM pg_partition_tree({oid}) WHERE isleaf ORDER BY 1"
            )
            for leaf in leaves:
                there = shapes.indexes(self.session, int(leaf["oid"]))
                for one in self.shape.indexes:
                    if not any(one.like(other) for other in there):
                        start = time.monotonic()
                        self.session.run(shapes.index(self.shape, one, str(leaf["name"]), False, True))
                        _rest(start)
        there = shapes.indexes(self.session, oid)
        for one in self.shape.indexes:
            if not any(one.name == other.name for other in there):
                self.session.run(shapes.index(self.shape, one, target, True, partitioned))
        for statement in shapes.comments(self.session, self.shape):
            self.session.run(statement)
        # A closed month is never analysed again by itself. This many values are enough for it, and take a third of the time.
        self.session.run("SET default_statistics_target = 30")
        self.session.run(f"ANALYZE {target}")

    def _oid(self, name: str) -> int:
        return int(self.session.value(f"SELECT {literal(name)}::regclass::oid::bigint"))

    def drain(self) -> None:
        """Do the list until so little is left that the swap can do it."""
        done, few = 0, False
        while not few:
            some = int(self.session.value(f"SELECT {self._apply}({_IDS}, false)"))
            done, few = done + some, some < _FEW
        if done > 10 * _IDS:
            # What was taken off it is still read over.
            self.session.run(f"VACUUM {self.changes}")

    def compare(self) -> None:
        """Count and hash of both sides, in one snapshot; rows that are on the list at that moment are left to later."""
        self.session.run(f"TRUNCATE {self._applied}")
        self.drain()
        moment = str(self.state["moment"])

        def side(relation: str, alias: str, by: str) -> str:
            return (
                f"SELECT {by} AS month, count(*) AS n, sum({self.shape.hash(alias, moment)}) AS hash FROM {relation} {alias} "
                f"WHERE NOT EXISTS (SELECT FROM {self.changes} c WHERE c.id = {alias}.id)"
            )

        def differing(by_month: bool) -> list[dict[str, Any]]:
            month = (
                f"date_trunc('month', {self.shape.time('s', moment)} AT TIME ZONE 'UTC')"
                if by_month
                else "NULL::timestamp"
            )
            here, there = (
                side(relation, "s", month) + (" GROUP BY 1" if by_month else "")
                for relation in (self.source, self.shape.new)
            )
            return self.session.rows(
                f"SELECT coalesce(a.month, b.month)::text AS month, coalesce(a.n, 0) AS here, coalesce(b.n, 0) AS there "
                f"FROM ({here}) a {f'FULL JOIN ({there}) b ON a.month = b.month' if by_month else f', ({there}) b'} "
                "WHERE a.n IS DISTINCT FROM b.n OR a.hash IS DISTINCT FROM b.hash ORDER BY 1"
            )

        # Grouping takes as long as hashing: it is for the message.
        if differing(False):
            months = differing(True)
            first = months[0] if months else {"month": "unknown", "here": 0, "there": 0}
            raise ScutumError(
                f"{self.source}: the copy differs in {len(months)} months, first in that of {first['month']}: "
                f"{first['here']} rows in the table, {first['there']} in the copy",
                left="the table serves as it did, and is complete; the copy beside it is not used",
                next_step="scutum-ops audit-partitions --undo HOST removes the copy; then run this again; if it differs again, report it",
            )

    def swap(self, locks: list[str], statements: Callable[[], list[str]], patience: float, doing: str) -> None:
        """Put the copy into force: what is left of the list under the lock, then the given statements, and the note of it."""

        def attempt() -> list[str]:
            self.drain()
            return [*locks, f"SELECT {self._apply}({_IDS}, true)", *statements(), self._note(phase="swapped")]

        self.session.patiently(attempt, self.source, patience, doing)
        self.state["phase"] = "swapped"

    def finish(self, old: str, patience: float) -> None:
        """Compare what the list had since the comparison, and drop the old table.

        Args:
            old: its name now.
        """
        if self.session.exists(old):
            moment = str(self.state["moment"])
            live = self.shape.live
            late = self.session.value(f"SELECT count(*) FROM {self.changes}")
            wrong = self.session.value(
                f"SELECT count(*) FROM {self._applied} a JOIN {old} s ON s.id = a.id LEFT JOIN {live} t ON t.id = s.id "
                f"AND t.{quoted(self.shape.table.column)} = {self.shape.time('s', moment)} "
                f"WHERE t.id IS NULL OR {self.shape.hash('t', moment)} <> {self.shape.hash('s', moment)}"
            )
            if (late, wrong) != ("0", "0"):
                raise ScutumError(
                    f"{live}: {wrong} rows that came during the swap are not in the table as they were in the old one, "
                    f"and {late} were written to the old one afterwards",
                    left=f"the table in force serves; the old one is kept as {old}, with all its rows",
                    next_step=f"compare them (SELECT * FROM {self._applied} JOIN {old} USING (id)); "
                    f"when the application changed them itself: DROP TABLE {old}; then {AGAIN}",
                )
        statements = [f"DROP TABLE IF EXISTS {old}, {self.shape.new}", *self._gone()]
        self.session.patiently(lambda: statements, old, patience, "dropped")

    def abandon(self, patience: float) -> None:
        """Before the swap: have the table as it was, and nothing beside it."""
        triggers = [f"DROP TRIGGER IF EXISTS {name} ON {self.source}" for name in (shapes.CHANGES, shapes.TRUNCATE)]
        # Its partitions lie in the schema public already, and go with it.
        statements = [*triggers, f"DROP TABLE IF EXISTS {self.shape.new}", *self._gone()]
        self.session.patiently(lambda: statements, self.source, patience, "left as it was")

    def _gone(self) -> list[str]:
        """Statements that remove what this operation had, and the schemas with the last one."""
        return [
            f"DROP FUNCTION IF EXISTS {self._apply}(int, boolean), {self.changes}(), {self._refuse}()",
            f"DROP TABLE IF EXISTS {self.changes}, {self._applied}",
            f"DELETE FROM {WORK}.operations WHERE name = {literal(self.shape.table.name)}",
            f"DO $d$ BEGIN IF NOT EXISTS (SELECT FROM {WORK}.operations) THEN DROP TABLE {WORK}.operations; "
            f"DROP SCHEMA {WORK}, {OLD}; END IF; END $d$",
        ]
