# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backing up: dump -> age -> SHA-256 -> object store, in one stream; a manifest of the same moment is written last.

What is streamed is followed on the way, by the lengths in it: a dump that was cut short never counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import backup_archive, backup_encryption, backup_retention, dump_format, metrics, object_store
from . import backup_catalog as catalog
from .background import Work
from .database import Database
from .errors import ScutumError
from .files import free_bytes, read_text
from .host_job import HostJob, Kind, runs
from .installation import Installation
from .object_store import Store
from .report import Say

AUDIT = "public.audit_logs"
METRICS = "scutum_backup"
# In the source of secrets, or in config/.env; without them the store's client asks the instance.
_CREDENTIAL = {
    "access_key_id": "SCUTUM_BACKUP_ACCESS_KEY_ID",
    "secret_access_key": "SCUTUM_BACKUP_SECRET_ACCESS_KEY",
    "session_token": "SCUTUM_BACKUP_SESSION_TOKEN",
}
_PRUNER = {name: key.replace("SCUTUM_BACKUP", "SCUTUM_BACKUP_PRUNE") for name, key in _CREDENTIAL.items()}
HEARTBEAT = "SCUTUM_BACKUP_HEARTBEAT_URL"
# Seconds without a good backup after which even a run that had to wait is a failure.
_TOO_LONG = 26 * 3600
# Seconds after which what was begun and not finished was left by a run that died.
_STALE = 24 * 3600


@dataclass
class Settings:
    """What an operator decides: the variables of the role, without their prefix."""

    store: dict[str, Any] = field(default_factory=dict)
    age_recipients: list[str] = field(default_factory=list)
    keep_daily: int = 14
    keep_weekly: int | None = None
    compression_level: int = 1
    timeout: int = 6 * 3600
    spool: str = ""


def problems(settings: Settings) -> list[str]:
    """What is wrong with the settings, before anything is done."""
    found = object_store.problems(settings.store, {})
    if importlib.util.find_spec("pyrage"):
        found += backup_encryption.problems(settings.age_recipients)
    else:
        # Ansible's own Python on the host; the job, in its environment, looks closer.
        found += [
            f"{backup_encryption.VARIABLE}: number {number} is no recipient (age1…, ssh-ed25519 …, ssh-rsa …)"
            for number, text in enumerate(settings.age_recipients, 1)
            if not re.fullmatch(r"age1[0-9a-z]{58}|ssh-(ed25519|rsa) \S+.*", text.strip())
        ]
    if settings.keep_daily < 1:
        found.append("scutum_backup_keep_daily has to be at least 1")
    if settings.keep_weekly is not None and settings.keep_weekly < 1:
        found.append("scutum_backup_keep_weekly has to be at least 1, or -1 for all of them for ever")
    if not 1 <= settings.compression_level <= 19:
        found.append("scutum_backup_compression_level: 1 to 19")
    if settings.timeout < 60:
        found.append("scutum_backup_timeout has to be at least 60 (seconds)")
    if settings.spool and not settings.spool.startswith("/"):
        found.append("scutum_backup_spool is no absolute path")
    elif settings.spool and not os.path.isdir(settings.spool):
        found.append(f"scutum_backup_spool: {settings.spool} is no directory of this host")
    return found


def settings(installation: Installation) -> Settings:
    """What is kept on the host."""
    held = _job(installation).kept()
    if held is None:
        raise ScutumError(
            f"{installation.directory} has no place for backups",
            left="nothing was done",
            next_step="set scutum_backup_store and run playbooks/backup.yml",
        )
    return Settings(**held)


def configure(installation: Installation, wanted: Settings, check: bool = False) -> list[str]:
    """Keep settings; names of what was (or would be) changed."""
    return _job(installation).keep(vars(wanted), check)


def store(
    installation: Installation, wanted: Settings, pruning: bool = False, given: dict[str, str] | None = None
) -> Store:
    """Where backups are kept, with the credential from the installation's secrets.

    Args:
        given: values of config/.env that come first: a host that is still empty has none.
    """
    names = _PRUNER if pruning and installation.secret(_PRUNER["access_key_id"]) else _CREDENTIAL
    held = {key: (given or {}).get(key) or installation.secret(key) for key in names.values()}
    credential = {name: held[key] for name, key in names.items() if held[key]}
    return object_store.open_store(wanted.store, credential)


def run(installation: Installation, directory: str, say: Say) -> dict[str, Any]:
    """One backup: taken, counted in the status and the metrics, old ones pruned, people told when it failed.

    Args:
        directory: where metrics go; empty for nowhere.

    Returns:
        The manifest's `id`, `taken`, `bytes`, `seconds`, `tables`, `rows`; `removed` (ids), `warnings`.

    Raises:
        ScutumError: it failed; nothing that counts as a backup was left.
    """
    job = _job(installation, directory)
    with job.alone(say):
        with job.begun(say):
            wanted = settings(installation)
            result = take(installation, wanted, say)
        result["removed"], warnings = _prune(installation, wanted, say)
        result["warnings"] += warnings
        job.succeeded(result)
    return result


def take(installation: Installation, wanted: Settings, say: Say, safety: bool = False) -> dict[str, Any]:
    """Take one backup into the store.

    Args:
        safety: it is one before a restore.
    """
    begin = time.monotonic()
    database, place = Database(installation), store(installation, wanted)
    name = catalog.new_id()
    ending = ".age" if wanted.age_recipients else ""
    stale = place.abort_stale("", _STALE)
    if stale:
        say(f"unfinished uploads of earlier runs were ended: {len(stale)}")
    found = catalog.complete(place)
    before, warnings = _before(place, found)
    running = _running(installation)
    # The units' own end comes two minutes later: this one can still say why.
    timeout = max(wanted.timeout - 120, 60)
    with contextlib.ExitStack() as spool, contextlib.ExitStack() as closing:
        snapshot = closing.enter_context(database.snapshot(timeout))
        sequences = snapshot.sequences()
        taken = float(snapshot.query("SELECT extract(epoch FROM now())")[0][0])
        server, alembic = snapshot.server(), snapshot.alembic_version()
        if before.get("server", server) != server:
            raise ScutumError(
                f"{place.where} holds backups of another server (the newest, {before['id']}, of {before['host']})",
                left="nothing was written there",
                next_step="give this host a prefix of its own in scutum_backup_store: two in one would free each other's for pruning",
            )
        if safety:
            # First: as long as the manifest is missing it counts for nothing, and then it does not count as an ordinary one.
            place.put(f"{name}/{catalog.SAFETY}", b"{}\n")
        say(f"{name}: streaming the dump to {place.where}")
        # In one process: what it would gain from more, the dump would lose, and production too.
        snapshot.query("SET max_parallel_workers_per_gather = 0")
        looking = Work(lambda: (snapshot.tables(), snapshot.schema()))
        # Each is closed when another one fails: pg_dump must not go on holding its locks.
        dump = closing.enter_context(
            contextlib.closing(
                database.dump_stream(snapshot.name, wanted.compression_level, timeout, "scutum_backup_timeout")
            )
        )
        followed = dump_format.Followed(dump)
        plain = _Counted(_whole(followed))
        chunks: Any = iter(plain)
        if ending:
            chunks = closing.enter_context(contextlib.closing(backup_encryption.encrypt(plain, wanted.age_recipients)))
        size = database.size()
        if wanted.spool:
            chunks = spool.enter_context(_spooled(chunks, wanted.spool, size))
            tables, schema = looking.result()
            # A slow line keeps the database's snapshot no longer than the dump takes.
            closing.close()
        stored = place.upload(f"{name}/{catalog.DUMP}{ending}", chunks, expected_size=size)
        if not wanted.spool:
            tables, schema = looking.result()
    rows = sum(int(item["rows"]) for item in tables.values())
    say(f"{name}: {stored.size / 2**20:.1f} MiB, {len(tables)} tables, {rows} rows")
    archive = backup_archive.build(installation, database, secrets=bool(ending))
    kept = place.upload(
        f"{name}/{catalog.CONFIGURATION}{ending}",
        backup_encryption.encrypt(iter([archive]), wanted.age_recipients) if ending else iter([archive]),
    )
    sizes = {stored.key: stored.size, kept.key: kept.size}
    _arrived(place, name, sizes)
    if _running(installation) != running:
        raise ScutumError(
            "the installation was changed while its backup was taken: what belongs together is not known",
            left="nothing that counts as a backup was left",
            next_step="scutum-ops backup takes another one",
        )
    manifest = {
        "format": catalog.FORMAT,
        "id": name,
        "taken": taken,
        "host": socket.gethostname(),
        "server": server,
        "installation": {"directory": installation.directory, "project": installation.project},
        "release": running["version"],
        "images": running["images"],
        "postgres": database.server_version(),
        "postgres_image": database.image(),
        "database_bytes": database.size(),
        "alembic_head": alembic,
        "database": {"name": database.name, "owner": database.user},
        "tables": tables,
        "schema": schema,
        "sequences": sequences,
        "previous": {"id": before.get("id", ""), "audit_rows": before.get("tables", {}).get(AUDIT, {}).get("rows", 0)},
        # So that a restore can say whether what LiteLLM encrypted can be read there.
        "salt": backup_archive.salt_mark(installation),
        "encryption": backup_encryption.fingerprint(wanted.age_recipients) if ending else "",
        "objects": {
            stored.key.partition("/")[2]: {"size": stored.size, "sha256": stored.sha256, "plain_sha256": plain.sha256},
            kept.key.partition("/")[2]: {
                "size": kept.size,
                "sha256": kept.sha256,
                "plain_sha256": hashlib.sha256(archive).hexdigest(),
            },
        },
        "seconds": round(time.monotonic() - begin, 1),
    }
    # Last: without it there is no backup.
    told = place.put(f"{name}/{catalog.MANIFEST}", (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    _arrived(place, name, {**sizes, told.key: told.size})
    if not followed.known:
        warnings.append(
            "this pg_dump's format is not known here: whether its dump is whole shows only when it is verified"
        )
    gone = sorted(before.get("tables", {}).keys() - tables.keys())
    return {
        "id": name,
        "taken": taken,
        "bytes": stored.size + kept.size,
        "seconds": manifest["seconds"],
        "tables": len(tables),
        "rows": rows,
        "encrypted": bool(ending),
        "where": place.where,
        "warnings": warnings + ([f"tables of the backup before are gone: {', '.join(gone)}"] if gone else []),
    }


@contextlib.contextmanager
def _spooled(chunks: Iterator[bytes], directory: str, size: int) -> Iterator[Iterator[bytes]]:
    """The same stream out of a file without a name, which goes with this process however it ends.

    Args:
        size: bytes that may be needed; a dump is smaller than its database.
    """
    free = free_bytes(directory)
    if free < size:
        raise ScutumError(
            f"scutum_backup_spool: {directory} has {free // 2**20} MiB free, and the dump may need {size // 2**20} MiB",
            left="nothing that counts as a backup was left",
            next_step="free space there, or leave scutum_backup_spool out: without it nothing is written to this host",
        )
    with tempfile.TemporaryFile(dir=directory) as handle:
        for chunk in chunks:
            handle.write(chunk)
        handle.seek(0)
        yield iter(lambda: handle.read(1 << 20), b"")


def _arrived(place: Store, name: str, sizes: dict[str, int]) -> None:
    """Ask the store what it has: one that acknowledged what it did not keep (a proxy, a login page) must not pass for a backup."""
    there = {item.key: item.size for item in place.list(f"{name}/")}
    for key, size in sizes.items():
        if there.get(key) != size:
            has = f"{there[key]} bytes" if key in there else "nothing"
            raise ScutumError(
                f"{place.where}: {key} is not there as it was sent: {size} bytes were acknowledged, and the store has {has}",
                left="nothing that counts as a backup was left",
                next_step="look at what is between the host and the store (proxy, login page), then: scutum-ops backup",
            )


def _before(place: Store, found: list[catalog.Entry]) -> tuple[dict[str, Any], list[str]]:
    """The newest manifest that can be read, and a warning for each that cannot: a broken one must not keep a new backup away."""
    warnings: list[str] = []
    for entry in found[:5]:
        try:
            return catalog.manifest(place, entry.id), warnings
        except ScutumError as error:
            warnings.append(error.what)
    return {}, warnings


def _running(installation: Installation) -> dict[str, Any]:
    """Release and images that are in force."""
    state = installation.state()
    version = str(state.get("version") or "")
    return {"version": version, "images": state.get("images", {}).get(version, {})}


class _Counted:
    """A stream with the SHA-256 of what went through."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._digest.update(chunk)
            yield chunk

    @property
    def sha256(self) -> str:
        """Of all that was read so far."""
        return self._digest.hexdigest()


def _whole(followed: dump_format.Followed) -> Generator[bytes]:
    """The same stream; at its end, a failure when it is not all of a dump, although pg_dump said that it ended well."""
    try:
        yield from followed
    except dump_format.NotWholeError as error:
        raise ScutumError(
            f"pg_dump ended well, and its dump is not whole: {error}",
            left="nothing that counts as a backup was left",
            next_step="look at the server's log and disk, then: scutum-ops backup",
        ) from error


def _prune(installation: Installation, wanted: Settings, say: Say) -> tuple[list[str], list[str]]:
    """Take away what the retention gives free; ids, and what could not be done: a failing prune never fails a backup."""
    removed: list[str] = []
    warnings: list[str] = []
    try:
        place = store(installation, wanted, pruning=True)
        found = catalog.entries(place)
        newest = max((entry.taken for entry in catalog.complete(place)), default=0.0)
        # What was begun and never finished is nothing, once a later one is there.
        left = [entry.id for entry in found if not entry.complete and entry.taken < min(newest, time.time() - _STALE)]
        zone, now = _zone(), time.time()

        def decide(locks: dict[str, str]) -> backup_retention.Plan:
            backups = catalog.for_retention(found, locks)
            return backup_retention.plan(backups, wanted.keep_daily, wanted.keep_weekly, zone, now)

        # Asked only of what would go: requests.
        going = {*decide({}).remove, *left}
        locks = catalog.locked(place, [entry for entry in found if entry.id in going])
        plan = decide(locks)
    except ScutumError as error:
        return removed, [f"old backups were not taken away: {error.what}"]
    if locks:
        oldest = min(locks)
        others = f"; so do {len(locks) - 1} others" * (len(locks) > 1)
        say(f"{oldest} stays, locked in the store (Object Lock) {locks[oldest]}{others}")
    parts = {entry.id: catalog.in_order(entry) for entry in found}
    for name in [*plan.remove, *(name for name in left if name not in locks)]:
        try:
            for part in parts[name]:
                place.delete(f"{name}/{part}")
            removed.append(name)
            say(f"{name}: taken away, newer ones are kept")
        except ScutumError as error:
            warnings.append(f"{name} was not taken away: {error.what}")
    return removed, warnings


def _zone() -> str:
    """The host's time zone: days of the retention are its days."""
    name = (read_text("/etc/timezone") or "").strip()
    with contextlib.suppress(OSError):
        name = name or os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    return name or "UTC"


# --- what is left behind of each run


def status(installation: Installation) -> dict[str, Any]:
    """The record of the last runs, as `HostJob.status` has it, and `last_verified`."""
    return _job(installation).status()


def record_verified(installation: Installation, verified: dict[str, Any], directory: str) -> None:
    """Record that a restore was proven: `id`, `at`, `taken` (seconds since 1970). An older one than the last does not count back."""
    job = _job(installation, directory)
    if verified["taken"] >= job.status().get("last_verified", {}).get("taken", 0):
        job.gauge(job.record(last_verified=verified))


def _gauges(held: dict[str, Any]) -> dict[str, metrics.Gauges]:
    good = held.get("last_success", {})
    return {
        **runs(held, METRICS, "backup"),
        "scutum_backup_bytes": ("Bytes of the last good backup.", {}, good.get("bytes", 0)),
        "scutum_backup_duration_seconds": ("Duration of the last good backup.", {}, good.get("seconds", 0)),
        "scutum_backup_rows": ("Rows in the last good backup.", {}, good.get("rows", 0)),
        "scutum_backup_verified_timestamp_seconds": (
            "When the newest verified backup was taken; 0 for never.",
            {},
            held.get("last_verified", {}).get("taken", 0),
        ),
    }


_KIND = Kind(
    name="backup",
    noun="backup",
    event="backup.failed",
    last="The last good backup was taken",
    again="scutum-ops backup",
    show="scutum-ops backup-info",
    metrics=METRICS,
    gauges=_gauges,
    heartbeat=HEARTBEAT,
    too_long=_TOO_LONG,
)


def _job(installation: Installation, directory: str = "") -> HostJob:
    return HostJob(installation, _KIND, directory)


def info(installation: Installation) -> dict[str, Any]:
    """Which backups there are: `backups` (id, bytes, verified; newest first), `before_restores`, `incomplete`, `age_hours`,
    `verified_age_hours`, `last_failure`, `where`."""
    place = store(installation, settings(installation))
    found = catalog.entries(place)
    good = catalog.complete(place)
    now = time.time()

    def age(entries: list[catalog.Entry]) -> float | None:
        return round((now - entries[0].taken) / 3600, 2) if entries else None

    return {
        "backups": [{"id": entry.id, "bytes": entry.size, "verified": entry.verified} for entry in good],
        "before_restores": [entry.id for entry in found if entry.complete and entry.safety],
        "incomplete": [entry.id for entry in found if not entry.complete],
        "ahead": [entry.id for entry in found if entry.complete and not entry.safety and entry not in good],
        "age_hours": age(good),
        "verified_age_hours": age([entry for entry in good if entry.verified]),
        "last_failure": status(installation).get("last_failure", {}),
        "where": place.where,
    }
