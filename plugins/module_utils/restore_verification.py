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
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import admin_api, backup, backup_archive, backup_reading, notify
from . import backup_catalog as catalog
from . import report as report_module
from .backup_reading import NotProven
from .database import Database
from .errors import ScutumError, as_error
from .files import ensure_directory
from .installation import Installation
from .object_store import Store
from .report import Say, shown, step

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
    backup_reading.check_space(installation, manifest, spool, "scutum_restore_verification_spool")
    _admin_image(installation, manifest)
    path = os.path.join(spool, f"{name}.dump")
    try:
        with step(installation, report, "pulled from the store, hashes", say) as told:
            told(backup_reading.pull(place, manifest, wanted.identities, path))
            archive = backup_archive.read(place, manifest, wanted.identities)
            told(f"configuration archive with {len(archive.texts)} files")
        with _throwaway(installation, manifest, wanted.memory, spool) as throwaway:
            database = throwaway.database
            with step(installation, report, "restored", say, NotProven) as told:
                jobs = os.cpu_count() or 1
                roles = database.bring_roles(archive.globals)
                database.restore(f"/spool/{name}.dump", jobs)
                told(
                    f"PostgreSQL {manifest['postgres']}, {jobs} jobs" + (f", roles {', '.join(roles)}" if roles else "")
                )
            # The file is not needed any more, and the disk may be.
            os.unlink(path)
            compare(installation, manifest, database, report, say)
            with step(installation, report, "admin-api serves it", say, NotProven) as told:
                told(_serve(installation, manifest, throwaway))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    with contextlib.suppress(ScutumError):
        report["drift"] = drift(manifest, Database(installation))
    spent = round(time.time() - report["at"], 1)
    proven = {**report, "ok": True, "outcome": "verified", "recovery_time_seconds": spent}
    place.put(f"{name}/{catalog.VERIFIED}", (json.dumps(proven, indent=1) + "\n").encode(), replace=True)
    report.update(proven)


def _choose(place: Store, wanted: Settings) -> dict[str, Any]:
    """The manifest of the backup that is to be verified."""
    newest = catalog.choose(place, wanted.name)
    manifest = catalog.manifest(place, newest.id)
    if wanted.name:
        return manifest
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


def compare(
    installation: Installation, manifest: dict[str, Any], database: Database, report: dict[str, Any], say: Say
) -> None:
    """Everything that was restored against the manifest, as steps of a report."""
    with step(installation, report, "rows and contents", say, NotProven) as told:
        told(compare_tables(manifest, database))
    with step(installation, report, "schema", say, NotProven) as told:
        told(compare_schema(manifest, database))
    with step(installation, report, "indexes (amcheck)", say, NotProven) as told:
        number = database.check_indexes(os.cpu_count() or 1)
        told("this server has no amcheck" if number is None else f"{number} indexes agree with their tables")


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


def drift(manifest: dict[str, Any], database: Database) -> dict[str, int]:
    """Rows that a database has more (or less) than a backup, by table; tables without a difference are left out."""
    live = database.relations()
    return {
        table: live[table] - held["rows"]
        for table, held in manifest["tables"].items()
        if table in live and live[table] != held["rows"]
    }


def _refuse(what: str, problems: list[str]) -> None:
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise NotProven(
            f"{what}: {'; '.join(problems[:8])}{more}",
            left="nothing but the copy was touched",
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
    return [_head(report), *report_module.lines(report), *_rest(report)]


def page(report: dict[str, Any]) -> str:
    """The report as a page of its own."""
    return report_module.page(_head(report), report, _rest(report))


def _head(report: dict[str, Any]) -> str:
    return f"{verdict(report)}, in {report['recovery_time_seconds']} s"


def _rest(report: dict[str, Any]) -> list[str]:
    lines = []
    if "recovery_point_seconds" in report:
        lines.append(f"recovery point: {report['recovery_point_seconds'] / 3600:.1f} hours before this test")
    if report.get("next_step"):
        lines.append(f"Next: {report['next_step']}")
    if report["drift"]:
        moved = ", ".join(f"{name} {number:+d}" for name, number in sorted(report["drift"].items()))
        lines.append(f"rows since, in the live database (information): {moved}")
    return lines


def _keep(installation: Installation, report: dict[str, Any], directory: str) -> None:
    # First of all people: the disk may be full.
    with contextlib.suppress(ScutumError):
        notify.send(
            notify.settings(installation.private),
            f"Scutum, {installation.directory}: {verdict(report)}",
            "\n".join(text(report)) + "\n",
            {"event": "backup.verified" if report["ok"] else "backup.verification_failed", "id": report["id"]},
            [],
            page(report),
        )
    with contextlib.suppress(ScutumError, OSError):
        report_module.keep(installation, REPORT, report, page(report))
    if report["ok"]:
        taken = report["at"] - report["recovery_point_seconds"]
        with contextlib.suppress(ScutumError, OSError):
            backup.record_verified(installation, {"id": report["id"], "at": report["at"], "taken": taken}, directory)
