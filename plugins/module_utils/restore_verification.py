# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proving that a backup restores: pulled from the store, restored into a throwaway Postgres, compared with its manifest, served once.

What it is compared with was written in the dump's own snapshot; the live database moves on, and is only told apart. A backup that
passed gets `verified.json` beside it, and counts for the retention from then on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import admin_api, backup, backup_encryption, notify
from . import backup_catalog as catalog
from .database import Database
from .errors import ScutumError, as_error
from .files import ensure_directory, write_file
from .installation import Installation
from .object_store import Store

LABEL = "ops.scutum.verification"
SETTINGS = "restore-verification.json"
REPORT = "restore-verification-report"
_SPOOL = "restore-spool"
# Nothing of it has to survive a crash.
_FAST = (
    *("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "autovacuum=off"),
    *(
        "-c",
        "wal_level=minimal",
        "-c",
        "max_wal_senders=0",
        "-c",
        "max_wal_size=4GB",
        "-c",
        "maintenance_work_mem=256MB",
    ),
)
Say = Callable[[str], None]
Step = contextlib.AbstractContextManager[Callable[[str], None]]


class NotProven(ScutumError):
    """It was tried, and the backup does not bring everything back."""


@dataclass
class _Throwaway:
    """A server that will be gone: its database, the name of its network and container, its password."""

    database: Database
    name: str
    password: str


@dataclass
class Settings:
    """What an operator decides.

    Args:
        max_age: hours; an older newest backup is a failure of its own.
        again: verify one that was verified before.
        name: of a backup; empty for the newest.
        memory: of the throwaway, in Docker's units.
        spool: directory for the dump; empty for one below the installation's private directory.
        identities: age identities, for an encrypted backup.
    """

    max_age: float = 36
    again: bool = False
    name: str = ""
    memory: str = "2g"
    spool: str = ""
    identities: list[str] = field(default_factory=list)


def verify(installation: Installation, wanted: Settings, directory: str, say: Say) -> dict[str, Any]:
    """Verify a backup, and say how it went: to the status, to the store, to people.

    Returns:
        The report: `ok`, `outcome` (verified; failed: it does not bring everything back; unknown: it could not be tried), `id`, `checks`
        (name, ok, detail, seconds), `recovery_point_seconds`, `recovery_time_seconds`, `drift`
        (rows since, by table), `where`.
    """
    begin = time.monotonic()
    report: dict[str, Any] = {
        "ok": False,
        "outcome": "unknown",
        "id": wanted.name,
        "checks": [],
        "drift": {},
        "at": time.time(),
    }
    error = ""
    try:
        with _alone(installation):
            _verify(installation, wanted, report, say)
    except Exception as problem:
        found = as_error(problem)
        error = shown(installation, found.what)
        if isinstance(problem, NotProven):
            report["outcome"] = "failed"
            # One that was verified before does not count as such any more.
            with contextlib.suppress(ScutumError):
                place = backup.store(installation, backup.settings(installation))
                place.put(
                    f"{report['id']}/{catalog.FAILED}", (json.dumps({"error": error}) + "\n").encode(), replace=True
                )
        if all(check["ok"] for check in report["checks"]):
            report["checks"].append({"name": "could not be verified", "ok": False, "detail": error, "seconds": 0})
        report["next_step"] = found.next_step
    report["recovery_time_seconds"] = round(time.monotonic() - begin, 1)
    report["error"] = error
    _keep(installation, report, directory)
    return report


@contextlib.contextmanager
def _alone(installation: Installation) -> Iterator[None]:
    """Two at once would take each other's throwaway away."""
    with open(os.path.join(installation.private, "verification.lock"), "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ScutumError(
                "another verification is running on this host",
                left="nothing was done by this one",
                next_step="wait for it; the lock goes with its process",
            ) from error
        yield


def shown(installation: Installation, text: str) -> str:
    """A failure's text for a report: without secrets, and without the rows that Postgres quotes."""
    lines = [line for line in installation.redact(text).splitlines() if not line.startswith(("CONTEXT:", "DETAIL:"))]
    return "\n".join(lines)


def planned(installation: Installation, wanted: Settings) -> dict[str, Any]:
    """Which backup would be verified; refuses what `verify` would refuse before it pulls anything."""
    place = backup.store(installation, backup.settings(installation))
    manifest = _choose(place, wanted)
    return {
        "ok": False,
        "outcome": "planned",
        "id": manifest["id"],
        "checks": [],
        "drift": {},
        "where": place.where,
        "recovery_point_seconds": round(time.time() - manifest["taken"], 1),
        "recovery_time_seconds": 0.0,
    }


def _verify(installation: Installation, wanted: Settings, report: dict[str, Any], say: Say) -> None:
    place = backup.store(installation, backup.settings(installation))
    report["where"] = place.where
    manifest = _choose(place, wanted)
    name = report["id"] = manifest["id"]
    report["recovery_point_seconds"] = round(time.time() - manifest["taken"], 1)
    spool = wanted.spool or os.path.join(installation.private, _SPOOL)
    ensure_directory(spool, 0o700)
    # Left by a run that was killed: a throwaway, and a dump in clear.
    _clean(installation)
    for left in os.listdir(spool):
        if left.endswith(".dump"):
            os.unlink(os.path.join(spool, left))
    check_space(installation, manifest, spool)
    _admin_image(installation, manifest)
    path = os.path.join(spool, f"{name}.dump")
    try:
        with step(installation, report, "pulled from the store, hashes", say, proves=False) as told:
            told(pull(place, manifest, wanted.identities, path))
            told(_check_others(place, manifest))
        with _throwaway(installation, manifest, wanted.memory, spool) as throwaway:
            database = throwaway.database
            with step(installation, report, "restored", say) as told:
                jobs = os.cpu_count() or 1
                database.restore(f"/spool/{name}.dump", jobs)
                told(f"PostgreSQL {manifest['postgres']}, {jobs} jobs")
            # The file is not needed any more, and the disk may be.
            os.unlink(path)
            with step(installation, report, "rows and contents", say) as told:
                told(compare_tables(manifest, database))
            with step(installation, report, "schema", say) as told:
                told(compare_schema(manifest, database))
            with step(installation, report, "indexes (amcheck)", say) as told:
                number = database.check_indexes()
                told("this server has no amcheck" if number is None else f"{number} indexes agree with their tables")
            with step(installation, report, "admin-api serves it", say) as told:
                told(_serve(installation, manifest, throwaway))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    with contextlib.suppress(ScutumError):
        live = Database(installation).relations()
        report["drift"] = {
            table: live[table] - held["rows"]
            for table, held in manifest["tables"].items()
            if table in live and live[table] != held["rows"]
        }
    spent = round(time.time() - report["at"], 1)
    proven = {**report, "ok": True, "outcome": "verified", "recovery_time_seconds": spent}
    place.put(f"{name}/{catalog.VERIFIED}", (json.dumps(proven, indent=1) + "\n").encode(), replace=True)
    report.update(proven)


@contextlib.contextmanager
def step(
    installation: Installation, report: dict[str, Any], name: str, say: Say, proves: bool = True
) -> Iterator[Callable[[str], None]]:
    """A step of a report: its result, what is told about it, its seconds; a failure goes into it and on.

    Args:
        proves: whether a failure says something about the backup.
    """
    start = time.monotonic()
    detail: list[str] = []
    try:
        yield detail.append
    except ScutumError as error:
        spent = round(time.monotonic() - start, 1)
        report["checks"].append(
            {"name": name, "ok": False, "detail": shown(installation, error.what), "seconds": spent}
        )
        say(f"FAIL {name}: {shown(installation, error.what)}")
        if proves and not isinstance(error, NotProven):
            raise NotProven(error.what, error.left, error.next_step) from error
        raise
    seconds = round(time.monotonic() - start, 1)
    report["checks"].append({"name": name, "ok": True, "detail": "; ".join(detail), "seconds": seconds})
    say(f"ok   {name}: {'; '.join(detail)} ({seconds} s)")


def _choose(place: Store, wanted: Settings) -> dict[str, Any]:
    """The manifest of the backup that is to be verified."""
    found = catalog.complete(place)
    if wanted.name:
        named = [entry for entry in found if entry.id == wanted.name]
        if not named:
            raise ScutumError(
                f"{place.where}: there is no complete backup {wanted.name}",
                left="nothing was restored",
                next_step="scutum-ops backup-info lists them",
            )
        return catalog.manifest(place, wanted.name)
    if not found:
        raise ScutumError(
            f"{place.where}: there is no complete backup",
            left="nothing was restored",
            next_step="scutum-ops backup takes one",
        )
    newest = found[0]
    manifest = catalog.manifest(place, newest.id)
    # What it says of itself counts: an old dump under a new name is an old one.
    age = (time.time() - float(manifest["taken"])) / 3600
    if age > wanted.max_age:
        raise ScutumError(
            f"the newest backup, {newest.id}, is {age:.1f} hours old: more than {wanted.max_age:.0f}",
            left="nothing was restored",
            next_step="find out why no newer one was made (scutum-ops backup-info), and take one: scutum-ops backup",
        )
    if abs(newest.taken - float(manifest["taken"])) > 3600:
        raise ScutumError(
            f"{newest.id}: its manifest says that it was taken at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(manifest['taken']))}",
            left="nothing was restored",
            next_step="an older backup may have been put under a new name, or the clock jumped: take another one",
        )
    if newest.verified and not wanted.again:
        raise ScutumError(
            f"{newest.id} was verified before, and nothing newer is there",
            left="nothing was restored",
            next_step="take a new backup first, or ask for it again (scutum_restore_verification_again)",
        )
    return manifest


def check_space(installation: Installation, manifest: dict[str, Any], spool: str) -> None:
    """Refuse a restore that would not fit: the dump in the spool, the database below the engine's root."""
    size = sum(item["size"] for name, item in manifest["objects"].items() if name.startswith(catalog.DUMP))
    root = installation.engine.versions()["root"] or "/var/lib/docker"
    # The restored database, and its WAL.
    needs: dict[int, tuple[str, int]] = {}
    for where, bytes_ in (
        (os.path.dirname(spool) or "/", size),
        (root, int(manifest["database_bytes"] * 1.2) + (1 << 30)),
    ):
        device = os.stat(where).st_dev
        before = needs.get(device, (where, 0))
        needs[device] = (before[0], before[1] + bytes_)
    for where, needed in needs.values():
        status = os.statvfs(where)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise ScutumError(
                f"{where} has {free // 2**20} MiB free, and the restore needs {needed // 2**20} MiB",
                left="nothing was restored",
                next_step="free space there, or set scutum_restore_verification_spool to another disk",
            )


def pull(place: Store, manifest: dict[str, Any], identities: list[str], path: str) -> str:
    """The dump into a private file, decrypted; its hashes are checked while it streams."""
    part = next((name for name in manifest["objects"] if name.startswith(catalog.DUMP)), "")
    if not part:
        raise ScutumError(
            f"{manifest['id']}: its manifest names no dump",
            left="nothing was restored",
            next_step="take another backup",
        )
    said = manifest["objects"][part]
    stored, plain = hashlib.sha256(), hashlib.sha256()

    def counted() -> Iterator[bytes]:
        for chunk in place.open(f"{manifest['id']}/{part}"):
            stored.update(chunk)
            yield chunk

    source = counted()
    chunks: Iterator[bytes] = source
    if part.endswith(".age"):
        if not identities:
            raise ScutumError(
                f"{manifest['id']} is encrypted, and this host has no age identity",
                left="nothing was restored",
                next_step="write one into the source of secrets as SCUTUM_BACKUP_AGE_IDENTITY",
            )
        chunks = backup_encryption.decrypt(chunks, identities)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    size = 0
    with os.fdopen(descriptor, "wb") as handle:
        try:
            for chunk in chunks:
                plain.update(chunk)
                size += len(chunk)
                handle.write(chunk)
        except ScutumError:
            # What cannot be decrypted is another key, or was changed: the hash of all of it tells.
            for unused in source:
                pass
            if stored.hexdigest() == said["sha256"]:
                raise
    _same(f"{manifest['id']}/{part}", stored.hexdigest(), said["sha256"])
    _same(f"{manifest['id']}/{part} (decrypted)", plain.hexdigest(), said["plain_sha256"])
    return f"{size / 2**20:.1f} MiB"


def _same(name: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise NotProven(
            f"{name}: it is not what was uploaded (SHA-256 {found[:12]}…, manifest {wanted[:12]}…)",
            left="nothing was restored",
            next_step="the object was changed, cut short or swapped in the store: take another backup, and look at who can write there",
        )


def _check_others(place: Store, manifest: dict[str, Any]) -> str:
    """The other objects of a backup against their hashes; they are not needed here, but a restore needs them."""
    others = [name for name in manifest["objects"] if not name.startswith(catalog.DUMP)]
    for name in others:
        digest = hashlib.sha256()
        for chunk in place.open(f"{manifest['id']}/{name}"):
            digest.update(chunk)
        _same(f"{manifest['id']}/{name}", digest.hexdigest(), manifest["objects"][name]["sha256"])
    return f"{', '.join(others)} as uploaded"


@contextlib.contextmanager
def _throwaway(installation: Installation, manifest: dict[str, Any], memory: str, spool: str) -> Iterator[_Throwaway]:
    """A Postgres of the same image on a network without a way out, and gone afterwards."""
    engine, name = installation.engine, f"scutum-ops-verify-{installation.project}"
    live = Database(installation)
    image, major = live.image(), live.server_version()
    if major != manifest["postgres"]:
        raise ScutumError(
            f"the backup is of PostgreSQL {manifest['postgres']}, and this host has the image of {major}",
            left="nothing was restored",
            next_step="verify it on a host whose release has that version",
        )
    label = ("--label", f"{LABEL}={installation.directory}")
    try:
        engine.must("network", "create", "--internal", *label, name, timeout=60)
        # A password of its own: nobody but this host reaches it, and it is gone in minutes.
        password = secrets.token_hex(16)
        user, database = manifest["database"]["owner"], manifest["database"]["name"]
        settings = {"POSTGRES_USER": user, "POSTGRES_DB": database, "POSTGRES_PASSWORD": password}
        mount = ("--mount", f"type=bind,source={spool},target=/spool,readonly")
        capped = ("--memory", memory, "--pids-limit", "200", "--shm-size", "256m")
        command = ("--name", name, "--network", name, *label, *capped, *mount, image, "postgres", *_FAST)
        engine.start(settings, *command, timeout=120)
        found = Database(installation, name, user, database)
        end = time.monotonic() + 60
        while True:
            # The image starts a server for its preparations first, which listens on no network.
            ready = engine.run(
                "exec", name, "pg_isready", "-q", "-h", "127.0.0.1", "-U", user, "-d", database, timeout=10
            )
            if ready.rc == 0:
                break
            running = engine.run("inspect", "-f", "{{.State.Running}}", name, timeout=10).out.strip() == "true"
            if time.monotonic() > end or not running:
                raise ScutumError(
                    f"the throwaway Postgres did not start: {engine.run('logs', '--tail', '5', name, timeout=10).err.strip()[-300:]}",
                    left="nothing was restored",
                    next_step="look at the host's memory and disk",
                )
            time.sleep(0.3)
        yield _Throwaway(found, name, password)
    finally:
        _clean(installation)


def _clean(installation: Installation) -> None:
    """Take away throwaways, of this run or of one that was killed."""
    engine = installation.engine
    wanted = ("--filter", f"label={LABEL}={installation.directory}")
    containers = engine.run("ps", "-aq", *wanted, timeout=60).out.split()
    if containers:
        engine.run("rm", "-f", "-v", *containers, timeout=120)
    networks = engine.run("network", "ls", "-q", *wanted, timeout=60).out.split()
    if networks:
        engine.run("network", "rm", *networks, timeout=60)


def compare_tables(manifest: dict[str, Any], database: Database) -> str:
    """Rows and contents of every table against the manifest, in words; refuses any difference."""
    with database.snapshot() as snapshot:
        found = snapshot.tables()
    said = manifest["tables"]
    problems = [f"{name} is missing" for name in sorted(said.keys() - found.keys())]
    problems += [f"{name} is there, and not in the manifest" for name in sorted(found.keys() - said.keys())]
    for name in sorted(said.keys() & found.keys()):
        mine, theirs = found[name], said[name]
        if mine["rows"] != theirs["rows"]:
            problems.append(f"{name} has {mine['rows']} rows, the manifest says {theirs['rows']}")
        elif mine["hash"] != theirs["hash"] or mine["method"] != theirs["method"]:
            problems.append(f"{name} has other contents than the manifest says, in the same number of rows")
        elif mine.get("newest") != theirs.get("newest"):
            problems.append(
                f"{name}: its newest row is of {mine.get('newest')}, the manifest says {theirs.get('newest')}"
            )
    audit = said.get("public.audit_logs")
    before = manifest.get("previous", {}).get("audit_rows", 0)
    if audit is None:
        problems.append("the manifest itself knows no table audit_logs")
    elif not audit["rows"] and before:
        problems.append(f"audit_logs is empty, and the backup before had {before} rows of it")
    _refuse("rows", problems)
    rows = sum(int(item["rows"]) for item in said.values())
    known = f"audit_logs: {audit['rows']}, newest {audit['newest']}" if audit else ""
    return f"{rows} rows of {len(said)} tables are equal; {known}"


def compare_schema(manifest: dict[str, Any], database: Database) -> str:
    """Every object of the schema against the manifest, in words; refuses any difference."""
    with database.snapshot() as snapshot:
        found = snapshot.schema()
        sequences = snapshot.sequences()
    said = manifest["schema"]
    problems = [f"{name} is missing" for name in sorted(said.keys() - found.keys())]
    problems += [
        f"sequence {name} stands at {sequences.get(name, 'nothing')}, the manifest says at least {value}"
        for name, value in sorted(manifest["sequences"].items())
        if sequences.get(name, -1) < value
    ]
    problems += [f"{name} differs" for name in sorted(said.keys() & found.keys()) if said[name] != found[name]]
    problems += [f"{name} is new" for name in sorted(found.keys() - said.keys())]
    if database.alembic_version() != manifest["alembic_head"]:
        problems.append(f"alembic is at {database.alembic_version()}, the manifest says {manifest['alembic_head']}")
    _refuse("schema", problems)
    return f"{len(said)} objects are equal, alembic at {manifest['alembic_head'] or 'none'}"


def _refuse(what: str, problems: list[str]) -> None:
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise NotProven(
            f"{what}: {'; '.join(problems[:8])}{more}",
            left="the throwaway is gone, nothing else was touched",
            next_step="this backup does not bring everything back: take another one, and find out why",
        )


def _admin_image(installation: Installation, manifest: dict[str, Any]) -> str:
    """The recorded image of admin-api, which has to be here."""
    image = str(manifest.get("images", {}).get("admin-api", {}).get("id", ""))
    if not image or not installation.engine.inspect("image", [image]):
        raise ScutumError(
            "the image of admin-api that the manifest names is not on this host",
            left="nothing was restored",
            next_step="run playbooks/day_one.yml for that release here, or verify on a host that has it",
        )
    return image


def _serve(installation: Installation, manifest: dict[str, Any], throwaway: _Throwaway) -> str:
    """Start the recorded admin-api on the restored data, without any key or subscription, and ask it for an audit row."""
    image = _admin_image(installation, manifest)
    engine = installation.engine
    database, network = throwaway.database, throwaway.name
    silenced = database.silence()
    name, secret = f"{network}-admin-api", secrets.token_hex(32)
    environment = {
        "DATABASE_URL": f"postgresql://{database.user}:{throwaway.password}@{network}:5432/{database.name}",
        "JWT_SECRET_KEY": secret,
        "LITELLM_MASTER_KEY": secrets.token_hex(16),
        "INTERNAL_SERVICE_KEY": secrets.token_hex(16),
    }
    label = ("--label", f"{LABEL}={installation.directory}")
    engine.start(environment, "--name", name, "--network", network, "--memory", "1g", *label, image, timeout=120)
    container = engine.inspect("container", [name])[0]
    address = container["NetworkSettings"]["Networks"][network]["IPAddress"]
    client = admin_api.AdminApi(f"http://{address}:8086", "", 0)
    end = time.monotonic() + 120
    try:
        # One that has ended will not answer any more.
        while not client.health() and time.monotonic() < end:
            state = engine.run("inspect", "-f", "{{.State.Running}}", name, timeout=10).out.strip()
            if state != "true":
                raise ScutumError("it ended by itself")
            time.sleep(0.5)
        if not client.accepts_token(admin_api.sign_token(secret)):
            raise ScutumError("admin-api refused a token of its own key")
    except ScutumError as error:
        log = engine.run("logs", "--tail", "8", name, timeout=30)
        raise ScutumError(
            f"admin-api does not serve the restored data: {error.what}; its last lines: {(log.out + log.err).strip()[-500:]}",
            left="the throwaway is gone, nothing else was touched",
            next_step="compare the manifest's alembic_head with the release",
        ) from error
    return f"audit-logs?limit=1 answered; {silenced} event subscriptions were taken out before"


# --- saying it


def verdict(report: dict[str, Any]) -> str:
    """How it ended, in words."""
    name = f"backup {report['id']}" if report["id"] else "the newest backup"
    words = {
        "verified": "restores",
        "failed": "DOES NOT RESTORE",
        "unknown": "COULD NOT BE VERIFIED",
        "planned": "would be verified",
    }
    return f"{name} {words[report['outcome']]}"


def text(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    lines = [f"{verdict(report)}, in {report['recovery_time_seconds']} s"]
    if "recovery_point_seconds" in report:
        lines.append(f"recovery point: {report['recovery_point_seconds'] / 3600:.1f} hours before this test")
    lines += [f"{'ok  ' if item['ok'] else 'FAIL'} {item['name']}: {item['detail']}" for item in report["checks"]]
    if report.get("next_step"):
        lines.append(f"Next: {report['next_step']}")
    if report["drift"]:
        moved = ", ".join(f"{name} {number:+d}" for name, number in sorted(report["drift"].items()))
        lines.append(f"rows since, in the live database (information): {moved}")
    return lines


def html(report: dict[str, Any]) -> str:
    """The report as a page of its own."""
    import html as escape

    rows = "".join(
        f"<tr style='background:{'#e6f4ea' if item['ok'] else '#fce8e6'}'><td>{'ok' if item['ok'] else 'FAIL'}</td>"
        f"<td>{escape.escape(item['name'])}</td><td>{escape.escape(str(item['detail']))}</td><td>{item['seconds']} s</td></tr>"
        for item in report["checks"]
    )
    head = escape.escape(text(report)[0])
    return (
        f"<!doctype html><meta charset='utf-8'><title>{head}</title><body style='font-family:sans-serif'><h1>{head}</h1>"
        f"<table cellpadding='6' style='border-collapse:collapse'>{rows}</table><p>"
        + "<br>".join(escape.escape(line) for line in text(report)[1:2] + text(report)[2 + len(report["checks"]) :])
        + "</p></body>\n"
    )


def _keep(installation: Installation, report: dict[str, Any], directory: str) -> None:
    # First of all people: the disk may be full.
    with contextlib.suppress(ScutumError):
        notify.send(
            notify.settings(installation.private),
            f"Scutum, {installation.directory}: {verdict(report)}",
            "\n".join(text(report)) + "\n",
            {"event": "backup.verified" if report["ok"] else "backup.verification_failed", "id": report["id"]},
            [],
        )
    with contextlib.suppress(ScutumError, OSError):
        for ending, content in (("json", json.dumps(report, indent=1) + "\n"), ("html", html(report))):
            write_file(os.path.join(installation.private, f"{REPORT}.{ending}"), content, 0o600)
    if report["ok"]:
        taken = report["at"] - report["recovery_point_seconds"]
        with contextlib.suppress(ScutumError, OSError):
            backup.record_verified(installation, {"id": report["id"], "at": report["at"], "taken": taken}, directory)
