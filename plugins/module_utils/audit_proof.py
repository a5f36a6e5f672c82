# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what is in Postgres is what the archive holds, row by row: asked before a month is dropped.

A count does not see a row that was changed after it was archived. Both sides write the same CSV; its lines are hashed one by one, and the
hashes added up, so that it does not matter over how many files a month's rows are spread.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable

from . import audit_catalog as catalog
from . import copy_session, parquet_file
from .audit_tables import Table
from .database import Database
from .object_store import Store

_MODULUS = 1 << 256


class _Lines:
    """The sum of the hashes of lines, whatever their order."""

    def __init__(self) -> None:
        self.sum = 0
        self.whole = hashlib.sha256()

    def add(self, blocks: Iterable[bytes]) -> None:
        """All lines of a stream; the last one ends with its line break, too."""
        rest = b""
        for block in blocks:
            self.whole.update(block)
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for line in lines:
                self.sum += int.from_bytes(hashlib.sha256(line).digest(), "big")
            self.sum %= _MODULUS
        if rest:
            self.sum = (self.sum + int.from_bytes(hashlib.sha256(rest).digest(), "big")) % _MODULUS


def proven(
    database: Database,
    table: Table,
    relname: str,
    entries: list[catalog.Entry],
    store: Store,
    spool: str,
    timeout: float,
) -> int | None:
    """The number of rows of a relation, when all of them are in these files as they are; None when one is not.

    A month is mostly one file. Rows that came late are a further one: together with the first, or alone when that has left already. So a
    run of files, from any to any later one, has to hold just the rows of the relation.

    Args:
        entries: of the month, by part.
        timeout: seconds after which the session in Postgres is ended.
    """
    here = _Lines()
    with copy_session.reading(database, relname, timeout) as session:
        columns, key = session.columns(), session.key()
        order = [table.column, *(name for name in key if name != table.column)]
        with contextlib.closing(session.read(columns, order)) as blocks:
            here.add(blocks)
        rows = session.rows
    # A column that came or went meanwhile makes another CSV.
    usable = [entry for entry in entries if entry.columns == columns]
    sums: dict[str, int] = {}

    def summed(entry: catalog.Entry) -> int:
        if entry.key not in sums:
            there = _Lines()
            with catalog.fetched(store, entry, spool) as path:
                there.add(parquet_file.render(entry.columns, path))
            sums[entry.key] = there.sum
        return sums[entry.key]

    for first in range(len(usable)):
        for last in range(first + 1, len(usable) + 1):
            files = usable[first:last]
            if sum(entry.rows for entry in files) != rows:
                continue
            if len(files) == 1:
                # The file was proven to render to this.
                same = here.whole.hexdigest() == files[0].content
            else:
                same = sum(summed(entry) for entry in files) % _MODULUS == here.sum
            if same:
                return rows
    return 0 if rows == 0 and entries else None
