# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive in an object store: where a month lies, what counts, and whether all of it is still there.

`table=audit_logs/year=2026/month=03/part-0000.parquet` is a file of rows. It counts once `_manifests/audit_logs/000001.json` describes it.
A table's manifests are numbered without a gap, and each holds the hash of the one before: a month that is removed or altered is found.
What no store can show by itself is that the newest ones are gone; whoever keeps the last hash elsewhere (`Report.heads`) finds that too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from . import parquet_file
from .audit_tables import parts as month_parts
from .errors import ScutumError
from .files import sha256_bytes
from .object_store import Store
from .parquet_file import Column
from .report import Say

FORMAT = 1
MANIFESTS = "_manifests"
_MANIFEST = re.compile(rf"{MANIFESTS}/([^/]+)/(\d{{6}})\.json")
_FILE = re.compile(r"table=([^/]+)/year=(\d{4})/month=(\d{2})/part-(\d{4,})\.parquet")
# Requests for manifests at once.
_AT_ONCE = 8
# SHA-256 of a manifest by its table: of the newest one, and its number.
Heads = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A file of the archive that counts.

    Args:
        table: in the schema public.
        month: as `2026-03`.
        key: of the file in the store.
        part: number of the file within its month; rows that came late are a further part.
        rows: in it.
        bytes: of it.
        sha256: of it.
        content: SHA-256 of the CSV that Postgres made of the rows, and that the file renders to.
        first: moment of the first row, as ISO text in UTC; empty without rows.
        last: moment of the last row.
        seq: number of its manifest within the table, from 1 on.
        written: seconds since 1970.
        columns: in their order.
        time: the column of moments by which it is sorted.
        server: what tells the Postgres cluster from any other.
    """

    table: str
    month: str
    key: str
    part: int
    rows: int
    bytes: int
    sha256: str
    content: str
    first: str
    last: str
    seq: int
    written: float
    columns: tuple[Column, ...]
    time: str
    server: str = ""


@dataclass
class Report:
    """What a verification found.

    Args:
        checks: each with `name`, `ok`, `detail`.
        months: that are archived, by table.
        rows: in all files that count.
        orphans: keys of files that no manifest describes: what a killed run left, or a month whose manifest was removed.
        heads: the newest manifest of each table, as `seq` and `sha256`.
    """

    checks: list[dict[str, Any]] = field(default_factory=list)
    months: dict[str, list[str]] = field(default_factory=dict)
    rows: int = 0
    orphans: list[str] = field(default_factory=list)
    heads: Heads = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the archive is whole."""
        return all(check["ok"] for check in self.checks)

    def add(self, name: str, problem: str, detail: str = "") -> bool:
        """A check; it is good when there is no problem."""
        self.checks.append({"name": name, "ok": not problem, "detail": problem or detail})
        return not problem


# --- where things lie


def folder(table: str, month: str) -> str:
    """Where a month's files lie."""
    year, number = month_parts(month)
    return f"table={table}/year={year:04d}/month={number:02d}/"


def file_key(table: str, month: str, part: int) -> str:
    """The key of a file."""
    return f"{folder(table, month)}part-{part:04d}.parquet"


def manifest_key(table: str, seq: int) -> str:
    """The key of a manifest."""
    return f"{MANIFESTS}/{table}/{seq:06d}.json"


def next_part(store: Store, table: str, month: str) -> int:
    """The first number of a month that no file has, be it one that counts or not: a store that locks objects lets none be replaced."""
    taken = [int(found[4]) for item in store.list(folder(table, month)) if (found := _FILE.fullmatch(item.key))]
    return max(taken, default=-1) + 1


# --- reading


def entries(store: Store, table: str = "") -> list[Entry]:
    """The files that count, by table and number of their manifest.

    Args:
        table: of this one only; empty for all.

    Raises:
        ScutumError: a manifest cannot be read. Nothing may be dropped then.
    """
    names = [(found[1], int(found[2])) for found in _manifests(store, table)]

    def one(name: tuple[str, int]) -> Entry:
        return _entry(store.where, *name, store.get(manifest_key(*name)))[0]

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        return list(pool.map(one, names))


def months(found: list[Entry], table: str) -> dict[str, int]:
    """The months of a table that are archived, oldest first, with the rows of all their files."""
    rows: dict[str, int] = {}
    for entry in sorted(found, key=lambda entry: entry.month):
        if entry.table == table:
            rows[entry.month] = rows.get(entry.month, 0) + entry.rows
    return rows


def of_month(found: list[Entry], table: str, month: str) -> list[Entry]:
    """The files of a month, by part."""
    return sorted((e for e in found if (e.table, e.month) == (table, month)), key=lambda entry: entry.part)


def _manifests(store: Store, table: str) -> Iterator[re.Match[str]]:
    for item in store.list(f"{MANIFESTS}/{table}/" if table else f"{MANIFESTS}/"):
        found = _MANIFEST.fullmatch(item.key)
        if found:
            yield found


def _entry(where: str, table: str, seq: int, data: bytes) -> tuple[Entry, str]:
    """A manifest's entry, and the hash of the manifest before it."""
    key = manifest_key(table, seq)
    try:
        held = dict(json.loads(data))
        if held.pop("format") != FORMAT:
            raise ValueError("another format")
        previous = str(held.pop("previous"))
        columns = tuple(Column(**item) for item in held.pop("columns"))
        entry = Entry(**held, columns=columns)
        if (entry.table, entry.seq) != (table, seq):
            raise ValueError(f"it is number {entry.seq} of {entry.table}")
        if entry.key != file_key(entry.table, entry.month, entry.part):
            raise ValueError(f"it names {entry.key}")
    except (ValueError, TypeError, KeyError, AttributeError, ScutumError) as error:
        # Its text may be anybody's.
        raise ScutumError(
            f"{where}: {key} is no manifest of this archive ({type(error).__name__})",
            left="nothing was changed",
            next_step="find out who wrote there; a bucket with versions has the one before. Then: scutum-ops audit-verify",
        ) from None
    return entry, previous


class NotProven(ScutumError):
    """What is in the store is not what was archived."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what,
            left="it counts for nothing that is done now, and no row was removed",
            next_step="find out what changes data between the host and the store, and who can write there: scutum-ops audit-verify --deep",
        )


@contextlib.contextmanager
def fetched(store: Store, entry: Entry, spool: str) -> Iterator[str]:
    """The path of a file of the archive, fetched, whose hash is as it was archived; it goes with the block.

    Args:
        spool: directory for it.

    Raises:
        NotProven: it is another.
    """
    parquet_file.space(spool, entry.bytes)
    digest, size = hashlib.sha256(), 0
    with parquet_file.spooled(spool) as (handle, path):
        for block in store.open(entry.key):
            digest.update(block)
            size += len(block)
            with parquet_file.full(spool):
                handle.write(block)
        with parquet_file.full(spool):
            handle.flush()
        if digest.hexdigest() != entry.sha256:
            raise NotProven(
                f"{store.where}: {entry.key}: what is read is not what was sent ({size} bytes, SHA-256 {digest.hexdigest()[:12]}…; "
                f"it was {entry.bytes} bytes, {entry.sha256[:12]}…)"
            )
        yield path


def compare(entry: Entry, path: str) -> tuple[str, str]:
    """Compare a file's rows with its entry: their number, and the CSV that they render to.

    Args:
        path: of the file, as it came from the store.

    Returns:
        The first and the last moment.

    Raises:
        NotProven: they differ.
    """
    rows, first, last = parquet_file.bounds(path, entry.time)
    if rows != entry.rows:
        raise NotProven(f"{entry.key}: it has {rows} rows, and {entry.rows} were archived")
    found = parquet_file.digest(entry.columns, path)
    if found != entry.content:
        raise NotProven(
            f"{entry.key}: its rows are not those that Postgres sent (SHA-256 {found[:12]}…, not {entry.content[:12]}…)"
        )
    return first, last


# --- writing


def append(store: Store, entry: Entry) -> Entry:
    """Write the next manifest of a table, and read it again: from then on the file counts.

    Args:
        entry: its `seq` is given here.

    Raises:
        ScutumError: somebody else wrote one meanwhile, or it did not arrive. The file counts for nothing then.
    """
    # A list that is none (a proxy, a login page) must not look like an empty archive, whose first manifest would be written anew.
    _arrived(store, entry)
    numbers = [int(found[2]) for found in _manifests(store, entry.table)]
    last = max(numbers, default=0)
    if sorted(numbers) != list(range(1, last + 1)):
        gone = sorted(set(range(1, last + 1)) - set(numbers))
        raise ScutumError(
            f"{store.where}: {manifest_key(entry.table, gone[0])} is gone: months of the archive were removed",
            left="nothing was archived after that, and nothing was removed",
            next_step="scutum-ops audit-verify names what is missing; a bucket with versions still has it",
        )
    previous = sha256_bytes(store.get(manifest_key(entry.table, last))) if last else ""
    entry = replace(entry, seq=last + 1)
    key = manifest_key(entry.table, entry.seq)
    held = {"format": FORMAT, "previous": previous, **asdict(entry)}
    data = (json.dumps(held, indent=1, sort_keys=True) + "\n").encode()
    store.put(key, data)
    if store.get(key) != data:
        raise ScutumError(
            f"{store.where}: {key} is not there as it was sent: another host archives to the same place, or the store changes what it gets",
            left="the file of this month counts for nothing, and no row was removed",
            next_step="give each host a prefix of its own in scutum_audit_store; then: scutum-ops audit-retention",
        )
    return entry


def _arrived(store: Store, entry: Entry) -> None:
    size = next((item.size for item in store.list(entry.key) if item.key == entry.key), None)
    if size != entry.bytes:
        has = "nothing" if size is None else f"{size} bytes"
        raise ScutumError(
            f"{store.where}: {entry.key}: {entry.bytes} bytes were acknowledged, and the store has {has}",
            left="nothing that counts was written, and no row was removed",
            next_step="look at what is between the host and the store (proxy, login page), then: scutum-ops audit-retention",
        )


def check(store: Store, found: list[Entry]) -> None:
    """That entries still count, and their files are there: to be asked right before rows are dropped.

    Raises:
        ScutumError: one does not.
    """
    for entry in found:
        held = _entry(store.where, entry.table, entry.seq, store.get(manifest_key(entry.table, entry.seq)))[0]
        _arrived(store, entry)
        if held != entry:
            raise ScutumError(
                f"{store.where}: {entry.key} is not in the archive as it was written",
                left="no row was removed",
                next_step="scutum-ops audit-verify; look at who else writes there",
            )


def remove_leftovers(store: Store, confirmed: list[str]) -> list[str]:
    """Remove files that no manifest describes; the keys that were removed.

    Args:
        confirmed: the keys, each named by whoever decides it; `Report.orphans` lists them.

    Raises:
        ScutumError: a key is none of them, or is locked: nothing was removed then.
    """
    counted = {entry.key for entry in entries(store)}
    there = {item.key for item in store.list("table=")}
    for key in confirmed:
        why = "it is part of the archive" if key in counted else "it is not there" if key not in there else ""
        if not why and not _FILE.fullmatch(key):
            why = "it is no file of an archive"
        until = "" if why else store.locked(key)
        if why or until:
            raise ScutumError(
                f"{store.where}: {key} is not removed: {why or f'it is locked {until}'}",
                left="nothing was removed",
                next_step="scutum-ops audit-verify lists what no manifest describes",
            )
    for key in confirmed:
        store.delete(key)
    return confirmed


# --- verifying


def verify(
    store: Store,
    deep: bool,
    say: Say,
    spool: str = "",
    heads: Heads | None = None,
) -> Report:
    """Walk every chain, and look for every file.

    Args:
        deep: fetch each file, compare its hash, and render its rows; else the store is asked for sizes only.
        spool: directory for one file at a time, where it is deep.
        heads: of an earlier verification, or of whoever wrote last: those manifests have to be there still.

    Raises:
        ScutumError: the store does not answer; what it holds is not known then.
    """
    report = Report()
    sizes = {item.key: item.size for item in store.list("table=")}
    numbers: dict[str, list[int]] = {table: [] for table in heads or {}}
    for found in _manifests(store, ""):
        numbers.setdefault(found[1], []).append(int(found[2]))
    counted: dict[str, Entry] = {}
    for table in sorted(numbers):
        for entry in _chain(store, table, numbers[table], (heads or {}).get(table, {}), report):
            name, size, problem = entry.key, sizes.get(entry.key), ""
            if size is None:
                problem = "it is gone"
            elif entry.key in counted:
                problem = f"the manifests {counted[entry.key].seq} and {entry.seq} both describe it"
            elif size != entry.bytes:
                problem = f"it has {size} bytes, its manifest says {entry.bytes}"
            elif deep:
                problem = _damage(store, entry, spool)
            if problem or deep:
                detail = f"{entry.rows} rows, as they were archived"
                report.add(name, problem, detail)
                say(f"{'FAIL' if problem else 'ok  '} {name}: {problem or detail}")
            counted[entry.key] = entry
            report.rows += entry.rows
        own = [entry for entry in counted.values() if entry.table == table]
        report.months[table] = list(months(own, table))
    _orphans(sizes, counted, report, say)
    return report


def _chain(store: Store, table: str, numbers: list[int], head: dict[str, Any], report: Report) -> list[Entry]:
    """The entries of one table, and a check for its chain."""
    found: list[Entry] = []
    problems, before = [], ""
    last = max([*numbers, int(head.get("seq", 0))], default=0)
    gone = sorted(set(range(1, last + 1)) - set(numbers))
    if gone:
        problems.append(f"the manifests {', '.join(f'{number:06d}' for number in gone)} are gone")
    hashes: dict[int, str] = {}

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        held = pool.map(lambda number: store.get(manifest_key(table, number)), sorted(numbers))
        for number, data in zip(sorted(numbers), held):
            hashes[number] = sha256_bytes(data)
            try:
                entry, previous = _entry(store.where, table, number, data)
            except ScutumError:
                problems.append(f"manifest {number} cannot be read")
            else:
                if number - 1 not in gone and previous != before:
                    problems.append(f"manifest {number} does not follow the one before it: one of both was altered")
                found.append(entry)
            before = hashes[number]
    if head and head.get("seq") in hashes and hashes[head["seq"]] != head.get("sha256"):
        problems.append(f"manifest {head['seq']} is not the one that was written")
    if numbers:
        report.heads[table] = {"seq": max(numbers), "sha256": hashes[max(numbers)]}
    report.add(f"manifests of {table}", "; ".join(problems), f"{len(found)}, each follows the one before it")
    return found


def _damage(store: Store, entry: Entry, spool: str) -> str:
    """What is wrong with a file; empty when nothing is."""
    try:
        with fetched(store, entry, spool) as path:
            if compare(entry, path) != (entry.first, entry.last):
                return "its first and last moments are not those of its manifest"
    except NotProven as error:
        return error.what
    return ""


def _orphans(sizes: dict[str, int], counted: dict[str, Entry], report: Report, say: Say) -> None:
    report.orphans = sorted(set(sizes) - set(counted))
    archived = {(entry.table, entry.month) for entry in counted.values()}
    lost = []
    for key in report.orphans:
        found = _FILE.fullmatch(key)
        # A run that was killed leaves one, and the next run archives that month again.
        if found and (found[1], f"{found[2]}-{found[3]}") in archived:
            say(f"{key}: no manifest describes it; its month is archived without it")
        else:
            lost.append(key)
    detail = f"{len(report.orphans)} without, of months that are archived without them" if report.orphans else "none"
    problem = f"no manifest describes {', '.join(lost)}: a run was killed there, or the manifest was removed"
    report.add("files without a manifest", problem if lost else "", detail)
