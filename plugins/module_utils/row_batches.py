# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Old rows of tables whose shape is somebody else's leave in batches: LiteLLM's, which Prisma owns.

Prisma would take a partitioned table for a difference, and undo it. So rows are deleted, a few at a time, with no lock on the table but
that of any DELETE; autovacuum gives their space back to the table, not to the disk. A batch takes rows as they lie in the heap, which
needs no index on the column.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .database import Database, literal, quoted
from .partition_session import open_session

# Seconds between two batches: what the table's own traffic has for itself.
_PAUSE = 0.05
# Seconds between two words on how far it is.
_WORD = 10.0


def _exists(database: Database, name: str) -> bool:
    return database.query(f"SELECT to_regclass({literal('public.' + quoted(name))}) IS NOT NULL") == [["t"]]


def oldest(database: Database, name: str, column: str) -> float:
    """The earliest time of a table's rows, in seconds since 1970; 0 without rows, or without the table.

    Args:
        column: timestamp without a zone, in UTC.
    """
    if not _exists(database, name):
        return 0.0
    rows = database.query(f"SELECT coalesce(extract(epoch FROM min({quoted(column)})), 0) FROM public.{quoted(name)}")
    return float(rows[0][0])


def remove(
    database: Database,
    name: str,
    column: str,
    before_epoch: float,
    batch: int,
    say: Callable[[str], None],
    deadline: float,
) -> int:
    """Delete the rows that are older, in batches of one transaction each; what a run does not reach is the next one's.

    Args:
        column: timestamp without a zone, in UTC.
        before_epoch: seconds since 1970; rows of before then go.
        batch: rows of a batch, at least 1.
        deadline: value of time.monotonic() at which no further batch is begun.

    Returns:
        The number of rows that were deleted.
    """
    if not _exists(database, name):
        return 0
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(before_epoch))
    table, at = f"public.{quoted(name)}", f"{quoted(column)} < {literal(moment)}::timestamp"
    deleted, word = 0, time.monotonic() + _WORD
    with open_session(database, alone=False) as session:
        # Rows that only change their place fire no trigger; these are gone, and whoever refers to them has to know.
        session.run(
            "SELECT set_config('session_replication_role', 'origin', false) WHERE current_setting('is_superuser') = 'on'"
        )
        while time.monotonic() < deadline:
            count = int(
                session.value(
                    f"WITH gone AS (DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {at} "
                    f"LIMIT {max(1, int(batch))} FOR UPDATE SKIP LOCKED)) AND {at} RETURNING 1) SELECT count(*) FROM gone"
                )
            )
            if not count:
                break
            deleted += count
            if time.monotonic() > word:
                word = time.monotonic() + _WORD
                say(f"{name}: {deleted} rows deleted")
            time.sleep(_PAUSE)
    return deleted
