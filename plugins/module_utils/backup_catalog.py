# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups in an object store: what they are called, what belongs to one, which of them count.

`<prefix>/<id>/` holds `database.dump`, `configuration.tar.gz` (both with `.age` when they are encrypted), `manifest.json`, written last:
a backup without it is none, and after a verification `verified.json`. One with `safety.json` was taken before a restore: it is never the
newest, and never taken away by the retention.
"""

from __future__ import annotations

import calendar
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from .backup_retention import Backup
from .errors import ScutumError
from .object_store import Store

DUMP = "database.dump"
CONFIGURATION = "configuration.tar.gz"
MANIFEST = "manifest.json"
VERIFIED = "verified.json"
FAILED = "verification-failed.json"
SAFETY = "safety.json"
FORMAT = 1
_NEEDED = {
    *("taken", "host", "server", "release", "images", "postgres", "database_bytes", "alembic_head", "database"),
    *("tables", "schema", "sequences", "objects"),
}
# Seconds by which clocks may differ.
_AHEAD = 3600
_ID = re.compile(r"\d{8}T\d{6}Z")


@dataclass
class Entry:
    """One backup, or what is left of one.

    Args:
        id: UTC time of its beginning, as `20261125T031700Z`.
        names: of its objects, with the time of each.
        size: bytes of all of them.
    """

    id: str
    names: dict[str, float] = field(default_factory=dict)
    size: int = 0

    @property
    def complete(self) -> bool:
        """Whether it counts."""
        return MANIFEST in self.names

    @property
    def safety(self) -> bool:
        """Whether it was taken before a restore: what it holds may be what was restored from."""
        return SAFETY in self.names

    @property
    def verified(self) -> bool:
        """Whether a restore of it was proven, and no later one failed."""
        return VERIFIED in self.names and self.names.get(FAILED, 0) <= self.names[VERIFIED]

    @property
    def taken(self) -> float:
        """Seconds since 1970."""
        return moment(self.id)


def new_id(now: float | None = None) -> str:
    """The id of a backup that begins now."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))


def moment(name: str) -> float:
    """The time in an id, in seconds since 1970."""
    return float(calendar.timegm(time.strptime(name, "%Y%m%dT%H%M%SZ")))


def entries(store: Store) -> list[Entry]:
    """Everything that looks like a backup, newest first."""
    found: dict[str, Entry] = {}
    for item in store.list(""):
        name, slash, rest = item.key.partition("/")
        if slash and _ID.fullmatch(name) and _is_time(name):
            entry = found.setdefault(name, Entry(name))
            entry.names[rest] = item.modified
            entry.size += item.size
    return sorted(found.values(), key=lambda entry: entry.id, reverse=True)


def complete(store: Store, now: float | None = None) -> list[Entry]:
    """The backups that count, newest first.

    Those before a restore are left out, and one from the future (a clock that jumped), which would be the newest until then.
    """
    latest = (time.time() if now is None else now) + _AHEAD
    return [entry for entry in entries(store) if entry.complete and not entry.safety and entry.taken <= latest]


def choose(store: Store, name: str = "") -> Entry:
    """A complete backup by its name, or the newest that counts."""
    found = [entry for entry in entries(store) if entry.complete and entry.id == name] if name else complete(store)
    if not found:
        raise ScutumError(
            f"{store.where}: there is no complete backup {name}".rstrip(),
            left="nothing was restored",
            next_step="scutum-ops backup-info lists them" if name else "scutum-ops backup takes one",
        )
    return found[0]


def _is_time(name: str) -> bool:
    try:
        moment(name)
    except ValueError:
        return False
    return True


def manifest(store: Store, name: str) -> dict[str, Any]:
    """The manifest of a backup."""
    where = f"{store.where}, {name}/{MANIFEST}"
    try:
        found = json.loads(store.get(f"{name}/{MANIFEST}"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ScutumError(
            f"{where}: it is no JSON object", left="nothing was restored", next_step="take another backup"
        )
    if found.get("format") != FORMAT or found.get("id") != name:
        raise ScutumError(
            f"{where}: it is of backup {found.get('id')}, format {found.get('format')}, and not of this one",
            left="nothing was restored",
            next_step="take another backup; somebody may have moved objects",
        )
    lost = sorted(_NEEDED - found.keys())
    if lost:
        raise ScutumError(
            f"{where}: it lacks {', '.join(lost)}", left="nothing was restored", next_step="take another backup"
        )
    return found


def for_retention(found: list[Entry], locks: dict[str, str]) -> list[Backup]:
    """The complete ones, as the retention looks at them, but for those before a restore; `locks` are what `locked` returns."""
    return [
        Backup(entry.id, entry.taken, entry.verified, locks.get(entry.id, ""), entry.size)
        for entry in found
        if entry.complete and not entry.safety
    ]


def in_order(entry: Entry) -> list[str]:
    """Its objects in the order in which they go: the manifest first, so that what is left after a kill is no backup any more."""
    return sorted(entry.names, key=lambda name: name != MANIFEST)


def locked(store: Store, found: list[Entry]) -> dict[str, str]:
    """Those that the store keeps now (Object Lock): id → until when, in words.

    One locked object is enough: a legal hold may lie on any of them. A bucket's retention ends last for what was written last, the
    manifest: mostly a locked backup costs one request.
    """
    locks = {}
    for entry in found:
        until = next((text for name in in_order(entry) if (text := store.locked(f"{entry.id}/{name}"))), "")
        if until:
            locks[entry.id] = until
    return locks
